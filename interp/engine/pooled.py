"""Source values that are made of several: means over prompts, and noise, each made once for all cells of a sweep.

>>> pooled.mean(source, change, kept, columns, own)                                       # doctest: +SKIP
>>> pooled.noise(Noise(0.3), site, columns)                                               # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp import axes
from interp.engine import means
from interp.engine.layout import indexed_axis
from interp.engine.prompts import Kept
from interp.engine.runs import Key, Runs
from interp.engine.values import Values
from interp.errors import ShapeMismatchError, UnequalLengthsError
from interp.interventions import Activation, Change, Noise
from interp.interventions.source import SPAN, TOKEN
from interp.models import Tokens
from interp.sites import ALL, Site


class Pooled:
    """Means and noise of a sweep."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self._known: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def mean(
        self,
        source: Activation,
        change: Change,
        kept: Kept,
        columns: Int[Tensor, "example span"],
        own: Int[Tensor, "prompt own"] | None,
    ) -> Values:
        """Means over real tokens, positions counted from each prompt's first real token; or over the tokens that are named.

        Tokens of an answer behind the prompts are among them where they are among those that are changed.

        Args:
            kept: the source's tensor.
            columns: those of the target that are changed.
            own: the source's columns, where its prompts' own tokens are named (:func:`names`).
        """
        key, target, site = self.runs.key(source), change.site, source.site_for(change.site)
        everything = change.positions.is_everywhere
        tokens, base = self.runs.places_of(key, site), self.runs.places("base", target)
        tokens = tokens if everything else tokens.alone
        if site.square:
            self._refuse_mean_of_rows(source, key, target, site)
        if source.by == TOKEN:
            return self._by_token(source, kept, columns, (key, site, target))
        if source.by is not None and source.prompts:
            raise ValueError(f"{source!r}: a mean by {source.by!r} is over the prompts of the pairs, not over other prompts")
        groups = self._groups(source.by)
        theirs = groups if source.by is not None else [""] * len(tokens)
        names = sorted(set(groups))
        group = torch.tensor([names.index(name) for name in groups], device=columns.device)
        if own is not None:
            return self._of_named(source, change, kept, (columns, own), (group, theirs))
        pooled = (*key, site.tensor, source.over, source.by, everything and tokens.forced is not None)
        if pooled not in self._known:
            self._known[pooled] = means.aligned(kept.tensor, tokens, theirs, source.over)
        tensor, count = self._known[pooled]
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

    def _by_token(
        self, source: Activation, kept: Kept, columns: Int[Tensor, "example span"], at: tuple[Key, Site, Site]
    ) -> Values:
        """Means over the source's prompts that have an example's own token at the same position.

        Args:
            at: the source's run, the site that is read there, and the one that is changed.
        """
        key, site, target = at
        theirs, base = self.runs.places_of(key, site), self.runs.places("base", target)
        both = self.runs.prompts[key][1], self.runs.base
        if any(tokens.ids is None or places is not tokens for tokens, places in zip(both, (theirs, base), strict=True)):
            raise ShapeMismatchError(
                f"{source!r} of {site!r}: its positions are not those of tokens, which a mean by token needs"
            )
        pooled = (*key, site.tensor, TOKEN)
        if pooled not in self._known:
            (own, ids), (_, ours) = (_numbered(tokens) for tokens in both)
            self._known[pooled] = means.by_token(kept.tensor, ids, kept.where(own), ours)
        tensor, count = self._known[pooled]
        own = torch.where(columns >= 0, columns - base.first[:, None], -1)
        missing = (own >= 0) & (count.gather(1, own.clamp(min=0)) == 0)
        if bool(missing.any()):
            example, slot = missing.nonzero()[0].tolist()
            raise ShapeMismatchError(
                f"{source!r}: no prompt of the source has the token of example {example} at position {int(own[example, slot])}"
            )
        return Values(tensor, torch.arange(len(base), device=columns.device), own, None)

    def _of_named(
        self,
        source: Activation,
        change: Change,
        kept: Kept,
        at: tuple[Int[Tensor, "example span"], Int[Tensor, "prompt own"]],
        grouped: tuple[Tensor, list[str]],
    ) -> Values:
        """Means over the tokens that positions name in each of the source's prompts: one, or as many as the target's.

        Args:
            at: the target's columns, and the source's.
            grouped: each example's group, and each of the source's prompts'.
        """
        (columns, own), (group, theirs) = at, grouped
        spans, many = (own >= 0).sum(-1), (columns >= 0).sum(-1)
        apart = axes.POSITION not in source.over and SPAN not in source.over
        if apart and bool((spans != spans[0]).any() | ((spans[0] != many) & (spans[0] != 1)).any()):
            raise ShapeMismatchError(
                f"{change!r}: the tokens of the source's prompts are {spans.unique().tolist()}, those of the target "
                f"{many.unique().tolist()}; a mean slot by slot needs one, or as many in all of them: pool them, with "
                "over=('example', 'position'), or take one, such as positions=-1"
            )
        pooled = (*self.runs.key(source), source.site_for(change.site).tensor, source.over, source.by, id(own))
        if pooled not in self._known:
            self._known[pooled] = means.named(kept.tensor, kept.where(own), theirs, source.over), own
        tensor = self._known[pooled][0]
        slots = torch.arange(columns.shape[1], device=columns.device) if tensor.shape[1] > 1 else torch.zeros_like(columns)
        return Values(tensor, group, torch.where(columns >= 0, slots, -1), None)

    def _refuse_mean_of_rows(self, source: Activation, key: Key, target: Site, site: Site) -> None:
        """Rows of attention of different length, or of different queries, have no mean."""
        if axes.POSITION in source.over or SPAN in source.over:
            raise ShapeMismatchError(f"{source!r} of {site.tensor!r}: rows of different positions attend to different tokens")
        attended = self.runs.places_of(key, site, attended=True), self.runs.places("base", target, attended=True).prompt
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

    def noise(self, source: Noise, site: Site, columns: Int[Tensor, "example span"]) -> Values:
        base = self.runs.places("base", site)
        if site.square:
            raise ShapeMismatchError(
                f"noise on {site!r} would not be a probability; use a site whose features are a fixed width"
            )
        axis = indexed_axis(site)
        one = base.first[:1, None]  # a base value says how wide the site is
        widths = tuple(self.runs.read(Activation("base"), site, one).tensor.shape[2:])
        drawn = ("noise", source.std, source.seed, int(base.lengths.max()), *widths)
        if drawn not in self._known:
            dtype = torch.promote_types(self.runs.model.dtype, torch.float32)
            draws = torch.stack([source.draw(e, (int(base.lengths.max()), *widths)) for e in range(len(base))])
            self._known[drawn] = (
                draws.to(self.runs.model.device, dtype),
                torch.arange(len(base), device=self.runs.model.device),
            )
        tensor, everyone = self._known[drawn]
        own = torch.where(columns >= 0, columns - base.first[:, None], -1)
        return Values(tensor, everyone, own, getattr(site, axis) if axis else None)


def names(source: Activation, change: Change) -> bool:
    """Whether a mean is over the tokens that positions name in each prompt, rather than position by position."""
    if source.by == TOKEN:
        return False
    return source.own_positions is not None or SPAN in source.over or (source.several and not change.positions.is_everywhere)


def _numbered(tokens: Tokens) -> tuple[Int[Tensor, "example position"], Int[Tensor, "example position"]]:
    """Columns of prompts by position, counted from the first real token, and the token ids there; −1 behind their end."""
    assert tokens.ids is not None
    columns = tokens.columns(ALL)
    return columns, torch.where(columns >= 0, tokens.ids.gather(1, columns.clamp(min=0)), -1)
