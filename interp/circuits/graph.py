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
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from interp import axes
from interp.errors import EdgesError, UnknownNameError, UnknownSiteError, require_whole
from interp.sites import Site

EMBED = Site("embed")
POS_EMBED = Site("pos_embed")
LOGITS = Site("logits")
SLOTS = ("q", "k", "v")

Bools: TypeAlias = NDArray[np.bool_]
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True, repr=False)
class Edge:
    """What one node adds to the stream, as one reader sees it."""

    sender: Site
    """``embed`` (with the position embedding, unless that is ``pos_embed``), ``L3H0.z`` for a head, or ``L3.mlp_out``."""
    receiver: Site
    """``L9H6.q`` and so on, ``L9.mlp_pre`` for what the MLP reads, or ``logits``."""

    @classmethod
    def of(cls, sender: Site | str, receiver: Site | str) -> Edge:
        """An edge by the names of its ends: ``Edge.of("L3H0.z", "L9H6.q")``, ``Edge.of("embed", "L2.mlp_pre")``.

        Raises:
            UnknownSiteError: a name is none of a site's.
        """
        return cls(Site.parse(sender), Site.parse(receiver))

    def __repr__(self) -> str:
        return f"{node(self.sender)} → {node(self.receiver)}"


def node(site: Site) -> str:
    """A node's short name: ``embed``, ``L3H0``, ``m3``, ``L9H6.q``, ``logits``."""
    if site.name in ("mlp_out", "mlp_pre"):
        return f"m{site.layer}"
    return f"L{site.layer}H{site.head}" if site.name == "z" else repr(site)


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

    def __repr__(self) -> str:
        return f"Graph({len(self.blocks)} blocks, {len(self.senders)} senders, {len(self):,} edges)"

    def __len__(self) -> int:
        """How many edges."""
        return len(self.sender)

    # nodes

    @property
    def roots(self) -> tuple[Site, ...]:
        """What writes to the stream in front of the blocks."""
        return (EMBED, POS_EMBED) if self.split_embed else (EMBED,)

    @cached_property
    def senders(self) -> tuple[Site, ...]:
        """Nodes that write to the stream, in the order of the network: of a block the heads, then the MLP."""
        found = [*self.roots]
        for layer, block in enumerate(self.blocks):
            found += self.heads(layer)
            found += [Site("mlp_out", layer=layer)] if block.mlp else []
        return tuple(found)

    @cached_property
    def receivers(self) -> tuple[Site, ...]:
        """What reads the stream, in the order of the edges."""
        found: list[Site] = []
        for layer, block in enumerate(self.blocks):
            many = {"q": block.heads, "k": block.kv_heads, "v": block.kv_heads}
            found += [Site(slot, layer=layer, head=head) for slot in SLOTS for head in range(many[slot])]
            found += [Site("mlp_pre", layer=layer)] if block.mlp else []
        return (*found, LOGITS)

    def heads(self, layer: int) -> list[Site]:
        """The heads of a block, as senders."""
        return [Site("z", layer=layer, head=head) for head in range(self.blocks[layer].heads)]

    @cached_property
    def before(self) -> Ints:
        """``[receiver]``, how many senders each reads: those in front of it."""
        entering, found = len(self.roots), list[int]()
        for block in self.blocks:
            found += [entering] * (block.heads + 2 * block.kv_heads)
            found += [entering + (0 if block.parallel else block.heads)] * block.mlp
            entering += block.heads + block.mlp
        return np.array([*found, entering])

    @cached_property
    def readers(self) -> dict[Site, range]:
        """For each tensor that reads, such as a layer's queries, the numbers of its receivers; in the order of the network."""
        found: dict[Site, range] = {}
        for i, site in enumerate(self.receivers):
            found[site.tensor] = range(found.get(site.tensor, range(i, i)).start, i + 1)
        return found

    @cached_property
    def _sender(self) -> dict[Site, int]:
        return {site: i for i, site in enumerate(self.senders)}

    @cached_property
    def _receiver(self) -> dict[Site, int]:
        return {site: i for i, site in enumerate(self.receivers)}

    def serves(self, receiver: Site) -> tuple[Site, ...]:
        """The senders that give what a receiver makes: heads that share keys and values, an MLP, none behind the logits."""
        if receiver.layer is None:
            return ()
        if receiver.name == "mlp_pre":
            return (Site("mlp_out", layer=receiver.layer),)
        block, head = self.blocks[receiver.layer], receiver.head or 0
        many = 1 if receiver.name == "q" else block.heads // block.kv_heads
        return tuple(self.heads(receiver.layer)[head * many : (head + 1) * many])

    @cached_property
    def served(self) -> Bools:
        """``[receiver, sender]``, which senders give what a receiver makes."""
        found = np.zeros((len(self.receivers), len(self.senders)), dtype=bool)
        for i, receiver in enumerate(self.receivers):
            found[i, [self._sender[site] for site in self.serves(receiver)]] = True
        return found

    def node(self, named: Site | str) -> int:
        """The number of a sender, by its site or its short name: ``"L9H6"``, ``"m3"``, ``"embed"``.

        Raises:
            UnknownNameError: the graph has no such node.
        """
        found = self._sender.get(named) if isinstance(named, Site) else self._sender_named.get(named)
        if found is None:
            raise UnknownNameError("node", str(named), list(self._sender_named))
        return found

    # edges

    @cached_property
    def sender(self) -> Ints:
        """``[edge]``, the number of each edge's sender."""
        return np.concatenate([np.arange(many) for many in self.before])

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
        return np.arange(len(self.senders))[:, None] < self.before

    @property
    def merged(self) -> int:
        """How many edges there are between nodes, a head's queries, keys and values taken together."""
        once = [site.name not in ("k", "v") for site in self.receivers]
        return int(self.before[once].sum())

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
        many = int(self.before[receiver])
        if sender is None or sender >= many:
            known = [repr(site) for site in self.senders[:many]]
            why = f"{node(edge.receiver)} does not read it"
            if edge.sender == POS_EMBED:
                why = "positions are a writer of their own with split_embed=True alone"
            raise UnknownSiteError("sender", repr(edge.sender), known, why=why)
        return int(self._first[receiver]) + sender

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

        def ends(name: str, which: Ints, sites: Sequence[Site]) -> dict[str, list[Any]]:
            found = {name: along(which, [node(site) for site in sites])}
            for axis in (axes.LAYER, axes.HEAD):
                indices = [getattr(site, axis) for site in sites]
                found[f"{name}_{axis}"] = along(which, [-1 if index is None else index for index in indices])
            return found

        many = [len(self.serves(site)) if site.name in SLOTS else 0 for site in self.receivers]
        found = ends("sender", senders, self.senders) | ends("receiver", receivers, self.receivers)
        found |= {
            "edge": [f"{s} → {r}" for s, r in zip(found["sender"], found["receiver"], strict=True)],
            "slot": along(receivers, [site.name if site.name in SLOTS else "" for site in self.receivers]),
            "receiver_heads": along(receivers, many),
        }
        return {name: (axes.CELL, values) for name, values in found.items()}
