"""Interventions resolved for one model and one set of pairs: which tensor, columns and values, and which cells cannot matter.

A cell is *inert* for an example when it cannot have an effect: in a causal model, the source is the counterfactual run at the
target's own coordinates, and every token and mask up to the position is the same in base and source. Its value is the base's by
rule, in every strategy, without a forward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from interp import axes
from interp.engine.layout import indexed_axis
from interp.engine.runs import Runs
from interp.engine.sources import Sources
from interp.engine.spans import Spans
from interp.engine.values import Values
from interp.errors import HeadOutOfRangeError, OrderError, PositionError
from interp.interventions import Activation, Change, Interpolate, Intervention, Replace
from interp.models import Model, Places
from interp.sites import MAIN, Positions, Site

_EMBEDDED = (Site("embed"), Site("resid_pre", layer=0))
NOWHERE = 1 << 40
"""A column past every prompt's end."""


@dataclass(frozen=True, eq=False)
class Place:
    """One change, resolved."""

    change: Change
    columns: Int[Tensor, "example span"]
    """Columns of the base's tokens that are changed, padded with −1: of a span that is not as long as the source's, those that
    the source's rule says."""
    values: Values | None
    """What is written there; None if the edit reads no source."""
    first: Int[Tensor, " example"]
    """First column at which the change can matter; :data:`NOWHERE` where it cannot."""
    order: int
    """How many changes of the same coordinates come before this one: 0 for the first, or where none meet."""
    given: bool = False
    """Whether it leaves the base run as it is: because it is in force there already, or because it is held at its values."""
    held: bool = False
    """Whether it is held at the base's values."""
    own: bool = False
    """Whether it writes the base's own value, which changes nothing unless something else of its cell does."""
    attended: Bool[Tensor, "example source_position"] | None = None
    """Of attention scores and patterns, the attended tokens at which it is made, all of them real; the others stay."""
    prompts: Places | None = None
    """Where the positions of the base's prompts are at the site."""
    ids: Int[Tensor, "example position"] | None = None
    """Token ids at these positions, where tokens enter."""
    unequal: Bool[Tensor, " example"] | None = None
    """Where the source's span is not as long as the target's, so that a rule says what is written; None if nowhere."""

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

    def attended_by(self, example: Int[Tensor, " query"], column: Int[Tensor, " query"]) -> Bool[Tensor, "query source"] | None:
        """Where the rows of some queries are changed; None of what has no such rows."""
        if self.attended is None:
            return None
        rows = self.attended[example]
        return rows if self.change.own else rows & (torch.arange(rows.shape[-1], device=rows.device) != column[:, None])


@dataclass(frozen=True, eq=False)
class Cell:
    """One intervention, resolved."""

    intervention: Intervention
    places: tuple[Place, ...]

    @cached_property
    def first(self) -> Int[Tensor, " example"]:
        """First column at which a change of the cell's own can matter.

        Scores or patterns that are given let a token attend to later ones, and tokens that are changed as one depend on each
        other, so what is changed there matters from the first of them on.
        """
        places = [place for place in self.places if not place.given]
        own = torch.stack([place.first for place in places if not place.own or self.idle]).amin(0)
        given = [place for place in self.places if place.given and not place.held]
        ahead = [p.first for p in given if p.attended is not None or p.change.together]
        return torch.where(own == NOWHERE, own, torch.stack([own, *ahead]).amin(0)) if ahead else own

    @cached_property
    def idle(self) -> bool:
        """Whether all that it writes is the base's own."""
        return all(place.own for place in self.places if not place.given)

    @property
    def inert(self) -> Bool[Tensor, " example"]:
        """Examples in which no change of the cell can have an effect."""
        return (self.first == NOWHERE) | self.idle


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
                name = repr(change.site)
                raise HeadOutOfRangeError(
                    f"{change!r} does not say which layer: name one, as in {change.site.at(layer=3)!r}, or sweep all of them "
                    f"with interp.grid({name!r})"
                )


def expanded(intervention: Intervention, model: Model) -> Intervention:
    """The same intervention with one change for each call, and for each half of the batch, of a module that has several."""
    changes: list[Change] = []
    for change in intervention.changes:
        site, sizes = change.site, model.sizes_at(change.site) if model.anatomy.repeated else {}
        calls, halves = (
            range(sizes[axis]) if getattr(site, axis) is None and sizes.get(axis, 1) > 1 else (getattr(site, axis),)
            for axis in (axes.CALL, axes.HALF)
        )
        changes += [
            change if (call, half) == (site.call, site.half) else replace(change, site=site.at(call=call, half=half))
            for call in calls
            for half in halves
        ]
    return replace(intervention, changes=tuple(changes))


def place(
    interventions: Sequence[Intervention], runs: Runs, given: Intervention | None = None, hold: Intervention | None = None
) -> list[Cell]:
    """Resolve where interventions act; nothing is run, and no values are known yet.

    Args:
        given: changes in force on the base of every cell; they come before a cell's own.
        hold: changes that write the base's own values into every cell, behind what is given and before a cell's own.

    Raises:
        PositionError, OrderError: what does not fit.
    """
    columns: dict[tuple[Positions, int], Tensor] = {}
    firsts: dict[tuple[Positions, int, int, bool, bool, bool], Tensor] = {}  # cells differ in these alone
    sites: dict[tuple[Site, bool], Places] = {}
    spans: dict[tuple[Positions, Site], Tensor] = {}
    sources = Sources(runs)

    def resolved(change: Change, first: Tensor | None, of_given: bool) -> Place:
        tensor = change.site.tensor
        if (tensor, of_given) not in sites:
            sites[tensor, of_given] = runs.changed_places(tensor, given=of_given)
        places = sites[tensor, of_given]
        here = (change.positions, id(places))
        if here not in columns:
            columns[here] = places.columns(change.positions, what=f"position of {change.site!r}")
        where = columns[here]
        if change.joint > 1:
            _refuse_other_spans(change, where)
        of_role = change.positions.role is not None
        found = sources.spans(change, where) if of_role else Spans(where, where, None)
        where = found.target
        key = (*here, id(where), _is_counterpart(change, runs), tensor in _EMBEDDED, of_given)
        if key not in firsts:
            firsts[key] = _first(change, where, runs, first)
        span = (change.attended, tensor)
        if change.square and span not in spans:
            spans[span] = _span(change, runs.places("base", tensor, attended=True))
        told: dict[str, Any] = {"prompts": places, "ids": runs.ids(places), "unequal": found.unequal}
        told |= {"given": of_given, "own": _is_own(change), "attended": spans.get(span)}
        return Place(change, where, None, firsts[key], order=0, **told)

    before = _ordered((resolved(change, None, True) for change in given.changes), [], given.ordered, runs) if given else []
    firsts_before = [place.first for place in before]
    firsts_before += [runs.corrupted_from] if runs.corrupted_from is not None else []
    first = torch.stack(firsts_before).amin(0) if firsts_before else None
    frozen = [replace(resolved(change, None, True), held=True) for change in hold.changes] if hold else []
    before += _ordered(frozen, before, True, runs)
    cells = []
    for intervention in interventions:
        own = (resolved(change, first, False) for change in intervention.changes)
        places = _ordered(own, before, intervention.ordered, runs)
        cells.append(Cell(intervention, (*before, *places)))
    return cells


def _ordered(new: Iterable[Place], before: list[Place], ordered: bool, runs: Runs) -> list[Place]:
    """Changes with their order among those that they meet; what does not commute needs one."""
    places: list[Place] = []
    for found in new:
        _refuse_aliases([*before, *places], found, runs)
        met = [earlier for earlier in places if _meet(earlier, found)]
        if not ordered:
            _refuse_ambiguous([earlier for earlier in met if _meet(earlier, found, spans=True)], found)
        met += [earlier for earlier in before if _meet(earlier, found)]
        places.append(replace(found, order=1 + max((earlier.order for earlier in met), default=-1)))
    return places


def _span(change: Change, attended: Places) -> Bool[Tensor, "example source_position"]:
    """Where in the rows of scores or patterns a change is made."""
    if change.attended.is_all:
        return attended.mask
    columns = attended.columns(change.attended, what=f"attended position of {change.site!r}")
    spare = torch.zeros(len(attended), attended.width + 1, dtype=torch.bool, device=columns.device)
    return spare.scatter(1, torch.where(columns >= 0, columns, attended.width), True)[:, :-1]


def _first(
    change: Change, columns: Int[Tensor, "example span"], runs: Runs, given: Int[Tensor, " example"] | None
) -> Int[Tensor, " example"]:
    """First column at which a change can matter, by example.

    The counterfactual run's own value is the base's before the first token in which the two prompts differ, and before the
    first column at which the base is changed already. What enters the first block is its own wherever the token is the same.
    """
    alone = torch.where(columns >= 0, columns, NOWHERE).amin(-1)
    alone = torch.where(alone == NOWHERE, 0, alone)  # a change of no token is made all the same
    if not _is_counterpart(change, runs):
        return alone
    base, source = runs.base, runs.tokens("source")
    theirs = source.columns(change.positions)
    wide = max(theirs.shape[1], columns.shape[1])
    theirs, ours = (pad(one, (0, wide - one.shape[1]), value=-1) for one in (theirs, columns))
    differ = base.differ(source)
    if given is None and runs.model.stack is not None and runs.model.stack.local and change.site.tensor in _EMBEDDED:
        own = differ | (base.mask != source.mask).any(-1, keepdim=True)  # another mask is another numbering of positions
        differs = own.gather(-1, columns.clamp(min=0))
    else:
        first = torch.where(differ.any(-1), differ.int().argmax(-1), NOWHERE)
        differs = columns >= (first if given is None else torch.minimum(first, given))[:, None]
    matters = torch.where(differs & (columns >= 0), columns, NOWHERE).amin(-1)
    moved = (theirs != ours).any(-1)  # a role that stands elsewhere in the other prompt, or is longer there
    return torch.where(moved, alone, matters)


def _is_counterpart(change: Change, runs: Runs) -> bool:
    """Whether a causal model's own value is replaced by the counterfactual run's at the same place."""
    replaces = type(change.edit) in (Replace, Interpolate) and change.keep_error and change.joint == 1
    counterpart = isinstance(change.source, Activation) and change.source.is_counterpart
    return runs.model.causal and replaces and counterpart and change.site.path is None and _is_main(change.site)


def _is_own(change: Change) -> bool:
    """Whether a value is replaced by the base run's at the same place."""
    replaces = type(change.edit) in (Replace, Interpolate) and change.keep_error and change.joint == 1
    return replaces and isinstance(change.source, Activation) and change.source.is_own


def _is_main(site: Site) -> bool:
    """Whether a site's positions are the main stream's, in which a later one leaves an earlier one as it is."""
    return site.stream == MAIN and axes.POSITION in site.axes


def _refuse_other_spans(change: Change, columns: Int[Tensor, "example span"]) -> None:
    """Tokens that are changed as one are as many in every example."""
    spans = (columns >= 0).sum(-1)
    if not bool((spans == change.joint).all()):
        example = int((spans != change.joint).nonzero()[0])
        raise PositionError(
            f"{change!r} changes {change.joint} tokens as one, but its positions name {int(spans[example])} in example "
            f"{example}"
        )


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


def _meet(one: Place, other: Place, *, spans: bool = False) -> bool:
    """Whether two changes share a coordinate in some example, or a row of attention, which is changed by one after the other.

    Args:
        spans: rows of attention are shared where the attended positions are.
    """
    if one.tensor != other.tensor or not (one.index is None or other.index is None or one.index == other.index):
        return False
    met = ((one.columns[:, :, None] == other.columns[:, None, :]) & (one.columns[:, :, None] >= 0)).any((1, 2))
    if spans and one.attended is not None and other.attended is not None:
        met = met & (one.attended & other.attended).any(-1)
    return bool(met.any())


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
