"""What the app reads: the store's table of runs, and results, the last few of which are kept.

>>> Library(Store("runs")).open("8d0f18e6fd71").families()                              # doctest: +SKIP
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Any

import pandas as pd
import xarray as xr

from interp import axes as names
from interp import effects as fx
from interp.errors import StoreError
from interp.store import Run, Store, marker
from interp.store.identity import ID
from interp.store.run import COMPLETE, DAMAGED

Result = xr.Dataset | xr.DataTree | xr.DataArray
RECIPE = "recipe.json"


@dataclass(frozen=True, slots=True)
class Opened:
    """A run as far as it can be read now."""

    run: Run
    result: Result | None = None
    """Of a run that is half done what is there so far, NaN elsewhere."""
    done: int = 0
    total: int = 0
    """Units of a run that is half done; 0 of any other."""
    problem: str = ""
    """Why there is no result."""

    @property
    def grows(self) -> bool:
        """Whether there may be more to read later."""
        return self.run.status not in (COMPLETE, DAMAGED)

    @property
    def stamp(self) -> str:
        """Another one whenever there is something new to see."""
        return f"{self.run.id} {self.run.status} {_data(self.run)} {self.done}/{self.total} {self.problem}"

    def families(self) -> dict[str, xr.Dataset]:
        """The datasets of the result by name; ``""`` names the only one of a result that is no tree.

        Of half a run only the examples that are furthest: a cell's mean over some of them is no mean over all.
        """
        return {name: fx.furthest(ds) for name, ds in self._sets().items()} if self.grows else self._sets()

    def examples(self) -> tuple[int, int]:
        """Examples that are shown, and all of them, of the family that has most."""
        shown, every = (
            max((ds.sizes.get(names.EXAMPLE, 0) for ds in sets.values()), default=0) for sets in (self.families(), self._sets())
        )
        return shown, every

    def _sets(self) -> dict[str, xr.Dataset]:
        return {} if self.result is None else fx.families(self.result)


def numbers(ds: xr.Dataset) -> list[int]:
    """The numbers of the examples that are there."""
    if names.EXAMPLE in ds.coords:
        return [int(number) for number in ds[names.EXAMPLE].values]
    return list(range(ds.sizes.get(names.EXAMPLE, 1)))


class Library:
    """Runs of one store by their ids. What a client names is looked up here and never becomes a path.

    Args:
        store: which runs.
        keep: results that stay in memory, the last ones asked for.
    """

    def __init__(self, store: Store, *, keep: int = 6) -> None:
        self.store = store
        self._keep = keep
        self._held: OrderedDict[tuple[str, str, int], Result] = OrderedDict()
        self._lock = Lock()

    def table(self) -> pd.DataFrame:
        """All runs, as the store lists them."""
        return self.store.runs()

    def __contains__(self, run_id: object) -> bool:
        try:
            self.run(str(run_id))
        except StoreError:
            return False
        return True

    def run(self, run_id: str) -> Run:
        """The run with exactly this id.

        Raises:
            StoreError: there is none, or what is asked for is no id.
        """
        if not ID.match(run_id):
            raise StoreError(f"{run_id[:60]!r} is no id of a run; ids have 12 hexadecimal digits")
        run = self.store.run(run_id)
        if run.id != run_id:  # a run's name may look like an id
            raise StoreError(f"no run {run_id} in this store")
        return run

    def open(self, run_id: str) -> Opened:
        """The run with its result, from memory where it has not changed since; a run that cannot be read says why.

        Raises:
            StoreError: there is no such run.
        """
        run = self.run(run_id)
        if run.status == DAMAGED or run.marker is None:
            return Opened(run, problem=run.reason)
        # counted before it is read, so that what is read is never less than what is said
        done, total = run.progress if run.status != COMPLETE else (0, 0)
        try:
            return Opened(run, self._result(run, done), done, total)
        except StoreError as error:
            return Opened(run, None, done, total, str(error))

    def recipe(self, run_id: str) -> Any:
        """What the run's recipe says, as JSON; None where it has none.

        Raises:
            StoreError: it is damaged.
        """
        run = self.run(run_id)
        if run.marker is None or RECIPE not in run.marker["files"]:
            return None
        content = marker.content(run.files, run.id, run.marker, RECIPE)[RECIPE]
        try:
            return json.loads(content)
        except ValueError as error:
            raise StoreError(f"{RECIPE} of run {run_id} is no JSON: {error}") from error

    def _result(self, run: Run, done: int) -> Result:
        key = (run.id, _data(run), done)
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        result = run.load(partial=run.status != COMPLETE)
        with self._lock:
            self._held[key] = result
            while len(self._held) > self._keep:
                self._held.popitem(last=False)
        return result


def _data(run: Run) -> str:
    """The name of the data of a run, another one at every save."""
    return str(run.marker["data"]) if run.marker else ""
