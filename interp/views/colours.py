"""Which colours numbers have: red below 0 and blue above, or one scale where they are of one sign.

>>> import numpy as np
>>> scale(np.array([0.2, -0.5])), scale(np.array([0.2, 0.7]))["zmax"]
({'colorscale': 'RdBu', 'zmin': -0.5, 'zmax': 0.5}, 1.0)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Blue at the top, so positive is blue; the default of every signed quantity.
DIVERGING = "RdBu"
SEQUENTIAL = "Viridis"


def scale(numbers: NDArray[np.floating], limit: float | None = None, *, signed: bool = False) -> dict[str, object]:
    """The scale of some numbers, as plotly's heatmap takes it.

    Args:
        numbers: those of every map that is drawn in it; NaN has no colour.
        limit: the value at the end of the colours, in place of the largest one.
        signed: about 0 whatever the signs are.
    """
    finite = numbers[np.isfinite(numbers)]
    if not signed and finite.size and (finite.min() >= 0 or finite.max() <= 0):
        share = finite.min() >= 0 and finite.max() <= 1  # a probability or an accuracy
        low, high = (0.0, 1.0) if share else (min(0.0, float(finite.min())), max(0.0, float(finite.max())))
        return {"colorscale": SEQUENTIAL, "zmin": low, "zmax": limit or high}
    end = limit or (float(np.abs(finite).max()) if finite.size else 0.0) or 1.0
    return {"colorscale": DIVERGING, "zmin": -end, "zmax": end}
