"""Results over examples: the mean and interval of every cell, and the table of the strongest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from interp import axes as names
from interp import stats
from interp.effects.cells import cell_name, choose_metric
from interp.effects.quantities import QUANTITIES, effect, fraction, noise_floor
from interp.effects.schema import DENOISING, paired, require, swept_axes
from interp.errors import UnknownNameError

FEWEST_CLUSTERS = 4
"""With fewer templates than this an interval over templates says nearly nothing (t = 4.3 at three), so examples are taken."""

_TOLD = ("edge", "intervention")
"""Coordinates that say what a cell of a list is."""


def summary(
    ds: xr.Dataset,
    quantity: str = "recovery",
    *,
    level: float = 0.95,
    clusters: str | None = "template",
    method: str = "bootstrap",
    resamples: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Mean and interval of every cell.

    Recovery and damage are ratios of means whose numerator and denominator are resampled together; a metric whose
    denominator's interval covers 0 is undefined, NaN. Where examples carry at least :data:`FEWEST_CLUSTERS` templates, whole
    templates are resampled; with fewer, examples are, and the interval then holds for these templates only. The attribute
    ``resampled`` says which ("template" or "example"), ``templates`` how many there were. Intervals are of one cell at a
    time: they are not adjusted for looking at many.

    Args:
        ds: a result.
        quantity: recovery, damage, effect or value.
        level: of the intervals.
        clusters: the coordinate along example that names the clusters; None resamples examples.
        method: bootstrap, or Student's t to first order (much faster on maps of 10⁵ cells).
        resamples: bootstrap draws, the same for every cell.
        seed: of the draws.

    Returns:
        ``mean``, ``low``, ``high``, ``n`` (examples that are there) and ``n_effective`` (units taken as independent), each
        ``[metric, *axes]``.
    """
    if quantity not in QUANTITIES:
        raise UnknownNameError("quantity", quantity, QUANTITIES)
    if method not in ("bootstrap", "t"):
        raise UnknownNameError("method", method, ("bootstrap", "t"))
    require(ds)
    ds = ds if names.METRIC in ds.dims else ds.expand_dims(names.METRIC)
    labels = np.asarray(ds[clusters].values).astype(str) if clusters is not None and clusters in ds.coords else None
    found = 0 if labels is None else len(set(labels.tolist()))
    if found < FEWEST_CLUSTERS:
        labels = None
    dims = (names.METRIC, *swept_axes(ds))
    shape = tuple(ds.sizes[d] for d in dims)
    columns = {name: np.full(shape, np.nan) for name in ("mean", "low", "high")}
    floors = noise_floor(ds, rounding=True)
    units = ds.sizes[names.EXAMPLE]
    for i in range(shape[0]):  # a metric at a time bounds the memory
        one = ds.isel({names.METRIC: i})
        if quantity in ("recovery", "damage"):
            numerator, denominator = fraction(one, quantity)
            floor = floors.isel({names.METRIC: i})
        else:
            numerator = one["value"] if quantity == "value" else effect(one)
            denominator = xr.ones_like(one["clean"], dtype=float)
            floor = xr.zeros_like(one["clean"].isel({names.EXAMPLE: 0}), dtype=float)
        over = numerator.transpose(*dims[1:], names.EXAMPLE).values
        under, least = _beside(denominator, (*dims[1:], names.EXAMPLE)), _beside(floor, dims[1:])
        if method == "bootstrap":
            found_interval = stats.bootstrap_ratio(
                over, under, labels, level=level, resamples=resamples, seed=seed, floor=least
            )
        else:
            found_interval = stats.t_interval(over, under, labels, level=level, floor=least)
        columns["mean"][i], columns["low"][i], columns["high"][i] = found_interval[:3]
        units = found_interval.n
    out = xr.Dataset({name: (dims, array) for name, array in columns.items()})
    out["n"] = ds["value"].notnull().sum(names.EXAMPLE).transpose(*dims)
    out["n_effective"] = (dims, np.full(shape, units)) if labels is not None else out["n"]
    resampled = {"resampled": "example" if labels is None else clusters, "templates": found, "level": level, "method": method}
    return out.assign_coords({k: v for k, v in ds.coords.items() if names.EXAMPLE not in v.dims}).assign_attrs(
        ds.attrs | {"quantity": quantity} | resampled
    )


def _beside(array: xr.DataArray, dims: Sequence[str]) -> np.ndarray[Any, Any]:
    """Values that broadcast to ``[*dims]``: length 1 along dims that ``array`` lacks, but for those before its own."""
    first = next((i for i, dim in enumerate(dims) if dim in array.dims), len(dims))
    return (
        array.transpose(*dims, missing_dims="ignore")
        .expand_dims({dim: 1 for dim in dims[first:] if dim not in array.dims})
        .transpose(*dims[first:])
        .values
    )


def top(ds: xr.Dataset, k: int = 10, metric: str | None = None, *, level: float = 0.95) -> pd.DataFrame:
    """The ``k`` cells of largest |effect|, strongest first, as a table.

    Columns: ``cell`` (``L9H6``, or the intervention or edge that it is), the swept axes, ``effect`` with ``low`` and ``high``,
    the normalised quantity that fits the run (``recovery`` when denoising, ``damage`` when noising; NaN where it is undefined,
    left out of prompts without a counterfactual) and ``n``. The strongest of many are partly strong by luck: their intervals
    are not adjusted for the choice.
    """
    chosen = choose_metric(ds, metric)
    table = summary(chosen, "effect", level=level).isel({names.METRIC: 0})
    normalised = ["recovery" if ds.attrs["patching"] == DENOISING else "damage"] if paired(ds) else []
    for quantity in normalised:
        table[quantity] = summary(chosen, quantity, level=level)["mean"].isel({names.METRIC: 0})
    axes = swept_axes(ds)
    flat = table.stack(place=axes, create_index=False) if axes else table.expand_dims("place")
    columns = [a for a in names.ALL if a in flat.coords and a not in (names.CELL, names.METRIC)]
    data = {c: np.broadcast_to(flat[c].values, flat.sizes["place"]) for c in columns}
    data |= {c: flat[c].values for c in ("mean", "low", "high", *normalised, "n")}
    frame = pd.DataFrame(data).rename(columns={"mean": "effect"}).dropna(subset=["effect"])
    told = [name for name in _TOLD if name in flat.coords] or [names.CELL] * (names.CELL in axes and not columns)
    said = np.broadcast_to(flat[told[0]].values, flat.sizes["place"])[frame.index] if told else [""] * len(frame)
    at = [cell_name(row) for row in frame[columns].to_dict("records")] if columns or not told else [""] * len(frame)
    frame.insert(0, "cell", [" ".join(filter(None, (str(one), where))) for one, where in zip(said, at, strict=True)])
    order = frame["effect"].abs().sort_values(ascending=False, kind="stable").index[:k]
    return frame.loc[order].reset_index(drop=True)
