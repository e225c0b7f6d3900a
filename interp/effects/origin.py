"""Whether a result still holds the numbers that it was made with.

    >>> import xarray as xr
    >>> made = stamped(xr.Dataset({"value": ("layer", [0.5, 1.5])}, {"layer": [0, 1]}))
    >>> derived(made), derived(2 * made), derived(made.sel(layer=[1]))
    (False, True, True)

Attributes outlive what they describe: xarray hands them on through arithmetic and selection. So a result carries a digest of
its numbers, and one whose numbers are others does not answer what its attributes say was asked.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import xarray as xr

STAMP = "numbers_digest"
"""Attribute: sha256 of the variables and of what is along their axes, 16 hexadecimal digits."""


def stamped(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with the digest of its numbers as they are."""
    return ds.assign_attrs({STAMP: digest(ds)})


def derived(ds: xr.Dataset) -> bool:
    """Whether the numbers are others than when the dataset was stamped; of one that never was nothing is known: False."""
    return STAMP in ds.attrs and ds.attrs[STAMP] != digest(ds)


def digest(ds: xr.Dataset) -> str:
    """Of the variables with their dims, and of the coordinates along them; of no attribute, and no other coordinate."""
    total = hashlib.sha256()
    along = {str(dim): ds.coords[dim] for dim in ds.dims if dim in ds.coords}
    for name, array in sorted([*((str(name), array) for name, array in ds.data_vars.items()), *along.items()]):
        total.update(json.dumps([name, list(map(str, array.dims)), list(array.shape)]).encode())
        total.update(_bytes(array.values))
    return total.hexdigest()[:16]


def _bytes(values: np.ndarray[Any, Any]) -> bytes:
    """The same for the same numbers, also where a file has narrowed integers."""
    if values.dtype.kind in "iufcb":
        wide = values.astype("<i8") if values.dtype.kind in "iu" else values.astype(values.dtype.newbyteorder("<"))
        return wide.tobytes()
    return json.dumps(values.ravel().tolist(), ensure_ascii=False, default=str).encode()
