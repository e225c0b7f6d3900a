"""From a site to a tensor of a module: the module, the event on it, and how the site lies in what is seen there.

>>> import torch
>>> from interp.models.layouts import Heads
>>> keys = Tap("transformer.h.0.attn.c_attn", "output", Heads(12, start=768, stop=1536))            # of GPT-2
>>> keys.layout.read(torch.zeros(1, 5, 2304), None).shape
torch.Size([1, 5, 12, 64])
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Int
from torch import Tensor

from interp import axes
from interp.models.layouts import Layout, Whole
from interp.sites import Site

Write = Callable[[Tensor], Tensor]
"""A whole site's tensor, in its canonical axes, to its changed value of the same shape."""

Reads = Collection[Site] | Mapping[Site, Int[Tensor, " position"] | None]
"""Sites to keep: whole, or at ascending positions alone where a mapping gives them."""


def at_positions(site: Site, tensor: Tensor, positions: Int[Tensor, " position"] | None) -> Tensor:
    """A site's tensor, in its canonical axes, at some positions alone; the tensor itself where none are given.

    >>> import torch
    >>> at_positions(Site("z", layer=0), torch.arange(6).reshape(1, 6, 1, 1), torch.tensor([1, 4])).flatten().tolist()
    [1, 4]
    """
    if positions is None:
        return tensor
    return tensor.index_select(position_axis(site, tensor), positions.to(tensor.device))


def position_axis(site: Site, tensor: Tensor) -> int:
    """Along which axis of a site's tensor its positions are; what cross-attention attends to has those of another stream."""
    name = axes.POSITION if axes.POSITION in site.axes else axes.SOURCE_POSITION
    return site.axes.index(name) if tensor.ndim == len(site.axes) else 1


@dataclass(frozen=True)
class Tap:
    """Where a site is seen."""

    path: str
    """The module's path in the model; empty for the model itself."""
    event: Literal["input", "output", "scores", "pattern", "routing"]
    """The first tensor of its arguments or of its output, the argument or result of the softmax that it calls, or the weights
    with which it is asked to mix experts."""
    layout: Layout = field(default_factory=Whole)
    in_place: bool = False
    """Write into the very tensor that is seen, because the caller keeps using it (the residual beside a norm's input)."""
    copied: bool = False
    """Read a copy, because the caller writes into the tensor later."""
    within: str | None = None
    """A module whose input has the examples in front, where what is seen does not (see :class:`Flat`)."""
