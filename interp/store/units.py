"""The work units of a run: rectangles of its variables, each a file of its own until the run is whole.

A unit's file holds the chunks of zarr that the unit fills, and facts about how they were made, behind their checksum; it is put
in place in one step. So it is there whole or not at all, whoever writes it and however often.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import xarray as xr

from interp.errors import StoreError
from interp.store.arrays import Result, pack, unpack
from interp.store.files import Files
from interp.store.identity import seal, unseal
from interp.store.marker import MOST_UNITS

_FACTS = "unit.json"


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of a run that is computed at once."""

    number: int
    family: str
    """Path of the dataset in a tree; ``"/"`` of a dataset alone."""
    index: Mapping[str, slice]
    """Which part, along the axes that are cut; the others are whole."""

    @property
    def name(self) -> str:
        return f"{self.number:06d}"


def planned(result: Result, variables: tuple[str, ...], chunks: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """How a result is cut, ready for JSON.

    Args:
        variables: those that units fill; they have every axis that is cut.
        chunks: by family, how long a unit is along each axis that is cut.

    Raises:
        StoreError: a family, a variable or an axis that is not there, or a length below 1.
    """
    found: dict[str, Any] = {}
    families = groups(result)
    for family, lengths in chunks.items():
        ds = families.get(family)
        if ds is None:
            raise StoreError(f"units are planned for the family {family!r}, but the result has {', '.join(families)}")
        for name in variables:
            if name not in ds or ds[name].dtype.kind != "f" or not set(lengths) <= set(ds[name].dims):
                has = f"{ds[name].dtype}, {ds[name].dims}" if name in ds else "is not there"
                raise StoreError(f"units fill floating-point variables with the axes {', '.join(lengths)}; {name!r}: {has}")
            if bool(ds[name].notnull().any()):
                raise StoreError(f"{name!r} is filled by units, so it begins as NaN throughout; it has numbers already")
        if any(length < 1 for length in lengths.values()):
            raise StoreError(f"a unit is at least 1 long along every axis, got {dict(lengths)}")
        if math.prod(-(-ds.sizes[axis] // length) for axis, length in lengths.items()) > MOST_UNITS:
            raise StoreError(f"at most {MOST_UNITS:,} units make a family, and {dict(lengths)} would be more; make them longer")
        found[family] = {
            "variables": list(variables),
            "sizes": {str(axis): ds.sizes[axis] for axis in lengths},
            "chunks": dict(lengths),
        }
    return found


def listed(plan: Mapping[str, Any]) -> list[Unit]:
    """Every unit, in the order in which they are best done."""
    found: list[Unit] = []
    for family, cut in plan.items():
        axes = list(cut["chunks"])
        starts = [range(0, cut["sizes"][axis], cut["chunks"][axis]) for axis in axes]
        for at in product(*starts):
            index = {a: slice(s, min(s + cut["chunks"][a], cut["sizes"][a])) for a, s in zip(axes, at, strict=True)}
            found.append(Unit(len(found), family, index))
    return found


def groups(result: Result) -> dict[str, xr.Dataset]:
    """The datasets of a result by path."""
    return {"/": result} if isinstance(result, xr.Dataset) else {n.path: n.to_dataset(inherit=False) for n in result.leaves}


def folder(run: str, plan: Mapping[str, Any]) -> str:
    return f"{run}/{plan['data']}.units"


def leased(run: str, plan: Mapping[str, Any]) -> str:
    return f"{run}/{plan['data']}.leases"


def done(files: Files, run: str, plan: Mapping[str, Any]) -> set[str]:
    """Names of the units that are written."""
    known = {unit.name for unit in listed(plan["units"])}
    return known & set(files.names(folder(run, plan)))


def write(files: Files, run: str, plan: Mapping[str, Any], unit: Unit, chunks: Mapping[str, bytes], facts: Any) -> None:
    """Put a unit in place."""
    told = {_FACTS: json.dumps({"of": _of(run, plan, unit.name), "facts": facts}, allow_nan=False).encode()}
    files.write(f"{folder(run, plan)}/{unit.name}", seal(pack({**chunks, **told})))


def read(files: Files, run: str, plan: Mapping[str, Any], name: str) -> tuple[dict[str, bytes], Any] | None:
    """The chunks of a unit and its facts; None where it is not there whole.

    Raises:
        StoreError: it cannot be reached.
    """
    try:
        sealed = files.read(f"{folder(run, plan)}/{name}")
    except FileNotFoundError:
        return None
    with suppress(ValueError, KeyError, TypeError):
        found = unpack(unseal(sealed))
        told = json.loads(found.pop(_FACTS))
        if told["of"] == _of(run, plan, name):
            return found, told["facts"]
    return None


def _of(run: str, plan: Mapping[str, Any], name: str) -> list[str]:
    """What a unit belongs to, said in the unit itself: files may be renamed."""
    return [run, plan["data"], name]


def chunks(files: Files, run: str, plan: Mapping[str, Any]) -> dict[str, bytes]:
    """The chunks of all units that are there."""
    found: dict[str, bytes] = {}
    for name in sorted(done(files, run, plan)):
        unit = read(files, run, plan, name)
        found |= unit[0] if unit is not None else {}
    return found


def fits(array: np.ndarray[Any, Any], ds: xr.Dataset, name: str, unit: Unit) -> None:
    """Raise ``StoreError`` unless values fill a unit's part of a variable."""
    shape = tuple(len(range(*unit.index.get(str(d), slice(None)).indices(ds.sizes[d]))) for d in ds[name].dims)
    if array.shape != shape or array.dtype != ds[name].dtype:
        raise StoreError(
            f"unit {unit.name} of {name!r} is {ds[name].dtype} of shape {shape} ({', '.join(map(str, ds[name].dims))}), "
            f"got {array.dtype} of shape {array.shape}"
        )
