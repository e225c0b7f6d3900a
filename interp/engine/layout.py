"""One order of axes for the engine: ``[row, position, (head, expert or unit), features]``, whatever a site's own.

>>> import torch
>>> from interp.sites import Site
>>> canonical(Site("pattern", layer=0), torch.zeros(2, 4, 7, 9)).shape           # [example, head, position, source_position]
torch.Size([2, 7, 4, 9])
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from interp import axes
from interp.errors import UnknownSiteError
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


def captured(activations: Mapping[Site, Tensor], site: str | Site, in_front: int) -> Tensor:
    """What was captured at a site, of one head, unit or expert where it names one.

    Args:
        activations: whole tensors in the axes that their sites declare, with others in front of these.
        in_front: how many axes more than the site's own a tensor has before the one of a head.

    Raises:
        UnknownSiteError: it was not captured.
    """
    asked = Site.parse(site)
    if asked.tensor not in activations:
        raise UnknownSiteError("captured site", asked, map(repr, activations), why="it was not named in capture=")
    tensor, axis = activations[asked.tensor], indexed_axis(asked)
    index = None if axis is None else getattr(asked, axis)
    return tensor if axis is None or index is None else tensor.select(asked.axes.index(axis) + in_front, index)


def declared(site: Site, tensor: Tensor) -> Tensor:
    """A view of a tensor in the engine's order in the axes that the site declares."""
    if tensor.ndim != len(site.axes):
        return tensor
    order = _order(site)
    return tensor.permute([order.index(i) for i in range(len(order))])
