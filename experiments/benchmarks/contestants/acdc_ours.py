"""interp's ACDC: one call for all thresholds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

import interp
from contestants.acdc_question import Search
from contestants.timed import Contestant


class Interp(Contestant):
    """
    Args:
        ahead: ask about many edges at once; otherwise about one after the other, each from its reader's block on.
    """

    def __init__(self, network: PreTrainedModel, ahead: bool = True) -> None:
        self.model, self.ahead = interp.load(network), ahead
        self.took: dict[str, list[Any]] = {}

    def answer(self, asked: Search) -> Tensor:
        rows = None if self.ahead else len(asked.clean)
        prompts = zip(asked.clean.tolist(), asked.corrupted.tolist(), strict=True)
        pairs = [interp.Pair(*(interp.Prompt(tuple(ids)) for ids in both)) for both in prompts]
        found = interp.acdc(self.model, pairs, asked.thresholds, "kl", rows=rows, progress=False)
        told = ("threshold", "edges", "rounds", "passes", "evaluated", "unasked", "misses", "closest")
        self.took = {name: found[name].values.tolist() for name in told}
        return torch.from_numpy(found["in_circuit"].values)
