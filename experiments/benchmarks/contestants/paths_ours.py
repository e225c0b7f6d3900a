"""interp's path patching: one call of a public function."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

import interp
from contestants.networks import Shape
from contestants.paths_question import Paths
from contestants.timed import Contestant


class InterpPaths(Contestant):
    def __init__(self, shape: Shape, network: PreTrainedModel) -> None:
        self.model, self.device = interp.load(network), shape.device

    def answer(self, asked: Paths) -> Tensor:
        question = asked.question
        pairs = [
            interp.Pair(interp.Prompt(base), interp.Prompt(source), answers=(answer,), wrong=(wrong,))
            for base, source, answer, wrong in zip(
                question.base, question.source, question.answers, question.wrong, strict=True
            )
        ]
        senders = interp.grid("z", layer=list(question.layers), head=list(question.where), position=-1)
        receivers = [f"L{layer}H{head}.q@-1" for layer, head in asked.receivers]
        effects = interp.path_patch(self.model, pairs, senders, receivers, question.metric, progress=False)
        return torch.from_numpy(effects.value.values[0])
