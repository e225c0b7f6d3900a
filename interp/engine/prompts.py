"""Forward passes of prompts: what is read of them, at the columns that somebody asked for; long ones run in pieces.

>>> ran = forward(model, tokens, {Site("z", layer=3): torch.tensor([5, 9])})                 # doctest: +SKIP
>>> ran.found[Site("z", layer=3)].tensor.shape         # example, column, head, d_head       # doctest: +SKIP
torch.Size([64, 2, 12, 64])
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import axes
from interp.engine.joins import refused
from interp.engine.layout import LOGITS, canonical
from interp.engine.pieces import Placed, divided
from interp.engine.readout import Reader
from interp.models import Model, Tokens
from interp.models.keys_values import KeysValues
from interp.models.taps import Write, at_positions
from interp.sites import Site

Columns = Int[Tensor, " column"] | None
"""Ascending columns of prompts; None for all of them."""


class Changing(Protocol):
    """What is asked of changes here (:class:`interp.engine.edits.Edits`)."""

    @property
    def places(self) -> Sequence[Placed]: ...
    def sites(self) -> Sequence[Site]: ...
    def writes(self, columns: range | None = None) -> dict[Site, Write]: ...


@dataclass(frozen=True, eq=False)
class Kept:
    """The tensor of a site, of some prompts, at the columns that somebody asked for."""

    tensor: Tensor
    """``[example, column, …]``, in the engine's order of axes."""
    columns: Columns = None

    def has(self, columns: Columns) -> bool:
        """Whether it holds some columns (−1 is none), or all."""
        if self.columns is None or columns is None:
            return self.columns is None
        return bool((torch.isin(columns, self.columns) | (columns < 0)).all())

    def where(self, columns: Int[Tensor, "*axes"]) -> Int[Tensor, "*axes"]:
        """Where columns of the prompts are in the tensor; −1 stays."""
        if self.columns is None:
            return columns
        return torch.where(columns >= 0, torch.searchsorted(self.columns, columns.contiguous()), -1)

    def between(self, columns: range) -> Tensor:
        """Some consecutive columns, all of which it holds."""
        first = columns.start if self.columns is None else int(torch.searchsorted(self.columns, columns.start))
        return self.tensor[:, first : first + len(columns)]


@dataclass(frozen=True, eq=False)
class Ran:
    """What a forward pass of prompts leaves."""

    found: dict[Site, Kept]
    logits: Float[Tensor, "example position vocab"] | None
    """At the positions that a reader reads."""
    before: list[KeysValues] | None
    """Every layer's keys and values."""


def forward(
    model: Model,
    tokens: Tokens,
    reads: Mapping[Site, Columns],
    reader: Reader | None = None,
    edits: Changing | None = None,
    *,
    keeping: bool = False,
) -> Ran:
    """One forward pass of some prompts, in pieces where they are long.

    Args:
        reads: sites that are kept, and at which columns.
        reader: whose logits are kept; None for nobody's.
        edits: what is changed in it.
        keeping: keep every layer's keys and values.
    """
    columns = range(tokens.width)
    cuttable = tokens.ids is not None and tokens.flush and not tokens.others and not refused(model)
    parts = divided(model, columns, edits.places if edits is not None else ()) if cuttable else (columns,)
    return (_whole if len(parts) == 1 else _in_pieces)(model, tokens, reads, reader, edits, keeping, parts)


def _whole(
    model: Model,
    tokens: Tokens,
    reads: Mapping[Site, Columns],
    reader: Reader | None,
    edits: Changing | None,
    keeping: bool,
    parts: Sequence[range],
) -> Ran:
    keep = None if LOGITS in reads else 1 if reader is None else reader.keep
    inputs: dict[str, Any] = model.inputs(tokens, keep)
    cache = None
    if keeping:
        from interp.models.suffix import recorded, recording

        cache = recording()
        inputs |= {"past_key_values": cache, "use_cache": True}
    writes = edits.writes() if edits is not None else {}
    asked = dict(reads) | ({LOGITS: None} if reader is not None else {})
    with model.leaving({*asked, *writes}, keeping=keeping):
        found = model.backend.run(inputs, reads=asked, writes=writes)
    logits = reader.logits(tokens, found[LOGITS]) if reader is not None else None
    if LOGITS in reads and reader is not None:
        found[LOGITS] = at_positions(LOGITS, found[LOGITS], reads[LOGITS])
    kept = {site: Kept(canonical(site, found[site]), columns) for site, columns in reads.items()}
    return Ran(kept, logits, recorded(cache) if cache is not None else None)


def _in_pieces(
    model: Model,
    tokens: Tokens,
    reads: Mapping[Site, Columns],
    reader: Reader | None,
    edits: Changing | None,
    keeping: bool,
    parts: Sequence[range],
) -> Ran:
    """Piece by piece, each with the keys and values of those before it; logits are made where they are read alone."""
    from interp.models.suffix import recorded, recording

    cache = recording()
    read = None if reader is None else reader.positions_of(tokens)
    wanted = [columns for site, columns in reads.items() if site == LOGITS] + ([] if read is None else [read.unique()])
    of_logits = _union(wanted)
    inside = {site: columns for site, columns in reads.items() if site != LOGITS}
    changed = set(edits.sites()) if edits is not None else set()
    found: dict[Site, list[Tensor]] = defaultdict(list)
    for part in parts:
        here = {site: at for site, columns in inside.items() if (at := _within(columns, part)) is None or len(at)}
        at = _within(of_logits, part)
        reading = at is None or len(at) > 0
        first = int(at[0]) if at is not None and reading and LOGITS not in changed else 0
        inputs: dict[str, Any] = {**tokens.inputs(part), "logits_to_keep": len(part) - first if reading else 1}
        inputs = {**model.accepted(inputs), "past_key_values": cache, "use_cache": True}
        touched = {*inside, *changed, *({LOGITS} if reading else ())}
        with model.leaving(touched, keeping=keeping or of_logits is None or len(of_logits) > 0):
            writes = edits.writes(part) if edits is not None else {}
            seen = model.backend.run(inputs, reads={**here, **({LOGITS: None} if reading else {})}, writes=writes)
        if reading:
            logits = seen.pop(LOGITS)
            found[LOGITS].append(logits if at is None else logits[:, at - len(part)])
        for site, tensor in seen.items():
            found[site].append(_widened(site, canonical(site, tensor), tokens.width))
    whole = {site: torch.cat(tensors, dim=1) if len(tensors) > 1 else tensors[0] for site, tensors in found.items()}
    picked = None
    if reader is not None and read is not None:
        kept = Kept(whole[LOGITS], of_logits)
        picked = kept.tensor[torch.arange(len(read), device=read.device)[:, None], kept.where(read)].to(reader.dtype)
    return Ran(
        {site: Kept(whole[site], of_logits if site == LOGITS else reads[site]) for site in reads},
        picked,
        recorded(cache) if keeping else None,
    )


def _union(columns: Sequence[Columns]) -> Columns:
    """All columns that somebody asked for; empty if nobody did."""
    some = [one for one in columns if one is not None]
    return None if len(some) < len(columns) else torch.cat(some).unique() if some else torch.empty(0)


def _within(columns: Columns, part: range) -> Columns:
    """Those of some columns that a piece holds, counted from its first."""
    return None if columns is None else columns[(columns >= part.start) & (columns < part.stop)] - part.start


def _widened(site: Site, tensor: Tensor, width: int) -> Tensor:
    """Scores and patterns of a piece end where it does; behind that nothing is attended to."""
    if not ({axes.POSITION, axes.SOURCE_POSITION} <= {*site.axes}):
        return tensor
    nothing = 0.0 if site.name == "pattern" else torch.finfo(tensor.dtype).min
    return torch.nn.functional.pad(tensor, (0, width - tensor.shape[-1]), value=nothing)
