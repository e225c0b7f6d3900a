"""Where a store lies: a local folder, or any address that fsspec knows. Files are put in place whole, in one step.

>>> files = at("runs")
>>> files.write("a1/run.json", b"{}")                                                     # doctest: +SKIP
>>> files.read("a1/run.json")                                                             # doctest: +SKIP
b'{}'

Paths are relative, with ``/``, and are made by the store alone. On a local folder no link below it is followed.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from interp.errors import StoreError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_BUCKETS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "oci", "obs", "cos"}
"""Protocols of object stores, which have no folders: making one would make the bucket that it is in."""


class Stat(NamedTuple):
    """What tells one version of a file from another without reading it."""

    size: int
    version: str


class Files(Protocol):
    """What a store needs of the place where it lies.

    Where it cannot be reached or will not serve, all of these raise ``StoreError``: that says nothing about what is there.
    """

    address: str

    def read(self, path: str) -> bytes:
        """The whole file; ``FileNotFoundError`` where there is none, or a folder."""

    def write(self, path: str, data: bytes, *, durable: bool = False) -> None:
        """Put a file in place in one step, over an old one; ``durable`` waits until it would survive a loss of power."""

    def create(self, path: str, data: bytes) -> bool:
        """Put a file in place only where there is none; whether it was."""

    def stat(self, path: str) -> Stat | None:
        """Of a file; None where there is none."""

    def names(self, folder: str) -> list[str]:
        """What is in a folder, sorted; nothing where there is none."""

    def remove(self, path: str) -> None:
        """A file, or a folder with all that is in it; a link, but nothing that it leads to; or nothing."""

    def survey(self) -> Callable[[str], Stat | None]:
        """:meth:`stat` for very many files at once, as they are now."""


def at(place: str | os.PathLike[str]) -> Files:
    """The files of a folder or an address.

    Raises:
        StoreError: a file or below one, an address of a kind that is not installed, or one that names a service and no place
            there.
    """
    if not isinstance(place, str | os.PathLike):
        raise StoreError(f"a store is given as its folder or address, got {place!r} of type {type(place).__name__}")
    text = os.fspath(place)
    if not text or "\0" in text:
        raise StoreError(f"a store is given as its folder or address, got {place!r}; '.' is the folder that you are in")
    if "://" not in text and "::" not in text:
        return Local(text)
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(text)
    except (ImportError, ValueError) as error:
        raise StoreError(f"the address {text!r} cannot be opened: {error}") from error
    if type(system).__name__ == "LocalFileSystem":
        return Local(root)
    if not root.strip("/"):
        raise StoreError(
            f"the address {text!r} names no place for a store; give a bucket and a folder, as in 's3://bucket/runs'"
        )
    return Remote(system, root, text)


class Local:
    """A folder; made on the first write. It stays the same folder when the process goes to another one."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).expanduser().absolute()
        self.address = os.fspath(self.root)
        with _reached(self.address, ""):
            there = next(path for path in (self.root, *self.root.parents) if path.exists())
        if not there.is_dir():
            raise StoreError(f"a store is a folder, but {str(there)!r} is a file")

    def read(self, path: str) -> bytes:
        with _reached(self.address, path):
            return self._inside(path).read_bytes()

    def write(self, path: str, data: bytes, *, durable: bool = False) -> None:
        target = self._inside(path)
        part = self._written(target, data, durable)
        with _reached(self.address, path):
            os.replace(part, target)
            if durable:
                _synced(target.parent)

    def create(self, path: str, data: bytes) -> bool:
        target = self._inside(path)
        part = self._written(target, data, False)
        try:
            os.link(part, target)  # whole, and only where nothing is
        except FileExistsError:
            return False
        except OSError:  # a file system without links: it may be seen before it is whole
            try:
                with open(target, "xb") as file:
                    file.write(data)
            except FileExistsError:
                return False
        finally:
            part.unlink()
        return True

    def stat(self, path: str) -> Stat | None:
        with _reached(self.address, path):
            return _stat(self._inside(path))

    def names(self, folder: str) -> list[str]:
        where = self._inside(folder) if folder else self.root
        with _reached(self.address, folder):
            try:
                return sorted(os.listdir(where))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def remove(self, path: str) -> None:
        target = self.root / path
        if any(parent.is_symlink() for parent in target.parents if parent != self.root and parent.is_relative_to(self.root)):
            return
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target, ignore_errors=True)  # others may be removing it too
        else:
            with _reached(self.address, path), suppress(FileNotFoundError, NotADirectoryError):
                target.unlink()

    def survey(self) -> Callable[[str], Stat | None]:
        def stat(path: str) -> Stat | None:
            with _reached(self.address, path):
                return _stat(f"{self.address}/{path}")

        return stat

    def _inside(self, path: str) -> Path:
        """Where a path is, which no link leads away from."""
        where = self.root
        for part in path.split("/"):
            where = where / part
            if where.is_symlink():
                raise StoreError(f"{where.relative_to(self.root)} is a link; links are not followed")
        return where

    def _written(self, target: Path, data: bytes, durable: bool) -> Path:
        part = target.with_name(f".{secrets.token_hex(6)}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "xb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            full = "; make room and call again, what was finished is kept" if error.errno in _FULL else ""
            raise StoreError(f"the store {self.address!r} cannot be written: {error}{full}") from error
        return part


class Remote:
    """Objects at an address that fsspec knows, such as ``s3://bucket/runs``.

    One object is written in one step where the service does so, as object stores do. Where it cannot create an object only if
    there is none, two writers may do the same work twice; what they write is the same.
    """

    def __init__(self, system: Any, root: str, address: str) -> None:
        self.system, self.root, self.address = system, root.rstrip("/"), address

    def read(self, path: str) -> bytes:
        with _reached(self.address, path):
            return bytes(self.system.cat_file(self._at(path)))

    def write(self, path: str, data: bytes, *, durable: bool = False) -> None:
        with self._placed(path):
            self.system.pipe_file(self._at(path), data)

    def create(self, path: str, data: bytes) -> bool:
        with self._placed(path):
            if self.system.exists(self._at(path)):
                return False
            try:
                self.system.pipe_file(self._at(path), data, mode="create")
            except FileExistsError:
                return False
            except (TypeError, ValueError, NotImplementedError):  # it knows no such mode
                self.system.pipe_file(self._at(path), data)
        return True

    def stat(self, path: str) -> Stat | None:
        with _reached(self.address, path):
            self.system.invalidate_cache()
            try:
                found = self.system.info(self._at(path))
            except FileNotFoundError:
                return None
        return _described(found) if found["type"] == "file" else None

    def names(self, folder: str) -> list[str]:
        where = self._at(folder)
        with _reached(self.address, folder):
            self.system.invalidate_cache()
            try:
                found = [str(name).rstrip("/") for name in self.system.ls(where, detail=False)]
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(name.rpartition("/")[2] for name in found if name.strip("/") != where.strip("/"))

    def remove(self, path: str) -> None:
        with _reached(self.address, path), suppress(FileNotFoundError):
            self.system.rm(self._at(path), recursive=True)

    def survey(self) -> Callable[[str], Stat | None]:
        found: dict[str, Any] = {}
        with _reached(self.address, ""), suppress(FileNotFoundError):  # there is not even a bucket
            self.system.invalidate_cache()
            found = self.system.find(self.root, detail=True)
        start = len(self.root.strip("/")) + 1
        return {name.strip("/")[start:]: _described(one) for name, one in found.items()}.get

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    @contextmanager
    def _placed(self, path: str) -> Iterator[None]:
        """Where services have folders they are made. Of a bucket none is, which a misspelt name would make."""
        with _reached(self.address, path):
            if not _BUCKETS.intersection(_protocols(self.system)):
                self.system.makedirs(self._at(path).rpartition("/")[0], exist_ok=True)
            try:
                yield
            except FileNotFoundError as error:
                bucket = self.root.strip("/").partition("/")[0]
                raise StoreError(
                    f"the store {self.address!r} cannot be written: {type(error).__name__}: {error}; is there a bucket "
                    f"{bucket!r}? No store makes one"
                ) from error


@contextmanager
def _reached(address: str, path: str) -> Iterator[None]:
    """What keeps a place from serving is a ``StoreError``; services and networks raise errors of many kinds."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, StoreError):
        raise
    except IsADirectoryError as error:
        raise FileNotFoundError(path) from error
    except Exception as error:
        what = f"{path} in the store {address!r}" if path else f"the store {address!r}"
        raise StoreError(f"{what} cannot be reached: {type(error).__name__}: {error}") from error


def _protocols(system: Any) -> Iterator[str]:
    """Of a service, and of the one behind a cache of it."""
    while system is not None:
        yield from [system.protocol] if isinstance(system.protocol, str) else system.protocol
        system = getattr(system, "fs", None)


def _stat(path: str | Path) -> Stat | None:
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Stat(found.st_size, str(found.st_mtime_ns))


def _described(found: dict[str, Any]) -> Stat:
    known = (found.get(key) for key in ("ETag", "etag", "LastModified", "mtime", "updated", "created"))
    return Stat(int(found["size"]), next((str(one) for one in known if one is not None), ""))


def _synced(folder: Path) -> None:
    if os.name == "nt":
        return  # a folder cannot be opened there
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
