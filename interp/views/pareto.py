"""Circuits by size and recovery, with the frontier of those that no other beats.

    >>> views.pareto({"EAP": first, "ACDC": second, "gates": third}, total=32_491)          # doctest: +SKIP

What a result looks like: see :mod:`interp.views.circuits`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from interp.effects import curves
from interp.views import circuits, labels
from interp.views.circuits import Circuits, Reading
from interp.views.colours import ink
from interp.views.faithfulness import axis_of, draw_size_axis, mark_ends
from interp.views.layout import PAGE
from interp.views.lines import Frame, Style

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "triangle-down", "star")
_HEIGHT, _FEW = 280, 60


def pareto(
    results: xr.Dataset | xr.DataArray | xr.DataTree | Mapping[str, xr.Dataset | xr.DataArray],
    *,
    metric: str | None = None,
    total: int | None = None,
    unit: str = "edges",
    x: str | None = None,
    log: bool = True,
    title: str | None = None,
    width: int = PAGE,
    template: str = "plotly_white",
    level: float = 0.95,
    seed: int = 0,
) -> go.Figure:
    """A point a circuit, its size against its faithfulness; the frontier joins those that no other circuit beats.

    One circuit beats another where it is as small and more faithful, or smaller and as faithful, by the means that are drawn.
    More than the full model counts as more faithful, as in CPR. Of seeds the mean is one point. Up to sixty points have their
    intervals as bars; all have them in the hover.

    Args:
        results: effects of circuits, or arrays of faithfulness, one or several by name: see :mod:`interp.views.circuits`.
        metric: of effects, by default the first.
        total: edges or nodes of the whole graph, which turns numbers into shares; by default the attribute ``total``.
        unit: what sizes count.
        x: ``"share"`` or ``"size"``, the number kept; by default shares where they are known.
        log: a logarithmic axis, which has no place for an empty circuit.
        title: in place of the one made from provenance.
        width: in pixels; ``views.PAGE`` and ``views.COLUMN`` are the widths of print.
        template: a plotly template.
        level: of intervals over examples.
        seed: of the bootstrap.

    Raises:
        InputError, ShapeMismatchError, UnknownNameError: as for :func:`interp.views.faithfulness`.
    """
    found = circuits.read(results, metric=metric, total=total, level=level, seed=seed)
    shares = axis_of(x, found)
    at = [np.asarray(one.share if shares else one.line.at, float) for one in found.circuits]
    places, means = np.concatenate(at), np.concatenate([one.line.mean for one in found.circuits])
    on = curves.frontier(places, means)
    owned = np.split(on, np.cumsum([len(one) for one in at])[:-1])
    legend = [*(labels.escape(one.line.name or "circuits") for one in found.circuits), "frontier"]
    of_metric = f" of {found.metric}" if found.metric else ""
    frame = Frame(title or f"size against faithfulness{of_metric}", _under(found, on), width, template, legend, height=_HEIGHT)
    figure = go.Figure(layout=frame.layout)
    figure.add_trace(_frontier(places[on], means[on], template))
    bars = len(places) <= _FEW
    for number, (one, xs, best, name) in enumerate(zip(found.circuits, at, owned, legend, strict=False)):
        figure.add_trace(
            _points(one, np.where(xs > 0, xs, np.nan) if log else xs, best, name, number, found, unit, bars, template)
        )
    draw_size_axis(figure, frame, shares, log, unit, found.total)
    mark_ends(figure, found.circuits, frame)
    return figure


def _under(found: Reading, on: NDArray[np.bool_]) -> str:
    circuits_there = sum(int(np.isfinite(one.line.mean).sum()) for one in found.circuits)
    undefined = len(on) - circuits_there
    parts = [found.under, f"{circuits_there} circuits" + (f", {undefined} undefined" if undefined else "")]
    parts.append(f"{int(on.sum())} on the frontier: none as small does better")
    return " · ".join(
        part for part in (*parts, found.band.replace("band: ", "bars: ").replace("line: mean", "point: mean")) if part
    )


def _frontier(places: NDArray[np.float64], means: NDArray[np.float64], template: str) -> go.Scatter:
    """Steps: what is reached with so much is reached with more."""
    order = np.lexsort((means, places))
    line = {"color": ink(template), "width": 1, "shape": "hv"}
    return go.Scatter(
        x=places[order], y=means[order], mode="lines", line=line, name="frontier", hoverinfo="skip", legendrank=2000
    )


def _points(
    one: Circuits,
    at: NDArray[np.float64],
    best: NDArray[np.bool_],
    name: str,
    number: int,
    found: Reading,
    unit: str,
    bars: bool,
    template: str,
) -> go.Scatter:
    line, colour = one.line, Style.of(number, template).colour
    said = [circuits.size_name(size, share, found.total, unit) for size, share in zip(line.at, one.share, strict=True)]
    hover = [
        text + ("<br>on the frontier" if b else "") for text, b in zip(line.hover("faithfulness", said), best, strict=True)
    ]
    error = {"type": "data", "array": line.high - line.mean, "arrayminus": line.mean - line.low, "thickness": 1, "width": 0}
    marker = {
        "color": colour,
        "symbol": SYMBOLS[number % len(SYMBOLS)],
        "size": np.where(best, 9, 6),
        "opacity": 1,
        "line": {"width": np.where(best, 1.5, 0), "color": ink(template)},
    }
    return go.Scatter(
        x=at,
        y=line.mean,
        mode="markers",
        marker=marker,
        error_y=error if bars and line.banded else None,
        name=name,
        text=hover,
        hoverinfo="text",
        showlegend=True,
    )
