"""Inside an attention module: its scores and its pattern, where the model forms them and where it does not.

A model's eager attention calls one softmax, whose argument and result are the scores and the pattern of all queries. Fused
attention, :func:`torch.nn.functional.scaled_dot_product_attention`, forms neither. It is called as it is, and beside it the
rows of the queries that are read or written are computed from its arguments, as eager attention computes them: products in the
model's dtype, the softmax in float32 at least. What is written moves the output at the queries that are written; elsewhere the
output keeps its bits. So a knockout at one query of 8,000 costs a row a head, never 8,000 × 8,000, in the one module where it
is made. :mod:`interp.models.beside` proves it when a model is loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from interp.models.calls import Call, first_tensor
from interp.models.queries import Queries, QueryWrite
from interp.models.taps import Tap, Write
from interp.sites import Site

SOFTMAX = frozenset({nn.functional.softmax, torch.softmax, torch.Tensor.softmax, torch.special.softmax})
FUSED = nn.functional.scaled_dot_product_attention


@dataclass(frozen=True, eq=False)
class Fused:
    """What fused attention was called with."""

    query: Float[Tensor, "row head position d_head"]
    key: Float[Tensor, "row kv_head source_position d_head"]
    value: Float[Tensor, "row kv_head source_position d_value"]
    mask: Tensor | None
    """True where it attends, or what is added to the scores; broadcasts to ``[row, head, position, source_position]``."""
    causal: bool
    """Query i attends to keys 0 to i."""
    scale: float

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any], positions: int) -> Fused | None:
        """From the call itself; None if it does not have rows, heads and so many positions.

        One query may come as the queries of a group of heads that share their keys, as transformers packs it.
        """
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
        given = dict(zip(names, args, strict=False)) | kwargs
        query, key, value, mask = (given.get(name) for name in ("query", "key", "value", "attn_mask"))
        if not isinstance(query, Tensor) or not isinstance(key, Tensor) or not isinstance(value, Tensor):
            return None
        if query.ndim != 4 or not len(query) == len(key) == len(value):
            return None
        if positions == 1 != query.shape[2]:
            query = query.flatten(1, 2).unsqueeze(2)
            mask = mask.flatten(1, 2).unsqueeze(2) if mask is not None and mask.ndim == 4 and mask.shape[1] > 1 else mask
        if query.shape[2] != positions or query.shape[1] % key.shape[1]:
            return None
        scale = given.get("scale")
        return cls(query, key, value, mask, bool(given.get("is_causal")), query.shape[-1] ** -0.5 if scale is None else scale)

    def scores(self, queries: Queries) -> Float[Tensor, "n head slot source_position"]:
        """Masked scores; what a mask leaves out is the dtype's least number, as eager masks write it."""
        found = _products(queries.picked(self.query), self.key.transpose(2, 3), queries.rows) * self.scale
        least = torch.finfo(found.dtype).min
        if self.causal:
            sources = torch.arange(found.shape[-1], device=found.device)
            found = found + (sources > queries.columns[:, None, :, None]).to(found.dtype) * least
        if self.mask is not None:
            mask = self.mask.reshape(*(1 for _ in range(4 - self.mask.ndim)), *self.mask.shape)
            mask = queries.picked(mask.expand(len(self.query), -1, self.query.shape[2], found.shape[-1]))
            found = found + ((~mask).to(found.dtype) * least if mask.dtype == torch.bool else mask.to(found.dtype))
        return found


_COPIED = 1 << 22
"""Most numbers of keys or values that are copied at once."""


def _products(
    each: Float[Tensor, "n head slot a"], shared: Float[Tensor, "row kv_head a b"], rows: Int[Tensor, " n"]
) -> Float[Tensor, "n head slot b"]:
    """Products of matrices, the second ones those of some rows of the batch, each for the heads of a group."""
    group = each.shape[1] // shared.shape[1]
    grouped = rearrange(each, "n (kv group) slot a -> n kv (group slot) a", group=group)
    if len(rows) == len(shared):
        found = grouped @ shared
    else:  # keys and values of many rows at 8,000 positions are larger than everything else here
        few = max(1, _COPIED // shared[0].numel())
        parts = [own @ shared[which] for own, which in zip(grouped.split(few), rows.split(few), strict=True)]
        found = torch.cat(parts)
    return rearrange(found, "n kv (group slot) b -> n (kv group) slot b", group=group)


class DoubleSoftmax(TorchFunctionMode):
    """Inside, softmax of float64 is float64, whatever the caller asks for."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in SOFTMAX and args and args[0].dtype == torch.float64:
            kwargs = {name: value for name, value in kwargs.items() if name != "dtype"}
        return func(*args, **kwargs)


class Seeing(Protocol):
    """The hooks of one forward pass; see :class:`interp.models.hooks.Hooks`."""

    taps: Mapping[Site, Tap]
    writes: dict[Site, Write]
    reads: Mapping[Site, Tensor | None]
    found: dict[Site, Tensor]
    fired: Counter[Site]
    beside: set[Site]

    def visit(self, sites: list[Site], seen: Tensor, call: Call | None) -> Tensor: ...


class InsideAttention(TorchFunctionMode):
    """Shows the hooks of a forward pass the scores and patterns of the attention modules that it runs through."""

    def __init__(self, hooks: Seeing) -> None:
        super().__init__()
        self.hooks = hooks
        self.sites: list[Site] = []
        self.call: Call | None = None

    def enter(self, sites: list[Site], call: Call) -> None:
        """From now on, of these sites."""
        self.sites, self.call = sites, call

    def leave(self, module: nn.Module, *call: Any) -> None:
        """A hook on an attention module."""
        self.sites, self.call = [], None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.sites and func in SOFTMAX:
            scores = self.hooks.visit(self._of("scores"), args[0], self.call)
            return self.hooks.visit(self._of("pattern"), func(scores, *args[1:], **kwargs), self.call)
        output = func(*args, **kwargs)
        return self._beside(args, kwargs, output) if self.sites and func is FUSED else output

    def _of(self, event: str) -> list[Site]:
        return [site for site in self.sites if self.hooks.taps[site].event == event]

    def _beside(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        """The output of fused attention with the rows that are written in it; sites that ask for whole tensors do not fire."""
        hooks, call = self.hooks, self.call
        writes = [hooks.writes[site] for site in self.sites if site in hooks.writes]
        reads = [hooks.reads[site] for site in self.sites if site in hooks.reads]
        seen = None if call is None else first_tensor(call.args, call.kwargs)
        fused = None if seen is None or seen.ndim != 3 else Fused.of(args, kwargs, seen.shape[1])
        partial = [write for write in writes if isinstance(write, QueryWrite)]
        positions = [read for read in reads if read is not None]
        if fused is None or len(partial) < len(writes) or len(positions) < len(reads):
            return output
        device = fused.query.device
        pairs = [tuple(index.to(device) for index in write.pairs(len(fused.query))) for write in partial]
        none = torch.zeros(0, dtype=torch.long, device=device)
        row, column = (torch.cat([none, *(pair[i] for pair in pairs)]) for i in (0, 1))
        if positions:
            asked = torch.cat([column, *(read.to(device) for read in positions)]).unique()
            queries = Queries.every(len(fused.query), asked)
        else:
            queries = Queries.of(row, column)
        z = self._rows(fused, queries)
        if not len(row):
            return output
        output = output.clone() if output.requires_grad else output
        number, slot = queries.find(row, column)
        heads = output.view(len(fused.query), -1, fused.query.shape[2], output.shape[-1])
        heads.transpose(1, 2)[row, column] = z.transpose(1, 2)[number, slot].to(output.dtype)
        return output

    def _rows(self, fused: Fused, queries: Queries) -> Float[Tensor, "n head slot d_value"]:
        """What some queries attend to, read and written on the way."""
        scores = self.visit("scores", fused.scores(queries), queries)
        pattern = nn.functional.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        pattern = self.visit("pattern", pattern, queries)
        return _products(pattern.to(fused.value.dtype), fused.value, queries.rows)

    def visit(self, event: str, part: Tensor, queries: Queries) -> Tensor:
        """Write, then read, the sites of one event."""
        hooks = self.hooks
        for site in self._of(event):
            hooks.fired[site] += 1
            hooks.beside.add(site)
            write = hooks.writes.get(site)
            if isinstance(write, QueryWrite):
                part = write.partly(part.clone() if part.requires_grad else part, queries)
        for site in self._of(event):
            positions = hooks.reads.get(site)
            if positions is not None:
                slots = torch.searchsorted(queries.columns[0].contiguous(), positions.to(part.device))
                hooks.found[site] = part.index_select(2, slots)
        return part
