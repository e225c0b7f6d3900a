"""The table of a store's runs, and the index that makes it quick.

The index is derived: a file with the row of every complete run, each with the size and time of its marker. A run whose marker
is another one since is read anew, so that the index is never older than the store; lost or damaged, it is made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from interp import effects as fx
from interp.errors import StoreError
from interp.store.arrays import Result
from interp.store.files import Files, Stat
from interp.store.identity import ID, canonical, check_tags, seal, unseal
from interp.store.marker import DATA, FORMAT, WHOLE
from interp.store.run import COMPLETE, Run, inspect

INDEX = ".index"
COLUMNS = (
    *("id", "name", "model", "task", "method", "site", "patching", "metrics", "made_at", "size", "tags", "status", "reason"),
)
_SUMMARY = ("model", "task", "method", "site", "patching", "made_at")
_FILTERS = ("name", "model", "task", "method", "site", "patching", "status")


def summary(result: Result) -> dict[str, Any]:
    """What the table shows of a result; several families' values are joined."""
    sets = [n.to_dataset() for n in result.subtree if n.has_data] if isinstance(result, xr.DataTree) else [result]
    said = [fx.attrs_of(ds) for ds in sets]
    found: dict[str, Any] = {}
    for key in _SUMMARY:
        values = dict.fromkeys(str(one[key]) for one in said if one.get(key) is not None)
        found[key] = (max(values) if key == "made_at" else ", ".join(values)) if values else None
    metrics = dict.fromkeys(str(m) for ds in sets if "metric" in ds.coords for m in ds["metric"].values.ravel())
    return found | {"metrics": ", ".join(metrics) or None}


def rows(files: Files) -> list[dict[str, Any]]:
    """A row for every run, from the index where that still holds."""
    stat = files.survey()
    known, kept, found = _read(files), {}, []
    for run in files.names(""):
        if not ID.match(run):
            continue
        mark = stat(f"{run}/{WHOLE}")
        entry = known.get(run)
        if mark is None or entry is None or entry["mark"] != list(mark):
            entry = _entry(files, run, mark, stat)
        elif (there := stat(entry["data"])) is None or there.size != entry["bytes"]:
            entry = {"row": _described(inspect(files, run, stat))}  # damaged since
        if "mark" in entry:
            kept[run] = entry
        found.append(entry["row"])
    if kept != known:
        with suppress(StoreError):  # a store that may only be read is listed without an index
            files.write(INDEX, seal(canonical({"format": FORMAT, "runs": kept}).encode()))
    return found


def table(files: Files, since: Any = None, until: Any = None, tags: Any = (), **wanted: str | None) -> pd.DataFrame:
    """See ``Store.runs``."""
    frame = pd.DataFrame(rows(files), columns=list(COLUMNS))
    frame["tags"] = [tuple(some) for some in frame["tags"]]
    frame["made_at"] = pd.to_datetime(frame["made_at"], utc=True, errors="coerce", format="ISO8601")
    for column, pattern in wanted.items():
        if pattern is not None:
            if not isinstance(pattern, str):
                raise StoreError(
                    f"{column} is {pattern!r} of type {type(pattern).__name__}; expected text, with * for anything"
                )
            frame = frame[np.array([fnmatchcase(value, pattern) for value in frame[column]], bool)]
    for tag in check_tags(tags):
        frame = frame[np.array([tag in some for some in frame["tags"]], bool)]
    if since is not None:
        frame = frame[frame["made_at"] >= _moment(since, "since")]
    if until is not None:
        frame = frame[frame["made_at"] < _moment(until, "until")]
    return frame.sort_values("made_at", ascending=False, kind="stable", ignore_index=True)


def _moment(given: Any, what: str) -> pd.Timestamp:
    try:
        found = pd.NaT if isinstance(given, int | float) else pd.Timestamp(given)  # a number would be nanoseconds since 1970
    except (TypeError, ValueError):
        found = pd.NaT
    if found is pd.NaT:
        raise StoreError(f"{what} is {given!r}; expected a date, such as '2026-01-31' or '2026-01-31 12:00'")
    return found.tz_localize("UTC") if found.tz is None else found


def _entry(files: Files, run: str, mark: Stat | None, stat: Callable[[str], Stat | None]) -> dict[str, Any]:
    """What the index keeps of a run; only the row where it is not complete."""
    found = inspect(files, run, stat)
    row = _described(found)
    if found.status != COMPLETE or found.marker is None or mark is None:
        return {"row": row}
    expected = found.marker["files"][DATA]
    return {"mark": list(mark), "data": f"{run}/{found.marker['data']}/{DATA}", "bytes": expected["size"], "row": row}


def _described(run: Run) -> dict[str, Any]:
    told = run.marker["summary"] if run.marker else {}
    row = {c: told.get(c) for c in (*_SUMMARY, "metrics")}
    row["made_at"] = row["made_at"] or (run.marker or {}).get("saved_at")
    row |= {
        "id": run.id,
        "name": run.name,
        "size": run.size,
        "tags": list(run.tags),
        "status": run.status,
        "reason": run.reason,
    }
    return {c: "" if v is None and c != "made_at" else v for c, v in row.items()}


def _read(files: Files) -> Mapping[str, Any]:
    """The index; nothing where it is missing, damaged or of another version."""
    with suppress(FileNotFoundError, ValueError, StoreError, KeyError, TypeError):
        found = json.loads(unseal(files.read(INDEX)))
        if found["format"] == FORMAT:
            return dict(found["runs"])
    return {}
