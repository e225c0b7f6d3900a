"""A contestant, and how one answer of it is timed or counted; the same here and in a worker process.

class Serial(Contestant):
    def answer(self, question): ...

Serial(shape).run(question).seconds
Serial(shape).run(question, count=True).flops      # as executed; counting takes time, so such a run is not timed
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

_aten = torch.ops.aten


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *args: Any, **kw: Any) -> int:
    """Scores again, and the gradients of scores, values, queries and keys: five products for the two of the forward pass."""
    return 5 * sdpa_flop_count(query, key, value) // 2


CPU_ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""torch counts the fused attention of GPUs, and leaves out that of CPUs."""


@dataclass(frozen=True)
class Run:
    """One answer."""

    seconds: float
    value: Tensor
    flops: int | None
    """FLOPs of matrix products that were executed, by torch's own counter; None where they were not counted."""


class Contestant:
    """Builds its model when it is made, which is not timed; caches and all else are part of an answer, which is."""

    device = "cpu"

    def answer(self, question: Any) -> Tensor:
        raise NotImplementedError

    def run(self, question: Any, count: bool = False) -> Run:
        counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) if count else contextlib.nullcontext()
        self._wait()
        began = time.perf_counter()
        with counter:
            value = self.answer(question)
        self._wait()
        seconds = time.perf_counter() - began
        return Run(seconds, value.detach().float().cpu(), counter.get_total_flops() if count else None)

    def close(self) -> None:
        """Let go of what outlives the object."""

    def _wait(self) -> None:
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)
