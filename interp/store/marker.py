"""The file that makes a folder a run, ``run.json``, and the one that makes it half a run, ``plan.json``.

Either names the folder beside it that holds the data, with the size and sha256 of every file there, and carries a digest of
itself. It is put in place in one step, after the data.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from interp.errors import StoreError
from interp.store.files import Files, Stat
from interp.store.identity import canonical, check_name, run_id, sha256

FORMAT = 2
"""Layout of a run on disk; a marker with another number is refused by name."""

WHOLE, HALF = "run.json", "plan.json"
DATA = "data.zarr.zip"
"""All of a result that is known; a zarr group in one file."""

MOST_UNITS = 1_000_000
"""Of one family."""

_FOLDER = re.compile(r"[0-9a-f]{8}\Z")

Marker = Mapping[str, Any]


class DamagedError(StoreError):
    """What is there cannot be what was written."""


def write(files: Files, run: str, which: str, marker: Mapping[str, Any], content: Mapping[str, bytes]) -> None:
    """The files of a run, then its marker, which names them.

    Args:
        which: :data:`WHOLE` or :data:`HALF`. A plan is written only where there is none: the one in force is what is read then.
        marker: without ``data`` and ``files``.
        content: the files by name, :data:`DATA` among them.
    """
    folder = secrets.token_hex(4)
    for name, data in content.items():
        files.write(f"{run}/{folder}/{name}", data, durable=which == WHOLE)
    listed = {name: {"size": len(data), "sha256": sha256(data)} for name, data in sorted(content.items())}
    if not put(files, run, which, {"format": FORMAT, **marker, "data": folder, "files": listed}):
        files.remove(f"{run}/{folder}")


def put(files: Files, run: str, which: str, marker: Mapping[str, Any]) -> bool:
    """Put a marker in place; a plan only where there is none. Whether it was."""
    text = written(marker)
    if which == HALF:
        return files.create(f"{run}/{which}", text)
    files.write(f"{run}/{which}", text, durable=True)
    return True


def written(marker: Mapping[str, Any]) -> bytes:
    """A marker as it stands in its file, with its own digest."""
    return json.dumps({**marker, "digest": sha256(canonical(marker))}, indent=1, ensure_ascii=False).encode()


def read(files: Files, run: str, which: str) -> dict[str, Any] | None:
    """What a marker says, checked; None where there is none.

    Raises:
        DamagedError: it is damaged.
        StoreError: it is of another format or of another run, or cannot be read.
    """
    try:
        text = files.read(f"{run}/{which}")
    except FileNotFoundError:
        return None
    except StoreError as error:
        raise StoreError(f"run {run}: {error}") from error
    try:
        marker = json.loads(text)
        version = marker["format"]  # of another one everything else may be different
        digest = marker.pop("digest", "")
        own = sha256(canonical(marker)) if version == FORMAT else ""
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise DamagedError(f"run {run}: {which} is damaged ({type(error).__name__})") from error
    if version != FORMAT:
        raise StoreError(
            f"run {run} was written in store format {str(version)[:20]}; this version reads format {FORMAT}: use the version "
            "of interp that wrote it, or another store"
        )
    if own != digest:
        raise DamagedError(f"run {run}: {which} is damaged (its checksum does not hold)")
    _require_form(run, which, marker)
    spec = marker["spec"]
    if marker["id"] != run or (spec is not None and run_id(spec, marker["engine_semantics"]) != run):
        raise StoreError(f"run {run}: the folder was renamed; its marker belongs to run {marker['id'][:20]}")
    if not _FOLDER.match(marker["data"]):
        raise StoreError(f"run {run}: {which} names the data folder {marker['data'][:80]!r}, which is none of the store's")
    for name in marker["files"]:
        check_name(name, f"file of run {run}")
    return dict(marker)


def _require_form(run: str, which: str, marker: Mapping[str, Any]) -> None:
    """Raise unless a marker holds what every marker holds: a checksum may hold of something else."""

    def texts(x: Any) -> bool:
        return isinstance(x, list) and all(isinstance(one, str) for one in x)

    def numbers(x: Any, least: int) -> bool:
        return isinstance(x, dict) and all(type(one) is int and least <= one < 2**48 for one in x.values())

    forms: dict[str, Callable[[Any], bool]] = {
        "id": lambda x: isinstance(x, str),
        "kind": lambda x: x in ("dataset", "tree"),
        "name": lambda x: x is None or isinstance(x, str),
        "tags": texts,
        "spec": lambda x: True,
        "engine_semantics": lambda x: type(x) is int,
        "variables": lambda x: isinstance(x, dict) and all(texts(names) for names in x.values()),
        "summary": lambda x: isinstance(x, dict) and all(one is None or isinstance(one, str) for one in x.values()),
        "saved_at": lambda x: x is None or isinstance(x, str),
        "data": lambda x: isinstance(x, str),
        "files": lambda x: (
            isinstance(x, dict)
            and DATA in x
            and all(
                isinstance(f, dict) and isinstance(f.get("sha256"), str) and numbers({"": f.get("size")}, 0) for f in x.values()
            )
        ),
    }
    if which == HALF:
        forms["units"] = lambda x: (
            isinstance(x, dict)
            and all(
                isinstance(cut, dict)
                and texts(cut.get("variables"))
                and numbers(cut.get("sizes"), 0)
                and numbers(cut.get("chunks"), 1)
                and cut["sizes"].keys() == cut["chunks"].keys()
                and math.prod(-(-size // cut["chunks"][axis]) for axis, size in cut["sizes"].items()) <= MOST_UNITS
                for cut in x.values()
            )
        )
    for key, fits in forms.items():
        if key not in marker or not fits(marker[key]):
            raise DamagedError(f"run {run}: {which} is damaged ({key} is not what it should be)")


def wrong(marker: Marker, run: str, stat: Callable[[str], Stat | None]) -> str:
    """What the sizes of a run's files betray; empty where they are as they were written."""
    for name, expected in marker["files"].items():
        try:
            found = stat(f"{run}/{marker['data']}/{name}")
        except StoreError as error:  # a link
            return str(error)
        if found is None or found.size != expected["size"]:
            return f"{name} has {'no' if found is None else found.size} bytes of {expected['size']}"
    return ""


def content(files: Files, run: str, marker: Marker, *names: str) -> dict[str, bytes]:
    """Files of a run, every one checked; by default all of them.

    Raises:
        DamagedError: one is missing or damaged.
        StoreError: one cannot be read, or a file is there that was not written with the run.
    """
    folder, found = f"{run}/{marker['data']}", {}
    try:
        for name in names or marker["files"]:
            try:
                data = files.read(f"{folder}/{name}")
            except FileNotFoundError as error:
                raise DamagedError(f"{marker['data']}/{name} is missing") from error
            if sha256(data) != marker["files"][name]["sha256"]:
                raise DamagedError(f"{marker['data']}/{name} is damaged (its checksum does not hold)")
            found[name] = data
        strangers = sorted(set(files.names(folder)) - set(marker["files"]))
        if strangers:
            raise StoreError(f"{marker['data']}/{strangers[0]} is a foreign file, not written with the run")
    except StoreError as error:
        raise type(error)(f"run {run}: {error}") from error
    return found
