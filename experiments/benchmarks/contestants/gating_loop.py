"""Gates by plain hooks: one run after another, whole forward and backward passes through the frozen model."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from einops import repeat
from torch import Tensor, nn
from transformers import PreTrainedModel

from contestants.gating_question import CLIP, Gating
from contestants.hooks import hooked
from contestants.networks import Shape
from contestants.timed import Contestant


class Loop(Contestant):
    """Logits of the last token alone.

    Args:
        network: its own; the parameters' gradients are turned off.
    """

    def __init__(self, shape: Shape, network: PreTrainedModel) -> None:
        self.shape, self.network, self.device = shape, network.requires_grad_(False), shape.device

    def answer(self, asked: Gating) -> Tensor:
        return torch.stack([self._run(asked, seed, pull) for seed, pull in asked.runs], dim=1)

    def _run(self, asked: Gating, seed: int, pull: float) -> Tensor:
        """``[loss or penalty, step]`` of one run."""
        prompts, answers = (torch.tensor(ids, device=self.device) for ids in (asked.prompts, asked.answers))
        logits = nn.Parameter(asked.start(seed).to(self.device))
        optimizer = torch.optim.Adam([logits], lr=asked.lr)
        found = []
        with ExitStack() as hooks:
            for layer in range(self.shape.layers):
                hooks.enter_context(
                    hooked(self.shape.w_o(self.network, layer), lambda z, layer=layer: self._gated(z, logits[layer]))
                )
            for rows in asked.batches():
                last = self.network(input_ids=prompts[rows], use_cache=False, logits_to_keep=1).logits[:, -1]
                loss = nn.functional.cross_entropy(last.float(), answers[rows])
                penalty = -pull * logits.clamp(-CLIP, CLIP).mean()
                optimizer.zero_grad()
                (loss + penalty).backward()
                optimizer.step()
                found.append(torch.stack([loss.detach(), penalty.detach()]))
        return torch.stack(found, dim=-1)

    def _gated(self, z: Tensor, logits: Tensor) -> Tensor:
        return z * repeat(logits.sigmoid(), "head -> (head unit)", unit=self.shape.head_width)
