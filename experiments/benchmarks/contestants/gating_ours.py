"""interp's gates: all runs in one call of a public function, or a call for each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

import interp
from contestants.gating_question import CLIP, Gating
from contestants.networks import Shape
from contestants.timed import Contestant
from interp.interventions import Gate, Intervention, learnable


class InterpGates(Contestant):
    """
    Args:
        together: train all runs at once; otherwise one run after another, each call making the base run anew.
    """

    def __init__(self, shape: Shape, network: PreTrainedModel, together: bool = True) -> None:
        self.model, self.device, self.together = interp.load(network), shape.device, together

    def answer(self, asked: Gating) -> Tensor:
        runs = asked.runs
        groups = [runs] if self.together else [[run] for run in runs]
        return torch.cat([self._fit(asked, group) for group in groups], dim=1)

    def _fit(self, asked: Gating, runs: list[tuple[int, float]]) -> Tensor:
        pairs = [
            interp.Pair(interp.Prompt(prompt), interp.Prompt(prompt), answers=(answer,))
            for prompt, answer in zip(asked.prompts, asked.answers, strict=True)
        ]
        trained = interp.training.fit(
            self.model,
            pairs,
            [self._gates(asked, seed) for seed, _ in runs],
            "logprob",
            epochs=asked.epochs,
            batch=asked.batch,
            lr=asked.lr,
            penalty=[_pulled(pull) for _, pull in runs],
            shuffle=False,
            progress=False,
        )
        return torch.from_numpy(np.stack([trained.loss.values, trained.penalty.values]))

    def _gates(self, asked: Gating, seed: int) -> Intervention:
        start = asked.start(seed).to(self.device)
        return Intervention.of(
            *(interp.Change(f"L{layer}.z", edit=Gate((len(row), 1), start=row[:, None])) for layer, row in enumerate(start))
        )


def _pulled(pull: float) -> Callable[[Intervention], Tensor]:
    return lambda gates: -pull * torch.cat(learnable(gates)).clamp(-CLIP, CLIP).mean()
