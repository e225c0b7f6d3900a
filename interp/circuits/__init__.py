"""Circuits as data: graphs of the residual stream, and sets of their edges.

>>> from interp.circuits import Circuit, Graph
>>> Circuit.whole(Graph.like(12, heads=12))
whole: 32,491 of 32,491 edges
"""

from interp.circuits.circuit import EDGE, KEPT, Circuit, circuits_of, random_circuits
from interp.circuits.graph import EMBED, LOGITS, POS_EMBED, SLOTS, Block, Edge, Graph, node
from interp.circuits.pruning import Known, Pruned, backwards, prune
from interp.circuits.selecting import BY, By, Scores, beyond, ranking, strongest

__all__ = [
    "BY", "EDGE", "EMBED", "KEPT", "LOGITS", "POS_EMBED", "SLOTS", "Block", "By", "Circuit", "Edge", "Graph", "Known", "Pruned",
    "Scores", "backwards", "beyond", "circuits_of", "node", "prune", "random_circuits", "ranking", "strongest",
]  # fmt: skip
