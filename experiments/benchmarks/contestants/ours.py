"""interp: one call of a public function for a sweep, one for a training."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

import interp
from contestants.networks import Shape
from contestants.question import Question
from contestants.timed import Contestant
from contestants.training import Training, rotation


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


class InterpDas(Contestant):
    def __init__(self, shape: Shape, network: PreTrainedModel) -> None:
        self.model, self.device = interp.load(network), shape.device

    def answer(self, training: Training) -> Tensor:
        return train_interp(self.model, training)


def train_interp(model: interp.Model, training: Training) -> Tensor:
    """Losses ``[site, step]`` of all sites, trained together."""
    pairs = [
        interp.Pair(interp.Prompt(source), interp.Prompt(base), answers=(label,))
        for source, base, label in zip(training.source, training.base, training.labels, strict=True)
    ]
    changes = [
        interp.Change(
            f"L{layer}.resid_post",
            position,
            featurizer=interp.interventions.Rotation.like_torch(rotation(training, (layer, position))),
        )
        for layer, position in training.sites
    ]
    trained = interp.training.fit(
        model,
        pairs,
        changes,
        "logprob",
        epochs=training.epochs,
        batch=training.batch,
        lr=training.lr,
        shuffle=False,
        progress=False,
    )
    return torch.from_numpy(trained.loss.values)
