"""The dress of a figure: size, margins, fonts, title and ticks. Nothing global is set; every figure carries its own."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.views.labels import Ticks, wrap

PAGE, COLUMN = 648, 312
"""Widths of print in pixels: 6.75 in and 3.25 in at 96 pixels an inch."""

FONT = "DejaVu Sans, Verdana, Arial, Helvetica, sans-serif"
"""Fonts that are there without a network; plotly's own default asks for a web font's name first."""

_CELL, _SMALLEST, _LARGEST = 24, 120, 560
_MOST_COLUMNS, _MOST_ROWS = 60, 40


def dress(
    figure: go.Figure,
    title: str,
    subtitle: str,
    columns: Ticks,
    rows: Ticks,
    *,
    width: int,
    template: str,
    square: bool = False,
) -> go.Figure:
    """Lay out a map so that nothing overlaps at this width.

    Args:
        figure: changed and returned.
        title: one line or more, wrapped to the width.
        subtitle: the provenance, its parts divided by `` · ``.
        columns: labels from left to right.
        rows: labels from bottom to top.
        width: in pixels.
        template: name of a plotly template.
        square: no taller than wide.
    """
    size = 12 if width >= 480 else 9
    glyph = 0.62 * size  # mean width of a character
    left = int(30 + size + glyph * min(rows.longest, 18))
    right = int(60 + 3 * size)
    inner = max(80, width - left - right)
    across = glyph * columns.longest + 0.8 * size  # room that a label needs lying, and a gap
    upright = columns.longest > 4 and across * len(columns.full) > inner
    places, text = columns.thinned(min(_MOST_COLUMNS, max(1, int(inner / (1.25 * size if upright else across)))))
    below = int(size * 2.8 + (0.92 * glyph * min(columns.longest, 20) if upright else size))
    height = min(_LARGEST, max(_SMALLEST, _CELL * len(rows.full)), *([inner] if square else []))
    head = wrap(title, int((width - 24) / (glyph * 1.25)))
    under = wrap(subtitle, int((width - 24) / glyph))
    above = int(18 + 1.35 * size * 1.25 * len(head) + 1.6 * size * len(under))
    legend = sum(bool(trace.showlegend) for trace in figure.data)
    bottom = below + (int(8 + 2.2 * size * (1 if width >= 480 else legend)) if legend else 0)
    row_places, row_text = rows.thinned(min(_MOST_ROWS, max(1, int(height / (1.3 * size)))))
    grey = f"<span style='font-size:{size}px'>{{}}</span>"
    figure.update_layout(
        template=template,
        width=width,
        height=above + height + bottom,
        margin={"l": left, "r": right, "t": above, "b": bottom, "pad": 0, "autoexpand": False},
        font={"family": FONT, "size": size},
        title={
            "text": "<br>".join([*head, *(grey.format(line) for line in under)]),
            "font": {"size": round(size * 1.25)},
            "x": 12 / width,
            "xanchor": "left",
            # plotly anchors the first line, not the block: "bottom" puts that line's foot at y
            "y": 1 - (12 + 1.25 * size) / (above + height + bottom),
            "yanchor": "bottom",
        },
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": -below / height, "yanchor": "top", "font": {"size": size}},
        hoverlabel={"align": "left", "font": {"family": FONT}},
    )
    bar = {"thickness": 12, "len": 1, "ypad": 0, "x": 1.02, "outlinewidth": 0, "nticks": 5, "exponentformat": "e"}
    coloured = [trace for trace in figure.data if "colorbar" in trace]
    for trace in coloured[:1]:
        name = trace.colorbar.title.text or ""
        if glyph * len(name) > height:  # the title has the rest
            trace.colorbar.title.text = name.split(" ")[0]
    for trace in coloured:
        trace.update(colorbar=bar | {"tickfont": {"size": size}})
    shared = {"showgrid": False, "zeroline": False, "ticks": "", "tickmode": "array", "automargin": False}
    angle = -90 if upright else 0
    standoff = int(0.6 * size)
    figure.update_xaxes(
        tickvals=places, ticktext=text, tickangle=angle, title={"text": columns.title, "standoff": standoff}, **shared
    )
    figure.update_yaxes(tickvals=row_places, ticktext=row_text, title={"text": rows.title, "standoff": standoff}, **shared)
    return figure


def make_room(figure: go.Figure, *, above: int = 0, below: int = 0) -> go.Figure:
    """The same map with free space between title and map, and under it, for what selects; the title stays where it is."""
    old, margin = figure.layout.height, figure.layout.margin
    new = old + above + below
    figure.update_layout(
        height=new,
        margin={"t": margin.t + above, "b": margin.b + below},
        title={"y": 1 - (1 - figure.layout.title.y) * old / new},
    )
    return figure
