"""What is asked for, in whatever form: pairs, prompts, interventions.

>>> listed(Change("L1.z"))
[Intervention(L1.z ← Activation(source))]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interp.interventions import Change, Intervention
from interp.models import Encoded, Model
from interp.prompts import Pair, Pairs


def encoded_pairs(model: Model, pairs: Any) -> Encoded:
    """Pairs in whatever form they were given, as tensors."""
    return pairs if isinstance(pairs, Encoded) else model.encode(_pairs(pairs))


def _pairs(pairs: Any) -> Pairs:
    if isinstance(pairs, Pairs):
        return pairs
    many = list(pairs) if isinstance(pairs, Sequence) and not isinstance(pairs, str) else [pairs]
    if not many or not all(isinstance(pair, Pair) for pair in many):
        raise ValueError(
            f"pairs is {type(pairs).__name__ if many else 'empty'}; expected interp.Pairs from a task such as "
            "interp.tasks.ioi(64), interp.Pair(clean, corrupted, answers, wrong) or a list of them, or model.encode(pairs)"
        )
    return Pairs(tuple(many))


def listed(where: Any, argument: str = "where") -> list[Intervention]:
    """Interventions from one or several, changes being interventions of one change."""
    grids = (
        "a grid such as interp.grid('resid_pre', layer=...), a mapping of names to grids, or " if argument == "where" else ""
    )
    many = list(where) if isinstance(where, Sequence) and not isinstance(where, str) else [where]
    for one in many:
        if not isinstance(one, Intervention | Change):
            raise ValueError(
                f"{argument} holds {one!r} of type {type(one).__name__}; expected {grids}interventions such as "
                "Intervention.of('L9H6.z@-1')"
            )
    if not many:
        raise ValueError(f"{argument} is an empty list; give at least one intervention")
    return [one if isinstance(one, Intervention) else Intervention((one,)) for one in many]
