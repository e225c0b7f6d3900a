"""Interventions resolved for one model and one set of pairs: which tensor, which columns, which values, and which cells cannot matter.

A cell is *inert* for an example when it cannot have an effect: in a causal model, the source is the counterfactual run at the
target's own coordinates, and every token and mask up to the position is the same in base and source. Its value is the base's by
rule, in every strategy, without a forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.engine.layout import indexed_axis
from interp.engine.values import Runs, Values
from interp.errors import OrderError
from interp.interventions import Activation, Change, Interpolate, Intervention, Replace
from interp.sites import Site


@dataclass(frozen=True, eq=False)
class Place:
    """One change, resolved."""

    change: Change
    columns: Int[Tensor, "example span"]
    """Columns of the base's tokens, padded with −1."""
    values: Values | None
    """What is written there; None if the edit reads no source."""
    inert: Bool[Tensor, " example"]
    order: int
    """Place among the changes of one tensor, where an order was stated; 0 otherwise."""

    @property
    def tensor(self) -> Site:
        return self.change.site.tensor

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
    def inert(self) -> Bool[Tensor, " example"]:
        """Examples in which no change of the cell can have an effect."""
        return torch.stack([place.inert for place in self.places]).all(0)


def resolve(interventions: Sequence[Intervention], runs: Runs) -> list[Cell]:
    """Resolve interventions; every source run is made once.

    Raises:
        UnknownSiteError, HeadOutOfRangeError, PositionError, ShapeMismatchError, OrderError: what does not fit.
    """
    for intervention in interventions:
        if not intervention.changes:
            raise OrderError("an intervention without changes; leave it out, or give it at least one")
        for change in intervention.changes:
            runs.model.check(change.site)
    runs.want([change for intervention in interventions for change in intervention.changes])
    columns: dict[object, Tensor] = {}
    cells = []
    for intervention in interventions:
        places = []
        for order, change in enumerate(intervention.changes):
            if change.positions not in columns:
                columns[change.positions] = runs.base.columns(change.positions, what=f"position of {change.site!r}")
            where = columns[change.positions]
            places.append(Place(change, where, runs.values(change, where), _inert(change, where, runs), order if intervention.ordered else 0))
        if not intervention.ordered:
            _refuse_ambiguous(places)
        cells.append(Cell(intervention, tuple(places)))
    return cells


def _inert(change: Change, columns: Int[Tensor, "example span"], runs: Runs) -> Bool[Tensor, " example"]:
    never = torch.zeros(len(columns), dtype=torch.bool, device=columns.device)
    replaces = isinstance(change.edit, (Replace, Interpolate)) and change.keep_error
    counterpart = isinstance(change.source, Activation) and change.source.is_counterpart
    if not (runs.model.causal and replaces and counterpart) or change.site.path is not None:
        return never
    base, source = runs.base, runs.tokens("source")
    differ = (base.ids != source.ids) | (base.mask != source.mask)
    differed = differ.long().cumsum(-1) > 0
    last = columns.max(-1).values
    return torch.where(last >= 0, ~differed.gather(-1, last.clamp(min=0)[:, None])[:, 0], True)


def _refuse_ambiguous(places: list[Place]) -> None:
    """Two changes of one coordinate commute, or their order is stated."""
    for i, one in enumerate(places):
        for other in places[i + 1 :]:
            if one.tensor != other.tensor or not (one.index is None or other.index is None or one.index == other.index):
                continue
            a, b = one.change.edit, other.change.edit
            if a.kind == b.kind and a.commutes and b.commutes and one.change.keep_error and other.change.keep_error:
                continue
            meet = (one.columns[:, :, None] == other.columns[:, None, :]) & (one.columns[:, :, None] >= 0)
            if bool(meet.any()):
                raise OrderError(
                    f"{one.change!r} and {other.change!r} change the same coordinate and do not commute; state the order with "
                    "first.then(second)"
                )
