"""Intervals of correlations, by Fisher's transformation.

>>> low, high = correlation_interval(0.8, 30)
>>> round(low, 2), round(high, 2)
(0.62, 0.9)
"""

from __future__ import annotations

import math

from scipy.special import ndtri


def correlation_interval(r: float, n: int, *, ranks: bool = False, level: float = 0.95) -> tuple[float, float]:
    """The interval of a correlation over ``n`` independent pairs: tanh(atanh r ± z · s).

    s² is 1 / (n − 3) of Pearson's and (1 + r² / 2) / (n − 3) of Spearman's (Bonett and Wright, Psychometrika 65, 2000). NaN of
    fewer than four pairs.

    Args:
        ranks: it is Spearman's.
    """
    if n < 4 or not math.isfinite(r):
        return math.nan, math.nan
    if abs(r) >= 1:
        return r, r
    half = float(ndtri(0.5 + level / 2)) * math.sqrt((1 + r * r / 2 if ranks else 1.0) / (n - 3))
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
