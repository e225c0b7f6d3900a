"""A head's own matrix as a name for part of a parameter: ``L3H2.W_Q`` is where the queries of that head are made.

>>> HEADS_OF.match("encoder:L3H2.W_Q").groupdict()
{'stream': 'encoder', 'layer': '3', 'head': '2', 'which': 'Q'}

Of a layer, ``L3.W_Q`` is ``[head, d_model, d_head]``, one head's ``[d_model, d_head]``; W_O is ``[head, d_head, d_model]``. W_K and
W_V have the key/value heads. However the heads lie in the model's own parameter, fused or interleaved, they are put where they
belong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from einops import rearrange
from torch import Tensor

from interp.errors import HeadOutOfRangeError, ShapeMismatchError, WeightsError
from interp.models.maps import in_out
from interp.models.model import Model
from interp.models.weights.projections import head_map
from interp.sites import MAIN, Site

HEADS_OF = re.compile(r"(?:(?P<stream>[a-z_]\w*):)?L(?P<layer>\d+)(?:H(?P<head>\d+))?\.W_(?P<which>[QKVO])\Z")


def head_change(model: Model, key: str, value: Any) -> tuple[str, Site, Callable[[Tensor], Tensor]]:
    """The name of the parameter, the site of the heads, and what makes the whole new parameter of the old one.

    Raises:
        UnknownSiteError: no such layer or projection.
        HeadOutOfRangeError: no such head.
        WeightsError: a projection that is not kept as a matrix.
    """
    found = HEADS_OF.match(key)
    assert found is not None
    which = found["which"]
    site = Site("z" if which == "O" else which.lower(), layer=int(found["layer"]), stream=found["stream"] or MAIN)
    head = None if found["head"] is None else int(found["head"])
    linear, layout = head_map(model, site)
    if head is not None and head >= layout.heads:
        kind = "key/value heads" if which in "KV" else "heads"
        raise HeadOutOfRangeError(f"head {head} of {key!r} does not exist: {model.name} has {layout.heads} {kind} there")
    weight: Any = in_out(linear)
    path = model.taps(site).path
    if weight is None:
        raise WeightsError(f"{key!r}: the weights of {path} are not kept as a matrix that can be written")
    turned = weight.shape != linear.weight.shape or weight.stride() != linear.weight.stride()

    def change(old: Tensor) -> Tensor:
        rows = old.mT if turned else old  # inputs as rows
        if which == "O":
            each = rearrange(rows, "(head d_head) d_model -> head d_head d_model", head=layout.heads)
        else:
            each = rearrange(layout.read(rows.unsqueeze(0), None)[0], "d_model head d_head -> head d_model d_head")
        each = each.clone()
        part = each if head is None else each[head]
        new = value(part.clone()) if callable(value) and not isinstance(value, Tensor) else value
        if not isinstance(new, Tensor):
            raise WeightsError(f"{key} gave {type(new).__name__} {str(new)[:60]!r}; a tensor is expected")
        one, other = ((tuple(t.shape), t.dtype, t.device) for t in (new, part))
        if one != other:
            raise ShapeMismatchError(
                f"{key} has shape {other[0]}, {other[1]} on {other[2]}; the weight to put there has shape {one[0]}, {one[1]} on "
                f"{one[2]}"
            )
        if head is None:
            each = new
        else:
            each[head] = new
        if which == "O":
            whole = rearrange(each, "head d_head d_model -> (head d_head) d_model")
        else:
            whole = layout.put(rows.unsqueeze(0), rearrange(each, "head d_model d_head -> d_model head d_head")[None], None)[0]
        return (whole.mT if turned else whole).contiguous()

    return f"{path}.weight", site, change
