"""How faithful circuits are, as tables: over their size, as areas, and against random circuits.

    >>> found = interp.evaluate_circuits(model, held_out, {"EAP": scores})                            # doctest: +SKIP
    >>> effects.faithfulness(found)[["line", "share", "edges", "f", "low", "high"]]                 # doctest: +SKIP
    >>> effects.circuit_areas(found)[["line", "cpr", "cmd", "in_sample"]]                           # doctest: +SKIP
    >>> effects.against_random(found)[["line", "size", "difference", "low", "high"]]                # doctest: +SKIP

They read effects of circuits by the name of their line, as :func:`interp.evaluate_circuits` gives them (what a result must have
for that stands in :mod:`interp.views.circuits`), and give the numbers that :func:`interp.views.faithfulness` draws.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from interp import axes as names
from interp import stats
from interp.effects import curves
from interp.effects.cells import choose_metric
from interp.effects.clusters import clusters_of
from interp.effects.quantities import fraction, noise_floor, recovery
from interp.effects.schema import EffectsError, families
from interp.effects.summaries import summary

SIZE = "size"
RANDOM = "random"
"""Attribute: what random circuits are like, "size" or "layers"; of other circuits it is not there."""
Lines = xr.DataTree | xr.Dataset
_IN_SAMPLE = ("in_sample", "in_sample_examples")


def faithfulness(result: Lines, metric: str | None = None, *, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """A row for every size of every line.

    ==============================  ===================================================================================
    ``line``, ``size``, ``share``   what was asked for; ``edges``, how many were left without those on no path
    ``f``, ``low``, ``high``        (m(C) − m(∅)) / (m(full) − m(∅)), of means over examples, and its interval over examples
                                    or templates; of random circuits mean and range of the draws
    ``mean_of_ratios``              mean over the examples whose own ratio is defined, ``defined`` of them
    ``value``, ``full``, ``empty``  the metric's means
    ==============================  ===================================================================================

    Args:
        result: effects of circuits, one line or several.
        metric: by default the first.
        level: of intervals.
        seed: of the bootstrap.

    Raises:
        EffectsError: circuits without a size.
        UnknownNameError: no such metric.
    """
    return pd.DataFrame([row for name, ds in _lines(result, metric) for row in _rows(name, ds, level, seed)])


def circuit_areas(result: Lines, metric: str | None = None, *, level: float = 0.95) -> pd.DataFrame:
    """CPR and CMD of every line with intervals over examples or templates, of random circuits over the range of the draws.

    NaN where a line has a single size.
    Both are of that line's own circuits. MIB takes CPR from signed scores and CMD from their sizes, which are two lines here
    (``by="lowers"`` and ``by="size"``). Where f is nowhere above 1, CPR + CMD of one line is the length of the axis, .999 for
    MIB's sizes; numbers of which that is not so are of two rankings, or of an f above 1.

    Args:
        result: effects of circuits, one line or several.
        metric: by default the first.
        level: of intervals.

    Returns:
        ``line``, ``by``, ``cpr``, ``cpr_low``, ``cpr_high``, likewise ``cmd``, ``in_sample`` (None where it is not known) and
        ``in_sample_examples``.
    """
    found = []
    for name, ds in _lines(result, metric):
        cpr, cmd = _areas(ds, level)
        row = {"line": name, "by": ds.attrs.get("by")}
        for kind, area in (("cpr", cpr), ("cmd", cmd)):
            row |= {kind: float(area.mean), f"{kind}_low": float(area.low), f"{kind}_high": float(area.high)}
        found.append(row | {key: ds.attrs.get(key) for key in _IN_SAMPLE})
    return pd.DataFrame(found)


def against_random(result: xr.DataTree, metric: str | None = None, *, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """What circuits do beyond random ones of their size, on the same examples.

    In the metric's own units, so that it is defined where the behaviour itself is not told from nothing.

    Strong edges move a metric further than random ones, whichever way: on examples that did not choose it, a circuit of noise
    is above nearly all random ones or below nearly all, by chance. So it is the interval over examples that tells whether it is
    above, and not its rank among the draws.

    Args:
        result: lines of circuits and of random ones of the same sizes.
        metric: by default the first.
        level: of intervals.
        seed: of the bootstrap.

    Returns:
        A row for every size of every line and control: ``line``, ``control``, ``size``; ``difference``, the mean over examples
        of m(C) less that of the mean of the draws, with ``low`` and ``high`` over examples or templates; ``above``, the share
        of the ``draws`` whose mean the circuit's exceeds, those within the noise floor of it for half; ``in_sample`` and
        ``in_sample_examples``.

    Raises:
        EffectsError: there are no random circuits.
    """
    every = _lines(result, metric)
    controls = {name: ds for name, ds in every if RANDOM in ds.attrs}
    rows = []
    for name, ds in every:
        for other, control in controls.items() if RANDOM not in ds.attrs else ():
            if name in control.attrs.get("like", [name]):
                rows += [{"line": name, "control": other} | row for row in _beside(ds, control, level, seed)]
    if not rows:
        raise EffectsError(
            "no line of circuits has random ones of the same size beside it; evaluate them with random=20: "
            "interp.evaluate_circuits(model, pairs, circuits, random=20)"
        )
    return pd.DataFrame(rows)


def _beside(ds: xr.Dataset, control: xr.Dataset, level: float, seed: int) -> list[dict[str, Any]]:
    """A line's circuits and random ones of the same size."""
    at = {size: i for i, size in enumerate(control[SIZE].values.tolist())}
    floor, rows = float(noise_floor(ds, rounding=True)), []
    for i, size in enumerate(ds[SIZE].values.tolist()):
        if size in at:
            values = ds["value"].isel({names.CELL: i}).values.astype(float)
            draws = control["value"].isel({names.CELL: at[size]}).transpose(names.SEED, names.EXAMPLE).values.astype(float)
            gap = stats.bootstrap_mean(values - draws.mean(0), clusters_of(ds).labels, level=level, seed=seed)
            each = values.mean() - draws.mean(-1)
            above = float(np.where(np.abs(each) <= floor, 0.5, each > 0).mean())
            row = {SIZE: size, "difference": float(gap.mean), "low": float(gap.low), "high": float(gap.high)}
            rows.append(row | {"above": above, "draws": len(draws)} | {key: ds.attrs.get(key) for key in _IN_SAMPLE})
    return rows


def _lines(result: Lines, metric: str | None) -> list[tuple[str, xr.Dataset]]:
    found = []
    for name, ds in families(result).items():
        if SIZE not in ds.coords or ds[SIZE].dims != (names.CELL,):
            whose = f" of {name}" if name else ""
            raise EffectsError(
                f"circuits{whose} need their sizes, a coordinate 'size' along 'cell'; interp.evaluate_circuits gives them"
            )
        found.append((name, choose_metric(ds, metric)))
    return found


def _share(ds: xr.Dataset) -> NDArray[np.float64]:
    sizes = ds[SIZE].values
    total = ds.attrs.get("total")
    return sizes.astype(float) if sizes.dtype.kind == "f" else sizes / total if total else np.full(len(sizes), np.nan)


def _rows(name: str, ds: xr.Dataset, level: float, seed: int) -> list[dict[str, Any]]:
    several = names.SEED in ds["value"].dims
    over = [names.SEED, names.EXAMPLE] if several else [names.EXAMPLE]
    if several:
        each = recovery(ds)
        f, low, high = (getattr(each, how)(names.SEED, skipna=False).values for how in ("mean", "min", "max"))
    else:
        table = summary(ds, "recovery", level=level, seed=seed).isel({names.METRIC: 0})
        f, low, high = (table[column].values for column in ("mean", "low", "high"))
    ratios = recovery(ds, "examples")
    defined = np.broadcast_to(ratios.coords["defined"].values, f.shape)
    ratios = ratios.mean(names.SEED, skipna=False) if several else ratios
    edges = ds.coords.get("edges", ds[SIZE])
    edges = edges.mean(names.SEED) if names.SEED in edges.dims else edges
    columns = {SIZE: ds[SIZE].values, "share": _share(ds), "edges": edges.values, "f": f, "low": low, "high": high}
    columns |= {"mean_of_ratios": ratios.values, "defined": defined, "value": ds["value"].mean(over, skipna=False).values}
    ends = {"full": float(ds["clean"].mean()), "empty": float(ds["corrupt"].mean())}
    return [{"line": name} | {key: c[i].item() for key, c in columns.items()} | ends for i in range(len(f))]


def _areas(ds: xr.Dataset, level: float) -> tuple[stats.Interval, stats.Interval]:
    share = _share(ds)
    if len(share) < 2:
        unknown = np.array(np.nan)
        nothing = stats.Interval(unknown, unknown, unknown, 0)
        return nothing, nothing
    if names.SEED in ds["value"].dims:
        every = np.array([curves.areas(share, f) for f in recovery(ds).transpose(names.SEED, names.CELL).values])
        low, high = every.min(0), every.max(0)
        cpr, cmd = (stats.Interval(every[:, i].mean(), low[i], high[i], len(every)) for i in range(2))
        return cpr, cmd
    numerator, denominator = fraction(ds, "recovery")
    dims = (names.CELL, names.EXAMPLE)
    defined = bool(abs(denominator.mean()) > noise_floor(ds, rounding=True))
    bottom = denominator.values if defined else np.full(denominator.shape, np.nan)
    return curves.area_intervals(share, numerator.transpose(*dims).values, bottom, clusters_of(ds).labels, level=level)
