"""From the logits of a pass to the numbers of every metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import PositionError
from interp.metrics import Metric, Readout, require
from interp.models import Encoded, Model, Tokens
from interp.sites import Positions


@dataclass(frozen=True, eq=False)
class Reader:
    """What the metrics of a sweep read together, and how it is read from a forward pass.

    All metrics read the same positions; readouts are float32, or float64 where the model is.
    """

    model: Model
    encoded: Encoded
    metrics: tuple[Metric, ...]
    positions: Positions
    whole: bool
    """Whether all positions of the logits are needed, because an intervention acts on them."""

    @classmethod
    def of(cls, model: Model, encoded: Encoded, metrics: Sequence[Metric], *, whole: bool = False) -> Reader:
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
        read = positions.pop()
        for side in (encoded.clean, encoded.corrupted):
            ragged = (side.columns(read, what="metric position") < 0).any(-1).nonzero().flatten()
            if len(ragged):
                raise PositionError(
                    f"a metric reads {read!r}, which spans different numbers of tokens (fewer in example {int(ragged[0])}); "
                    f"read one of them, such as '{read!r}[-1]'"
                )
        return cls(model, encoded, tuple(metrics), read, whole)

    @property
    def keep(self) -> int | None:
        """How many last columns of logits are needed; None for all."""
        indices = self.positions.indices
        return max(-i for i in indices) if indices is not None and max(indices) < 0 and not self.whole else None

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
        given = {"logits": (logits, reference)}
        if any(metric.reads.kind == "logprobs" for metric in self.metrics):
            given["logprobs"] = (logits.log_softmax(-1), None if reference is None else reference.log_softmax(-1))
        return torch.stack([metric(self._readout(*given[metric.reads.kind], at))[0] for metric in self.metrics])

    def _readout(self, logits: Tensor, reference: Tensor | None, at: Tensor) -> Readout:
        return Readout(
            logits=logits[None],
            answers=self.encoded.answers.to(logits.device)[at],
            wrong=self.encoded.wrong.to(logits.device)[at],
            reference=None if reference is None else reference.to(logits.device)[at],
        )

    @property
    def needs_reference(self) -> bool:
        return any(metric.reads.reference for metric in self.metrics)
