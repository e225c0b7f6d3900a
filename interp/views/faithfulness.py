"""Faithfulness over the size of a circuit, with the area under it.

    >>> views.faithfulness(effects)                                               # effects of circuits  # doctest: +SKIP
    >>> views.faithfulness({"EAP": first, "random": second}, log=True)            # a line a method  # doctest: +SKIP
    >>> sizes = xr.DataArray([…], dims="size", coords={"size": [0.001, …, 1]})    # published numbers  # doctest: +SKIP
    >>> views.faithfulness(sizes)                                                 # doctest: +SKIP

What a result looks like: see :mod:`interp.views.circuits`. The areas are those of MIB (Mueller et al., arXiv 2504.13151), see
:func:`interp.effects.curves.areas`: CPR, the area under f, and CMD, the area between f and the full model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.errors import InputError, UnknownNameError
from interp.stats import Interval
from interp.views import circuits, labels
from interp.views.circuits import Circuits, Reading
from interp.views.colours import GREY
from interp.views.layout import PAGE
from interp.views.lines import Frame, Style, bands_first, traces
from interp.views.prompts import cut

AREAS = ("cpr", "cmd")
_HEIGHT = 260


def faithfulness(
    results: xr.Dataset | xr.DataArray | xr.DataTree | Mapping[str, xr.Dataset | xr.DataArray],
    *,
    metric: str | None = None,
    total: int | None = None,
    unit: str = "edges",
    x: str | None = None,
    log: bool = False,
    area: str | None = "cpr",
    title: str | None = None,
    width: int = PAGE,
    template: str = "plotly_white",
    level: float = 0.95,
    seed: int = 0,
) -> go.Figure:
    """Lines of faithfulness over circuit size, one a method, with bands over examples or seeds; CPR and CMD in the legend.

    Args:
        results: effects of circuits, or arrays of faithfulness, one or several by name: see :mod:`interp.views.circuits`.
        metric: of effects, by default the first.
        total: edges or nodes of the whole graph, which turns numbers into shares; by default the attribute ``total``.
        unit: what sizes count.
        x: ``"share"`` or ``"size"``, the number kept; by default shares where they are known.
        log: a logarithmic axis, which has no place for an empty circuit; areas are over a linear one all the same.
        area: what is shaded of one line alone, since areas that cover each other are not told apart: ``"cpr"``, from 0 to the
            curve; ``"cmd"``, from the curve to 1; or None. The legend has both areas of every line.
        title: in place of the one made from provenance.
        width: in pixels; ``views.PAGE`` and ``views.COLUMN`` are the widths of print.
        template: a plotly template.
        level: of intervals over examples.
        seed: of the bootstrap.

    Raises:
        InputError: a result without sizes, or with more kept than there is; ``x="share"`` without ``total``.
        ShapeMismatchError: more lines than can be told apart.
        UnknownNameError: another word for ``x`` or ``area``, or an unknown metric.
    """
    if area is not None and area not in AREAS:
        raise UnknownNameError("area", area, AREAS)
    found = circuits.read(results, metric=metric, total=total, level=level, seed=seed)
    shares = axis_of(x, found)
    of_metric = f" of {found.metric}" if found.metric else ""
    head = title or f"faithfulness{of_metric} by circuit size"
    legend = _legend(found.circuits, width)
    frame = Frame(head, _under(found, unit, log), width, template, legend, height=_HEIGHT)
    drawn: list[go.Scatter] = []
    shaded = area is not None and len(found.circuits) == 1
    for number, (one, words) in enumerate(zip(found.circuits, legend, strict=True)):
        style, line = Style.of(number, template), one.line
        at = np.asarray(one.share if shares else line.at, float)
        at = np.where(at > 0, at, np.nan) if log else at
        said = [circuits.size_name(size, share, found.total, unit) for size, share in zip(line.at, one.share, strict=True)]
        hover = [f"{text}<br>{_areas(one.areas)}" if one.areas else text for text in line.hover("faithfulness", said)]
        if shaded and one.areas is not None and np.isfinite(line.mean).all():
            drawn.append(_shade(at, line.mean, 0.0 if area == "cpr" else 1.0, style.colour, line.name))
        drawn += traces(line, style, at.tolist(), hover, legend=words)
    figure = go.Figure(bands_first(drawn), frame.layout)
    draw_size_axis(figure, frame, shares, log, unit, found.total)
    mark_ends(figure, found.circuits, frame)
    return figure


def axis_of(x: str | None, found: Reading) -> bool:
    """Whether sizes are drawn as shares."""
    if x not in (None, "share", "size"):
        raise UnknownNameError("x", x, ("share", "size"))
    if x == "share" and not found.shares:
        raise InputError(
            "x='share' needs the number of edges or nodes of the whole graph; give total=, or the attribute 'total'"
        )
    if x == "size" and any(not isinstance(size, int) for one in found.circuits for size in one.line.at):
        raise InputError("x='size' needs numbers of edges or nodes; the sizes of this result are shares")
    return found.shares if x is None else x == "share"


def draw_size_axis(figure: go.Figure, frame: Frame, shares: bool, log: bool, unit: str, total: int | None) -> None:
    """The lower axis: shares of what there is, or numbers of it."""
    unit = labels.escape(unit)
    of = f" of {total:,}" if total and not shares else ""
    text = (f"share of the {unit} kept" if shares else f"{unit} kept{of}") + (" (log scale)" if log else "")
    figure.update_xaxes(
        title={"text": text, "standoff": int(0.6 * frame.size)},
        type="log" if log else "linear",
        dtick=1 if log else None,
        nticks=frame.most(6),
        exponentformat="none" if shares else "SI",
        zeroline=False,
        automargin=False,
    )


def _legend(drawn: Sequence[Circuits], width: int) -> list[str]:
    """``EAP: CPR 0.91 ± 0.02, CMD 0.08 ± 0.02``, without the intervals where there is no room for all of them."""
    room = int((width - 100) / (0.62 * (12 if width >= 480 else 9)))
    said = [one.line.name or "faithfulness" for one in drawn]
    numbers = ["" if one.areas is None else f": {_areas(one.areas)}" for one in drawn]
    if any(len(name) + len(number) > room for name, number in zip(said, numbers, strict=True)):
        numbers = ["" if one.areas is None else ": CPR {}, CMD {}".format(*map(_plain, one.areas)) for one in drawn]
    return [labels.escape(cut(name, room - len(number)) + number) for name, number in zip(said, numbers, strict=True)]


def _areas(areas: tuple[Interval, Interval]) -> str:
    cpr, cmd = areas
    return f"CPR {_number(cpr)}, CMD {_number(cmd)}"


def _number(area: Interval) -> str:
    if not np.isfinite(area.low):
        return _plain(area)
    return labels.interval(float(area.mean), float(area.low), float(area.high))


def _plain(area: Interval) -> str:
    return f"{float(area.mean):.2f}" if np.isfinite(area.mean) else "undefined"


def _under(found: Reading, unit: str, log: bool) -> str:
    """The provenance, the size of the whole graph, over what the areas go, and what the bands are."""
    ends = np.array([(one.share.min(), one.share.max()) for one in found.circuits if one.areas is not None])
    parts = [found.under, f"{found.total:,} {labels.escape(unit)}" if found.total else ""]
    if len(ends):
        alike = np.allclose(ends, ends[0], rtol=0.05)  # numbers of edges are rounded shares
        over = f"shares {ends[0, 0]:.2g} to {ends[0, 1]:.2g}" if alike else "each line's own shares"
        parts.append(f"CPR = ∫ f, CMD = ∫ |1 − f| over {over}{', on a linear axis' if log else ''}")
        of_seeds = [one.line.interval.endswith("from") for one in found.circuits]
        if any(of_seeds):
            parts.append(f"intervals of areas: {'range' if all(of_seeds) else 'of random lines the range'} of the seeds")
    else:
        parts.append("no areas: the size of the whole graph is not known, give total=" if not found.shares else "")
    return " · ".join(part for part in (*parts, found.band) if part)


def _shade(at: np.ndarray[Any, Any], f: np.ndarray[Any, Any], edge: float, colour: str, name: str) -> go.Scatter:
    there = np.isfinite(at)
    x, y = at[there], f[there]
    shape = {"x": [*x, *x[::-1]], "y": [*y, *[edge] * len(x)], "fill": "toself", "mode": "lines", "line": {"width": 0}}
    return go.Scatter(**shape, fillcolor=colour, opacity=0.14, hoverinfo="skip", showlegend=False, legendgroup=name)


def mark_ends(figure: go.Figure, drawn: Sequence[Circuits], frame: Frame) -> None:
    """Lines where the empty circuit and the full model are."""
    numbers = np.concatenate([np.concatenate([one.line.mean, one.line.low, one.line.high]) for one in drawn])
    numbers = numbers[np.isfinite(numbers)]
    low, high = min(0.0, float(numbers.min(initial=0))), max(1.0, float(numbers.max(initial=1)))
    room = 1.6 * frame.size / frame.height * (high - low)
    figure.update_yaxes(range=[low - room, high + room], zeroline=False, title={"text": "faithfulness"}, automargin=False)
    for at, words, side in ((1.0, "full model", "left"), (0.0, "empty circuit", "right")):
        above = at == 1.0
        figure.add_hline(
            y=at,
            line={"color": GREY, "width": 1, "dash": "dash"},
            annotation={
                "text": words,
                "font": {"size": frame.size - 1, "color": GREY},
                "x": 0.01 if side == "left" else 0.99,
                "xanchor": side,
                "yanchor": "bottom" if above else "top",
            },
        )
