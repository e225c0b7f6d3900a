"""Edges by plain hooks on GPT-2: one whole forward pass of all pairs for every link."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import PreTrainedModel

from contestants.edges_question import Link, Links, Node
from contestants.hooks import hooked
from contestants.networks import Shape
from contestants.timed import Contestant


@dataclass(frozen=True)
class Stream:
    """What one run writes to the residual stream, and what is read from it. ``[example, position, d_model]`` each."""

    written: dict[Node, Tensor]
    before: list[Tensor]
    """The stream before each block."""
    middle: list[Tensor]
    """The stream between each block's attention and its MLP."""


class Edges(Contestant):
    """Base and source are run once; then a link a pass, logits at every position or after the last token alone."""

    def __init__(self, shape: Shape, network: PreTrainedModel, logits_to_keep: int = 0) -> None:
        self.shape, self.network, self.device, self.logits_to_keep = shape, network, shape.device, logits_to_keep
        self.blocks = shape.blocks(network)

    @torch.no_grad()
    def answer(self, asked: Links) -> Tensor:
        question = asked.question
        base, source = (self._stream(question.ids(side)) for side in ("base", "source"))
        moved = {node: source.written[node] - written for node, written in base.written.items()}
        values = torch.zeros(len(asked.links), len(question.base))
        for i, link in enumerate(asked.links):
            logits = self._rerun(question.ids("base"), base, link, moved[link.sender])
            values[i] = question.measure(logits[:, -1], logits[:, -1])
        return values

    def _rerun(self, ids: Tensor, base: Stream, link: Link, moved: Tensor) -> Tensor:
        """Logits of the base run in which the receiver alone reads a stream moved by so much."""
        kind, layer, _ = link.receiver
        if kind == "logits":
            module, write = self.network.transformer.ln_f, lambda h: h + moved
        elif kind == "mlp":
            block = self.blocks[layer]
            module, write = block.mlp, lambda _: block.ln_2(base.middle[layer] + moved)
        else:
            handle = self.blocks[layer].attn.c_attn.register_forward_hook(self._instead(link.receiver, base, moved))
            try:
                return self._logits(ids)
            finally:
                handle.remove()
        with hooked(module, write):
            return self._logits(ids)

    def _instead(self, receiver: Node, base: Stream, moved: Tensor):
        """A hook on the projections: one head's query, key or value is that of the moved stream."""
        slot, layer, head = receiver
        block, width = self.blocks[layer], self.shape.head_width
        first = "qkv".index(slot) * self.shape.width + head * width

        def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            columns = slice(first, first + width)
            new = block.ln_1(base.before[layer] + moved) @ module.weight[:, columns] + module.bias[columns]
            return torch.cat([output[..., :first], new, output[..., first + width :]], dim=-1)

        return hook

    def _logits(self, ids: Tensor) -> Tensor:
        return self.network(input_ids=ids, use_cache=False, logits_to_keep=self.logits_to_keep).logits

    def _stream(self, ids: Tensor) -> Stream:
        """One run, read by hooks."""
        before, middle, z, mlp = {}, {}, {}, {}
        with ExitStack() as hooks:
            for layer, block in enumerate(self.blocks):
                reads = {block: before, block.attn.c_proj: z, block.ln_2: middle}
                for module, found in reads.items():
                    hooks.enter_context(hooked(module, lambda h, found=found, layer=layer: found.update({layer: h})))
                handle = block.mlp.register_forward_hook(lambda m, a, h, layer=layer: mlp.update({layer: h}))
                hooks.callback(handle.remove)
            self.network(input_ids=ids, use_cache=False, logits_to_keep=1)
        written: dict[Node, Tensor] = {("embed", -1, -1): before[0]}
        for layer, block in enumerate(self.blocks):
            split = rearrange(z[layer], "example position (head unit) -> head example position unit", head=self.shape.heads)
            weight = rearrange(block.attn.c_proj.weight, "(head unit) out -> head 1 unit out", head=self.shape.heads)
            written |= {("head", layer, head): result for head, result in enumerate(split @ weight)}
            written["mlp", layer, -1] = mlp[layer]
        layers = range(len(self.blocks))
        return Stream(written, [before[layer] for layer in layers], [middle[layer] for layer in layers])
