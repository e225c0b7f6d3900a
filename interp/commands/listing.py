"""``interp ls``: the runs of a store, as columns that fit the terminal, or as JSON."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from interp.commands.places import OfStore, opened
from interp.errors import UnknownNameError

if TYPE_CHECKING:
    from interp.store import Store

_SHRINK = ("name", "model", "task", "site", "method", "tags")
"""Columns that are cut where the terminal is too narrow, the longest first."""
_LEAST, _GAP = 6, "  "
_WORDS = ("name", "model", "task", "method", "site")
_MOST = 8
"""Values of a column that are named where none fits."""


@dataclass(frozen=True)
class Ls(OfStore):
    """List the runs of a store, newest first. Words may have * for anything: --model '*SmolLM2*'."""

    name: str = ""
    """Of the run."""
    model: str = ""
    """Of this model."""
    task: str = ""
    """Of this task."""
    method: str = ""
    """Made by this: patch, ablate, patch_edges, …"""
    site: str = ""
    """At this site."""
    status: str = ""
    """complete, running, unfinished or damaged."""
    tag: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """With this tag; given several times, with all of them."""
    since: str = ""
    """Made on this date or later: 2026-01-31."""
    until: str = ""
    """Made before it."""
    check: tyro.conf.FlagCreatePairsOff[bool] = False
    """Verify the checksums of what is listed, which reads every byte."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print a list with an object for every run."""

    def run(self) -> None:
        from interp.store.run import STATUS

        if self.status and self.status not in STATUS:
            raise UnknownNameError("status", self.status, STATUS, "of a run")
        store = opened(self.address)
        words = {key: getattr(self, key) or None for key in (*_WORDS, "since", "until")}
        found = store.runs(**words, tags=self.tag)
        every = (_row(store, row, self.check) for row in found.to_dict("records"))  # checking may change a status
        rows = [row for row in every if self.status in ("", row["status"])]
        if self.json:
            print(json.dumps(rows, indent=1, ensure_ascii=False))
        else:
            print(shown(rows, width()) if rows else self._nothing(store))

    def _nothing(self, store: Store) -> str:
        every = store.runs()
        if every.empty:
            return f"{self.address} holds no runs"
        there = {key: sorted(set(filter(None, every[key]))) for key in _WORDS if getattr(self, key)}
        there |= {"tag": sorted({tag for tags in every["tags"] for tag in tags})} if self.tag else {}
        said = [f"their {key}s are {', '.join(values[:_MOST])}" for key, values in there.items() if values]
        return "; ".join([f"none of the {len(every)} runs of {self.address} is such a one", *said])


def shown(rows: Sequence[Mapping[str, Any]], most: int | None) -> str:
    """A table of runs.

    Args:
        rows: as ``interp ls --json`` gives them.
        most: characters in a line; None for as many as it takes.
    """
    from interp.store.run import DAMAGED

    columns: dict[str, list[str]] = {
        "id": [row["id"] for row in rows],
        **{key: [row[key] or "" for row in rows] for key in ("name", "model", "task", "method", "site")},
        "made at": [(row["made_at"] or "")[:16].replace("T", " ") for row in rows],
        "kB": [f"{row['size'] / 1000:,.0f}" for row in rows],
        "tags": [", ".join(row["tags"]) for row in rows],
        "status": [row["status"] + (f" {row['done']}/{row['units']}" if row["units"] else "") for row in rows],
    }
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    widths = _widths({name: max(map(len, (name, *cells))) for name, cells in columns.items()}, most)
    lines = [_line({name: name for name in columns}, widths)]
    lines += [_line({name: cells[i] for name, cells in columns.items()}, widths) for i in range(len(rows))]
    lines += [f"{row['id']} is damaged: {row['reason']}" for row in rows if row["status"] == DAMAGED]
    return "\n".join(lines)


def width() -> int | None:
    """Of the terminal; None where the output goes somewhere else."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _row(store: Store, row: Mapping[Any, Any], check: bool) -> dict[str, Any]:
    """A run as JSON holds it, with the work units of half a run."""
    import pandas as pd

    from interp.store.run import RUNNING, UNFINISHED

    found = {str(key): value for key, value in row.items()}
    found["made_at"] = None if pd.isna(row["made_at"]) else row["made_at"].isoformat()
    found["tags"] = list(row["tags"])
    run = None
    if check:
        run = store.check(row["id"])
        found |= {"status": run.status, "reason": run.reason}
    found["done"], found["units"] = None, None
    if found["status"] in (RUNNING, UNFINISHED):
        run = run or store.run(row["id"])
        found["done"], found["units"] = run.progress if run.marker is not None else (None, None)
    return found


def _widths(longest: dict[str, int], most: int | None) -> dict[str, int]:
    """How wide columns are: the widest that may be cut is cut until a line fits."""
    widths = dict(longest)
    while most is not None and sum(widths.values()) + len(_GAP) * (len(widths) - 1) > most:
        wide = max((name for name in _SHRINK if name in widths), key=widths.__getitem__, default=None)
        if wide is None or widths[wide] <= _LEAST:
            break
        widths[wide] -= 1
    return widths


def _line(cells: Mapping[str, str], widths: Mapping[str, int]) -> str:
    cut = {name: text if len(text) <= widths[name] else f"{text[: widths[name] - 1]}…" for name, text in cells.items()}
    aligned = (text.rjust(widths[name]) if name == "kB" else text.ljust(widths[name]) for name, text in cut.items())
    return _GAP.join(aligned).rstrip()
