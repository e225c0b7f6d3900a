"""Rows that fork from rows: interventions that begin alike run together until they part.

Of all pairs of ablations, those with the same first head share what follows from it up to the second. An intervention's changes
are grouped by block; one that continues another's groups leaves that row where its next group begins. What several share and
nobody asked for runs too, as a row that is not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from interp.engine.cells import Cell, Place
from interp.engine.edits import same
from interp.engine.joins import POINTS, Point, begin, depth
from interp.interventions import Intervention
from interp.models import Model

_Path = tuple[tuple[int, frozenset[Hashable]], ...]
"""The blocks in which an intervention changes something, each with its changes."""


@dataclass(frozen=True, eq=False)
class Forks:
    """Cells with where they begin, those that several share behind those that were asked for."""

    cells: list[Cell]
    begins: list[int | str]
    parents: list[int]
    """The cell that each one leaves; −1 for those that begin with the base run."""


def forked(model: Model, cells: Sequence[Cell], begins: Sequence[int | str]) -> Forks:
    """Find what cells share.

    Args:
        begins: the depth at which each cell joins, or why it cannot.
    """
    paths = [_path(model, cell) if isinstance(start, int) else () for cell, start in zip(cells, begins, strict=True)]
    found = Forks(list(cells), list(begins), [-1] * len(cells))
    at: dict[_Path, int] = {}
    for number, path in enumerate(paths):
        if path:
            at.setdefault(path, number)
    branches = Counter(longer[:-1] for longer in {path[:k] for path in paths for k in range(2, len(path) + 1)})

    def leave(number: int, path: _Path) -> None:
        """Let a cell leave the longest beginning that it shares."""
        k = next((k for k in range(len(path) - 1, 0, -1) if path[:k] in at or branches[path[:k]] > 1), 0)
        if k == 0:
            return
        if path[:k] not in at:
            at[path[:k]] = len(found.cells)
            found.cells.append(_beginning(model, found.cells[number], path[k][0]))
            found.begins.append(found.begins[number])
            found.parents.append(-1)
            leave(at[path[:k]], path[:k])
        found.parents[number] = at[path[:k]]
        found.begins[number] = depth(path[k][0], Point.PRE)

    for number, path in enumerate(paths):
        if len(path) > 1:
            leave(number, path)
    return found


def _path(model: Model, cell: Cell) -> _Path:
    blocks: dict[int, set[Hashable]] = {}
    for place in cell.places:
        if not place.given:
            blocks.setdefault(_block(model, place), set()).add(_key(place))
    return tuple((block, frozenset(keys)) for block, keys in sorted(blocks.items()))


def _block(model: Model, place: Place) -> int:
    """The block at which a change is met first; −1 for the embedding."""
    start = begin(model, place.tensor)
    assert isinstance(start, int)
    return start // POINTS


def _beginning(model: Model, cell: Cell, block: int) -> Cell:
    """What of a cell happens before a block."""
    places = tuple(place for place in cell.places if place.given or _block(model, place) < block)
    changes = tuple(place.change for place in places if not place.given)
    return replace(cell, intervention=Intervention(changes, ordered=True), places=places)


def _key(place: Place) -> Hashable:
    """Two changes with one key do the same."""
    change: Any = place.change
    return (
        change.site,
        change.positions,
        change.attended,
        change.own,
        same(change.source),
        same(change.edit),
        id(change.featurizer),
        change.keep_error,
        place.order,
    )
