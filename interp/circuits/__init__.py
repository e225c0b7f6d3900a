"""Circuits as data: graphs of the residual stream, and sets of their edges.

>>> from interp.circuits import Circuit, Graph
>>> Circuit.whole(Graph.like(12, heads=12))
whole: 32,491 of 32,491 edges
"""

from interp.circuits.circuit import KEPT, Circuit, random_circuits
from interp.circuits.graph import EMBED, LOGITS, SLOTS, Block, Edge, Graph, node
from interp.circuits.selecting import beyond, ranking, strongest

__all__ = [
    "EMBED", "KEPT", "LOGITS", "SLOTS", "Block", "Circuit", "Edge", "Graph", "beyond", "node", "random_circuits", "ranking",
    "strongest",
]  # fmt: skip
