"""What commands share: which store is meant, and which runs of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import tyro

from interp.errors import StoreError

if TYPE_CHECKING:
    from interp.store import Store

StoreFirst: TypeAlias = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STORE")]
"""The store of a command that is about a whole store."""
RunFirst: TypeAlias = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
RunsFirst: TypeAlias = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN…")]
"""Runs of a command that is about them; their store is an option."""


def opened(place: str) -> Store:
    """The store at a place, which is there.

    Raises:
        StoreError: it is no folder.
    """
    from interp.store import Store

    if "://" not in place and "::" not in place and not Path(place).exists():
        raise StoreError(f"{place} is no folder, so it is no store; interp demo makes one in interp-demo/runs")
    return Store(place)
