"""From the logits of a pass to the numbers of every metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.metrics import Metric, Readout, require
from interp.models import Encoded, Model, Tokens
from interp.sites import Positions, Site

LOGITS = Site("logits")


@dataclass(frozen=True, eq=False)
class Reader:
    """What the metrics of a sweep read together, and how it is read from a forward pass.

    All metrics read the same positions; readouts are float32, or float64 where the model is.
    """

    model: Model
    encoded: Encoded
    metrics: tuple[Metric, ...]
    positions: Positions

    @classmethod
    def of(cls, model: Model, encoded: Encoded, metrics: Sequence[Metric]) -> Reader:
        """Check that the pairs have what the metrics need.

        Raises:
            AnswerError: answers are missing.
            ValueError: metrics that read different positions, or something other than logits.
        """
        for metric in metrics:
            require(metric.reads, metric.name, encoded.answers, encoded.wrong)
            if metric.reads.kind not in ("logits", "logprobs"):
                raise ValueError(f"metric {metric.name!r} reads {metric.reads.kind!r}; a sweep reads logits or logprobs")
        positions = {metric.reads.positions for metric in metrics}
        if len(positions) != 1:
            each = ", ".join(f"{m.name} at {m.reads.positions!r}" for m in metrics)
            raise ValueError(f"the metrics of one sweep read the same positions, got {each}; make one sweep for each")
        return cls(model, encoded, tuple(metrics), positions.pop())

    @property
    def keep(self) -> int | None:
        """How many last columns of logits are needed; None for all."""
        indices = self.positions.indices
        return max(-i for i in indices) if indices is not None and max(indices) < 0 else None

    def logits(self, tokens: Tokens, found: Tensor) -> Float[Tensor, "row position vocab"]:
        """Logits at the read positions, at least float32, from those that a forward pass returned."""
        if found.ndim == 2:  # a network without positions
            found = found[:, None]
        missing = tokens.ids.shape[1] - found.shape[1]
        columns = tokens.columns(self.positions, what="metric position").to(found.device) - missing
        picked = found[torch.arange(len(found), device=found.device)[:, None], columns]
        return picked.to(torch.promote_types(picked.dtype, torch.float32))

    def measure(
        self,
        logits: Float[Tensor, "row position vocab"],
        examples: Int[Tensor, " row"],
        reference: Float[Tensor, "example position vocab"] | None,
    ) -> Float[Tensor, "metric row"]:
        """Every metric of rows that ran on ``examples``."""
        at = examples.to(logits.device)
        readout = Readout(
            logits=logits[None],
            answers=self.encoded.answers.to(logits.device)[at],
            wrong=self.encoded.wrong.to(logits.device)[at],
            reference=None if reference is None else reference.to(logits.device)[at],
        )
        return torch.stack([metric(readout)[0] for metric in self.metrics])

    @property
    def needs_reference(self) -> bool:
        return any(metric.reads.reference for metric in self.metrics)
