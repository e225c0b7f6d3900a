"""Which of many cells differ from 0: the max-T sign-flip test, and the intervals that go with it.

    >>> import numpy as np
    >>> from interp.stats import sign_flip
    >>> found = sign_flip(np.array([[1.0, 2.0, 3.0, 2.0, 1.0, 2.0], [1.0, -2.0, 3.0, -2.0, 1.0, 0.0]]))
    >>> found.p_adjusted.round(3).tolist(), found.exact
    ([0.031, 1.0], True)

Under the null hypothesis a unit's effects are as likely to be their own negatives (Nichols and Holmes, Human Brain Mapping 15,
2002, section "one-sample"). All cells of a unit are flipped together, so that whatever correlation cells have is kept, and a
cell is compared with the largest of all cells in each flip: single-step max-T, which holds the chance of even one false cell
in the whole map (Westfall and Young, Resampling-Based Multiple Testing, 1993).

The statistic is |Σ S_g| / sqrt(Σ S_g²) of the units' sums S. It grows with Student's |t| = r·sqrt((G−1)/(G−r²)), so cells
with much and with little noise count alike; and it stays finite, at most sqrt(G), where all units agree and t would divide
by 0. ``scipy.stats.permutation_test`` flips signs too, but recomputes a statistic of Python for every flip, knows no clusters
and takes no maximum over cells.

G units have 2^(G−1) different flips, and no p-value is smaller than one over that: 0.125 of four templates, 0.03 of six.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interp.stats import units
from interp.stats.units import Array, Units, at_least_one, prepare

_TIE = 1 - 1e-9
"""A flip whose statistic is lower by rounding only is as large."""


class Flips(NamedTuple):
    """What sign flips say of each cell; NaN of cells that are not tested."""

    p_alone: Array
    """Two-sided, of this cell alone: for a cell that was chosen before looking."""
    p_adjusted: Array
    """Two-sided, adjusted for all cells that are tested."""
    low: Array
    """Of intervals that hold for all cells at once, so also for those chosen by looking; 0 lies outside where ``p_adjusted``
    is at most 1 − level. Infinite where the units are too few."""
    high: Array
    n: int
    """Units that were flipped: examples, or clusters of them."""
    cells: int
    """Cells that were tested."""
    smallest: float
    """The smallest p-value that these flips could give."""
    exact: bool
    """Whether all flips were made, or some at random."""


def sign_flip(
    values: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    among: ArrayLike | None = None,
    level: float = 0.95,
    flips: int = 1000,
    seed: int = 0,
) -> Flips:
    """Test whether the mean over examples is 0, in every cell, adjusted for having looked at all of them.

    The null hypothesis is symmetry about 0; the test is exact for it, whatever the sizes of the clusters. Skewed values with
    mean 0 are no such symmetry: where all cells share one exponential factor, 11% of maps have a false cell in place of 5%.
    Where one unit of twenty is far from the others, and decides a cell's mean by being drawn, it is a quarter to a half; with
    Student's t or a bootstrap, adjusted for as many cells, about as many.

    Args:
        values: ``[..., example]``, effects.
        clusters: one label an example; whole clusters are flipped. None, or one label for all, flips examples.
        among: ``[...]``, the cells that are tested; by default all. Cells that are 0 in every unit, or have a missing example,
            never are.
        level: of the intervals.
        flips: how many. All of them are made where they are no more, else so many at random, and the flip that leaves
            everything as it is counts too (Phipson and Smyth, Statistical Applications in Genetics and Molecular Biology 9,
            2010).
        seed: of random flips.

    Raises:
        ShapeMismatchError: values and clusters do not share their examples.
        ValueError: ``level`` or ``flips`` is out of range.
    """
    (array,), of = prepare({"values": values}, clusters, level)
    at_least_one(flips=flips)
    shape, sums = array.shape[:-1], of.sums(array).reshape(-1, of.count)
    size = np.sqrt((sums**2).sum(-1))
    tested = size > 0  # NaN is not
    if among is not None:
        tested &= np.broadcast_to(among, shape).ravel()
    signs, exact = _signs(of.count, flips, seed)
    always = 0 if exact else 1
    total = signs.shape[1] + always
    p_alone: Array = np.full(len(sums), np.nan)
    p_adjusted = p_alone.copy()
    chosen, largest = np.flatnonzero(tested), np.zeros(signs.shape[1])
    found = np.abs(sums[chosen].sum(-1)) / size[chosen] * _TIE
    step = max(1, units.SLAB // max(signs.shape))
    for start in range(0, len(chosen), step):
        slab = slice(start, start + step)
        flipped = np.abs((sums[chosen[slab]] / size[chosen[slab], None]) @ signs)
        np.maximum(largest, flipped.max(0), out=largest)
        p_alone[chosen[slab]] = ((flipped >= found[slab, None]).sum(-1) + always) / total
    largest.sort()
    p_adjusted[chosen] = (len(largest) - np.searchsorted(largest, found) + always) / total
    low, high = _simultaneous(sums, of, _critical(largest, always, level))
    p_alone, p_adjusted, low, high = (column.reshape(shape) for column in (p_alone, p_adjusted, low, high))
    return Flips(p_alone, p_adjusted, low, high, of.count, len(chosen), 1 / total, exact)


def _signs(count: int, flips: int, seed: int) -> tuple[Array, bool]:
    """``[unit, flip]``, and whether these are all. Flipping everything changes no |sum|, so the first unit keeps its sign."""
    if count - 1 <= np.log2(flips):
        bits = np.arange(2 ** (count - 1))[None] >> np.arange(count - 1)[:, None] & 1
        return np.vstack([np.ones((1, bits.shape[1])), 1.0 - 2.0 * bits]), True
    return np.random.default_rng(seed).choice([-1.0, 1.0], size=(count, flips)), False


def _critical(largest: Array, always: int, level: float) -> float:
    """What the statistic must exceed for an adjusted p of at most 1 − level; infinite where nothing can."""
    allowed = int(np.floor((1 - level) * (len(largest) + always) + 1e-9))
    return float(largest[::-1][allowed - always]) / _TIE if allowed else np.inf


def _simultaneous(sums: Array, of: Units, critical: float) -> tuple[Array, Array]:
    """The means that the test does not refuse: all θ with |Σ (S_g − n_g·θ)| ≤ c · sqrt(Σ (S_g − n_g·θ)²)."""
    square = critical**2
    total, n = sums.sum(-1), of.sizes.sum()
    leading = n**2 - square * (of.sizes**2).sum()
    low, high = (np.where(np.isnan(total), np.nan, end) for end in (-np.inf, np.inf))
    if leading > 1e-9 * n**2:
        middle = total * n - square * (sums @ of.sizes)
        last = total**2 - square * (sums**2).sum(-1)
        root = np.sqrt(np.maximum(middle**2 - leading * last, 0))
        low, high = (middle - root) / leading, (middle + root) / leading
    nothing: NDArray[np.bool_] = (sums == 0).all(-1)
    return np.where(nothing, 0.0, low), np.where(nothing, 0.0, high)
