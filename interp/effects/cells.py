"""The cells of a result: chosen by their coordinates or by metric, and called by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from interp import axes as names
from interp.effects.schema import validate
from interp.errors import UnknownNameError

BY_NAME = ("circuit", "edge", "intervention")
"""Coordinates along ``cell`` that say what a cell is, whatever its number."""


def at(ds: xr.Dataset, **coords: Any) -> xr.Dataset:
    """The cells at some coordinates, ``at(effects, layer=3, position=-1)``: ``sel``, which knows what a position is.

    Where a grid sweeps roles and indices together, its positions are text, and ``effects.sel(position="-1")`` has to say so.

    Raises:
        UnknownNameError: an axis or a value that is not there, with those that are.
    """
    chosen: dict[str, Any] = {}
    for axis, value in coords.items():
        if axis not in ds.indexes:
            raise UnknownNameError("axis", axis, map(str, ds.indexes))
        known = ds.indexes[axis].tolist()
        wanted = [str(one) if isinstance(known[0], str) else one for one in (value if isinstance(value, list) else [value])]
        if missing := [one for one in wanted if one not in known]:
            raise UnknownNameError(axis, missing[0], map(str, known), "of this result")
        chosen[axis] = wanted if isinstance(value, list) else wanted[0]
    return ds.sel(chosen)


def choose_metric(ds: xr.Dataset, metric: str | None = None) -> xr.Dataset:
    """The dataset with one metric, its dim gone: the one named, or the first."""
    validate(ds)
    if names.METRIC not in ds.dims:
        only = str(ds[names.METRIC].values)
        if metric not in (None, only):
            raise UnknownNameError("metric", metric, [only])
        return ds
    known = [str(m) for m in ds[names.METRIC].values]
    if metric is None:
        metric = known[0]
    if metric not in known:
        raise UnknownNameError("metric", metric, known)
    return ds.isel({names.METRIC: known.index(metric)})


def furthest(ds: xr.Dataset) -> xr.Dataset:
    """Of half a run the examples of which most cells are known, with their numbers as a coordinate; all where they are equal.

    A cell's mean over some examples is not comparable with another's over all of them.
    """
    if "value" not in ds or names.EXAMPLE not in ds["value"].dims:
        return ds
    known = ds["value"].notnull().sum([dim for dim in ds["value"].dims if dim != names.EXAMPLE]).values
    far = np.flatnonzero(known == known.max())
    return ds if len(far) == len(known) else ds.isel({names.EXAMPLE: far}).assign_coords({names.EXAMPLE: far})


def behind(ds: xr.Dataset) -> int:
    """Examples that :func:`furthest` leaves out."""
    return int(ds.sizes.get(names.EXAMPLE, 0) - furthest(ds).sizes.get(names.EXAMPLE, 0))


def cell_name(coords: Mapping[Any, Any]) -> str:
    """A cell in the field's shorthand: ``L9H6``, ``L3@5``, ``L3H2@S2``, ``L3[120]``; further axes as ``seed=1``.

    >>> cell_name({"layer": 9, "head": 6}), cell_name({"layer": 3, "position": "S2"})
    ('L9H6', 'L3@S2')
    >>> cell_name({"layer": 3, "position": "END", "source_position": "S2"})     # what attends, and what it attends to
    'L3@END ← S2'
    """
    written = {
        names.LAYER: "L{}",
        names.HEAD: "H{}",
        names.EXPERT: "E{}",
        names.UNIT: "[{}]",
        names.POSITION: "@{}",
        names.CALL: "#{}",
        names.SOURCE_POSITION: " ← {}",
    }
    short = "".join(form.format(coords[axis]) for axis, form in written.items() if axis in coords).strip()
    rest = [f"{axis}={value}" for axis, value in coords.items() if axis not in written]
    return " ".join([short, *rest] if short else rest) or "all"
