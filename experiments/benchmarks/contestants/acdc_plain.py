"""ACDC as it is written: one whole batched forward pass an edge, in plain torch on the zoo's modules.

Every reader sees what writers say in this pass where the edge is kept, and what they say on the other prompts where it is not.
Nothing of interp is used but the network's own modules.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from contestants.acdc_question import Search
from contestants.timed import Contestant


class Plain(Contestant):
    def __init__(self, network: PreTrainedModel) -> None:
        self.network, self.body = network, network.model
        self.heads, self.width = network.config.num_attention_heads, network.config.head_dim

    @torch.no_grad()
    def answer(self, asked: Search) -> Tensor:
        nothing_left_out = torch.ones(len(asked.edges), dtype=torch.bool)
        _, self.other = self._forward(asked.corrupted, asked, nothing_left_out, None)
        clean, _ = self._forward(asked.clean, asked, nothing_left_out, self.other)
        self.clean = clean.log_softmax(-1)
        found = [self._pruned(asked, tau) for tau in asked.thresholds]
        return torch.stack(found) if found else torch.zeros(0, len(asked.edges), dtype=torch.bool)

    def _pruned(self, asked: Search, tau: float) -> Tensor:
        kept = torch.ones(len(asked.edges), dtype=torch.bool)
        value = self._number(asked, kept)
        for edge in reversed(range(len(asked.edges))):
            kept[edge] = False
            without = self._number(asked, kept)
            if without - value < tau:
                value = without
            else:
                kept[edge] = True
        return kept

    def _number(self, asked: Search, kept: Tensor) -> float:
        """Mean KL divergence from the clean run, at the last token."""
        logits, _ = self._forward(asked.clean, asked, kept, self.other)
        theirs = logits.log_softmax(-1)
        return float((self.clean.exp() * (self.clean - theirs)).sum(-1).mean())

    def _forward(self, ids: Tensor, asked: Search, kept: Tensor, other: Sequence[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """The last logits, and what every writer said."""
        said = [self.body.embed_tokens(ids)]
        places = torch.arange(ids.shape[1])[None].expand(len(ids), -1)
        cos, sin = self.body.rotary_emb(said[0], places)
        future = torch.full((ids.shape[1],) * 2, -torch.inf, dtype=said[0].dtype).triu(1)
        left_out = iter(asked.by_reader(~kept))

        def read() -> Tensor:
            seen, out = sum(said), next(left_out)  # type: ignore[arg-type]
            for writer in out:
                seen = seen + (other[writer] - said[writer] if other is not None else 0)
            return seen

        for block in self.body.layers:
            attention, slots = block.self_attn, []
            for project in (attention.q_proj, attention.k_proj, attention.v_proj):
                each = [project(block.input_layernorm(read())) for _ in range(self.heads)]
                slots.append(torch.stack([x[..., h * self.width : (h + 1) * self.width] for h, x in enumerate(each)], dim=1))
            query, key = (_turned(x, cos, sin) for x in slots[:2])
            pattern = (query @ key.transpose(-1, -2) * attention.scaling + future).softmax(-1)
            z = pattern @ slots[2]
            w_o = attention.o_proj.weight
            said += [z[:, h] @ w_o[:, h * self.width : (h + 1) * self.width].T for h in range(self.heads)]
            said.append(block.mlp(block.post_attention_layernorm(read())))
        return self.network.lm_head(self.body.norm(read()[:, -1])), said


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
