"""What single members do, from the effects of random subsets of them: a bound on what none of them exceeds.

>>> import numpy as np
>>> draw = np.random.default_rng(0)
>>> included = draw.random((400, 5)) < 0.3
>>> found = welch_bounds(included, included[:, 2] * 1.5)
>>> found.estimate.round(1)[2], found.upper[2]
(np.float64(1.5), np.float64(1.5))
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from interp.errors import ShapeMismatchError


class Bounds(NamedTuple):
    """What each member does, estimated and bounded."""

    estimate: NDArray[np.float64]
    """``[member]``: mean effect of the subsets with it less that of those without it."""
    upper: NDArray[np.float64]
    """``[member]``: its size is below, with the confidence asked for; infinite where too few subsets hold or lack it."""
    standard_error: NDArray[np.float64]


def welch_bounds(included: ArrayLike, effect: ArrayLike, *, level: float = 0.95) -> Bounds:
    """One-sided bounds by Welch's t, member by member.

    Whichever member is the largest, its own bound fails with a probability of 1 − level at most, and the largest bound is no
    smaller: so no member exceeds ``upper.max()``, with the same confidence and without a correction for their number.

    Args:
        included: ``[subset, member]``, bool.
        effect: ``[subset]``.
        level: the confidence.
    """
    held, values = np.asarray(included, bool), np.asarray(effect, float)
    if held.ndim != 2 or values.shape != held.shape[:1]:
        raise ShapeMismatchError(f"included is [subset, member] and effect is [subset]; got {held.shape} and {values.shape}")
    sides = [_side(side, values) for side in (held, ~held)]
    (some, mean, own), (none, without, other) = sides
    square = own + other
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = square**2 / (own**2 / (some - 1) + other**2 / (none - 1))
    se = np.sqrt(square)
    enough = (some > 1) & (none > 1)
    t = stdtrit(np.where(np.isfinite(freedom) & (freedom > 0), freedom, 1.0), level)
    estimate = mean - without
    return Bounds(estimate, np.where(enough, np.abs(estimate) + np.where(se > 0, t * se, 0.0), np.inf), se)


def _side(held: NDArray[np.bool_], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Of the subsets on one side how many they are, their mean, and its squared standard error, member by member."""
    n = held.sum(0).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = values @ held / n
        squares = np.array([((values[one] - m) ** 2).sum() for one, m in zip(held.T, mean, strict=True)])
        return n, mean, squares / (n - 1) / n
