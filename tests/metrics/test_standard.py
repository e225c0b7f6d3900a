"""Metrics against numbers computed by other means: by hand, with scipy, with torch's own losses.

Tolerances in float64 are a few units in the last place of numbers near 10.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import scipy.spatial
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interp import metrics
from interp.errors import AnswerError, MetricError, UnknownNameError
from interp.metrics import FromLogits, LogitDiff, Metric, Readout, Reads, require, resolve

LN2, LN3 = 0.6931471805599453, 1.0986122886681098


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    width = max(1, *map(len, rows))
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows])


def readout(
    logits: Tensor, answers: Sequence[Sequence[int]], wrong: Sequence[Sequence[int]], reference: Tensor | None = None
) -> Readout:
    """``logits`` is [row, example, vocab]; a position in front that no metric may look at is added."""
    garbage = torch.full_like(logits, 1e6)
    reference = None if reference is None else torch.stack((torch.full_like(reference, -1e6), reference), dim=1)
    return Readout(torch.stack((garbage, logits), dim=2), padded(answers), padded(wrong), None, reference)


def by_name(name: str) -> Metric:
    return resolve(name)[0]


# by hand: probabilities 1/2, 1/3, 1/6 and a fourth token that cannot be
HAND = torch.tensor([[[LN3, LN2, 0.0, -torch.inf]]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "answers", "wrong", "expected"),
    [
        ("logit_diff", [0], [1], LN3 - LN2),
        ("logit_diff", [2], [0], -LN3),
        ("logit_diff", [2, 1], [0], LN2 - LN3),  # the best right answer against the best wrong one
        ("logit_diff", [1], [2, 0], LN2 - LN3),
        ("prob", [0], [1], 1 / 2),
        ("prob", [1, 2], [0], 1 / 2),
        ("logprob", [0], [1], -LN2),
        ("logprob", [0, 1, 2], [3], 0.0),
        ("prob_diff", [0], [1], 1 / 6),
        ("prob_diff", [1, 2], [0], 0.0),
        ("prob_diff", [2], [0, 1], 1 / 6 - 5 / 6),
        ("odds", [0], [1], 2 / 3),
        ("odds", [1, 2], [0], 1.0),
        ("accuracy", [0], [1], 1.0),
        ("accuracy", [2, 1], [0], 0.0),
        ("accuracy", [0], [1, 2], 1.0),
        ("rank", [0], [1], 0.0),
        ("rank", [2], [1], 2.0),
        ("rank", [2, 1], [0], 1.0),
        ("top1", [0], [1], 1.0),
        ("top1", [1], [0], 0.0),
        ("top1", [2, 0], [1], 1.0),
    ],
)
def test_by_hand(name: str, answers: list[int], wrong: list[int], expected: float) -> None:
    value = by_name(name)(readout(HAND, [answers], [wrong]))
    assert value.shape == (1, 1)
    assert value.item() == pytest.approx(expected, abs=1e-14)


def test_a_tie_is_no_success() -> None:
    """Accuracy is strict: a model that says the same of everything knows nothing. Top1 and rank count only what is higher."""
    flat = readout(torch.zeros(1, 1, 5), [[0]], [[1]])
    assert by_name("accuracy")(flat).item() == 0
    assert by_name("rank")(flat).item() == 0
    assert by_name("top1")(flat).item() == 1


def test_the_same_top_token_as_the_clean_runs() -> None:
    """Whatever the answers; of a clean run that is undecided either token is right."""
    clean = torch.tensor([[0.0, 2.0, 1.0], [0.0, 2.0, 2.0]])
    rows = torch.tensor([[[0.0, 0.1, 0.0]] * 2, [[0.0, 1.0, 2.0]] * 2, [[3.0, 1.0, 2.0]] * 2])
    found = by_name("same_top1")(readout(rows, [[0], [0]], [[2], [2]], clean))
    assert found.tolist() == [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]


def test_kl_by_hand() -> None:
    """D(clean ‖ row) with clean (1/2, 1/2) and row (1/4, 3/4): ½ ln 2 + ½ ln(2/3), not the other way round."""
    clean, row = torch.tensor([[0.0, 0.0]], dtype=torch.float64), torch.tensor([[[0.0, LN3]]], dtype=torch.float64)
    value = by_name("kl")(readout(row, [[0]], [[1]], clean)).item()
    assert value == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3), abs=1e-14)
    reverse = scipy.stats.entropy([0.25, 0.75], [0.5, 0.5])
    assert abs(value - reverse) > 0.01, "the two directions differ here, so the check can fail"


def test_kl_of_a_run_with_itself_is_zero_and_never_negative() -> None:
    logits = 30 * torch.randn(1, 50, 11)
    assert by_name("kl")(readout(logits, [[0]] * 50, [[1]] * 50, logits[0])).abs().max() <= 1e-6
    other = logits + 1e-3 * torch.randn_like(logits)
    assert by_name("kl")(readout(other, [[0]] * 50, [[1]] * 50, logits[0])).min() >= -1e-6


def test_l2_by_hand() -> None:
    """3² + 4², of the last position alone; a constant that is added to all logits counts, as of a divergence it does not."""
    clean = torch.tensor([[1.0, 2.0, 3.0]])
    moved = readout(clean[None] + torch.tensor([3.0, 0.0, -4.0]), [[0]], [[1]], clean)
    assert by_name("l2")(moved).item() == 25
    shifted = readout(clean[None] + 2.0, [[0]], [[1]], clean)
    assert (by_name("l2")(shifted).item(), by_name("kl")(shifted).item()) == (12, 0)
    with pytest.raises(MetricError, match="'l2' needs the clean run's logits, which were not read"):
        by_name("l2")(readout(clean[None], [[0]], [[1]]))


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, int, int, int, list[list[int]], list[list[int]]]:
    """Seed, rows, examples, vocabulary, and for every example disjoint right and wrong answers, one to three of each."""
    vocabulary, examples = draw(st.integers(6, 12)), draw(st.integers(1, 4))
    right, wrong = [], []
    for _ in range(examples):
        order = draw(st.permutations(range(vocabulary)))
        a, b = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        right.append(order[:a])
        wrong.append(order[a : a + b])
    return draw(st.integers(0, 2**31)), draw(st.integers(1, 3)), examples, vocabulary, right, wrong


@settings(max_examples=60)
@given(cases())
def test_against_scipy(case: tuple[int, int, int, int, list[list[int]], list[list[int]]]) -> None:
    seed, rows, examples, vocabulary, right, wrong = case
    generator = np.random.default_rng(seed)
    logits, clean = 4 * generator.normal(size=(rows, examples, vocabulary)), 4 * generator.normal(size=(examples, vocabulary))
    given_ = readout(torch.tensor(logits), right, wrong, torch.tensor(clean))
    found = {m.name: m(given_).numpy() for m in resolve(metrics.names())}
    probabilities, reference = scipy.special.softmax(logits, axis=-1), scipy.special.softmax(clean, axis=-1)
    for r in range(rows):
        for e in range(examples):
            x, p, a, w = logits[r, e], probabilities[r, e], right[e], wrong[e]
            expected = {
                "logit_diff": x[a].max() - x[w].max(),
                "prob": p[a].sum(),
                "logprob": np.log(p[a].sum()),
                "prob_diff": p[a].sum() - p[w].sum(),
                "odds": p[w].sum() / p[a].sum(),
                "kl": scipy.stats.entropy(reference[e], p),
                "l2": scipy.spatial.distance.sqeuclidean(x, clean[e]),
                "accuracy": float(x[a].max() > x[w].max()),
                "rank": float((x > x[a].max()).sum()),
                "top1": float(int(x.argmax()) in a),
                "same_top1": float(x.argmax() == clean[e].argmax()),
            }
            assert set(expected) == set(found)
            for name, number in expected.items():
                assert found[name][r, e] == pytest.approx(number, abs=1e-12, rel=1e-12), name


def test_against_torch_losses(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, clean = torch.randn(1, 6, 9, generator=generator), torch.randn(6, 9, generator=generator)
    answers = torch.randint(9, (6,), generator=generator)
    given_ = readout(logits, [[int(a)] for a in answers], [[int(a + 1) % 9] for a in answers], clean)
    nll = torch.nn.functional.cross_entropy(logits[0], answers, reduction="none")
    torch.testing.assert_close(by_name("logprob")(given_)[0], -nll)
    kl = torch.nn.functional.kl_div(logits[0].log_softmax(-1), clean.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(by_name("kl")(given_)[0], kl)


@settings(max_examples=40)
@given(cases())
def test_restricted_columns_give_what_the_whole_vocabulary_gives(
    case: tuple[int, int, int, int, list[list[int]], list[list[int]]],
) -> None:
    """Metrics that declare ``columns="answers"`` may be given those columns alone and the numbers about all that they declare.

    They then give the same number to the bit.
    """
    seed, rows, examples, vocabulary, right, wrong = case
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, examples, 1, vocabulary, generator=generator)
    clean = torch.randn(examples, 1, vocabulary, generator=generator)
    whole = Readout(logits, padded(right), padded(wrong), reference=clean)
    needed = [sorted({*a, *w}) for a, w in zip(right, wrong, strict=True)]
    # every example has as many columns: those with fewer answers are filled with other tokens, as an engine would
    width = max(map(len, needed))
    columns = torch.tensor([sorted([*n, *[t for t in range(vocabulary) if t not in n][: width - len(n)]]) for n in needed])
    few = logits.gather(-1, columns[None, :, None].expand(rows, -1, 1, -1))
    logprobs, expected = logits.log_softmax(-1), clean.log_softmax(-1)
    numbers = {"logsumexp": logits.logsumexp(-1), "kl": (expected.exp() * (expected - logprobs)).sum(-1)}
    few_metrics = [metric for metric in resolve(metrics.names()) if metric.reads.columns == "answers"]
    assert [m.name for m in few_metrics] == ["accuracy", "kl", "logit_diff", "logprob", "odds", "prob", "prob_diff"]
    for metric in few_metrics:
        declared = {name: number for name, number in numbers.items() if getattr(metric.reads, name)}
        restricted = Readout(few, padded(right), padded(wrong), columns, **declared)
        assert torch.equal(metric(restricted), metric(whole)), metric.name


def test_numbers_about_all_columns_come_from_all_of_them() -> None:
    """Not from those that happen to be there: a metric that did not declare them is told so."""
    few = readout(torch.randn(1, 2, 3), [[0], [1]], [[1], [2]], torch.randn(2, 3))
    few = replace(few, columns=torch.tensor([[0, 1, 2]] * 2))
    with pytest.raises(MetricError, match=r"readout.normaliser is of the whole .* only 3 columns .* logsumexp=True\)"):
        few.normaliser
    with pytest.raises(MetricError, match=r"readout.divergence is of the whole .* only 3 columns .* kl=True\)"):
        few.divergence
    with pytest.raises(MetricError, match=r"readout.divergence needs the clean run, which was not read"):
        readout(torch.randn(1, 2, 3), [[0], [1]], [[1], [2]]).divergence


def test_tokens_that_cannot_be_are_no_divergence() -> None:
    """0 · log 0 is 0: padding of the vocabulary, at −inf in both runs, leaves KL and its gradient what they are without it."""
    logits, clean = torch.randn(1, 4, 5), torch.randn(4, 5)
    found = []
    for pad in (0, 3):
        row = torch.nn.functional.pad(logits, (0, pad), value=-torch.inf).requires_grad_()
        value = by_name("kl")(readout(row, [[0]] * 4, [[1]] * 4, torch.nn.functional.pad(clean, (0, pad), value=-torch.inf)))
        value.sum().backward()
        found.append((value.detach(), row.grad[..., :5]))
    torch.testing.assert_close(found[0], found[1])


def test_padding_is_never_the_last_token() -> None:
    """−1 would index the last column: here that column is by far the highest."""
    logits = torch.tensor([[[1.0, 2.0, 3.0, 100.0], [1.0, 2.0, 3.0, 100.0]]])
    given_ = readout(logits, [[0], [0, 1]], [[2], [2]])
    assert by_name("logit_diff")(given_).tolist() == [[-2.0, -1.0]]
    assert by_name("prob")(given_).max() < 1e-30
    assert by_name("rank")(given_).tolist() == [[3.0, 2.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_readouts_dtype_is_kept(dtype: torch.dtype) -> None:
    logits = torch.randn(2, 3, 7).to(dtype)
    given_ = readout(logits, [[0]] * 3, [[1]] * 3, logits[0])
    for metric in (*resolve(metrics.names()), FromLogits(lambda x: x.argmax(-1), "argmax")):
        value = metric(given_)
        assert value.dtype == dtype
        assert value.shape == (2, 3)


# asking for metrics


def test_names_and_objects_and_functions() -> None:
    def confidence(logits: Tensor) -> Tensor:
        return logits.softmax(-1).amax(-1)

    found = resolve(["kl", LogitDiff(), confidence])
    assert [m.name for m in found] == ["kl", "logit_diff", "confidence"]
    assert found[2].reads == Reads(columns="all")
    logits = torch.randn(2, 3, 5)
    assert torch.equal(found[2](readout(logits, [[0]] * 3, [[1]] * 3)), confidence(logits))
    assert resolve("kl") == resolve(["kl"]) == resolve(("kl",))
    assert resolve(functools.partial(torch.amax, dim=-1))[0].name == "metric"


def test_an_object_with_name_and_reads_is_a_metric() -> None:
    class Top:
        name, reads = "top", Reads()

        def __call__(self, given_: Readout) -> Tensor:
            return given_.final.amax(-1)

    assert resolve(Top())[0].name == "top"
    assert resolve([Top(), "kl"])[0](readout(torch.eye(3)[None], [[0]] * 3, [[1]] * 3)).tolist() == [[1.0, 1.0, 1.0]]


def test_a_misspelt_metric_names_the_near_match() -> None:
    with pytest.raises(UnknownNameError, match="unknown metric 'logit_dif'; did you mean 'logit_diff'"):
        resolve("logit_dif")
    with pytest.raises(UnknownNameError, match="unknown metric 'KLL'"):
        resolve(["kl", "KLL"])


def test_two_of_one_name() -> None:
    with pytest.raises(ValueError, match="two metrics of one sweep have the same name: kl, kl"):
        resolve(["kl", "kl"])
    with pytest.raises(ValueError, match="have the same name: <lambda>, <lambda>"):
        resolve([lambda x: x.amax(-1), lambda x: x.amin(-1)])


def test_no_metric() -> None:
    with pytest.raises(ValueError, match="no metric was given: name at least one, such as 'logit_diff'"):
        resolve([])


@pytest.mark.parametrize("function", [lambda x: x, lambda x: x.mean(), lambda x: x.mean(1), lambda x: x.amax(-1).T])
def test_a_function_of_another_shape_is_named(function: object) -> None:
    metric = FromLogits(function, "mine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"metric 'mine' returned shape \(.*\) for logits of shape \(2, 3, 5\); .* \(2, 3\)"):
        metric(readout(torch.randn(2, 3, 5), [[0]] * 3, [[1]] * 3))


def test_what_fails_in_a_function_says_what_it_was_called_with() -> None:
    metric = FromLogits(lambda out: out.logits, "mine")  # type: ignore[attr-defined]
    with pytest.raises(AttributeError) as failed:
        metric(readout(torch.randn(2, 3, 5), [[0]] * 3, [[1]] * 3))
    said = "in the metric 'mine', which is called with logits [row, example, vocab] of shape (2, 3, 5)"
    assert failed.value.__notes__ == [said]


def test_missing_answers_are_counted_and_named() -> None:
    reads, some = LogitDiff().reads, padded([[1], [], [2], [], []])
    require(reads, "m", padded([[1]]), padded([[2]]))
    require(Reads(), "m", padded([[]]), padded([[]]))
    with pytest.raises(
        AnswerError, match=r"metric 'm' needs the 'answers' tokens of every pair, but 3 of 5 pairs have none"
    ) as e:
        require(reads, "m", some, padded([[1]] * 5))
    assert "(examples 1, 3, 4)" in str(e.value)
    assert "'kl'" in str(e.value)
    with pytest.raises(AnswerError, match=r"needs the 'wrong' tokens of every pair, but 5 of 5 .* \(examples 0, 1, 2, 3, 4\)"):
        require(reads, "m", padded([[1]] * 5), torch.zeros(5, 0, dtype=torch.long))
    with pytest.raises(AnswerError, match=r"examples 0, 1, 2, 3, 4, …\)"):
        require(reads, "m", padded([[]] * 9), padded([[1]] * 9))


def test_metrics_are_values() -> None:
    assert LogitDiff() == LogitDiff()
    assert LogitDiff() != replace(LogitDiff(), name="other")
    assert hash(LogitDiff()) == hash(LogitDiff())
    named = ("accuracy", "kl", "l2", "logit_diff", "logprob", "odds", "prob", "prob_diff", "rank", "same_top1", "top1")
    assert metrics.names() == named


# answers of several tokens


def stepped(logits: Tensor, answers: list[list[int]], wrong: list[list[int]], differ: list[int], **more: object) -> Readout:
    """``logits`` is [step, row, example, vocab]; a wrong answer is given as long as it stands behind the right one's tokens."""
    column = lambda ids, step: torch.tensor([[row[step]] if step < len(row) else [-1] for row in ids])  # noqa: E731
    each = [readout(of, column(answers, i).tolist(), column(wrong, i).tolist()) for i, of in enumerate(logits)]
    return replace(each[0], later=tuple(each[1:]), differ=torch.tensor(differ), **more)


LONG = {"answers": [[0, 1, 2], [3], [4, 0]], "wrong": [[0, 3], [1], [4, 1]], "differ": [1, 0, 1]}


def test_answers_of_several_tokens_by_formula() -> None:
    """Expected: scipy's log-softmax at every step, one example at a time."""
    logits = torch.randn(3, 2, 3, 5, dtype=torch.float64)
    given_ = stepped(logits, **LONG)
    said = scipy.special.log_softmax(logits.numpy(), -1)
    for example, (right, wrong, differ) in enumerate(zip(*LONG.values(), strict=True)):
        for row in range(2):
            own, theirs = (sum(said[s, row, example, token] for s, token in enumerate(ids)) for ids in (right, wrong))
            at = logits[differ, row, example]
            gap = float(at[right[differ]] - at[wrong[differ]])
            top = all(int(logits[s, row, example].argmax()) == token for s, token in enumerate(right))
            first = logits[0, row, example]
            expected = {
                "logprob": own,
                "prob": np.exp(own),
                "prob_diff": np.exp(own) - np.exp(theirs),
                "odds": np.exp(theirs - own),
                "logit_diff": gap,
                "accuracy": float(gap > 0),
                "rank": float((first > first[right[0]]).sum()),
                "top1": float(top),
            }
            got = {name: float(by_name(name)(given_)[row, example]) for name in expected}
            assert got == pytest.approx(expected, abs=1e-12)


def test_the_likeliest_answer_of_several_tokens_is_top() -> None:
    """Every token is; one that is not is enough, and tokens behind an answer's end do not count."""
    logits = torch.zeros(3, 1, 3, 5)
    for example, right in enumerate(LONG["answers"]):
        for step, token in enumerate(right):  # type: ignore[arg-type, var-annotated]
            logits[step, 0, example, token] = 1.0
    logits[1:, 0, 1, 2] = 9.0  # behind the end of the second answer
    assert by_name("top1")(stepped(logits, **LONG)).tolist() == [[1.0, 1.0, 1.0]]
    logits[2, 0, 0, 4] = 2.0
    assert by_name("top1")(stepped(logits, **LONG)).tolist() == [[0.0, 1.0, 1.0]]


def test_the_end_of_an_answer_has_a_gradient() -> None:
    """0 at what stands behind it, of which −∞ is a part: not a number that is none."""
    logits = torch.randn(3, 2, 3, 5)
    logits[1:, :, 1, 0] = -torch.inf  # a token that no answer has
    logits.requires_grad_()
    by_name("logprob")(stepped(logits, **LONG)).sum().backward()
    assert logits.grad is not None
    assert not logits.grad.isnan().any()
    assert not logits.grad[1:, :, 1].any()
    assert not logits.grad[2:, :, 2].any()
    assert logits.grad[1, :, 0].any()


def test_the_readout_where_right_and_wrong_differ() -> None:
    """Each example's own step, with everything that is known there; the last of several declared positions."""
    logits, numbers, reference = torch.randn(3, 2, 3, 5), torch.randn(3, 2, 3, 2), torch.randn(3, 3, 2, 5)
    given_ = stepped(logits, **LONG)
    steps = [
        replace(step, later=(), differ=None, logsumexp=numbers[i], kl=-numbers[i], reference=reference[i])
        for i, step in enumerate(given_.steps)
    ]
    there = replace(steps[0], later=tuple(steps[1:]), differ=given_.differ).contrast
    for example, step in enumerate(LONG["differ"]):
        assert torch.equal(there.final[:, example], logits[step, :, example])
        assert torch.equal(there.normaliser[:, example], numbers[step, :, example, -1])
        assert torch.equal(there.divergence[:, example], -numbers[step, :, example, -1])
        assert torch.equal(there.reference[example, -1], reference[step, example, -1])
    assert there.answers.tolist() == [[1], [3], [0]]
    assert there.wrong.tolist() == [[3], [1], [1]]
    single = readout(logits[0], [[0]] * 3, [[1]] * 3)
    assert single.contrast is single
    assert single.steps == (single,)


def test_alternatives_beside_an_answer_of_several_tokens() -> None:
    """One example has two answers of one token, another one of two: probabilities add up here and multiply there."""
    logits = torch.randn(2, 1, 2, 5, dtype=torch.float64)
    first = readout(logits[0], [[0, 1], [2]], [[3], [4]])
    later = readout(logits[1], [[-1], [3]], [[-1], [-1]])
    given_ = replace(first, later=(later,), differ=torch.tensor([0, 0]))
    said = logits.softmax(-1)[:, 0]
    expected = [float(said[0, 0, 0] + said[0, 0, 1]), float(said[0, 1, 2] * said[1, 1, 3])]
    assert by_name("prob")(given_)[0].tolist() == pytest.approx(expected, abs=1e-12)
    best = float(logits[0, 0, 0, :2].max() - logits[0, 0, 0, 3])
    assert float(by_name("logit_diff")(given_)[0, 0]) == pytest.approx(best, abs=1e-12)
