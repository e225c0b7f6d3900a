"""Whether other examples would have given the same circuit.

>>> found = stability(scores, graph, [100, 1000])                                          # doctest: +SKIP
>>> found["jaccard"].values, found["noise"].values                                       # doctest: +SKIP
(array([0.81, 0.74]), array([0.33, 0.35]))

Resamples of the same examples share most of them, so that their circuits agree even where scores are noise: the means of two
resamples correlate by one half. So what noise gives is reckoned too, and circuits of two halves of the examples, which share
none, stand beside: of noise they agree by chance alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp import axes, effects
from interp.circuits.circuit import EDGE, Circuit
from interp.circuits.comparing import Of, chance, members, pairwise
from interp.circuits.graph import Graph
from interp.circuits.selecting import By, Scores, numbers_of, strongest
from interp.errors import InputError, require_whole

Floats: TypeAlias = NDArray[np.float64]
BAR = 0.8
"""A mean Jaccard index above which a circuit may be called stable; proposed, not derived."""
FEWEST = 10
"""Random halves, and random signs with so many resamples each."""


def stability(
    scores: Scores,
    graph: Graph,
    count: int | Sequence[int],
    *,
    by: By = "size",
    connected: bool = False,
    metric: str | None = None,
    resamples: int = 100,
    clusters: str | None = "template",
    seed: int = 0,
) -> xr.Dataset:
    """Circuits of the strongest edges by resampled examples, and how alike they are. No model is run.

    Where examples carry :data:`interp.effects.FEWEST_CLUSTERS` templates at least, whole templates are drawn.

    Args:
        scores: of every example, as :func:`interp.attribute_edges` and :func:`interp.patch_edges` give them.
        graph: whose edges these are.
        count: how many edges are kept, or several such numbers.
        by: see :func:`interp.circuits.strongest`, as ``connected`` and ``metric``.
        resamples: how many, of as many examples or templates, with replacement.
        clusters: the coordinate along example that names what is independent; None for examples themselves.
        seed: of the draws.

    Returns:
        Along ``cell``, a number of edges each, with ``size``:

        ================  ==========================================================================================
        ``jaccard``       mean over each two of the circuits, on edges; ``jaccard_nodes`` on heads and MLPs
        ``halves``        the same of circuits of two halves of the examples, mean over random halves
        ``noise``         as ``jaccard``, with the sign of each example's (or template's) scores turned by chance: what there
                          is of it without anything in common to the examples
        ``chance``        of circuits that are drawn evenly
        ``frequency``     ``[cell, edge]``, in which share of the circuits an edge is
        ================  ==========================================================================================

        The attribute ``bar`` is the number that ``jaccard`` is held against, 0.8; ``resampled`` says what was drawn.

    Raises:
        InputError: scores have no examples, or a single one.
        EdgesError, UnknownNameError, ValueError: see :func:`interp.circuits.strongest`.
    """
    require_whole("resamples", resamples, "how often examples are drawn", least=2)
    array = None if isinstance(scores, np.ndarray) else numbers_of(scores, metric)
    if array is None or axes.EXAMPLE not in array.dims or array.sizes[axes.EXAMPLE] < 2:
        raise InputError(
            "stability resamples examples, and these scores have none, or one: give the result of interp.attribute_edges or "
            "interp.patch_edges itself, not its mean"
        )
    strongest(array.mean(axes.EXAMPLE), graph, 1, by=by)  # whether they are of this graph
    of = effects.clusters_of(array, clusters)
    sums, sizes = _units(array.transpose(..., axes.EXAMPLE).values.astype(float), of.labels)
    units, draw = len(sizes), np.random.default_rng(seed)
    drawn = _drawn(draw, units, resamples)
    orders = np.array([draw.permutation(units) for _ in range(max(FEWEST, resamples // 5))])
    halves = (orders < units // 2).astype(np.float64)
    flipped = [(draw.choice([-1.0, 1.0], size=units), _drawn(draw, units, FEWEST)) for _ in range(FEWEST)]
    counts = [count] if isinstance(count, int | np.integer) else list(count)
    found: dict[str, list[float]] = {name: [] for name in ("jaccard", "jaccard_nodes", "halves", "noise", "chance")}
    frequency = []
    for size in counts:

        def circuits(weights: Floats, signs: Floats | float = 1.0, size: int = size) -> list[Circuit]:
            means = (weights @ (signs * sums).T) / (weights @ sizes)[:, None]
            return [strongest(row, graph, size, by=by, connected=connected) for row in means]

        kept = circuits(drawn)
        frequency.append(np.mean([one.kept for one in kept], axis=0))
        found["jaccard"].append(_agreement(kept, "edges"))
        found["jaccard_nodes"].append(_agreement(kept, "nodes"))
        sides = zip(circuits(halves), circuits(1.0 - halves), strict=True)
        found["halves"].append(float(np.mean([_agreement(two, "edges") for two in sides])))
        found["noise"].append(float(np.mean([_agreement(circuits(again, signs), "edges") for signs, again in flipped])))
        found["chance"].append(chance(size, size, len(graph)))
    said = {"bar": BAR, "resamples": resamples, "resampled": of.unit, "units": units, "by": by, "connected": connected}
    labels = {name: (EDGE, values) for name, (_, values) in graph.coords().items()}
    return xr.Dataset(
        {name: (axes.CELL, values) for name, values in found.items()} | {"frequency": ((axes.CELL, EDGE), np.array(frequency))},
        coords=labels | {axes.CELL: range(len(counts)), "size": (axes.CELL, counts)},
        attrs=dict(array.attrs) | said | {"total": len(graph)},
    )


def _units(values: Floats, labels: NDArray[Any] | None) -> tuple[Floats, Floats]:
    """Sums over what is independent, ``[edge, unit]``, and how many examples each has."""
    if labels is None:
        return values, np.ones(values.shape[-1])
    known, numbers, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    return values @ (numbers[:, None] == np.arange(len(known))).astype(float), sizes.astype(float)


def _drawn(draw: np.random.Generator, units: int, times: int) -> Floats:
    """How often each is drawn, ``[draw, unit]``."""
    return draw.multinomial(units, np.full(units, 1 / units), size=times).astype(float)


def _agreement(circuits: Sequence[Circuit], of: Of) -> float:
    """The mean Jaccard index of each two."""
    both, sizes, _ = pairwise(members(circuits, of))
    first, second = np.triu_indices(len(circuits), 1)
    either = sizes[first] + sizes[second] - both[first, second]
    return float((both[first, second] / either).mean())
