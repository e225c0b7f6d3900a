"""Intervals of means and of ratios of means.

Three corrections keep few clusters honest.

1. Percentile intervals of G units are too narrow by about sqrt((G-1)/G)·z/t, so they are widened by the inverse around the
   estimate (the "expanded percentile" interval of Hesterberg, What Teachers Should Know About the Bootstrap, The American
   Statistician 69, 2015, section 4).
2. Where clusters are of unequal size, the large ones decide, so quantiles are taken at their effective number, (Σ size)² /
   Σ size², and standard errors are the jackknife's, which leaves out one cluster at a time (CV3 of MacKinnon, Nielsen and
   Webb, Journal of Applied Econometrics 38, 2023). With clusters of equal size both are what one knows.
3. A ratio is undefined, NaN rather than a confident number, where its denominator lies within :data:`FIRM` standard errors of
   0, or its interval covers 0. Of two or three units no interval says much (t is 12.7 and 4.3), so the first alone decides.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

from interp.stats import units
from interp.stats.units import Array, Units, at_least_one, prepare

FIRM = float(np.sqrt(10))
"""Standard errors by which a denominator must differ from 0. A ratio of means is an instrumental-variables estimate with one
instrument, and F = t² > 10 is the rule by which an instrument is told from a weak one (Staiger and Stock, Econometrica 65,
1997)."""

FEWEST_UNITS = 4
"""With fewer an interval says nearly nothing: t is 4.3 at three."""


class Interval(NamedTuple):
    """An estimate and its two-sided interval, one for each cell."""

    mean: Array
    low: Array
    high: Array
    n: int
    """Units that were taken as independent: examples, or clusters of them."""
    se: Array = np.array(np.nan)
    """Standard error, to first order for a ratio, whatever the kind of interval; NaN of ends that come from none."""
    effective: float = np.nan
    """How many units of equal size would tell as much; NaN where that is not known."""


def bootstrap_ratio(
    numerator: ArrayLike,
    denominator: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    floor: float | ArrayLike = 0.0,
) -> Interval:
    """The ratio of means Σ numerator / Σ denominator, both resampled together.

    Args:
        numerator: ``[..., example]``.
        denominator: ``[..., example]``, broadcast against the numerator's leading axes.
        clusters: one label an example; None, or one label for all, resamples examples.
        level: of the interval, between 0 and 1.
        resamples: bootstrap draws; the same draws serve every cell, so that maps are smooth.
        seed: of the draws.
        floor: means of the denominator no larger than this give NaN (the run's noise floor); broadcasts to the cells.

    Returns:
        An interval whose arrays have the numerator's leading shape. ``low``, ``high`` and ``se`` are NaN for a single unit.

    Raises:
        ShapeMismatchError: the arrays do not share their examples.
        ValueError: ``level`` or ``resamples`` is out of range.
    """
    (top, bottom), of = prepare({"numerator": numerator, "denominator": denominator}, clusters, level)
    at_least_one(resamples=resamples)
    shape = np.broadcast_shapes(top.shape[:-1], bottom.shape[:-1])
    top, bottom = of.sums(top), of.sums(bottom)
    weights = _weights(of.count, resamples, seed)
    widen = _widening(of, level)

    defined = _firm(bottom, of, floor, level)

    bottoms = bottom.reshape(-1, of.count)
    index = np.broadcast_to(np.arange(len(bottoms)).reshape(bottom.shape[:-1]), shape).ravel()
    tops = np.broadcast_to(top, (*shape, of.count)).reshape(-1, of.count)
    below = bottoms @ weights  # [denominator cell, resample]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = tops.sum(-1) / bottoms.sum(-1)[index]
        low, high, se = (np.full_like(mean, np.nan) for _ in range(3))
        step = max(1, units.SLAB // max(resamples, of.count))
        for start in range(0, len(mean) if of.count > 1 else 0, step):
            slab = slice(start, start + step)
            draws = (tops[slab] @ weights) / below[index[slab]]
            low[slab], high[slab] = _percentiles(draws, mean[slab], level, widen)
            se[slab] = _jackknife(tops[slab], bottoms[index[slab]])
    dead = ~np.broadcast_to(defined, shape).ravel()
    mean, low, high, se = (np.where(dead, np.nan, column).reshape(shape) for column in (mean, low, high, se))
    return Interval(mean, low, high, of.count, se, of.effective)


def bootstrap_mean(
    values: ArrayLike, clusters: ArrayLike | None = None, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """The mean over examples of ``values [..., example]``; clusters of unequal size weigh by their size."""
    return bootstrap_ratio(values, _ones(values), clusters, level=level, resamples=resamples, seed=seed)


def t_interval(
    numerator: ArrayLike,
    denominator: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    *,
    level: float = 0.95,
    floor: float | ArrayLike = 0.0,
) -> Interval:
    """Student's interval of a mean, or of a ratio of means to first order, with one degree of freedom less than units.

    The ratio R = Σa/Σb has residuals e = a − R·b a unit; leaving out unit g moves it by e_g / (Σb − b_g), and the jackknife's
    variance is (G−1)/G · Σ of the squares, which is G/(G−1) · Σ e² / (Σb)² where all b_g are equal (Cochran, Sampling
    Techniques, 1977, section 6.3 and 9A). Far cheaper than a bootstrap, and symmetric.
    """
    given = _ones(numerator) if denominator is None else denominator
    (top, bottom), of = prepare({"numerator": numerator, "denominator": given}, clusters, level)
    shape = np.broadcast_shapes(top.shape[:-1], bottom.shape[:-1])
    top, bottom = of.sums(top), of.sums(bottom)
    t, defined = _t(of, level), _firm(bottom, of, floor, level)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.broadcast_to(np.where(defined, top.sum(-1) / bottom.sum(-1), np.nan), shape)
    se = np.where(np.isfinite(mean), _jackknife(top, bottom), np.nan)
    return Interval(mean, mean - t * se, mean + t * se, of.count, se, of.effective)


def _jackknife(top: Array, bottom: Array) -> Array:
    """Standard error of Σ top / Σ bottom, ``[..., unit]`` each; NaN of one unit."""
    count = top.shape[-1]
    if count == 1:
        return np.full(np.broadcast_shapes(top.shape, bottom.shape)[:-1], np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = bottom.sum(-1, keepdims=True)
        moved = (top - top.sum(-1, keepdims=True) / whole * bottom) / (whole - bottom)
        return np.asarray(np.sqrt((count - 1) / count * (moved**2).sum(-1)))


def _firm(bottom: Array, of: Units, floor: float | ArrayLike, level: float) -> NDArray[np.bool_]:
    """Whether means of denominators lie beyond the floor and far enough from 0; of a single unit only the floor can tell."""
    mean = np.abs(bottom.sum(-1)) / of.sizes.sum()
    firm = mean > np.asarray(floor, float)
    if of.count > 1:
        errors = max(FIRM, _t(of, level) if of.effective >= FEWEST_UNITS else 0.0)
        firm = firm & (mean > errors * _jackknife(bottom, of.sizes))
    return np.asarray(firm)


def _weights(count: int, resamples: int, seed: int) -> Array:
    """How often each unit is drawn in each resample: ``[unit, resample]``."""
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return draws.T.astype(float)


def _t(of: Units, level: float) -> float:
    """Student's quantile at the effective number of units."""
    return float(stdtrit(of.effective - 1, 0.5 + level / 2)) if of.count > 1 else np.nan


def _widening(of: Units, level: float) -> float:
    """By how much a percentile interval of so few units is too narrow: sqrt(G/(G-1)) · t/z."""
    if of.count < 2:
        return np.nan
    return float(np.sqrt(of.effective / (of.effective - 1)) * _t(of, level) / ndtri(0.5 + level / 2))


def _percentiles(draws: Array, centre: Array, level: float, widen: float) -> tuple[Array, Array]:
    """Widened percentiles of ``draws [cell, resample]``; NaN in a cell stays NaN."""
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2], axis=-1)
    return centre + widen * (low - centre), centre + widen * (high - centre)


def _ones(values: ArrayLike) -> Array:
    shape = np.shape(values)
    return np.ones(shape[-1] if shape else 0)
