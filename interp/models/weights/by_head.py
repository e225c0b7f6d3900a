"""A head's own matrix as a name for part of a parameter: ``L3H2.W_Q`` is where the queries of that head are made.

>>> HEADS_OF.match("encoder:L3H2.W_Q").groupdict()
{'stream': 'encoder', 'layer': '3', 'head': '2', 'which': 'Q'}

Of a layer, ``L3.W_Q`` is ``[head, d_model, d_head]``, one head's ``[d_model, d_head]``; W_O is ``[head, d_head, d_model]``. W_K
and W_V have the key/value heads. However the heads lie in the model's own parameter, fused or interleaved, they are put where
they belong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from einops import rearrange
from torch import Tensor

from interp.errors import ShapeMismatchError, WeightsError
from interp.models.layouts import Heads
from interp.models.maps import in_out
from interp.models.model import Model
from interp.models.weights.projections import head_map
from interp.sites import MAIN, Site

HEADS_OF = re.compile(r"(?:(?P<stream>[a-z_]\w*):)?L(?P<layer>\d+)(?:H(?P<head>\d+))?\.W_(?P<which>[QKVO])\Z")


Weight = Tensor | Callable[[Tensor], Tensor]
"""The weight itself, or what makes it of a copy of the old one."""


def fitting(name: str, value: Any, old: Tensor) -> Tensor:
    """The weight that comes in the place of another.

    Raises:
        ShapeMismatchError: it has another shape, dtype or device.
        WeightsError: it is no tensor.
    """
    new = value if isinstance(value, Tensor) or not callable(value) else value(old.clone())
    if not isinstance(new, Tensor):
        what = "the function that was given" if callable(value) else "what was given"
        raise WeightsError(f"{name}: {what} makes {type(new).__name__} {str(new)[:60]!r}; a tensor is expected")
    (shape, dtype, device), was = ((tuple(t.shape), t.dtype, t.device) for t in (new, old))
    if (shape, dtype, device) != was:
        raise ShapeMismatchError(
            f"{name} has shape {was[0]}, {was[1]} on {was[2]}; the weight to put there has shape {shape}, {dtype} on {device}"
        )
    return new.detach()


def head_change(model: Model, key: str, value: Any) -> tuple[str, Weight, Site]:
    """The name of the parameter, what makes the whole new one of the old one, and the heads that it changes.

    Raises:
        UnknownSiteError: no such layer or projection.
        HeadOutOfRangeError: no such head.
        WeightsError: a projection that is not kept as a matrix.
    """
    found = HEADS_OF.match(key)
    assert found is not None
    which, head = found["which"], None if found["head"] is None else int(found["head"])
    name = "z" if which == "O" else which.lower()
    site = Site(name, layer=int(found["layer"]), head=head, stream=found["stream"] or MAIN)
    linear, layout = head_map(model, site)
    path, weight = model.taps(site.tensor).path, in_out(linear)
    if weight is None:
        raise WeightsError(f"{key!r}: the weights of {path} are not kept as a matrix that can be written")
    own: Any = linear
    turned = weight.stride() != own.weight.stride()

    def change(old: Tensor) -> Tensor:
        rows = old.mT if turned else old  # inputs as rows
        heads = _by_head(rows, layout, which)
        if head is None:
            heads = fitting(key, value, heads)
        else:
            heads[head] = fitting(key, value, heads[head])
        whole = _together(rows, heads, layout, which)
        return whole.mT if turned else whole

    return f"{path}.weight", change, site


def _by_head(rows: Tensor, layout: Heads, which: str) -> Tensor:
    """A copy of the heads of a matrix with inputs as rows."""
    if which == "O":
        return rearrange(rows, "(head d_head) d_model -> head d_head d_model", head=layout.heads).clone()
    return rearrange(layout.read(rows.unsqueeze(0), None)[0], "d_model head d_head -> head d_model d_head").clone()


def _together(rows: Tensor, heads: Tensor, layout: Heads, which: str) -> Tensor:
    """The matrix with other heads."""
    if which == "O":
        return rearrange(heads, "head d_head d_model -> (head d_head) d_model")
    return layout.put(rows.unsqueeze(0), rearrange(heads, "head d_model d_head -> d_model head d_head").unsqueeze(0), None)[0]
