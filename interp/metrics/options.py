"""How likely each of a pair's answers is: one metric for every one of them, the right ones first, then the wrong ones in order.

    >>> [metric.name for metric in options(3)]
    ['option_0', 'option_1', 'option_2']

Answers are told by their first tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.metrics.protocol import Readout, Reads


@dataclass(frozen=True, slots=True)
class OptionLogProb:
    """Natural log of the probability of one answer's first token; −inf in a pair that has fewer answers."""

    index: int
    reads: Reads = Reads(columns="answers", logsumexp=True, needs=("answers",))
    unit: str = "nats"

    @property
    def name(self) -> str:
        return f"option_{self.index}"

    def __call__(self, readout: Readout) -> Float[Tensor, "row example"]:
        right = (readout.answers >= 0).sum(-1, keepdim=True)
        every = torch.cat([readout.answers, readout.wrong], dim=-1)
        # A pair's own answers first: padding of right ones stands between these and the wrong ones.
        at = torch.where(self.index < right, self.index, self.index - right + readout.answers.shape[-1])
        there = at < every.shape[-1]
        ids = every.gather(-1, at.clamp(max=every.shape[-1] - 1)).masked_fill(~there, -1)
        return readout.at(ids)[..., 0] - readout.normaliser


def options(many: int) -> tuple[OptionLogProb, ...]:
    """The metrics of so many answers."""
    return tuple(OptionLogProb(index) for index in range(many))
