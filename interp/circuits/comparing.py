"""How alike circuits are, and how well scores find a known one.

>>> graph = Graph.like(2, heads=2)
>>> first = Circuit.of(graph, ["embed → L0H1.v", "L0H1 → logits"])
>>> second = Circuit.of(graph, ["embed → L0H1.v", "L0H1 → m1", "m1 → logits"])
>>> found = overlap(first, second)
>>> found.both, found.jaccard, found.precision
(1, 0.25, 0.5)
>>> round(found.chance, 3)                                           # of two circuits as large, drawn from 46 edges
0.027

Circuits that share most of their nodes may do different things, and those that share few the same: overlap is no quality.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp.circuits.circuit import Circuit
from interp.circuits.graph import Bools, Graph
from interp.circuits.selecting import By, Scores, ranking
from interp.effects import curves
from interp.errors import EdgesError, InputError, UnknownNameError

Of: TypeAlias = Literal["edges", "nodes"]
OF: tuple[Of, Of] = ("edges", "nodes")


class Overlap(NamedTuple):
    """What two circuits share."""

    both: int
    """Edges, or heads and MLPs, that are in both."""
    first: int
    second: int
    among: int
    """How many the graph has."""

    @property
    def jaccard(self) -> float:
        """What is in both, of what is in either; NaN where nothing is."""
        return _share(self.both, self.first + self.second - self.both)

    @property
    def precision(self) -> float:
        """Of the first circuit's, those that the second has."""
        return _share(self.both, self.first)

    @property
    def recall(self) -> float:
        """Of the second circuit's, those that the first has."""
        return _share(self.both, self.second)

    @property
    def chance(self) -> float:
        """Jaccard of two circuits as large that are drawn evenly, about."""
        return chance(self.first, self.second, self.among)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def chance(first: float, second: float, among: int) -> float:
    """About the Jaccard index of two sets of these sizes that are drawn evenly: as if |∩| were its mean, ab/n.

    Of two sets of k it is k / (2n − k).

    >>> chance(5, 5, 100) == 5 / (2 * 100 - 5)
    True
    """
    both = first * second / among
    return both / (first + second - both) if both else 0.0


def overlap(first: Circuit, second: Circuit, of: Of = "edges") -> Overlap:
    """What two circuits share; with the second one known, precision and recall of the first.

    Args:
        of: ``"edges"``, or ``"nodes"``: the heads and MLPs that have an edge.

    Raises:
        EdgesError: they are of two graphs.
        UnknownNameError: ``of`` is neither.
    """
    one, other = members([first, second], of).astype(int)
    return Overlap(int(one @ other), int(one.sum()), int(other.sum()), len(one))


def jaccard(circuits: Sequence[Circuit]) -> xr.Dataset:
    """How alike several circuits are, each two of them.

    Returns:
        ``edges`` and ``nodes``, Jaccard indices ``[circuit, other]``, and ``edges_chance`` and ``nodes_chance``, what circuits
        as large have that are drawn evenly.

    Raises:
        EdgesError: they are of several graphs.
        InputError: there is none, or two have the same name.
    """
    names = [one.name for one in circuits]
    if not names or len(set(names)) < len(names):
        raise InputError(f"circuits to compare need names of their own; got {', '.join(names) or 'none'}")
    found: dict[str, Any] = {}
    for of in OF:
        both, sizes, among = pairwise(members(circuits, of))
        either = sizes[:, None] + sizes - both
        with np.errstate(invalid="ignore", divide="ignore"):
            found[of] = (("circuit", "other"), both / either)
        expected = [[chance(a, b, among) for b in sizes.tolist()] for a in sizes.tolist()]
        found[f"{of}_chance"] = (("circuit", "other"), np.array(expected))
    return xr.Dataset(found, coords={"circuit": names, "other": names})


def pairwise(members: Bools) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """How many each two sets share, ``[set, set]``, their sizes, and among how many they are; of ``[set, member]``."""
    both = np.zeros((len(members), len(members)))
    for start in range(0, members.shape[1], 65536):
        part = members[:, start : start + 65536].astype(np.float32)
        both += part @ part.T
    return both, np.diag(both).copy(), members.shape[1]


def roc(
    found: Scores | Sequence[Circuit], truth: Circuit, of: Of = "edges", *, by: By = "size", metric: str | None = None
) -> curves.Roc:
    """Truth found over falsehood found, as more edges are taken; its area is ``auc``.

    A node is found with its first edge. Every edge of the graph counts, and no other: what is in neither circuit is no success.

    Args:
        found: scores of edges, as for :func:`interp.circuits.strongest`; or circuits, such as ACDC's at several thresholds,
            between which nothing more is found until its falsehood is paid for.
        truth: the known circuit. Which one it is hangs on the ablation that defined it.
        of: ``"edges"``, or ``"nodes"``, heads and MLPs.
        by: which scores are high, see :func:`interp.circuits.strongest`.
        metric: of scores of several.

    Raises:
        ShapeMismatchError: the known circuit has all edges or nodes, or none.
        EdgesError, UnknownNameError: see :func:`interp.circuits.strongest`.
    """
    known = members([truth], of)[0]
    if isinstance(found, Sequence):
        return curves.roc_of_circuits(members([*found, truth], of)[:-1], known)
    ranked = ranking(found, truth.graph, by, metric)
    return curves.roc(ranked if of == "edges" else of_nodes(ranked, truth.graph)[len(_roots(truth.graph)) :], known)


def of_nodes(ranked: NDArray[np.float64], graph: Graph) -> NDArray[np.float64]:
    """``[sender]``, of the edges of each node the highest number: where it is when it enters a circuit."""
    found = np.full(len(graph.senders), -np.inf)
    np.maximum.at(found, graph.sender, ranked)
    owner = np.where(graph.served.sum(-1) == 1, graph.served.argmax(-1), -1)[graph.receiver]
    np.maximum.at(found, owner[owner >= 0], ranked[owner >= 0])
    return found


def members(circuits: Sequence[Circuit], of: str) -> Bools:
    """``[circuit, member]``, which edges, or heads and MLPs, are in each."""
    if of not in OF:
        raise UnknownNameError("of", of, OF)
    graph = circuits[0].graph
    for one in circuits:
        if one.graph != graph:
            raise EdgesError(f"{circuits[0]!r} and {one!r} are of two graphs: {graph!r} and {one.graph!r}")
    if of == "edges":
        return np.stack([one.kept for one in circuits])
    return np.stack([one.inside[len(_roots(graph)) :] for one in circuits])


def _roots(graph: Graph) -> list[int]:
    """What writes in front of the blocks: the embedding is in every circuit, so that it says nothing."""
    return [i for i, site in enumerate(graph.senders) if site.layer is None]
