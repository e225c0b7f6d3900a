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
    columns: Int[Tensor, "example column"] | None
    """Vocabulary ids that the metrics read, ascending; None for all of them."""

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
        few = all(metric.reads.columns == "answers" and metric.reads.kind == "logits" for metric in metrics)
        return cls(model, encoded, tuple(metrics), read, whole, _answers(encoded) if few else None)

    @property
    def keep(self) -> int | None:
        """How many last columns of logits are needed; None for all."""
        indices = self.positions.indices
        return max(-i for i in indices) if indices is not None and max(indices) < 0 and not self.whole else None

    @property
    def dtype(self) -> torch.dtype:
        """Of readouts and metrics."""
        return torch.promote_types(self.model.dtype, torch.float32)

    def positions_of(self, tokens: Tokens) -> Int[Tensor, "example position"]:
        """Columns of ``tokens`` at which the metrics read."""
        return tokens.columns(self.positions, what="metric position")

    def logits(self, tokens: Tokens, found: Tensor) -> Float[Tensor, "row position vocab"]:
        """Logits at the read positions, at least float32, from those that a forward pass returned."""
        if found.ndim == 2:  # a network without positions
            found = found[:, None]
        missing = tokens.ids.shape[1] - found.shape[1]
        columns = self.positions_of(tokens).to(found.device) - missing
        picked = found[torch.arange(len(found), device=found.device)[:, None], columns]
        return picked.to(torch.promote_types(picked.dtype, torch.float32))

    def measure(
        self,
        logits: Float[Tensor, "row position column"],
        examples: Int[Tensor, " row"],
        reference: Float[Tensor, "example position vocab"] | None,
        *,
        few: bool = False,
    ) -> Float[Tensor, "metric row"]:
        """Every metric of rows that ran on ``examples``.

        Args:
            few: the logits are those of :attr:`columns` alone.
        """
        at = examples.to(logits.device)
        columns = self.columns.to(logits.device)[at] if few and self.columns is not None else None
        clean = reference.to(logits.device)[at] if reference is not None else None
        if clean is not None and columns is not None:
            clean = clean.gather(-1, columns[:, None].expand(-1, clean.shape[1], -1))
        given = {"logits": (logits, clean)}
        if any(metric.reads.kind == "logprobs" for metric in self.metrics):
            given["logprobs"] = (logits.log_softmax(-1), None if clean is None else clean.log_softmax(-1))
        readouts = {
            kind: Readout(
                logits=of[None],
                answers=self.encoded.answers.to(of.device)[at],
                wrong=self.encoded.wrong.to(of.device)[at],
                columns=columns,
                reference=theirs,
            )
            for kind, (of, theirs) in given.items()
        }
        return torch.stack([metric(readouts[metric.reads.kind])[0] for metric in self.metrics])

    @property
    def needs_reference(self) -> bool:
        return any(metric.reads.reference for metric in self.metrics)


def _answers(encoded: Encoded) -> Int[Tensor, "example column"]:
    """The answers of every example, right and wrong, in ascending order; an example with fewer has its last one again."""
    ids = torch.cat([encoded.answers, encoded.wrong], dim=-1)
    return torch.where(ids < 0, ids.amax(-1, keepdim=True).clamp(min=0), ids).sort(-1).values
