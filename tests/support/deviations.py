"""How far the logits of a sweep are from what is expected of each example, all of them in one number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

import interp
from interp.metrics import Reads
from interp.prompts import Pair, Pairs, Prompt


@dataclass(frozen=True, eq=False)
class Deviation:
    """How far any logit of an example is from what is expected of it; the examples are known by their answers."""

    expected: Tensor
    name = "deviation"
    reads = Reads(positions=interp.Positions(), columns="all")

    def __call__(self, readout: Any) -> Tensor:
        return (readout.logits - self.expected[readout.answers[:, 0] - 1]).abs().amax((-1, -2))


def paired(base: Tensor, source: Tensor) -> Pairs:
    """Clean is the base; each pair's answer is its number, counted from 1."""
    return Pairs(
        tuple(
            Pair(Prompt(tuple(b.tolist())), Prompt(tuple(s.tolist())), (number,), (0,))
            for number, (b, s) in enumerate(zip(base, source, strict=True), start=1)
        )
    )


def deviation(model: Any, intervention: Any, base: Tensor, source: Tensor, expected: Tensor, strategy: str = "auto") -> float:
    """How far any logit of a sweep of one cell is from what is expected."""
    metric = Deviation(expected)
    return float(
        interp.patch(model, paired(base, source), intervention, metric, patching="noising", strategy=strategy).value.max()
    )
