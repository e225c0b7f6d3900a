"""Cells that stand out of their family, and how far two maps of the same cells agree on them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from interp.effects.curves import agreement


def flagged(family: xr.DataArray, deviations: float = 2.0) -> xr.DataArray:
    """Cells at least so many standard deviations from the mean of all cells, as +1 above and −1 below it; 0 elsewhere.

    >>> flagged(xr.DataArray([0.0] * 8 + [1.0], dims="head")).values.tolist()
    [0, 0, 0, 0, 0, 0, 0, 0, 1]

    Args:
        family: one number a cell; cells with NaN count for nothing.
        deviations: how many; two is the rule of Zhang & Nanda (arXiv 2309.16042).
    """
    away = family - family.mean(skipna=True)
    least = deviations * float(family.std(skipna=True))
    far = (abs(away) >= least) & (abs(away) > 1e-12 * abs(family).max())
    found = xr.where(far, np.sign(away), 0).astype(int)
    return found.rename("flagged")


class Overlap(NamedTuple):
    """How two maps agree."""

    spearman: float
    """Rank correlation over all cells."""
    both: int
    """Cells that both flag with the same sign."""
    either: int
    """Cells that one of them flags."""

    @property
    def share(self) -> float:
        """Of the cells that one flags, those that both do; NaN where none is."""
        return self.both / self.either if self.either else float("nan")


def overlap(first: xr.DataArray, second: xr.DataArray, deviations: float = 2.0) -> Overlap:
    """Agreement of two maps with the same axes, in ranks and in what they flag."""
    first, second = xr.align(first, second.transpose(*first.dims), join="exact")
    one, other = (flagged(side, deviations).values for side in (first, second))
    return Overlap(
        agreement(first.values.ravel(), second.values.ravel()).spearman,
        int(((one == other) & (one != 0)).sum()),
        int(((one != 0) | (other != 0)).sum()),
    )
