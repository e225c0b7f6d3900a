"""Runs on disk: written unit by unit or at once, found again, and loaded only after every byte was checked.

    >>> store = Store("runs")
    >>> run = store.save(effects, name="ioi-resid", tags=["demo"])      # doctest: +SKIP
    >>> store.runs(model="gpt2", since="2026-01-01")                    # doctest: +SKIP
    >>> store.load("ioi-resid")                                         # doctest: +SKIP
    >>> store.export("ioi-resid", "resid.csv")                          # doctest: +SKIP

A store is a folder, or an address that fsspec knows; every run is a folder in it, named by its id::

    runs/
      8d0f18e6fd71/
        run.json               the marker, written last: spec, name, tags, sha256 of every file of the data, and of itself
        5f1c09ab/
          data.zarr.zip        a zarr (format 3) group: xarray.open_zarr(zarr.storage.ZipStore(path)) opens it
          recipe.json          what is beside the data: how to make it again, what was trained, as safetensors
      1b7e09c2a4d8/            half a run
        plan.json              like a marker, and how the run is cut into units
        c0ffee12/              what is known at the start
        c0ffee12.units/        a file for every unit that is done
        c0ffee12.leases/       who is at work on which unit

One file put in place makes a run, its next version, or a unit visible. A writer that is killed leaves the version before
untouched, and every unit that it finished. Nothing is pickled, and nothing outside the store is read: links are refused, names
with ``/`` or ``..`` too.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from interp import effects as fx
from interp.errors import StoreError, UnknownNameError, nearest
from interp.store import arrays, heading, listing, marker, units
from interp.store.arrays import Result
from interp.store.export import export
from interp.store.files import at
from interp.store.identity import ID, check_name, check_tags, run_id, sha256
from interp.store.joining import joined
from interp.store.leases import EXPIRY
from interp.store.marker import DATA, HALF, WHOLE
from interp.store.run import COMPLETE, DAMAGED, STATUS, UNFINISHED, Run, inspect
from interp.store.writing import Writing

_INSTEAD = ("data", "files", "units", "format")


class Store:
    """A place for runs; made on the first save.

    Args:
        place: a local folder, or an address such as ``"s3://bucket/runs"`` (fsspec's package for it must be installed).

    Raises:
        StoreError: ``place`` is a file, or an address of an unknown kind.
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        self.files = at(place)

    @property
    def address(self) -> str:
        """Where the store is."""
        return self.files.address

    # writing

    def save(
        self,
        result: Result | xr.DataArray,
        *,
        name: str | None = None,
        tags: Iterable[str] = (),
        beside: Mapping[str, bytes] | None = None,
    ) -> Run:
        """Write a dataset, an array or a tree of datasets, whole or not at all.

        The id is the digest of ``attrs["spec"]`` and ``attrs["engine_semantics"]`` (a tree without a spec of its own is the
        specs of its families). Saving an id again puts the new numbers in place of the old in one step; the old name and what
        was beside them stay unless others are given, and tags add up. A result without a spec is known by the digest of its
        content, and so is what was derived from one with it: an effect, a part of a result, half a run.

        Args:
            result: with attributes that JSON holds.
            name: to find it by.
            tags: likewise.
            beside: small files to keep with it, by name: prompts, what was trained.

        Raises:
            StoreError: attrs that JSON cannot hold, a spec without the engine's semantics, a variable that zarr cannot hold, a
                refused name; a run that is there and is of another format, or renamed.
        """
        heading.require_result(result)
        array = {"array": None if result.name is None else str(result.name)} if isinstance(result, xr.DataArray) else {}
        ds = arrays.wrapped(result) if isinstance(result, xr.DataArray) else result
        data = heading.packed(ds)
        spec, semantics = heading.spec_of(ds)
        answers = not any(map(fx.derived, fx.families(ds).values()))
        head = heading.head(self.files, ds, (spec if answers else None, semantics), name, tags, sha256(data)[:12]) | array
        heading.require_readable(self.files, head["id"])
        return self._save(ds, head, {**self._beside(head["id"]), **heading.files_of(beside), DATA: data})

    def begin(
        self,
        skeleton: Result,
        *,
        fills: tuple[str, ...] = ("value",),
        chunks: Mapping[str, int] | Mapping[str, Mapping[str, int]],
        name: str | None = None,
        tags: Iterable[str] = (),
        beside: Mapping[str, bytes] | None = None,
        expiry: float = EXPIRY,
    ) -> Writing:
        """Begin a run that is written unit by unit, or join one that was begun.

        One that is damaged is made anew, with a warning that names what is kept of it beside the new one.

        Args:
            skeleton: the result with NaN in what is not known yet.
            fills: the variables that units fill, floating-point numbers.
            chunks: how long a unit is along each axis that is cut; of a tree, that by the path of each family. A run that was
                begun keeps the units that it was begun with.
            name: as in :meth:`save`.
            tags: likewise.
            beside: likewise.
            expiry: seconds after which a writer that gives no sign of life is taken for dead.

        Raises:
            StoreError: as :meth:`save`; units that do not fit; a run that is there and cannot be read, though it may be
                good: of another format, renamed, or behind a link.
        """
        head = heading.head(self.files, skeleton, heading.spec_of(skeleton), name, tags, secrets.token_hex(6))
        run = head["id"]
        if isinstance(skeleton, xr.DataTree) or all(isinstance(some, Mapping) for some in chunks.values()):
            cut: Any = chunks
        else:
            cut = {"/": chunks}
        planned = units.planned(skeleton, fills, cut)
        of_units = {family: dict.fromkeys(fills, lengths) for family, lengths in cut.items()}
        content = heading.checked({**heading.files_of(beside), DATA: heading.packed(skeleton, of_units)})
        plan, content = joined(self.files, {**head, "units": planned}, content)

        def save(result: Result, found: Mapping[str, bytes]) -> Run:
            own = {key: value for key, value in plan.items() if key not in _INSTEAD}
            named = {"name": head["name"], "tags": head["tags"]}  # what is given now counts, and what was given then
            return self._save(result, own | named, {**found, DATA: heading.packed(result)})

        return Writing(self.files, plan, content, save, partial(self._forget, run, plan), expiry)

    def label(self, ref: str, *, name: str | None = None, tags: Iterable[str] | None = None) -> Run:
        """Give a complete run another name, or other tags.

        Args:
            ref: its id, the beginning of one, or its name.
            name: the new one; by default as it was.
            tags: in place of those that it has; by default as they were.

        Raises:
            StoreError: no such run, or one that is not complete; a refused name.
        """
        run = self.run(ref)
        found = dict(run.finished())
        found["name"] = found["name"] if name is None else check_name(name)
        found["tags"] = found["tags"] if tags is None else check_tags(tags)
        marker.put(self.files, run.id, WHOLE, found)
        return inspect(self.files, run.id)

    def keep_beside(self, ref: str, files: Mapping[str, bytes]) -> Run:
        """Keep more small files beside a complete run, in place of those of the same names.

        Args:
            ref: its id, the beginning of one, or its name.
            files: by name, as ``beside`` of :meth:`save`.

        Raises:
            StoreError: no such run, or one that is not complete or damaged; a refused name.
        """
        run = self.run(ref)
        own = run.finished()
        content = heading.checked({**marker.content(self.files, run.id, own), **heading.files_of(files)})
        marker.write(self.files, run.id, WHOLE, {key: one for key, one in own.items() if key not in _INSTEAD}, content)
        self.files.remove(f"{run.id}/{own['data']}")
        return inspect(self.files, run.id)

    def delete(self, ref: str) -> None:
        """Remove a run; its marker goes first, so that half a deletion reads as unfinished."""
        run = self.run(ref).id
        for path in (f"{run}/{WHOLE}", f"{run}/{HALF}", run):
            self.files.remove(path)
        if run in self.files.names(""):
            raise StoreError(f"run {run} could not be removed: {', '.join(self.files.names(run)) or 'it is in use'} is left")

    def tidy(self) -> list[str]:
        """Remove what killed writers left beside whole and half runs, and what was set aside there as damaged.

        Returns the paths. Call it while nobody writes: what a writer has just begun looks like what a killed one left.
        """
        removed = []
        for run in self:
            if run.status not in (COMPLETE, UNFINISHED) or run.marker is None:
                continue
            data = run.marker["data"]
            known = {WHOLE, data} if run.status == COMPLETE else {HALF, data, f"{data}.units", f"{data}.leases"}
            removed += [f"{run.id}/{name}" for name in self.files.names(run.id) if name not in known]
        for path in removed:
            self.files.remove(path)
        return removed

    # finding

    def runs(
        self,
        *,
        name: str | None = None,
        model: str | None = None,
        task: str | None = None,
        method: str | None = None,
        site: str | None = None,
        patching: str | None = None,
        status: str | None = None,
        tags: Iterable[str] | str = (),
        since: Any = None,
        until: Any = None,
    ) -> pd.DataFrame:
        """A table of runs, newest first, those without a date last.

        Words may have ``*`` for anything: ``model="*SmolLM2*"``. Sizes of files are compared here, checksums on load and by
        :meth:`check`.

        Args:
            name: of the run.
            model: likewise.
            task: likewise.
            method: what made it: ``"patch"``, ``"ablate"``, ``"patch_edges"`` …
            site: of a grid.
            patching: denoising or noising.
            status: complete, running, unfinished or damaged.
            tags: all of which a run has.
            since: made at this date or later.
            until: made before it.

        Raises:
            UnknownNameError: no such status.
            StoreError: what is no text, no tag or no date.
        """
        if isinstance(status, str) and "*" not in status and status not in STATUS:
            raise UnknownNameError("status", status, STATUS, "of a run")
        words = {"name": name, "model": model, "task": task, "method": method, "site": site, "patching": patching}
        return listing.table(self.files, since, until, tags, **words, status=status)

    def __iter__(self) -> Iterator[Run]:
        """Every run, complete or not; folders whose name is no id are not the store's."""
        return iter([inspect(self.files, run) for run in self.files.names("") if ID.match(run)])

    def __contains__(self, ref: object) -> bool:
        return any(ref in (row["id"], row["name"]) for row in listing.rows(self.files))

    def run(self, ref: str) -> Run:
        """The run with this id, this name, or an id that begins so.

        Raises:
            StoreError: none, or several; near matches and ids are listed.
        """
        if isinstance(ref, str) and ID.match(ref) and ref in self.files.names(""):
            return inspect(self.files, ref)
        if not isinstance(ref, str):
            raise StoreError(f"run is {ref!r} of type {type(ref).__name__}; expected its id, the beginning of one, or its name")
        check_name(ref, "run")
        rows = listing.rows(self.files)
        found = [row for row in rows if row["name"] == ref] or [row for row in rows if row["id"].startswith(ref)]
        if len(found) == 1:
            return inspect(self.files, found[0]["id"])
        if found:
            each = ", ".join(f"{row['id']} ({_in_words(row)})" for row in found)
            raise StoreError(f"run {ref!r} could be any of {each}; give more of the id, or give one another name: store.label")
        near = nearest(ref, [n for row in rows for n in (row["id"], row["name"]) if n])
        hint = "store.runs() lists them, and so does interp ls" if rows else "is it another store?"
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else hint
        raise StoreError(f"no run {ref!r} among the {len(rows)} of {self.address}; {hint}")

    def find(self, spec: Any, engine_semantics: int) -> Run | None:
        """The complete run that answers this spec, if there is one.

        Args:
            spec: as in ``result.attrs["spec"]``.
            engine_semantics: as in ``result.attrs["engine_semantics"]``.

        Raises:
            StoreError: a spec that is no JSON.
        """
        try:
            run = inspect(self.files, run_id(spec, engine_semantics))
        except (TypeError, ValueError) as error:
            raise StoreError(
                f"spec is of type {type(spec).__name__}, which is no JSON ({error}); expected attrs['spec']"
            ) from error
        return run if run.status == COMPLETE else None

    def like(self, result: Result | xr.DataArray) -> Run | None:
        """The complete run that was asked for in the same words as a result, whose numbers do not matter."""
        heading.require_result(result)
        spec, semantics = heading.spec_of(result)
        return None if spec is None else self.find(spec, semantics)

    def load(self, ref: str, *, partial: bool = False) -> Any:
        """The result of a run, bit for bit, by id, unique beginning of an id, or name; see :meth:`Run.load`.

        Raises:
            StoreError: no such run, or one that is unfinished, damaged (the run and the file are named) or of another format.
        """
        return self.run(ref).load(partial=partial)

    def export(self, ref: str, path: str | os.PathLike[str], *, partial: bool = False) -> list[Path]:
        """Write the result of a run as netCDF (.nc), CSV or Parquet; see :mod:`interp.store.export`.

        Raises:
            StoreError: as :meth:`load`, or the format cannot hold the result, or needs what is not installed.
            UnknownNameError: another ending.
        """
        return export(self.load(ref, partial=partial), path)

    def check(self, ref: str) -> Run:
        """The run as :meth:`run` gives it, damaged where a checksum does not hold."""
        return self.run(ref).check()

    def __repr__(self) -> str:
        return f"Store({self.address!r})"

    # pieces

    def _save(self, result: Result, head: Mapping[str, Any], content: Mapping[str, Any]) -> Run:
        run, content = str(head["id"]), heading.checked(content)
        old = inspect(self.files, run).marker
        now = {"saved_at": datetime.now(UTC).isoformat(timespec="seconds"), "summary": listing.summary(result)}
        marker.write(self.files, run, WHOLE, {**head, **now}, content)
        if old is not None and "units" not in old:
            self.files.remove(f"{run}/{old['data']}")  # no marker names it any more
        return inspect(self.files, run)

    def _beside(self, run: str) -> Mapping[str, bytes]:
        """What is beside a run that is replaced, as far as it is whole."""
        found = inspect(self.files, run)
        return {} if found.marker is None or found.check().status == DAMAGED else found.beside()

    def _forget(self, run: str, plan: Mapping[str, Any]) -> None:
        """Remove what a run was written by, now that it is whole."""
        for path in (f"{run}/{HALF}", units.folder(run, plan), units.leased(run, plan), f"{run}/{plan['data']}"):
            self.files.remove(path)


def _in_words(row: Mapping[str, Any]) -> str:
    """What tells runs of one name apart."""
    told = (row["method"], row["site"], str(row["made_at"] or "")[:16].replace("T", " "))
    return ", ".join(filter(None, (*told, row["status"] if row["status"] != COMPLETE else "")))
