"""Lines with bands, and the frame around them: what every figure with two axes of numbers is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from interp.views import labels
from interp.views.colours import lines as line_colours
from interp.views.layout import Heading

DASHES = ("solid", "dash", "dot")
MOST = 8 * len(DASHES)
"""Lines that can be told apart."""

_MANY = 40
"""Points of a line from which on they have no marker of their own."""

_LEGEND_MARK = 50
"""Pixels of a legend's entry besides its words."""


@dataclass(frozen=True, slots=True)
class Line:
    """Means along an axis with their band; NaN where there is none."""

    name: str
    at: Sequence[Any]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n: str = ""
    """Of what the mean is, in words: ``n=64, 8 templates``, ``3 seeds``."""
    interval: str = ""
    """What low and high are: ``95% interval``, ``seeds from``; "" where there is none."""
    more: Sequence[str] = field(default=())
    """A line of the hover for each point, already escaped."""

    @property
    def banded(self) -> bool:
        """Whether it has a band at all."""
        return bool(self.interval) and bool(np.isfinite(self.low).any())

    def hover(self, what: str, places: Sequence[str]) -> list[str]:
        """``L9H6 layer 3``, ``recovery 0.31 ± 0.02 (n=64, 8 templates)``, the interval, and more; one a point.

        Args:
            what: the quantity, already escaped.
            places: where each point is, in words.
        """
        found = []
        for i, (place, mean, low, high) in enumerate(zip(places, self.mean, self.low, self.high, strict=True)):
            known, ranged = bool(self.interval) and math.isfinite(low), self.interval.endswith("from")
            number = labels.interval(mean, low, high) if known and not ranged else f"{mean:.3g}"
            text = [f"<b>{labels.escape(' '.join(filter(None, (self.name, place))))}</b>"]
            text.append(f"{what} {number}" + (f" ({self.n})" if self.n else ""))
            text += [f"{self.interval} {low:.3g} to {high:.3g}"] if known else []
            found.append("<br>".join([*text, *(line for line in self.more[i : i + 1] if line)]))
        return found


@dataclass(frozen=True, slots=True)
class Style:
    """How a line is drawn."""

    colour: str
    dash: str = "solid"
    width: float = 2.0
    marked: bool = True
    """Whether its points are seen, where they are not too many."""

    @classmethod
    def of(cls, number: int, template: str) -> Style:
        """Of the line with this number: eight colours, then the same ones dashed."""
        colours = line_colours(template)
        return cls(colours[number % len(colours)], DASHES[number // len(colours) % len(DASHES)])


def traces(
    line: Line,
    style: Style,
    places: Sequence[float],
    hover: Sequence[str],
    *,
    legend: str | None = None,
) -> list[go.Scatter]:
    """A band, where there is one, and its line.

    Args:
        line: what is drawn.
        style: how.
        places: its points along the axis.
        hover: one a point.
        legend: what the legend calls it, already escaped; None leaves it out there.
    """
    group = {"legendgroup": line.name}
    found = []
    if line.banded:
        fill = {"fill": "toself", "fillcolor": style.colour, "opacity": 0.18, "line": {"width": 0}, "mode": "lines"}
        x, y = outline(np.asarray(places, float), line.low, line.high)
        found.append(go.Scatter(x=x, y=y, **fill, **group, hoverinfo="skip", showlegend=False))
    mode = "lines+markers" if (style.marked and len(line.mean) <= _MANY) or len(line.mean) == 1 else "lines"
    drawn = {"mode": mode, "line": {"color": style.colour, "dash": style.dash, "width": style.width}, "marker": {"size": 4}}
    text = {"name": labels.escape(line.name) if legend is None else legend, "text": list(hover), "hoverinfo": "text"}
    bars = {"error_y": _bars(line, style.colour)} if line.banded and _alone(line).any() else {}
    found.append(go.Scatter(x=list(places), y=line.mean, showlegend=legend is not None, **drawn, **bars, **text, **group))
    return found


def beside(number: int, many: int, places: Sequence[Any]) -> float:
    """How far a line is moved along an axis of one place, so that its point hides no other; 0 where there are more places."""
    return (number - (many - 1) / 2) * min(0.1, 0.8 / many) if len(set(places)) == 1 else 0.0


def around(places: Sequence[float]) -> dict[str, Any]:
    """The range of an axis of one place, which is otherwise from one number that nobody measured to another."""
    return {"range": [places[0] - 0.5, places[0] + 0.5]} if len(set(places)) == 1 else {}


def _alone(line: Line) -> NDArray[np.bool_]:
    """Points with an interval that have no neighbour to share a band with."""
    there = np.isfinite(line.low) & np.isfinite(line.high)
    padded = np.pad(there, 1)
    return there & ~padded[:-2] & ~padded[2:]


def _bars(line: Line, colour: str) -> dict[str, Any]:
    """Intervals of the points whose band has no width."""
    up, down = (np.where(_alone(line), size, np.nan) for size in (line.high - line.mean, line.mean - line.low))
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": colour, "thickness": 1, "width": 3}


def bands_first(drawn: Sequence[go.Scatter]) -> list[go.Scatter]:
    """In the order in which a band hides no line."""
    return sorted(drawn, key=lambda trace: trace.fill is None)


def outline(
    places: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Along the upper edge and back along the lower one, a polygon for every stretch without a gap, NaN between them."""
    there = np.isfinite(low) & np.isfinite(high)
    stretches = np.split(np.arange(len(places)), np.flatnonzero(np.diff(there.astype(int))) + 1)
    xs: list[NDArray[np.float64]] = []
    ys: list[NDArray[np.float64]] = []
    gap = np.array([np.nan])
    for stretch in stretches:
        if there[stretch[0]]:
            xs += [places[stretch], places[stretch][::-1], gap]
            ys += [high[stretch], low[stretch][::-1], gap]
    return np.concatenate(xs)[:-1], np.concatenate(ys)[:-1]


class Frame:
    """The paper of a figure with axes of numbers: heading, margins, and a legend with room for its words.

    Args:
        head: the title, wrapped to the width.
        under: the provenance under it, its parts divided by `` · ``.
        width: of the figure, in pixels.
        template: of plotly.
        legend: the words of its entries as they are drawn.
        height: of the axes; None is as high as wide.
        right: pixels beside the axes.
        words: labels of the lower axis, where they are more than numbers; upright where they have no room side by side.
    """

    def __init__(
        self,
        head: str,
        under: str,
        width: int,
        template: str,
        legend: Sequence[str] = (),
        *,
        height: int | None = 190,
        right: int = 16,
        words: Sequence[str] = (),
    ) -> None:
        heading = Heading(head, under, width)
        self.size, self.glyph = heading.size, heading.glyph
        above, left = heading.height + 4, int(5 * self.glyph + 2.6 * self.size)
        self.inner = width - left - right
        """Pixels from left to right between the axes' ends."""
        self.height = min(self.inner, 420) if height is None else height
        if height is None:
            right, self.inner = width - left - self.height, self.height
        longest = max(map(len, words), default=0)
        self.upright = (self.glyph * longest + 0.8 * self.size) * len(words) > self.inner
        axis = 4.2 * self.size + (1.03 * self.glyph * longest - self.size if self.upright else 0)
        widest = max((1.08 * self.glyph * len(labels.plain(words)) for words in legend), default=0.0) + _LEGEND_MARK
        rows = -(-len(legend) // max(1, int(self.inner / widest)))  # plotly's legend is no wider than the axes
        below = int(axis + ((max(1.3 * self.size, 16) + 3) * rows + 8 if rows else 0))
        self.layout = {
            **heading.layout(above + self.height + below, template, left=left, right=right, above=above, below=below),
            "legend": {
                "orientation": "h" if rows < len(legend) or rows == 1 else "v",
                "x": 0,
                "xanchor": "left",
                "y": -axis / self.height,
                "yanchor": "top",
                "font": {"size": self.size},
                "tracegroupgap": 0,
                "bgcolor": "rgba(0,0,0,0)",
            },
            "hovermode": "closest",
        }

    def most(self, characters: int) -> int:
        """How many labels of so many characters have room along the lower axis."""
        return max(2, int(self.inner / (self.glyph * (characters + 1.5))))
