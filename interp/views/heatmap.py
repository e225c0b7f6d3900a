"""Maps of a sweep: layer × position, layer × head, or any two of its axes.

    >>> from interp import views
    >>> views.heatmap(effects)                                             # doctest: +SKIP
    >>> views.heatmap(effects, quantity="effect", metric="prob")           # doctest: +SKIP
    >>> views.heatmap(effects.isel(position=-1), x="head", y="layer")      # doctest: +SKIP

Signed quantities are red below 0, blue above, with the colours symmetric about 0; raw values of one sign are sequential.
Every colour that is not of the scale says why there is no number, and the legend names it: the site does not exist, it was
not computed yet, the normalising difference cannot be told from 0, or the effect is within the run's own noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from interp import axes as names
from interp import effects as fx
from interp.errors import UnknownNameError
from interp.views import labels
from interp.views.layout import PAGE, dress

#: Why a cell has no colour of the scale, in the order in which it is drawn. None of these colours occurs in the scales.
WHY = {
    "within noise": "#e2e2e2",
    "undefined: clean ≈ corrupted": "#d9c7e8",
    "not computed": "#fdf0b0",
    "no such site": "#9a9a9a",
}
_NOISE, _UNDEFINED, _MISSING, _ABSENT = WHY

#: Blue at the top, so positive is blue; the default of every signed quantity.
DIVERGING = "RdBu"
SEQUENTIAL = "Viridis"


@dataclass(frozen=True, slots=True)
class _Map:
    """A summary with one metric, laid out ``[y, x]``, and what belongs in its hover."""

    table: xr.Dataset
    raw: xr.Dataset
    by_rule: NDArray[np.bool_]
    why: NDArray[np.object_]
    """The reason why a cell is not coloured by its number; "" where it is."""
    quantity: str
    metric: str


def heatmap(
    effects: xr.Dataset,
    *,
    x: str | None = None,
    y: str | None = None,
    quantity: str | None = None,
    metric: str | None = None,
    title: str | None = None,
    width: int = PAGE,
    limit: float | None = None,
    template: str = "plotly_white",
    level: float = 0.95,
    seed: int = 0,
) -> go.Figure:
    """A map of mean effects over two swept axes, with intervals in the hover.

    Args:
        effects: a result whose sweep has two axes (axes of length 1 do not count).
        x: the axis from left to right; by default the last one.
        y: the axis from bottom to top; by default the other one.
        quantity: recovery, damage, effect or value. By default recovery of ``logit_diff`` when denoising, damage when
            noising, and the effect of any other metric.
        metric: by default the first.
        title: in place of the one made from provenance.
        width: in pixels; ``views.PAGE`` and ``views.COLUMN`` are the widths of print (6.75 and 3.25 in at 96 pixels an inch).
        limit: the value at the end of the colours, in place of the largest one; beyond it colours saturate.
        template: a plotly template, e.g. ``"plotly_dark"``.
        level: of the intervals.
        seed: of the bootstrap.

    Raises:
        EffectsError: the sweep has fewer or more than two axes; the message says what to select.
        UnknownNameError: an axis, metric or quantity that is not there.
    """
    fx.validate(effects)
    one = fx.choose_metric(effects, metric)
    x, y, one = _choose_axes(one, x, y)
    drawn = _lay_out(one, x, y, quantity or _default_quantity(one), level, seed)
    values = drawn.table["mean"].values
    numbers = np.where(drawn.why == "", values, np.nan)
    columns, rows = labels.ticks(one, x), labels.ticks(one, y)
    hover = _hover(drawn, one, x, y)
    grid = {"x": np.arange(len(columns.full)), "y": np.arange(len(rows.full)), "xgap": 0, "ygap": 0}
    figure = go.Figure(
        go.Heatmap(
            z=numbers,
            text=np.where(drawn.why == "", hover, ""),
            hoverinfo="text",
            hoverongaps=False,
            colorbar={"title": {"text": labels.bar_name(one, drawn.quantity, drawn.metric), "side": "right"}},
            **grid,
            **_colours(drawn, numbers, limit),
        )
    )
    for reason, colour in WHY.items():
        chosen = drawn.why == reason
        if chosen.any():
            flat = {"colorscale": [[0, colour], [1, colour]], "zmin": 0, "zmax": 1, "showscale": False}
            shown = {"name": reason, "showlegend": True, "hoverinfo": "text", "text": np.where(chosen, hover, "")}
            figure.add_trace(go.Heatmap(z=np.where(chosen, 1.0, np.nan), hoverongaps=False, **shown, **flat, **grid))
    head, under = labels.headline(one, drawn.quantity, drawn.metric), labels.provenance(one, drawn.table)
    return dress(figure, title or head, under, columns, rows, width=width, template=template)


def _default_quantity(ds: xr.Dataset) -> str:
    if str(ds[names.METRIC].values) != "logit_diff":
        return "effect"
    return "recovery" if ds.attrs["patching"] == fx.DENOISING else "damage"


def _choose_axes(ds: xr.Dataset, x: str | None, y: str | None) -> tuple[str, str, xr.Dataset]:
    """The axes from left to right and from bottom to top; the dataset without any other."""
    swept = fx.swept_axes(ds)
    for axis in (x, y):
        if axis is not None and axis not in swept:
            raise UnknownNameError("swept axis", axis, swept)
    if x is not None and x == y:
        raise fx.EffectsError(f"x and y are both {x!r}; a heatmap needs two different axes")
    if len(swept) > 2:  # an axis of length 1 is no axis, unless it was asked for
        extra = [a for a in swept if ds.sizes[a] == 1 and a not in (x, y)][: len(swept) - 2]
        ds = ds.isel(dict.fromkeys(extra, 0))
        swept = fx.swept_axes(ds)
    if len(swept) != 2:
        sizes = ", ".join(f"{a} ({ds.sizes[a]})" for a in swept) or "none"
        spare = [a for a in swept if a not in (x, y)]
        cure = (
            f"select one value of the others, e.g. effects.isel({', '.join(f'{a}=0' for a in spare[: len(swept) - 2])})"
            if len(swept) > 2
            else "sweep a second axis"
        )
        raise fx.EffectsError(f"a heatmap needs exactly two swept axes, this result has {len(swept)}: {sizes}; {cure}")
    x = x or next(a for a in reversed(swept) if a != y)
    return x, y or next(a for a in swept if a != x), ds


def _lay_out(ds: xr.Dataset, x: str, y: str, quantity: str, level: float, seed: int) -> _Map:
    table = fx.summary(ds, quantity, level=level, seed=seed).isel({names.METRIC: 0}).transpose(y, x)
    raw = xr.Dataset(
        {"value": ds["value"].mean(names.EXAMPLE, skipna=False), "effect": fx.effect(ds).mean(names.EXAMPLE, skipna=False)}
    )
    raw["base"] = fx.base(ds).mean(names.EXAMPLE)
    raw = raw.transpose(y, x, missing_dims="ignore")
    by_rule = ds["by_rule"].all(names.EXAMPLE).transpose(y, x).values
    why = np.full(by_rule.shape, "", object)
    if quantity != "value":
        why[(np.abs(raw["effect"].values) <= float(fx.noise_floor(ds))) & ~by_rule] = _NOISE
    why[np.isnan(table["mean"].values)] = _UNDEFINED
    why[np.isnan(raw["value"].values)] = _MISSING
    if "absent" in ds:
        why[ds["absent"].transpose(y, x).values] = _ABSENT
    return _Map(table, raw, by_rule, why, quantity, str(ds[names.METRIC].values))


def _colours(drawn: _Map, numbers: NDArray[np.float64], limit: float | None) -> dict[str, object]:
    finite = numbers[np.isfinite(numbers)]
    if drawn.quantity == "value" and finite.size and (finite.min() >= 0 or finite.max() <= 0):
        share = finite.min() >= 0 and finite.max() <= 1  # a probability or an accuracy
        low, high = (0.0, 1.0) if share else (min(0.0, finite.min()), max(0.0, finite.max()))
        return {"colorscale": SEQUENTIAL, "zmin": low, "zmax": limit or high}
    end = limit or (float(np.abs(finite).max()) if finite.size else 0.0) or 1.0
    return {"colorscale": DIVERGING, "zmin": -end, "zmax": end}


def _hover(drawn: _Map, ds: xr.Dataset, x: str, y: str) -> NDArray[np.object_]:
    """``L9H6 0.31 ± 0.02 (n=100)`` and what stands behind it, for every cell."""
    columns, rows = labels.ticks(ds, x), labels.ticks(ds, y)
    fixed = {a: ds[a].item() for a in names.SWEPT if a in ds.coords and ds[a].ndim == 0}
    table = {c: drawn.table[c].values for c in ("mean", "low", "high", "n")}
    value, change, base = (drawn.raw[c].values for c in ("value", "effect", "base"))
    base_name = "corrupted" if ds.attrs["patching"] == fx.DENOISING else "clean"
    level, floor, clusters = f"{drawn.table.attrs['level']:.0%}", float(fx.noise_floor(ds)), labels.clusters(drawn.table)
    metric = labels.escape(drawn.metric)
    out = np.empty(value.shape, object)
    for (i, row), (j, column) in product(enumerate(ds[y].values.tolist()), enumerate(ds[x].values.tolist())):
        cell, why = f"<b>{labels.escape(fx.cell_name(fixed | {y: row, x: column}))}</b>", drawn.why[i, j]
        mean, low, high, n = (table[c][i, j] for c in ("mean", "low", "high", "n"))
        if why in (_ABSENT, _MISSING):
            lines = [f"{cell} {why}"]
        else:
            number = f"{drawn.quantity} {why}" if why == _UNDEFINED else labels.interval(mean, low, high)
            lines = [f"{cell} {number} (n={n}{clusters})"]
            if np.isfinite(low):
                lines.append(f"{level} interval {low:.3g} to {high:.3g}")
            lines.append(f"{metric} {value[i, j]:.3g}, {base_name} {base:.3g}, effect {change[i, j]:+.3g}")
            if drawn.by_rule[i, j]:
                lines.append("equal to the base by rule, no forward pass")
            elif why == _NOISE:
                lines.append(f"within the run's noise floor, {floor:.1g}")
        out[i, j] = "<br>".join([*lines, *(line for line in (columns.hover[j], rows.hover[i]) if line)])
    return out
