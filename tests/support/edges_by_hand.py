"""Edges by their definition, in whole forward passes of one unpadded prompt, with writes spelled out as functions of tensors.

First what the reader gives is read where it sees the writer changed: everything that blocks add is held at the base's values,
the writer's own excepted, and what is in force is in force. Then a pass on the base has just that in the reader's place, before
what is in force there. Nothing of the wave, of edits or of the sums of the stream is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from interp.engine.graph.edges import EMBED, LOGITS, Edge
from interp.models import Model
from interp.sites import Site

Write = Callable[[Tensor], Tensor]
EMBEDDED = Site("resid_pre", layer=0)


def instead(tensor: Tensor) -> Write:
    return lambda h: tensor.to(h)


def then(*many: Mapping[Site, Write]) -> dict[Site, Write]:
    """Writes at every site in the order of the mappings."""
    found: dict[Site, Write] = {}
    for writes in many:
        for site, write in writes.items():
            first = found.get(site)
            found[site] = write if first is None else lambda h, first=first, write=write: write(first(h))  # type: ignore[misc]
    return found


class ByHand:
    """One example.

    Args:
        given: what is in force on the base and in every row, by site.
        hold: sites that are held in every row at what they are on the base.
        zero: the source says 0 instead of what the other prompt's run has.
        split: the embedding is that of tokens alone.
    """

    def __init__(
        self,
        model: Model,
        base: Sequence[int],
        source: Sequence[int],
        *,
        given: Mapping[Site, Write] | None = None,
        hold: Sequence[Site] = (),
        zero: bool = False,
        split: bool = False,
    ) -> None:
        self.model, self.split, given = model, split, dict(given or {})
        tokens = model.encode([tuple(base), tuple(source)])
        self.inputs, theirs = model.inputs(tokens.take([0])), model.inputs(tokens.take([1]))
        self.square = any(site.name in ("scores", "pattern") for site in (*given, *hold))
        sites = [s for s in model.sites() if s.name != "result" and (self.square or s.name not in ("scores", "pattern"))]
        self.base = self.run(self.inputs, sites, given)
        self.source = {site: 0 * t if zero else t for site, t in self.run(theirs, sites, {}).items()}
        self.standing = then(given, {site: instead(self.base[site]) for site in hold})

    def run(self, inputs: Any, reads: Sequence[Site], writes: Mapping[Site, Write]) -> dict[Site, Tensor]:
        with torch.no_grad(), self.model.prepared([Site("pattern", layer=0)] if self.square else []):
            found = self.model.backend.run(inputs, reads=reads, writes=dict(writes))
        return {site: tensor.clone() for site, tensor in found.items()}

    def logits(self, edge: Edge | None = None) -> Tensor:
        """The last logits with one edge changed, or with none."""
        if edge is None:
            return self.run(self.inputs, [LOGITS], self.standing)[LOGITS][0, -1]
        held, receiver = self._only(edge.sender), edge.receiver
        if receiver == LOGITS:
            return self.run(self.inputs, [LOGITS], then(self.standing, held))[LOGITS][0, -1]
        out = Site("mlp_out", layer=receiver.layer) if receiver.name == "mlp_pre" else receiver.tensor
        seen = {site: write for site, write in then(self.standing, held).items() if site != out}
        given = self.run(self.inputs, [out], seen)[out]

        def write(h: Tensor) -> Tensor:
            return given if receiver.head is None else _with(h, given, receiver.head)

        return self.run(self.inputs, [LOGITS], then({out: write}, self.standing))[LOGITS][0, -1]

    def _only(self, sender: Site) -> dict[Site, Write]:
        """What leaves the stream to one writer."""
        outs = [s for s in self.base if s.name in ("attn_out", "mlp_out")]
        own = EMBEDDED if sender == EMBED and not self.split else sender.tensor
        held = {site: instead(self.base[site]) for site in outs if site != own}
        if sender.name == "z":
            held.pop(Site("attn_out", layer=sender.layer))
            return held | {own: lambda h: _with(h, self.source[own], sender.head)}
        return held | {own: instead(self.source[own])}


def _with(h: Tensor, other: Tensor, head: int | None) -> Tensor:
    h = h.clone()
    h[:, :, head] = other[:, :, head]
    return h
