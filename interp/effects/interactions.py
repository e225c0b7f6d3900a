"""Interactions of pairs: what two changes together do beyond the sum of what each does alone.

    I(a, b) = Δ(ab) − Δ(a) − Δ(b),        Δ = the metric with the change − the metric of the base

Of two parts that help, I is below 0 where they are redundant (each makes up for the other, so that losing both costs more than
the sum), and above 0 where one works through the other (losing the second costs nothing more). It is 0 where they add up. Of a
part that undoes what another one did it is below 0, without any redundancy: the single effects tell these apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from interp import axes as names
from interp.effects.origin import STAMP
from interp.effects.quantities import effect
from interp.effects.schema import EffectsError, base, validate
from interp.effects.summaries import summary

FIRST, SECOND = "first", "second"
INTERACTION = "interaction"


def interaction(ds: xr.Dataset) -> xr.DataArray:
    """I(a, b) of every pair and example along ``cell``; NaN at what was changed alone.

    Args:
        ds: as :func:`interp.interactions` gives it: cells with ``first`` and ``second``, which is empty of a single one.

    Raises:
        EffectsError: a result of something else, or without one of the single changes.
    """
    first, second = _ends(ds)
    found = effect(ds).astype("float64")
    lone = -found.where(found[SECOND] == "", np.nan)
    both = np.flatnonzero(second >= 0)
    whole = found.transpose(names.CELL, ...).values
    values = np.full(whole.shape, np.nan)
    values[both] = whole[both] - whole[first[both]] - whole[second[both]]
    return lone.transpose(names.CELL, ...).copy(data=values).transpose(*found.dims).rename(INTERACTION).assign_attrs(_said(ds))


def pairwise(
    ds: xr.Dataset,
    *,
    level: float = 0.95,
    clusters: str | None = "template",
    method: str = "t",
    flips: int = 0,
    seed: int = 0,
) -> xr.Dataset:
    """Interactions over examples, as a square of all by all.

    Args:
        ds: as for :func:`interaction`.
        level, clusters, method, flips, seed: as for :func:`interp.summary`.

    Returns:
        ``interaction`` with ``low``, ``high`` and ``se``, and ``together``, the mean effect of both, by (metric, first,
        second): symmetric, and NaN on the diagonal; ``single``, the mean effect of each alone, by (metric, first). With
        ``flips`` also ``p_adjusted`` and ``survives``: whether an interaction differs from 0, among all pairs.

    Raises:
        EffectsError: as :func:`interaction`. UnknownNameError: another method.
    """
    first, second = _ends(ds)
    both, alone = np.flatnonzero(second >= 0), np.flatnonzero(second < 0)
    of_pairs = ds.isel({names.CELL: both})
    before = base(of_pairs).astype("float64")
    wide = {name: of_pairs[name].astype("float64") for name in ("clean", "corrupt", "given") if name in of_pairs}
    as_effects = of_pairs.assign(wide | {"value": before + interaction(ds).isel({names.CELL: both})})
    as_effects["value"] = as_effects["value"].transpose(*ds["value"].dims)
    found = summary(as_effects, "effect", level=level, clusters=clusters, method=method, flips=flips, seed=seed)
    mean = effect(ds).astype("float64").mean(names.EXAMPLE, skipna=False).transpose(names.METRIC, names.CELL)
    place = {cell: number for number, cell in enumerate(alone.tolist())}
    ends = [np.array([place[cell] for cell in which[both].tolist()]) for which in (first, second)]
    count = len(alone)

    def square(values: np.ndarray[Any, Any]) -> tuple[tuple[str, ...], np.ndarray[Any, Any]]:
        whole = np.full((len(values), count, count), False if values.dtype == bool else np.nan, dtype=values.dtype)
        whole[:, ends[0], ends[1]] = whole[:, ends[1], ends[0]] = values
        return (names.METRIC, FIRST, SECOND), whole

    names_of = ds[FIRST].values[alone].tolist()
    variables = {INTERACTION: found["mean"], "together": mean.isel({names.CELL: both})}
    variables |= {name: found[name] for name in ("low", "high", "se", "p_adjusted", "survives") if name in found}
    kept = {key: value for key, value in found.attrs.items() if key != "quantity"}
    return xr.Dataset(
        {name: square(one.values) for name, one in variables.items()}
        | {"single": ((names.METRIC, FIRST), mean.values[:, alone])},
        coords={names.METRIC: np.atleast_1d(ds[names.METRIC].values), FIRST: names_of, SECOND: names_of},
        attrs=kept | _said(ds) | {"n": ds.sizes[names.EXAMPLE]},
    )


def _ends(ds: xr.Dataset) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """``[cell]``, the cells at which the first and the second of each are changed alone; −1 for no second."""
    validate(ds)
    if not {FIRST, SECOND} <= set(ds.coords) or names.CELL not in ds[FIRST].dims:
        raise EffectsError(
            "this result has no coordinates 'first' and 'second' along 'cell'; interactions are of what interp.interactions(…) "
            "gives"
        )
    first, second = (ds[name].values.tolist() for name in (FIRST, SECOND))
    alone = {a: cell for cell, (a, b) in enumerate(zip(first, second, strict=True)) if not b}
    missing = sorted({name for name in (*first, *second) if name and name not in alone})
    if missing:
        raise EffectsError(
            f"{missing[0]} is here in pairs, but not alone, so that interactions have nothing to be compared with; select "
            "pairs of interp.effects.interaction(result), not of the result"
        )
    return np.array([alone[a] for a in first]), np.array([alone[b] if b else -1 for b in second])


def _said(ds: xr.Dataset) -> dict[str, Any]:
    kept = {key: value for key, value in ds.attrs.items() if key not in (STAMP, "spec", "noise_floor")}
    return kept | {"quantity": "interaction, Δ(ab) − Δ(a) − Δ(b)"}
