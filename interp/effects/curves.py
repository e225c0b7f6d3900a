"""Numbers behind curves: areas under faithfulness, ROC, the size–recovery frontier, agreement of two estimates, accuracies.

    >>> import numpy as np
    >>> from interp.effects import curves
    >>> curves.areas([0.001, 0.5, 1.0], [1.0, 1.0, 1.0])
    Areas(cpr=0.999, cmd=0.0)
    >>> curves.roc([3.0, 2.0, 1.0], [True, False, True]).auc
    0.5

All of them take plain arrays, so that a figure and a table give the same number.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

from interp import stats
from interp.errors import ShapeMismatchError

Array = NDArray[np.float64]


class Areas(NamedTuple):
    """The two areas of faithfulness f over the share k that circuits keep (MIB: Mueller et al., arXiv 2504.13151)."""

    cpr: float
    """Circuit performance ratio ∫ f dk: large where small circuits do well; above 1 where f is."""
    cmd: float
    """Circuit–model distance ∫ |1 − f| dk: 0 where every circuit does as the full model."""


def areas(share: ArrayLike, faithfulness: ArrayLike) -> Areas:
    """CPR and CMD by the trapezoid rule over a linear share, from the smallest share that is given; none is added at 0.

    |1 − f| is taken at the points, as MIB does, so that a curve that crosses 1 between two of them keeps their distance.

    Args:
        share: ``[size]``, of the edges or nodes that are kept, 0 to 1, in any order.
        faithfulness: ``[size]``; NaN anywhere makes both areas NaN.

    Raises:
        ShapeMismatchError: they differ in shape, or there are fewer than two sizes.
    """
    k, f = _line(share, faithfulness, "share", "faithfulness", 2)
    order = np.argsort(k, kind="stable")
    return Areas(*(round(float(np.trapezoid(y[order], k[order])), 12) for y in (f, np.abs(1 - f))))


def area_intervals(
    share: ArrayLike,
    numerator: ArrayLike,
    denominator: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> tuple[stats.Interval, stats.Interval]:
    """CPR and CMD of f = Σ numerator / Σ denominator with intervals over examples, by leaving out one unit at a time.

    Args:
        share: ``[size]``.
        numerator: ``[size, example]``, m(C) − m(∅).
        denominator: ``[example]``, m(full) − m(∅).
        clusters: one label an example, whose units are left out together; None leaves out examples.
        level: of the intervals.
    """
    top, bottom = np.asarray(numerator, float), np.asarray(denominator, float)
    member = _member(len(bottom), clusters)
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = areas(share, top.sum(-1) / bottom.sum())
        without = (top.sum(-1, keepdims=True) - top @ member) / (bottom.sum() - bottom @ member)
    found = np.array([areas(share, column) for column in without.T])  # [unit, area]
    return jackknife(whole.cpr, found[:, 0], level=level), jackknife(whole.cmd, found[:, 1], level=level)


def jackknife(whole: float, without: ArrayLike, *, level: float = 0.95) -> stats.Interval:
    """The interval of a statistic from its values without one unit each.

    Standard error sqrt((G − 1)/G · Σ (θ₋g − θ̄)²) (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 11)
    with Student's t of G − 1.
    """
    values = np.asarray(without, float)
    count = len(values)
    t = float(stdtrit(count - 1, 0.5 + level / 2)) if count > 1 else np.nan
    se = np.sqrt((count - 1) / count * ((values - values.mean()) ** 2).sum()) if count > 1 else np.nan
    return stats.Interval(np.array(whole), np.array(whole - t * se), np.array(whole + t * se), count, np.array(se))


def _member(examples: int, clusters: ArrayLike | None) -> Array:
    """Which examples make up which unit: ``[example, unit]``, 0 or 1."""
    labels = np.arange(examples) if clusters is None else np.unique(np.asarray(clusters, str), return_inverse=True)[1]
    return (labels[:, None] == np.arange(labels.max() + 1)).astype(float)


class Roc(NamedTuple):
    """A receiver operating characteristic: corners from (0, 0) to (1, 1)."""

    fpr: Array
    tpr: Array
    threshold: Array
    """The lowest score that counts as found, at each corner; NaN of circuits."""
    auc: float


def roc(score: ArrayLike, truth: ArrayLike) -> Roc:
    """Truth found over falsehood found as the threshold on a score falls.

    Equal scores are found together, a straight line between two corners, so that the area is the Mann–Whitney U over its
    maximum, with ties for half. What has no score (NaN) is found last, all together.

    Args:
        score: ``[edge]``, higher is sooner.
        truth: ``[edge]`` bool.

    Raises:
        ShapeMismatchError: they differ in shape, or truth is all True or all False.
    """
    s, true = _line(score, truth, "score", "truth", 2)
    positives = _both(true)
    values, group = np.unique(np.where(np.isnan(s), -np.inf, s), return_inverse=True)
    hits = np.bincount(group, weights=true, minlength=len(values))[::-1]
    misses = np.bincount(group, weights=1 - true, minlength=len(values))[::-1]
    tpr = np.concatenate([[0.0], np.cumsum(hits) / positives])
    fpr = np.concatenate([[0.0], np.cumsum(misses) / (len(true) - positives)])
    beaten = misses.sum() - np.cumsum(misses) + misses / 2  # false ones of a lower score, of the same one for half
    u = float(hits @ beaten)
    return Roc(fpr, tpr, np.concatenate([[np.inf], values[::-1]]), u / (positives * (len(true) - positives)))


def auc_interval(
    score: ArrayLike, truth: ArrayLike, clusters: ArrayLike | None = None, *, absolute: bool = False, level: float = 0.95
) -> stats.Interval:
    """The area under the ROC of mean scores with its interval over examples, by leaving out one unit at a time.

    Args:
        score: ``[edge, example]``; the mean over examples is what ranks.
        truth: ``[edge]`` bool.
        clusters: one label an example, whose units are left out together.
        absolute: rank by the size of the mean.
        level: of the interval.
    """
    values = np.asarray(score, float)
    member = _member(values.shape[-1], clusters)
    kept = values.shape[-1] - member.sum(0)
    means = [values.mean(-1), *((values.sum(-1, keepdims=True) - values @ member) / np.where(kept > 0, kept, np.nan)).T]
    whole, *without = [roc(np.abs(mean) if absolute else mean, truth).auc for mean in means]
    return jackknife(whole, without, level=level)


def delong(score: ArrayLike, truth: ArrayLike, *, level: float = 0.95) -> stats.Interval:
    """The area under the ROC with DeLong's interval over what is ranked (Biometrics 44, 1988), ties for half.

    >>> delong([0.1, 0.4, 0.4, 0.8], [False, True, False, True]).mean
    array(0.875)

    Args:
        score: ``[row]``; rows without one (NaN) play no part.
        truth: ``[row]`` bool.
        level: of the interval.

    Returns:
        NaN where truth is all True or all False.
    """
    values, right = np.asarray(score, float), np.asarray(truth, bool)
    if values.shape != right.shape or values.ndim != 1:
        raise ShapeMismatchError(f"score and truth are [row] each; got {values.shape} and {right.shape}")
    there = np.isfinite(values)
    yes, no = values[there & right], values[there & ~right]
    n = int(there.sum())
    if not len(yes) or not len(no):
        return stats.Interval(np.array(np.nan), np.array(np.nan), np.array(np.nan), n)
    every = ranks(np.concatenate([yes, no]))
    # Of every true row the share of false ones below it, and of every false one that of true ones above.
    above = (every[: len(yes)] - ranks(yes)) / len(no)
    below = 1 - (every[len(yes) :] - ranks(no)) / len(yes)
    area = above.mean()
    se = np.sqrt(sum(one.var(ddof=1) / len(one) if len(one) > 1 else np.nan for one in (above, below)))
    half = float(ndtri(0.5 + level / 2)) * se
    return stats.Interval(np.array(area), np.maximum(0.0, area - half), np.minimum(1.0, area + half), n, se)


def roc_of_circuits(circuits: ArrayLike, truth: ArrayLike) -> Roc:
    """Truth found over falsehood found of circuits that need not contain each other, such as ACDC's at several thresholds.

    Between two circuits the pessimistic step is taken: nothing more is found until the next circuit's falsehood is paid for
    (Conmy et al., arXiv 2304.14997, section 4). A circuit that another beats in both adds nothing.

    Args:
        circuits: ``[circuit, edge]`` bool.
        truth: ``[edge]`` bool.
    """
    kept = np.asarray(circuits, bool)
    true = np.asarray(truth, float)
    if kept.ndim != 2 or kept.shape[1:] != true.shape:
        raise ShapeMismatchError(f"circuits is [circuit, edge] and truth is [edge]; got {kept.shape} and {true.shape}")
    positives = _both(true)
    tpr = np.concatenate([[0.0], kept @ true / positives, [1.0]])
    fpr = np.concatenate([[0.0], kept @ (1 - true) / (len(true) - positives), [1.0]])
    order = np.lexsort((tpr, fpr))
    fpr, best = fpr[order], np.maximum.accumulate(tpr[order])
    x, y = np.repeat(fpr, 2)[1:], np.repeat(best, 2)[:-1]  # along first, then up
    return Roc(x, y, np.full(len(x), np.nan), float((np.diff(fpr) * best[:-1]).sum()))


def frontier(size: ArrayLike, value: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other beats: none is as small and better, or smaller and as good. NaN is never on it."""
    s, v = _line(size, value, "size", "value", 1)
    there = np.flatnonzero(np.isfinite(s) & np.isfinite(v))
    order = there[np.lexsort((-v[there], s[there]))]
    on = np.zeros(len(s), bool)
    best, at = -np.inf, np.nan
    for i in order:
        if v[i] > best or (v[i] == best and s[i] == at):
            on[i], best, at = True, v[i], s[i]
    return on


class Agreement(NamedTuple):
    """How two numbers of the same cells agree."""

    pearson: float
    spearman: float
    sign: float
    """Share of cells with the same sign, of those that have one in both."""
    n: int
    """Cells with both numbers."""
    signed: int
    """Cells with a sign in both: further from 0 than the floor."""


def agreement(first: ArrayLike, second: ArrayLike, *, floor: float = 0.0) -> Agreement:
    """Correlations and sign agreement over cells; NaN where a side does not vary.

    Args:
        first: ``[cell]``; cells with NaN on either side are left out.
        second: ``[cell]``.
        floor: numbers no further from 0 have no sign (the run's noise floor).
    """
    a, b = _line(first, second, "first", "second", 1)
    there = np.isfinite(a) & np.isfinite(b)
    a, b = a[there], b[there]
    sure = (np.abs(a) > floor) & (np.abs(b) > floor)
    same = float((np.sign(a[sure]) == np.sign(b[sure])).mean()) if sure.any() else np.nan
    return Agreement(_correlation(a, b), _correlation(ranks(a), ranks(b)), same, len(a), int(sure.sum()))


def ranks(values: ArrayLike) -> Array:
    """Ranks from 1 of a list of numbers, of equal ones their mean; ``scipy.stats``, which has it too, takes long to import.

    >>> ranks([2.0, 1.0, 2.0])
    array([2.5, 1. , 2.5])
    """
    _, group, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group]


def _correlation(a: Array, b: Array) -> float:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return np.nan
    return float(np.corrcoef(a, b)[0, 1])


def proportion(hits: ArrayLike, clusters: ArrayLike | None = None, *, level: float = 0.95) -> stats.Interval:
    """A share of examples, such as an accuracy, with Wilson's interval, which has a width at 0 and 1 too.

    With clusters the number of examples is the effective one, p(1 − p) over the variance between clusters, and Student's t
    stands for the normal quantile (Korn and Graubard, Survey Methodology 24, 1998). Where no cluster differs from another
    there is no such variance, and every cluster counts as one.

    Args:
        hits: ``[..., example]``, 0 or 1; a missing one makes its cell NaN.
        clusters: one label an example.
        level: of the interval.
    """
    values = np.asarray(hits, float)
    around = stats.t_interval(values, clusters=clusters, level=level)
    p, units, n = around.mean, around.n, values.shape[-1]
    if units == n:
        quantile, count = float(ndtri(0.5 + level / 2)), np.full(p.shape, float(n))
    elif units < 2:
        quantile, count = np.nan, np.full(p.shape, np.nan)
    else:
        quantile, variance = float(stdtrit(around.effective - 1, 0.5 + level / 2)), around.se**2
        with np.errstate(divide="ignore", invalid="ignore"):
            count = np.where(variance > 0, np.clip(p * (1 - p) / variance, 1, n), units)
    square = quantile**2 / count
    centre = (p + square / 2) / (1 + square)
    half = quantile * np.sqrt(p * (1 - p) / count + square / count / 4) / (1 + square)
    return stats.Interval(p, centre - half, centre + half, units, around.se, around.effective)


def _line(first: ArrayLike, second: ArrayLike, one: str, other: str, least: int) -> tuple[Array, Array]:
    a, b = np.asarray(first, float), np.asarray(second, float)
    if a.shape != b.shape or a.ndim != 1 or len(a) < least:
        raise ShapeMismatchError(
            f"{one} and {other} are two lists of the same length, of {least} at least; got {a.shape} and {b.shape}"
        )
    return a, b


def _both(truth: Array) -> int:
    """How many are true."""
    positives = int(truth.sum())
    if not 0 < positives < len(truth):
        raise ShapeMismatchError(f"a ROC needs true and false edges; of {len(truth)} edges {positives} are true")
    return positives
