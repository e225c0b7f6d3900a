"""Who is at work on what: a file that is made only where there is none, kept fresh while its holder lives.

    >>> with Leases(files, "8d0f18e6fd71/3fa9c1d2.leases") as leases:                          # doctest: +SKIP
    ...     if leases.claim("000007"):
    ...         work()
    ...         leases.release("000007")

A lease that is not renewed for its ``expiry`` by the watcher's own clock is taken over; one whose process on this machine is
gone, at once. Should two do the same work all the same, as where an object store knows no exclusive creation, what they write
is the same, and whole.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from interp.errors import StoreError
from interp.store.files import Files
from interp.store.identity import sha256

EXPIRY = 60.0
"""Seconds without a sign of life after which a lease is void."""


class Leases:
    """The leases of one writer in a folder; a thread renews those that are held.

    Args:
        expiry: seconds; all writers of a run should agree on it.
    """

    def __init__(self, files: Files, folder: str, expiry: float = EXPIRY) -> None:
        self.files, self.folder, self.expiry = files, folder, expiry
        self._token = secrets.token_hex(8)
        self._beats = 0
        self._held: set[str] = set()
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Leases:
        self._thread = threading.Thread(target=self._renew, name="interp-leases", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        for name in list(self._held):
            self.release(name)

    def claim(self, name: str) -> bool:
        """Whether this is ours to do now."""
        with self._lock:
            if self._claimed(name):
                self._held.add(name)
                return True
            return False

    def release(self, name: str) -> None:
        """Let go of a lease, unless somebody took it over."""
        with self._lock:
            self._held.discard(name)
            if self._ours(name):
                self.files.remove(self._path(name))

    def _renew(self) -> None:
        while not self._over.wait(self.expiry / 4):
            with self._lock:
                for name in self._held:
                    with suppress(StoreError):  # a disk that is away for a moment: the next beat may succeed
                        if self._ours(name):
                            self.files.write(self._path(name), self._body())

    def _claimed(self, name: str) -> bool:
        """Make a lease, or take over one that is void: of those who would, the one that holds a lease on that very lease."""
        if self.files.create(self._path(name), self._body()):
            return True
        void = self._void(name)
        if void is None or not self._claimed(guard := f"{name}.{sha256(void)[:8]}"):
            return False
        try:
            if self.files.read(self._path(name)) != void:  # taken over since
                return False
            self.files.write(self._path(name), self._body())
            return True
        except FileNotFoundError:
            return False  # done since
        finally:
            self.files.remove(self._path(guard))

    def _void(self, name: str) -> bytes | None:
        """A lease whose holder is gone; None where it is not, or there is none."""
        try:
            found = self.files.read(self._path(name))
        except FileNotFoundError:
            return None
        now = time.monotonic()
        first, since = self._seen.get(name, (b"", now))
        if found != first:
            self._seen[name], since = (found, now), now
        return found if now - since > self.expiry or _dead(found) else None

    def _ours(self, name: str) -> bool:
        try:
            return _told(self.files.read(self._path(name))).get("token") == self._token
        except FileNotFoundError:
            return False

    def _body(self) -> bytes:
        self._beats += 1
        pid = os.getpid()
        who = {"token": self._token, "beat": self._beats, "place": _place(), "pid": pid, "started": _started(pid)}
        return json.dumps(who).encode()

    def _path(self, name: str) -> str:
        return f"{self.folder}/{name}"


def alive(files: Files, folder: str) -> bool:
    """Whether somebody holds a lease in a folder, as far as can be told without waiting."""
    for name in files.names(folder):
        with suppress(FileNotFoundError, StoreError):
            if not name.startswith(".") and not _dead(files.read(f"{folder}/{name}")):
                return True
    return False


def _dead(lease: bytes) -> bool:
    """Whether a lease is of a process of this machine that is no more."""
    who = _told(lease)
    if not who or who.get("place") is None or who.get("place") != _place() or not isinstance(who.get("pid"), int):
        return False
    try:
        os.kill(who["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # somebody else's process
    return bool(_started(who["pid"]) != who.get("started"))


def _told(lease: bytes) -> dict[str, Any]:
    try:
        found = json.loads(lease)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@cache
def _place() -> str | None:
    """This boot of this machine, and the space in which its process numbers count; None where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process began, in ticks since boot, since numbers of processes come again; None of one that has ended."""
    try:
        state, *facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else facts[18]
    except (OSError, IndexError):
        return None
