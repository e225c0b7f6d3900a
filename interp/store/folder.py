"""The folder of one run: its data, and the marker that makes it a run.

The marker, ``run.json``, names the data folder beside it and holds the sha256 of every file there and of itself. It is
written last and put in place by one ``os.replace``, so that a reader sees a whole run, or none, or the version before.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interp.errors import StoreError
from interp.store import arrays
from interp.store.arrays import Result
from interp.store.identity import canonical, run_id, sha256

FORMAT = 1
"""Layout of a run on disk; a marker with another number is refused by name."""

MARKER = "run.json"
COMPLETE, UNFINISHED, DAMAGED = "complete", "unfinished", "damaged"

_DATA = re.compile(r"[0-9a-f]{8}\.zarr\Z")


@dataclass(frozen=True, slots=True, repr=False)
class Run:
    """One saved run. Only a complete one can be loaded."""

    id: str
    path: Path
    name: str | None = None
    tags: tuple[str, ...] = ()
    status: str = COMPLETE
    reason: str = ""
    """Why the run is not complete."""
    marker: Mapping[str, Any] | None = field(default=None, compare=False)
    """What ``run.json`` says."""

    @property
    def size(self) -> int:
        """Bytes of the data on disk."""
        return sum(f["size"] for f in self.marker["files"].values()) if self.marker else 0

    def load(self) -> Result:
        """The result, every file checked against its checksum; see ``Store.load``."""
        return load(self.path)

    def __repr__(self) -> str:
        words = [self.id, *([repr(self.name)] if self.name else []), *([self.status] if self.status != COMPLETE else [])]
        return f"Run({', '.join(words)})"


def write_data(folder: Path, data: str, files: Mapping[str, bytes]) -> None:
    """The data folder, under a temporary name until it is whole."""
    part = folder / f".{data}"
    for path, content in files.items():
        target = part / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    os.rename(part, folder / data)


def write_marker(folder: Path, marker: dict[str, Any]) -> None:
    """Put the marker in place in one step, with its own digest."""
    text = json.dumps(marker | {"digest": sha256(canonical(marker))}, indent=1, ensure_ascii=False)
    part = folder / f".{MARKER}.{secrets.token_hex(4)}"
    part.write_text(text, encoding="utf-8")
    os.replace(part, folder / MARKER)


def inspect(folder: Path) -> Run:
    """A run from its folder, without reading its data; never raises for what is in the folder."""
    try:
        marker = read_marker(folder)
        if marker is None:
            why = f"no {MARKER}: its writer was stopped, or is still at work"
            return Run(folder.name, folder, status=UNFINISHED, reason=why)
        run = Run(folder.name, folder, marker["name"], tuple(marker["tags"]), marker=marker)
        sizes = _sizes(folder, marker)
        wrong = next((f for f in marker["files"] if sizes.get(f) != marker["files"][f]["size"]), None)
        if wrong is not None and (read_marker(folder) or marker)["data"] != marker["data"]:
            return inspect(folder)  # replaced while it was looked at
    except StoreError as error:
        return Run(folder.name, folder, status=DAMAGED, reason=str(error))
    if wrong is None:
        return run
    reason = f"{wrong} has {sizes.get(wrong, 'no')} bytes of {marker['files'][wrong]['size']}"
    return Run(run.id, run.path, run.name, run.tags, DAMAGED, reason, marker)


def read_marker(folder: Path) -> dict[str, Any] | None:
    """What ``run.json`` says, checked; None where there is none."""
    path = folder / MARKER
    if folder.is_symlink() or not folder.is_dir() or path.is_symlink():
        raise StoreError(f"run {folder.name}: the folder or its {MARKER} is a link, or it is no folder; nothing is read")
    if not path.exists():
        return None
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
        written = marker.pop("digest")
        version = marker["format"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise StoreError(f"run {folder.name}: {MARKER} is damaged ({type(error).__name__})") from error
    if version != FORMAT:
        raise StoreError(f"run {folder.name} was written in store format {version!r}; this version reads format {FORMAT}")
    if sha256(canonical(marker)) != written:
        raise StoreError(f"run {folder.name}: {MARKER} is damaged (its checksum does not hold)")
    spec = marker["spec"]
    if marker["id"] != folder.name or (spec is not None and run_id(spec, marker["engine_semantics"]) != folder.name):
        raise StoreError(f"run {folder.name}: the folder was renamed; its marker belongs to run {marker['id']}")
    if not _DATA.match(marker["data"]):
        raise StoreError(f"run {folder.name}: {MARKER} names the data folder {marker['data']!r}, which is none of the store's")
    return dict(marker)


def _sizes(folder: Path, marker: Mapping[str, Any]) -> dict[str, int]:
    """Size of every file of the data; a link or a file that the marker does not know is damage."""
    root = folder / marker["data"]
    if root.is_symlink():
        raise StoreError(f"run {folder.name}: {marker['data']} is a link; links are not followed")
    found: dict[str, int] = {}
    for parent, folders, files in os.walk(root, followlinks=False):
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink():
                raise StoreError(f"run {folder.name}: {path.relative_to(folder)} is a link; links are not followed")
        for path in (Path(parent, name) for name in files):
            with suppress(FileNotFoundError):  # removed by whoever has just replaced the run
                found[path.relative_to(root).as_posix()] = path.stat().st_size
    if strangers := sorted(set(found) - set(marker["files"])):
        raise StoreError(f"run {folder.name}: {marker['data']}/{strangers[0]} is a foreign file, not written with the run")
    return found


def read_data(folder: Path, marker: Mapping[str, Any]) -> dict[str, bytes]:
    """Every file of the data, checked."""
    _sizes(folder, marker)
    files: dict[str, bytes] = {}
    for path, expected in marker["files"].items():
        try:
            content = (folder / marker["data"] / path).read_bytes()
        except OSError as error:
            raise StoreError(f"run {folder.name}: {marker['data']}/{path} cannot be read ({type(error).__name__})") from error
        if sha256(content) != expected["sha256"]:
            raise StoreError(f"run {folder.name}: {marker['data']}/{path} is damaged (its checksum does not hold)")
        files[path] = content
    return files


def load(folder: Path) -> Result:
    """Read a run. One that was replaced while it was read is read again."""
    while True:
        marker = read_marker(folder) if folder.exists() else None
        if marker is None:
            raise StoreError(f"run {folder.name} is unfinished: it has no {MARKER}; save it again, or delete it")
        try:
            files = read_data(folder, marker)
        except StoreError:
            newer = read_marker(folder)
            if newer is not None and newer["data"] != marker["data"]:
                continue
            raise
        try:
            return arrays.decode(files, marker["kind"] == "tree", marker["variables"])
        except Exception as error:  # whatever zarr or xarray cannot read, the run's name belongs in the message
            raise StoreError(f"run {folder.name} cannot be decoded: {type(error).__name__}: {error}") from error
