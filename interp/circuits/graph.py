"""The residual stream as a graph, by shape alone: who writes to it, who reads from it, and the edges between them.

>>> graph = Graph.like(12, heads=12)                                                  # GPT-2 small
>>> len(graph), len(graph.senders), len(graph.receivers)
(32491, 157, 445)
>>> graph.edges[700], graph.merged
(m0 → L2H4.q, 11611)

Writers are the embedding, heads and MLPs; readers are the queries, keys and values of heads, the MLPs and the unembedding. An
edge is there where the writer comes before the reader (Conmy et al., arXiv 2304.14997, without their edges inside of heads).
Keys and values are those of key/value heads: with grouped-query attention one reader serves several heads. A bias behind W_O
is outside of every writer: no edge takes it away.

What positions add to the stream may be a writer of its own (``split_embed``), as in networks that are compiled from programs:

>>> Graph.like(2, heads=1, split_embed=True).edges[:2]
(embed → L0H0.q, pos_embed → L0H0.q)

Nodes may be told apart further: some of what a node writes is a node of its own, a neuron or coordinates in some basis, and the
node is then the rest of it. And every node may be one at some tokens and another at the others, where an edge is between the
same tokens of its two ends, for only inside of heads do tokens meet (Haklay et al., arXiv 2502.04577).

>>> neuron = Coordinates.of("L0.mlp_post[5]")
>>> apart = Graph.like(2, heads=1).apart([neuron], spans=["END"])
>>> apart, apart.edges[-4:-2]
(Graph(2 blocks, 12 senders, 56 edges), (m0[5]@rest → logits@rest, m0@rest → logits@rest))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from interp import axes
from interp.circuits.nodes import EMBED, LOGITS, POS_EMBED, REST, SLOTS, At, Coordinates, Edge, Node, node, whole_of
from interp.errors import EdgesError, UnknownNameError, UnknownSiteError, require_whole
from interp.sites import Site

Bools: TypeAlias = NDArray[np.bool_]
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Block:
    """The nodes of one block."""

    heads: int
    kv_heads: int
    mlp: bool = True
    parallel: bool = False
    """Whether the MLP reads the stream in front of the block, and not the heads beside it."""


@dataclass(frozen=True)
class Graph:
    """Nodes and edges of a stack of blocks.

    Edges are numbered by receiver, in the order of the network: of each block the queries of its heads, the keys and values of
    its key/value heads, then its MLP; the logits last. Senders of one receiver are in the order of the network too.
    """

    blocks: tuple[Block, ...]
    split_embed: bool = False
    """Whether ``embed`` is the embedding of tokens alone, and ``pos_embed``, that of positions, a writer beside it."""
    coordinates: tuple[Coordinates, ...] = ()
    """What is told apart of what nodes write."""
    spans: tuple[str, ...] = ()
    """Names of tokens at which nodes are told apart, that of all others last; none where they are not."""

    @classmethod
    def like(
        cls,
        layers: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        mlp: bool = True,
        parallel: bool = False,
        split_embed: bool = False,
    ) -> Graph:
        """The graph of so many blocks that are alike.

        Raises:
            ValueError: a number is not a whole one of at least 1.
            EdgesError: heads do not divide into those of keys and values.
        """
        shared = heads if kv_heads is None else kv_heads
        for argument, value in (("layers", layers), ("heads", heads), ("kv_heads", shared)):
            require_whole(argument, value, "how many there are")
        if heads % shared:
            raise EdgesError(f"heads={heads} cannot share kv_heads={shared} evenly")
        return cls((Block(heads, shared, mlp, parallel),) * layers, split_embed)

    def apart(self, coordinates: Iterable[Coordinates] = (), spans: Iterable[str] = ()) -> Graph:
        """The same graph with some nodes told apart.

        Args:
            coordinates: of what nodes write.
            spans: names of tokens, such as ``"END"``; those in none of them are a further one, ``"rest"``.

        Raises:
            EdgesError: coordinates are of a node that the graph does not have, are there twice, or are in two bases of one
                node; or two of them, or of the spans, have one name.
        """
        order, names, seen = {site: i for i, site in enumerate(self.whole)}, tuple(spans), dict[Site, Coordinates]()
        found = (*self.coordinates, *coordinates)
        for one in found:
            if one.writer not in order:
                raise EdgesError(f"{one!r} is of {one.writer!r}, which {self!r} does not have")
            first = seen.setdefault(one.writer, one)
            if (first.site, first.basis) != (one.site, one.basis):
                raise EdgesError(f"{first!r} and {one!r} are in two bases; what a node writes is told apart in one")
        for writer in seen:
            own = [one for one in found if one.writer == writer]
            for what, each in (("name", [one.name for one in own]), ("coordinate", [i for one in own for i in one.features])):
                if twice := [one for i, one in enumerate(each) if one in each[:i]]:
                    raise EdgesError(f"{what} {twice[0]!r} is there twice among what is told apart of {node(writer)}")
        if REST in names or len(set(names)) < len(names):
            raise EdgesError(f"spans={list(names)}; each has a name of its own, and {REST!r} are the tokens in none of them")
        found = tuple(sorted(found, key=lambda one: order[one.writer]))
        return replace(self, coordinates=found, spans=(*names, REST) if names else self.spans)

    def __repr__(self) -> str:
        return f"Graph({len(self.blocks)} blocks, {len(self.senders)} senders, {len(self):,} edges)"

    def __len__(self) -> int:
        """How many edges."""
        return len(self.sender)

    # nodes

    @cached_property
    def whole(self) -> tuple[Site, ...]:
        """What writes to the stream, in the order of the network: of a block the heads, then the MLP."""
        found = [EMBED, POS_EMBED] if self.split_embed else [EMBED]
        for layer, block in enumerate(self.blocks):
            found += self.heads(layer)
            found += [Site("mlp_out", layer=layer)] if block.mlp else []
        return tuple(found)

    @property
    def written(self) -> tuple[Site, ...]:
        """Where it is seen what senders write: whole nodes, and the neurons of an MLP of which some are told apart."""
        return (*self.whole, *dict.fromkeys(one.site for one in self.coordinates if one.site.name == "mlp_post"))

    @cached_property
    def base(self) -> Graph:
        """The same graph with each node one at all tokens."""
        return replace(self, spans=()) if self.spans else self

    @cached_property
    def senders(self) -> tuple[Node | At, ...]:
        """Nodes that write to the stream, in the order of the network, coordinates in front of the rest of their node."""
        return tuple(At(one, span) for one in self.saying for span in self.spans) if self.spans else self.saying

    @cached_property
    def saying(self) -> tuple[Node, ...]:
        """The same, each one at all tokens."""
        found = list[Node]()
        for site in self.whole:
            found += [one for one in self.coordinates if one.writer == site]
            found.append(site)
        return tuple(found)

    @property
    def roots(self) -> tuple[Node | At, ...]:
        """The senders in front of the blocks."""
        return tuple(one for one in self.senders if one.layer is None)

    @cached_property
    def receivers(self) -> tuple[Site | At, ...]:
        """What reads the stream, in the order of the edges."""
        return tuple(At(one, span) for one in self.reading for span in self.spans) if self.spans else self.reading

    @cached_property
    def reading(self) -> tuple[Site, ...]:
        """The same, each one at all tokens."""
        found: list[Site] = []
        for layer, block in enumerate(self.blocks):
            many = {"q": block.heads, "k": block.kv_heads, "v": block.kv_heads}
            found += [Site(slot, layer=layer, head=head) for slot in SLOTS for head in range(many[slot])]
            found += [Site("mlp_pre", layer=layer)] if block.mlp else []
        return (*found, LOGITS)

    @property
    def ends(self) -> int:
        """How many receivers, the last ones, are the logits."""
        return max(1, len(self.spans))

    def heads(self, layer: int) -> list[Site]:
        """The heads of a block, each whole."""
        return [Site("z", layer=layer, head=head) for head in range(self.blocks[layer].heads)]

    @cached_property
    def before(self) -> Ints:
        """``[receiver]``, how many senders each reads: those in front of it, at its tokens."""
        if self.spans:
            return np.repeat(self.base.before, len(self.spans))
        heads, mlps = ([0] * len(self.blocks) for _ in range(2))
        for one in self.senders:
            if one.layer is not None:
                (mlps if one.head is None else heads)[one.layer] += 1
        entering, found = len(self.roots), list[int]()
        for block, of_heads, of_mlp in zip(self.blocks, heads, mlps, strict=True):
            found += [entering] * (block.heads + 2 * block.kv_heads)
            found += [entering + (0 if block.parallel else of_heads)] * block.mlp
            entering += of_heads + of_mlp
        return np.array([*found, entering])

    @cached_property
    def readers(self) -> dict[Site, range]:
        """For each tensor that reads, such as a layer's queries, the numbers of its receivers; in the order of the network."""
        found: dict[Site, range] = {}
        for i, site in enumerate(self.reading):
            found[site.tensor] = range(found.get(site.tensor, range(i, i)).start, i + 1)
        return found

    @cached_property
    def _sender(self) -> dict[Node | At, int]:
        return {site: i for i, site in enumerate(self.senders)}

    @cached_property
    def _receiver(self) -> dict[Site | At, int]:
        return {site: i for i, site in enumerate(self.receivers)}

    def serves(self, receiver: Site) -> tuple[Site, ...]:
        """The whole nodes that give what a receiver makes: heads that share keys and values, an MLP, none behind the logits."""
        if receiver.layer is None:
            return ()
        if receiver.name == "mlp_pre":
            return (Site("mlp_out", layer=receiver.layer),)
        block, head = self.blocks[receiver.layer], receiver.head or 0
        many = 1 if receiver.name == "q" else block.heads // block.kv_heads
        return tuple(self.heads(receiver.layer)[head * many : (head + 1) * many])

    @cached_property
    def served(self) -> Bools:
        """``[receiver, sender]``, which senders give what a receiver makes; of keys and values those at any token."""
        if self.spans:
            meet = np.array([site.name in ("k", "v") for site in self.reading])[:, None, None, None]
            found = self.base.served[:, None, :, None] & (meet | np.eye(len(self.spans), dtype=bool)[:, None])
            return found.reshape(len(self.receivers), len(self.senders))
        found = np.zeros((len(self.receivers), len(self.senders)), dtype=bool)
        of = {site: [i for i, one in enumerate(self.senders) if whole_of(one) == site] for site in self.whole}
        for i, receiver in enumerate(self.reading):
            found[i, [number for site in self.serves(receiver) for number in of[site]]] = True
        return found

    def node(self, named: Node | At | str) -> int:
        """The number of a sender, by its site or its short name: ``"L9H6"``, ``"m3"``, ``"embed"``.

        Raises:
            UnknownNameError: the graph has no such node.
        """
        found = self._sender_named.get(named) if isinstance(named, str) else self._sender.get(named)
        if found is None:
            raise UnknownNameError("node", str(named), list(self._sender_named))
        return found

    # edges

    @cached_property
    def sender(self) -> Ints:
        """``[edge]``, the number of each edge's sender."""
        many = self.ends
        return np.concatenate([np.arange(own) * many + i % many for i, own in enumerate(self.before)])

    @cached_property
    def receiver(self) -> Ints:
        """``[edge]``, the number of each edge's receiver."""
        return np.repeat(np.arange(len(self.before)), self.before)

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Every edge."""
        return tuple(Edge(self.senders[s], self.receivers[r]) for s, r in zip(self.sender, self.receiver, strict=True))

    @cached_property
    def real(self) -> Bools:
        """``[sender, receiver]``, where there is an edge."""
        found = np.zeros((len(self.senders), len(self.receivers)), dtype=bool)
        found[self.sender, self.receiver] = True
        return found

    @property
    def merged(self) -> int:
        """How many edges there are between nodes, a head's queries, keys and values taken together."""
        once = [site.name not in ("k", "v") for site in self.reading]
        return int(self.base.before[once].sum()) * self.ends

    def numbers(self, edges: Iterable[Edge | str]) -> Ints:
        """The numbers of some edges, given as such or as they are printed, ``"L0H1 → L2H3.k"``.

        Raises:
            UnknownSiteError: the graph has no such edge.
        """
        wanted = [self._named(edge) if isinstance(edge, str) else edge for edge in edges]
        return np.array([self.number(edge) for edge in wanted], dtype=np.int64)

    def number(self, edge: Edge) -> int:
        """The number of an edge.

        Raises:
            UnknownSiteError: the graph has no such edge.
        """
        receiver, sender = self._receiver.get(edge.receiver), self._sender.get(edge.sender)
        if receiver is None:
            raise UnknownSiteError("receiver", repr(edge.receiver), [repr(site) for site in self.receivers])
        behind, span = (None, 0) if sender is None else divmod(sender, self.ends)
        if behind is None or span != receiver % self.ends or behind >= self.before[receiver]:
            read = range(receiver % self.ends, int(self.before[receiver]) * self.ends, self.ends)
            why = f"{node(edge.receiver)} does not read it"
            if edge.sender == POS_EMBED:
                why = "positions are a writer of their own with split_embed=True alone"
            raise UnknownSiteError("sender", repr(edge.sender), [repr(self.senders[i]) for i in read], why=why)
        return int(self._first[receiver]) + behind

    @cached_property
    def _first(self) -> Ints:
        """``[receiver]``, the number of its first edge."""
        return self.before.cumsum() - self.before

    @cached_property
    def _sender_named(self) -> dict[str, int]:
        return {node(site): i for i, site in enumerate(self.senders)}

    @cached_property
    def _receiver_named(self) -> dict[str, int]:
        return {node(site): i for i, site in enumerate(self.receivers)}

    def _named(self, name: str) -> Edge:
        first, _, second = (part.strip() for part in name.partition("→"))
        sender, receiver = self._sender_named.get(first), self._receiver_named.get(second)
        if sender is not None and receiver is not None:
            return Edge(self.senders[sender], self.receivers[receiver])
        end, known = ("sender", self._sender_named) if sender is None else ("receiver", self._receiver_named)
        why = f"{name!r} is no edge as it is printed, such as {self.edges[-1]!r}"
        raise UnknownNameError(end, first if sender is None else second, list(known), why=why)

    def dense(self, values: NDArray[Any], fill: Any = 0) -> NDArray[Any]:
        """Numbers of edges, ``[…, edge]``, as ``[…, sender, receiver]``."""
        found = np.full((*values.shape[:-1], *self.real.shape), fill, dtype=values.dtype)
        found[..., self.sender, self.receiver] = values
        return found

    def coords(self, numbers: Ints | slice = slice(None)) -> dict[str, tuple[str, list[Any]]]:
        """What is said of edges along ``cell``.

        ``edge``, ``sender``, ``receiver``, ``slot``, the layers and heads of both ends (−1 where there is none), and
        ``receiver_heads``, how many heads read what the receiver makes: of keys and values that heads share more than one.
        """
        senders, receivers = self.sender[numbers], self.receiver[numbers]

        def along(which: Ints, known: Sequence[Any]) -> list[Any]:
            return np.array(known, dtype=object)[which].tolist()

        def ends(name: str, which: Ints, sites: Sequence[Node | At]) -> dict[str, list[Any]]:
            found = {name: along(which, [node(site) for site in sites])}
            for axis in (axes.LAYER, axes.HEAD):
                indices = [getattr(site, axis) for site in sites]
                found[f"{name}_{axis}"] = along(which, [-1 if index is None else index for index in indices])
            return found

        reading = [site for site in self.reading for _ in range(self.ends)]
        many = [len(self.serves(site)) if site.name in SLOTS else 0 for site in reading]
        found = ends("sender", senders, self.senders) | ends("receiver", receivers, self.receivers)
        found |= {
            "edge": [f"{s} → {r}" for s, r in zip(found["sender"], found["receiver"], strict=True)],
            "slot": along(receivers, [site.name if site.name in SLOTS else "" for site in reading]),
            "receiver_heads": along(receivers, many),
        }
        found |= {"span": along(receivers % self.ends, self.spans)} if self.spans else {}
        return {name: (axes.CELL, values) for name, values in found.items()}
