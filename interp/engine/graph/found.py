"""Circuits that a search found, as effects of what they do, with the edges that each of them has.

>>> circuits_found(asked, sweep, kept, {"threshold": [0.1]}, {"change": change}).in_circuit.dims       # doctest: +SKIP
('cell', 'edge')
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool

from interp import axes, effects
from interp.circuits import BY, EDGE, KEPT, By, Graph
from interp.engine.graph.mixed import Mixed
from interp.engine.graph.sweeping import Asked, Begun
from interp.errors import InputError, UnknownNameError
from interp.metrics import KL
from interp.metrics import resolve as resolve_metrics


def circuits_found(
    asked: Asked,
    sweep: Begun,
    graph: Graph,
    kept: Bool[np.ndarray, "cell edge"],
    along: Mapping[str, Sequence[Any]],
    of_edges: Mapping[str, np.ndarray[Any, Any]],
) -> xr.Dataset:
    """What the circuits do, measured on all examples.

    Args:
        asked: by which the result is known: of as many cells as there are circuits.
        sweep: under way, with rows of circuits.
        along: what is said of the circuits, their names (``circuit``) among it.
        of_edges: what is said of edges, ``[cell, edge]``, beside ``in_circuit``.
    """
    rows = sweep.made
    assert isinstance(rows, Mixed)
    rows.kept = torch.tensor(kept, device=rows.model.device).float()
    value = rows.values(range(len(kept)), range(len(asked.encoded)), lambda done: None).cpu().numpy()
    floor = {"noise_floor": sweep.skeleton.attrs["noise_floor"]}
    result = sweep.skeleton.assign_attrs(asked.attributes | floor).assign(value=(sweep.skeleton["value"].dims, value))
    edges = {name: (EDGE, values) for name, (_, values) in graph.coords().items()}
    cells = {name: (axes.CELL, list(values)) for name, values in {**along, "edges": kept.sum(-1)}.items()}
    result = result.assign_coords(edges | cells)
    result = result.assign({name: ((axes.CELL, EDGE), numbers) for name, numbers in {KEPT: kept, **of_edges}.items()})
    return effects.stamped(result)


def what_counts(metric: Any, by: Any) -> By:
    """What keeps an edge in a search by a metric: that leaving it out raises the metric, lowers it, or either.

    Raises:
        InputError: several metrics, or one of which it has to be said.
        UnknownNameError: ``by`` is none of the words.
    """
    measured = resolve_metrics(metric)
    if len(measured) != 1:
        raise InputError(f"metric names {', '.join(one.name for one in measured)}; circuits are found by one metric at a time")
    if by is not None and by not in BY:
        raise UnknownNameError("by", by, list(BY))
    if by is None and not isinstance(measured[0], KL):
        raise InputError(
            f"it has to be said what keeps an edge, by {measured[0].name}: by='lowers' where what helps lowers it when it is "
            "left out, as of a logit difference; by='raises' where it raises it, as of a loss; by='size' for either"
        )
    return by or "raises"
