"""Points at which gradients are taken along a path, and their weights.

>>> nodes("right", 4).at.tolist(), nodes("gauss", 1).at.tolist(), nodes("trapezoid", 1).at.tolist()
([0.25, 0.5, 0.75, 1.0], [0.5], [0.0, 1.0])
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

Quadrature = Literal["gauss", "midpoint", "left", "right", "trapezoid"]


class Nodes(NamedTuple):
    """Points of the interval from 0 to 1, and their weights, which sum to 1."""

    at: np.ndarray[Any, Any]
    weight: np.ndarray[Any, Any]


def nodes(quadrature: Quadrature, steps: int) -> Nodes:
    """The points of a quadrature of the interval from 0, the base, to 1, the source.

    Args:
        quadrature: ``"gauss"`` (Gauss and Legendre's, exact for a polynomial of a degree below twice the steps),
            ``"midpoint"``, ``"left"`` (0, 1/m … (m−1)/m), ``"right"`` (1/m … 1) or ``"trapezoid"`` (both ends of ``m`` parts).
        steps: points, or parts of a trapezoid.
    """
    if quadrature == "gauss":
        at, weight = np.polynomial.legendre.leggauss(steps)
        return Nodes((at + 1) / 2, weight / 2)
    if quadrature == "trapezoid":
        weight = np.full(steps + 1, 1 / steps)
        weight[[0, -1]] /= 2
        return Nodes(np.arange(steps + 1) / steps, weight)
    shift = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[quadrature]
    return Nodes((np.arange(steps) + shift) / steps, np.full(steps, 1 / steps))
