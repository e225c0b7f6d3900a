"""What is downloaded: a figure as HTML, PNG or SVG, numbers as CSV or netCDF. Made in memory or in a folder of its own.

>>> csv(effects)[:40]                                                                    # doctest: +SKIP
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import xarray as xr

from interp import effects as fx
from interp import views
from interp.app.choices import is_sweep
from interp.errors import InputError
from interp.views.export import missing_exporter

MIMES = {
    "html": "text/html",
    "png": "image/png",
    "svg": "image/svg+xml",
    "csv": "text/csv",
    "nc": "application/x-netcdf",
}


def endings() -> tuple[list[str], str]:
    """How figures can be written here, and what the other ways need."""
    why = missing_exporter()
    return ["html"] if why else ["html", "png", "svg"], why


def figure(drawn: go.Figure, ending: str) -> bytes:
    """A figure as a file.

    Raises:
        ExportError: what draws images is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        return views.save(drawn, Path(folder) / f"figure.{ending}").read_bytes()


def csv(data: xr.Dataset | xr.DataArray) -> bytes:
    """A row a value: of a sweep every metric, cell and example with its baselines; of another result its largest variables."""
    if isinstance(data, xr.DataArray):
        table = data.rename("difference").to_dataframe()
    else:
        table = _sweep(data).to_dataframe() if is_sweep(data) else _largest(data).to_dataframe()
    return table.reset_index().to_csv(index=False).encode()


def netcdf(ds: xr.Dataset) -> bytes:
    """The whole dataset in netCDF 3: truth values as 0 and 1, attributes that are no text or number as JSON.

    Raises:
        InputError: what the format cannot hold.
    """
    found = {name: _storable(variable) for name, variable in ds.drop_encoding().variables.items()}
    coords = {name: variable for name, variable in found.items() if name in ds.coords}
    data = {name: variable for name, variable in found.items() if name not in ds.coords}
    plain = xr.Dataset(data, coords, _attributes(ds.attrs))
    try:
        return bytes(plain.to_netcdf(engine="scipy"))
    except ValueError as error:  # whole numbers beyond 32 bits
        raise InputError(f"netCDF 3 cannot hold this result: {error}; take the CSV") from error


def filename(*words: str, ending: str) -> str:
    """A name for a file, of letters, digits and dashes."""
    return f"{re.sub(r'[^A-Za-z0-9._]+', '-', ' '.join(filter(None, words))).strip('-.') or 'run'}.{ending}"


def _sweep(ds: xr.Dataset) -> xr.Dataset:
    drawn = [name for name in ("value", "clean", "corrupt", "given", "by_rule") if name in ds]
    prompts = [name for name in ds.coords if str(name).endswith(("_prompt", "_token"))]
    return ds[drawn].drop_vars(prompts).assign(effect=fx.effect(ds))


def _largest(ds: xr.Dataset) -> xr.Dataset:
    """The variable of most axes, with all that have no others."""
    dims = set(max(ds.data_vars.values(), key=lambda array: array.ndim).dims)
    few = ds[[name for name, array in ds.data_vars.items() if set(array.dims) <= dims]]
    return few.drop_vars([name for name in few.coords if str(name) == "prompt"])


def _storable(variable: xr.Variable) -> xr.Variable:
    values = variable.values
    kinds: dict[str, Any] = {"b": "int8", "O": str}
    return xr.Variable(variable.dims, values.astype(kinds.get(values.dtype.kind, values.dtype)), _attributes(variable.attrs))


def _attributes(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    plain = {str(k): v for k, v in attrs.items()}
    simple = {k for k, v in plain.items() if isinstance(v, str | int | float) and not isinstance(v, bool)}
    return {k: v if k in simple else json.dumps(v, ensure_ascii=False) for k, v in plain.items()}
