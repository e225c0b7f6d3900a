"""Curves along one axis: what changes over layers, checkpoints or models, with a band over seeds or examples.

    >>> views.curve(effects, x="layer")                               # doctest: +SKIP
    >>> views.curve(effects, "effect", log=True)                      # doctest: +SKIP
    >>> views.curve({"attention": of_attention, "MLP": of_mlp}, x="layer")     # lines of several results  # doctest: +SKIP
    >>> views.curve(scores, x="checkpoint", log=True)                          # a panel for every variable  # doctest: +SKIP

What the bands are: see :mod:`interp.views.bands`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp import axes as names
from interp import effects as fx
from interp.errors import InputError, ShapeMismatchError, UnknownNameError
from interp.views import bands, labels
from interp.views.arrays import of_metric, ticks_of
from interp.views.heatmap import default_quantity, is_beside
from interp.views.layout import PAGE
from interp.views.lines import MOST, Frame, Line, Style, around, bands_first, beside, traces

_PANEL = 190
_STEPS = (1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000)


@dataclass(frozen=True, slots=True)
class _Panel:
    """The lines of one variable."""

    name: str
    lines: list[Line]


def curve(
    results: xr.Dataset | xr.DataArray | xr.DataTree | Mapping[str, xr.Dataset | xr.DataArray],
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
        results: effects, or any DataArray, or a Dataset, which gets a panel for every variable that has ``x``. Several effects
            or arrays by name (a mapping, or the DataTree of a sweep over several grids) share the axes.
        quantity: of effects: recovery, damage, effect, value, or a variable that they have beside them, by default as in
            :func:`heatmap`; of another Dataset the variable, by default every one.
        x: the axis from left to right; by default the only one there is besides metric and example, else checkpoints, else
            layers.
        metric: of effects, by default the first; of arrays by metric, by default a line for each.
        log: logarithm of 1 + x / the smallest x above 0, so that checkpoint 0 has a place.
        title: in place of the one made from provenance.
        width: in pixels.
        template: a plotly template.
        level: of an interval over examples.
        seed: of the bootstrap.

    Raises:
        UnknownNameError: ``x`` is no axis of the results, or a quantity or metric that is not there.
        ShapeMismatchError: more lines than can be told apart, or ``log`` of what is no number.
        InputError: no results, effects and arrays together, or nothing that says which axis is ``x``.
    """
    every = bands.named(results)
    if len({fx.is_effects(one) for one in every.values()}) > 1:
        kinds = ", ".join(f"{name} ({'effects' if fx.is_effects(one) else 'array'})" for name, one in every.items())
        raise InputError(f"effects and other arrays have no axis in common: {kinds}; draw effects alone, or arrays alone")
    first = next(iter(every.values()))
    x = x or _only(first["value"] if fx.is_effects(first) else first)
    draw = _of_effects if fx.is_effects(first) and not is_beside(first, quantity) else _of_arrays
    panels, head, under, band = draw(every, x, quantity, metric, level, seed)
    count = max(len(panel.lines) for panel in panels)
    if count > MOST:
        raise ShapeMismatchError(f"{count} lines of {len(every)} results: at most {MOST} can be told apart; draw fewer")
    under = " · ".join(part for part in (under, band) if part)
    return _draw(panels, x, log, title or head, under, width, template, *_words(every, x))


def _words(every: Mapping[str, Any], x: str) -> tuple[dict[Any, str], str]:
    """Positions with the tokens that all results have there, as they are drawn, and the axis' title; else nothing but it."""
    found: dict[Any, str] = {}
    for result in every.values():
        if x not in result.coords or not x.endswith(names.POSITION):
            return {}, x
        ticks = labels.ticks(result, x) if fx.is_effects(result) else ticks_of(result, x)
        for value, label in zip(result[x].values.tolist(), map(labels.plain, ticks.full), strict=True):
            if found.setdefault(value, label) != label:
                return {}, x
    return found, ticks.title


def _only(result: xr.Dataset | xr.DataArray) -> str:
    """The axis that a curve runs along where none is named."""
    swept = [str(d) for d in result.dims if d not in (names.METRIC, names.EXAMPLE, names.SEED)]
    usual = swept if len(swept) == 1 else [axis for axis in (names.CHECKPOINT, names.LAYER) if axis in swept]
    if not usual:
        words = " or ".join(f"x={axis!r}" for axis in swept)
        why = f"say which of its axes runs from left to right: {words}" if swept else "this result has no axis to draw along"
        raise InputError(why)
    return usual[0]


def _of_effects(
    every: Mapping[str, Any], x: str, quantity: str | None, metric: str | None, level: float, seed: int
) -> tuple[list[_Panel], str, str, str]:
    chosen = {name: fx.choose_metric(ds, metric) for name, ds in every.items()}
    first = next(iter(chosen.values()))
    quantity, metric = quantity or default_quantity(first), str(first[names.METRIC].item())
    found: dict[str, bands.Lines] = {}
    under = []
    for name, ds in chosen.items():
        if x not in ds["value"].dims:
            known = [str(d) for d in ds["value"].dims if d not in (names.METRIC, names.EXAMPLE)]
            raise UnknownNameError("swept axis", x, known, f"of {name}" if name else "")
        if str(ds[names.METRIC].item()) != metric:
            raise InputError(f"{name} measures {ds[names.METRIC].item()}, others {metric}; choose one with metric=")
        found[name] = bands.of_effects(ds, x, quantity, level=level, seed=seed)
        under.append(labels.provenance(ds, fx.summary(ds, quantity, method="t").isel({names.METRIC: 0})))
    sites = {ds.attrs.get("site") for ds in chosen.values()}
    one = first if len(sites) == 1 else first.assign_attrs(site=None)
    said = bands.provenance(list(chosen.values()), under)
    return (
        [_together(labels.bar_name(first, quantity, metric), found)],
        labels.headline(one, quantity, metric),
        said,
        bands.words([one.band for one in found.values()]),
    )


def _of_arrays(
    every: Mapping[str, Any], x: str, quantity: str | None, metric: str | None, level: float, _seed: int
) -> tuple[list[_Panel], str, str, str]:
    panels: list[_Panel] = []
    found: dict[str, bands.Lines] = {}
    if metric is not None:
        every = {name: of_metric(one, metric) for name, one in every.items()}
    variables = list(dict.fromkeys(v for one in every.values() for v in _variables(one, x)))
    if quantity is not None:
        if quantity not in variables:
            raise UnknownNameError("quantity", quantity, filter(None, variables), f"along {x!r}")
        variables = [quantity]
    if not variables:
        raise UnknownNameError("axis of the results", x, dict.fromkeys(str(d) for one in every.values() for d in one.dims))
    for variable in variables:
        own = {name: _variables(one, x)[variable] for name, one in every.items() if variable in _variables(one, x)}
        drawn = {name: bands.of_array(array, x, level=level) for name, array in own.items()}
        called = " and ".join(dict.fromkeys(labels.name_of(array) for array in own.values()))
        panels.append(_together(labels.escape(called), drawn))
        found |= {f"{variable} {name}": one for name, one in drawn.items()}
    head = f"{', '.join(panel.name for panel in panels)} over {labels.escape(x)}"
    return panels, head, bands.provenance(list(every.values()), []), bands.words([one.band for one in found.values()])


def _variables(result: xr.Dataset | xr.DataArray, x: str) -> dict[str, xr.DataArray]:
    arrays = [result] if isinstance(result, xr.DataArray) else result.data_vars.values()
    return {str(array.name or ""): array for array in arrays if x in array.dims}


def _together(name: str, found: Mapping[str, bands.Lines]) -> _Panel:
    lines = [
        replace(line, name=" ".join(filter(None, (result, line.name)))) for result, own in found.items() for line in own.lines
    ]
    return _Panel(name, lines)


def _draw(
    panels: Sequence[_Panel],
    x: str,
    log: bool,
    head: str,
    under: str,
    width: int,
    template: str,
    words: Mapping[Any, str],
    axis: str,
) -> go.Figure:
    values = list(dict.fromkeys(value for panel in panels for line in panel.lines for value in line.at))
    numeric = all(isinstance(value, int | float) for value in values)
    values = sorted(values) if numeric else values
    places = dict(zip(values, _places(values, x, log, numeric), strict=True))
    figure = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=min(0.07, 0.5 / len(panels)))
    told: dict[str, int] = {}
    many = len({line.name for panel in panels for line in panel.lines})
    for row, panel in enumerate(panels, 1):
        drawn = []
        for line in panel.lines:
            legend = labels.escape(line.name) if line.name and line.name not in told else None
            style = Style.of(told.setdefault(line.name, len(told)), template)
            hover = line.hover(panel.name, [f"{x} {words.get(value, value)}" for value in line.at])
            moved = beside(told[line.name], many, values)
            drawn += traces(line, style, [places[value] + moved for value in line.at], hover, legend=legend)
        for trace in bands_first(drawn):
            figure.add_trace(trace, row=row, col=1)
        figure.update_yaxes(title={"text": panel.name}, row=row, col=1)
    entries = [labels.escape(name) for name in told if name]
    called = [words.get(value, labels.short(str(value))) for value in values]
    frame = Frame(head, under, width, template, entries, height=len(panels) * _PANEL, words=called if words else ())
    figure.update_layout(**frame.layout)
    at = list(places.values())
    chosen = _round(values, called, frame) if numeric and not log else None
    chosen = _ticks(at, called, frame) if chosen is None else chosen
    marks = {"tickvals": [at[i] for i in chosen], "ticktext": [labels.escape(called[i]) for i in chosen]}
    figure.update_xaxes(tickmode="array", tickangle=-90 if frame.upright else 0, zeroline=False, **marks, **around(at))
    scale = f" (log scale, linear below {_least(values):g})" if log else ""
    figure.update_xaxes(title={"text": f"{labels.escape(axis)}{scale}"}, row=len(panels), col=1)
    figure.update_yaxes(zeroline=True, zerolinecolor="#bbbbbb", zerolinewidth=1)
    return figure


def _places(values: Sequence[Any], x: str, log: bool, numeric: bool) -> list[float]:
    if log and (not numeric or min(values) < 0):
        raise ShapeMismatchError(f"log=True needs numbers from 0 on along {x!r}, got {values[0]!r} and others")
    if not numeric:
        return [float(i) for i in range(len(values))]
    least = _least(values)
    return [float(np.log10(1 + value / least)) if log else float(value) for value in values]


def _least(values: Sequence[Any]) -> Any:
    return min((value for value in values if value > 0), default=1)


def _round(values: Sequence[Any], texts: Sequence[str], frame: Frame) -> list[int] | None:
    """Indices of round numbers with room for their labels, where values are integers one after the other."""
    if len(values) < 2 or any(b - a != 1 for a, b in pairwise(values)):
        return None
    most = int(frame.inner / (1.3 * frame.size)) if frame.upright else frame.most(max(map(len, texts)))
    least = (len(values) - 1) / most
    step = next((s for s in _STEPS if s >= least), None)
    return None if step is None else [i for i, value in enumerate(values) if value % step == 0]


def _ticks(places: Sequence[float], texts: Sequence[str], frame: Frame) -> list[int]:
    """Indices of the values whose labels have room, the last one always among them."""
    span = (max(places) - min(places)) or 1.0
    chosen: list[int] = []
    for i in sorted(range(len(places)), key=places.__getitem__, reverse=True):
        wide = frame.glyph * (max(len(texts[i]), len(texts[chosen[-1]])) + 1.5) if chosen else 0.0
        room = 1.3 * frame.size if frame.upright else wide
        if not chosen or (places[chosen[-1]] - places[i]) / span * frame.inner * 0.94 >= room:
            chosen.append(i)
    return chosen[::-1]
