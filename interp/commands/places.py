"""What commands share: which store is meant, and which runs of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import tyro

from interp.errors import StoreError

if TYPE_CHECKING:
    from interp.store import Store

RunFirst: TypeAlias = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
RunsFirst: TypeAlias = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN…")]
"""Runs of a command; their store is an option of every command."""


@dataclass(frozen=True)
class OfStore:
    """A command that is about no runs: what stands alone on its line is the store (``interp ls STORE``)."""

    place: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STORE")] = ""
    """Folder or address of the store, if it is not said by --store."""
    store: str = "runs"
    """Folder or address of the store."""

    @property
    def address(self) -> str:
        """Of the store that is meant."""
        return self.place or self.store


def opened(place: str) -> Store:
    """The store at a place, which is there.

    Raises:
        StoreError: there is no folder.
    """
    from interp.store import Store

    folder = Path(place).expanduser()
    if place and "://" not in place and "::" not in place and not folder.exists():
        raise StoreError(
            f"there is no store at {folder.absolute()}: say with --store in which folder or at which address it is; interp "
            "demo makes one in interp-demo/runs"
        )
    return Store(place)
