"""Names beside points, where they cover neither each other nor more than they must."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Place(NamedTuple):
    """Where a name goes: which side of it is at the point, and by how many pixels it is moved from there."""

    xanchor: str
    yanchor: str
    xshift: float
    yshift: float


_SIDES = {-1: "right", 0: "center", 1: "left"}
_ENDS = {-1: "top", 0: "middle", 1: "bottom"}


def beside(
    points: NDArray[np.float64],
    widths: Sequence[float],
    height: float,
    others: NDArray[np.float64],
    size: tuple[float, float],
    *,
    gap: float = 7.0,
) -> list[Place | None]:
    """A place for every name, the first ones first; None where there is no free one.

    Args:
        points: ``[name, 2]`` in pixels, from the lower left corner of the axes.
        widths: of the names, in pixels.
        height: of a name.
        others: ``[point, 2]``, points that should be covered as little as can be.
        size: of the axes.
        gap: pixels between a point's centre and its name.
    """
    taken = [(x - gap, y - gap, x + gap, y + gap) for x, y in points.tolist()]  # rings are kept free too
    found: list[Place | None] = []
    for (x, y), width in zip(points.tolist(), widths, strict=True):
        best: tuple[int, Place, tuple[float, float, float, float]] | None = None
        for right, up in product((1, -1, 0), (0, 1, -1)):
            if right == up == 0:
                continue
            reach = gap if right == 0 or up == 0 else 0.75 * gap
            left = x + right * reach - (0 if right == 1 else width if right == -1 else width / 2)
            low = y + up * reach - (0 if up == 1 else height if up == -1 else height / 2)
            box = (left, low, left + width, low + height)
            inside = box[0] >= 0 and box[1] >= 0 and box[2] <= size[0] and box[3] <= size[1]
            own = (x - gap, y - gap, x + gap, y + gap)
            if not inside or any(_overlap(box, other) for other in taken if other != own):
                continue
            covered = int(((others > box[:2]) & (others < box[2:])).all(-1).sum())
            if best is None or covered < best[0]:
                best = covered, Place(_SIDES[right], _ENDS[up], right * reach, up * reach), box
        found.append(None if best is None else best[1])
        if best is not None:
            taken.append(best[2])
    return found


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
