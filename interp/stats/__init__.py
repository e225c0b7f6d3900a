"""Intervals, tests and corrections over examples or over clusters of examples, for many cells at once.

    >>> import numpy as np
    >>> from interp.stats import bootstrap_ratio
    >>> numerator, denominator = np.array([[1.0, 2.0, 3.0, 2.0]]), np.array([2.0, 4.0, 6.0, 4.0])
    >>> bootstrap_ratio(numerator, denominator)
    Interval(mean=array([0.5]), low=array([0.5]), high=array([0.5]), n=4, se=array([0.]), effective=4.0)

Every function takes arrays whose last axis is ``example`` and gives one answer for each leading cell. With ``clusters`` (one
label an example: its template) whole clusters are resampled, flipped or left out, since examples of one template are not
independent. Everything random has a seed, and everything is done for all cells together, in slabs of bounded memory.

A cell with a missing example (NaN) has no answer: no number is made from part of the examples.
"""

from interp.stats.correlations import correlation_interval
from interp.stats.flips import Flips, sign_flip
from interp.stats.intervals import FEWEST_UNITS, FIRM, Interval, bootstrap_mean, bootstrap_ratio, t_interval
from interp.stats.normal import Normal
from interp.stats.subsets import Bounds, welch_bounds
from interp.stats.units import effective_number
from interp.stats.winners import held_out

__all__ = [
    "FEWEST_UNITS",
    "FIRM",
    "Bounds",
    "Flips",
    "Interval",
    "Normal",
    "bootstrap_mean",
    "bootstrap_ratio",
    "correlation_interval",
    "effective_number",
    "held_out",
    "sign_flip",
    "t_interval",
    "welch_bounds",
]  # fmt: skip
