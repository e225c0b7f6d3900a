"""Sweeps that go to a store unit by unit: what is there is not computed again, and what was stopped goes on where it was.

>>> effects = interp.patch(model, pairs, where, store="runs", name="ioi heads")               # doctest: +SKIP
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
import xarray as xr

from interp import axes
from interp import effects as fx
from interp.engine.measure import ROUNDING, bar
from interp.engine.recipe import JSON as RECIPE
from interp.engine.surroundings import peak_memory
from interp.errors import StoreError
from interp.store import Run, Store
from interp.store.identity import check_name, check_tags
from interp.store.marker import DamagedError

StoreLike: TypeAlias = Store | str | os.PathLike[str]
Result: TypeAlias = xr.Dataset | xr.DataTree
Index: TypeAlias = Mapping[str, slice]

UNIT_SECONDS = 10.0
"""About how long a unit should take: this much work is lost when a sweep is killed."""
_MOST = 2000
"""Units of one family."""
_FEWEST = 4
"""Examples that are not taken apart: passes are full."""


@dataclass(frozen=True, slots=True)
class Into:
    """Where a sweep's numbers go."""

    store: Store
    name: str | None = None
    tags: tuple[str, ...] = ()

    @classmethod
    def of(cls, store: StoreLike | None, name: str | None = None, tags: Iterable[str] = ()) -> Into | None:
        """None where no store is given.

        Raises:
            StoreError: a name or tags, but no store; or such as no run can have.
        """
        tags = tuple(check_tags(tags))
        if name is not None:
            check_name(name)
        if store is None:
            if name is not None or tags:
                raise StoreError("name and tags are for a run in a store; give store= as well")
            return None
        return cls(store if isinstance(store, Store) else Store(store), name, tags)


class Sweep(Protocol):
    """A sweep under way, ready to measure any part of itself."""

    @property
    def skeleton(self) -> Result:
        """All that is known before any cell is measured; NaN in the values."""

    def rows(self, family: str, index: Index) -> int:
        """How many rows a part has."""

    def values(self, family: str, index: Index, progress: Callable[[int], None]) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        """A part of ``value``, and what it took: numbers, which add up."""


def keep(
    into: Into,
    asked: Result,
    begin: Callable[[], AbstractContextManager[Sweep]],
    chunks: Mapping[str, Mapping[str, int]],
    *,
    beside: Callable[[], Mapping[str, bytes]],
    progress: bool | None,
) -> Result:
    """The run that is asked for: loaded if it is in the store, else computed into it, or what is left of it.

    Args:
        asked: the result without any number.
        begin: begins the sweep; not called for a run that is there.
        chunks: how units are cut, by family.
        beside: files to keep beside the data.

    Raises:
        StoreError: the run was begun by a model that gives other numbers, or cannot be read. One that is damaged is made
            anew, with a warning.
    """
    there = loaded(into, asked, beside)
    if there is not None:
        return there
    _say_if_anonymous(asked)
    with (
        begin() as sweep,
        into.store.begin(sweep.skeleton, chunks=chunks, name=into.name, tags=into.tags, beside=beside()) as writing,
    ):
        _require_same_base(writing.id, writing.skeleton, sweep.skeleton)
        with bar(progress, sum(sweep.rows(unit.family, unit.index) for unit in writing.left())) as shown:
            for unit in writing:
                began = time.perf_counter()
                values, facts = sweep.values(unit.family, unit.index, shown.update)
                writing.write(unit, {"value": values}, facts | {"wall_seconds": time.perf_counter() - began})
        run = writing.finish(lambda family, attrs: _attributes(family, attrs, writing.facts(family)))
    _label(into, run)  # it may have been finished by another, who was given others
    return run.load()


def whole(into: Into, asked: Result, make: Callable[[], Result], *, beside: Callable[[], Mapping[str, bytes]]) -> Result:
    """As :func:`keep`, of what is made at one go: loaded if it is in the store, else made and saved.

    Args:
        make: makes the result.
    """
    there = loaded(into, asked, beside)
    if there is not None:
        return there
    _say_if_anonymous(asked, stacklevel=4)
    run = into.store.save(make(), name=into.name, tags=into.tags, beside=beside())
    found: Result = run.load()
    return found


def loaded(into: Into, asked: Result, beside: Callable[[], Mapping[str, bytes]] | None = None) -> Result | None:
    """The run that is asked for, where it is whole in the store; it takes the name and the tags that are given now.

    Args:
        asked: the result without any number.
        beside: files that it gets where it was saved without a recipe.
    """
    there = into.store.like(asked)
    if there is None:
        return None
    try:
        result: Result = there.load()
    except DamagedError:
        return None  # beginning it says so
    _label(into, there)
    if beside is not None and RECIPE not in there.finished()["files"]:
        with suppress(StoreError):  # a store that may only be read gives what it has
            into.store.keep_beside(there.id, beside())
    return result


def _label(into: Into, run: Run) -> None:
    """The name and the tags that are given now, unless the run has them: a store that may only be read gives what it has."""
    name, tags = into.name or run.name, list(dict.fromkeys((*run.tags, *into.tags)))
    if (name, tags) != (run.name, list(run.tags)):
        into.store.label(run.id, name=name, tags=tags)


def _attributes(family: str, attrs: Mapping[str, Any], facts: Iterable[Mapping[str, float]]) -> dict[str, Any]:
    """What a whole result says beside what its skeleton did: what all units took."""
    facts = list(facts)
    sums = {key: attrs.get(key, 0) + sum(one[key] for one in facts) for key in (facts[0] if facts else ())}
    taken = peak_memory(torch.device(str(attrs["device"])))
    return sums | {
        "work_units": len(facts),
        "peak_memory": taken,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cut(sizes: Mapping[str, int], first: str | None, seconds: float) -> dict[str, int]:
    """How long a unit is along examples and along the first axis of a family, so that it takes about :data:`UNIT_SECONDS`.

    Examples are taken apart first, as far as passes stay full.

    Args:
        sizes: of both axes.
        first: the axis along which cells are cut; None of a single cell.
        seconds: what the family takes, estimated.
    """
    count = min(_MOST, max(1, round(seconds / UNIT_SECONDS)))
    parts = min(count, max(1, sizes[axes.EXAMPLE] // _FEWEST))
    found = {axes.EXAMPLE: -(-sizes[axes.EXAMPLE] // parts)}
    return found if first is None else found | {first: -(-sizes[first] // min(sizes[first], -(-count // parts)))}


def _say_if_anonymous(asked: Result, stacklevel: int = 5) -> None:
    if any(ds.attrs["spec"] is None for ds in fx.families(asked).values()):
        warnings.warn(
            "something in this sweep is a function or a class of your own (a metric, an edit, a hook or a forward on the "
            "model), which has no written form: the run is kept under an id by lot, and is neither found again by asking for "
            "it nor resumed",
            UserWarning,
            stacklevel=stacklevel,
        )


def _require_same_base(run: str, begun: Result, own: Result) -> None:
    """Raise unless the baselines are those that the run was begun with: values of one run come from one model."""
    before = fx.families(begun)
    for family, mine in fx.families(own).items():
        theirs = before[family]
        for name in ("clean", "corrupt", "given"):
            if name not in mine:
                continue
            off = float(np.abs(mine[name].values - theirs[name].values).max())
            most = max(ROUNDING, torch.finfo(getattr(torch, str(mine.attrs["dtype"]))).eps ** 0.5)
            if off > most * (1 + float(np.abs(mine[name].values).max())):
                raise StoreError(
                    f"run {run} was begun with other numbers: {name!r} differs by up to {off:.2g} now, which is more than "
                    "rounding; is the model deterministic? Delete the run to begin anew"
                )
