"""The parts of a fused readout that both implementations use: the map to logits and the reference, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Head:
    """The map from hidden states to logits."""

    weight: Tensor
    bias: Tensor | None
    softcap: float | None
    wide: torch.dtype
    """The dtype of sums and results."""

    def chunks(self, size: int) -> Iterator[tuple[slice, Head]]:
        """The vocabulary in chunks of columns, each with the map to its logits, widened."""
        for start in range(0, len(self.weight), size):
            columns = slice(start, start + size)
            yield columns, self.take(columns)

    def take(self, columns: slice | Tensor) -> Head:
        """The map to some logits only, widened."""
        bias = None if self.bias is None else self.bias[columns].to(self.wide)
        return Head(self.weight[columns].to(self.wide), bias, self.softcap, self.wide)

    def logits(self, x: Tensor) -> Tensor:
        """``[row, chunk]`` from ``[row, width]``, both widened."""
        return self.finish(x @ self.weight.mT)

    def finish(self, products: Tensor) -> Tensor:
        """Logits from products, in place: plus the bias, capped."""
        if self.bias is not None:
            products.add_(self.bias)
        if self.softcap is not None:
            products.div_(self.softcap).tanh_().mul_(self.softcap)
        return products

    def through(self, weights: Tensor, logits: Tensor) -> Tensor:
        """Weights of logits as weights of products, in place: times the cap's derivative, 1 − (logit / cap)²."""
        if self.softcap is not None:
            weights.mul_((logits / self.softcap).square_().neg_().add_(1))
        return weights


@dataclass(frozen=True, eq=False)
class Reference:
    """What KL is taken from: states or log-probabilities, of the examples that some row is compared with."""

    states: Tensor | None
    values: Tensor | None
    used: Tensor
    """Rows of ``values`` that are needed; ``states`` holds none but the needed."""
    example_of: Tensor
    """Which of the needed examples a row is compared with."""

    @classmethod
    def of(cls, states: Tensor | None, values: Tensor | None, example_of: Tensor) -> Self:
        """Leave out the examples that no row asks for."""
        used, places = example_of.long().unique(return_inverse=True)
        return cls(None if states is None else states[used], values, used, places)

    def logits(self, head: Head, columns: slice) -> Tensor:
        """``[example, chunk]``, up to a constant a row, through the map ``head`` of a chunk."""
        if self.states is not None:
            return head.logits(self.states.to(head.wide))
        assert self.values is not None
        return self.values[:, columns].index_select(0, self.used).to(head.wide)
