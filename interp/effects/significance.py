"""Which cells of a result have an effect at all, for having looked at all of them."""

from __future__ import annotations

import numpy as np
import xarray as xr

from interp import axes as names
from interp import stats
from interp.effects.clusters import clusters_of
from interp.effects.quantities import effect, noise_floor
from interp.effects.schema import require, swept_axes


def sign_flip(
    ds: xr.Dataset, *, level: float = 0.95, clusters: str | None = "template", flips: int = 1000, seed: int = 0
) -> xr.Dataset:
    """The max-T sign-flip test of every cell's effect (:func:`interp.stats.sign_flip`), over all cells of a metric.

    Cells that are 0 by rule, absent, not computed, or within the run's noise floor in every example are not tested, and count
    as no cell that was looked at. What is given is what was looked at: of a slice, only the slice.

    Whole templates are flipped where :func:`summary` resamples them. G of them give no p-value below 2^(1−G), so with four or
    five nothing survives at 0.05, however strong; ``attrs["sign_flips"]`` says so with ``smallest_p``. ``clusters=None`` flips
    examples, and what survives then does so on these templates only.

    Args:
        ds: a result.
        level: a cell survives where its adjusted p is at most 1 − level, and its mean effect above the noise floor.
        clusters: the coordinate along example that names the clusters; None flips examples.
        flips: see :func:`interp.stats.sign_flip`.
        seed: of random flips.

    Returns:
        ``p_alone`` and ``p_adjusted`` (NaN where not tested), ``survives``, and ``low_adjusted`` and ``high_adjusted`` of
        intervals of the effect that hold for all cells at once, each ``[metric, *axes]``.
    """
    require(ds)
    ds = ds if names.METRIC in ds.dims else ds.expand_dims(names.METRIC)
    of = clusters_of(ds, clusters)
    dims = (names.METRIC, *swept_axes(ds))
    parts, cells = [], {}
    for i, metric in enumerate(ds[names.METRIC].values.tolist()):
        one = ds.isel({names.METRIC: i})
        change = effect(one).transpose(*dims[1:], names.EXAMPLE).values.astype(float)
        floor = float(noise_floor(one))
        found = stats.sign_flip(change, of.labels, among=np.abs(change).max(-1) > floor, level=level, flips=flips, seed=seed)
        survives = (found.p_adjusted <= 1 - level) & (np.abs(change.mean(-1)) > floor)
        parts.append((found.p_alone, found.p_adjusted, survives, found.low, found.high))
        cells[str(metric)] = found.cells
    columns = ("p_alone", "p_adjusted", "survives", "low_adjusted", "high_adjusted")
    out = xr.Dataset({name: (dims, np.stack(column)) for name, column in zip(columns, zip(*parts, strict=True), strict=True)})
    said = {"flipped": of.unit, "units": found.n, "cells": cells, "level": level}
    said |= {"smallest_p": found.smallest, "exact": found.exact}
    return out.assign_coords({k: v for k, v in ds.coords.items() if names.EXAMPLE not in v.dims}).assign_attrs(
        ds.attrs | {"sign_flips": said}
    )
