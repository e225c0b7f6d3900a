"""What a model says of a text that is there: one pass of the raw module, a plain torch hook on a block, one text at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from generation_by_hand import Run, added, arguments, hooked, said
from torch import Tensor
from torch.nn.functional import kl_div

from interp.prompts import Prompt

BLOCKS = {
    "gpt2": "transformer.h.1",
    "llama": "model.layers.1",
    "mistral": "model.layers.1",  # a window of 4, shorter than every text here
    "gemma2": "model.layers.1",
    "mixtral": "model.layers.1",
    "mamba": "backbone.layers.1",
    "jamba": "model.layers.1",
    "t5": "decoder.block.1",
}
"""Where the second block is, by architecture."""

Chosen = Callable[[int, int], bool]
"""Position and length of the prompt to whether a vector is added there."""


def steered_run(kind: str, chosen: Chosen, vector: Tensor, prompt: Prompt) -> Run:
    """Passes in which a vector is added behind the second block, at some absolute positions."""
    length = len(said(prompt))
    return hooked(kind, BLOCKS[kind], added(lambda position: chosen(position, length), vector))[0]


def says(prompt: Prompt, new: Sequence[int], run: Run) -> Tensor:
    """Logits ``[token, vocab]``, float64, that each new token was chosen from."""
    text = [*said(prompt), *new]
    return run(arguments(prompt, text))[0, len(said(prompt)) - 1 : -1].double()


def logprobs(logits: Tensor, new: Sequence[int]) -> Tensor:
    return logits.log_softmax(-1)[torch.arange(len(new)), torch.tensor(new)]


def kl(one: Tensor, other: Tensor) -> Tensor:
    """D(one ‖ other), token by token."""
    return kl_div(other.log_softmax(-1), one.log_softmax(-1), log_target=True, reduction="none").sum(-1)
