"""Results over examples: the mean and interval of every cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from interp import axes as names
from interp import stats
from interp.effects.clusters import clusters_of
from interp.effects.quantities import QUANTITIES, effect, fraction, noise_floor
from interp.effects.schema import require_values, swept_axes
from interp.effects.significance import sign_flip
from interp.errors import UnknownNameError


def summary(
    ds: xr.Dataset,
    quantity: str = "recovery",
    *,
    level: float = 0.95,
    clusters: str | None = "template",
    method: str = "bootstrap",
    resamples: int = 1000,
    flips: int = 0,
    seed: int = 0,
) -> xr.Dataset:
    """Mean and interval of every cell.

    Recovery and damage are ratios of means whose numerator and denominator are resampled together; a metric whose
    denominator's interval covers 0, or comes near it (:data:`interp.stats.FIRM`), is undefined, NaN. Where examples carry at
    least :data:`FEWEST_CLUSTERS` templates, whole templates are resampled; with fewer, examples are, and the interval then
    holds for these templates only. The attribute ``resampled`` says which ("template" or "example"), ``templates`` how many
    there were, ``effective`` how many of equal size tell as much. Intervals are of one cell at a time: they are not adjusted
    for looking at many.

    Args:
        ds: a result.
        quantity: recovery, damage, effect or value.
        level: of the intervals.
        clusters: the coordinate along example that names the clusters; None resamples examples.
        method: bootstrap, or Student's t to first order (much faster on maps of 10⁵ cells).
        resamples: bootstrap draws, the same for every cell.
        flips: of :func:`sign_flip`, whose ``p_alone``, ``p_adjusted`` and ``survives`` are then given too: whether the *effect*
            differs from 0, whatever the quantity. 0 leaves the test out.
        seed: of the draws.

    Returns:
        ``mean``, ``low``, ``high``, ``se`` (standard error, to first order), ``n`` (examples that are there) and
        ``n_effective`` (how many independent units of equal size tell as much), each ``[metric, *axes]``.
    """
    if quantity not in QUANTITIES:
        raise UnknownNameError("quantity", quantity, QUANTITIES)
    if method not in ("bootstrap", "t"):
        raise UnknownNameError("method", method, ("bootstrap", "t"))
    require_values(ds)
    ds = ds if names.METRIC in ds.dims else ds.expand_dims(names.METRIC)
    of = clusters_of(ds, clusters)
    dims = (names.METRIC, *swept_axes(ds))
    shape = tuple(ds.sizes[d] for d in dims)
    columns = {name: np.full(shape, np.nan) for name in ("mean", "low", "high", "se")}
    floors = noise_floor(ds, rounding=True)
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
                over, under, of.labels, level=level, resamples=resamples, seed=seed, floor=least
            )
        else:
            found_interval = stats.t_interval(over, under, of.labels, level=level, floor=least)
        for name, column in columns.items():
            column[i] = getattr(found_interval, name)
    out = xr.Dataset({name: (dims, array) for name, array in columns.items()})
    out["n"] = ds["value"].notnull().sum(names.EXAMPLE).transpose(*dims)
    out["n_effective"] = out["n"].astype(float) if of.labels is None else (dims, np.full(shape, of.effective))
    resampled: dict[str, Any] = {"resampled": of.unit, "templates": of.templates, "effective": of.effective}
    resampled |= {"level": level, "method": method}
    if flips:
        test = sign_flip(ds, level=level, clusters=clusters, flips=flips, seed=seed)
        out = out.assign({name: test[name] for name in ("p_alone", "p_adjusted", "survives")})
        resampled["sign_flips"] = test.attrs["sign_flips"]
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
