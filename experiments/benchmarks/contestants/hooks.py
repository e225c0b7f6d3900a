"""Plain hooks: one patch a forward pass, which is the reference, and the loop that a good user would write."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import PreTrainedModel

from contestants.networks import Shape
from contestants.question import Question
from contestants.timed import Contestant


class Serial(Contestant):
    """One patch a forward pass over all pairs, with logits at every position, as the model gives them."""

    def __init__(self, shape: Shape, network: PreTrainedModel) -> None:
        self.shape, self.network, self.device = shape, network, shape.device

    @torch.no_grad()
    def answer(self, question: Question) -> Tensor:
        cache, clean = source_run(self.shape, self.network, question)
        base = question.ids("base")
        values = []
        for layer in question.layers:
            for place in question.where:

                def write(h: Tensor, at: tuple = at(question, place), source: Tensor = cache[layer]) -> Tensor:
                    h = h.clone()
                    h[at] = source[at]
                    return h

                with hooked(module_of(self.shape, self.network, question.site, layer), write):
                    logits = self.network(input_ids=base, use_cache=False).logits
                values.append(question.measure(logits[:, -1], clean))
        return torch.stack(values).unflatten(0, (len(question.layers), -1))


class Batched(Contestant):
    """All places of a layer stacked along the batch, a bounded number of rows a pass, logits of the last token only."""

    def __init__(self, shape: Shape, network: PreTrainedModel, rows: int = 128) -> None:
        self.shape, self.network, self.rows, self.device = shape, network, rows, shape.device

    @torch.no_grad()
    def answer(self, question: Question) -> Tensor:
        cache, clean = source_run(self.shape, self.network, question)
        base = question.ids("base")
        many = max(1, self.rows // len(base))
        values = []
        for layer in question.layers:
            module = module_of(self.shape, self.network, question.site, layer)
            for places in (question.where[i : i + many] for i in range(0, len(question.where), many)):

                def write(h: Tensor, places: tuple[int, ...] = places, source: Tensor = cache[layer]) -> Tensor:
                    h = rearrange(h, "(cell example) position unit -> cell example position unit", cell=len(places)).clone()
                    for cell, place in enumerate(places):
                        h[cell][at(question, place)] = source[at(question, place)]
                    return rearrange(h, "cell example position unit -> (cell example) position unit")

                with hooked(module, write):
                    logits = self.network(input_ids=base.repeat(len(places), 1), use_cache=False, logits_to_keep=1).logits
                each = rearrange(logits, "(cell example) 1 vocab -> cell example vocab", cell=len(places))
                values.extend(question.measure(last, clean) for last in each)
        return torch.stack(values).unflatten(0, (len(question.layers), -1))


def at(question: Question, place: int) -> tuple:
    """Where a place lies in ``[example, position, unit]``: a position, or a head's units at all positions."""
    if question.axis == "position":
        return (slice(None), place)
    width = question.shape.head_width
    return (slice(None), slice(None), slice(place * width, (place + 1) * width))


def module_of(shape: Shape, network: nn.Module, site: str, layer: int) -> nn.Module:
    """The module whose input is the site: a block, or W_O for z."""
    return shape.blocks(network)[layer] if site == "resid_pre" else shape.w_o(network, layer)


@contextmanager
def hooked(module: nn.Module, write: Callable[[Tensor], Tensor | None]):
    """Inside, the first input of ``module`` passes through ``write``, which may return None to leave it."""

    def hook(module: nn.Module, args: tuple) -> tuple | None:
        changed = write(args[0])
        return None if changed is None else (changed, *args[1:])

    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def source_run(shape: Shape, network: PreTrainedModel, question: Question) -> tuple[dict[int, Tensor], Tensor]:
    """The site in every swept layer of the source run ``[example, position, unit]``, and the logits after its last token."""
    found: dict[int, Tensor] = {}
    modules = {layer: module_of(shape, network, question.site, layer) for layer in question.layers}
    handles = [
        module.register_forward_pre_hook(lambda _, args, layer=layer: found.update({layer: args[0]}))
        for layer, module in modules.items()
    ]
    try:
        logits = network(input_ids=question.ids("source"), use_cache=False, logits_to_keep=1).logits
    finally:
        for handle in handles:
            handle.remove()
    return found, logits[:, -1]
