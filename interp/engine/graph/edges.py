"""The graph of a model's residual stream: who writes to it, who reads from it, and the edges between them.

>>> Edge.of("L3H0.z", "L9H6.q")
L3H0 → L9H6.q

What a graph is stands in :mod:`interp.circuits.graph`; here it is read off a model.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from interp.circuits import EMBED, LOGITS, POS_EMBED, SLOTS, Block, Edge, Graph, node
from interp.circuits.graph import Ints
from interp.engine.joins import parallel
from interp.models import Model
from interp.sites import Site

__all__ = ["EMBED", "LOGITS", "SLOTS", "Edge", "edges", "graph", "node", "spec_of", "spec_of_graph", "wanted_edges"]


def graph(model: Model, *, split_embed: bool = False) -> Graph:
    """The graph of a model.

    Args:
        split_embed: take the embeddings of tokens and of positions as two writers, ``embed`` and ``pos_embed``, where a model
            has learned positions that it adds to the stream.

    Raises:
        UnknownSiteError: the model's heads cannot be told apart, or what its MLPs add to the stream is not known; or no
            position embedding is added to it.
    """
    for root in (EMBED, POS_EMBED) if split_embed else ():
        model.check(root)
    for layer in range(model.sizes.get("layer", 0)):
        for slot in SLOTS:
            model.check(Site(slot, layer=layer))
        if layer in model.anatomy.mlp:
            model.check(Site("mlp_out", layer=layer))
    return _shape(model, split_embed)


def _shape(model: Model, split_embed: bool) -> Graph:
    """The same, with what is known of it."""
    blocks = []
    for layer in range(model.sizes.get("layer", 0)):
        heads, kv_heads = (_heads(model, Site(name, layer=layer)) for name in ("z", "k"))
        blocks.append(Block(heads, kv_heads, layer in model.anatomy.mlp, parallel(model, layer)))
    return Graph(tuple(blocks), split_embed)


def _heads(model: Model, site: Site) -> int:
    return model.anatomy.size(site, "head") if site in model.anatomy.taps else 0


def edges(model: Model) -> list[Edge]:
    """Every edge, by receiver, in the order of the network; GPT-2 small has 32,491.

    Raises:
        UnknownSiteError: see :func:`graph`.
    """
    return list(graph(model).edges)


class WantedEdges(NamedTuple):
    """Some edges of a model's graph."""

    graph: Graph
    numbers: Ints


def wanted_edges(model: Model, edges: Any, *, split_embed: bool = False) -> WantedEdges:
    """Edges that were asked for: one, several, or None for all of them.

    Raises:
        UnknownSiteError: the model does not have one of them.
        ValueError: something else was given, or nothing.
    """
    if edges is None:
        every = graph(model, split_embed=split_embed)
        return WantedEdges(every, np.arange(len(every)))
    wanted: list[Any] = [edges] if isinstance(edges, Edge | str) else list(edges)
    for edge in wanted:
        if not isinstance(edge, Edge):
            raise ValueError(
                f"edges holds {edge!r} of type {type(edge).__name__}; expected edges as interp.engine.edges(model) lists them, "
                "such as Edge.of('L0H1.z', 'L2.mlp_pre')"
            )
    if not wanted:
        raise ValueError("edges is an empty list; leave it out for all of them")
    shape = _shape(model, split_embed)
    numbers = shape.numbers(wanted)
    for end in dict.fromkeys(end for edge in wanted for end in (edge.receiver, edge.sender)):
        if end not in (EMBED, LOGITS) and end.name != "mlp_pre":
            model.check(end)
    for root in shape.roots if split_embed else ():
        model.check(root)
    return WantedEdges(shape, numbers)


def spec_of(edges: Any, graph: Graph, numbers: Ints) -> dict[str, Any]:
    """Edges that were asked for, as a sweep is known by."""
    found: dict[str, Any] = {"edges": "all" if edges is None else [repr(graph.edges[i]) for i in numbers]}
    return found | spec_of_graph(graph)


def spec_of_graph(graph: Graph) -> dict[str, bool]:
    """What a graph is known by beside its model; nothing of the usual one."""
    return {"split_embed": True} if graph.split_embed else {}
