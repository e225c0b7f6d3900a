"""Two numbers of every cell against each other: an estimate against the exact effect.

    >>> estimated = interp.attribute(model, pairs, where)                                    # doctest: +SKIP
    >>> exact = interp.patch(model, pairs, where)                                            # doctest: +SKIP
    >>> views.compare(estimated, exact)                                                      # doctest: +SKIP

On the dashed line both are equal. Correlations and signs are of all cells in both results, but for those that are equal to the
base by rule in both, which agree without having been measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from interp import axes as names
from interp import effects as fx
from interp.effects import curves
from interp.errors import ShapeMismatchError
from interp.views import labels
from interp.views import prompts as of
from interp.views.colours import COLOURS, GREY, ink
from interp.views.layout import PAGE
from interp.views.lines import Frame
from interp.views.matching import Side, cells_of, matched, names_of, require_alike, side_of
from interp.views.placing import beside
from interp.views.prompts import cut

_ALL, _BIN = 4000, 3
"""Points that are drawn whatever they cover, and pixels of a place in which one is enough."""


def compare(
    estimated: xr.Dataset | xr.DataArray,
    exact: xr.Dataset | xr.DataArray,
    quantity: str = "effect",
    *,
    metric: str | None = None,
    called: tuple[str, str] | None = None,
    marked: int = 5,
    title: str | None = None,
    width: int = PAGE,
    template: str = "plotly_white",
    level: float = 0.95,
) -> go.Figure:
    """A point a cell: the exact number from left to right, the estimated one from bottom to top.

    Of more than 4,000 cells not all are drawn that would cover each other; the line under the title says how many are.

    Args:
        estimated: effects, or any array, with or without ``example``.
        exact: the same cells; those that are in one result only are left out. Edges and interventions are matched by name.
        quantity: of effects: effect, value, recovery or damage.
        metric: of effects, by default the first of ``exact``.
        called: what the two are called; by default estimated and exact, or first and second where both are sweeps of
            :func:`interp.patch`.
        marked: how many of the cells of largest difference are ringed and named.
        title: in place of the one made from provenance.
        width: in pixels; ``views.PAGE`` and ``views.COLUMN`` are the widths of print.
        template: a plotly template.
        level: of the intervals over examples, or templates, in the hover: Student's.

    Raises:
        ShapeMismatchError: results with other axes, or without a cell in common.
        InputError: effects of another direction, or of another metric; an estimate where the exact numbers belong.
        UnknownNameError: an unknown metric or quantity.
    """
    for result, argument in ((estimated, "estimated"), (exact, "exact")):
        of.check(result, argument, xr.Dataset, xr.DataArray)
    called = called or names_of(estimated, exact)
    if isinstance(estimated, xr.Dataset) and isinstance(exact, xr.Dataset):
        require_alike(estimated, exact, called)
    if metric is None and isinstance(exact, xr.Dataset):
        metric = str(fx.choose_metric(exact)[names.METRIC].item())
    sides = [side_of(result, quantity, metric, level) for result in (estimated, exact)]
    first, second, known = matched([side.table for side in sides], called)
    rule = (first["by_rule"] & second["by_rule"]).values.ravel()
    y, x = (table["mean"].values.ravel() for table in (first, second))
    at = np.flatnonzero(np.isfinite(x) & np.isfinite(y) & ~rule)
    if not at.size:
        raise ShapeMismatchError(f"{called[0]} and {called[1]} have no cell with a number in both")
    found = curves.agreement(y[at], x[at], floor=max(side.floor for side in sides))
    what = sides[1].quantity
    ends = _ends(np.concatenate([x[at], y[at]]))
    draft = Frame("", "", width, template, height=None)
    drawn, beneath = _thinned(x, y, at, ends, draft.inner)
    head = title or f"{called[0]} against {called[1]} {what}"
    under = _under(sides, found, len(at), len(drawn), int(rule.sum()), len(x), known)
    frame = Frame(head, labels.escape(under), width, template, height=None)
    figure = go.Figure(layout=frame.layout)
    figure.add_trace(_identity(ends, template))
    hover = _hover(first, second, sides, called, drawn, beneath)
    colour = {"color": COLOURS[0], "size": 5 if len(drawn) <= 400 else 3.5, "opacity": 0.75}
    figure.add_trace(
        go.Scatter(x=x[drawn], y=y[drawn], mode="markers", marker=colour, text=hover, hoverinfo="text", showlegend=False)
    )
    _mark(figure, frame, first, x, y, at, drawn, marked, ends, template)
    axis = {"range": list(ends), "zeroline": True, "zerolinecolor": "#bbbbbb", "zerolinewidth": 1, "automargin": False}
    axis |= {"nticks": frame.most(6)}
    figure.update_xaxes(title={"text": labels.escape(f"{called[1]} {what}"), "standoff": int(0.6 * frame.size)}, **axis)
    figure.update_yaxes(title={"text": labels.escape(f"{called[0]} {what}")}, **axis)
    return figure


def _ends(numbers: NDArray[np.float64]) -> tuple[float, float]:
    low, high = float(numbers.min()), float(numbers.max())
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _thinned(
    x: NDArray[np.float64], y: NDArray[np.float64], at: NDArray[np.intp], ends: tuple[float, float], side: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The cells that are drawn, and how many more lie under each that are not.

    In every place the one of largest difference, and of the rest as many as make up :data:`_ALL`, for whoever zooms in.
    """
    if len(at) <= _ALL:
        return at, np.zeros(len(at), int)
    order = at[np.argsort(-np.abs(x[at] - y[at]), kind="stable")]
    scale = side / _BIN / (ends[1] - ends[0])
    places = np.floor((np.stack([x[order], y[order]]) - ends[0]) * scale).astype(int)
    numbers = places[0] * (int(side) + 1) + places[1]
    _, first, own, count = np.unique(numbers, return_index=True, return_inverse=True, return_counts=True)
    rest = np.delete(np.arange(len(order)), first)
    more = rest[:: -(-len(rest) // (_ALL - len(first)))] if len(first) < _ALL else rest[:0]
    hidden = count - 1 - np.bincount(own[more], minlength=len(count))
    return order[np.concatenate([first, more])], np.concatenate([hidden, np.zeros(len(more), int)])


def _unshared(every: list[str]) -> list[str]:
    """``L0H1.z`` of ``L0H1.z ← Activation(source)``, where all of several interventions put the same in place."""
    sites, arrows, values = zip(*(name.partition(" ← ") for name in every), strict=True)
    return list(sites) if all(arrows) and len(set(values)) == 1 and len(set(sites)) == len(sites) > 1 else every


def _hover(
    first: xr.Dataset,
    second: xr.Dataset,
    sides: Sequence[Side],
    called: tuple[str, str],
    drawn: NDArray[np.intp],
    beneath: NDArray[np.intp],
) -> list[str]:
    columns = [[table[c].values.ravel()[drawn] for c in ("mean", "low", "high")] for table in (first, second)]
    lines: list[list[str]] = []
    for name, side, (mean, low, high) in zip(called, sides, columns, strict=True):
        of = f" ({side.n})" if side.n else ""
        lines.append(
            [
                labels.escape(f"{name} {labels.interval(m, a, b) if np.isfinite(a) else f'{m:.3g}'}{of}")
                for m, a, b in zip(mean, low, high, strict=True)
            ]
        )
    difference = columns[0][0] - columns[1][0]
    return [
        f"<b>{labels.escape(name)}</b><br>{one}<br>{other}<br>difference {d:+.3g}"
        + (f"<br>and {more:,} more here" if more else "")
        for name, one, other, d, more in zip(cells_of(first, drawn), *lines, difference, beneath.tolist(), strict=True)
    ]


def _under(
    sides: Sequence[Side], found: curves.Agreement, cells: int, drawn: int, rule: int, both: int, known: tuple[int, int]
) -> str:
    shared = [word for word in sides[1].said if word in sides[0].said]
    numbers = f"Pearson {_share(found.pearson)}, Spearman {_share(found.spearman)}"
    floor = max(side.floor for side in sides)
    of = f" of {found.signed:,} cells" + (" beyond the noise floor" if floor else "") if found.signed < found.n else ""
    sign = f"same sign {found.sign:.0%}{of}" if np.isfinite(found.sign) else "no cell has a sign in both"
    count = f"{cells:,} cells" + (f", {drawn:,} of them drawn, one at least in every place" if drawn < cells else "")
    gone = []
    if any(number > both for number in known):
        gone.append(f"{sum(known) - 2 * both:,} in one result only")
    if rule:
        gone.append(f"{rule:,} equal to the base by rule")
    if both - rule - cells:
        gone.append(f"{both - rule - cells:,} without a number")
    left = f"left out: {', '.join(gone)}" if gone else ""
    return " · ".join(part for part in (*map(_plain, shared), numbers, sign, count, left) if part)


def _plain(text: str) -> str:
    return labels.plain(text)


def _share(number: float) -> str:
    return f"{number:.2f}" if np.isfinite(number) else "undefined"


def _identity(ends: tuple[float, float], template: str) -> go.Scatter:
    line = {"color": GREY, "width": 1, "dash": "dash"}
    return go.Scatter(x=list(ends), y=list(ends), mode="lines", line=line, hoverinfo="skip", showlegend=False, name="identity")


def _mark(
    figure: go.Figure,
    frame: Frame,
    table: xr.Dataset,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    at: NDArray[np.intp],
    drawn: NDArray[np.intp],
    marked: int,
    ends: tuple[float, float],
    template: str,
) -> None:
    """Rings around the largest differences, and their names where there is room."""
    order = at[np.argsort(-np.abs(x[at] - y[at]), kind="stable")][:marked]
    order = order[np.abs(x[order] - y[order]) > 0]
    if not order.size:
        return
    ring = {"symbol": "circle-open", "size": 10, "color": COLOURS[1], "line": {"width": 1.5}}
    figure.add_trace(
        go.Scatter(
            x=x[order], y=y[order], mode="markers", marker=ring, hoverinfo="skip", showlegend=False, name="largest differences"
        )
    )
    scale = frame.inner / (ends[1] - ends[0])
    where, others = ((np.stack([x[i], y[i]], -1) - ends[0]) * scale for i in (order, drawn))
    words = [cut(name, 28) for name in _unshared(cells_of(table, order))]
    widths = [frame.glyph * len(word) + 2 for word in words]
    for word, i, place in zip(
        words, order, beside(where, widths, 1.3 * frame.size, others, (frame.inner, frame.height)), strict=True
    ):
        if place is not None:
            figure.add_annotation(
                x=x[i],
                y=y[i],
                text=labels.escape(word),
                showarrow=False,
                font={"size": frame.size - 1, "color": ink(template)},
                **place._asdict(),
            )
