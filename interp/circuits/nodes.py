"""Nodes of the residual stream's graph, and the edges between them.

>>> Edge.of("L3H0.z", "L9H6.q")
L3H0 → L9H6.q
>>> neuron = Coordinates.of("L3.mlp_post[17]")
>>> Edge(neuron, LOGITS), At(neuron, "END")
(m3[17] → logits, m3[17]@END)

A node is a site: a head, an MLP, the embedding. What it writes may be told apart in coordinates, such as an MLP's neurons, or
features of a dictionary; and any node may be seen at some tokens alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from interp.errors import EdgesError, UnknownSiteError
from interp.sites import Site

EMBED = Site("embed")
POS_EMBED = Site("pos_embed")
LOGITS = Site("logits")
SLOTS = ("q", "k", "v")
REST = "rest"
"""The span of the tokens that are in none."""
TOLD_APART = ("z", "mlp_post", "mlp_out", "embed", "pos_embed")
"""Where what a node writes is told apart."""


@dataclass(frozen=True, repr=False)
class Coordinates:
    """Some coordinates of what one node writes, a node of their own: what they add to the stream.

    The node itself is then what is left of it. Coordinates are those of the site, or a featurizer's: what they add is what they
    decode to, beyond what no coordinate decodes to.
    """

    site: Site
    """A head's ``z``; an MLP's ``mlp_post``, of which they are neurons, or ``mlp_out``; ``embed`` or ``pos_embed``."""
    features: tuple[int, ...]
    name: str
    featurizer: Any = field(default=None, compare=False)
    """None for the site's own coordinates, or where it is not at hand: after it was read from a file."""
    basis: str = ""
    """What the featurizer is known by; nothing of the site's own coordinates."""

    @classmethod
    def of(
        cls,
        site: Site | str,
        features: int | Iterable[int] | None = None,
        featurizer: Any = None,
        name: str | None = None,
    ) -> Coordinates:
        """Coordinates of a site: ``Coordinates.of("L3.mlp_post[17]")``, ``Coordinates.of("L9H6.z", [0, 1], subspace, "a")``.

        Args:
            site: ``L3.mlp_post`` for neurons, ``L9H6.z``, ``L3.mlp_out``, ``embed`` or ``pos_embed``.
            features: which coordinates make the node; left out where the site names one.
            featurizer: in whose basis, see :class:`interp.interventions.Featurizer`.
            name: by which the node is known; by default its coordinates.

        Raises:
            UnknownSiteError: nothing is told apart at such a site.
            EdgesError: no coordinate, or something else.
        """
        where = Site.parse(site)
        if where.name not in TOLD_APART or (where.name == "z" and where.head is None) or where.path is not None:
            known = ["L3.mlp_post[17]", "L9H6.z", "L3.mlp_out", "embed"]
            raise UnknownSiteError(
                "site", repr(where), known, why="what is told apart is what one head, MLP or embedding writes"
            )
        if features is None:
            given: list[Any] = [] if where.unit is None else [where.unit]
        else:
            given = [features] if isinstance(features, int) else list(features)
        if features is None and not given:
            raise EdgesError(
                f"{where!r} does not say which of its coordinates; give features=[0, 1], or name one, {where!r}[0]"
            )
        if not given or any(isinstance(one, bool) or not isinstance(one, int) or one < 0 for one in given):
            raise EdgesError(f"features={features!r} of {where!r}; expected numbers of coordinates from 0 on, such as [0, 1]")
        title = ",".join(map(str, given)) if name is None else name
        return cls(where.at(unit=None), tuple(given), title, featurizer)

    @property
    def writer(self) -> Site:
        """The node whose they are."""
        return Site("mlp_out", layer=self.site.layer) if self.site.name == "mlp_post" else self.site

    @property
    def layer(self) -> int | None:
        return self.site.layer

    @property
    def head(self) -> int | None:
        return self.site.head

    def __repr__(self) -> str:
        return node(self)


Node: TypeAlias = Site | Coordinates


@dataclass(frozen=True, slots=True, repr=False)
class At:
    """A node at some tokens alone."""

    node: Node
    span: str

    @property
    def layer(self) -> int | None:
        return self.node.layer

    @property
    def head(self) -> int | None:
        return self.node.head

    def __repr__(self) -> str:
        return node(self)


@dataclass(frozen=True, slots=True, repr=False)
class Edge:
    """What one node adds to the stream, as one reader sees it."""

    sender: Node | At
    """``embed`` (with the position embedding, unless that is ``pos_embed``), ``L3H0.z`` for a head, or ``L3.mlp_out``."""
    receiver: Site | At
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


def bare(of: Node | At) -> Node:
    """A node without the tokens at which it is seen."""
    return of.node if isinstance(of, At) else of


def whole_of(of: Node | At) -> Site:
    """The node whose part, or which at some tokens, something is."""
    found = bare(of)
    return found.writer if isinstance(found, Coordinates) else found


def node(of: Node | At) -> str:
    """A node's short name: ``embed``, ``L3H0``, ``m3``, ``m3[17]``, ``L9H6.q``, ``logits``, ``L3H0@END``."""
    if isinstance(of, At):
        return f"{node(of.node)}@{of.span}"
    if isinstance(of, Coordinates):
        return f"{node(of.writer)}[{of.name}]"
    if of.name in ("mlp_out", "mlp_pre"):
        return f"m{of.layer}"
    return f"L{of.layer}H{of.head}" if of.name == "z" else repr(of)
