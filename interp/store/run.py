"""One run of a store: what its marker says, and its result, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interp.errors import StoreError
from interp.store import arrays, leases, marker, units
from interp.store.files import Files, Local, Stat
from interp.store.marker import DATA, HALF, WHOLE

STATUS = COMPLETE, RUNNING, UNFINISHED, DAMAGED = "complete", "running", "unfinished", "damaged"


@dataclass(frozen=True, slots=True, repr=False)
class Run:
    """One run. A complete one can be loaded; of one half done, what is there so far."""

    id: str
    files: Files = field(compare=False)
    name: str | None = None
    tags: tuple[str, ...] = ()
    status: str = COMPLETE
    """``complete``; ``running``: somebody is at work on it; ``unfinished``: nobody is; ``damaged``."""
    reason: str = ""
    """Why the run is not complete."""
    marker: Mapping[str, Any] | None = field(default=None, compare=False)
    """What ``run.json`` says, or of half a run ``plan.json``."""

    @property
    def size(self) -> int:
        """Bytes of the data and of what is beside it."""
        return sum(f["size"] for f in self.marker["files"].values()) if self.marker else 0

    @property
    def path(self) -> Path:
        """The run's folder.

        Raises:
            StoreError: the store is not on a local folder.
        """
        if not isinstance(self.files, Local):
            raise StoreError(f"the store {self.files.address} is no local folder, so run {self.id} has no path")
        return self.files.root / self.id

    @property
    def progress(self) -> tuple[int, int]:
        """Work units that are done, as it is now, and all of them."""
        if self.marker is None or "units" not in self.marker:
            return (1, 1) if self.status == COMPLETE else (0, 1)
        every = len(units.listed(self.marker["units"]))
        if marker.read(self.files, self.id, WHOLE) is not None:
            return every, every
        return len(units.done(self.files, self.id, self.marker)), every

    def load(self, *, partial: bool = False) -> Any:
        """The result, bit for bit, after every byte was checked: a Dataset, a DataTree of families, or a DataArray.

        Args:
            partial: of half a run, what is there so far: NaN where it is not computed yet. A unit that is damaged is not there.
                :func:`interp.effects.furthest` is the part of it that is known for the most cells: tables and figures of that.

        Raises:
            StoreError: the run is unfinished (unless ``partial``), damaged (run and file are named) or of another format.
        """
        return load(self.files, self.id, partial=partial)

    def beside(self) -> dict[str, bytes]:
        """The files that were saved beside the data, by name, checked: the recipe, prompts, what was trained.

        Raises:
            StoreError: one is missing or damaged.
        """
        if self.marker is None:
            raise StoreError(f"run {self.id} is {self.status}: {self.reason}")
        names = [name for name in self.marker["files"] if name != DATA]
        return marker.content(self.files, self.id, self.marker, *names) if names else {}

    def content(self) -> dict[str, bytes]:
        """Every file of a complete run by its path in the store, checked. Written to a folder they are a store of this one run.

        Raises:
            StoreError: the run is not complete, or a file is missing or damaged.
        """
        own = self.finished()
        files = marker.content(self.files, self.id, own)
        data = {f"{self.id}/{own['data']}/{name}": content for name, content in files.items()}
        return {**data, f"{self.id}/{WHOLE}": marker.written(own)}

    def finished(self) -> Mapping[str, Any]:
        """What ``run.json`` says of a complete run.

        Raises:
            StoreError: the run is not complete.
        """
        if self.status != COMPLETE or self.marker is None:
            then = {RUNNING: "; wait until it is done", UNFINISHED: "; ask for it again to finish it"}.get(self.status, "")
            raise StoreError(f"run {self.id} is {self.status}: {self.reason}{then}")
        return self.marker

    def check(self) -> Run:
        """The same run, damaged where a checksum does not hold."""
        if self.marker is None or self.status == DAMAGED:
            return self
        try:
            marker.content(self.files, self.id, self.marker)
        except StoreError as error:
            return Run(self.id, self.files, self.name, self.tags, DAMAGED, str(error), self.marker)
        return self

    def __repr__(self) -> str:
        words = [self.id, *([repr(self.name)] if self.name else []), *([self.status] if self.status != COMPLETE else [])]
        return f"Run({', '.join(words)})"


def require_run(given: Any) -> Run:
    """What was given as a run, if it is one."""
    if not isinstance(given, Run):
        raise StoreError(
            f"run is of type {type(given).__name__}; expected a run of a store, such as interp.Store('runs').run('name')"
        )
    return given


def inspect(files: Files, run: str, stat: Callable[[str], Stat | None] | None = None) -> Run:
    """A run from its folder, without reading its data; never raises for what is in the folder.

    Args:
        stat: as :meth:`Files.survey` gives it, where many runs are looked at.
    """
    found: Mapping[str, Any] | None = None
    try:
        finished = whole(files, run, stat)
        if finished is not None:
            return finished
        found = marker.read(files, run, HALF)
        if found is not None:
            return _half(files, run, found, marker.wrong(found, run, files.stat))
    except StoreError as error:
        return Run(run, files, status=DAMAGED, reason=str(error), marker=found)
    return Run(run, files, status=UNFINISHED, reason=f"no {WHOLE}: its writer was stopped, or is still at work")


def whole(files: Files, run: str, stat: Callable[[str], Stat | None] | None = None) -> Run | None:
    """A run that has been finished, complete or damaged since; None where it has not.

    Raises:
        StoreError: its marker cannot be read.
    """
    found = marker.read(files, run, WHOLE)
    if found is None:
        return None
    reason = marker.wrong(found, run, stat or files.stat)
    if reason and (marker.read(files, run, WHOLE) or found)["data"] != found["data"]:
        return whole(files, run)  # replaced while it was looked at
    return Run(run, files, found["name"], tuple(found["tags"]), DAMAGED if reason else COMPLETE, reason, found)


def _half(files: Files, run: str, plan: Mapping[str, Any], wrong: str) -> Run:
    if wrong and (whole := marker.read(files, run, WHOLE)) is not None:
        return Run(run, files, whole["name"], tuple(whole["tags"]), marker=whole)  # finished while it was looked at
    if wrong:
        return Run(run, files, plan["name"], tuple(plan["tags"]), DAMAGED, wrong, plan)
    status = RUNNING if leases.alive(files, units.leased(run, plan)) else UNFINISHED
    done = f"{len(units.done(files, run, plan))} of {len(units.listed(plan['units']))} units are done"
    return Run(run, files, plan["name"], tuple(plan["tags"]), status, done, plan)


def load(files: Files, run: str, *, partial: bool = False) -> Any:
    """Read a run. One that was replaced or finished while it was read is read again."""
    while True:
        found, which = marker.read(files, run, WHOLE), WHOLE
        if found is None and partial:
            found, which = marker.read(files, run, HALF), HALF
        if found is None:
            half = marker.read(files, run, HALF) is not None
            how = (
                "ask for it again to finish it, or load(partial=True) what is there" if half else "save it again, or delete it"
            )
            raise StoreError(f"run {run} is unfinished: it has no {WHOLE}; {how}")
        try:
            content = arrays.unpack(marker.content(files, run, found, DATA)[DATA])
            if which == HALF:
                content |= units.chunks(files, run, found)
        except StoreError:
            newer = marker.read(files, run, WHOLE)
            if newer is not None and newer["data"] != found["data"]:
                continue
            raise
        try:
            result: Any = arrays.decode(content, found["kind"] == "tree", found["variables"])
            return arrays.unwrapped(result, found["array"]) if "array" in found else result
        except Exception as error:  # whatever zarr or xarray cannot read, the run's name belongs in the message
            raise StoreError(f"run {run} cannot be decoded: {type(error).__name__}: {error}") from error
