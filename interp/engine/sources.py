"""What sources say: the runs that give their values, read once and shared by every cell of a sweep.

    >>> sources = Sources(runs)                                                         # doctest: +SKIP
    >>> sources.values(change, columns).at(examples, slots)                             # doctest: +SKIP

Whatever the source – another run, a mean, a constant, noise – its values become one tensor ``[example, position, (head),
features]`` with two index maps: which of its examples serves which of ours, and which of its positions which of ours.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.engine.layout import indexed_axis
from interp.engine.pooled import Pooled, names
from interp.engine.prompts import Kept
from interp.engine.runs import Key, Runs
from interp.engine.spans import Spans, matched
from interp.engine.values import Values
from interp.errors import HeadOutOfRangeError, UnequalLengthsError, UserError
from interp.interventions import Activation, Change, Constant, Noise
from interp.models import Places, Tokens
from interp.sites import Positions, Site


class Sources:
    """What the sources of changes say, from the runs of a sweep."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self._pooled = Pooled(runs)
        self._columns: dict[tuple[Positions, int], tuple[Places, Tensor]] = {}
        """Columns by positions and the number of places, which are held so that it stays theirs."""
        self._spans: dict[tuple[Any, ...], tuple[Tensor, Tensor, Spans]] = {}
        """By target's and source's columns, and what else decides; tensors are held so that their numbers stay theirs."""
        self._means: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}

    def values(self, change: Change, columns: Int[Tensor, "example span"]) -> Values | None:
        """The values that a change writes, for its resolved positions; None if its edit reads no source.

        Raises:
            ShapeMismatchError: the source's positions or features do not fit the target's.
        """
        if not change.edit.reads_source:
            return None
        n, source = len(self.runs.encoded), change.source
        device = self.runs.model.device
        everyone = torch.arange(n, device=device)
        if isinstance(source, Constant):
            value = torch.as_tensor(source.value, device=device).to(torch.promote_types(self.runs.model.dtype, torch.float32))
            value = value if value.ndim else value[None]
            return Values(value[None, None], everyone * 0, torch.where(columns >= 0, 0, -1), None, exact=False)
        if isinstance(source, Noise):
            return self._pooled.noise(source, change.site, columns)
        assert isinstance(source, Activation)
        key, site = self.runs.key(source), source.site_for(change.site)
        own = self._read_columns(source, change)
        kept = self.runs.read(source, change.site, own)
        tensor, axis = kept.tensor, indexed_axis(site)
        index = getattr(site, axis) if axis else None
        if index is not None and index >= tensor.shape[2]:
            raise HeadOutOfRangeError(
                f"{axis} {index} of {site!r} does not exist: there are {tensor.shape[2]}, 0 to {tensor.shape[2] - 1}"
            )
        if own is None or source.pool == "mean":
            return replace(self._pooled.mean(source, change, kept, columns, own), index=index)
        partner = self._partner(source, len(own))
        if site.square:
            self._refuse_other_layout(key, partner, site)
        spans = matched(change, columns, own[partner])
        at = kept.where(spans.own)
        if spans.unequal is not None and source.unequal == "mean":
            at = torch.where(spans.unequal[:, None] & (at >= 0), tensor.shape[1], at)
            tensor = self._with_means(tensor, own, kept)
        return Values(tensor, partner, at, index)

    def spans(self, change: Change, columns: Int[Tensor, "example span"]) -> Spans:
        """Where a change is made, and which of the source's columns serve it there; nothing is run.

        Raises:
            ShapeMismatchError: the source's positions do not fit the target's.
        """
        source = change.source
        if not isinstance(source, Activation) or source.pool == "mean" or not change.edit.reads_source:
            return Spans(columns, columns, None)
        own = self._own_columns(source, change)
        known = (id(columns), id(own), source.pool, source.seed, source.unequal, change.joint, change.square)
        if known not in self._spans:
            self._spans[known] = columns, own, matched(change, columns, own[self._partner(source, len(own))])
        return self._spans[known][-1]

    def _partner(self, source: Activation, prompts: int) -> Int[Tensor, " example"]:
        """Which of the source's prompts serves each example."""
        n = len(self.runs.encoded)
        everyone = torch.arange(n, device=self.runs.model.device)
        if source.pool == "resample":
            return _derangement(n, source.seed).to(everyone.device)
        return everyone * 0 if prompts == 1 != n else everyone

    def _with_means(self, tensor: Tensor, own: Int[Tensor, "prompt span"], kept: Kept) -> Tensor:
        """The tensor with a column more: the mean over each prompt's span."""
        known = (id(tensor), id(own))
        if known not in self._means:
            at = kept.where(own)
            rows = torch.arange(len(own), device=own.device)[:, None]
            taken = tensor[rows, at.clamp(min=0)].to(torch.promote_types(tensor.dtype, torch.float32))
            real = (at >= 0).to(taken).reshape(*at.shape, *(1 for _ in tensor.shape[2:]))
            mean = (taken * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
            self._means[known] = tensor, own, torch.cat([tensor, mean.to(tensor)], dim=1)
        return self._means[known][-1]

    def want(self, change: Change) -> None:
        """Announce what a change's source will be asked for."""
        source = change.source
        if isinstance(source, Activation) and change.edit.reads_source:
            self.runs.want(source, change.site, self._read_columns(source, change))

    def _read_columns(self, source: Activation, change: Change) -> Int[Tensor, "example span"] | None:
        """The source's positions that are read; None for all of them, of which a mean is taken."""
        return None if source.pool == "mean" and not names(source, change) else self._own_columns(source, change)

    def _own_columns(self, source: Activation, change: Change) -> Int[Tensor, "example span"]:
        """The source's positions, which are the target's unless it has its own; raw indices need prompts of equal length."""
        key, site = self.runs.key(source), source.site_for(change.site)
        try:
            self.runs.prompts[key][0].check(site)
            positions, places = source.own_positions or change.positions, self.runs.places_of(key, site)
            known = (positions, id(places))
            if known not in self._columns:
                self._columns[known] = places, places.columns(positions, what=f"source position of {change.site!r}")
        except UserError as error:
            error.add_note(f"This is about what {change!r} reads.")
            raise
        raw = positions.is_everywhere or (positions.indices is not None and any(i >= 0 for i in positions.indices))
        if raw and source.own_positions is None and not source.prompts and source.pool != "mean":
            self._refuse_other_lengths(change, key, places)
        return self._columns[known][1]

    def _refuse_other_lengths(self, change: Change, key: Key, places: Places) -> None:
        """Raw indices mean the same in prompts of equal length alone, also where another model cuts a text into its tokens."""
        base = self.runs.places("base", change.site).prompt
        if len(base) == len(places) and not torch.equal(base.lengths, places.prompt.lengths):
            what, model = f"{change.site!r}@{change.positions!r}", self.runs.prompts[key][0]
            if self._is_pair(self.runs.prompts[key][1]):
                self.runs.require_equal_lengths(what, change.site)
            example = int((base.lengths != places.prompt.lengths).nonzero()[0])
            raise UnequalLengthsError(
                f"{what} matches positions by raw index, but in example {example} {self.runs.model.name} has "
                f"{int(base.lengths[example])} positions and {model.name} {int(places.prompt.lengths[example])}; use a role, "
                "or count from the end"
            )

    def _refuse_other_layout(self, key: Key, partner: Tensor, site: Site) -> None:
        """Patterns and scores are matched by the raw index of what is attended to, so prompts must lie alike."""
        base, theirs = self.runs.places("base", site, attended=True).prompt, self.runs.places_of(key, site, attended=True)
        alike = theirs.width == base.width and all(
            bool((getattr(theirs, n)[partner] == getattr(base, n)).all()) for n in ("lengths", "said")
        )
        if not alike and self._is_pair(self.runs.prompts[key][1]):
            self.runs.require_equal_lengths(
                f"{site.tensor!r}, along source_position,",
                site,
                attended=True,
                hint="roles do not help there; patch z or result",
            )
        if not alike:
            raise UnequalLengthsError(
                f"{site.tensor!r} is matched along source_position by raw index, but base and source prompts differ in length: "
                f"{base.lengths.tolist()} and {theirs.lengths[partner].tolist()} tokens"
            )

    def _is_pair(self, tokens: Tokens) -> bool:
        return tokens is self.runs.encoded.clean or tokens is self.runs.encoded.corrupted


def _derangement(n: int, seed: int) -> Tensor:
    """A random cyclic order: example i takes its values from another example, never from itself (but for n = 1)."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    partner = torch.empty_like(order)
    partner[order] = order.roll(-1)
    return partner
