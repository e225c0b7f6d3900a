"""The examples behind a cell as points, or as a histogram where they are many, each run a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.views import labels
from interp.views.colours import COLOURS, GREY
from interp.views.layout import FONT

_NONE = "rgba(0,0,0,0)"
CLEAR = {
    "paper_bgcolor": _NONE,
    "plot_bgcolor": _NONE,
    "modebar": {"bgcolor": _NONE, "color": "#8a94a3", "activecolor": "#5b95d8"},
}
"""Of a figure in a page, whose colour shows through."""
_MANY = 300
_ROW, _SPARE = 110, 86
_LINE = 15
"""Pixels between means that are written over a histogram."""
_BRIGHT = tuple(COLOURS[i] for i in (5, 4, 2, 3, 1, 6, 0))
"""On a dark page, the bright ones first."""


def strip(rows: Sequence[tuple[str, pd.Series]], name: str, template: str, *, width: int = 520) -> go.Figure:
    """A figure of one number an example.

    Args:
        rows: the name of each run, "" for the only one, and its numbers by example, or by seed; NaN is left out.
        name: of the number.
        template: a plotly template.
        width: in pixels.
    """
    figure = go.Figure()
    many = max(len(numbers) for _, numbers in rows) > _MANY
    spare = _LINE * (len(rows) - 1) if many else 0
    for i, (side, column) in enumerate(rows):
        numbers = column.to_numpy(float)
        there = np.flatnonzero(np.isfinite(numbers))
        colours = _BRIGHT if "dark" in template else COLOURS
        colour, title = colours[i % len(colours)], {"name": side or "examples", "showlegend": False}
        if many:
            figure.add_histogram(x=numbers[there], marker={"color": colour}, opacity=0.7, nbinsx=40, **title)
        else:
            spread = i + 0.55 * (np.modf(there * 0.618034)[0] - 0.5)  # the same at every drawing
            named, value = f"{side} {column.index.name}".strip(), labels.escape(name)
            hover = [f"{named} {column.index[e]}<br>{value} {numbers[e]:.4g}" for e in there]
            marks = {"mode": "markers", "marker": {"color": colour, "size": 8, "opacity": 0.75}}
            figure.add_scatter(x=numbers[there], y=spread, customdata=there, text=hover, hoverinfo="text", **marks, **title)
        if len(there):
            mean = float(numbers[there].mean())
            place = {"y0": i - 0.4, "y1": i + 0.4} if not many else {"y0": 0, "y1": 1, "yref": "paper"}
            figure.add_shape(type="line", x0=mean, x1=mean, line={"color": colour, "width": 2, "dash": "dash"}, **place)
            above = {"y": i + 0.42} if not many else {"y": 1, "yref": "paper", "yshift": _LINE * i}
            told = f"{labels.escape(side)} mean {mean:.3g}".strip() if many else f"mean {mean:.3g}"
            figure.add_annotation(x=mean, text=told, showarrow=False, yanchor="bottom", **above)
    figure.add_vline(x=0, line={"color": GREY, "width": 1})
    sides = [side for side, _ in rows]
    figure.update_yaxes(showgrid=False, zeroline=False, showticklabels=many or len(rows) > 1)
    if not many:
        figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=sides, range=[-0.6, len(rows) - 0.25])
    figure.update_xaxes(title={"text": labels.escape(name)}, zeroline=False)
    figure.update_layout(
        template=template,
        width=width,
        height=_SPARE + (2 * _ROW + spare if many else _ROW * len(rows)),
        **CLEAR,
        margin={"l": max(36, 14 + int(6.6 * max(map(len, sides)))), "r": 16, "t": 24 + spare, "b": 46, "autoexpand": False},
        font={"family": FONT, "size": 12},
        barmode="overlay",
        hovermode="closest",
    )
    return figure
