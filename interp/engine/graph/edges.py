"""The graph of a model's residual stream: who writes to it, who reads from it, and the edges between them.

>>> Edge.of("L3H0.z", "L9H6.q")
L3H0 → L9H6.q

What a graph is stands in :mod:`interp.circuits.graph`; here it is read off a model.
"""

from __future__ import annotations

from collections.abc import Sequence

from interp.circuits import EMBED, LOGITS, SLOTS, Block, Edge, Graph, node
from interp.engine.joins import parallel
from interp.models import Model
from interp.sites import Site

__all__ = ["EMBED", "LOGITS", "SLOTS", "Edge", "check", "edges", "graph", "node"]


def graph(model: Model) -> Graph:
    """The graph of a model.

    Raises:
        UnknownSiteError: the model's heads cannot be told apart, or what its MLPs add to the stream is not known.
    """
    for layer in range(model.sizes.get("layer", 0)):
        for slot in SLOTS:
            model.check(Site(slot, layer=layer))
        if layer in model.anatomy.mlp:
            model.check(Site("mlp_out", layer=layer))
    return _shape(model)


def _shape(model: Model) -> Graph:
    """The same, with what is known of it."""
    blocks = []
    for layer in range(model.sizes.get("layer", 0)):
        heads, kv_heads = (_heads(model, Site(name, layer=layer)) for name in ("z", "k"))
        blocks.append(Block(heads, kv_heads, layer in model.anatomy.mlp, parallel(model, layer)))
    return Graph(tuple(blocks))


def _heads(model: Model, site: Site) -> int:
    return model.anatomy.size(site, "head") if site in model.anatomy.taps else 0


def edges(model: Model) -> list[Edge]:
    """Every edge, by receiver, in the order of the network; GPT-2 small has 32,491.

    Raises:
        UnknownSiteError: see :func:`graph`.
    """
    return list(graph(model).edges)


def check(model: Model, wanted: Sequence[Edge]) -> Graph:
    """The graph of a model that has some edges.

    Raises:
        UnknownSiteError: it has not.
    """
    found = _shape(model)
    found.numbers(wanted)
    for end in dict.fromkeys(end for edge in wanted for end in (edge.receiver, edge.sender)):
        if end not in (EMBED, LOGITS) and end.name != "mlp_pre":
            model.check(end)
    return found
