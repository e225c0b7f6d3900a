"""Maps of a sweep: layer × position, layer × head, or any two of its axes.

    >>> from interp import views
    >>> views.heatmap(effects)                                             # doctest: +SKIP
    >>> views.heatmap(effects, "effect", metric="prob")                    # doctest: +SKIP
    >>> views.heatmap(effects.isel(position=-1), x="head", y="layer")      # doctest: +SKIP
    >>> views.heatmap(effects.sel(seed=0), slider="checkpoint")            # doctest: +SKIP
    >>> views.heatmap(interp.weights.copying_score(model))                 # any array of two axes  # doctest: +SKIP

Signed quantities are red below 0, blue above, with the colours symmetric about 0; raw values of one sign are sequential.
Every colour that is not of the scale says why there is no number, and the legend names it: the site does not exist, it was
not computed yet, the normalising difference cannot be told from 0, or the effect is within the run's own noise. An outline is
around the cells of a sweep whose effect survives the max-T sign-flip test over all cells that the figure shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from interp import axes as names
from interp import effects as fx
from interp.effects.quantities import QUANTITIES
from interp.views import labels
from interp.views.arrays import choose_axes, of_array
from interp.views.colours import scale
from interp.views.layout import PAGE, dress
from interp.views.outline import TOLD, outlines
from interp.views.slider import with_slider

#: Why a cell has no colour of the scale, in the order in which it is drawn. None of these colours occurs in the scales.
WHY = {
    "within noise": "#e2e2e2",
    "undefined: clean ≈ corrupted": "#d9c7e8",
    "not computed": "#fdf0b0",
    "no such site": "#9a9a9a",
}
_NOISE, _UNDEFINED, _MISSING, _ABSENT = WHY


@dataclass(frozen=True, slots=True)
class _Map:
    """A summary with one metric, laid out ``[y, x]``, and what belongs in its hover."""

    table: xr.Dataset
    raw: xr.Dataset
    by_rule: NDArray[np.bool_]
    why: NDArray[np.object_]
    """The reason why a cell is not coloured by its number; "" where it is."""
    test: xr.Dataset
    quantity: str
    metric: str

    @property
    def numbers(self) -> NDArray[np.float64]:
        """What is coloured; NaN elsewhere."""
        return np.where(self.why == "", self.table["mean"].values, np.nan)

    @property
    def survives(self) -> NDArray[np.bool_]:
        """Coloured cells whose effect is told from 0."""
        found: NDArray[np.bool_] = self.test["survives"].values & (self.why == "")
        return found


def heatmap(
    results: xr.Dataset | xr.DataArray,
    quantity: str | None = None,
    *,
    metric: str | None = None,
    x: str | None = None,
    y: str | None = None,
    slider: str | None = None,
    title: str | None = None,
    width: int = PAGE,
    limit: float | None = None,
    template: str = "plotly_white",
    level: float = 0.95,
    seed: int = 0,
) -> go.Figure:
    """A map of means over two axes, with intervals in the hover: of a sweep's effects, or of any array.

    Args:
        results: a sweep, or any array or other result, with two axes besides its examples (axes of length 1 do not count),
            with ``slider`` three.
        quantity: of a sweep: recovery, damage, effect, value, or a variable that it has beside them, such as ``"score"`` of
            :func:`interp.atp_star`. By default recovery of ``logit_diff`` when denoising, damage when noising, and the effect
            of any other metric, or of prompts without a counterfactual. Of another result: the variable, such as
            ``"by_head"`` of :func:`interp.dla`; by default the only one that has two axes.
        metric: by default the first.
        x: the axis from left to right; by default the last one.
        y: the axis from bottom to top; by default the other one.
        slider: a third axis, one map a value, in the same colours; the figure opens at the last one, and the line under the
            title says which is shown.
        title: in place of the one made from provenance.
        width: in pixels; ``views.PAGE`` and ``views.COLUMN`` are the widths of print (6.75 and 3.25 in at 96 pixels an inch).
        limit: the value at the end of the colours, in place of the largest one; beyond it colours saturate.
        template: a plotly template, e.g. ``"plotly_dark"``.
        level: of the intervals; cells of a sweep are outlined at p ≤ 1 − level, see :func:`interp.effects.sign_flip`.
        seed: of the bootstrap and of the flips.

    Raises:
        EffectsError: fewer or more than two axes; the message says what to select.
        InputError: a result with several variables that could be meant.
        UnknownNameError: an axis, metric or quantity that is not there.
    """
    if isinstance(results, xr.Dataset) and quantity is not None and _is_sweep(results) and is_beside(results, quantity):
        one = fx.choose_metric(results, metric)
        said = {**one.attrs, "quantity": labels.quantity_name(quantity, str(one[names.METRIC].item())), **one[quantity].attrs}
        results, quantity, metric = one[quantity].assign_attrs(said), None, None
    if isinstance(results, xr.DataArray) or (isinstance(results, xr.Dataset) and not _is_sweep(results)):
        draw = partial(of_array, results, quantity, metric=metric, x=x, y=y, slider=slider)
        return draw(title=title, width=width, limit=limit, template=template, level=level)
    fx.validate(results)
    one = fx.choose_metric(results, metric)
    x, y, one = choose_axes(one, fx.swept_axes(one), x, y, slider)
    quantity = quantity or default_quantity(one)
    test = fx.sign_flip(one, level=level, seed=seed).isel({names.METRIC: 0})
    draw = partial(of_sweep, one, test, quantity, x=x, y=y, slider=slider)
    return draw(title=title, width=width, limit=limit, template=template, level=level, seed=seed)


def of_sweep(
    one: xr.Dataset,
    test: xr.Dataset,
    quantity: str,
    *,
    x: str,
    y: str,
    slider: str | None = None,
    title: str | None = None,
    width: int = PAGE,
    limit: float | None = None,
    template: str = "plotly_white",
    level: float = 0.95,
    seed: int = 0,
) -> go.Figure:
    """See :func:`heatmap`; of one metric, with the test of its cells that :func:`interp.effects.sign_flip` gives."""
    parts = [one.isel({slider: i}) for i in range(one.sizes[slider])] if slider is not None else [one]
    tests = [test.isel({slider: i}) for i in range(one.sizes[slider])] if slider is not None else [test]
    maps = [_lay_out(part, of, x, y, quantity, level, seed) for part, of in zip(parts, tests, strict=True)]
    colours = scale(np.stack([drawn.numbers for drawn in maps]), limit, signed=quantity != "value")
    reasons = [reason for reason in WHY if any((drawn.why == reason).any() for drawn in maps)]
    outlined = any(drawn.survives.any() for drawn in maps)
    said = labels.survival(test, outlined)
    figures = []
    for part, drawn in zip(parts, maps, strict=True):
        columns, rows = labels.ticks(part, x), labels.ticks(part, y)
        around = outlines(drawn.survives, f"{TOLD}, p ≤ {1 - level:.2g}") if outlined else []
        figure = go.Figure([*_traces(drawn, part, x, y, colours, reasons), *around])
        head, under = labels.headline(part, quantity, drawn.metric), labels.provenance(part, drawn.table)
        under += f" · {said}" if said else ""
        dress(figure, title or head, under, columns, rows, width=width, template=template)
        if outlined:  # lines would add a margin
            figure.update_xaxes(range=[-0.5, part.sizes[x] - 0.5]).update_yaxes(range=[-0.5, part.sizes[y] - 0.5])
        figures.append(figure)
    return figures[0] if slider is None else with_slider(figures, slider, one[slider].values.tolist())


def _traces(
    drawn: _Map, ds: xr.Dataset, x: str, y: str, colours: dict[str, object], reasons: Sequence[str]
) -> list[go.Heatmap]:
    """The map, and one trace for every reason why a cell has no colour of the scale."""
    hover = _hover(drawn, ds, x, y)
    grid = {"x": np.arange(ds.sizes[x]), "y": np.arange(ds.sizes[y]), "xgap": 0, "ygap": 0}
    bar = {"title": {"text": labels.bar_name(ds, drawn.quantity, drawn.metric), "side": "right"}}
    shared = {"hoverinfo": "text", "hoverongaps": False, **grid}
    traces = [go.Heatmap(z=drawn.numbers, text=np.where(drawn.why == "", hover, ""), colorbar=bar, **shared, **colours)]
    for reason in reasons:
        chosen, colour = drawn.why == reason, WHY[reason]
        flat = {"colorscale": [[0, colour], [1, colour]], "zmin": 0, "zmax": 1, "showscale": False}
        shown = {"name": reason, "showlegend": True, "text": np.where(chosen, hover, "")}
        traces.append(go.Heatmap(z=np.where(chosen, 1.0, np.nan), **shown, **flat, **shared))
    return traces


def _is_sweep(ds: xr.Dataset) -> bool:
    return bool({"value", "by_rule"} & set(map(str, ds.data_vars)))


def is_beside(results: xr.Dataset, quantity: str | None) -> bool:
    """Whether a quantity is a variable that a sweep has beside its effects, such as ``"compensation"``."""
    return quantity in results.data_vars and quantity not in QUANTITIES


def default_quantity(ds: xr.Dataset) -> str:
    """What is drawn of a result with one metric where nobody says."""
    if str(ds[names.METRIC].values) != "logit_diff" or not fx.paired(ds):
        return "effect"
    return "recovery" if ds.attrs["patching"] == fx.DENOISING else "damage"


def _lay_out(ds: xr.Dataset, test: xr.Dataset, x: str, y: str, quantity: str, level: float, seed: int) -> _Map:
    table = fx.summary(ds, quantity, level=level, seed=seed).isel({names.METRIC: 0}).transpose(y, x)
    raw = xr.Dataset(
        {"value": ds["value"].mean(names.EXAMPLE, skipna=False), "effect": fx.effect(ds).mean(names.EXAMPLE, skipna=False)}
    )
    raw["base"] = fx.base(ds).mean(names.EXAMPLE).broadcast_like(raw["value"])
    raw = raw.transpose(y, x)
    by_rule = ds["by_rule"].all(names.EXAMPLE).transpose(y, x).values
    why = np.full(by_rule.shape, "", object)
    if quantity != "value":
        why[(np.abs(raw["effect"].values) <= float(fx.noise_floor(ds))) & ~by_rule] = _NOISE
    why[np.isnan(table["mean"].values)] = _UNDEFINED
    why[np.isnan(raw["value"].values)] = _MISSING
    if "absent" in ds:
        why[ds["absent"].transpose(y, x).values] = _ABSENT
    return _Map(table, raw, by_rule, why, test.transpose(y, x), quantity, str(ds[names.METRIC].values))


def _hover(drawn: _Map, ds: xr.Dataset, x: str, y: str) -> NDArray[np.object_]:
    """``L9H6 0.31 ± 0.02 (n=100)`` and what stands behind it, for every cell."""
    columns, rows = labels.ticks(ds, x), labels.ticks(ds, y)
    fixed = {a: ds[a].item() for a in names.SWEPT if a in ds.coords and ds[a].ndim == 0}
    table = {c: drawn.table[c].values for c in ("mean", "low", "high", "n")}
    value, change, base = (drawn.raw[c].values for c in ("value", "effect", "base"))
    base_name = "unchanged" if not fx.paired(ds) else "corrupted" if ds.attrs["patching"] == fx.DENOISING else "clean"
    level, floor, clusters = f"{drawn.table.attrs['level']:.0%}", float(fx.noise_floor(ds)), labels.clusters(drawn.table)
    metric = labels.escape(drawn.metric)
    p, cells = drawn.test["p_adjusted"].values, drawn.test.attrs["sign_flips"]["cells"][drawn.metric]
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
            lines.append(f"{metric} {value[i, j]:.3g}, {base_name} {base[i, j]:.3g}, effect {change[i, j]:+.3g}")
            if drawn.by_rule[i, j]:
                lines.append("equal to the base by rule, no forward pass")
            elif why == _NOISE:
                lines.append(f"within the run's noise floor, {floor:.1g}")
            if np.isfinite(p[i, j]):
                lines.append(f"sign-flip p {p[i, j]:.2g}, adjusted for {cells} cells")
        out[i, j] = "<br>".join([*lines, *(line for line in (columns.hover[j], rows.hover[i]) if line)])
    return out
