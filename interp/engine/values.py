"""Source values: the runs that give them, read once and shared by every cell of a sweep.

    >>> runs = Runs(model, encoded, base="corrupted")                                   # doctest: +SKIP
    >>> values = runs.values(change)                                                    # doctest: +SKIP
    >>> values.at(examples, slots)                                                      # doctest: +SKIP

Whatever the source – another run, a mean, a constant, noise – its values become one tensor ``[example, position, (head),
features]`` with two index maps: which of its examples serves which of ours, and which of its positions which of ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp import axes
from interp.engine import means
from interp.engine.layout import indexed_axis
from interp.engine.prompts import Kept
from interp.engine.runs import Key, Runs
from interp.engine.spans import Spans, matched
from interp.errors import HeadOutOfRangeError, ShapeMismatchError, UnequalLengthsError, UserError
from interp.interventions import Activation, Change, Constant, Noise
from interp.interventions.source import SPAN, TOKEN
from interp.models import Places, Tokens
from interp.sites import ALL, Positions, Site


@dataclass(frozen=True, eq=False)
class Values:
    """Values of one source for one change."""

    tensor: Tensor
    """``[example, position, *rest]``, ``rest`` being (head), features."""
    example: Int[Tensor, " example"]
    """Which row of the tensor serves each example of the sweep."""
    columns: Int[Tensor, "example span"]
    """Which position of the tensor serves each token of the change, padded with −1."""
    index: int | None
    """Head or unit that is taken, None for all."""
    exact: bool = True
    """Whether the features must be the target's one by one; a constant may broadcast."""

    def at(self, examples: Tensor, slots: Tensor) -> Tensor:
        """Values ``[n, *features]`` of n tokens, each given by its example and its number within the change's positions."""
        found = self.tensor[self.example[examples], self.columns[examples, slots]]
        if self.index is None:
            return found if found.ndim > 1 else found[:, None]
        return found[:, self.index] if found.ndim > 2 else found[:, self.index, None]


class Sources:
    """What the sources of changes say, from the runs of a sweep."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self._pooled: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}
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
            return self._noise(source, change.site, columns)
        assert isinstance(source, Activation)
        key, site = self.runs.key(source), source.site_for(change.site)
        whole = source.pool == "mean" and not _names(source, change)
        own = None if whole else self._own_columns(source, change)
        kept = self.runs.read(source, change.site, own)
        tensor, axis = kept.tensor, indexed_axis(site)
        index = getattr(site, axis) if axis else None
        if index is not None and index >= tensor.shape[2]:
            raise HeadOutOfRangeError(
                f"{axis} {index} of {site!r} does not exist: there are {tensor.shape[2]}, 0 to {tensor.shape[2] - 1}"
            )
        if own is None or source.pool == "mean":
            return replace(self._mean(source, change, kept, columns), index=index)
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

    def _places(self, key: Key, site: Site, *, attended: bool = False) -> Places:
        """Positions of the prompts of a run at a site."""
        model, tokens = self.runs.prompts[key]
        return model.places(tokens, site, attended=attended)

    def want(self, change: Change) -> None:
        """Announce what a change's source will be asked for."""
        source = change.source
        if isinstance(source, Activation) and change.edit.reads_source:
            whole = source.pool == "mean" and not _names(source, change)
            own = None if whole else self._own_columns(source, change)
            self.runs.want(source, change.site, own)

    def _own_columns(self, source: Activation, change: Change) -> Int[Tensor, "example span"]:
        """The source's positions, which are the target's unless it has its own; raw indices need prompts of equal length."""
        key, site = self.runs.key(source), source.site_for(change.site)
        try:
            self.runs.prompts[key][0].check(site)
            positions, places = source.own_positions or change.positions, self._places(key, site)
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
        base, theirs = self.runs.places("base", site, attended=True).prompt, self._places(key, site, attended=True)
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

    def _mean(self, source: Activation, change: Change, kept: Kept, columns: Int[Tensor, "example span"]) -> Values:
        """Means over real tokens, positions counted from each prompt's first real token; or over the tokens that are named.

        Tokens of an answer behind the prompts are among them where they are among those that are changed.
        """
        key, target, site = self.runs.key(source), change.site, source.site_for(change.site)
        everything = change.positions.is_everywhere
        tokens, base = self._places(key, site), self.runs.places("base", target)
        tokens = tokens if everything else tokens.alone
        if site.square:
            self._refuse_mean_of_rows(source, key, target, site)
        if source.by == TOKEN:
            return self._mean_by_token(source, kept, columns, (key, site, target))
        if source.by is not None and source.prompts:
            raise ValueError(f"{source!r}: a mean by {source.by!r} is over the prompts of the pairs, not over other prompts")
        groups = self._groups(source.by)
        theirs = groups if source.by is not None else [""] * len(tokens)
        names = sorted(set(groups))
        group = torch.tensor([names.index(name) for name in groups], device=columns.device)
        if _names(source, change):
            return self._mean_of_named(source, change, kept, columns, (group, theirs))
        pooled = (*key, site.tensor, source.over, source.by, everything and tokens.forced is not None)
        if pooled not in self._pooled:
            self._pooled[pooled] = means.aligned(kept.tensor, tokens, theirs, source.over)
        tensor, count = self._pooled[pooled]
        if axes.POSITION in source.over:
            return Values(tensor, group, torch.where(columns >= 0, 0, -1), None)
        own = torch.where(columns >= 0, columns - base.first[:, None], -1)
        counted = count[group[:, None], own.clamp(0, count.shape[1] - 1)]
        missing = (own >= 0) & ((own >= count.shape[1]) | (counted == 0))
        if bool(missing.any()):
            example = int(missing.any(-1).nonzero()[0])
            raise ShapeMismatchError(
                f"{source!r}: example {example} needs the mean at position {int(own[example].max())}, which no prompt of the "
                "source has; pool positions too, with over=('example', 'position')"
            )
        return Values(tensor, group, own, None)

    def _mean_by_token(
        self, source: Activation, kept: Kept, columns: Int[Tensor, "example span"], at: tuple[Key, Site, Site]
    ) -> Values:
        """Means over the source's prompts that have an example's own token at the same position.

        Args:
            at: the source's run, the site that is read there, and the one that is changed.
        """
        key, site, target = at
        theirs, base = self._places(key, site), self.runs.places("base", target)
        both = self.runs.prompts[key][1], self.runs.base
        if any(tokens.ids is None or places is not tokens for tokens, places in zip(both, (theirs, base), strict=True)):
            raise ShapeMismatchError(
                f"{source!r} of {site!r}: its positions are not those of tokens, which a mean by token needs"
            )
        pooled = (*key, site.tensor, TOKEN)
        if pooled not in self._pooled:
            (own, ids), (_, ours) = (_numbered(tokens) for tokens in both)
            self._pooled[pooled] = means.by_token(kept.tensor, ids, kept.where(own), ours)
        tensor, count = self._pooled[pooled]
        own = torch.where(columns >= 0, columns - base.first[:, None], -1)
        missing = (own >= 0) & (count.gather(1, own.clamp(min=0)) == 0)
        if bool(missing.any()):
            example, slot = missing.nonzero()[0].tolist()
            raise ShapeMismatchError(
                f"{source!r}: no prompt of the source has the token of example {example} at position {int(own[example, slot])}"
            )
        return Values(tensor, torch.arange(len(base), device=columns.device), own, None)

    def _mean_of_named(
        self,
        source: Activation,
        change: Change,
        kept: Kept,
        columns: Int[Tensor, "example span"],
        grouped: tuple[Tensor, list[str]],
    ) -> Values:
        """Means over the tokens that positions name in each of the source's prompts: one, or as many as the target's.

        Args:
            grouped: each example's group, and each of the source's prompts'.
        """
        own, (group, theirs) = self._own_columns(source, change), grouped
        spans, many = (own >= 0).sum(-1), (columns >= 0).sum(-1)
        apart = axes.POSITION not in source.over and SPAN not in source.over
        if apart and bool((spans != spans[0]).any() | ((spans[0] != many) & (spans[0] != 1)).any()):
            raise ShapeMismatchError(
                f"{change!r}: the tokens of the source's prompts are {spans.unique().tolist()}, those of the target "
                f"{many.unique().tolist()}; a mean slot by slot needs one, or as many in all of them: pool them, with "
                "over=('example', 'position'), or take one, such as positions=-1"
            )
        pooled = (*self.runs.key(source), source.site_for(change.site).tensor, source.over, source.by, id(own))
        if pooled not in self._pooled:
            self._pooled[pooled] = means.named(kept.tensor, kept.where(own), theirs, source.over), own
        tensor = self._pooled[pooled][0]
        slots = torch.arange(columns.shape[1], device=columns.device) if tensor.shape[1] > 1 else torch.zeros_like(columns)
        return Values(tensor, group, torch.where(columns >= 0, slots, -1), None)

    def _refuse_mean_of_rows(self, source: Activation, key: Key, target: Site, site: Site) -> None:
        """Rows of attention of different length, or of different queries, have no mean."""
        if axes.POSITION in source.over or SPAN in source.over:
            raise ShapeMismatchError(f"{source!r} of {site.tensor!r}: rows of different positions attend to different tokens")
        attended = self._places(key, site, attended=True), self.runs.places("base", target, attended=True).prompt
        lengths = torch.cat([places.lengths for places in attended])
        if not bool((lengths == lengths[0]).all()):
            raise UnequalLengthsError(
                f"a mean of {site.tensor!r} over examples needs prompts of one length, got {lengths.unique().tolist()}"
            )

    def _groups(self, by: str | None) -> list[str]:
        if by is None:
            return [""] * len(self.runs.encoded)
        if by not in ("template", "entities"):
            raise ValueError(f"by={by!r}; a conditional mean groups examples by 'template', 'entities' or 'token'")
        return [str(getattr(pair, by)) for pair in self.runs.encoded.pairs]

    def _noise(self, source: Noise, site: Site, columns: Int[Tensor, "example span"]) -> Values:
        base = self.runs.places("base", site)
        if site.square:
            raise ShapeMismatchError(
                f"noise on {site!r} would not be a probability; use a site whose features are a fixed width"
            )
        axis = indexed_axis(site)
        one = base.first[:1, None]  # a base value says how wide the site is
        widths = tuple(self.runs.read(Activation("base"), site, one).tensor.shape[2:])
        drawn = ("noise", source.std, source.seed, int(base.lengths.max()), *widths)
        if drawn not in self._pooled:
            dtype = torch.promote_types(self.runs.model.dtype, torch.float32)
            draws = torch.stack([source.draw(e, (int(base.lengths.max()), *widths)) for e in range(len(base))])
            self._pooled[drawn] = (
                draws.to(self.runs.model.device, dtype),
                torch.arange(len(base), device=self.runs.model.device),
            )
        tensor, everyone = self._pooled[drawn]
        own = torch.where(columns >= 0, columns - base.first[:, None], -1)
        return Values(tensor, everyone, own, getattr(site, axis) if axis else None)


def _numbered(tokens: Tokens) -> tuple[Int[Tensor, "example position"], Int[Tensor, "example position"]]:
    """Columns of prompts by position, counted from the first real token, and the token ids there; −1 behind their end."""
    assert tokens.ids is not None
    columns = tokens.columns(ALL)
    return columns, torch.where(columns >= 0, tokens.ids.gather(1, columns.clamp(min=0)), -1)


def _names(source: Activation, change: Change) -> bool:
    """Whether a mean is over the tokens that positions name in each prompt, rather than position by position."""
    if source.by == TOKEN:
        return False
    return source.own_positions is not None or SPAN in source.over or (source.several and not change.positions.is_everywhere)


def _derangement(n: int, seed: int) -> Tensor:
    """A random cyclic order: example i takes its values from another example, never from itself (but for n = 1)."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    partner = torch.empty_like(order)
    partner[order] = order.roll(-1)
    return partner
