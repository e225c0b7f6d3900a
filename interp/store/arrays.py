"""A dataset or a tree of them as named bytes in zarr format 3, and back.

Working on bytes in memory lets a checksum cover exactly what is decoded: nothing is read from disk again after it was
checked. Text is variable-length UTF-8 (zarr has no specification of fixed-width text), numbers keep their bits: no fill value
stands in for NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any, cast

import numpy as np
import xarray as xr
from zarr.abc.buffer import Buffer
from zarr.buffer import cpu
from zarr.storage import MemoryStore

#: Chunks are cut along the leading axes until none is larger than this (before compression).
CHUNK_BYTES = 16 * 2**20

Result = xr.Dataset | xr.DataTree


def encode(result: Result) -> dict[str, bytes]:
    """The files of a zarr group, by path inside it."""
    held: dict[str, Buffer] = {}
    store = MemoryStore(held)
    if isinstance(result, xr.DataTree):
        tree = result.map_over_datasets(_storable)
        # DataTree.to_zarr names variables by group
        chunks = {node.path: _encoding(node.to_dataset(inherit=False)) for node in tree.subtree}
        tree.to_zarr(store, zarr_format=3, consolidated=False, encoding=chunks)
    else:
        ds = _storable(result)
        ds.to_zarr(store, zarr_format=3, consolidated=False, encoding=_encoding(ds))
    return {path: buffer.to_bytes() for path, buffer in held.items()}


def order(result: Result) -> dict[str, list[str]]:
    """Names of the variables of every group as they stand, since a zarr group has no order of its own."""
    groups = {"/": result} if isinstance(result, xr.Dataset) else {n.path: n.to_dataset(inherit=False) for n in result.subtree}
    return {path: [str(name) for name in (*ds.coords, *ds.data_vars)] for path, ds in groups.items()}


def decode(files: Mapping[str, bytes], tree: bool, variables: Mapping[str, list[str]]) -> Result:
    """The dataset, or the tree, that :func:`encode` was given; ``variables`` is its :func:`order`."""
    store = MemoryStore({path: cpu.Buffer.from_bytes(data) for path, data in files.items()}, read_only=True)
    if tree:
        found = xr.open_datatree(cast(Any, store), engine="zarr", consolidated=False, chunks=None).load()
        groups = {node.path: _plain(node.to_dataset(inherit=False), variables[node.path]) for node in found.subtree}
        return xr.DataTree.from_dict({path: groups[path] for path in variables}, name=found.name)
    return _plain(xr.open_zarr(store, zarr_format=3, consolidated=False, chunks=None).load(), variables["/"])


def _storable(ds: xr.Dataset) -> xr.Dataset:
    """Without the encoding of an earlier file, and with all text as objects."""
    ds = ds.drop_encoding()
    text = {name: v for name, v in ds.variables.items() if v.dtype.kind in "UT"}
    return _replace(ds, text)


def _plain(ds: xr.Dataset, variables: list[str]) -> xr.Dataset:
    """Text as Python strings, which every numpy understands; in the old order; no trace of the file."""
    ds = _replace(ds.drop_encoding(), {name: v for name, v in ds.variables.items() if v.dtype.kind == "T"})
    data = {name: ds.variables[name] for name in variables if name in ds.data_vars}
    return xr.Dataset(data, {name: ds.variables[name] for name in variables if name in ds.coords}, ds.attrs)


def _replace(ds: xr.Dataset, text: Mapping[object, xr.Variable]) -> xr.Dataset:
    changed = {name: xr.Variable(v.dims, np.asarray(v.values).astype(object), v.attrs) for name, v in text.items()}
    return ds.assign_coords({n: v for n, v in changed.items() if n in ds.coords}).assign(
        {n: v for n, v in changed.items() if n not in ds.coords}
    )


def _encoding(ds: xr.Dataset) -> dict[object, dict[str, object]]:
    found: dict[object, dict[str, object]] = {}
    for name, variable in ds.variables.items():
        options: dict[str, object] = {"_FillValue": None}
        if variable.ndim and variable.size:
            options["chunks"] = _chunks(variable.shape, max(1, variable.dtype.itemsize))
        found[name] = options
    return found


def _chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """The whole array, halved along its first axes until a chunk is small enough."""
    sizes = list(shape)
    for axis in range(len(sizes)):
        rest = int(np.prod(sizes[axis + 1 :], dtype=np.int64)) * itemsize
        sizes[axis] = min(sizes[axis], max(1, CHUNK_BYTES // max(1, rest)))
        if sizes[axis] > 1 or rest <= CHUNK_BYTES:
            sizes[axis] = ceil(shape[axis] / ceil(shape[axis] / sizes[axis]))  # even parts
            break
    return tuple(sizes)
