"""What the strongest of many cells are worth, without the luck that made them the strongest."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from interp.stats import units
from interp.stats.units import Array, at_least_one, prepare


def held_out(values: ArrayLike, clusters: ArrayLike | None = None, *, k: int = 10, splits: int = 200, seed: int = 0) -> Array:
    """The mean that the cells ranked 1 … k by one half of the examples have in the other half, ``[k]``.

    The largest |mean| of many cells is partly luck, and luck does not repeat itself: half of the units choose and sign the
    cells, the other half measures them, and this is averaged over random halves, each used both ways (cross-fitting: Sun and
    Bull, Reduction of Selection Bias in Genomewide Studies by Resampling, Genetic Epidemiology 28, 2005). Where nothing but
    luck chooses, the expected value is 0; where the same cell is always first, it is that cell's own mean. In between it errs
    on the low side, since half of the units choose less well than all of them. Ranks that are nearly tied may trade places.

    Positive where a rank keeps its sign. NaN for a single unit, and for ranks that no cell has.

    Args:
        values: ``[..., example]``; cells with a missing example are left out.
        clusters: one label an example; whole clusters are on one side. None, or one label for all, splits examples.
        k: how many ranks.
        splits: random halves.
        seed: of the halves.
    """
    (array,), of = prepare({"values": values}, clusters)
    at_least_one(k=k, splits=splits)
    sums = of.sums(array).reshape(-1, of.count)
    sums = sums[np.isfinite(sums).all(-1)]
    out, ranks = np.full(k, np.nan), min(k, len(sums))
    if of.count == 1 or ranks == 0:
        return out
    rng = np.random.default_rng(seed)
    half = rng.permuted(np.tile(np.arange(of.count) < of.count // 2, (-(-splits // 2), 1)), axis=1)
    choosing = np.vstack([half, ~half]).T.astype(float)  # [unit, split]
    total, n = sums.sum(-1, keepdims=True), of.sizes.sum()
    kept = np.zeros(ranks)
    step = max(1, units.SLAB // len(sums))
    for start in range(0, choosing.shape[1], step):
        side = choosing[:, start : start + step]
        chosen, size = sums @ side, of.sizes @ side
        there, elsewhere = chosen / size, (total - chosen) / (n - size)
        first = np.argpartition(-np.abs(there), ranks - 1, axis=0)[:ranks]
        first = np.take_along_axis(first, np.argsort(-np.abs(np.take_along_axis(there, first, 0)), axis=0), 0)
        kept += (np.sign(np.take_along_axis(there, first, 0)) * np.take_along_axis(elsewhere, first, 0)).sum(-1)
    out[:ranks] = kept / choosing.shape[1]
    return out
