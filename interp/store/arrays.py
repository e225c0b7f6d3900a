"""A dataset or a tree of them as named bytes in zarr format 3, and back; several of them as one zip.

Working on bytes in memory lets a checksum cover exactly what is decoded: nothing is read from disk again after it was
checked. Text is variable-length UTF-8 (zarr has no specification of fixed-width text), numbers keep their bits: no fill value
stands in for NaN.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from math import ceil
from typing import Any, cast

import numpy as np
import xarray as xr
import zarr
from zarr.abc.buffer import Buffer
from zarr.buffer import cpu
from zarr.storage import MemoryStore

#: Chunks are cut along the leading axes until none is larger than this (before compression).
CHUNK_BYTES = 16 * 2**20

Result = xr.Dataset | xr.DataTree
Chunks = Mapping[str, Mapping[str, Mapping[str, int]]]


def pack(files: Mapping[str, bytes]) -> bytes:
    """Named bytes as one zip, uncompressed (zarr compresses chunks itself), the same for the same files."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as packed:
        for path in sorted(files):
            packed.writestr(zipfile.ZipInfo(path), files[path])  # the date is 1980: no clock enters
    return whole.getvalue()


def unpack(data: bytes) -> dict[str, bytes]:
    """What :func:`pack` was given.

    Raises:
        ValueError: it is no such zip.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in packed.infolist()):
                raise ValueError("an entry of the zip is compressed")
            return {name: packed.read(name) for name in packed.namelist()}
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from error


def encode(result: Result, chunks: Chunks | None = None) -> dict[str, bytes]:
    """The files of a zarr group, by path inside it.

    Args:
        chunks: by group and variable, how long a chunk is along axes that are cut; the others are whole.
    """
    chunks = chunks or {}
    held: dict[str, Buffer] = {}
    store = MemoryStore(held)
    if isinstance(result, xr.DataTree):
        tree = result.map_over_datasets(_storable)
        # DataTree.to_zarr names variables by group
        groups = {n.path: _encoding(n.to_dataset(inherit=False), chunks.get(n.path, {})) for n in tree.subtree}
        tree.to_zarr(store, zarr_format=3, consolidated=False, encoding=groups)
    else:
        ds = _storable(result)
        ds.to_zarr(store, zarr_format=3, consolidated=False, encoding=_encoding(ds, chunks.get("/", {})))
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


_ARRAY = "array"


def wrapped(array: xr.DataArray) -> xr.Dataset:
    """An array alone as a dataset that says the same of itself."""
    return array.rename(_ARRAY).to_dataset().assign_attrs(array.attrs)


def unwrapped(ds: xr.Dataset, name: str | None) -> xr.DataArray:
    """The array of :func:`wrapped`, under its own name."""
    return ds[_ARRAY].rename(name)


class Filler:
    """Makes the chunks of a part of a zarr group that is not filled yet.

    Args:
        files: what :func:`encode` gave of the group.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._held: dict[str, Buffer] = {path: cpu.Buffer.from_bytes(data) for path, data in files.items()}
        self._known = set(files)
        self._store = MemoryStore(self._held)
        self._open: dict[str, Any] = {}

    def fill(self, family: str, index: Mapping[str, slice], values: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, bytes]:
        """The chunks of some variables, by path in the group; NaN throughout needs none.

        Args:
            family: path of their dataset.
            index: the part, along the axes that are cut; it is made of whole chunks.
            values: an array for each variable, of that part's shape.
        """
        for name, array in values.items():
            target = self._array(f"{family.strip('/')}/{name}".strip("/"))
            target[tuple(index.get(dim, slice(None)) for dim in target.metadata.dimension_names)] = array
        return {path: self._held.pop(path).to_bytes() for path in set(self._held) - self._known}

    def _array(self, path: str) -> Any:
        if path not in self._open:
            self._open[path] = zarr.open_array(self._store, path=path, mode="r+", zarr_format=3)
        return self._open[path]


def _storable(ds: xr.Dataset) -> xr.Dataset:
    """Without the encoding of an earlier file, and with all text as objects."""
    ds = ds.drop_encoding()
    text = {name: v for name, v in ds.variables.items() if v.dtype.kind in "UT"}
    return _replace(ds, text)


def _plain(ds: xr.Dataset, variables: list[str]) -> xr.Dataset:
    """Text as Python strings, which every numpy understands; in the old order; no trace of the file."""
    ds = _replace(ds.drop_encoding(), {name: v for name, v in ds.variables.items() if v.dtype.kind == "T"})
    if set(variables) != set(ds.variables):
        raise ValueError(f"it holds the variables {', '.join(map(str, ds.variables))}, expected {', '.join(variables)}")
    data = {name: ds.variables[name] for name in variables if name in ds.data_vars}
    return xr.Dataset(data, {name: ds.variables[name] for name in variables if name in ds.coords}, ds.attrs)


def _replace(ds: xr.Dataset, text: Mapping[object, xr.Variable]) -> xr.Dataset:
    changed = {name: xr.Variable(v.dims, np.asarray(v.values).astype(object), v.attrs) for name, v in text.items()}
    return ds.assign_coords({n: v for n, v in changed.items() if n in ds.coords}).assign(
        {n: v for n, v in changed.items() if n not in ds.coords}
    )


def _encoding(ds: xr.Dataset, chunks: Mapping[str, Mapping[str, int]]) -> dict[object, dict[str, object]]:
    found: dict[object, dict[str, object]] = {}
    for name, variable in ds.variables.items():
        options: dict[str, object] = {"_FillValue": None}
        if str(name) in chunks:
            options["chunks"] = tuple(chunks[str(name)].get(str(d), ds.sizes[d]) for d in variable.dims)
        elif variable.ndim and variable.size:
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
