"""interp's edge sweep: one call of a public function."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

import interp
from contestants.edges_question import Link, Links, Node, every
from contestants.networks import Shape
from contestants.timed import Contestant
from interp.engine import patch_edges
from interp.engine.graph.edges import Edge
from interp.sites import Site

_SENDERS = {"embed": "embed", "head": "z", "mlp": "mlp_out"}
_RECEIVERS = {"q": "q", "k": "k", "v": "v", "mlp": "mlp_pre", "logits": "logits"}


class InterpEdges(Contestant):
    """Some links, or all of the model's whatever is asked."""

    def __init__(self, shape: Shape, network: PreTrainedModel) -> None:
        self.model, self.device = interp.load(network), shape.device

    def answer(self, asked: Links) -> Tensor:
        return self._effects(asked, [edge(link) for link in asked.links])

    def _effects(self, asked: Links, edges: list[Edge] | None) -> Tensor:
        question = asked.question
        pairs = [
            interp.Pair(interp.Prompt(source), interp.Prompt(base), answers=(answer,), wrong=(wrong,))
            for source, base, answer, wrong in zip(
                question.source, question.base, question.answers, question.wrong, strict=True
            )
        ]
        effects = patch_edges(self.model, pairs, "logit_diff", edges=edges, patching="denoising", progress=False)
        return torch.from_numpy(effects.value.values[0])


class InterpEveryEdge(InterpEdges):
    """All edges are swept; the answer is that of the links asked for."""

    def answer(self, asked: Links) -> Tensor:
        number = {link: i for i, link in enumerate(every(asked.shape))}
        return self._effects(asked, None)[[number[link] for link in asked.links]]


def edge(link: Link) -> Edge:
    """The same in interp's words."""
    return Edge(_site(link.sender, _SENDERS), _site(link.receiver, _RECEIVERS))


def _site(node: Node, names: dict[str, str]) -> Site:
    kind, layer, head = node
    return Site(names[kind], layer=None if layer < 0 else layer, head=None if head < 0 else head)
