"""Outlines around cells of a map: closed lines along the borders of a region, black with a white edge.

>>> import numpy as np
>>> borders(np.array([[True, True], [False, False]]))
(array([-0.5,  1.5,  1.5, -0.5, -0.5,  nan]), array([-0.5, -0.5,  0.5,  0.5, -0.5,  nan]))
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

TOLD = "effect ≠ 0"
"""What an outline says of its cells, for the legend; the level behind it."""

_Corner = tuple[int, int]


def outlines(chosen: NDArray[np.bool_], name: str) -> list[go.Scatter]:
    """Traces around the cells ``chosen [y, x]``, and one that stands for them in the legend.

    Lines rather than shapes, so that a slider can move them, and borders rather than boxes, so that a region of thousands of
    cells is one line. Black with a white edge is seen on every colour of the scales.
    """
    x, y = borders(chosen)
    shared = {"x": x, "y": y, "mode": "lines", "hoverinfo": "skip", "showlegend": False}
    thin = max(chosen.shape) > 100
    square = {"symbol": "square", "color": "white", "size": 9, "line": {"color": "black", "width": 1.5}}
    return [
        go.Scatter(**shared, line={"color": "white", "width": 2 if thin else 4}),
        go.Scatter(**shared, line={"color": "black", "width": 1 if thin else 2}),
        go.Scatter(x=[None], y=[None], mode="markers", marker=square, name=name, showlegend=True, hoverinfo="skip"),
    ]


def borders(chosen: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corners of closed lines around the cells of ``chosen [y, x]``, each ended by NaN; a cell's centre is its index."""
    ahead = _sides(chosen)
    xs: list[float] = []
    ys: list[float] = []
    while ahead:
        start = next(iter(ahead))
        line, here, before = [start], start, (0, 0)
        while True:
            ends = ahead[here]
            # where two cells touch at a corner, turn left, so that each keeps its own line
            there = max(ends, key=lambda end: before[0] * (end[1] - here[1]) - before[1] * (end[0] - here[0]))
            ends.remove(there)
            if not ends:
                del ahead[here]
            step = (there[0] - here[0], there[1] - here[1])
            if step == before:
                line[-1] = there
            else:
                line.append(there)
            here, before = there, step
            if here == start:
                break
        xs += [*(corner[0] - 0.5 for corner in line), np.nan]
        ys += [*(corner[1] - 0.5 for corner in line), np.nan]
    return np.array(xs), np.array(ys)


def _sides(chosen: NDArray[np.bool_]) -> dict[_Corner, list[_Corner]]:
    """From each corner to the next one, along every side between a chosen cell and another, the chosen cell on the left."""
    padded = np.pad(chosen, 1)
    inside = padded[1:-1, 1:-1]
    found: dict[_Corner, list[_Corner]] = {}
    for neighbour, first, second in (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),  # below: to the right
        (padded[1:-1, 2:], (1, 0), (1, 1)),  # to the right: up
        (padded[2:, 1:-1], (1, 1), (0, 1)),  # above: to the left
        (padded[1:-1, :-2], (0, 1), (0, 0)),  # to the left: down
    ):
        for row, column in np.argwhere(inside & ~neighbour).tolist():
            found.setdefault((column + first[0], row + first[1]), []).append((column + second[0], row + second[1]))
    return found
