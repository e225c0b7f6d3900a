"""What gating contestants are asked: soft gates on every head, trained from several starts under several pulls.

z of head h in layer l is multiplied by σ(g_lh) before W_O, at all positions. A step's loss is the mean of −log P(answer) after
the last token over its batch; a run with pull λ minimises it less λ times the mean of clip(g, ±4) (causal head gating, arXiv
2505.13737; the penalty as a mean over a run's own heads, so that it does not depend on how many runs there are). A run is a
start and a pull, with gates and an Adam of its own. An answer is ``[loss or penalty, run, step]``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from contestants.networks import Shape

CLIP = 4.0
Ids = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Gating:
    """Runs of gates, one for each start and pull."""

    shape: Shape
    prompts: Ids
    answers: tuple[int, ...]
    batch: int
    epochs: int
    seeds: tuple[int, ...]
    pulls: tuple[float, ...] = (0.0, 0.1, -0.1)
    lr: float = 0.1

    @property
    def runs(self) -> list[tuple[int, float]]:
        """Seed and pull of each."""
        return [(seed, pull) for seed in self.seeds for pull in self.pulls]

    @property
    def steps(self) -> int:
        return self.epochs * (len(self.prompts) // self.batch)

    def batches(self) -> list[slice]:
        """Of every step: in order, the same in every epoch."""
        return [slice(i, i + self.batch) for i in range(0, len(self.prompts), self.batch)] * self.epochs

    def start(self, seed: int) -> Tensor:
        """The first logits ``[layer, head]``: those of gates drawn uniformly from (0, 1)."""
        draw = torch.Generator().manual_seed(seed)
        return torch.rand(self.shape.layers, self.shape.heads, generator=draw, dtype=torch.float64).logit(eps=1e-6).float()


def random_gating(shape: Shape, *, prompts: int, tokens: int, batch: int, epochs: int, seeds: int, seed: int = 1) -> Gating:
    """Random prompts and answers. Token 0, which may be padding, never occurs."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, shape.vocab, (prompts, tokens), generator=draw)
    answers = torch.randint(1, shape.vocab, (prompts,), generator=draw)
    return Gating(shape, tuple(map(tuple, ids.tolist())), tuple(answers.tolist()), batch, epochs, tuple(range(seeds)))
