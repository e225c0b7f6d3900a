"""Training and judging alignments of many places, ranks and seeds together.

>>> search = align(model, train, test, where, learner, ranks=[1, 2], seeds=range(3), steps=300)      # doctest: +SKIP
>>> search.iia.shape                                   # place × rank × seed, example                # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from interp.engine.alignment.learner import Learner, Part, Shape, frozen, interventions
from interp.engine.alignment.places import Laid, laid
from interp.engine.asked import encoded_pairs
from interp.engine.precision import Precision
from interp.engine.sweep import patch
from interp.errors import InputError, ShapeMismatchError
from interp.interventions import Arranged, Change, Identity, Intervention, Select, Subspace
from interp.interventions.fitted import random_subspace
from interp.metrics import MetricLike
from interp.models import Encoded, Model
from interp.training import fit

DRAWS = 20
"""Random subspaces of each rank."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a search trains, and what it raises."""

    steps: int = 300
    batch: int = 64
    lr: float = 5e-3
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises to its full height."""
    fall: bool = True
    """Whether it falls to 0 behind that, in equal steps."""
    objective: MetricLike = "logprob"
    order: int = 0
    """Seed of the order of the pairs."""
    validation: float = 0.2
    """Share of the training pairs that choose between ranks and seeds instead."""
    rows: int | None = None
    precision: Precision = "full"
    progress: bool | None = None

    def factor(self, done: float) -> float:
        """Of the learning rate, by the share of steps done."""
        step = done + 1 / self.steps
        rising = min(1.0, step / self.warmup) if self.warmup else 1.0
        return rising * (min(1.0, (1 - done) / (1 - self.warmup)) if self.fall else 1.0)


@dataclass(frozen=True, eq=False)
class Search:
    """What was found at every place, rank and seed: cells, the last of these running fastest."""

    laid: Laid
    ranks: tuple[Any, ...]
    seeds: tuple[int, ...]
    interventions: tuple[Intervention, ...]
    """Hard."""
    iia: np.ndarray[Any, Any]
    """``[cell, example]`` of the test pairs."""
    base: np.ndarray[Any, Any]
    """``[example]``: the same of the base, in which nothing is changed."""
    validation: np.ndarray[Any, Any]
    """``[cell]``: the mean over pairs that were neither trained on nor are tested on; NaN where none are kept for it."""
    loss: np.ndarray[Any, Any]
    """``[cell, step]``."""
    learned: dict[str, np.ndarray[Any, Any]]
    """``[cell]`` each."""
    result: xr.Dataset
    """Of the judgement, for its provenance and the coordinates along examples."""

    @property
    def cells(self) -> list[tuple[Intervention, int]]:
        """Every hard intervention with the width of its place."""
        each = len(self.ranks) * len(self.seeds)
        return [(one, self.laid.widths[number // each]) for number, one in enumerate(self.interventions)]

    def spread(self, found: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """``[cell, …]`` as ``[*axes, rank, seed, …]``."""
        shape = (len(self.laid.targets), len(self.ranks), len(self.seeds))
        return self.laid.spread(found.reshape(*shape, *found.shape[1:]))


def align(
    model: Model,
    train: Any,
    test: Any,
    where: Any,
    learner: Learner,
    *,
    ranks: Sequence[int | float],
    seeds: Sequence[int],
    variables: Sequence[str] = (),
    training: Training,
    metric: MetricLike = "accuracy",
) -> Search:
    """Train a part for every place, rank and seed, and judge each on other pairs.

    Args:
        where: see :func:`interp.engine.alignment.places.laid`.
        ranks: coordinates of each variable; a float is the share of the width that all variables have together.
        variables: names of the pairs' further prompts, one for each variable; none of a single variable, whose value is the
            source's.

    Raises:
        ShapeMismatchError: more coordinates than a place has features.
    """
    seen, shown = encoded_pairs(model, train), encoded_pairs(model, test)
    places = laid(model, seen, where)
    learning, choosing = _held_back(model, seen, training.validation, training.order)
    many = [
        interventions(target, learner.make(_shape(width, rank, seed, variables, target)), variables)
        for (target, width), rank, seed in product(zip(places.targets, places.widths, strict=True), ranks, seeds)
    ]
    before = None if learner.before_step is None else partial(learner.before_step, many)
    trained = fit(
        model,
        learning,
        many,
        training.objective,
        steps=training.steps,
        batch=min(training.batch, len(learning)),
        lr=training.lr,
        schedule=training.factor,
        optimizer=torch.optim.Adam if learner.scale is None else partial(_scaled, learner.scale),
        penalty=learner.penalty,
        before_step=before,
        seed=training.order,
        rows=training.rows,
        precision=training.precision,
        progress=training.progress,
    )
    hard = [frozen(one, learner) for one in many]
    judged = partial(judge, model, metric=metric, training=training)
    validation = judged(choosing, hard)[0].mean(-1) if choosing is not None else np.full(len(hard), np.nan)
    iia, base, result = judged(shown, hard)
    learned = {name: np.array([read(one) for one in many]) for name, read in learner.learned.items()}
    loss = trained.loss.values
    return Search(places, tuple(ranks), tuple(seeds), tuple(hard), iia, base, validation, loss, learned, result)


def judge(
    model: Model, pairs: Encoded, many: Sequence[Intervention], *, metric: MetricLike = "accuracy", training: Training
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], xr.Dataset]:
    """The metric on every pair with each intervention in force ``[cell, example]``, that of the base, and where it is from."""
    cells = Arranged(many, {"cell": range(len(many))})
    words: dict[str, Any] = {"rows": training.rows, "precision": training.precision, "progress": training.progress}
    found = patch(model, pairs, cells, metric, skip_inert=False, **words)
    assert isinstance(found, xr.Dataset)
    return found["value"].values[0], found["corrupt"].values[0], found


def random_subspaces(
    model: Model,
    pairs: Any,
    search: Search,
    *,
    draws: int = DRAWS,
    variables: Sequence[str] = (),
    metric: MetricLike = "accuracy",
    training: Training,
) -> np.ndarray[Any, Any]:
    """Mean accuracy of subspaces drawn uniformly ``[place, rank, draw]``, with as many columns as the claim swaps coordinates.

    Of starts that ended with different numbers of coordinates, the largest; the same draws at all places of one width.
    """
    places, each = search.laid, len(search.seeds)
    sizes = [[swapped(change, width) for change in one.changes] for one, width in search.cells]
    known: dict[tuple[int, int, int], torch.Tensor] = {}
    many = []
    for number in range(0, len(sizes), each):
        ranks = max(sizes[number : number + each], key=sum)
        place = number // (each * len(search.ranks))
        target, width = places.targets[place], places.widths[place]
        for draw in range(draws):
            key = (width, sum(ranks), draw)
            if key not in known:
                known[key] = random_subspace(width, max(1, sum(ranks)), 1_000_003 + draw).basis[:, : sum(ranks)]
            parts = [Part(Subspace(own.clone())) for own in known[key].split(ranks, dim=1)]
            many.append(interventions(target, parts, variables))
    found = judge(model, encoded_pairs(model, pairs), many, metric=metric, training=training)[0].mean(-1)
    return found.reshape(len(places.targets), len(search.ranks), draws)


def swapped(change: Change, width: int) -> int:
    """How many coordinates a hard change swaps."""
    if isinstance(change.edit, Select):
        return min(width, change.edit.count)
    basis = getattr(change.featurizer, "basis", None)
    return width if basis is None else int(basis.shape[1])


def whole_vectors(
    model: Model, pairs: Any, places: Laid, *, metric: MetricLike = "accuracy", training: Training
) -> np.ndarray[Any, Any]:
    """The metric on every pair where a place's whole value is the source's ``[place, example]``."""
    many = [replace(one, changes=tuple(replace(c, featurizer=Identity()) for c in one.changes)) for one in places.targets]
    return judge(model, encoded_pairs(model, pairs), many, metric=metric, training=training)[0]


def _shape(width: int, rank: int | float, seed: int, variables: Sequence[str], target: Intervention) -> Shape:
    many = max(1, len(variables))
    asked = int(rank * width) // many if isinstance(rank, float) else int(rank)
    if not asked >= 1 or asked * many > width:
        each = f" for each of {many} variables" if many > 1 else ""
        raise ShapeMismatchError(f"rank={rank}{each} at {target!r}, which has {width} features; expected 1 to {width // many}")
    return Shape(width, asked, seed, many)


def _scaled(scale: Callable[[nn.Parameter], float], parameters: Sequence[nn.Parameter], lr: float) -> torch.optim.Adam:
    """Adam with a group for every parameter."""
    return torch.optim.Adam([{"params": [one], "scale": scale(one)} for one in parameters], lr=lr)


def _held_back(model: Model, train: Encoded, share: float, seed: int) -> tuple[Encoded, Encoded | None]:
    """Pairs that are trained on, and those that choose."""
    if not 0 <= share < 1:
        raise InputError(f"validation={share}; expected the share of the training pairs that choose, from 0 to less than 1")
    many = round(share * len(train))
    if not many:
        return train, None
    if many == len(train):
        raise InputError(f"validation={share} of {len(train)} training pairs leaves none to train on")
    drawn = np.random.default_rng(seed).permutation(len(train)).tolist()
    sides = [sorted(drawn[many:]), sorted(drawn[:many])]
    learning, choosing = (
        model.encode(replace(train.pairs, items=tuple(train.pairs[i] for i in side)), bos=train.asked) for side in sides
    )
    return learning, choosing
