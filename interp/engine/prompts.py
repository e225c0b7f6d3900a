"""Forward passes of prompts: what is read of them, at the columns that somebody asked for; long ones run in pieces.

>>> ran = forward(model, tokens, {Site("z", layer=3): torch.tensor([5, 9])})                 # doctest: +SKIP
>>> ran.found[Site("z", layer=3)].tensor.shape         # example, column, head, d_head       # doctest: +SKIP
torch.Size([64, 2, 12, 64])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.joins import refused
from interp.engine.layout import LOGITS, canonical
from interp.engine.pieces import Placed, divided, is_long
from interp.engine.readout import Reader
from interp.models import Model, Tokens
from interp.models.keys_values import KeysValues
from interp.models.taps import Write, at_positions
from interp.sites import Site

Columns = Int[Tensor, " column"] | None
"""Ascending columns of prompts; None for all of them."""

Wanted = Int[Tensor, "..."] | None
"""Columns of prompts in any order, −1 for none; None for all of them."""


def all_of(several: Sequence[Wanted]) -> Columns:
    """Every column that somebody asked for."""
    some = [columns.flatten() for columns in several if columns is not None]
    if len(some) < len(several):
        return None
    found = torch.cat(some).unique()
    return found[found >= 0]


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

    def has(self, columns: Wanted) -> bool:
        """Whether it holds some columns, or all."""
        if self.columns is None or columns is None:
            return self.columns is None
        return bool((torch.isin(columns, self.columns) | (columns < 0)).all())

    def where(self, columns: Int[Tensor, "*axes"]) -> Int[Tensor, "*axes"]:
        """Where columns of the prompts are in the tensor; −1 stays."""
        if self.columns is None:
            return columns
        return torch.where(columns >= 0, torch.searchsorted(self.columns, columns.contiguous()), -1)

    def at(self, examples: Int[Tensor, " row"], columns: Int[Tensor, "... column"]) -> Float[Tensor, "row column ..."]:
        """Some columns of some examples: the same of all, or each its own."""
        return self.tensor[examples[:, None], self.where(columns)]

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
    cut = is_long(model, tokens.width) and tokens.ids is not None and tokens.flush and not tokens.others and not refused(model)
    parts = divided(model, columns, edits.places if edits is not None else ()) if cut else (columns,)
    run = _Forward(model, tokens, reads, reader, edits, keeping)
    return run.whole() if len(parts) == 1 else run.in_pieces(parts)


@dataclass(frozen=True, eq=False)
class _Forward:
    """The arguments of :func:`forward`, and the two ways in which it is done."""

    model: Model
    tokens: Tokens
    reads: Mapping[Site, Columns]
    reader: Reader | None
    edits: Changing | None
    keeping: bool

    def whole(self) -> Ran:
        keep = None if LOGITS in self.reads else 1 if self.reader is None else self.reader.keep
        inputs: dict[str, Any] = self.model.inputs(self.tokens, keep)
        cache = None
        if self.keeping:
            from interp.models.suffix import recorded, recording

            cache = recording()
            inputs |= {"past_key_values": cache, "use_cache": True}
        writes = self.edits.writes() if self.edits is not None else {}
        asked = dict(self.reads) | ({LOGITS: None} if self.reader is not None else {})
        with self.model.leaving({*asked, *writes}, keeping=self.keeping):
            found = self.model.backend.run(inputs, reads=asked, writes=writes)
        logits = self.reader.logits(self.tokens, found[LOGITS]) if self.reader is not None else None
        if LOGITS in self.reads and self.reader is not None:
            found[LOGITS] = at_positions(LOGITS, found[LOGITS], self.reads[LOGITS])
        kept = {site: Kept(canonical(site, found[site]), columns) for site, columns in self.reads.items()}
        return Ran(kept, logits, recorded(cache) if cache is not None else None)

    def in_pieces(self, parts: Sequence[range]) -> Ran:
        """Piece by piece, each with the keys and values of those before it; logits are made where they are read alone."""
        from interp.models.suffix import recorded, recording

        cache = recording()
        read = None if self.reader is None else self.reader.positions_of(self.tokens)
        columns = {**self.reads} | ({} if read is None else {LOGITS: all_of([read, self.reads.get(LOGITS, read[:0])])})
        found = {site: _Filled(site, at, self.tokens.width) for site, at in columns.items()}
        changed = set(self.edits.sites()) if self.edits is not None else set()
        for part in parts:
            here = {site: tensor.within(part) for site, tensor in found.items() if tensor.asked(part)}
            of_logits = here.get(LOGITS)
            last = len(part) if LOGITS in here else 1  # so many columns of logits are made
            if of_logits is not None and LOGITS not in changed:
                last -= int(of_logits[0])
            inputs = self.model.accepted({**self.tokens.inputs(part), "logits_to_keep": last})
            touched = {*columns, *changed} - ({LOGITS} if LOGITS not in here else set())
            with self.model.leaving(touched, keeping=self.keeping or LOGITS in columns):
                writes = self.edits.writes(part) if self.edits is not None else {}
                asked = {**here, **({LOGITS: None} if LOGITS in here else {})}
                inputs |= {"past_key_values": cache, "use_cache": True}
                seen = self.model.backend.run(inputs, reads=asked, writes=writes)
            if of_logits is not None:
                seen[LOGITS] = seen[LOGITS][:, of_logits - len(part)]
            for site, tensor in seen.items():
                found[site].add(canonical(site, tensor))
        kept = {site: Kept(tensor.whole, columns[site]) for site, tensor in found.items()}
        picked = None
        if self.reader is not None and read is not None:
            picked = kept[LOGITS].at(torch.arange(len(read), device=read.device), read).to(self.reader.dtype)
        return Ran({site: kept[site] for site in self.reads}, picked, recorded(cache) if self.keeping else None)


class _Filled:
    """A site's tensor, filled piece by piece: in one stretch of memory, which a list of pieces would take twice."""

    def __init__(self, site: Site, columns: Columns, width: int) -> None:
        self.site, self.columns, self.width = site, columns, width
        self._done = 0
        self._tensor: Tensor | None = None

    def asked(self, part: range) -> bool:
        """Whether something of it is in a piece; of a tensor without columns, which has features all the same, it always is."""
        within = self.within(part)
        return within is None or len(within) > 0 or (self.columns is not None and not len(self.columns))

    def within(self, part: range) -> Columns:
        """Those of its columns that a piece holds, counted from the piece's first."""
        at = self.columns
        return None if at is None else at[(at >= part.start) & (at < part.stop)] - part.start

    def add(self, piece: Float[Tensor, "example column ..."]) -> None:
        """Scores and patterns of a piece end where it does; behind that nothing is attended to."""
        if self._tensor is None:
            many = self.width if self.columns is None else len(self.columns)
            nothing = torch.finfo(piece.dtype).min if self.site.name == "scores" else 0.0
            last = self.width if self.site.square else piece.shape[-1]
            features = (*piece.shape[2:-1], last) if piece.ndim > 2 else ()
            self._tensor = piece.new_full((len(piece), many, *features), nothing)
        stop = self._done + piece.shape[1]
        filled = self._tensor[:, self._done : stop]
        (filled[..., : piece.shape[-1]] if piece.ndim > 2 else filled).copy_(piece)
        self._done = stop

    @property
    def whole(self) -> Tensor:
        assert self._tensor is not None
        return self._tensor
