"""The graph of a model's residual stream: who writes to it, who reads from it, and the edges between them.

>>> Edge.of("L3H0.z", "L9H6.q")
L3H0 → L9H6.q

What a graph is stands in :mod:`interp.circuits.graph`; here it is read off a model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import torch

from interp.circuits import EMBED, LOGITS, POS_EMBED, SLOTS, Block, Coordinates, Edge, Graph, node
from interp.circuits.graph import Ints
from interp.engine.joins import parallel
from interp.errors import EdgesError, HeadOutOfRangeError, InputError
from interp.interventions.digest import told
from interp.models import Model
from interp.sites import Positions, PositionsLike, Site

__all__ = [
    "EMBED", "LOGITS", "SLOTS", "Edge", "as_asked", "edges", "graph", "node", "spec_of", "spec_of_graph", "wanted_edges",
]  # fmt: skip


def graph(
    model: Model,
    *,
    split_embed: bool = False,
    coordinates: Coordinates | str | Iterable[Coordinates | str] = (),
    spans: str | SupportsIndex | Iterable[PositionsLike] = (),
) -> Graph:
    """The graph of a model.

    Args:
        split_embed: take the embeddings of tokens and of positions as two writers, ``embed`` and ``pos_embed``, where a model
            has learned positions that it adds to the stream.
        coordinates: some of what nodes write, nodes of their own: neurons (``"L3.mlp_post[17]"``), or coordinates in a basis,
            see :meth:`interp.circuits.Coordinates.of`. A node whose coordinates are told apart is then the rest of it.
        spans: tokens at which every node is told apart, such as ``["S2", "END"]``, as positions are given to
            :func:`interp.patch`; all others are one more span.

    Raises:
        UnknownSiteError: the model's heads cannot be told apart, or what its MLPs add to the stream is not known; or no
            position embedding is added to it; or nothing is told apart at a site.
        HeadOutOfRangeError: a coordinate that a site, or a featurizer, does not have.
        EdgesError: see :meth:`interp.circuits.Graph.apart`.
    """
    for root in (EMBED, POS_EMBED) if split_embed else ():
        model.check(root)
    for layer in range(model.sizes.get("layer", 0)):
        for slot in SLOTS:
            model.check(Site(slot, layer=layer))
        if layer in model.anatomy.mlp:
            model.check(Site("mlp_out", layer=layer))
    several = [coordinates] if isinstance(coordinates, Coordinates | str) else coordinates
    told_apart = [_known(model, Coordinates.of(one) if isinstance(one, str) else one) for one in several]
    named = [spans] if isinstance(spans, str | SupportsIndex) else spans
    return _shape(model, split_embed).apart(told_apart, [repr(Positions.parse(one)) for one in named])


def _known(model: Model, one: Any) -> Coordinates:
    """Coordinates that a model has, with what their basis is known by."""
    if not isinstance(one, Coordinates):
        raise InputError(f"coordinates hold a {type(one).__name__}; expected interp.circuits.Coordinates, or L3.mlp_post[17]")
    model.check(one.site)
    if one.featurizer is None and one.basis:
        raise EdgesError(
            f"the basis of {one!r} is not at hand: files of circuits do not hold featurizers. Make the graph with it, "
            "interp.graph(model, coordinates=…), and read the circuit with Circuit.load(path, graph)"
        )
    axis = {"z": "d_head", "mlp_post": "unit"}.get(one.site.name, "d_model")
    width = model.sizes[axis] if axis != "unit" else model.anatomy.size(one.site, "unit")
    if one.featurizer is not None:
        width = one.featurizer.encode(torch.zeros(1, width, dtype=model.dtype, device=model.device)).shape[-1]
        basis = json.dumps(told(one.featurizer), sort_keys=True)
        if one.basis not in ("", basis):
            raise EdgesError(f"the featurizer of {one!r} is another than it was made with: {basis}, not {one.basis}")
        one = replace(one, basis=basis)
    if max(one.features) >= width:
        raise HeadOutOfRangeError(f"coordinate {max(one.features)} of {one!r} does not exist: there are {width}")
    return one


def as_asked(model: Model, given: Any) -> Graph:
    """The graph that is asked for: by default the model's, nodes whole.

    Raises:
        EdgesError: it is of another model, or its featurizers are not at hand.
        InputError: it is no graph.
    """
    if given is None:
        return graph(model)
    if not isinstance(given, Graph):
        raise InputError(f"graph is a {type(given).__name__}; expected what interp.graph(model, …) gives")
    own = graph(model, split_embed=given.split_embed)
    if own.blocks != given.blocks:
        raise EdgesError(f"{given!r} is of another graph than {model.name}'s, {own!r}")
    return replace(given, coordinates=tuple(_known(model, one) for one in given.coordinates))


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


def wanted_edges(model: Model, edges: Any, given: Any = None) -> WantedEdges:
    """Edges that were asked for: one, several, or None for all of them.

    Args:
        given: the graph that is asked for, if one is.

    Raises:
        UnknownSiteError: the model does not have one of them.
        EdgesError, InputError: see :func:`as_asked`.
        ValueError: something else was given, or nothing.
    """
    if edges is None:
        every = as_asked(model, given)
        return WantedEdges(every, np.arange(len(every)))
    wanted: list[Any] = [edges] if isinstance(edges, Edge | str) else list(edges)
    for edge in wanted:
        if not isinstance(edge, Edge | str):
            raise ValueError(
                f"edges holds {edge!r} of type {type(edge).__name__}; expected edges as interp.engine.edges(model) lists them, "
                "such as Edge.of('L0H1.z', 'L2.mlp_pre'), or as they are printed, 'L0H1 → m2'"
            )
    if not wanted:
        raise ValueError("edges is an empty list; leave it out for all of them")
    shape = _shape(model, False) if given is None else as_asked(model, given)
    numbers = shape.numbers(wanted)
    if given is None:
        for end in dict.fromkeys(end for i in numbers for end in (shape.edges[i].receiver, shape.edges[i].sender)):
            assert isinstance(end, Site)  # nothing is told apart
            if end not in (EMBED, LOGITS) and end.name != "mlp_pre":
                model.check(end)
    return WantedEdges(shape, numbers)


def spec_of(edges: Any, graph: Graph, numbers: Ints) -> dict[str, Any]:
    """Edges that were asked for, as a sweep is known by."""
    found: dict[str, Any] = {"edges": "all" if edges is None else [repr(graph.edges[i]) for i in numbers]}
    return found | spec_of_graph(graph)


def spec_of_graph(graph: Graph) -> dict[str, Any]:
    """What a graph is known by beside its model; nothing of the usual one."""
    found: dict[str, Any] = {"split_embed": True} if graph.split_embed else {}
    if graph.coordinates:
        found["coordinates"] = [[repr(one), repr(one.site), *one.features, one.basis] for one in graph.coordinates]
    return found | ({"spans": list(graph.spans)} if graph.spans else {})
