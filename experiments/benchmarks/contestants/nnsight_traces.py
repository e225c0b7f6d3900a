"""nnsight: one trace a patch, and batched invokes, all places of a layer in one trace. Runs in a worker process."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from contestants.hooks import at
from contestants.networks import Shape
from contestants.question import Question
from contestants.timed import Contestant


class Traces(Contestant):
    """One trace a patch; a first trace saves the source run's activations."""

    def __init__(self, shape: Shape) -> None:
        from nnsight.modeling.transformers import TransformersModel

        warnings.filterwarnings("ignore")  # of its progress and deprecations
        self.shape, self.device = shape, shape.device
        self.model = TransformersModel(shape.network(), task="text-generation", tokenizer=shape.tokenizer())

    @torch.no_grad()
    def answer(self, question: Question) -> Tensor:
        model, base = self.model, question.ids("base")
        cache, clean = self._source_run(question)
        values = []
        for i, layer in enumerate(question.layers):
            for place in question.where:
                module, where, source = self._module(question.site, layer), at(question, place), cache[i]
                with model.trace(base, use_cache=False):
                    module.input[where] = source[where]
                    last = model.lm_head.output[:, -1].save()
                values.append(question.measure(last, clean))
        return torch.stack(values).unflatten(0, (len(question.layers), -1))

    def _module(self, site: str, layer: int):
        """Of nnsight's tree; it has the names of the network's own modules."""
        return self.shape.blocks(self.model)[layer] if site == "resid_pre" else self.shape.w_o(self.model, layer)

    def _source_run(self, question: Question) -> tuple[list[Tensor], Tensor]:
        model, source = self.model, question.ids("source")
        modules = [self._module(question.site, layer) for layer in question.layers]
        with model.trace(source, use_cache=False):
            cache = [module.input for module in modules].save()
            clean = model.lm_head.output[:, -1].save()
        return cache, clean


class Invokes(Traces):
    """All places of a layer in one trace, an invoke each."""

    @torch.no_grad()
    def answer(self, question: Question) -> Tensor:
        model, base = self.model, question.ids("base")
        cache, clean = self._source_run(question)
        values = []
        for i, layer in enumerate(question.layers):
            module, source = self._module(question.site, layer), cache[i]
            with model.trace(use_cache=False) as tracer:
                found = list().save()  # noqa: C408 - nnsight reads this line's source
                for place in question.where:
                    where = at(question, place)
                    with tracer.invoke(base):
                        module.input[where] = source[where]
                        found.append(model.lm_head.output[:, -1])
            values.extend(question.measure(last, clean) for last in found)
        return torch.stack(values).unflatten(0, (len(question.layers), -1))
