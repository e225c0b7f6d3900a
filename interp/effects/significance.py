"""Which cells of a result have an effect at all, for having looked at all of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from interp import axes as names
from interp import stats
from interp.effects.clusters import Clusters, clusters_of
from interp.effects.quantities import effect, noise_floor
from interp.effects.schema import EffectsError, require_values, swept_axes


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
    return sign_flip_together({"": ds}, level=level, clusters=clusters, flips=flips, seed=seed)[""]


def sign_flip_together(
    families: Mapping[str, xr.Dataset],
    *,
    level: float = 0.95,
    clusters: str | None = "template",
    flips: int = 1000,
    seed: int = 0,
) -> dict[str, xr.Dataset]:
    """:func:`sign_flip` of several families of one sweep, adjusted for having looked at the cells of all of them.

    Args:
        families: results by name, of the same examples and metrics.
        level, clusters, flips, seed: see :func:`sign_flip`.

    Returns:
        What :func:`sign_flip` gives, for every family; ``attrs["sign_flips"]["cells"]`` counts the cells of all.

    Raises:
        EffectsError: families of other examples or metrics.
    """
    every = [_with_metric(ds) for ds in families.values()]
    of, metrics = _alike(list(families), every, clusters)
    columns: list[list[list[np.ndarray]]] = [[] for _ in every]
    cells = {}
    for metric in metrics:
        ones = [ds.sel({names.METRIC: metric}) for ds in every]
        own = [effect(one).transpose(*swept_axes(one), names.EXAMPLE).values.astype(float) for one in ones]
        change = np.concatenate([values.reshape(-1, values.shape[-1]) for values in own])
        ends = np.cumsum([0, *(values[..., 0].size for values in own)])
        floor = np.repeat([float(noise_floor(one)) for one in ones], np.diff(ends))
        found = stats.sign_flip(change, of.labels, among=np.abs(change).max(-1) > floor, level=level, flips=flips, seed=seed)
        survives = (found.p_adjusted <= 1 - level) & (np.abs(change.mean(-1)) > floor)
        every_column = (found.p_alone, found.p_adjusted, survives, found.low, found.high)
        for i, values in enumerate(own):
            columns[i].append([column[ends[i] : ends[i + 1]].reshape(values.shape[:-1]) for column in every_column])
        cells[metric] = found.cells
    said = {"flipped": of.unit, "units": found.n, "cells": cells, "level": level}
    said |= {"smallest_p": found.smallest, "exact": found.exact}
    return {
        name: xr.Dataset(
            {
                column: ((names.METRIC, *swept_axes(ds)), np.stack(of_metrics))
                for column, of_metrics in zip(_COLUMNS, zip(*own_columns, strict=True), strict=True)
            },
            coords={k: v for k, v in ds.coords.items() if names.EXAMPLE not in v.dims},
            attrs=ds.attrs | {"sign_flips": said},
        )
        for name, ds, own_columns in zip(families, every, columns, strict=True)
    }


_COLUMNS = ("p_alone", "p_adjusted", "survives", "low_adjusted", "high_adjusted")


def _with_metric(ds: xr.Dataset) -> xr.Dataset:
    require_values(ds)
    return ds if names.METRIC in ds.dims else ds.expand_dims(names.METRIC)


def _alike(called: list[str], every: list[xr.Dataset], clusters: str | None) -> tuple[Clusters, list[str]]:
    """The clusters and the metrics that all families share."""
    of, metrics = clusters_of(every[0], clusters), [str(metric) for metric in every[0][names.METRIC].values]
    for name, ds in zip(called[1:], every[1:], strict=True):
        own = clusters_of(ds, clusters).labels
        alike = own is of.labels if own is None or of.labels is None else np.array_equal(own, of.labels)
        same = alike and ds.sizes[names.EXAMPLE] == every[0].sizes[names.EXAMPLE]
        if not same or metrics != [str(metric) for metric in ds[names.METRIC].values]:
            raise EffectsError(
                f"{called[0]} and {name} differ in {'their metrics' if same else 'their examples'}; "
                "families that are tested together are those of one sweep"
            )
    return of, metrics
