"""Figures of one kind, one behind the other: plotly frames and a slider that chooses among them.

>>> with_slider([first, second], "checkpoint", [0, 400])                                 # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from interp.views.labels import escape

_ROOM = 84
"""Pixels that a slider needs below a figure: what is chosen, the handle, the labels of its steps."""

_STILL = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}


def with_slider(figures: Sequence[go.Figure], axis: str, values: Sequence[Any]) -> go.Figure:
    """One figure that shows the last of ``figures``, and any other at the slider; of one figure, that one.

    Args:
        figures: the same traces in the same order; only the ``z`` and ``text`` of maps, the ``x`` and ``y`` of lines, and the
            title may differ.
        axis: what the slider runs along.
        values: one a figure.
    """
    if len(figures) == 1:
        return figures[0]
    texts = [escape(value) for value in values]
    tallest = max(figures, key=lambda figure: figure.layout.height)  # titles may differ by a line
    shown = go.Figure(figures[-1].data, tallest.layout)
    shown.layout.title.text = figures[-1].layout.title.text
    shown.frames = [
        go.Frame(
            name=text,
            data=[_moved(trace) for trace in figure.data],
            traces=list(range(len(figure.data))),
            layout={"title": {"text": figure.layout.title.text}},
        )
        for text, figure in zip(texts, figures, strict=True)
    ]
    layout, size = shown.layout, shown.layout.font.size
    inner = layout.height - layout.margin.t - layout.margin.b
    steps = [{"label": text, "method": "animate", "args": [[text], _STILL]} for text in texts]
    slider = {
        "active": len(texts) - 1,
        "steps": steps,
        "currentvalue": {"prefix": f"{axis} ", "xanchor": "left", "font": {"size": size}},
        "font": {"size": size - 1},
        "x": 0,
        "len": 1,
        "y": -layout.margin.b / inner,
        "yanchor": "top",
        "pad": {"t": 4, "b": 4},
    }
    foot = 1 - (1 - layout.title.y) * layout.height / (layout.height + _ROOM)  # the same distance from the top
    shown.update_layout(
        sliders=[slider], height=layout.height + _ROOM, margin={"b": layout.margin.b + _ROOM}, title={"y": foot}
    )
    return shown


def _moved(trace: Any) -> go.Heatmap | go.Scatter:
    """What a frame changes of a trace."""
    return go.Scatter(x=trace.x, y=trace.y) if isinstance(trace, go.Scatter) else go.Heatmap(z=trace.z, text=trace.text)
