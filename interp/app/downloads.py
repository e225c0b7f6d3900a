"""What is downloaded: a figure as HTML, PNG or SVG, numbers as CSV or netCDF. Made in memory or in a folder of its own.

>>> numbers(effects, "csv")[:40]                                                         # doctest: +SKIP
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import plotly.graph_objects as go
import xarray as xr

from interp import effects as fx
from interp import views
from interp.store import export
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


def numbers(data: xr.Dataset | xr.DataTree, ending: str) -> bytes:
    """A result as :mod:`interp.store.export` writes it; the CSV of a sweep has the effect as well.

    Raises:
        StoreError: what the format cannot hold.
    """
    if ending == "csv" and isinstance(data, xr.Dataset) and fx.is_effects(data):
        data = data.assign(effect=fx.effect(data))
    return export.content(data, f".{ending}")


def filename(*words: str, ending: str) -> str:
    """A name for a file, of letters, digits and dashes."""
    return f"{re.sub(r'[^A-Za-z0-9._]+', '-', ' '.join(filter(None, words))).strip('-.') or 'run'}.{ending}"
