"""Intervals of means and of ratios of means, over examples or over clusters of examples, for many cells at once.

    >>> import numpy as np
    >>> from interp.stats import bootstrap_ratio
    >>> numerator, denominator = np.array([[1.0, 2.0, 3.0, 2.0]]), np.array([2.0, 4.0, 6.0, 4.0])
    >>> bootstrap_ratio(numerator, denominator)
    Interval(mean=array([0.5]), low=array([0.5]), high=array([0.5]), n=4)

Every function takes arrays whose last axis is ``example`` and returns one interval for each leading cell. With ``clusters``
(one label an example: its template) whole clusters are resampled, since examples of one template are not independent.

Two corrections keep few clusters honest. Percentile intervals of G units are too narrow by about sqrt((G-1)/G)·z/t, so they
are widened by the inverse around the estimate (the "expanded percentile" interval of Hesterberg, What Teachers Should Know
About the Bootstrap, The American Statistician 69, 2015, section 4). And a ratio is undefined, NaN rather than a confident
number, where the interval of its denominator covers 0.

A cell with a missing example (NaN) has a NaN interval: no number is made from part of the examples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

from interp.errors import ShapeMismatchError

Array = NDArray[np.float64]

#: Resampled values held at once: cells are taken in slabs of this many values, 64 MB.
SLAB = 2**23


class Interval(NamedTuple):
    """An estimate and its two-sided interval, one for each cell."""

    mean: Array
    low: Array
    high: Array
    n: int
    """Units that were taken as independent: examples, or clusters of them."""


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
        An interval whose arrays have the numerator's leading shape. ``low`` and ``high`` are NaN for a single unit.

    Raises:
        ShapeMismatchError: the arrays do not share their examples.
        ValueError: ``level`` or ``resamples`` is out of range.
    """
    top, bottom, labels = _prepare(numerator, denominator, clusters, level)
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    shape = np.broadcast_shapes(top.shape[:-1], bottom.shape[:-1])
    top, bottom = _sums(top, labels), _sums(bottom, labels)
    units = top.shape[-1]
    weights = _weights(units, resamples, seed)
    widen = _widening(units, level)

    below = bottom.reshape(-1, units) @ weights  # [denominator cell, resample]
    mean_bottom = bottom.mean(-1)
    per_example = mean_bottom * units / _examples(denominator)
    defined = np.abs(per_example) > np.asarray(floor, float)
    if units > 1:
        low, high = _percentiles(below, mean_bottom.ravel(), level, widen)
        defined = defined & ~((low <= 0) & (high >= 0)).reshape(mean_bottom.shape)

    index = np.broadcast_to(np.arange(mean_bottom.size).reshape(mean_bottom.shape), shape).ravel()
    tops = np.broadcast_to(top, (*shape, units)).reshape(-1, units)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = tops.mean(-1) / mean_bottom.ravel()[index]
        low, high = np.full_like(mean, np.nan), np.full_like(mean, np.nan)
        if units > 1:
            step = max(1, SLAB // resamples)
            for start in range(0, len(mean), step):
                slab = slice(start, start + step)
                draws = (tops[slab] @ weights) / below[index[slab]]
                low[slab], high[slab] = _percentiles(draws, mean[slab], level, widen)
    dead = ~np.broadcast_to(defined, shape).ravel()
    for column in (mean, low, high):
        column[dead] = np.nan
    return Interval(mean.reshape(shape), low.reshape(shape), high.reshape(shape), units)


def bootstrap_mean(
    values: ArrayLike, clusters: ArrayLike | None = None, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """The mean over examples of ``values [..., example]``; clusters of unequal size weigh by their size."""
    return bootstrap_ratio(values, np.ones(_examples(values)), clusters, level=level, resamples=resamples, seed=seed)


def t_interval(
    numerator: ArrayLike,
    denominator: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    *,
    level: float = 0.95,
    floor: float | ArrayLike = 0.0,
) -> Interval:
    """Student's interval of a mean, or of a ratio of means to first order, with one degree of freedom less than units.

    The ratio R = Σa/Σb has residuals e = a − R·b a unit; its variance is G/(G−1) · Σ e² / (Σb)² (the cluster-robust
    estimator: Cochran, Sampling Techniques, 1977, section 6.3 and 9A). Far cheaper than a bootstrap, and symmetric.
    """
    bottom_given = np.ones(_examples(numerator)) if denominator is None else denominator
    top, bottom, labels = _prepare(numerator, bottom_given, clusters, level)
    shape = np.broadcast_shapes(top.shape[:-1], bottom.shape[:-1])
    top, bottom = _sums(top, labels), _sums(bottom, labels)
    units = top.shape[-1]
    per_example = bottom.sum(-1) / _examples(numerator)
    defined = np.abs(per_example) > np.asarray(floor, float)
    t = float(stdtrit(units - 1, 0.5 + level / 2)) if units > 1 else np.nan
    if denominator is not None and units > 1:
        defined = defined & (np.abs(bottom.mean(-1)) > t * bottom.std(-1, ddof=1) / np.sqrt(units))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(defined, top.sum(-1) / bottom.sum(-1), np.nan)
        residual = top - mean[..., None] * bottom
        spread = np.sqrt(units / (units - 1) * (residual**2).sum(-1)) / np.abs(bottom.sum(-1)) if units > 1 else np.nan
    mean = np.broadcast_to(mean, shape)
    return Interval(mean, mean - t * spread, mean + t * spread, units)


def _prepare(
    numerator: ArrayLike, denominator: ArrayLike, clusters: ArrayLike | None, level: float
) -> tuple[Array, Array, NDArray[np.intp] | None]:
    """Both arrays as float64, and the clusters as numbers; None where there is nothing to cluster."""
    top, bottom = np.asarray(numerator, float), np.asarray(denominator, float)
    labels = None if clusters is None else np.asarray(clusters)
    sizes = {top.shape[-1:], bottom.shape[-1:]} | (set() if labels is None else {labels.shape})
    if len(sizes) != 1 or top.ndim == 0 or top.shape[-1] == 0:
        raise ShapeMismatchError(
            f"the last axis of every array is example and must be equal and not empty: numerator {top.shape}, "
            f"denominator {bottom.shape}" + ("" if labels is None else f", clusters {labels.shape}")
        )
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if labels is None:
        return top, bottom, None
    names, numbers = np.unique(labels.astype(str), return_inverse=True)
    return top, bottom, numbers if len(names) > 1 else None


def _sums(values: Array, labels: NDArray[np.intp] | None) -> Array:
    """``[..., example]`` summed over each cluster: ``[..., unit]``."""
    if labels is None:
        return values
    one_hot = np.zeros((len(labels), labels.max() + 1))
    one_hot[np.arange(len(labels)), labels] = 1.0
    sums = np.asarray(np.nan_to_num(values) @ one_hot)
    missing = ~np.isfinite(values)  # 0 · NaN would leave its own cluster and spoil the others
    sums[(missing @ one_hot) > 0] = np.nan
    return sums


def _weights(units: int, resamples: int, seed: int) -> Array:
    """How often each unit is drawn in each resample: ``[unit, resample]``."""
    draws = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=resamples)
    return draws.T.astype(float)


def _widening(units: int, level: float) -> float:
    """By how much a percentile interval of so few units is too narrow: sqrt(G/(G-1)) · t/z."""
    if units < 2:
        return np.nan
    return float(np.sqrt(units / (units - 1)) * stdtrit(units - 1, 0.5 + level / 2) / ndtri(0.5 + level / 2))


def _percentiles(draws: Array, centre: Array, level: float, widen: float) -> tuple[Array, Array]:
    """Widened percentiles of ``draws [cell, resample]``; NaN in a cell stays NaN."""
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2], axis=-1)
    return centre + widen * (low - centre), centre + widen * (high - centre)


def _examples(values: ArrayLike) -> int:
    shape = np.shape(values)
    return shape[-1] if shape else 0
