"""The dress of a figure: size, margins, fonts, title and ticks. Nothing global is set; every figure carries its own."""

from __future__ import annotations

import html
from typing import Any

import plotly.graph_objects as go

from interp.errors import InputError
from interp.views.colours import check_template
from interp.views.labels import Ticks, escape, wrap

PAGE, COLUMN = 648, 312
"""Widths of print in pixels: 6.75 in and 3.25 in at 96 pixels an inch."""

FONT = "DejaVu Sans, Verdana, Arial, Helvetica, sans-serif"
"""Fonts that are there without a network; plotly's own default asks for a web font's name first."""

_NARROWEST = 150
_CELL, _SMALLEST, _LARGEST = 24, 120, 560
_MOST_COLUMNS, _MOST_ROWS = 60, 40
_SHEET = 860
"""Pixels of maps one under the other: about 9 in."""
_LONGEST = 20
"""Characters of a label, enough for a position with its token and a star."""
_BESIDE = 10
"""Pixels between maps that stand side by side."""


class Heading:
    """A figure's title with its provenance under it, in type of the size that goes with the width.

    Args:
        title: one line or more, wrapped to the width.
        subtitle: the provenance, its parts divided by `` · ``.
        width: of the figure, in pixels.
    """

    def __init__(self, title: str, subtitle: str, width: int) -> None:
        if not isinstance(width, int | float) or width < _NARROWEST:
            raise InputError(
                f"width={width!r}; expected pixels, {_NARROWEST} or more: views.COLUMN ({COLUMN}, 3.25 in of print), "
                f"views.PAGE ({PAGE}, 6.75 in), or inches × 96"
            )
        self.width, self.size = width, 12 if width >= 480 else 9
        self.glyph = 0.62 * self.size
        """Mean width of a character."""
        self._head = wrap(title, int((width - 24) / (self.glyph * 1.25)))
        self._under = self._wrapped(subtitle)

    @property
    def height(self) -> int:
        """Pixels that it takes."""
        return int(18 + 1.35 * self.size * 1.25 * len(self._head) + 1.6 * self.size * len(self._under))

    def _wrapped(self, subtitle: str) -> list[str]:
        return wrap(subtitle, int((self.width - 24) / self.glyph))

    def text(self, subtitle: str | None = None) -> str:
        """Title and subtitle, or another one, as plotly takes it."""
        under = self._under if subtitle is None else self._wrapped(subtitle)
        grey = f"<span style='font-size:{self.size}px'>{{}}</span>"
        return "<br>".join([*self._head, *(grey.format(line) for line in under)])

    def layout(self, height: int, template: str, *, left: int, right: int, above: int, below: int) -> dict[str, Any]:
        """The layout of a figure of some height in all, with margins, that has this title."""
        check_template(template)
        return {
            "template": template,
            "width": self.width,
            "height": height,
            "margin": {"l": left, "r": right, "t": above, "b": below, "pad": 0, "autoexpand": False},
            "font": {"family": FONT, "size": self.size},
            "title": {
                "text": self.text(),
                "font": {"size": round(self.size * 1.25)},
                "x": 12 / self.width,
                "xanchor": "left",
                # plotly anchors the first line, not the block: "bottom" puts that line's foot at y
                "y": 1 - (12 + 1.25 * self.size) / height,
                "yanchor": "bottom",
            },
            "hoverlabel": {"align": "left", "font": {"family": FONT}},
        }


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
    across: int = 1,
    down: int = 1,
) -> go.Figure:
    """Lay out a map, or several with the same rows and columns, so that nothing overlaps at this width.

    Args:
        figure: changed and returned.
        title: one line or more, wrapped to the width.
        subtitle: the provenance, its parts divided by `` · ``.
        columns: labels from left to right.
        rows: labels from bottom to top.
        width: in pixels.
        template: name of a plotly template.
        square: no taller than wide.
        across, down: how many maps stand side by side and one under the other, on the axes x, x2, x3 … and y, y2, y3 …; those
            on the outside have labels, and over each is room for a line.
    """
    heading = Heading(title, subtitle, width)
    size, glyph, above = heading.size, heading.glyph, heading.height + 4
    columns, rows = _fitted(columns), _fitted(rows)
    left = int(10 + 2.2 * size + glyph * rows.longest)
    right = int(24 + 6.2 * size)  # the bar, numbers such as −0.001, and its title
    inner = max(80, width - left - right)
    wide = (inner - _BESIDE * (across - 1)) / across
    lying = glyph * columns.longest + 0.8 * size  # room that a label needs, and a gap
    upright = columns.longest > 4 and lying * len(columns.full) > wide
    places, text = columns.thinned(min(_MOST_COLUMNS, max(1, int(wide / (1.25 * size if upright else lying)))))
    below = int(size * 2.8 + (1.03 * glyph * columns.longest if upright else size))
    tall = min(_LARGEST, _SHEET // down, max(_SMALLEST, _CELL * len(rows.full)), *([inner] if square else []))
    over = 2 * size  # of every map but the first, for its name
    height = tall * down + over * (down - 1)
    legend = sum(bool(trace.showlegend) for trace in figure.data)
    bottom = below + (int(8 + 2.2 * size * (1 if width >= 480 else legend)) if legend else 0)
    row_places, row_text = rows.thinned(min(_MOST_ROWS, max(1, int(tall / (1.3 * size)))))
    figure.update_layout(
        **heading.layout(above + height + bottom, template, left=left, right=right, above=above, below=bottom),
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": -below / height, "yanchor": "top", "font": {"size": size}},
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
    beside = rows.title if 1.2 * glyph * len(rows.title) <= tall else rows.title.split(" ")[0]
    figure.update_yaxes(tickvals=row_places, ticktext=row_text, title={"text": beside, "standoff": standoff}, **shared)
    if across * down > 1:
        _spread(figure, across, down, wide / inner, tall / height)
    return figure


def _fitted(ticks: Ticks) -> Ticks:
    """Labels of no more than :data:`_LONGEST` characters: of longer ones the beginning and the end."""
    texts = [html.unescape(label) for label in ticks.full]
    short = [one if len(one) <= _LONGEST else f"{one[: _LONGEST // 2]}…{one[1 - _LONGEST // 2 :]}" for one in texts]
    return ticks._replace(full=[escape(one) for one in short])


def _spread(figure: go.Figure, across: int, down: int, wide: float, tall: float) -> None:
    """The axes of one map for each of several, row by row from the top; they are zoomed together.

    Args:
        wide, tall: share of a map in what there is for all of them.
    """
    x, y = figure.layout.xaxis.to_plotly_json(), figure.layout.yaxis.to_plotly_json()
    bare = {"showticklabels": False, "title": {"text": ""}}
    for number in range(across * down):
        row, column = divmod(number, across)
        name = str(number + 1) if number else ""
        left = column * (1 - wide) / max(1, across - 1)
        foot = (down - 1 - row) * (1 - tall) / max(1, down - 1)
        own_x = {"domain": [left, left + wide], "anchor": f"y{name}"} | ({"matches": "x"} if number else {})
        own_y = {"domain": [foot, foot + tall], "anchor": f"x{name}"} | ({"matches": "y"} if number else {})
        figure.layout[f"xaxis{name}"] = x | own_x | (bare if row < down - 1 else {})
        figure.layout[f"yaxis{name}"] = y | own_y | (bare if column else {})


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
