"""Where results bring the known circuit with them, by which scores of edges are judged.

>>> truth_of({"EAP": scores.assign_coords(truth=("cell", known))}).truth                # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import xarray as xr

from interp import effects as fx

TRUTH = "truth"
"""The coordinate, bool along edges, that says which of them are in the known circuit."""
Results = Mapping[str, xr.Dataset]


class Truth(NamedTuple):
    """A known circuit, and what is judged by it."""

    scores: dict[str, Any]
    truth: xr.DataArray


def truth_of(results: Results) -> Truth | None:
    """Scores by name and the known circuit, where one result brings it: as a coordinate, or as all that it is."""
    for name, ds in results.items():
        whole = [v for v in ds.data_vars.values() if v.dtype == bool] if len(ds.data_vars) == 1 else []
        truth = whole[0] if whole else ds.coords.get(TRUTH)
        if truth is None or truth.dtype != bool or not truth.ndim:
            continue
        scores = {other: _scores(one, truth) for other, one in results.items() if not (whole and other == name)}
        if scores and all(one is not None for one in scores.values()):
            return Truth(scores, truth)
    return None


def _scores(ds: xr.Dataset, truth: xr.DataArray) -> xr.Dataset | xr.DataArray | None:
    """What ranks the edges of a known circuit."""
    for name in ("value",) if fx.is_effects(ds) else ds.data_vars:
        v = ds[name]
        if v.dtype.kind in "fiub" and all(a in v.dims or (a in v.coords and v[a].ndim == 1) for a in truth.dims):
            return ds if fx.is_effects(ds) else v.assign_attrs({**ds.attrs, **v.attrs})
    return None
