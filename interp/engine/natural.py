"""What interventions would write, and what is natural at the same tokens, as vectors with a distribution.

    >>> for place, new in written(runs, cell):                                               # doctest: +SKIP
    ...     natural.at(place).distance(new, halves)

Nothing is run for a cell: what it writes follows from the base run and the runs that its sources read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from interp.engine.asked import asked_prompts, contrasted
from interp.engine.cells import Cell, Place
from interp.engine.edits import Edits
from interp.engine.layout import canonical, declared
from interp.engine.prepared import Prepared
from interp.engine.readout import Reader
from interp.engine.runs import Runs
from interp.errors import InputError
from interp.interventions import Activation, Change
from interp.sites import Positions, Site
from interp.stats import Normal

FEWEST = 8
"""Natural prompts on which a distribution is fitted."""
BASE = Activation("base")
_RESOLVED = 1e-3
"""Of the root mean square of natural activations: variation that is taken for rounding."""

_Numbers = NDArray[np.float64]


def own(*cells: Cell) -> list[Place]:
    """The changes of cells without those that are in force on the base."""
    return [place for cell in cells for place in cell.places if not place.given]


def halves_of(n: int) -> NDArray[np.int64]:
    """0 or 1 for each of n pairs, at random and always the same, since templates often alternate.

    >>> halves_of(6)
    array([1, 0, 1, 0, 0, 1])
    """
    return np.random.default_rng(0).permutation(n) % 2


def written(runs: Runs, cell: Cell) -> Iterator[tuple[Place, Tokens]]:
    """What every change of a cell would write, as the base is without its other changes, unless they are of one tensor.

    Args:
        cell: filled (:func:`interp.engine.filling.fill`).
    """
    edits = Edits.of(cell, torch.arange(len(runs.base), device=runs.model.device))
    for site in edits.sites(own=True):
        here = [place for place in own(cell) if place.tensor == site]
        columns = torch.cat([place.columns.flatten() for place in here]).unique()
        columns = columns[columns >= 0]
        kept = runs.read(BASE, site, columns)
        h = declared(site, kept.tensor[:, kept.where(columns).to(kept.tensor.device)])
        new = canonical(site, edits.write(site, own=True).at(h, columns))
        for place in here:
            at = torch.where(place.columns >= 0, torch.searchsorted(columns, place.columns.contiguous()), -1)
            yield place, Tokens.of(new, at, place.index)


@dataclass(frozen=True, eq=False)
class Tokens:
    """Activations of some prompts at the tokens that a change names."""

    values: Float[_Numbers, "prompt token feature"]
    there: Bool[NDArray[np.bool_], "prompt token"]

    @classmethod
    def of(cls, tensor: Tensor, columns: Int[Tensor, "prompt token"], index: int | None) -> Tokens:
        """Some columns of a tensor in the engine's order of axes, of one head or unit, or of all."""
        at = columns.to(tensor.device)
        found = tensor[torch.arange(len(at), device=at.device)[:, None], at.clamp(min=0)]
        if index is not None:
            found = found[:, :, index]
        return cls(found.reshape(*at.shape, -1).double().cpu().numpy(), (at >= 0).cpu().numpy())

    @classmethod
    def together(cls, parts: Sequence[Tokens]) -> Tokens:
        """Those of several runs; fewer tokens are filled up with none."""
        wide = max(part.there.shape[1] for part in parts)
        spare = [(0, wide - part.there.shape[1]) for part in parts]
        values = [np.pad(part.values, ((0, 0), more, (0, 0))) for part, more in zip(parts, spare, strict=True)]
        return cls(
            np.concatenate(values),
            np.concatenate([np.pad(part.there, ((0, 0), more)) for part, more in zip(parts, spare, strict=True)]),
        )

    def mean(self, by_token: Float[_Numbers, "prompt token"]) -> Float[_Numbers, " prompt"]:
        """Over each prompt's tokens; NaN of none."""
        count = self.there.sum(1)
        total: _Numbers = np.where(self.there, by_token, 0.0).sum(1)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


class Distribution:
    """Natural activations at the tokens of a change.

    Args:
        halves: 0 or 1 of every prompt.
        each: every token has a distribution of its own; else they share one.
    """

    def __init__(self, sample: Tokens, halves: NDArray[np.int64], each: bool, quantile: float) -> None:
        self.each = each
        size = np.linalg.norm(sample.values, axis=-1)
        features = sample.values.shape[-1]
        tokens = range(sample.there.shape[1] if each else 1)
        sizes = [self._at(sample, token, size) for token in tokens]
        self._norms = np.array([one.mean() for one in sizes])
        noise = [_RESOLVED * float((one**2).mean() / features) ** 0.5 for one in sizes]
        samples = [[self._at(sample, token, sample.values, halves == half) for token in tokens] for half in (0, 1)]
        least = min(len(one) for half in samples for one in half)
        if least < FEWEST:
            raise InputError(
                f"a half of the natural prompts has {least} tokens at the positions of a change; a distribution is fitted on "
                f"{FEWEST} at least: give other prompts with natural=[…]"
            )
        self._fitted = [[Normal.fit(one, added) for one, added in zip(half, noise, strict=True)] for half in samples]
        found = self.distance(sample, halves)
        rounding = 0.01 * features**0.5  # where natural activations are all the same
        self.threshold = max(float(np.quantile(found[np.isfinite(found)], quantile)), rounding)

    def _at(self, sample: Tokens, token: int, values: _Numbers, some: Any = slice(None)) -> _Numbers:
        """Of one token of some prompts, or where tokens share a distribution, of all."""
        if self.each:
            return values[some, token]
        return values[some][sample.there[some]]

    def distance(self, written: Tokens, halves: NDArray[np.int64]) -> Float[_Numbers, " prompt"]:
        """Of every prompt, by the half that it is not in."""
        found = np.zeros(written.there.shape)
        for half in (0, 1):
            mine = halves != half
            for token in range(written.there.shape[1]):
                fitted = self._fitted[half][token if self.each else 0]
                found[mine, token] = fitted.distance(written.values[mine, token])
        return written.mean(found)

    def norm_ratio(self, written: Tokens) -> Float[_Numbers, " prompt"]:
        """Norms by the mean natural one; NaN where all of these are 0 and so is the value."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return written.mean(np.linalg.norm(written.values, axis=-1) / self._norms)


class Natural:
    """The runs whose activations are natural, and their distributions, each fitted once.

    Raises:
        InputError: they are too few.
    """

    def __init__(self, prepared: Prepared, natural: Any, quantile: float) -> None:
        model, encoded = prepared.model, prepared.encoded
        self._runs, self._quantile = prepared.runs, quantile
        if natural is not None:
            encoded = asked_prompts(model, natural, encoded.asked)[0]
            reader = Reader.of(model, encoded, prepared.metrics)
            self._runs = Runs(model, encoded, "clean", prepared.budget.batch, reader)
        words = ("clean", "corrupted") if contrasted(encoded) else ("clean",)
        self._sides = [Activation(word) for word in words]
        self._halves = np.tile(halves_of(len(encoded)), len(words))
        self._known: dict[tuple[Site, Positions, bool], Distribution] = {}
        least = int(np.bincount(self._halves, minlength=2).min())
        if least < FEWEST:
            raise InputError(
                f"{'natural' if natural is not None else 'pairs'} holds {len(self._halves)} natural prompts, {least} in the "
                f"smaller half; a distribution is fitted on {FEWEST} at least: give more, or others with natural=[…]"
            )
        said = f"{' and '.join(words)} prompts" if natural is None or len(words) > 1 else "prompts"
        self.attrs = {"natural": said if natural is None else f"other {said}", "natural_prompts": len(self._halves)}

    def _columns(self, side: Activation, change: Change) -> Int[Tensor, "prompt token"]:
        places = self._runs.places(str(side.prompt), change.site.tensor)
        return places.columns(change.positions, what=f"position of {change.site!r} in natural prompts")

    def want(self, change: Change) -> None:
        """Announce that a distribution will be asked for."""
        for side in self._sides:
            self._runs.want(side, change.site.tensor, self._columns(side, change))

    def at(self, place: Place) -> Distribution:
        """That of a change's tokens."""
        columns = [self._columns(side, place.change) for side in self._sides]
        each = len({*(one.shape[1] for one in columns), place.columns.shape[1]}) == 1
        each = each and all(bool((one >= 0).all()) for one in columns)
        key = (place.change.site, place.change.positions, each)
        if key not in self._known:
            parts = []
            for side, at in zip(self._sides, columns, strict=True):
                kept = self._runs.read(side, place.tensor, at)
                parts.append(Tokens.of(kept.tensor, kept.where(at), place.index))
            self._known[key] = Distribution(Tokens.together(parts), self._halves, each, self._quantile)
        return self._known[key]
