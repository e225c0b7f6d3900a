"""Beginning a run, or joining one that was begun; what is damaged is set aside and named, never removed.

A run that is damaged would be refused for ever, though whoever asks for it asks for numbers that can be made again. So its
marker is renamed, and it is made anew in a folder of its own. Only what cannot be what was written counts as damage: a marker
of another format, a folder that was renamed, a link or a disk that is away are refused, for what they lead to may be good.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from interp.errors import StoreError
from interp.store import marker
from interp.store.files import Files
from interp.store.identity import sha256
from interp.store.marker import HALF, WHOLE, DamagedError

Joined = tuple[Mapping[str, Any], Mapping[str, bytes]]


def joined(files: Files, head: Mapping[str, Any], content: Mapping[str, bytes]) -> Joined:
    """The plan of a run and its files: that of whoever began it first; this one where the run is whole.

    Raises:
        StoreError: something else than damage keeps a marker or its files from being read.
    """
    run = str(head["id"])
    while True:
        for which in (WHOLE, HALF):
            before = _text(files, f"{run}/{which}")
            try:
                found = marker.read(files, run, which)
                there = {} if found is None else marker.content(files, run, found)
            except DamagedError as error:
                if _text(files, f"{run}/{which}") == before:  # else it was replaced, finished or removed meanwhile
                    _set_aside(files, run, which, before, str(error))
                break
            if found is not None:
                return (found, there) if which == HALF else ({**head, "data": "0" * 8}, content)
        else:
            marker.write(files, run, HALF, head, content)


def _set_aside(files: Files, run: str, which: str, text: bytes, reason: str) -> None:
    files.write(f"{run}/{which}.{sha256(text)[:8]}", text)
    files.remove(f"{run}/{which}")
    warnings.warn(
        f"{reason}; it is made anew. What was there is kept in {files.address}/{run} until the store is tidied: "
        f"{', '.join(files.names(run))}",
        UserWarning,
        stacklevel=4,  # whoever called Store.begin
    )


def _text(files: Files, path: str) -> bytes:
    with suppress(FileNotFoundError, StoreError):
        return files.read(path)
    return b""
