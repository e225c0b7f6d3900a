"""What resolved interventions write: every run that one of them reads is made once.

    >>> fill(place([Intervention.of("L9H6.z@END")], runs), runs)[0].places[0].values.tensor.shape          # doctest: +SKIP
    torch.Size([64, 1, 12, 64])

A source may be of a run in which something is changed too (:class:`interp.interventions.Activation`, ``given``), and so on:
the innermost run is made first. Everything that is read of one run is announced before it is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from interp.engine.asked import listed
from interp.engine.cells import Cell, Place, check, expanded, place
from interp.engine.edits import Edits
from interp.engine.passing import Passing
from interp.engine.runs import Key, Runs
from interp.engine.sources import Sources
from interp.interventions import Activation, Change
from interp.sites import Site


def fill(cells: Sequence[Cell], runs: Runs, known: Sequence[Cell] = ()) -> list[Cell]:
    """The same cells with what they write.

    Args:
        known: filled already; their changes write the same wherever they are met again.

    Raises:
        UnknownSiteError, HeadOutOfRangeError, OrderError: something in force on a source's run does not fit the model.
        PositionError, ShapeMismatchError, UnequalLengthsError: source and target do not fit.
    """
    inner = list(_inner((where.change for cell in cells for where in cell.places), runs, set()))
    return _filled(inner, runs, cells, known)


def _filled(inner: Sequence[_Inner], runs: Runs, cells: Sequence[Cell], known: Sequence[Cell]) -> list[Cell]:
    """Cells with what they write, once what is in force on the runs that they read is put there."""
    values = {(id(runs), id(where.change)): where.values for cell in known for where in cell.places}
    values |= {(id(one.on), id(w.change)): w.values for one in inner for w in one.cell.places if w.values is not None}
    sources = {id(on): Sources(on) for on in (runs, *(one.on for one in inner))}
    for on, cell in (*((one.on, one.cell) for one in inner), *((runs, cell) for cell in cells)):
        for change in (where.change for where in cell.places if (id(on), id(where.change)) not in values):
            sources[id(on)].want(change)

    def filled(cell: Cell, on: Runs) -> Cell:
        def valued(where: Place) -> Place:
            key = id(on), id(where.change)
            if key not in values:
                values[key] = sources[id(on)].values(where.change, where.columns)
            return replace(where, values=values[key])

        return replace(cell, places=tuple(map(valued, cell.places)))

    by_runs = {id(one.on): one.on for one in inner}
    passing = [Passing.of(on, {one.key: one.cell for one in inner if one.on is on}) for on in by_runs.values()]
    for generation in _generations(inner):
        ready = {one.key: filled(one.cell, one.on) for one in generation}
        for one in generation:
            one.on.force(one.key, ready[one.key], Edits.of)
        for some in passing:
            some.run(ready)
    return [filled(cell, runs) for cell in cells]


def _generations(inner: Sequence[_Inner]) -> Iterator[list[_Inner]]:
    """Those that read no other's run first, then those that read theirs, and so on."""
    number: dict[Key, int] = {}
    for one in inner:  # the innermost come first
        sources = (place.change.source for place in one.cell.places)
        read = [one.on.key(source) for source in sources if isinstance(source, Activation) and source.given is not None]
        number[one.key] = 1 + max((number.get(key, -1) for key in read), default=-1)
    for generation in range(1 + max(number.values(), default=-1)):
        yield [one for one in inner if number[one.key] == generation]


def force(sources: Sequence[Activation], runs: Runs) -> None:
    """Put what sources are given in force on their runs, so that any site of them can be read.

    What was announced of them is read together; what is asked for later, of each run by itself.

    Raises:
        The same as :func:`fill`.
    """
    some = [Change(Site("resid_post", layer=0), source=source) for source in sources]
    _filled(list(_inner(some, runs, set())), runs, (), ())


@dataclass(frozen=True, eq=False)
class _Inner:
    """An intervention in force on a run that somebody reads."""

    key: Key
    """Of the run with it."""
    on: Runs
    """Those of whose base it is in force."""
    cell: Cell


def _inner(changes: Iterable[Change], runs: Runs, met: set[Key]) -> Iterator[_Inner]:
    """What is in force on the runs that changes read, the innermost first; nothing twice."""
    for change in changes:
        source = change.source
        if not isinstance(source, Activation) or source.given is None or not change.edit.reads_source:
            continue
        key = runs.key(source)
        if key in met or runs.forced(key):
            continue
        met.add(key)
        on = runs.under(source)
        [written] = listed(source.given, "given of a source")
        intervention = expanded(written, on.model)
        check([intervention], on.model)
        [cell] = place([intervention], on, on.standing.intervention if on.standing is not None else None)
        if on.standing is not None:  # filled already
            of_base = {id(where.change): where for where in on.standing.places}
            cell = replace(cell, places=tuple(_valued(where, of_base.get(id(where.change))) for where in cell.places))
        yield from _inner((where.change for where in cell.places if not where.given), on, met)
        yield _Inner(key, on, cell)


def _valued(place: Place, filled: Place | None) -> Place:
    return place if filled is None else replace(place, values=filled.values)


def corrupt(runs: Runs, corruption: Cell) -> Cell:
    """Put a corruption in force on the corrupted run; returns it with what it writes.

    What it takes from a base, it takes from the clean run.
    """
    [filled] = fill([corruption], runs.seen_from("clean"))
    runs.force(runs.key(Activation("corrupted")), filled, Edits.of)
    return filled
