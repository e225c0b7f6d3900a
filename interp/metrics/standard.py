"""The usual metrics: logit difference, probability, log-probability, odds, KL, L2, accuracy, probability difference, rank.

    >>> import interp
    >>> interp.metrics.names()
    ('accuracy', 'kl', 'l2', 'logit_diff', 'logprob', 'odds', 'prob', 'prob_diff', 'rank', 'same_top1', 'top1')

Alternatives of equal standing are pooled: logit differences compare the best right with the best wrong answer, probabilities
add up. An answer of several tokens is read behind its own tokens (teacher forcing): its probability is the product over all of
them, ``top1`` asks each of them to be the likeliest, and ``logit_diff`` and ``accuracy`` compare right and wrong at the first
token in which they differ. ``rank`` is of the first token, and ``kl`` and ``l2`` are at the prompt's
last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import MetricError
from interp.metrics.protocol import Readout, Reads
from interp.sites import LAST

Values = Float[Tensor, "row example"]


def _best(readout: Readout, ids: Int[Tensor, "example answer"]) -> Values:
    """Logit of the best of several tokens."""
    return readout.at(ids).amax(-1)


@dataclass(frozen=True, slots=True)
class LogitDiff:
    """Logit of the answer minus that of the wrong one (Wang et al., arXiv 2211.00593); the best of each.

    Of answers of several tokens, at the first token in which they differ, behind those that they share.
    """

    name: str = "logit_diff"
    reads: Reads = Reads(columns="answers", needs=("answers", "wrong"), steps="contrast")
    unit: str = "logits"

    def __call__(self, readout: Readout) -> Values:
        there = readout.contrast
        return _best(there, there.answers) - _best(there, there.wrong)


@dataclass(frozen=True, slots=True)
class LogProb:
    """Natural log of the answers' total probability; of an answer of several tokens, the sum over them, teacher forced."""

    name: str = "logprob"
    reads: Reads = Reads(columns="answers", logsumexp=True, needs=("answers",), steps="answers")
    unit: str = "nats"

    def __call__(self, readout: Readout) -> Values:
        return readout.logprob("answers")


@dataclass(frozen=True, slots=True)
class Prob:
    """Total probability of the answers; of an answer of several tokens, the product over them, teacher forced."""

    name: str = "prob"
    reads: Reads = Reads(columns="answers", logsumexp=True, needs=("answers",), steps="answers")
    unit: str = "probability"

    def __call__(self, readout: Readout) -> Values:
        return readout.logprob("answers").exp()


@dataclass(frozen=True, slots=True)
class ProbDiff:
    """Probability of the answers minus probability of the wrong ones (greater-than: Hanna et al., arXiv 2305.00586).

    A wrong answer of several tokens differs from the right one in its last: only the right one's tokens are fed to the model.
    """

    name: str = "prob_diff"
    reads: Reads = Reads(columns="answers", logsumexp=True, needs=("answers", "wrong"), steps="both")
    unit: str = "probability"

    def __call__(self, readout: Readout) -> Values:
        return readout.logprob("answers").exp() - readout.logprob("wrong").exp()


@dataclass(frozen=True, slots=True)
class Odds:
    """Probability of the wrong answers over that of the right ones: causal mediation's response (Vig et al., arXiv 2004.12265).

    A wrong answer of several tokens differs from the right one in its last, as of ``prob_diff``.
    """

    name: str = "odds"
    reads: Reads = Reads(columns="answers", logsumexp=True, needs=("answers", "wrong"), steps="both")
    unit: str = ""

    def __call__(self, readout: Readout) -> Values:
        return (readout.logprob("wrong") - readout.logprob("answers")).exp()


@dataclass(frozen=True, slots=True)
class KL:
    """KL divergence in nats of the row's next-token distribution from the clean run's: D(clean ‖ row). Zero is unchanged.

    At the prompt's last token, however long the answers are.
    """

    name: str = "kl"
    reads: Reads = Reads(columns="answers", kl=True, reference=True)
    unit: str = "nats"

    def __call__(self, readout: Readout) -> Values:
        return readout.divergence


@dataclass(frozen=True, slots=True)
class L2:
    """Squared Euclidean distance of the row's logits from the clean run's. Zero is unchanged.

    Of networks whose logits are numbers of their own rather than those of a distribution, such as compiled programs; at the
    prompt's last token.
    """

    name: str = "l2"
    reads: Reads = Reads(columns="all", reference=True)
    unit: str = "logits²"

    def __call__(self, readout: Readout) -> Values:
        if readout.reference is None:
            raise MetricError("the metric 'l2' needs the clean run's logits, which were not read")
        return (readout.final - readout.reference[:, -1]).square().sum(-1)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """1 where the best right answer has a higher logit than every wrong one, else 0. Chance is one half with one of each.

    Of answers of several tokens, at the first token in which they differ.
    """

    name: str = "accuracy"
    reads: Reads = Reads(columns="answers", needs=("answers", "wrong"), steps="contrast")
    unit: str = "share"

    def __call__(self, readout: Readout) -> Values:
        there = readout.contrast
        return (_best(there, there.answers) > _best(there, there.wrong)).to(readout.logits.dtype)


@dataclass(frozen=True, slots=True)
class Rank:
    """Number of tokens with a higher logit than the best right answer: 0 is the top of the vocabulary.

    Of an answer of several tokens, the rank of its first.
    """

    name: str = "rank"
    reads: Reads = Reads(columns="all", needs=("answers",))
    unit: str = "tokens"

    def __call__(self, readout: Readout) -> Values:
        best = _best(readout, readout.answers)
        return (readout.final > best[..., None]).sum(-1).to(readout.logits.dtype)


@dataclass(frozen=True, slots=True)
class Top1:
    """1 where a right answer is the most likely token of the whole vocabulary, else 0.

    Of an answer of several tokens, 1 where each of them is, behind those before it: it is what greedy decoding would say.
    """

    name: str = "top1"
    reads: Reads = Reads(columns="all", needs=("answers",), steps="answers")
    unit: str = "share"

    def __call__(self, readout: Readout) -> Values:
        found = _best(readout, readout.answers) >= readout.final.amax(-1)
        for step in readout.later:
            ended = (step.answers < 0).all(-1)
            found = found & (ended | (_best(step, step.answers) >= step.final.amax(-1)))
        return found.to(readout.logits.dtype)


@dataclass(frozen=True, slots=True)
class SameTop1:
    """1 where the most likely token is the one that the clean run thinks most likely, else 0, whatever the answers are.

    Exact match with the full model, at the prompt's last token; equally likely tokens of the clean run are all right.
    """

    name: str = "same_top1"
    reads: Reads = Reads(columns="all", reference=True)
    unit: str = "share"

    def __call__(self, readout: Readout) -> Values:
        assert readout.reference is not None  # as it declares
        clean = readout.reference[:, -1]
        said = readout.final.argmax(-1)
        there = clean.expand(readout.final.shape).gather(-1, said[..., None])[..., 0]
        return (there == clean.amax(-1)).to(readout.logits.dtype)


@dataclass(frozen=True, slots=True)
class FromLogits:
    """A metric from any function of logits ``[row, example, vocab]`` at the last position to ``[row, example]``.

    With other positions the function is given ``[row, example, position, vocab]``: of an image, pixels and channels.

    >>> from interp.sites import ALL
    >>> brightness = FromLogits(lambda image: image.mean((-2, -1)), "brightness", Reads(positions=ALL))
    """

    function: Callable[[Tensor], Tensor]
    name: str
    reads: Reads = Reads(columns="all")
    unit: str = ""

    def __call__(self, readout: Readout) -> Values:
        read = readout.final if self.reads.positions == LAST else readout.logits
        try:
            values = self.function(read)
        except Exception as failed:
            axes = "row, example, vocab" if read.ndim == 3 else "row, example, position, vocab"
            failed.add_note(f"in the metric {self.name!r}, which is called with logits [{axes}] of shape {tuple(read.shape)}")
            raise
        if not isinstance(values, Tensor):
            raise MetricError(
                f"metric {self.name!r} returned {type(values).__name__} for logits of shape {tuple(read.shape)}; expected a "
                f"tensor with one number a row and example, {tuple(read.shape[:2])}"
            )
        if tuple(values.shape) != tuple(read.shape[:2]):
            raise ValueError(
                f"metric {self.name!r} returned shape {tuple(values.shape)} for logits of shape {tuple(read.shape)}; "
                f"expected one number a row and example, {tuple(read.shape[:2])}"
            )
        return values.to(readout.logits.dtype)


_EVERY = (LogitDiff(), LogProb(), Prob(), ProbDiff(), Odds(), KL(), L2(), Accuracy(), Rank(), Top1(), SameTop1())
STANDARD = {metric.name: metric for metric in _EVERY}
