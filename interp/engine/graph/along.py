"""The runs along which gradients at edges are taken: the base's alone, or some on the way to the source's.

>>> [point.way for point in along_embeddings(Graph.like(2, heads=2), "midpoint", 2)]
[0.25, 0.75]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from interp.circuits import Graph
from interp.engine.estimates.quadrature import Quadrature, nodes
from interp.engine.graph.writers import EMBED_STREAM
from interp.sites import Site


class Point(NamedTuple):
    """A run at which gradients are taken."""

    site: Site | None
    """Where it differs from the base; None for the base itself."""
    way: float
    """How far it goes from the base to the source there."""
    weight: float


Path = Callable[[Graph], Iterable[Point]]


def at_base(graph: Graph) -> list[Point]:
    """The base alone."""
    return [Point(None, 0.0, 1.0)]


def along_embeddings(graph: Graph, quadrature: Quadrature, steps: int) -> list[Point]:
    """Embeddings on the way, all behind them following."""
    return _toward([EMBED_STREAM], quadrature, steps)


def along_activations(graph: Graph, quadrature: Quadrature, steps: int) -> list[Point]:
    """Embeddings, one layer's heads together, or one MLP on the way, each of them in turn."""
    sites = [EMBED_STREAM]
    for layer, block in enumerate(graph.blocks):
        sites += [Site("z", layer=layer)] if block.heads else []
        sites += [Site("mlp_out", layer=layer)] if block.mlp else []
    return _toward(sites, quadrature, steps)


def _toward(sites: Sequence[Site], quadrature: Quadrature, steps: int) -> list[Point]:
    """From the base to the source at each of some sites; weights sum to 1."""
    found = nodes(quadrature, steps)
    return [Point(site, float(at), float(w) / len(sites)) for site in sites for at, w in zip(*found, strict=True)]
