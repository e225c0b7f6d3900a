"""ACDC by its definition, one edge after another, each asked with a pass of its own through :func:`interp.patch_circuits`.

Nothing is foretold, batched or left out by rule.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import interp
from interp.circuits import Circuit


def acdc(model: interp.Model, pairs: interp.Pairs, whole: Circuit, metric: Any, threshold: float, **options: Any) -> Circuit:
    """What is left of a circuit: readers from the logits backwards, of each its writers from the last to the first.

    An edge goes where the metric, on average over examples, then rises by less than the threshold.
    """
    graph, kept = whole.graph, whole.kept.copy()

    def measured(kept: NDArray[np.bool_]) -> float:
        found = interp.patch_circuits(model, pairs, Circuit(graph, kept), metric, progress=False, **options)
        return float(found["value"].mean())

    before = measured(kept)
    for edge in np.flatnonzero(kept)[::-1]:  # edges are by reader in the order of the network, and so are writers of one
        kept[edge] = False
        after = measured(kept)
        if after - before < threshold:
            before = after
        else:
            kept[edge] = True
    return Circuit(graph, kept, f"acdc {threshold:g}")
