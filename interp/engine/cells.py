"""Interventions resolved for one model and one set of pairs: which tensor, columns and values, and which cells cannot matter.

A cell is *inert* for an example when it cannot have an effect: in a causal model, the source is the counterfactual run at the
target's own coordinates, and every token and mask up to the position is the same in base and source. Its value is the base's by
rule, in every strategy, without a forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.engine.layout import indexed_axis
from interp.engine.values import Runs, Values
from interp.errors import OrderError, UnknownSiteError
from interp.interventions import Activation, Change, Interpolate, Intervention, Replace
from interp.models import Model
from interp.sites import Site

NOWHERE = 1 << 40
"""A column past every prompt's end."""


@dataclass(frozen=True, eq=False)
class Place:
    """One change, resolved."""

    change: Change
    columns: Int[Tensor, "example span"]
    """Columns of the base's tokens, padded with −1."""
    values: Values | None
    """What is written there; None if the edit reads no source."""
    first: Int[Tensor, " example"]
    """First column at which the change can matter; :data:`NOWHERE` where it cannot."""
    order: int
    """How many changes of the same coordinates come before this one: 0 for the first, or where none meet."""

    @property
    def tensor(self) -> Site:
        return self.change.site.tensor

    @property
    def inert(self) -> Bool[Tensor, " example"]:
        """Examples in which it cannot have an effect."""
        return self.first == NOWHERE

    @property
    def index(self) -> int | None:
        """Head or unit that is changed, None for all of them."""
        axis = indexed_axis(self.change.site)
        return getattr(self.change.site, axis) if axis else None


@dataclass(frozen=True, eq=False)
class Cell:
    """One intervention, resolved."""

    intervention: Intervention
    places: tuple[Place, ...]

    @property
    def first(self) -> Int[Tensor, " example"]:
        """First column at which a change of the cell can matter."""
        return torch.stack([place.first for place in self.places]).amin(0)

    @property
    def inert(self) -> Bool[Tensor, " example"]:
        """Examples in which no change of the cell can have an effect."""
        return self.first == NOWHERE


def check(interventions: Sequence[Intervention], model: Model) -> None:
    """Raise unless every intervention changes something that the model has.

    Raises:
        UnknownSiteError, HeadOutOfRangeError, OrderError: what does not fit.
    """
    for intervention in interventions:
        if not intervention.changes:
            raise OrderError("an intervention without changes; leave it out, or give it at least one")
        for change in intervention.changes:
            model.check(change.site)
            if change.site.layer is None and change.site.path is None and change.site.component.per_layer:
                raise UnknownSiteError("site", repr(change.site), [f"L0.{change.site.name}"], why="it does not say which layer")


def resolve(interventions: Sequence[Intervention], runs: Runs) -> list[Cell]:
    """Resolve interventions; every source run is made once.

    Raises:
        PositionError, ShapeMismatchError, OrderError: what does not fit.
    """
    runs.want([change for intervention in interventions for change in intervention.changes])
    columns: dict[object, Tensor] = {}
    cells = []
    for intervention in interventions:
        places: list[Place] = []
        for change in intervention.changes:
            if change.positions not in columns:
                columns[change.positions] = runs.base.columns(change.positions, what=f"position of {change.site!r}")
            where = columns[change.positions]
            place = Place(change, where, runs.values(change, where), _first(change, where, runs), order=0)
            _refuse_aliases(places, place, runs)
            met = [earlier for earlier in places if _meet(earlier, place)]
            if not intervention.ordered:
                _refuse_ambiguous(met, place)
            places.append(replace(place, order=1 + max((earlier.order for earlier in met), default=-1)))
        cells.append(Cell(intervention, tuple(places)))
    return cells


def _first(change: Change, columns: Int[Tensor, "example span"], runs: Runs) -> Int[Tensor, " example"]:
    """First column at which a change can matter, by example.

    The counterfactual run's own value is the base's before the first token in which the two prompts differ.
    """
    alone = torch.where(columns >= 0, columns, NOWHERE).amin(-1)
    alone = torch.where(alone == NOWHERE, 0, alone)  # a change of no token is made all the same
    replaces = type(change.edit) in (Replace, Interpolate) and change.keep_error
    counterpart = isinstance(change.source, Activation) and change.source.is_counterpart
    if not (runs.model.causal and replaces and counterpart) or change.site.path is not None:
        return alone
    base, source = runs.base, runs.tokens("source")
    theirs = source.columns(change.positions)
    if theirs.shape != columns.shape:
        return alone
    differ = (base.ids != source.ids) | (base.mask != source.mask)
    differs = torch.where(differ.any(-1), differ.int().argmax(-1), NOWHERE)
    matters = torch.where(columns >= differs[:, None], columns, NOWHERE).amin(-1)
    moved = (theirs != columns).any(-1)  # a role that stands elsewhere in the other prompt
    return torch.where(moved, alone, matters)


def _refuse_aliases(places: list[Place], place: Place, runs: Runs) -> None:
    """One tensor goes by one name within an intervention: a module's path and a role of that module would not be ordered."""
    taps = runs.model.taps
    for earlier in places:
        if earlier.tensor == place.tensor or (earlier.tensor.path is None) == (place.tensor.path is None):
            continue
        one, other = taps(earlier.tensor), taps(place.tensor)
        if (one.path, one.event) == (other.path, other.event):
            raise OrderError(
                f"{earlier.tensor!r} and {place.tensor!r} are seen in the same tensor; use one of the two names for both"
            )


def _meet(one: Place, other: Place) -> bool:
    """Whether two changes share a coordinate in some example."""
    if one.tensor != other.tensor or not (one.index is None or other.index is None or one.index == other.index):
        return False
    return bool(((one.columns[:, :, None] == other.columns[:, None, :]) & (one.columns[:, :, None] >= 0)).any())


def _refuse_ambiguous(met: list[Place], place: Place) -> None:
    """Two changes of one coordinate commute, or their order is stated."""
    for earlier in met:
        a, b = earlier.change, place.change
        commute = (
            a.edit.kind == b.edit.kind and a.edit.commutes and a.featurizer is b.featurizer and a.keep_error and b.keep_error
        )
        if not commute:
            raise OrderError(
                f"{a!r} and {b!r} change the same coordinate and do not commute; state the order with first.then(second)"
            )
