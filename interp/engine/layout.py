"""One order of axes for the engine: ``[row, position, (head, expert or unit), features]``, whatever a site's own.

>>> import torch
>>> from interp.sites import Site
>>> canonical(Site("pattern", layer=0), torch.zeros(2, 4, 7, 9)).shape           # [example, head, position, source_position]
torch.Size([2, 7, 4, 9])
"""

from __future__ import annotations

from torch import Tensor

from interp import axes
from interp.sites import Site

LOGITS = Site("logits")


def indexed_axis(site: Site) -> str | None:
    """``"head"``, ``"expert"`` or ``"unit"``, where a site has such an axis."""
    return next((axis for axis in axes.INDEXED if axis in site.axes), None)


def _order(site: Site) -> list[int]:
    # What cross-attention attends to has the positions of another stream, which are its own.
    first = [axes.EXAMPLE, axes.POSITION if axes.POSITION in site.axes else axes.SOURCE_POSITION]
    return [site.axes.index(axis) for axis in (*first, *(a for a in site.axes if a not in first))]


def canonical_axes(site: Site) -> tuple[str, ...]:
    """A site's axes in the engine's order."""
    return tuple(site.axes[i] for i in _order(site))


def canonical(site: Site, tensor: Tensor) -> Tensor:
    """A view of a site's tensor in the engine's order."""
    return tensor.permute(_order(site)) if tensor.ndim == len(site.axes) else tensor


def declared(site: Site, tensor: Tensor) -> Tensor:
    """A view of a tensor in the engine's order in the axes that the site declares."""
    if tensor.ndim != len(site.axes):
        return tensor
    order = _order(site)
    return tensor.permute([order.index(i) for i in range(len(order))])
