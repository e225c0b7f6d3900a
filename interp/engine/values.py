"""Source values: the runs that give them, read once and shared by every cell of a sweep.

    >>> runs = Runs(model, encoded, base="corrupted")                                   # doctest: +SKIP
    >>> values = runs.values(change)                                                    # doctest: +SKIP
    >>> values.at(examples, slots)                                                      # doctest: +SKIP

Whatever the source – another run, a mean, a constant, noise – its values become one tensor ``[example, position, (head),
features]`` with two index maps: which of its examples serves which of ours, and which of its positions which of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp import axes
from interp.engine.layout import indexed_axis
from interp.engine.runs import Runs
from interp.errors import HeadOutOfRangeError, ShapeMismatchError, UnequalLengthsError
from interp.interventions import Activation, Change, Constant, Noise
from interp.models import Places, Tokens
from interp.sites import Positions, Site


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
        pooled = source.pool == "mean"
        own = None if pooled else self._own_columns(source, change)
        kept = self.runs.read(source, change.site, own)
        tensor, axis = kept.tensor, indexed_axis(site)
        index = getattr(site, axis) if axis else None
        if index is not None and index >= tensor.shape[2]:
            raise HeadOutOfRangeError(
                f"{axis} {index} of {site!r} does not exist: there are {tensor.shape[2]}, 0 to {tensor.shape[2] - 1}"
            )
        if own is None:
            return self._mean(source, key, change.site, site, columns, index)
        partner = everyone
        if source.pool == "resample":
            partner = _derangement(n, source.seed).to(device)
        elif len(own) == 1 != n:
            partner = everyone * 0
        if site.square:
            self._refuse_other_layout(key, partner, site)
        return Values(tensor, partner, kept.where(_matched(own[partner], columns, change)), index)

    def _places(self, key: tuple[Any, ...], site: Site, *, attended: bool = False) -> Places:
        """Positions of the prompts of a run at a site."""
        model, tokens = self.runs.prompts[key]
        return model.places(tokens, site, attended=attended)

    def want(self, change: Change) -> None:
        """Announce what a change's source will be asked for."""
        source = change.source
        if isinstance(source, Activation) and change.edit.reads_source:
            own = None if source.pool == "mean" else self._own_columns(source, change)
            self.runs.want(source, change.site, own)

    def _own_columns(self, source: Activation, change: Change) -> Int[Tensor, "example span"]:
        """The source's positions, which are the target's unless it has its own; raw indices need prompts of equal length."""
        key, site = self.runs.key(source), source.site_for(change.site)
        self.runs.prompts[key][0].check(site)
        positions, places = source.own_positions or change.positions, self._places(key, site)
        raw = positions.is_all or (positions.indices is not None and any(i >= 0 for i in positions.indices))
        tokens = self.runs.prompts[key][1]
        if raw and source.own_positions is None and tokens is not self.runs.base and self._is_pair(tokens):
            self.runs.require_equal_lengths(f"{change.site!r}@{change.positions!r}", change.site)
        known = (positions, id(places))
        if known not in self._columns:
            self._columns[known] = places, places.columns(positions, what=f"source position of {change.site!r}")
        return self._columns[known][1]

    def _refuse_other_layout(self, key: tuple[Any, ...], partner: Tensor, site: Site) -> None:
        """Patterns and scores are matched by the raw index of what is attended to, so prompts must lie alike."""
        base, theirs = self.runs.places("base", site, attended=True).prompt, self._places(key, site, attended=True)
        alike = theirs.width == base.width and bool((theirs.lengths[partner] == base.lengths).all())
        if not alike and self._is_pair(self.runs.prompts[key][1]):
            self.runs.require_equal_lengths(f"{site.tensor!r}, along source_position,", site, attended=True)
        if not alike:
            raise UnequalLengthsError(
                f"{site.tensor!r} is matched along source_position by raw index, but base and source prompts differ in length: "
                f"{base.lengths.tolist()} and {theirs.lengths[partner].tolist()} tokens"
            )

    def _is_pair(self, tokens: Tokens) -> bool:
        return tokens is self.runs.encoded.clean or tokens is self.runs.encoded.corrupted

    def _mean(
        self,
        source: Activation,
        key: tuple[Any, ...],
        target: Site,
        site: Site,
        columns: Int[Tensor, "example span"],
        index: int | None,
    ) -> Values:
        """Means over real tokens, positions counted from each prompt's first real token."""
        tokens, base = self._places(key, site), self.runs.places("base", target)
        if site.square:
            if axes.POSITION in source.over:
                raise ShapeMismatchError(
                    f"{source!r} of {site.tensor!r}: rows of different positions attend to different tokens"
                )
            attended = self._places(key, site, attended=True), self.runs.places("base", target, attended=True).prompt
            lengths = torch.cat([places.lengths for places in attended])
            if not bool((lengths == lengths[0]).all()):
                raise UnequalLengthsError(
                    f"a mean of {site.tensor!r} over examples needs prompts of one length, got {lengths.unique().tolist()}"
                )
        if source.by is not None and len(tokens) != len(self.runs.encoded):
            raise ValueError(f"{source!r}: a mean by {source.by!r} is over the prompts of the pairs, not over one prompt")
        groups = self._groups(source.by)
        pooled = (*key, site.tensor, source.over, source.by)
        if pooled not in self._pooled:
            self._pooled[pooled] = _mean(self.runs.found[key][site.tensor].tensor, tokens, source.over, groups[: len(tokens)])
        tensor, count = self._pooled[pooled]
        names = sorted(set(groups))
        group = torch.tensor([names.index(name) for name in groups], device=tensor.device)
        if axes.POSITION in source.over:
            return Values(tensor, group, torch.where(columns >= 0, 0, -1), index)
        positions = source.own_positions
        own = columns - base.first[:, None] if positions is None else tokens.columns(positions) - tokens.first[:, None]
        own = torch.where(columns >= 0, own.expand_as(columns), -1)
        counted = count[group[:, None], own.clamp(0, count.shape[1] - 1)]
        missing = (own >= 0) & ((own >= count.shape[1]) | (counted == 0))
        if bool(missing.any()):
            example = int(missing.any(-1).nonzero()[0])
            raise ShapeMismatchError(
                f"{source!r}: example {example} needs the mean at position {int(own[example].max())}, which no prompt of the "
                "source has; pool positions too, with over=('example', 'position')"
            )
        return Values(tensor, group, own, index)

    def _groups(self, by: str | None) -> list[str]:
        if by is None:
            return [""] * len(self.runs.encoded)
        if by not in ("template", "entities"):
            raise ValueError(f"by={by!r}; a conditional mean groups examples by 'template' or 'entities'")
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


def _matched(
    own: Int[Tensor, "example own_span"], columns: Int[Tensor, "example span"], change: Change
) -> Int[Tensor, "example matched"]:
    """The source's columns beside the target's: as many in every example, or one, which then serves all."""
    target_span, own_span = (columns >= 0).sum(-1), (own >= 0).sum(-1)
    if bool((own_span == target_span).all()):
        return own[:, : columns.shape[1]]
    if bool((own_span == 1).all()):
        return torch.where(columns >= 0, own[:, :1], -1)
    example = int((own_span != target_span).nonzero()[0])
    counts = f"the target has {int(target_span[example])} tokens, the source {int(own_span[example])}"
    raise ShapeMismatchError(
        f"{change!r}: in example {example} {counts}; "
        "spans must be equally long, or the source one token, such as Activation(positions='subject[-1]')"
    )


def _mean(tensor: Tensor, tokens: Places, over: Sequence[str], groups: list[str]) -> tuple[Tensor, Tensor]:
    """Means ``[group, position or 1, *rest]`` in at least float32, and how many real tokens each is of."""
    names = sorted(set(groups))
    member = torch.tensor([names.index(g) for g in groups], device=tensor.device)
    columns = tokens.columns(Positions())
    real = (columns >= 0).to(torch.promote_types(tensor.dtype, torch.float32))
    rows = torch.arange(len(tokens), device=tensor.device)[:, None]
    aligned = tensor[rows, columns.clamp(min=0)].to(real.dtype)
    ones = tuple(1 for _ in tensor.shape[2:])
    total = torch.zeros(len(names), *aligned.shape[1:], dtype=real.dtype, device=tensor.device)
    total.index_add_(0, member, aligned * real.view(*real.shape, *ones))
    count = torch.zeros(len(names), real.shape[1], dtype=real.dtype, device=tensor.device).index_add_(0, member, real)
    if axes.POSITION in over:
        total, count = total.sum(1, keepdim=True), count.sum(1, keepdim=True)
    return total / count.clamp(min=1).view(*count.shape, *ones), count


def _derangement(n: int, seed: int) -> Tensor:
    """A random cyclic order: example i takes its values from another example, never from itself (but for n = 1)."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    partner = torch.empty_like(order)
    partner[order] = order.roll(-1)
    return partner
