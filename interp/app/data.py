"""What the app reads: the store's table of runs, and results, the last few of which are kept.

>>> Library(Store("runs")).open("8d0f18e6fd71").families()                              # doctest: +SKIP
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import xarray as xr

from interp.errors import StoreError
from interp.store import Run, Store
from interp.store.identity import ID

Result = xr.Dataset | xr.DataTree

COMPLETE, DAMAGED = "complete", "damaged"


@runtime_checkable
class Growing(Protocol):
    """A run that is still being written."""

    @property
    def progress(self) -> tuple[int, int]:
        """Units that are done, and all of them."""

    def load(self, *, partial: bool) -> Result:
        """The result so far, NaN where nothing was computed yet."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A run as far as it can be read now."""

    run: Run
    result: Result | None = None
    done: int = 0
    total: int = 0
    """Units of a run that is being written; 0 where the run is complete or says nothing of units."""
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
        """The datasets of the result by name; ``""`` names the only one of a result that is no tree."""
        if isinstance(self.result, xr.DataTree):
            return {node.path.strip("/"): node.to_dataset() for node in self.result.leaves}
        return {} if self.result is None else {"": self.result}


def partial(run: Any) -> tuple[int, int, Result] | None:
    """Units done, all units and the result so far of a run that is being written; None where it does not tell."""
    if not isinstance(run, Growing):
        return None
    done, total = run.progress
    return done, total, run.load(partial=True)


class Library:
    """Runs of one store by their ids. What a client names is looked up here and never becomes a path.

    Args:
        store: which runs.
        keep: results that stay in memory, the last ones asked for.
        partial: how a half-done run is read.
    """

    def __init__(
        self, store: Store, *, keep: int = 6, partial: Callable[[Run], tuple[int, int, Result] | None] = partial
    ) -> None:
        self.store = store
        self._keep, self._partial = keep, partial
        self._held: OrderedDict[tuple[str, ...], Opened] = OrderedDict()
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
        if run.id != run_id:
            raise StoreError(f"no run {run_id} in this store")
        return run

    def open(self, run_id: str) -> Opened:
        """The run with its result, from memory where it has not changed since; a run that cannot be read says why.

        Raises:
            StoreError: there is no such run.
        """
        run = self.run(run_id)
        if run.status == DAMAGED:
            return Opened(run, problem=run.reason)
        if run.status != COMPLETE:
            return self._unfinished(run)
        key = (run.id, _data(run))
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        try:
            opened = Opened(run, run.load())
        except StoreError as error:
            return Opened(run, problem=str(error))
        with self._lock:
            self._held[key] = opened
            while len(self._held) > self._keep:
                self._held.popitem(last=False)
        return opened

    def _unfinished(self, run: Run) -> Opened:
        try:
            found = self._partial(run)
        except StoreError as error:
            return Opened(run, problem=str(error))
        if found is None:
            return Opened(run, problem=run.reason)
        done, total, result = found
        return Opened(run, result, done, total)


def _data(run: Run) -> str:
    """The name of the data of a run, another one at every save."""
    return str(run.marker["data"]) if run.marker else ""
