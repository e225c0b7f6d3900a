"""A run that is written unit by unit, by as many processes as like to.

    >>> with store.begin(skeleton, fills=("value",), chunks={"example": 16}) as writing:         # doctest: +SKIP
    ...     for unit in writing:
    ...         writing.write(unit, {"value": compute(unit.index)})
    ...     run = writing.finish()

What was done before is not done again, whoever did it; what another process is at is waited for, and done here if that process
dies. A killed writer loses the unit that it was at, and nothing else.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

import numpy as np
import xarray as xr

from interp import effects as fx
from interp.errors import StoreError
from interp.store import arrays, units
from interp.store.arrays import Filler, Result
from interp.store.files import Files
from interp.store.leases import EXPIRY, Leases
from interp.store.marker import DATA
from interp.store.run import COMPLETE, Run, inspect, whole
from interp.store.units import Unit

_LONGEST = 1.0
"""Seconds between two looks at what others are at."""
_FINISH = "finish"

Save = Callable[[Result, Mapping[str, bytes]], Run]


class Writing:
    """Half a run, held open by one writer. Made by ``Store.begin``."""

    def __init__(
        self,
        files: Files,
        plan: Mapping[str, Any],
        content: Mapping[str, bytes],
        save: Save,
        forget: Callable[[], None],
        expiry: float = EXPIRY,
    ) -> None:
        self.files, self.plan, self.id, self._content = files, plan, str(plan["id"]), content
        self._save, self._forget = save, forget
        self._leases = Leases(files, units.leased(self.id, plan), expiry)
        self._units = units.listed(plan["units"])
        static = arrays.unpack(content[DATA])
        self.skeleton = arrays.decode(static, plan["kind"] == "tree", plan["variables"])
        """The result as it was begun: whole but for what units fill."""
        self._filler = Filler(static)
        self._mine: dict[str, tuple[dict[str, bytes], Any]] = {}

    def __enter__(self) -> Writing:
        self._leases.__enter__()
        self._leases.claim(f"writer.{secrets.token_hex(4)}")  # while it is held the run is at work, also between two units
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leases.__exit__(kind, error, trace)

    @property
    def progress(self) -> tuple[int, int]:
        """Units that are done, by whomever, and all of them."""
        return len(units.done(self.files, self.id, self.plan)), len(self._units)

    def __iter__(self) -> Iterator[Unit]:
        """Units to do, one after the other, each claimed; ends when all are done and whole."""
        wait = 0.01
        while not self._finished():
            left = self.left()
            if not left and self._whole():
                return
            worked = False
            for unit in left:
                if not self._leases.claim(unit.name):
                    continue
                if self.files.stat(f"{units.folder(self.id, self.plan)}/{unit.name}") is not None:  # done since we looked
                    self._leases.release(unit.name)
                    continue
                worked = True
                yield unit
                if unit.name not in self._mine:
                    raise StoreError(f"unit {unit.name} was taken but not written; write it before the next is taken")
            wait = 0.01 if worked else min(2 * wait, _LONGEST)
            if not worked and left:
                time.sleep(wait)

    def write(self, unit: Unit, values: Mapping[str, np.ndarray[Any, Any]], facts: Any = None) -> None:
        """Put a unit in place.

        Args:
            unit: one that was claimed by iterating.
            values: an array for each variable that units fill, of the unit's shape.
            facts: about how it was made, JSON; see :meth:`facts`.

        Raises:
            StoreError: values of another shape, dtype or variable.
        """
        ds = units.groups(self.skeleton)[unit.family]
        wanted = self.plan["units"][unit.family]["variables"]
        if sorted(values) != sorted(wanted):
            raise StoreError(f"a unit fills {', '.join(wanted)}; got {', '.join(values)}")
        for name, array in values.items():
            units.fits(array, ds, name, unit)
        chunks = self._filler.fill(unit.family, unit.index, values)
        units.write(self.files, self.id, self.plan, unit, chunks, facts)
        self._mine[unit.name] = chunks, facts
        self._leases.release(unit.name)

    def left(self) -> list[Unit]:
        """Units that nobody has done yet."""
        done = units.done(self.files, self.id, self.plan)
        return [] if self._finished() else [unit for unit in self._units if unit.name not in done]

    def facts(self, family: str = "/") -> list[Any]:
        """What every unit's writer said of it, in the order of a family's units."""
        return [self._read(unit.name)[1] for unit in self._units if unit.family == family]

    def finish(self, attrs: Callable[[str, Mapping[str, Any]], Mapping[str, Any]] | None = None) -> Run:
        """Make the run whole, unless somebody else does.

        Args:
            attrs: from a family's path and its attributes to those that the whole result has; called after all units are done.
        """
        wait = 0.01
        while not self._finished():
            if self._leases.claim(_FINISH):
                try:
                    self._finish(attrs)
                except StoreError:
                    if not self._finished():  # by another one, who took this lease over
                        raise
                finally:
                    self._leases.release(_FINISH)
            else:
                time.sleep(wait := min(2 * wait, _LONGEST))
        self._forget()
        return inspect(self.files, self.id)

    def _finish(self, attrs: Callable[[str, Mapping[str, Any]], Mapping[str, Any]] | None) -> None:
        if self._finished():
            return
        content = arrays.unpack(self._content[DATA])
        for unit in self._units:
            content |= self._read(unit.name)[0]
        result = _with_attrs(arrays.decode(content, self.plan["kind"] == "tree", self.plan["variables"]), _stamp)
        if attrs is not None:
            result = _with_attrs(result, lambda family, ds: attrs(family, ds.attrs))
        self._save(result, {name: data for name, data in self._content.items() if name != DATA})

    def _finished(self) -> bool:
        """Whether the run is whole by now."""
        found = whole(self.files, self.id)
        return found is not None and found.status == COMPLETE

    def _whole(self) -> bool:
        """Whether every unit can be read; those that cannot are given up, to be done again."""
        bad = [unit.name for unit in self._units if unit.name not in self._mine and not self._known(unit.name)]
        for name in bad:
            self.files.remove(f"{units.folder(self.id, self.plan)}/{name}")
        return not bad

    def _known(self, name: str) -> bool:
        found = units.read(self.files, self.id, self.plan, name)
        if found is not None:
            self._mine[name] = found
        return found is not None

    def _read(self, name: str) -> tuple[dict[str, bytes], Any]:
        if name not in self._mine and not self._known(name):
            raise StoreError(f"run {self.id}: unit {name} is not done, or is damaged; ask for the run again")
        return self._mine[name]


def _with_attrs(result: Result, attrs: Callable[[str, xr.Dataset], Mapping[str, Any]]) -> Result:
    if isinstance(result, xr.Dataset):
        return result.assign_attrs(attrs("/", result))
    for node in result.leaves:
        node.attrs = {**node.attrs, **attrs(node.path, node.to_dataset())}
    return result


def _stamp(family: str, ds: xr.Dataset) -> Mapping[str, Any]:
    """The digest of the numbers that are there now, where there was one of those at the beginning."""
    return fx.stamped(ds).attrs if fx.STAMP in ds.attrs else {}
