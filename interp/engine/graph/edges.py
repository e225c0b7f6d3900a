"""The residual stream as a graph: who writes to it, who reads from it, and the edges between them.

>>> Edge.of("L3H0.z", "L9H6.q")
L3H0 → L9H6.q

Writers are the embedding, heads and MLPs; readers are the queries, keys and values of heads, the MLPs and the unembedding. An
edge is there where the writer comes before the reader. GPT-2 small has 32,491 of them. Keys and values are those of key/value
heads: with grouped-query attention one reader serves several heads.
"""

from __future__ import annotations

from dataclasses import dataclass

from interp.engine.joins import parallel
from interp.errors import UnknownSiteError
from interp.models import Model
from interp.sites import Site

EMBED = Site("embed")
LOGITS = Site("logits")
SLOTS = ("q", "k", "v")


@dataclass(frozen=True, slots=True, repr=False)
class Edge:
    """What one node adds to the stream, as one reader sees it."""

    sender: Site
    """``embed`` (with the position embedding), ``L3H0.z`` for a head, or ``L3.mlp_out``."""
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


def senders(model: Model, layer: int | None = None) -> list[Site]:
    """Nodes that write to the stream before a block, or at all, in the order of the network."""
    anatomy = model.anatomy
    found = [EMBED]
    for before in range(model.sizes["layer"] if layer is None else layer):
        found += heads(model, before)
        if before in anatomy.mlp:
            found.append(Site("mlp_out", layer=before))
    return found


def heads(model: Model, layer: int) -> list[Site]:
    """The heads of a layer."""
    site = Site("z", layer=layer)
    if site not in model.anatomy.taps:
        return []
    return [site.at(head=head) for head in range(model.anatomy.size(site, "head"))]


def into_mlp(model: Model, layer: int) -> list[Site]:
    """Nodes that a block's MLP reads: in a sequential block the heads beside it too."""
    return senders(model, layer) + ([] if parallel(model, layer) else heads(model, layer))


def edges(model: Model) -> list[Edge]:
    """Every edge, by receiver, in the order of the network.

    Raises:
        UnknownSiteError: the model's heads cannot be told apart, or what its MLPs add to the stream is not known.
    """
    found: list[Edge] = []
    for layer in range(model.sizes.get("layer", 0)):
        for slot in SLOTS:
            site = Site(slot, layer=layer)
            model.check(site)
            for head in range(model.anatomy.size(site, "head")):
                found += [Edge(sender, site.at(head=head)) for sender in senders(model, layer)]
        if layer in model.anatomy.mlp:
            model.check(Site("mlp_out", layer=layer))
            found += [Edge(sender, Site("mlp_pre", layer=layer)) for sender in into_mlp(model, layer)]
    return found + [Edge(sender, LOGITS) for sender in senders(model)]


def check(model: Model, edge: Edge) -> None:
    """Raise ``UnknownSiteError`` unless the model has the edge."""
    receiver = edge.receiver
    if receiver == LOGITS:
        before = senders(model)
    elif receiver.layer is not None and receiver.name == "mlp_pre":
        before = into_mlp(model, receiver.layer)
    elif receiver.layer is not None and receiver.name in SLOTS and receiver.head is not None:
        model.check(receiver)
        before = senders(model, receiver.layer)
    else:
        raise UnknownSiteError("receiver", receiver, ["L0H0.q", "L0H0.k", "L0H0.v", "L0.mlp_pre", "logits"])
    if edge.sender in before and edge.sender != EMBED:
        model.check(edge.sender)
    if edge.sender not in before:
        raise UnknownSiteError("sender", edge.sender, [repr(s) for s in before], why=f"{node(receiver)} does not read it")
