"""Two results cell by cell: what each says of its cells, and which cells are in both.

>>> first, second, sizes = matched([one.table, other.table], ("estimated", "exact"))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp import axes as names
from interp import effects as fx
from interp import stats
from interp.effects.cells import BY_NAME
from interp.errors import InputError, ShapeMismatchError
from interp.views import bands, labels


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two results: a mean and an interval for every cell."""

    table: xr.Dataset
    n: str
    quantity: str
    floor: float
    said: list[str]
    """Its provenance, in parts."""


def names_of(estimated: xr.Dataset | xr.DataArray, exact: xr.Dataset | xr.DataArray) -> tuple[str, str]:
    """What two results are called where nobody says.

    Raises:
        InputError: the second is an estimate and the first is none.
    """
    how = [
        result.attrs.get("estimate") if isinstance(result, xr.Dataset | xr.DataArray) else None for result in (estimated, exact)
    ]
    if how[1] and not how[0]:
        raise InputError(
            f"exact is an estimate ({how[1]}) and estimated is none; exchange the two, or say what they are: called=(…, …)"
        )
    return ("first", "second") if not any(how) and all(map(fx.is_effects, (estimated, exact))) else ("estimated", "exact")


def require_alike(estimated: xr.Dataset, exact: xr.Dataset, called: tuple[str, str]) -> None:
    """Raise unless both are effects of the same direction."""
    for result in (estimated, exact):
        fx.validate(result)
    directions = [result.attrs["patching"] for result in (estimated, exact)]
    if len(set(directions)) > 1:
        raise InputError(f"{called[0]} is of {directions[0]}, {called[1]} of {directions[1]}; compare the same direction")


def side_of(result: xr.Dataset | xr.DataArray, quantity: str, metric: str | None, level: float) -> Side:
    """What effects with one metric, or any array, say of their cells."""
    if isinstance(result, xr.Dataset):
        one = fx.choose_metric(result, metric)
        table = fx.summary(one, quantity, level=level, method="t").isel({names.METRIC: 0})
        n = f"n={one.sizes[names.EXAMPLE]}{labels.clusters(table)}"
        own = table[["mean", "low", "high"]].assign(by_rule=one["by_rule"].all(names.EXAMPLE))
        name = labels.quantity_name(quantity, str(one[names.METRIC].item()))
        floor = float(fx.noise_floor(one)) if quantity == "effect" else 0.0
        return Side(own, n, name, floor, labels.provenance(one, table).split(" · "))
    name = labels.name_of(result)
    attrs = fx.attrs_of(result)
    said = [str(attrs[key]) for key in ("model", "task") if attrs.get(key)]
    if names.EXAMPLE not in result.dims:
        columns, n = {"mean": result.astype(float)}, ""
        columns |= {end: xr.full_like(columns["mean"], np.nan) for end in ("low", "high")}
    else:
        rest = [d for d in result.dims if d != names.EXAMPLE]
        groups = bands.templates(result)
        numbers = result.transpose(*rest, names.EXAMPLE).values.astype(float)
        found = stats.t_interval(numbers, clusters=groups, level=level)
        like = result.isel({names.EXAMPLE: 0}, drop=True).transpose(*rest)
        columns = {end: like.copy(data=column) for end, column in zip(("mean", "low", "high"), found[:3], strict=True)}
        n = f"n={result.sizes[names.EXAMPLE]}" + (f", {found.n} templates" if groups is not None else "")
    rule = xr.zeros_like(columns["mean"], dtype=bool)
    return Side(xr.Dataset({**columns, "by_rule": rule}), n, name, 0.0, said)


def matched(tables: Sequence[xr.Dataset], called: tuple[str, str]) -> tuple[xr.Dataset, xr.Dataset, tuple[int, int]]:
    """Both tables of the cells that are in both, in one order, and how many cells each had."""
    first, second = tables
    sizes = (first["mean"].size, second["mean"].size)
    for key in BY_NAME:
        if all(key in table.coords and table[key].dims == (names.CELL,) for table in tables):
            renamed = [table.swap_dims({names.CELL: key}) for table in (first, second)]
            if all(table.indexes[key].is_unique for table in renamed):
                first, second = renamed
                break
    if set(first["mean"].dims) != set(second["mean"].dims):
        listed = [", ".join(f"{d} ({table.sizes[d]})" for d in table["mean"].dims) for table in (first, second)]
        raise ShapeMismatchError(
            f"{called[0]} has the axes {listed[0] or 'none'}, {called[1]} {listed[1] or 'none'}; expected the same"
        )
    plain = [str(d) for d in first["mean"].dims if d not in first.indexes or d not in second.indexes]
    for axis in plain:
        if first.sizes[axis] != second.sizes[axis]:
            raise ShapeMismatchError(
                f"{called[0]} has {first.sizes[axis]} along {axis!r}, {called[1]} {second.sizes[axis]}, and no coordinate says "
                "which are the same"
            )
    dims = [d for d in second["mean"].dims if second.sizes[d]]
    both = [table[["mean", "low", "high", "by_rule"]].reset_coords(drop=True).transpose(*dims) for table in (first, second)]
    one, other = xr.align(*both, join="inner", copy=False)
    if not one["mean"].size:
        raise ShapeMismatchError(f"{called[0]} and {called[1]} have no cell in common; their coordinates differ")
    return one, other, sizes


def cells_of(table: xr.Dataset, at: NDArray[np.intp]) -> list[str]:
    """``L9H6``, or the edge or intervention that a cell is."""
    dims = [str(d) for d in table["mean"].dims]
    places = np.unravel_index(at, tuple(table.sizes[d] for d in dims)) if dims else ()
    values = [
        (table[d].values if d in table.coords else np.arange(table.sizes[d]))[i] for d, i in zip(dims, places, strict=True)
    ]
    if len(dims) == 1 and dims[0] in BY_NAME:
        return [str(value) for value in values[0]]
    return [fx.cell_name(dict(zip(dims, row, strict=True))) for row in zip(*values, strict=True)]
