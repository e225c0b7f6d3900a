"""ROC of scores of edges or nodes against a known circuit.

    >>> views.roc(scores, truth)                                              # doctest: +SKIP
    >>> views.roc({"EAP": estimated, "exact": effects, "ACDC": circuits}, truth)          # doctest: +SKIP

``truth`` is a bool array whose axes say what is ranked: ``cell``, or the names of edges, or two axes such as sender and
receiver. Scores have those axes, or a coordinate of that name; their other axes tell lines apart, but for ``example``, whose
mean ranks, and ``seed``, over which areas have a range. Effects are ranked by their mean effect.

A **bool** array holds circuits in place of scores, a circuit a place of its one other axis, such as ACDC's at several
thresholds: they need not contain each other and are joined by pessimistic steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from interp import axes as names
from interp import effects as fx
from interp.effects import curves
from interp.errors import InputError, ShapeMismatchError
from interp.stats import Interval
from interp.views import bands, labels
from interp.views import prompts as of
from interp.views.colours import GREY
from interp.views.layout import PAGE
from interp.views.lines import MOST, Frame, Style
from interp.views.prompts import cut

_MOST_CORNERS = 2000


@dataclass(frozen=True, slots=True)
class _Scores:
    """What ranks in one line: scores ``[edge]`` or circuits ``[circuit, edge]``, and how it was had."""

    name: str
    values: NDArray[np.float64]
    """``[repeat, edge]``: one a seed; one where there are none. Of circuits ``[circuit, edge]``."""
    each: NDArray[np.float64] | None
    """``[edge, example]``, where there are examples and no seeds."""
    clusters: NDArray[Any] | None
    circuits: bool


def roc(
    scores: xr.Dataset | xr.DataArray | xr.DataTree | Mapping[str, xr.Dataset | xr.DataArray],
    truth: xr.DataArray,
    *,
    metric: str | None = None,
    absolute: bool = True,
    unit: str = "edges",
    title: str | None = None,
    width: int = PAGE,
    template: str = "plotly_white",
    level: float = 0.95,
) -> go.Figure:
    """True positive rate over false positive rate, one line a method, with areas in the legend and the line of chance.

    Equal scores are found together, on a straight line, so that ties count half; edges without a score are found last. A place
    that is not in ``truth`` and has no score in any result (no such edge) is left out. Long lines are drawn through 2,000 of
    their corners.

    Args:
        scores: scores, effects or circuits, one or several by name, see above.
        truth: bool, which edges are in the known circuit.
        metric: of effects, by default the first.
        absolute: rank by the size of a score, whatever its sign; False ranks the highest first.
        unit: what is ranked, in the plural.
        title: in place of the one made from provenance.
        width: in pixels; ``views.PAGE`` and ``views.COLUMN`` are the widths of print.
        template: a plotly template.
        level: of an area's interval over examples, by leaving out one of them (or one template) at a time.

    Raises:
        InputError: truth that is not bool, or scores without its axes.
        ShapeMismatchError: other edges than truth's, truth that is all True or all False, or more lines than can be told apart.
    """
    of.check(truth, "truth", xr.DataArray)
    if truth.dtype != bool:
        raise InputError(f"truth is an array of {truth.dtype}; expected bool: which {unit} are in the known circuit")
    every = bands.named(scores)
    found = [one for name, result in every.items() for one in _scores(name, result, truth, metric)]
    if len(found) > MOST:
        raise ShapeMismatchError(f"{len(found)} lines: at most {MOST} can be told apart; select, or draw fewer")
    flat = truth.values.ravel()
    real = flat | np.any([np.isfinite(one.values).any(0) for one in found], axis=0)
    drawn = [_curves(one, flat, real, absolute) for one in found]
    areas = [_area(one, rocs, flat, real, absolute, level) for one, rocs in zip(found, drawn, strict=True)]
    legend = _legend(found, areas, real, width)
    head = title or f"ROC of {labels.escape(unit)} against the known circuit"
    under = _under(every, found, drawn, flat[real], unit, absolute, metric)
    frame = Frame(head, under, width, template, [*legend, "chance: AUC 0.50"], height=None)
    figure = go.Figure(layout=frame.layout)
    dashed = {"color": GREY, "width": 1, "dash": "dash"}
    figure.add_trace(go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line=dashed, name="chance: AUC 0.50", hoverinfo="skip"))
    counts = int(flat.sum()), int((real & ~flat).sum())
    for number, (one, rocs, area, words) in enumerate(zip(found, drawn, areas, legend, strict=True)):
        for trace in _traces(one, rocs, area, words, Style.of(number, template), counts, unit):
            figure.add_trace(trace)
    ends = {"range": [-0.02, 1.02], "zeroline": False, "dtick": 0.2, "automargin": False}
    figure.update_xaxes(title={"text": "false positive rate", "standoff": int(0.6 * frame.size)}, **ends)
    figure.update_yaxes(title={"text": "true positive rate"}, **ends)
    return figure


def _scores(name: str, result: xr.Dataset | xr.DataArray, truth: xr.DataArray, metric: str | None) -> list[_Scores]:
    whose = f" of {name}" if name else ""
    array = fx.effect(fx.choose_metric(result, metric)) if isinstance(result, xr.Dataset) else result
    for axis in map(str, truth.dims):
        if axis not in array.dims and axis in array.coords and array[axis].ndim == 1:
            array = array.swap_dims({array[axis].dims[0]: axis})
    lacking = [str(axis) for axis in truth.dims if axis not in array.dims]
    if lacking:
        raise InputError(
            f"scores{whose} have the axes {', '.join(map(str, array.dims))}; expected those of truth, "
            f"{', '.join(map(str, truth.dims))}, as axes or as coordinates along one"
        )
    array = _matched(array, truth, whose)
    if array.dtype == bool:
        return [_circuits(name, array, truth, whose)]
    own = [str(d) for d in array.dims if d in truth.dims]
    rest = [str(d) for d in array.dims if d not in (*own, names.SEED, names.EXAMPLE)]
    places = bands.line_names(array, "", rest)
    stacked = array.transpose(*rest, ..., *truth.dims)
    several = stacked.sizes.get(names.SEED, 1) > 1
    found = []
    for number, place in enumerate(places):
        part = stacked
        for axis, i in zip(rest, np.unravel_index(number, [array.sizes[a] for a in rest]) if rest else (), strict=True):
            part = part.isel({axis: int(i)})
        each = None
        if names.EXAMPLE in part.dims:
            if not several:
                one = part.isel({names.SEED: 0}) if names.SEED in part.dims else part
                each = one.transpose(*truth.dims, names.EXAMPLE).values.reshape(truth.size, -1).astype(float)
            part = part.mean(names.EXAMPLE, skipna=False)
        values = part.values.reshape(-1, truth.size).astype(float)
        groups = bands.templates(array) if each is not None else None
        found.append(_Scores(" ".join(filter(None, (name, place))), values, each, groups, circuits=False))
    return found


def _matched(array: xr.DataArray, truth: xr.DataArray, whose: str) -> xr.DataArray:
    """The scores of truth's edges, in its order."""
    for axis in map(str, truth.dims):
        if axis in array.indexes and axis in truth.indexes:
            known, wanted = array.indexes[axis], truth.indexes[axis]
            if len(known) != len(wanted) or set(known) != set(wanted):
                first = next((value for value in [*wanted, *known] if (value in known) != (value in wanted)), None)
                raise ShapeMismatchError(
                    f"scores{whose} and truth are of other edges: {len(known)} and {len(wanted)} along {axis!r}"
                    + (f", and {first!r} is in one of them only" if first is not None else "")
                )
            array = array.sel({axis: truth[axis].values})
        elif array.sizes[axis] != truth.sizes[axis]:
            raise ShapeMismatchError(f"scores{whose} have {array.sizes[axis]} along {axis!r}, truth has {truth.sizes[axis]}")
    return array


def _circuits(name: str, array: xr.DataArray, truth: xr.DataArray, whose: str) -> _Scores:
    rest = [str(d) for d in array.dims if d not in truth.dims]
    if len(rest) > 1:
        raise InputError(
            f"circuits{whose} have the axes {', '.join(rest)} besides truth's; expected one, a circuit a place; give several "
            "methods by name: {'ACDC': first, 'gates': second}"
        )
    values = array.transpose(*rest, *truth.dims).values.reshape(-1, truth.size).astype(float)
    return _Scores(name, values, None, None, circuits=True)


def _curves(one: _Scores, truth: NDArray[np.bool_], real: NDArray[np.bool_], absolute: bool) -> list[curves.Roc]:
    if one.circuits:
        return [curves.roc_of_circuits(one.values[:, real], truth[real])]
    return [curves.roc(np.abs(row) if absolute else row, truth[real]) for row in one.values[:, real]]


def _area(
    one: _Scores, rocs: Sequence[curves.Roc], truth: NDArray[np.bool_], real: NDArray[np.bool_], absolute: bool, level: float
) -> Interval:
    if one.each is not None and one.each.shape[1] > 1:
        return curves.auc_interval(one.each[real], truth[real], one.clusters, absolute=absolute, level=level)
    areas = np.array([found.auc for found in rocs])
    if len(areas) == 1:
        return Interval(areas[0], np.array(np.nan), np.array(np.nan), 0)
    return Interval(areas.mean(), areas.min(), areas.max(), len(areas))


def _legend(found: Sequence[_Scores], areas: Sequence[Interval], real: NDArray[np.bool_], width: int) -> list[str]:
    room = int((width - 100) / (0.62 * (12 if width >= 480 else 9)))
    said = []
    for one, area in zip(found, areas, strict=True):
        known = np.isfinite(area.low)
        number = labels.interval(float(area.mean), float(area.low), float(area.high)) if known else f"{float(area.mean):.2f}"
        lacking = int(np.isnan(one.values[0, real]).sum())
        words = f": AUC {number}" + (f", {lacking:,} without a score" if lacking else "")
        said.append(labels.escape(cut(one.name or "scores", room - len(words)) + words))
    return said


def _under(
    every: Mapping[str, xr.Dataset | xr.DataArray],
    found: Sequence[_Scores],
    drawn: Sequence[Sequence[curves.Roc]],
    truth: NDArray[np.bool_],
    unit: str,
    absolute: bool,
    metric: str | None,
) -> str:
    effects = [fx.choose_metric(one, metric) for one in every.values() if isinstance(one, xr.Dataset)]
    said = [labels.provenance(one, fx.summary(one, "effect", method="t").isel({names.METRIC: 0})) for one in effects]
    parts = [bands.provenance(list(every.values()), said if len(said) == len(every) else [])]
    measured = ", ".join(dict.fromkeys(str(one[names.METRIC].item()) for one in effects))
    parts.append(labels.escape(f"{truth.sum():,} of {len(truth):,} {unit} in the circuit"))
    if not all(one.circuits for one in found):
        of = f" of the effect on {labels.escape(measured)}" if measured else ""
        parts.append(f"ranked by size{of}, whatever its sign" if absolute else f"ranked by score{of}, the highest first")
        tied = [r for one, rocs in zip(found, drawn, strict=True) for r in rocs if not one.circuits]
        parts.append("ties count half" if any(len(r.fpr) <= len(truth) for r in tied) else "")
    parts.append("circuits joined by pessimistic steps" if any(one.circuits for one in found) else "")
    intervals = ", ".join(dict.fromkeys(filter(None, map(_interval_words, found))))
    parts.append(f"interval of AUC: {intervals}" if intervals else "")
    return " · ".join(part for part in parts if part)


def _interval_words(one: _Scores) -> str:
    if one.each is not None and one.each.shape[1] > 1:
        return "over templates" if one.clusters is not None else f"over {one.each.shape[1]} examples"
    return f"range of {len(one.values)} seeds" if len(one.values) > 1 and not one.circuits else ""


def _traces(
    one: _Scores,
    rocs: Sequence[curves.Roc],
    area: Interval,
    words: str,
    style: Style,
    counts: tuple[int, int],
    unit: str,
) -> list[go.Scatter]:
    """A line with a hover at its corners; of several seeds every line, the first one in the legend."""
    found = []
    for number, curve in enumerate(rocs):
        at = _corners(curve)
        fpr, tpr, threshold = curve.fpr[at], curve.tpr[at], curve.threshold[at]
        name = labels.escape(" ".join(filter(None, (one.name, f"seed {number}" if len(rocs) > 1 else ""))) or "scores")
        hover = [
            f"<b>{name}</b>{'' if not np.isfinite(s) else f' from {s:.3g} on'}<br>"
            f"{round(t * counts[0]):,} of {counts[0]:,} {unit} of the circuit, {round(f * counts[1]):,} of {counts[1]:,} others"
            f"<br>TPR {t:.3f}, FPR {f:.3g}, AUC {curve.auc:.3f}"
            for f, t, s in zip(fpr, tpr, threshold, strict=True)
        ]
        shape = {"color": style.colour, "dash": style.dash, "width": style.width if len(rocs) == 1 else 1}
        found.append(
            go.Scatter(
                x=fpr,
                y=tpr,
                mode="lines",
                line=shape,
                name=words,
                text=hover,
                hoverinfo="text",
                legendgroup=one.name,
                showlegend=number == 0,
            )
        )
    return found


def _corners(curve: curves.Roc) -> NDArray[np.intp]:
    """Where a line turns; evenly thinned where that is oftener than anyone sees."""
    along, up = np.diff(curve.fpr), np.diff(curve.tpr)
    straight = np.isclose(along[1:] * up[:-1], up[1:] * along[:-1], rtol=1e-12, atol=0)
    at = np.flatnonzero(np.concatenate([[True], ~straight, [True]]))
    return at if len(at) <= _MOST_CORNERS else at[np.linspace(0, len(at) - 1, _MOST_CORNERS).round().astype(int)]
