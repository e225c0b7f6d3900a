"""interp: one call of its public function."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

import interp
from contestants.networks import Shape
from contestants.question import Question
from contestants.timed import Contestant


class Interp(Contestant):
    def __init__(self, shape: Shape, network: PreTrainedModel) -> None:
        self.model, self.device = interp.load(network), shape.device

    def answer(self, question: Question) -> Tensor:
        pairs = [
            interp.Pair(interp.Prompt(clean), interp.Prompt(corrupted), answers=(answer,), wrong=(wrong,))
            for clean, corrupted, answer, wrong in zip(
                question.source, question.base, question.answers, question.wrong, strict=True
            )
        ]
        where = interp.grid(question.site, layer=list(question.layers), **{question.axis: list(question.where)})
        effects = interp.patch(self.model, pairs, where, question.metric, progress=False)
        return torch.from_numpy(effects.value.values[0])
