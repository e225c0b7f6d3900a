"""What a metric is: it declares what it reads, and maps a readout to one number a row and example.

    >>> class TopLogit:
    ...     name, reads = "top_logit", Reads(columns="all")
    ...     def __call__(self, readout):
    ...         return readout.final.amax(-1)

Declaring little is what makes a sweep cheap: an engine computes only the positions and vocabulary columns that are read. A
metric of a few tokens' probabilities, or of the divergence from the clean run, needs numbers about the whole vocabulary, yet
not its logits; where it says so, these are never kept (:mod:`interp.kernels.readout`). Any callable on logits is accepted too
(see :func:`interp.metrics.resolve`), as one that reads every column.

An answer of several tokens is read in steps, teacher forced: step 0 is the prompt's last token, and step i stands behind the
answer's first i tokens, which are fed to the model. A metric says with :attr:`Reads.steps` how many of them it reads, and finds
them in :attr:`Readout.steps`, or the one that tells right from wrong in :attr:`Readout.contrast`:

    >>> class Surprise:
    ...     name, reads = "surprise", Reads(columns="answers", logsumexp=True, needs=("answers",), steps="answers")
    ...     def __call__(self, readout):
    ...         return -readout.logprob("answers")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import AnswerError, MetricError
from interp.sites import LAST, Positions


@dataclass(frozen=True, slots=True)
class Reads:
    """What a metric needs of a forward pass."""

    kind: Literal["logits", "logprobs", "hidden", "generated"] = "logits"
    positions: Positions = LAST
    """At which tokens."""
    columns: Literal["answers", "all"] = "all"
    """Only the vocabulary columns of the answers, or all of them."""
    logsumexp: bool = False
    """Whether the log-sum-exp of all logits is needed beside the columns: :attr:`Readout.normaliser`."""
    kl: bool = False
    """Whether the divergence from the clean run is needed beside the columns: :attr:`Readout.divergence`."""
    reference: bool = False
    """Whether the clean run's readout is needed beside the row's."""
    needs: tuple[Literal["answers", "wrong"], ...] = ()
    """Which answers the pairs must have."""
    steps: Literal["first", "contrast", "answers", "both"] = "first"
    """How much of an answer of several tokens: its first token, that is the prompt's last position alone; as far as the first
    token in which right and wrong differ; every token of the right answer; or of the right and the wrong one."""


@dataclass(frozen=True, slots=True)
class Readout:
    """What a forward pass gave at the positions and columns that were asked for, in float32 (float64 if the model is).

    ``row`` counts interventions, ``example`` the pairs that they ran on. Answers are padded with −1. What stands here is of the
    prompt, and of the first token of every answer; what is behind the prompt is in :attr:`steps`.
    """

    logits: Float[Tensor, "row example position column"]
    answers: Int[Tensor, "example answer"]
    wrong: Int[Tensor, "example contrast"]
    columns: Int[Tensor, "example column"] | None = None
    """Vocabulary id of every column, ascending; None where the columns are the whole vocabulary."""
    reference: Float[Tensor, "example position column"] | None = None
    """The clean run's logits."""
    logsumexp: Float[Tensor, "row example position"] | None = None
    """Log-sum-exp over the whole vocabulary, in nats, where the columns are not all of it."""
    kl: Float[Tensor, "row example position"] | None = None
    """D(clean ‖ row) in nats, where the columns are not the whole vocabulary."""
    later: tuple[Readout, ...] = ()
    """Step 1 and those behind it, where a metric declares that it reads them and an answer is so long: one position each, with
    the answers' tokens at that step, −1 where an answer has ended. A wrong answer's are there as long as the tokens before are
    the right one's."""
    differ: Int[Tensor, " example"] | None = None
    """The step at which right and wrong differ first; None where nothing is later."""

    @property
    def steps(self) -> tuple[Readout, ...]:
        """The readout at every step of the answers, this one first; where an answer has ended, its last one again."""
        return (self, *self.later)

    @property
    def contrast(self) -> Readout:
        """The readout at the step where right and wrong differ first, with their tokens there."""
        if not self.later or self.differ is None:
            return self
        at, examples = self.differ, torch.arange(len(self.differ), device=self.differ.device)

        def rows(numbers: Sequence[Tensor]) -> Tensor:
            """Of every step's numbers ``[row, example, position, …]``, those of each example's step."""
            return torch.stack([of[:, :, -1:] for of in numbers])[at, :, examples].transpose(0, 1)

        def tokens(ids: Sequence[Tensor]) -> Tensor:
            most = max(of.shape[1] for of in ids)
            return torch.stack([torch.nn.functional.pad(of, (0, most - of.shape[1]), value=-1) for of in ids])[at, examples]

        reference = [step.reference[None] for step in self.steps if step.reference is not None]
        logsumexp = [step.logsumexp for step in self.steps if step.logsumexp is not None]
        kl = [step.kl for step in self.steps if step.kl is not None]
        return Readout(
            logits=rows([step.logits for step in self.steps]),
            answers=tokens([step.answers for step in self.steps]),
            wrong=tokens([step.wrong for step in self.steps]),
            columns=self.columns,
            reference=rows(reference)[0] if reference else None,
            logsumexp=rows(logsumexp) if logsumexp else None,
            kl=rows(kl) if kl else None,
        )

    def logprob(self, which: Literal["answers", "wrong"]) -> Float[Tensor, "row example"]:
        """Log-probability of the right or the wrong answers in nats: of all tokens that are there, behind each other; of
        alternatives, of one or another of them.
        """
        ids: Tensor = getattr(self, which)
        total = self.at(ids).logsumexp(-1) - self.normaliser
        for step in self.later:
            theirs: Tensor = getattr(step, which)
            there = (theirs >= 0).any(-1)
            total = total + torch.where(there, step.at(theirs).logsumexp(-1) - step.normaliser, 0.0)
        return total

    @property
    def final(self) -> Float[Tensor, "row example column"]:
        """Logits at the last read position: of the usual metrics, the prompt's last token."""
        return self.logits[:, :, -1]

    @property
    def normaliser(self) -> Float[Tensor, "row example"]:
        """Log-sum-exp of all logits at the last read position: what a logit exceeds its log-probability by.

        Raises:
            MetricError: only some columns were read, and no metric declares ``logsumexp=True``.
        """
        if self.logsumexp is not None:
            return self.logsumexp[:, :, -1]
        self._require_whole("normaliser", "logsumexp=True")
        return self.final.logsumexp(-1)

    @property
    def divergence(self) -> Float[Tensor, "row example"]:
        """D(clean ‖ row) of the next-token distributions at the last read position, in nats.

        Raises:
            MetricError: the clean run or most columns were not read, and no metric declares ``kl=True``.
        """
        if self.kl is not None:
            return self.kl[:, :, -1]
        self._require_whole("divergence", "kl=True")
        if self.reference is None:
            raise MetricError("readout.divergence needs the clean run, which was not read; declare Reads(kl=True)")
        clean = self.reference[:, -1].log_softmax(-1)
        weights = clean.exp()
        gaps = torch.where(weights == 0, 0.0, clean - self.final.log_softmax(-1))  # 0 · log 0 is 0
        return (weights * gaps).sum(-1)

    def _require_whole(self, what: str, declared: str) -> None:
        if self.columns is not None:
            raise MetricError(
                f"readout.{what} is of the whole vocabulary, but only {self.logits.shape[-1]} columns were read; declare "
                f"Reads(columns='answers', {declared})"
            )

    def at(self, ids: Int[Tensor, "example answer"]) -> Float[Tensor, "row example answer"]:
        """Logits of chosen tokens at the last read position; −inf where ``ids`` is padding."""
        where = ids if self.columns is None else torch.searchsorted(self.columns, ids).clamp(max=self.columns.shape[-1] - 1)
        wanted = where.clamp(min=0).expand(self.logits.shape[0], *ids.shape)
        return self.final.gather(-1, wanted).masked_fill(ids < 0, -torch.inf)


@runtime_checkable
class Metric(Protocol):
    """A frozen object: a name, what it reads, and a map from a readout to ``[row, example]``."""

    @property
    def name(self) -> str: ...
    @property
    def reads(self) -> Reads: ...
    def __call__(self, readout: Readout) -> Float[Tensor, "row example"]: ...


def require(reads: Reads, name: str, answers: Int[Tensor, "example answer"], wrong: Int[Tensor, "example contrast"]) -> None:
    """Raise ``AnswerError`` if a metric needs answers that some pair lacks."""
    for kind, ids in (("answers", answers), ("wrong", wrong)):
        if kind not in reads.needs:
            continue
        lacking = (~(ids >= 0).any(-1)).nonzero().flatten().tolist() if ids.shape[-1] else list(range(ids.shape[0]))
        if lacking:
            few = ", ".join(map(str, lacking[:5])) + (", …" if len(lacking) > 5 else "")
            raise AnswerError(
                f"metric {name!r} needs the {kind!r} tokens of every pair, but {len(lacking)} of {ids.shape[0]} pairs have "
                f"none (examples {few}); give Pair({kind}=(' token',)) or choose a metric that does not read them, such as 'kl'"
            )
