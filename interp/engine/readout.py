"""From the logits of a pass to the numbers of every metric.

Where an answer is several tokens and a metric reads more of it than its first, the positions behind the prompt at which the
model is fed them are read too: one for every step of the longest answer, and a shorter one's last again where it has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import kernels
from interp.engine.layout import LOGITS
from interp.errors import AnswerError, PositionError
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
    steps: int = 1
    """How many tokens of the answers are read: the first at the prompt's last position, each of the others at one behind it."""

    @classmethod
    def of(cls, model: Model, encoded: Encoded, metrics: Sequence[Metric], *, whole: bool = False) -> Reader:
        """Check that the pairs have what the metrics need.

        Raises:
            AnswerError: answers are missing, or are several tokens of which a metric reads what is not fed to the model.
            ValueError: metrics that read different positions, or something other than logits.
        """
        for metric in metrics:
            require(metric.reads, metric.name, encoded.answers, encoded.wrong)
            if metric.reads.kind not in ("logits", "logprobs"):
                raise ValueError(f"metric {metric.name!r} reads {metric.reads.kind!r}; a sweep reads logits or logprobs")
            if metric.reads.steps == "both":
                encoded.require_reached(metric.name)
        positions = {metric.reads.positions for metric in metrics}
        if len(positions) != 1:
            each = ", ".join(f"{m.name} at {m.reads.positions!r}" for m in metrics)
            raise ValueError(f"the metrics of one sweep read the same positions, got {each}; make one sweep for each")
        read = positions.pop()
        for side in (encoded.clean, encoded.corrupted):
            ragged = (model.places(side, LOGITS).columns(read, what="metric position") < 0).any(-1).nonzero().flatten()
            if len(ragged):
                raise PositionError(
                    f"a metric reads {read!r}, which spans different numbers of tokens (fewer in example {int(ragged[0])}); "
                    f"read one of them, such as '{read!r}[-1]'"
                )
        few = all(metric.reads.columns == "answers" for metric in metrics)
        steps = max(encoded.steps(metric.reads.steps) for metric in metrics)
        if steps > 1:
            _refuse_elsewhere(model, encoded, metrics, read)
        return cls(model, encoded, tuple(metrics), read, whole, _answers(encoded, steps) if few else None, steps)

    @property
    def normalises(self) -> bool:
        """Whether a metric reads the log-sum-exp of all logits."""
        return any(metric.reads.logsumexp or metric.reads.kind == "logprobs" for metric in self.metrics)

    @property
    def compares(self) -> bool:
        """Whether a metric reads the divergence from the clean run."""
        return any(metric.reads.kl for metric in self.metrics)

    @property
    def needs_reference(self) -> bool:
        """Whether a metric needs the clean run."""
        return self.compares or any(metric.reads.reference for metric in self.metrics)

    @property
    def way(self) -> Literal["columns", "fused", "whole"]:
        """How rows of the wave are read: single columns; these and numbers about all logits, which are not kept; all logits."""
        stack = self.model.stack
        if self.columns is None or stack is None:
            return "whole"
        if not (self.normalises or self.compares):
            return "columns"
        return "whole" if stack.unfused else "fused"

    @property
    def implementations(self) -> dict[str, str]:
        """What rows of the wave are read by: a kernel, and what it runs as.

        Columns alone are a product of vectors each, which is plain torch whatever was chosen.

        Raises:
            KernelError: Triton was chosen where it cannot run.
        """
        if self.way == "whole":
            return {}
        chosen = kernels.implementation("fused_readout", self.model.device)
        return {"fused_readout": chosen if self.way == "fused" else "torch"}

    def products(self, vocabulary: int) -> int:
        """How many logits of a row are computed at each read position, kept or not."""
        return self.columns.shape[1] if self.columns is not None and self.way == "columns" else vocabulary

    def describe(self, vocabulary: int, *, wave: bool) -> str:
        """How rows are read, in words.

        Args:
            wave: some of them are resumed between blocks; a whole forward pass gives all logits anyway.
        """
        behind = f" and {self.steps - 1} behind it" if self.steps > 1 else ""
        at, everything = f"at {self.positions!r}{behind}", f"all {vocabulary:,} columns of the vocabulary"
        if self.columns is None:
            return f"{everything} {at}, read by {', '.join(m.name for m in self.metrics if m.reads.columns == 'all')}"
        if not wave:
            return f"{everything} {at}, from whole forward passes"
        parts = [f"{self.columns.shape[1]} columns of the vocabulary {at}"]
        parts += ["the log-sum-exp of all"] if self.normalises else []
        parts += ["the divergence from the clean run"] if self.compares else []
        stack, said = self.model.stack, ", ".join(parts)
        if self.way == "whole" and stack is not None:
            return f"{said}, by way of all {vocabulary:,} logits: {stack.unfused}"
        return said if self.way == "columns" else f"{said}, without keeping logits"

    @cached_property  # asked in every pass, and a GPU is waited for
    def keep(self) -> int | None:
        """How many last columns of logits are needed; None for all."""
        indices, sides = self.positions.indices, (self.encoded.clean, self.encoded.corrupted)
        few = indices is not None and max(indices) < 0 and not self.whole and all(side.flush for side in sides)
        forced = [int(side.forced.max()) for side in sides if side.forced is not None]
        return max(-i for i in indices) + max(forced, default=0) if few and indices is not None else None

    @property
    def dtype(self) -> torch.dtype:
        """Of readouts and metrics."""
        return torch.promote_types(self.model.dtype, torch.float32)

    def positions_of(self, tokens: Tokens) -> Int[Tensor, "example position"]:
        """Columns of the logits at which the metrics read: of the prompts, then one for every later step of the answers."""
        places = self.model.places(tokens, LOGITS)
        columns = places.columns(self.positions, what="metric position")
        if self.steps == 1 or places.forced is None:
            return columns
        behind = torch.arange(1, self.steps, device=columns.device)
        return torch.cat([columns, columns[:, -1:] + torch.minimum(behind, places.forced[:, None])], dim=-1)

    def logits(self, tokens: Tokens, found: Tensor) -> Float[Tensor, "row position vocab"]:
        """Logits at the read positions, at least float32, from those that a forward pass returned."""
        if found.ndim == 2:  # a network without positions
            found = found[:, None]
        missing = self.model.places(tokens, LOGITS).width - found.shape[1]
        columns = self.positions_of(tokens).to(found.device) - missing
        picked = found[torch.arange(len(found), device=found.device)[:, None], columns]
        return picked.to(torch.promote_types(picked.dtype, torch.float32))

    def read(
        self,
        hidden: Float[Tensor, "row position d_model"],
        examples: Int[Tensor, " row"],
        reference: Float[Tensor, "example position vocab"] | None,
    ) -> Float[Tensor, "metric row"]:
        """Every metric of rows that leave the last block at the positions that the metrics read.

        Args:
            examples: the example of each row.
            reference: logits of all clean prompts, where a metric compares with them.
        """
        stack, way = self.model.stack, self.way
        assert stack is not None
        if way == "whole" or self.columns is None:
            logits = stack.logits(hidden)
            return self.measure(logits.to(torch.promote_types(logits.dtype, torch.float32)), examples, reference)
        columns = self.columns[examples]
        if way == "columns":
            return self.measure(stack.logits(hidden, columns), examples, reference, columns=columns)
        compared = _compared(examples, reference, hidden) if self.compares and reference is not None else None
        found = stack.read(hidden, columns, compared, logsumexp=self.normalises)
        size = hidden.shape[:2]
        return self.measure(
            found.columns.unflatten(0, size),
            examples,
            reference,
            columns=columns,
            logsumexp=None if found.logsumexp is None else found.logsumexp.unflatten(0, size),
            kl=None if found.kl is None else found.kl.unflatten(0, size),
        )

    def measure(
        self,
        logits: Float[Tensor, "row position column"],
        examples: Int[Tensor, " row"],
        reference: Float[Tensor, "example position vocab"] | None,
        *,
        columns: Int[Tensor, "row column"] | None = None,
        logsumexp: Float[Tensor, "row position"] | None = None,
        kl: Float[Tensor, "row position"] | None = None,
    ) -> Float[Tensor, "metric row"]:
        """Every metric of rows that ran on ``examples``.

        Args:
            columns: which logits these are, if not those of the whole vocabulary.
            logsumexp: of all logits, and ``kl``, the divergence from the clean run, where these are not all of them.
        """
        at = examples.to(logits.device)
        columns = None if columns is None else columns.to(logits.device)
        reference = reference.to(logits.device) if reference is not None and self.needs_reference else None
        clean = None if reference is None else _taken(reference, at, columns)
        given: dict[str, _Given] = {"logits": (logits, clean, logsumexp)}
        if any(metric.reads.kind == "logprobs" for metric in self.metrics):
            total = None if reference is None or columns is None else reference.logsumexp(-1)[at]
            zero = None if logsumexp is None else torch.zeros_like(logsumexp)
            given["logprobs"] = (_normalised(logits, logsumexp), None if clean is None else _normalised(clean, total), zero)
        readouts = {kind: self._readout(found, at, columns, kl) for kind, found in given.items()}
        return torch.stack([metric(readouts[metric.reads.kind])[0] for metric in self.metrics])

    def _readout(
        self,
        found: _Given,
        examples: Tensor,
        columns: Int[Tensor, "row column"] | None,
        kl: Float[Tensor, "row position"] | None,
    ) -> Readout:
        """What was found at the positions that the metrics declare, and at every later step of the answers."""
        logits, clean, logsumexp = found
        encoded, declared = self.encoded, logits.shape[1] - self.steps + 1

        def at(span: slice, answers: Tensor, wrong: Tensor) -> Readout:
            return Readout(
                logits=logits[None, :, span],
                answers=answers.to(logits.device)[examples],
                wrong=wrong.to(logits.device)[examples],
                columns=columns,
                reference=None if clean is None else clean[:, span],
                logsumexp=None if logsumexp is None else logsumexp[None, :, span],
                kl=None if kl is None else kl[None, :, span],
            )

        first = at(slice(declared), encoded.answers, encoded.wrong)
        if self.steps == 1:
            return first
        later = tuple(
            at(slice(declared + i, declared + i + 1), encoded.later[:, i : i + 1], encoded.later_wrong[:, i : i + 1])
            for i in range(self.steps - 1)
        )
        return replace(first, later=later, differ=encoded.differ.to(logits.device)[examples])


_Given = tuple[Tensor, Tensor | None, Tensor | None]
"""Logits or log-probabilities of rows, the clean run's, and the log-sum-exp of all."""


def _refuse_elsewhere(model: Model, encoded: Encoded, metrics: Sequence[Metric], read: Positions) -> None:
    """The later steps of an answer stand behind the prompt's last token, where the metrics must read its first."""
    for side in (encoded.clean, encoded.corrupted):
        places = model.places(side, LOGITS)
        ends = (places.columns(read)[:, -1] == places.first + places.said - 1).all()
        if places.forced is None or not bool(ends):
            names = ", ".join(metric.name for metric in metrics if encoded.steps(metric.reads.steps) > 1)
            raise AnswerError(
                f"metrics {names} read answers of several tokens, whose first is read at the prompt's last position, but "
                f"positions are {read!r}; read at -1, or give answers of one token"
            )


def _compared(examples: Tensor, reference: Tensor, hidden: Tensor) -> kernels.ReferenceLogProbs:
    """The clean run's distribution for every row and position."""
    positions = torch.arange(reference.shape[1], device=hidden.device)
    at = examples.to(hidden.device)[:, None] * len(positions) + positions
    return kernels.ReferenceLogProbs(reference.to(hidden.device).flatten(0, 1), at.flatten())


def _taken(
    reference: Float[Tensor, "example position vocab"], at: Int[Tensor, " row"], columns: Int[Tensor, "row column"] | None
) -> Float[Tensor, "row position column"]:
    """The clean run's logits for each row, at its columns."""
    if columns is None:
        return reference[at]
    positions = torch.arange(reference.shape[1], device=reference.device)
    return reference[at[:, None, None], positions[:, None], columns[:, None]]


def _normalised(logits: Tensor, logsumexp: Tensor | None) -> Tensor:
    """Log-probabilities, from all logits or from some and the log-sum-exp of all."""
    return logits.log_softmax(-1) if logsumexp is None else logits - logsumexp[..., None]


def _answers(encoded: Encoded, steps: int) -> Int[Tensor, "example column"]:
    """The answers of every example, right and wrong, in ascending order; an example with fewer has its last one again.

    Args:
        steps: how many tokens of each.
    """
    later = (encoded.later[:, : steps - 1], encoded.later_wrong[:, : steps - 1])
    ids = torch.cat([encoded.answers, encoded.wrong, *later], dim=-1)
    if not ids.shape[-1]:
        return ids
    return torch.where(ids < 0, ids.amax(-1, keepdim=True).clamp(min=0), ids).sort(-1).values
