"""A circuit: some edges of a graph, with what is known of where it came from.

>>> graph = Graph.like(2, heads=2)
>>> circuit = Circuit.of(graph, ["embed → L0H1.v", "L0H1 → logits", "L0H0 → m1"], name="copying")
>>> circuit
copying: 3 of 46 edges
>>> circuit.pruned()                                                       # L0H0 reads nothing, and nothing reads m1
copying: 2 of 46 edges
>>> [repr(edge) for edge in circuit.pruned().edges]
['embed → L0H1.v', 'L0H1 → logits']

What is not in a circuit is ablated: its readers see something else of its writers, by default what they said of another prompt.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr

from interp import axes, effects
from interp.circuits.graph import Block, Bools, Graph, Ints
from interp.circuits.nodes import At, Coordinates, Edge, Node, node
from interp.errors import EdgesError, require_whole

VERSION = 1
ORIGIN = ("method", "estimate", "along", "steps", "quadrature", "model", "task", "source", "patching", "digest")
"""Attributes of a result that say where a circuit comes from."""
SELECTED = "selected_on"
"""What of a circuit's origin says which examples made it."""
KEPT = "in_circuit"
"""Which edges are in a circuit: ``[cell]`` of one, ``[cell, edge]`` of several, a circuit a cell."""
EDGE = "edge"


@dataclass(frozen=True, eq=False)
class Circuit:
    """Some edges of a graph."""

    graph: Graph
    kept: Bools
    """``[edge]``."""
    name: str = "circuit"
    origin: Mapping[str, Any] = field(default_factory=dict)
    """What made it, of which examples (their digests), with which options: anything that JSON holds."""

    def __post_init__(self) -> None:
        kept = np.array(self.kept)
        if kept.dtype != bool or kept.shape != (len(self.graph),):
            raise EdgesError(
                f"kept has shape {kept.shape} and dtype {kept.dtype}; {self.graph!r} asks for ({len(self.graph)},) and bool"
            )
        kept.setflags(write=False)
        object.__setattr__(self, "kept", kept)
        object.__setattr__(self, "origin", MappingProxyType(dict(self.origin)))

    @classmethod
    def of(cls, graph: Graph, edges: Iterable[Edge | str], name: str = "circuit", **origin: Any) -> Circuit:
        """A circuit of some edges, given as such or as they are printed.

        Raises:
            UnknownSiteError, UnknownNameError: the graph has no such edge.
        """
        kept = np.zeros(len(graph), dtype=bool)
        kept[graph.numbers(edges)] = True
        return cls(graph, kept, name, origin)

    @classmethod
    def whole(cls, graph: Graph, name: str = "whole") -> Circuit:
        """Every edge."""
        return cls(graph, np.ones(len(graph), dtype=bool), name)

    @classmethod
    def empty(cls, graph: Graph, name: str = "empty") -> Circuit:
        """No edge."""
        return cls(graph, np.zeros(len(graph), dtype=bool), name)

    @classmethod
    def among(cls, graph: Graph, nodes: Iterable[Node | At | str], name: str = "circuit", **origin: Any) -> Circuit:
        """All edges among some nodes, embedding and logits with them: a circuit of nodes.

        Args:
            nodes: heads as ``"L9H6"`` or ``"L9H6.z"``, MLPs as ``"m3"`` or ``"L3.mlp_out"``.

        Raises:
            UnknownNameError: a node that the graph does not have.
        """
        inside = np.zeros(len(graph.senders), dtype=bool)
        inside[[*range(len(graph.roots)), *(graph.node(one) for one in nodes)]] = True
        reading = graph.served @ inside
        reading[-graph.ends :] = True
        return cls(graph, inside[graph.sender] & reading[graph.receiver], name, origin)

    def __repr__(self) -> str:
        return f"{self.name}: {len(self):,} of {len(self.graph):,} edges"

    def __len__(self) -> int:
        """How many edges."""
        return int(self.kept.sum())

    def __eq__(self, other: object) -> bool:
        """Whether it is the same edges of the same graph, whatever they are called."""
        if not isinstance(other, Circuit):
            return NotImplemented
        return self.graph == other.graph and bool((self.kept == other.kept).all())

    def __hash__(self) -> int:
        return hash((self.graph, self.kept.tobytes()))

    def __contains__(self, edge: Edge | str) -> bool:
        return bool(self.kept[self.graph.numbers([edge])[0]])

    # what is in it

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Its edges, in the graph's order."""
        return tuple(self.graph.edges[i] for i in np.flatnonzero(self.kept))

    @property
    def share(self) -> float:
        """Which part of all edges."""
        return len(self) / len(self.graph)

    @cached_property
    def inside(self) -> Bools:
        """``[sender]``, the nodes that have an edge; one into keys and values that heads share is nobody's own."""
        found = np.zeros(len(self.graph.senders), dtype=bool)
        found[self.graph.sender[self.kept]] = True
        served = self.graph.served[np.unique(self.graph.receiver[self.kept])]
        return found | served[served.sum(-1) == 1].any(0)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Heads, MLPs and the embedding that have an edge, by their short names."""
        return tuple(node(site) for site, inside in zip(self.graph.senders, self.inside, strict=True) if inside)

    def without(self, nodes: Iterable[Node | At | str]) -> Circuit:
        """Without the edges out of some nodes and those into them; what others read too, such as shared keys, they still read.

        Raises:
            UnknownNameError: a node that the graph does not have.
        """
        gone = np.zeros(len(self.graph.senders), dtype=bool)
        gone[[self.graph.node(one) for one in nodes]] = True
        served = self.graph.served.astype(int)
        left, many = served @ ~gone, served.sum(-1)
        dead = (left == 0) & (many > 0)
        return replace(self, kept=self.kept & ~gone[self.graph.sender] & ~dead[self.graph.receiver])

    def pruned(self) -> Circuit:
        """Without the edges that are on no path from the embedding to the logits.

        Where the source is the other prompt's run, what reads nothing of this one says the same as there, and what nothing
        reads says nothing: the pruned circuit gives the same numbers. Not so where heads are normed together before the stream
        has them, as in Gemma 2: there what nothing reads still counts, through the scale.
        """
        graph, sender, receiver = self.graph, self.graph.sender[self.kept], self.graph.receiver[self.kept]
        fed, useful = np.zeros(len(graph.senders), dtype=bool), np.zeros(len(graph.receivers), dtype=bool)
        fed[: len(graph.roots)], useful[-graph.ends :] = True, True
        edges = np.split(sender, np.searchsorted(receiver, np.arange(1, len(graph.receivers))))
        for reader, read in enumerate(edges):  # receivers come in the order of the network
            if fed[read].any():
                fed |= graph.served[reader]
        wanted = np.zeros(len(graph.senders), dtype=bool)
        for reader in range(len(edges) - 1, -1, -1):
            useful[reader] |= bool((graph.served[reader] & wanted).any())
            if useful[reader]:
                wanted[edges[reader]] = True
        kept = self.kept.copy()
        kept[self.kept] = fed[sender] & useful[receiver]
        return replace(self, kept=kept)

    # several of them

    def __or__(self, other: Circuit) -> Circuit:
        return self._with(other, self.kept | self._of(other), "|")

    def __and__(self, other: Circuit) -> Circuit:
        return self._with(other, self.kept & self._of(other), "&")

    def __sub__(self, other: Circuit) -> Circuit:
        return self._with(other, self.kept & ~self._of(other), "-")

    def __xor__(self, other: Circuit) -> Circuit:
        return self._with(other, self.kept ^ self._of(other), "^")

    def __invert__(self) -> Circuit:
        return Circuit(self.graph, ~self.kept, f"~{self.name}")

    def __le__(self, other: Circuit) -> bool:
        """Whether all its edges are the other's too."""
        return not bool((self.kept & ~self._of(other)).any())

    def _with(self, other: Circuit, kept: Bools, sign: str) -> Circuit:
        return Circuit(self.graph, kept, f"{self.name} {sign} {other.name}")

    def _of(self, other: Circuit) -> Bools:
        if self.graph != other.graph:
            raise EdgesError(f"{self!r} and {other!r} are of two graphs: {self.graph!r} and {other.graph!r}")
        return other.kept

    # as data

    def dataset(self) -> xr.Dataset:
        """``in_circuit`` along ``cell``, with the coordinates of every edge: what views draw, and what masks results."""
        found = xr.Dataset({KEPT: (axes.CELL, self.kept)}, coords=self.graph.coords(), attrs={"circuit": self.name})
        return found.assign_attrs({key: value for key, value in self.origin.items() if isinstance(value, str | int | float)})

    def to_json(self) -> str:
        """Everything, as JSON; edges by their names."""
        found = {
            "format": "interp.circuit",
            "version": VERSION,
            "name": self.name,
            "origin": dict(self.origin),
            "blocks": [asdict(block) for block in self.graph.blocks],
            **({"split_embed": True} if self.graph.split_embed else {}),
            **({"coordinates": [_told(one) for one in self.graph.coordinates]} if self.graph.coordinates else {}),
            **({"spans": list(self.graph.spans[:-1])} if self.graph.spans else {}),
            "edges": [repr(edge) for edge in self.edges],
        }
        return json.dumps(found, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, graph: Graph | None = None) -> Circuit:
        """The circuit that was written.

        Args:
            graph: whose circuit it is, which a file says too; what a file cannot say are featurizers by which nodes are told
                apart.

        Raises:
            EdgesError: it is no circuit, one that a later version wrote, or one of another graph.
            UnknownNameError: an edge that its own graph does not have.
        """
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            raise EdgesError(f"this is no circuit, and no JSON: {error}") from None
        if not isinstance(found, dict) or found.get("format") != "interp.circuit":
            raise EdgesError("this JSON is no circuit of this library; its 'format' is not 'interp.circuit'")
        if found["version"] != VERSION:
            raise EdgesError(f"this circuit is of version {found['version']}; version {VERSION} is read")
        own = Graph(tuple(Block(**block) for block in found["blocks"]), found.get("split_embed", False))
        own = own.apart(map(_coordinates, found.get("coordinates", ())), found.get("spans", ()))
        if graph is not None and graph != own:
            raise EdgesError(f"this circuit, {found['name']}, is of another graph: {own!r} and {graph!r}")
        return replace(cls.of(graph or own, found["edges"], found["name"]), origin=found["origin"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str], graph: Graph | None = None) -> Circuit:
        """Read it from JSON; arguments and errors as for :meth:`from_json`."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"), graph)


def _told(one: Coordinates) -> dict[str, Any]:
    return {"site": repr(one.site), "features": list(one.features), "name": one.name, "basis": one.basis}


def _coordinates(told: Mapping[str, Any]) -> Coordinates:
    return replace(Coordinates.of(told["site"], told["features"], None, told["name"]), basis=told["basis"])


def origin_of(result: Any) -> dict[str, Any]:
    """What made a result, as far as it says, and of which examples: ``selected_on``, see :func:`interp.effects.examples_of`."""
    if not isinstance(result, xr.Dataset | xr.DataArray):
        return {}
    examples = {name: known for name, known in effects.examples_of(result).items() if known is not None}
    known = {key: result.attrs[key] for key in ORIGIN if key in result.attrs}
    return known | ({SELECTED: examples} if examples else {})


def circuits_of(found: xr.Dataset, graph: Graph) -> list[Circuit]:
    """The circuits that a search found, see :func:`interp.acdc`.

    Args:
        found: with ``in_circuit``, ``[cell, edge]``.
        graph: whose edges these are.

    Raises:
        EdgesError: they are of another graph, or there are none.
    """
    if KEPT not in found or found[KEPT].dims != (axes.CELL, EDGE):
        raise EdgesError(f"expected the result of a search for circuits, with {KEPT!r} along {axes.CELL!r} and {EDGE!r}")
    names = graph.coords()["edge"][1]
    if found.sizes[EDGE] != len(graph) or (EDGE in found.coords and found[EDGE].values.tolist() != names):
        raise EdgesError(f"these circuits have {found.sizes[EDGE]:,} edges, others than those of {graph!r}")
    known = origin_of(found)
    along = [str(name) for name, one in found.coords.items() if one.dims == (axes.CELL,) and name != axes.CELL]
    return [
        Circuit(graph, one[KEPT].values, str(one["circuit"].item()), known | {name: one[name].item() for name in along})
        for one in (found.isel({axes.CELL: i}) for i in range(found.sizes[axes.CELL]))
    ]


def random_circuits(like: Circuit, count: int, *, seed: int = 0, by_layer: bool = False) -> list[Circuit]:
    """Circuits of as many edges, drawn evenly: the control of what a circuit does.

    Args:
        like: whose number of edges they have.
        count: how many.
        seed: of the draws.
        by_layer: as many edges between each two layers too.

    Raises:
        ValueError: ``count`` is not a whole number of at least 1.
    """
    require_whole("count", count, "how many circuits are drawn")
    graph, draw = like.graph, np.random.default_rng(seed)
    strata = _between(graph) if by_layer else np.zeros(len(graph), dtype=np.int64)
    found = []
    for number in range(count):
        kept = np.zeros(len(graph), dtype=bool)
        for stratum in np.unique(strata):
            inside = np.flatnonzero(strata == stratum)
            kept[draw.permutation(inside)[: int(like.kept[inside].sum())]] = True
        found.append(Circuit(graph, kept, f"random {number} like {like.name}"))
    return found


def _between(graph: Graph) -> Ints:
    """A number for the two layers that each edge is between."""
    depth = len(graph.blocks) + 2
    layers = [
        np.array([outside if site.layer is None else site.layer for site in sites])
        for sites, outside in ((graph.senders, depth - 1), (graph.receivers, depth - 2))
    ]
    return layers[0][graph.sender] * depth + layers[1][graph.receiver]
