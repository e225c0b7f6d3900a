"""How a method learns the alignment of one place.

>>> das = Learner(name="das", make=lambda shape: [Part(Rotation(shape.width, shape.rank))], freeze=lambda part: part)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor, nn

from interp.interventions import Activation, Change, Edit, Featurizer, Intervention, Replace
from interp.prompts import NAMED


class Part(NamedTuple):
    """What is learned for one variable: in which basis, and what is done there."""

    featurizer: Featurizer
    edit: Edit = Replace()  # frozen


class Shape(NamedTuple):
    """What a part is made for."""

    width: int
    """Features of the site."""
    rank: int
    """Coordinates of one variable."""
    seed: int
    variables: int

    @property
    def columns(self) -> int:
        """Coordinates of all variables."""
        return self.rank * self.variables


@dataclass(frozen=True, eq=False, kw_only=True)
class Learner:
    """What a method does at one place; a place with several variables has a part for each, in one basis."""

    name: str
    make: Callable[[Shape], Sequence[Part]]
    freeze: Callable[[Part], Part]
    """What a trained part is judged by: hard, with nothing left to learn."""
    penalty: Callable[[Intervention], Tensor] | None = None
    before_step: Callable[[Sequence[Intervention], int, int], object] | None = None
    """Called with all interventions, the step and the number of steps."""
    scale: Callable[[nn.Parameter], float] | None = None
    """How much faster than the others a parameter learns."""
    learned: Mapping[str, Callable[[Intervention], float]] = field(default_factory=dict)
    """Numbers that are read off a trained intervention before it is frozen: its rank, its boundary."""


def interventions(target: Intervention, parts: Sequence[Part], variables: Sequence[str]) -> Intervention:
    """A place with the parts of its variables; one variable takes its value from the source, of several each from its own."""
    changes: list[Change] = []
    for part, variable in zip(parts, variables or [""], strict=True):
        source = Activation(f"{NAMED}{variable}") if len(parts) > 1 else None
        for change in target.changes:
            own = change if source is None else replace(change, source=source)
            changes.append(replace(own, featurizer=part.featurizer, edit=part.edit))
    return Intervention(tuple(changes), ordered=len(parts) > 1)


def frozen(intervention: Intervention, learner: Learner) -> Intervention:
    """The intervention that a trained one is judged by."""

    def hard(change: Change) -> Change:
        part = learner.freeze(Part(change.featurizer, change.edit))
        return replace(change, featurizer=part.featurizer, edit=part.edit)

    return replace(intervention, changes=tuple(map(hard, intervention.changes)))
