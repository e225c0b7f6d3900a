"""Runs on disk: saved whole or not at all, listed, and loaded only after every byte was checked.

    >>> store = Store("runs")
    >>> run = store.save(effects, name="ioi-resid", tags=["demo"])      # doctest: +SKIP
    >>> store.runs()                                                    # doctest: +SKIP
    >>> store.load("ioi-resid")                                         # doctest: +SKIP

A store is a folder; every run is a folder in it, named by its id::

    runs/
      8d0f18e6fd71/
        run.json          the marker, written last: format, spec, name, tags, sha256 of every file of the data, and of itself
        5f1c09ab.zarr/    the data, a zarr (format 3) group that any zarr reader opens

The marker names its data folder, and one ``os.replace`` of the marker makes a run, or its next version, visible. A writer that
is killed leaves either no marker (the run is listed as unfinished) or the previous version untouched. Nothing is pickled, and
nothing outside the store is read: links are refused, names with ``/`` or ``..`` too.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from interp.errors import StoreError, nearest
from interp.store import arrays
from interp.store.arrays import Result
from interp.store.folder import COMPLETE, DAMAGED, FORMAT, MARKER, Run, inspect, read_data, write_data, write_marker
from interp.store.identity import ID, canonical, check_name, run_id, sha256

COLUMNS = ("id", "name", "model", "task", "site", "patching", "metrics", "made_at", "size", "tags", "status", "reason")

_SUMMARY = ("model", "task", "site", "patching", "made_at")


class Store:
    """A folder of runs; made on the first save.

    Args:
        path: a local folder.

    Raises:
        StoreError: ``path`` is a file or an address.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if "://" in os.fspath(path):
            raise StoreError(f"a store is a local folder, got the address {os.fspath(path)!r}")
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise StoreError(f"a store is a folder, but {os.fspath(path)!r} is a file")

    def save(self, result: Result, *, name: str | None = None, tags: Iterable[str] = ()) -> Run:
        """Write a dataset or a tree of them, whole or not at all.

        The id is the digest of ``attrs["spec"]`` and ``attrs["engine_semantics"]`` (a tree without a spec of its own is the
        specs of its families). Saving an id again puts the new numbers in place of the old in one step; the old name stays
        unless a new one is given, and tags add up. A result whose spec is None is anonymous: it gets an id by lot.

        Raises:
            StoreError: attrs that JSON cannot hold or without a spec, a variable that zarr cannot hold, a refused name.
        """
        tags = tuple(check_name(tag, "tag") for tag in ([tags] if isinstance(tags, str) else tags))
        if name is not None:
            check_name(name)
        spec, semantics = _asked(result)
        identity = run_id(spec, semantics) if spec is not None else secrets.token_hex(6)
        folder = self.path / identity
        old = inspect(folder) if folder.exists() else None
        if old is not None and old.marker is not None:
            if canonical(old.marker["spec"]) != canonical(spec):
                raise StoreError(f"run {identity} exists with another spec: {canonical(old.marker['spec'])[:200]}")
            name, tags = name or old.name, tuple(dict.fromkeys((*old.tags, *tags)))
        try:
            files = arrays.encode(result)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise StoreError(f"the result cannot be written as zarr: {error}") from error
        data = f"{secrets.token_hex(4)}.zarr"
        write_data(folder, data, files)
        marker = {
            "format": FORMAT,
            "id": identity,
            "kind": "tree" if isinstance(result, xr.DataTree) else "dataset",
            "name": name,
            "tags": list(tags),
            "spec": spec,
            "engine_semantics": semantics,
            "saved_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "summary": _summary(result),
            "variables": arrays.order(result),
            "data": data,
            "files": {path: {"size": len(content), "sha256": sha256(content)} for path, content in sorted(files.items())},
        }
        write_marker(folder, marker)
        if old is not None and old.marker is not None:
            shutil.rmtree(folder / old.marker["data"], ignore_errors=True)  # no marker names it any more
        return inspect(folder)

    def runs(self) -> pd.DataFrame:
        """A table of all runs, newest first, unfinished and damaged ones last, with the reason.

        Sizes of files are compared here, checksums on load and by :meth:`check`.
        """
        rows = []
        for run in self:
            summary = run.marker["summary"] if run.marker else {}
            row = {c: summary.get(c) for c in (*_SUMMARY, "metrics")}
            row |= {c: getattr(run, c) for c in ("id", "name", "size", "tags", "status", "reason")}
            rows.append({c: "" if v is None and c != "made_at" else v for c, v in row.items()})
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        table["made_at"] = pd.to_datetime(table["made_at"], utc=True, errors="coerce", format="ISO8601")
        return table.sort_values("made_at", ascending=False, kind="stable", ignore_index=True)

    def __iter__(self) -> Iterator[Run]:
        """Every run, complete or not; folders whose name is no id are not the store's."""
        folders = sorted(p for p in self.path.iterdir() if ID.match(p.name)) if self.path.is_dir() else []
        return iter([inspect(folder) for folder in folders])

    def __contains__(self, ref: object) -> bool:
        return any(ref in (run.id, run.name) for run in self)

    def run(self, ref: str) -> Run:
        """The run with this id, this name, or an id that begins so.

        Raises:
            StoreError: none, or several; near matches and ids are listed.
        """
        if isinstance(ref, str) and ID.match(ref) and (self.path / ref).exists():
            return inspect(self.path / ref)
        check_name(ref, "run")
        runs = list(self)
        found = [r for r in runs if r.name == ref] or [r for r in runs if r.id.startswith(ref)]
        if len(found) == 1:
            return found[0]
        if found:
            raise StoreError(f"run {ref!r} could be any of {', '.join(r.id for r in found)}; give more of the id")
        near = nearest(ref, [n for r in runs for n in (r.id, r.name) if n])
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise StoreError(f"no run {ref!r} among the {len(runs)} of this store{hint}")

    def find(self, spec: Any, engine_semantics: int) -> Run | None:
        """The complete run that answers this spec, if there is one."""
        folder = self.path / run_id(spec, engine_semantics)
        run = inspect(folder) if folder.exists() else None
        return run if run is not None and run.status == COMPLETE else None

    def load(self, ref: str) -> Result:
        """The result of a run, bit for bit, by id, unique beginning of an id, or name.

        Raises:
            StoreError: no such run, or one that is unfinished, damaged (the run and the file are named) or of another format.
        """
        return self.run(ref).load()

    def check(self, ref: str) -> Run:
        """The run as :meth:`run` gives it, damaged where a checksum does not hold."""
        run = self.run(ref)
        if run.status != COMPLETE or run.marker is None:
            return run
        try:
            read_data(run.path, run.marker)
        except StoreError as error:
            return Run(run.id, run.path, run.name, run.tags, DAMAGED, str(error), run.marker)
        return run

    def delete(self, ref: str) -> None:
        """Remove a run; its marker goes first, so that half a deletion reads as unfinished."""
        path = self.run(ref).path
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return
        (path / MARKER).unlink(missing_ok=True)
        shutil.rmtree(path)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"


def _asked(result: Result) -> tuple[Any, int]:
    """The spec and the engine's semantics of a result, and a check that its attrs survive JSON."""
    groups = {n.path: n.attrs for n in result.subtree} if isinstance(result, xr.DataTree) else {"/": result.attrs}
    for path, attrs in groups.items():
        try:
            same = json.loads(json.dumps(attrs, allow_nan=False)) == attrs
        except (TypeError, ValueError) as error:
            raise StoreError(f"attrs of {path} must be JSON: {error}") from error
        if not same:
            raise StoreError(f"attrs of {path} would change in JSON: use lists for tuples and text for keys")
    inner, spec = {"/": groups["/"]}, groups["/"].get("spec")
    if "spec" not in groups["/"] and len(groups) > 1:
        inner = {path: a for path, a in groups.items() if "spec" in a}
        specs = {path: a["spec"] for path, a in inner.items()}
        spec = None if None in specs.values() else {"families": specs}
    semantics: set[Any] = {a.get("engine_semantics") for a in inner.values()}
    if not all("spec" in a for a in inner.values()) or len(semantics) != 1 or not all(type(s) is int for s in semantics):
        raise StoreError(
            "a result to be saved has attrs['spec'] (None: anonymous) and one integer attrs['engine_semantics']; "
            f"got attrs {sorted(groups['/'])} and semantics {sorted(map(str, semantics))}"
        )
    return spec, semantics.pop()


def _summary(result: Result) -> dict[str, Any]:
    """What the table of runs shows; several families' values are joined."""
    sets = [n.to_dataset() for n in result.subtree if n.has_data] if isinstance(result, xr.DataTree) else [result]
    found: dict[str, Any] = {}
    for key in _SUMMARY:
        values = dict.fromkeys(str(ds.attrs[key]) for ds in sets if ds.attrs.get(key) is not None)
        found[key] = (max(values) if key == "made_at" else ", ".join(values)) if values else None
    metrics = dict.fromkeys(str(m) for ds in sets if "metric" in ds.coords for m in ds["metric"].values.ravel())
    return found | {"metrics": ", ".join(metrics) or None}
