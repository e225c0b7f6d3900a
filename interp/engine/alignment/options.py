"""What every search for alignments can be told; :func:`interp.das` says what each of these means."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from interp.engine.alignment.aligned import Aligned, search_for
from interp.engine.alignment.controls import Controls
from interp.engine.alignment.learner import Learner
from interp.engine.alignment.search import DRAWS, Training
from interp.engine.precision import Precision
from interp.engine.stored import Into, StoreLike
from interp.errors import InputError, UnknownNameError
from interp.metrics import MetricLike
from interp.models import Model


class Options(TypedDict, total=False):
    """As for :func:`interp.das`."""

    test: Any
    seeds: int | Sequence[int]
    variables: Sequence[str]
    steps: int
    batch: int
    lr: float
    warmup: float
    fall: bool
    objective: MetricLike
    metric: MetricLike
    validation: float
    order: int
    controls: bool | str | Iterable[str]
    draws: int
    networks: int
    held_out: Any
    false: tuple[Any, Any] | None
    full: Any
    rows: int | None
    precision: Precision
    progress: bool | None
    store: StoreLike | None
    name: str | None
    tags: Iterable[str]


_TRAINING = ("steps", "batch", "lr", "warmup", "fall", "objective", "order", "validation", "rows", "precision", "progress")
_CONTROLS = ("draws", "networks", "held_out", "false", "full")
_DEFAULTS: dict[str, Any] = {"test": None, "seeds": 3, "variables": (), "metric": "accuracy", "controls": True, "draws": DRAWS}


def search_with(
    call: str,
    model: Model,
    train: Any,
    where: Any,
    learner: Learner,
    ranks: Any,
    facts: Mapping[str, Any],
    said: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Aligned:
    """A search as a call asks for it.

    Args:
        ranks: one or several, whole numbers or shares.
        facts: the method's own arguments, JSON.
        said: all arguments of the call, for the recipe.
        options: those of :class:`Options` that are given.

    Raises:
        UnknownNameError: an option that is none.
        InputError: a rank that is no number.
    """
    for name in options:
        if name not in Options.__annotations__:
            raise UnknownNameError("argument", name, Options.__annotations__, f"of {call}")
    asked = {**_DEFAULTS, **options}
    return search_for(
        call,
        model,
        train,
        asked["test"],
        where,
        learner,
        ranks=[plain_rank(one) for one in ([ranks] if np.ndim(ranks) == 0 else list(ranks))],
        seeds=asked["seeds"],
        variables=asked["variables"],
        training=Training(**{name: asked[name] for name in _TRAINING if name in asked}),
        controls=Controls.asked(asked["controls"], **{name: asked[name] for name in _CONTROLS if name in asked}),
        metric=asked["metric"],
        facts=facts,
        said={name: value for name, value in said.items() if name != "options"} | dict(options),
        into=Into.of(asked.get("store"), asked.get("name"), asked.get("tags", ())),
    )


def plain_rank(rank: Any) -> int | float:
    """A rank as JSON has it, of numpy's numbers too."""
    if type(rank) is not bool and isinstance(rank, numbers.Real):
        return int(rank) if isinstance(rank, numbers.Integral) else float(rank)
    raise InputError(f"rank={rank!r}; expected how many coordinates, such as 4, or the share of the width, such as 0.5")
