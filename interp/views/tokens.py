"""The tokens of a prompt, each in the colour of its number, as a text that wraps over lines.

    >>> views.tokens(effects.sel(layer=3))                                                  # doctest: +SKIP
    >>> views.tokens(scores, "logprob", example=[0, 1, 2])                                 # doctest: +SKIP
    >>> views.tokens(effects.sel(layer=3), example=None)                                   # doctest: +SKIP

Spaces are drawn as ␣ and ends of lines as ⏎. Numbers of both signs are red below 0 and blue above, others sequential.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from interp import axes as names
from interp import effects as fx
from interp.effects.schema import require
from interp.views import labels
from interp.views import prompts as of
from interp.views.colours import of_text, scale
from interp.views.heatmap import WHY
from interp.views.layout import PAGE, Heading
from interp.views.strips import DIFFER, NONE, Read, of_array, of_effects, positions

_WHY = WHY | {DIFFER: "#e8d9bd", NONE: "#c8c8c8"}
_MONO, _GLYPH = "DejaVu Sans Mono, Consolas, Menlo, monospace", 0.602
"""Type of one width, so that lines break where they should, and that width by its size."""
_BAR = 0.5
"""Length of the colour bar as a share of the text's width."""
_VISIBLE = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥"})


def tokens(
    results: xr.Dataset | xr.DataArray,
    quantity: str | None = None,
    *,
    metric: str | None = None,
    example: int | Iterable[int] | None = 0,
    limit: float | None = None,
    title: str | None = None,
    width: int = PAGE,
    template: str = "plotly_white",
    level: float = 0.95,
    seed: int = 0,
) -> go.Figure:
    """A prompt whose tokens are coloured by one number each.

    Args:
        results: effects by position, or any array or other result with one number a token: an activation, a loss, an
            attribution. Select one layer, head or unit first.
        quantity: of effects: recovery, damage, effect or value, by default as in :func:`heatmap`; of another result the
            variable, by default the only one.
        metric: by default the first.
        example: which prompt; several are drawn one under the other; None draws the mean over all of them, with intervals,
            where all have the same token, or one role.
        limit: the value at the end of the colours, in place of the largest one.
        title: in place of the one made from provenance.
        width: in pixels.
        template: a plotly template, e.g. ``"plotly_dark"``.
        level: of the intervals.
        seed: of the bootstrap.

    Raises:
        InputError: a result without positions, or with more axes than theirs.
        PositionError: an example that there is not.
        UnknownNameError: a metric or quantity that is not there.
    """
    if not isinstance(results, xr.DataArray):
        require(results)
    if isinstance(results, xr.Dataset) and {"value", "by_rule"} <= set(map(str, results.data_vars)):
        read = of_effects(fx.choose_metric(results, metric), quantity, example, level, seed)
    else:
        read = of_array(of.chosen(results, quantity, metric, lambda v: bool(positions(v)), "positions"), example, level)
    heading = Heading(title or read.head, read.under, width)
    return _drawn(read, heading, limit, template)


def _drawn(read: Read, heading: Heading, limit: float | None, template: str) -> go.Figure:
    several, size = len(read.strips) > 1, heading.size
    left = int(2.9 * size + heading.glyph * max(len(strip.name) for strip in read.strips)) if several else 12
    inner = heading.width - left - 16
    boxes = [_laid(strip.words, inner, size) for strip in read.strips]
    starts = np.cumsum([0, *(laid[-1].line + 1.5 if laid else 1.5 for laid in boxes)])
    flat = [box._replace(line=box.line + start) for laid, start in zip(boxes, starts, strict=False) for box in laid]
    numbers, why = (np.concatenate([getattr(strip, name) for strip in read.strips]) for name in ("numbers", "why"))
    hover = [line for strip in read.strips for line in strip.hover]
    lines = max((box.line for box in flat), default=0.0) + 1
    reasons = [reason for reason in _WHY if (why == reason).any()]
    in_a_row = 1 if heading.width < 480 else len(_WHY)
    tall, above = int(1.8 * size * lines), heading.height + 8
    below = int(2.4 * size + 26 + 2.2 * size * -(-len(reasons) // in_a_row))
    height = above + tall + below
    known, colours = why == "", scale(numbers, limit, signed=read.signed)
    marker = {"color": numbers[known]} | _marker(colours, size, (below - 10) / height)
    said = "<br>".join(labels.wrap(read.bar, int(inner * (1 - _BAR) / heading.glyph) - 2))
    text = of_text(numbers[known], colours)
    figure = go.Figure(_bars(flat, hover, known, size, marker=marker, insidetextfont_color=text))
    for reason in reasons:
        shown = {"marker": {"color": _WHY[reason]}, "name": reason, "showlegend": True, "insidetextfont_color": "#000000"}
        figure.add_trace(_bars(flat, hover, why == reason, size, **shown))
    legend = {"orientation": "h", "x": 0, "y": (below - 2.4 * size - 20) / height, "yref": "container", "yanchor": "top"}
    figure.update_layout(
        **heading.layout(height, template, left=left, right=16, above=above, below=below),
        barmode="overlay",
        legend=legend | {"font": {"size": size}},
    )
    beside = {"xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "top", "xshift": size, "yshift": -8}
    figure.add_annotation(text=said, x=_BAR, y=0, showarrow=False, align="left", font={"size": size}, **beside)
    blank = {"showgrid": False, "zeroline": False, "showline": False, "ticks": "", "fixedrange": True}
    figure.update_xaxes(range=[0, inner], showticklabels=False, **blank)
    marks = {"tickvals": starts[:-1].tolist(), "ticktext": [strip.name for strip in read.strips]} if several else {}
    marks |= {"ticklabelstandoff": int(0.5 * size)} if several else {}
    figure.update_yaxes(range=[lines - 0.5, -0.5], showticklabels=several, tickmode="array", **marks, **blank)
    return figure.update_yaxes(title={"text": names.EXAMPLE, "standoff": 4}) if several else figure


class _Box(NamedTuple):
    """A token in its place: pixels from the left, pixels wide, and its line."""

    text: str
    x: float
    wide: float
    line: float


def _laid(words: Sequence[str], inner: int, size: int) -> list[_Box]:
    """Tokens from left to right and line by line; a line ends where its text does."""
    found: list[_Box] = []
    x, line, room = 0.0, 0, int((inner - 6) / (_GLYPH * size))
    for word in words:
        text = "".join(c if c.isprintable() else "�" for c in word.translate(_VISIBLE))
        text = of.cut(text, room)
        wide = _GLYPH * size * of.cells(text) + 5
        if found and x + wide > inner:
            x, line = 0.0, line + 1
        found.append(_Box(text, x, wide, line))
        x += wide
        if word.endswith("\n"):
            x, line = 0.0, line + 1
    return found


def _bars(boxes: Sequence[_Box], hover: Sequence[str], which: NDArray[np.bool_], size: int, **more: Any) -> go.Bar:
    chosen = np.flatnonzero(which).tolist()
    fixed = {"orientation": "h", "width": 0.9, "textposition": "inside", "insidetextanchor": "middle", "textangle": 0}
    bar = go.Bar(
        base=[boxes[i].x for i in chosen],
        x=[boxes[i].wide - 1 for i in chosen],
        y=[boxes[i].line for i in chosen],
        text=[labels.escape(boxes[i].text) for i in chosen],
        insidetextfont={"family": _MONO, "size": size},
        hovertext=[hover[i] for i in chosen],
        hoverinfo="text",
        constraintext="none",
        **fixed,
    )
    return bar.update(marker_line_width=0).update({"showlegend": False} | more)


def _marker(colours: dict[str, object], size: int, top: float) -> dict[str, object]:
    """The scale, and its bar under the text."""
    where = {"orientation": "h", "x": 0, "xanchor": "left", "y": top, "yref": "container", "yanchor": "top", "len": _BAR}
    dress = {"thickness": 10, "outlinewidth": 0, "nticks": 5, "tickfont": {"size": size}, "xpad": 0, "ypad": 0}
    scaled = {"colorscale": colours["colorscale"], "cmin": colours["zmin"], "cmax": colours["zmax"]}
    return {**scaled, "showscale": True, "colorbar": {"exponentformat": "e", **where, **dress}}
