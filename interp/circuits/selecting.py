"""From scores of edges to a circuit: the strongest, those beyond a threshold, or greedily from the logits backwards.

>>> graph = Graph.like(2, heads=2)
>>> scores = np.zeros(len(graph))
>>> scores[graph.numbers(["embed → L1H0.q", "embed → L0H1.v", "L0H1 → logits"])] = [-3, 1, 2]
>>> [repr(edge) for edge in strongest(scores, graph, 2).edges]
['embed → L1H0.q', 'L0H1 → logits']
>>> [repr(edge) for edge in strongest(scores, graph, 2, connected=True).edges]
['embed → L0H1.v', 'L0H1 → logits']
"""

from __future__ import annotations

import heapq
from typing import Any, Literal, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp import axes, effects
from interp.circuits.circuit import Circuit, origin_of
from interp.circuits.graph import Bools, Graph, Ints
from interp.errors import EdgesError, UnknownNameError, require_whole

By = Literal["size", "lowers", "raises"]
Scores: TypeAlias = xr.Dataset | xr.DataArray | NDArray[Any]
BY = {"size": np.abs, "lowers": np.negative, "raises": np.positive}
"""A number that is the higher the more a change counts."""


def strongest(
    scores: Scores,
    graph: Graph,
    count: int,
    *,
    by: By = "size",
    connected: bool = False,
    metric: str | None = None,
    name: str = "strongest",
) -> Circuit:
    """The edges of highest score.

    Args:
        scores: effects of all edges, as :func:`interp.patch_edges` and :func:`interp.attribute_edges` give them, or another
            ``score`` of theirs, of which the mean over examples counts; or a number an edge, in the graph's order.
        count: how many edges.
        by: ``"size"``, whatever the sign; ``"lowers"``, those whose being left out lowers the metric, as of a logit difference
            what helps does; ``"raises"``, those that raise it, as what helps does of a loss.
        connected: begin with the logits, and take an edge only once what it leads to is connected to them.
        metric: which one, of effects of several.
        name: of the circuit.

    Raises:
        EdgesError: scores are not of all edges of the graph, or some of them are no numbers.
        UnknownNameError: ``by`` is none of those words, or there is no such metric.
        ValueError: ``count`` is not a whole number of at least 1, or more than there are edges.
    """
    require_whole("count", count, "how many edges are kept")
    if count > len(graph):
        raise EdgesError(f"count={count}, but {graph!r}")
    ranked = ranking(scores, graph, by, metric)
    order = np.argsort(-ranked, kind="stable")[:count] if not connected else _connected(ranked, graph, count)
    kept = np.zeros(len(graph), dtype=bool)
    kept[order] = True
    return Circuit(graph, kept, name, origin_of(scores) | {"count": count, "by": by, "connected": connected})


def beyond(
    scores: Scores, graph: Graph, threshold: float, *, by: By = "size", metric: str | None = None, name: str = "beyond"
) -> Circuit:
    """The edges whose score is more than a threshold; arguments and errors as for :func:`strongest`."""
    kept: Bools = ranking(scores, graph, by, metric) > threshold
    return Circuit(graph, kept, name, origin_of(scores) | {"threshold": float(threshold), "by": by})


def ranking(scores: Scores, graph: Graph, by: By = "size", metric: str | None = None) -> NDArray[np.float64]:
    """``[edge]``, by how much each counts; raises as :func:`strongest`."""
    if by not in BY:
        raise UnknownNameError("by", by, list(BY))
    values = scores if isinstance(scores, np.ndarray) else _means(scores, metric)
    if values.shape != (len(graph),):
        raise EdgesError(
            f"scores are of {'×'.join(map(str, values.shape))} edges, but {graph!r}; give the graph that they are of"
        )
    if not isinstance(scores, np.ndarray) and "edge" in scores.coords:
        names = graph.coords()["edge"][1]
        other = next((f"{a!r} where {b!r} is" for a, b in zip(scores["edge"].values, names, strict=True) if a != b), "")
        if other:
            raise EdgesError(f"scores are of other edges than the graph's: {other}")
    if np.isnan(values).any():
        raise EdgesError(f"{int(np.isnan(values).sum())} of {len(values)} scores are not a number")
    return BY[by](values.astype(float))


def _means(scores: xr.Dataset | xr.DataArray, metric: str | None) -> NDArray[Any]:
    """A number an edge."""
    found = numbers_of(scores, metric)
    return found.mean(axes.EXAMPLE).values if axes.EXAMPLE in found.dims else found.values


def numbers_of(scores: xr.Dataset | xr.DataArray, metric: str | None = None) -> xr.DataArray:
    """Scores of one metric, of every example where there are any; raises as :func:`strongest`."""
    if isinstance(scores, xr.Dataset):
        scores = scores["score"] if "score" in scores else effects.effect(scores)
    found = scores
    if axes.METRIC in found.dims:
        known = [str(one) for one in found[axes.METRIC].values]
        if metric is None and len(known) > 1:
            raise UnknownNameError("metric", "", known, why="scores are of several metrics; say which: metric=")
        if metric is not None and metric not in known:
            raise UnknownNameError("metric", metric, known)
        found = found.sel({axes.METRIC: metric or known[0]})
    return found


def _connected(ranked: NDArray[np.float64], graph: Graph, count: int) -> Ints:
    """The best edge that leads to what is connected, so many times."""
    into = np.split(np.arange(len(graph)), np.cumsum(graph.before)[:-1])
    reading = [np.flatnonzero(graph.served[:, sender]) for sender in range(len(graph.senders))]
    open_, chosen = set(range(len(graph.receivers) - graph.ends, len(graph.receivers))), list[int]()
    heap = [(-ranked[edge], int(edge)) for logits in open_ for edge in into[logits]]
    heapq.heapify(heap)
    while heap and len(chosen) < count:
        _, edge = heapq.heappop(heap)
        chosen.append(edge)
        for receiver in set(reading[graph.sender[edge]].tolist()) - open_:
            open_.add(receiver)
            for more in into[receiver]:
                heapq.heappush(heap, (-ranked[more], int(more)))
    return np.array(chosen, dtype=np.int64)
