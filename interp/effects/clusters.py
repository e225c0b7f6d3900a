"""What is independent of what: templates where examples carry enough of them, else examples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp import axes as names
from interp import stats

FEWEST_CLUSTERS = stats.FEWEST_UNITS
"""With fewer templates than this an interval over templates says nearly nothing (t = 4.3 at three), so examples are taken."""


class Clusters(NamedTuple):
    """What intervals and tests of a result resample, flip or split."""

    labels: NDArray[np.str_] | None
    """One an example; None where examples are independent."""
    unit: str
    """What is taken as independent: the coordinate's name, or "example"."""
    templates: int
    """Different labels that there are, also where they are too few to be used."""
    effective: float
    """How many units of equal size tell as much."""


def clusters_of(ds: xr.Dataset | xr.DataArray, clusters: str | None = "template") -> Clusters:
    """The clusters of a result's examples: by the coordinate named, where it has :data:`FEWEST_CLUSTERS` different labels."""
    n = float(ds.sizes.get(names.EXAMPLE, 1))
    if clusters is None or clusters not in ds.coords or ds[clusters].dims != (names.EXAMPLE,):
        return Clusters(None, names.EXAMPLE, 0, n)
    labels = np.asarray(ds[clusters].values).astype(str)
    found = len(np.unique(labels))
    if found < FEWEST_CLUSTERS:
        return Clusters(None, names.EXAMPLE, found, n)
    return Clusters(labels, clusters, found, stats.effective_number(labels))
