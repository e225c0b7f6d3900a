"""Files that are written for others: where they may be is said before work is done for them, and they are there whole or not.

>>> file_to_write("nowhere/effects.csv")
Traceback (most recent call last):
interp.errors.PathError: 'nowhere' is no folder, so 'effects.csv' cannot be written there; make it first
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from interp.errors import PathError


def file_to_write(path: object, what: str = "path") -> Path:
    """The path of a file that is to be written, before work is done for it.

    Args:
        what: the argument that it was given as.

    Raises:
        PathError: it is no path, its folder is not there, or it is a folder itself.
    """
    if not isinstance(path, str | os.PathLike) or isinstance(path, bytes) or not os.fspath(path):
        raise PathError(f"{what} is {path!r} of type {type(path).__name__}; expected the path of a file to write")
    found = Path(path)
    if not found.parent.is_dir():
        raise PathError(f"{str(found.parent)!r} is no folder, so {found.name!r} cannot be written there; make it first")
    if found.is_dir():
        raise PathError(f"{what} {str(found)!r} is a folder; expected the path of a file to write")
    return found


def put(path: Path, data: bytes) -> Path:
    """Write a file in one step: an old one of its name stays until then.

    Raises:
        PathError: it cannot be written, with the reason; nothing is left of it.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise PathError(f"{str(path)!r} cannot be written: {error.strerror}") from error
    return path


def between(text: str, begin: str, end: str) -> str:
    """What stands between two marks of a text, without the space around it.

    Raises:
        ValueError: the text lacks one of the marks, or has it twice.
    """
    for mark in (begin, end):
        if text.count(mark) != 1:
            raise ValueError(f"the text lacks the mark {mark!r}, or has it twice")
    return text[text.index(begin) + len(begin) : text.index(end)].strip()


def put_between(path: Path, begin: str, end: str, text: str) -> None:
    """Write a text between two marks of a file, in place of what is there.

    Raises:
        ValueError: the file lacks one of the marks, or has it twice.
    """
    page = path.read_text(encoding="utf-8")
    between(page, begin, end)
    path.write_text(f"{page.split(begin)[0]}{begin}\n\n{text}\n\n{end}{page.split(end)[1]}", encoding="utf-8")
