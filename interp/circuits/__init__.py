"""Circuits as data: graphs of the residual stream, and sets of their edges.

>>> from interp.circuits import Circuit, Graph
>>> Circuit.whole(Graph.like(12, heads=12))
whole: 32,491 of 32,491 edges
"""

from interp.circuits.circuit import EDGE, KEPT, SELECTED, Circuit, circuits_of, random_circuits
from interp.circuits.comparing import Overlap, chance, jaccard, overlap, roc
from interp.circuits.graph import Block, Graph
from interp.circuits.nodes import EMBED, LOGITS, POS_EMBED, REST, SLOTS, At, Coordinates, Edge, Node, bare, node, whole_of
from interp.circuits.pruning import Known, Pruned, backwards, prune
from interp.circuits.selecting import BY, By, Scores, beyond, ranking, strongest
from interp.circuits.stability import BAR, stability

__all__ = [
    "BAR", "BY", "EDGE", "EMBED", "KEPT", "LOGITS", "POS_EMBED", "REST", "SELECTED", "SLOTS", "At", "Block", "By", "Circuit",
    "Coordinates", "Edge", "Graph", "Known", "Node", "Overlap", "Pruned", "Scores", "backwards", "bare", "beyond", "chance",
    "circuits_of", "jaccard", "node", "overlap", "prune", "random_circuits", "ranking", "roc", "stability", "strongest",
    "whole_of",
]  # fmt: skip
