"""Results as files that other programs read: netCDF, CSV and Parquet, by the ending of the name.

    >>> store.export("ioi-heads", "heads.nc")                                               # doctest: +SKIP
    >>> xr.open_dataset("heads.nc"), pd.read_csv("heads.csv"), pd.read_parquet("heads.parquet")   # doctest: +SKIP

The numbers are those of the result, bit for bit.

- **netCDF**: version 3 for one dataset, which needs nothing but scipy (whole numbers then have 32 bits); version 4 for a tree,
  whose families are groups, and for larger whole numbers. Attributes that are no text or number are JSON.
- **CSV** and **Parquet**: a long table, see :func:`table`. Provenance is not in the CSV, where it would keep pandas and R from
  reading it as it is, but beside it: ``heads.csv.json``. Numbers in the CSV have all digits that it takes to read them without
  loss (pandas before version 3 does so with ``float_precision="round_trip"``). Parquet has the provenance inside
  (``DataFrame.attrs``).

A NUL in a text, which neither netCDF 3 nor CSV can hold, becomes ␀.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import xarray as xr

from interp import effects as fx
from interp.errors import StoreError, UnknownNameError
from interp.outputs import file_to_write, put
from interp.store.arrays import Result

NETCDF, CSV, PARQUET = ".nc", ".csv", ".parquet"
_NUL = "\x00"
_SHORT = np.iinfo("int32")
_GROUPS = (
    "needs h5netcdf with h5py, or netCDF4, and neither is installed: pip install h5netcdf h5py; "
    ".csv and .parquet hold it as well"
)


def export(result: Result | xr.DataArray, path: str | os.PathLike[str]) -> list[Path]:
    """Write a result; the ending of ``path`` says as what.

    Args:
        result: a dataset, an array or a tree of datasets.
        path: ends in .nc, .csv or .parquet; its folder must exist.

    Returns:
        The files written: of CSV also the provenance beside it.

    Raises:
        UnknownNameError: another ending.
        PathError: the folder is not there, or nothing can be written there.
        StoreError: what writes the format is not installed, or the format cannot hold the result.
    """
    path = file_to_write(path)
    made = {path: content(result, path.suffix.lower(), path.name)}
    if path.suffix.lower() == CSV:
        made[path.with_name(f"{path.name}.json")] = provenance(result)
    return [put(place, data) for place, data in made.items()]


def content(result: Result | xr.DataArray, ending: str, name: str = "the result") -> bytes:
    """What :func:`export` writes, as bytes.

    Args:
        ending: .nc, .csv or .parquet.
        name: of the file, for messages.
    """
    if ending not in _WRITERS:
        raise UnknownNameError("export ending", ending, _WRITERS, f"of {name!r}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"result{ending}"
        _WRITERS[ending](_of_datasets(result), path, name)
        return path.read_bytes()


def provenance(result: Result | xr.DataArray) -> bytes:
    """The attributes of a result as JSON; of a tree, those of each family by its name."""
    return json.dumps(_attributes(_of_datasets(result)), indent=1, ensure_ascii=False).encode()


def table(result: Result | xr.DataArray) -> pd.DataFrame:
    """A result as a long table: a row for every number of its largest variable, coordinates as columns.

    Of a sweep that is a row for every metric, cell and example. A variable with fewer axes is repeated along those that it
    lacks; one with other axes has rows of its own, in which the columns of the others are empty. The families of a tree stand
    below each other, told apart by the column ``family``.

    Raises:
        StoreError: there are no variables.
    """
    blocks = []
    for family, ds in fx.families(result).items():
        for block in _blocks(ds):
            frame = block.to_dataframe(dim_order=list(_longest(block).dims)).reset_index()
            if family:
                frame.insert(0, "family", family)
            blocks.append(frame)
    if not blocks:
        raise StoreError("the result has no variables, so there is no table of it")
    return blocks[0] if len(blocks) == 1 else pd.concat([_nullable(block) for block in blocks], ignore_index=True)


def _of_datasets(result: Result | xr.DataArray) -> Result:
    """An array alone as the dataset of it."""
    return fx.families(result)[""] if isinstance(result, xr.DataArray) else result


def _attributes(result: Result) -> dict[str, Any]:
    if isinstance(result, xr.Dataset):
        return {str(k): v for k, v in result.attrs.items()}
    return {name: ds.attrs for name, ds in fx.families(result).items()}


def _blocks(ds: xr.Dataset) -> list[xr.Dataset]:
    """A dataset cut so that in each part one variable has all the axes that any has."""
    found: list[list[Any]] = []
    for name in sorted(ds.data_vars, key=lambda name: -ds[name].ndim):
        home = next((names for names in found if set(ds[name].dims) <= set(ds[names[0]].dims)), None)
        if home is None:
            found.append([name])
        else:
            home.append(name)
    return [ds[[name for name in ds.data_vars if name in names]] for names in found]


def _longest(ds: xr.Dataset) -> xr.DataArray:
    return max(ds.data_vars.values(), key=lambda array: array.ndim)


def _nullable(frame: pd.DataFrame) -> pd.DataFrame:
    """With types that may be empty, so that whole numbers stay whole below rows that have none."""
    kinds = {"i": "Int64", "u": "UInt64", "b": "boolean"}
    return frame.astype({name: kinds[kind.kind] for name, kind in frame.dtypes.items() if kind.kind in kinds})


def _write_csv(result: Result, path: Path, name: str) -> None:
    frame = table(result)
    for column in frame.columns:
        if frame[column].dtype.kind in "f":
            frame[column] = frame[column].astype("float64")  # its digits say exactly which number it is
        elif not pd.api.types.is_numeric_dtype(frame[column]):
            frame[column] = [text.replace(_NUL, "␀") if isinstance(text, str) else text for text in frame[column]]
    frame.to_csv(path, index=False, na_rep="NaN")


def _write_parquet(result: Result, path: Path, name: str) -> None:
    if importlib.util.find_spec("pyarrow") is None:
        raise StoreError(f"{name!r} needs pyarrow, which is not installed: pip install pyarrow; .csv holds the same table")
    frame = table(result)
    frame.attrs = _attributes(result)
    frame.to_parquet(path, engine="pyarrow", index=False)


def _write_netcdf(result: Result, path: Path, name: str) -> None:
    newer = _engine()
    if isinstance(result, xr.DataTree):
        if newer is None:
            raise StoreError(f"{name!r} of several families is netCDF 4 with a group for each, which {_GROUPS}")
        result.map_over_datasets(_plain).to_netcdf(path, engine=newer)
        return
    plain = _plain(result)
    long = [
        str(key)
        for key, v in plain.variables.items()
        if v.dtype.kind in "iu" and v.size and not _SHORT.min <= v.values.min() <= v.values.max() <= _SHORT.max
    ]
    if long and newer is None:
        raise StoreError(f"{long[0]!r} has whole numbers of more than 32 bits, so {name!r} is netCDF 4, which {_GROUPS}")
    plain.to_netcdf(path, engine=newer if long else "scipy")


def _engine() -> Literal["h5netcdf", "netcdf4"] | None:
    """What writes netCDF 4 here."""
    known = {"h5netcdf": ("h5netcdf", "h5py"), "netcdf4": ("netCDF4",)}
    found = next((engine for engine, modules in known.items() if all(map(importlib.util.find_spec, modules))), None)
    return cast(Literal["h5netcdf", "netcdf4"] | None, found)


def _plain(ds: xr.Dataset) -> xr.Dataset:
    """What netCDF can hold."""
    held = {name: _held_variable(variable) for name, variable in ds.variables.items()}
    coords = {name: variable for name, variable in held.items() if name in ds.coords}
    return xr.Dataset({name: held[name] for name in ds.data_vars}, coords, _held(ds.attrs))


def _held_variable(variable: xr.Variable) -> xr.Variable:
    values = variable.values
    if values.dtype.kind in "OUT":
        texts = [str(text).replace(_NUL, "␀") for text in values.ravel()]
        values = np.array([*texts, None], object)[:-1].reshape(values.shape)
    elif values.dtype == np.float16:
        values = values.astype("float32")
    encoding = {"_FillValue": None} if values.dtype.kind == "f" else {}  # no number stands in for NaN
    return xr.Variable(variable.dims, values, _held(variable.attrs), encoding)


def _held(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as netCDF holds them."""

    def simple(x: object) -> bool:
        whole = isinstance(x, int) and not isinstance(x, bool) and _SHORT.min <= x <= _SHORT.max
        return whole or isinstance(x, str | float)

    return {str(k): v if simple(v) else json.dumps(v, ensure_ascii=False) for k, v in attrs.items()}


_WRITERS: Mapping[str, Callable[[Result, Path, str], None]] = {
    NETCDF: _write_netcdf,
    CSV: _write_csv,
    PARQUET: _write_parquet,
}
