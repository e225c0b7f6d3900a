"""Curves along one axis: what changes over checkpoints, layers or models, with a band over seeds or examples.

    >>> views.curve(effects, "effect", log=True)                      # doctest: +SKIP
    >>> views.curve(scores, x="checkpoint", log=True)                          # a panel for every variable  # doctest: +SKIP

Where there are seeds, the line is their mean and the band their range, because seeds are what is independent, and three of
them have no interval worth the name. Without seeds the band is an interval over examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from interp import axes as names
from interp import effects as fx
from interp import stats
from interp.errors import ShapeMismatchError, UnknownNameError
from interp.views import labels
from interp.views.heatmap import default_quantity
from interp.views.layout import PAGE, Heading

#: Eight colours that stay apart for colour-blind readers (Okabe and Ito, Color Universal Design, 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C00")
_DASHES = ("solid", "dash", "dot")
_MOST = len(COLOURS) * len(_DASHES)
_PANEL = 190


@dataclass(frozen=True, slots=True)
class _Panel:
    """One variable: means ``[line, x]`` with their band; NaN where there is none."""

    name: str
    lines: list[str]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    band: str
    """What the band is, in words; "" without one."""


def curve(
    results: xr.Dataset | xr.DataArray,
    quantity: str | None = None,
    *,
    x: str | None = None,
    metric: str | None = None,
    log: bool = False,
    title: str | None = None,
    width: int = PAGE,
    template: str = "plotly_white",
    level: float = 0.95,
    seed: int = 0,
) -> go.Figure:
    """Lines of means along ``x``, one for every place of the axes that are left.

    Args:
        results: effects, or any DataArray, or a Dataset, which gets a panel for every variable that has ``x``.
        quantity: of effects: recovery, damage, effect or value, by default as in :func:`heatmap`.
        x: the axis from left to right; by default checkpoints, else the only axis there is besides metric and example.
        metric: of effects, by default the first.
        log: logarithm of 1 + x / the smallest x above 0, so that checkpoint 0 has a place.
        title: in place of the one made from provenance.
        width: in pixels.
        template: a plotly template.
        level: of an interval over examples.
        seed: of the bootstrap.

    Raises:
        UnknownNameError: ``x`` is no axis of the results.
        ShapeMismatchError: more lines than can be told apart, or ``log`` of what is no number.
    """
    effects = isinstance(results, xr.Dataset) and {"value", "clean", "corrupt", "by_rule"} <= set(results.data_vars)
    if isinstance(results, xr.Dataset) and effects:
        one = fx.choose_metric(results, metric)
        x = x or _only(one["value"])
        _require(one["value"], x)
        panels, head, under = _of_effects(one, x, quantity or default_quantity(one), level, seed)
        at = one[x]
    else:
        x = x or _only(results)
        arrays = [results] if isinstance(results, xr.DataArray) else [v for v in results.data_vars.values() if x in v.dims]
        if not arrays or x not in arrays[0].dims:
            raise UnknownNameError("axis of the results", x, map(str, results.dims))
        panels = [_of_array(array, x, level) for array in arrays]
        head = f"{', '.join(labels.escape(panel.name) for panel in panels)} over {x}"
        under = " · ".join(labels.escape(results.attrs[k]) for k in ("model", "task") if isinstance(results.attrs.get(k), str))
        at = arrays[0][x]
    bands = "; ".join(dict.fromkeys(panel.band for panel in panels if panel.band))
    return _draw(panels, at, x, log, title or head, " · ".join(part for part in (under, bands) if part), width, template)


def _only(results: xr.Dataset | xr.DataArray) -> str:
    """The axis that a curve runs along where none is named."""
    swept = [str(d) for d in results.dims if d not in (names.METRIC, names.EXAMPLE, names.SEED)]
    return swept[0] if len(swept) == 1 else names.CHECKPOINT


def _require(array: xr.DataArray, x: str) -> None:
    if x not in array.dims:
        raise UnknownNameError("swept axis", x, [str(d) for d in array.dims if d not in (names.METRIC, names.EXAMPLE)])


def _of_effects(ds: xr.Dataset, x: str, quantity: str, level: float, seed: int) -> tuple[list[_Panel], str, str]:
    metric = str(ds[names.METRIC].values)
    table = fx.summary(ds, quantity, level=level, seed=seed).isel({names.METRIC: 0})
    head, under = labels.headline(ds, quantity, metric), labels.provenance(ds, table)
    rest = [a for a in fx.swept_axes(ds) if a not in (x, names.SEED)]
    name = labels.bar_name(ds, quantity, metric)
    if names.SEED in table["mean"].dims and x != names.SEED:
        mean = fx.value_of(ds, quantity)  # a seed's own interval says nothing about others, so it does not decide what is shown
        return [_banded(mean, x, rest, name)], head, under
    of = f"{table.attrs['resampled']}s"
    low, high = (_laid_out(table[column], x, rest)[1] for column in ("low", "high"))
    lines, means = _laid_out(table["mean"], x, rest)
    return [_Panel(name, lines, means, low, high, _said_of(low, level, of))], head, under


def _of_array(array: xr.DataArray, x: str, level: float) -> _Panel:
    name = str(array.name or "value")
    rest = [str(d) for d in array.dims if d not in (x, names.SEED, names.EXAMPLE)]
    if names.SEED in array.dims and x != names.SEED:
        return _banded(array.mean(names.EXAMPLE) if names.EXAMPLE in array.dims else array, x, rest, name)
    if names.EXAMPLE not in array.dims or x == names.EXAMPLE:
        lines, mean = _laid_out(array, x, rest)
        return _Panel(name, lines, mean, mean, mean, "")
    found = stats.t_interval(array.transpose(*rest, x, names.EXAMPLE).values, level=level)
    parts = [array.isel({names.EXAMPLE: 0}, drop=True).transpose(*rest, x).copy(data=column) for column in found[:3]]
    lines, (mean, low, high) = _laid_out(parts[0], x, rest)[0], (_laid_out(part, x, rest)[1] for part in parts)
    return _Panel(name, lines, mean, low, high, _said_of(low, level, f"{array.sizes[names.EXAMPLE]} examples"))


def _said_of(low: NDArray[np.float64], level: float, of: str) -> str:
    """What the band is; "" where one example makes none."""
    return f"band: {level:.0%} interval over {of}" if np.isfinite(low).any() else ""


def _banded(array: xr.DataArray, x: str, rest: Sequence[str], name: str) -> _Panel:
    """The mean over seeds and their range."""
    columns = (array.mean(names.SEED, skipna=False), array.min(names.SEED, skipna=False), array.max(names.SEED, skipna=False))
    (lines, mean), (_, low), (_, high) = (_laid_out(column, x, rest) for column in columns)
    seeds = array.sizes[names.SEED]
    band = f"line: mean of {seeds} seeds, band: their range" if seeds > 1 else ""
    return _Panel(name, lines, mean, low, high, band)


def _laid_out(array: xr.DataArray, x: str, rest: Sequence[str]) -> tuple[list[str], NDArray[np.float64]]:
    """The names of the lines, and ``[line, x]``."""
    flat = array.transpose(*rest, x).values.reshape(-1, array.sizes[x]).astype(float)
    if len(flat) > _MOST:
        sizes = ", ".join(f"{a} ({array.sizes[a]})" for a in rest)
        raise ShapeMismatchError(
            f"{len(flat)} lines over {sizes}: at most {_MOST} can be told apart; select, e.g. .isel({rest[-1]}=0), or average"
        )
    values = [array[a].values.tolist() if a in array.coords else range(array.sizes[a]) for a in rest]
    places = [dict(zip(rest, place, strict=True)) for place in product(*values)]
    return [fx.cell_name(place) if place else "" for place in places], flat


def _draw(
    panels: Sequence[_Panel], at: xr.DataArray, x: str, log: bool, head: str, under: str, width: int, template: str
) -> go.Figure:
    values = at.values.tolist() if x in at.coords else list(range(at.size))
    places = _places(values, x, log)
    figure = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=min(0.07, 0.5 / len(panels)))
    named: set[str] = set()
    for row, panel in enumerate(panels, 1):
        for number, line in enumerate(panel.lines):
            shown = line not in named and line != ""
            named |= {line} if shown else set()
            for trace in _line(panel, number, values, places, x, shown):
                figure.add_trace(trace, row=row, col=1)
        figure.update_yaxes(title={"text": labels.escape(panel.name)}, row=row, col=1)
    return _dressed(figure, len(panels), len(named), values, places, x, log, head, under, width, template)


def _line(panel: _Panel, number: int, values: Sequence[Any], places: Sequence[float], x: str, shown: bool) -> list[go.Scatter]:
    """A band, where there is one, and its line."""
    colour, dash = COLOURS[number % len(COLOURS)], _DASHES[number // len(COLOURS)]
    name, (mean, low, high) = panel.lines[number], (column[number] for column in (panel.mean, panel.low, panel.high))
    group = {"legendgroup": name}
    traces = []
    if panel.band and np.isfinite(low).any():
        fill = {"fill": "toself", "fillcolor": colour, "opacity": 0.18, "line": {"width": 0}, "mode": "lines"}
        outline = _outline(np.asarray(places, float), low, high)
        traces.append(go.Scatter(x=outline[0], y=outline[1], **fill, **group, hoverinfo="skip", showlegend=False))
    hover = [
        f"<b>{labels.escape(f'{name} ' if name else '')}{x} {labels.escape(value)}</b><br>{labels.escape(panel.name)} {m:.3g}"
        + (f" ({a:.3g} to {b:.3g})" if panel.band and np.isfinite(a) else "")
        for value, m, a, b in zip(values, mean, low, high, strict=True)
    ]
    drawn = {"mode": "lines+markers", "line": {"color": colour, "dash": dash, "width": 2}, "marker": {"size": 4}}
    text = {"name": labels.escape(name), "showlegend": shown, "text": hover, "hoverinfo": "text"}
    traces.append(go.Scatter(x=list(places), y=mean, **drawn, **text, **group))
    return traces


def _outline(
    places: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Along the upper edge and back along the lower one, a polygon for every stretch without a gap, NaN between them."""
    there = np.isfinite(low) & np.isfinite(high)
    stretches = np.split(np.arange(len(places)), np.flatnonzero(np.diff(there.astype(int))) + 1)
    xs: list[NDArray[np.float64]] = []
    ys: list[NDArray[np.float64]] = []
    gap = np.array([np.nan])
    for stretch in stretches:
        if there[stretch[0]]:
            xs += [places[stretch], places[stretch][::-1], gap]
            ys += [high[stretch], low[stretch][::-1], gap]
    return np.concatenate(xs)[:-1], np.concatenate(ys)[:-1]


def _places(values: Sequence[Any], x: str, log: bool) -> list[float]:
    numeric = all(isinstance(value, int | float) for value in values)
    if log and (not numeric or min(values) < 0):
        raise ShapeMismatchError(f"log=True needs numbers from 0 on along {x!r}, got {values[0]!r} and others")
    if not numeric:
        return [float(i) for i in range(len(values))]
    least = _least(values)
    return [float(np.log10(1 + value / least)) if log else float(value) for value in values]


def _least(values: Sequence[Any]) -> Any:
    return min((value for value in values if value > 0), default=1)


def _dressed(
    figure: go.Figure,
    panels: int,
    lines: int,
    values: Sequence[Any],
    places: Sequence[float],
    x: str,
    log: bool,
    head: str,
    under: str,
    width: int,
    template: str,
) -> go.Figure:
    heading = Heading(head, under, width)
    size, glyph, above = heading.size, heading.glyph, heading.height + 4
    left, right = int(5 * glyph + 2.6 * size), 16
    in_a_row = max(1, int((width - left) / (14 * glyph)))
    below = int(4.2 * size + (1.9 * size * -(-lines // in_a_row) + 10 if lines else 0))
    height = above + panels * _PANEL + below
    figure.update_layout(
        **heading.layout(height, template, left=left, right=right, above=above, below=below),
        legend={"orientation": "h", "x": 0, "y": -4.2 * size / (panels * _PANEL), "yanchor": "top", "font": {"size": size}},
        hovermode="closest",
    )
    chosen = _ticks(places, [str(v) for v in values], width - left - right, glyph)
    marks = {"tickvals": [places[i] for i in chosen], "ticktext": [labels.escape(labels.short(str(values[i]))) for i in chosen]}
    figure.update_xaxes(tickmode="array", tickangle=0, zeroline=False, **marks)
    scale = f" (log scale, linear below {_least(values):g})" if log else ""
    figure.update_xaxes(title={"text": f"{x}{scale}"}, row=panels, col=1)
    figure.update_yaxes(zeroline=True, zerolinecolor="#bbbbbb")
    return figure


def _ticks(places: Sequence[float], texts: Sequence[str], inner: float, glyph: float) -> list[int]:
    """Indices of the values whose labels have room, the last one always among them."""
    span = (max(places) - min(places)) or 1.0
    chosen: list[int] = []
    for i in sorted(range(len(places)), key=places.__getitem__, reverse=True):
        room = glyph * (max(len(texts[i]), len(texts[chosen[-1]])) + 1.5) if chosen else 0.0
        if not chosen or (places[chosen[-1]] - places[i]) / span * inner * 0.94 >= room:
            chosen.append(i)
    return chosen[::-1]
