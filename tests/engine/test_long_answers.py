"""Answers of several tokens, teacher forced: every number by a hand loop, in every strategy, with gradients and along edges.

The reference feeds the raw module the prompt with the answer's first i tokens, one prompt at a time, unpadded, and adds up
log-probabilities; interventions are plain torch hooks. Where a whole call of the engine is tested, the chain rule is the
reference: an answer's log-probability is the sum of those of its tokens, each a single-token answer to a longer prompt.
Tolerance: 1e-5 × (1 + max |logit|) in float32, 1e-10 × in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import anything
import numpy as np
import pytest
import sweeps
import tiny
import torch
from torch import Tensor

import interp
from interp.engine import attribute, edges, explain, gradients, patch, patch_edges, pieces
from interp.engine.readout import Reader
from interp.errors import AnswerError, PositionError, UnequalLengthsError
from interp.interventions import Activation, Add, Change, Constant, Gate, Intervention, Rotation, Scale, mean
from interp.metrics import Readout, Reads, resolve
from interp.models import Model
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Positions, Site, grid
from interp.training import fit

ALL_METRICS = ["logit_diff", "logprob", "prob", "accuracy", "rank", "top1", "kl", "prob_diff"]
STRATEGIES = ["serial", "batched", "auto"]
Ids = tuple[int, ...]


def close(model: Model, top: float = 20.0) -> float:
    return (1e-10 if model.dtype == torch.float64 else 1e-5) * (1 + top)


def long_pairs(seed: int, lengths: Sequence[int] = (7, 9, 8, 6), *, longer: Sequence[int] | None = None) -> Pairs:
    """Prompts of different lengths with answers of 3, 1, 2 and 4 tokens; right and wrong differ at steps 1, 0, 0 and 2.

    All tokens of the wrong answers stand behind those of the right ones, so that every metric can be had.
    """
    pairs = sweeps.random_pairs(seed, lengths, longer=longer)
    a, b, c, d, e = torch.randperm(tiny.VOCAB, generator=torch.Generator().manual_seed(seed))[:5].tolist()
    kinds: list[tuple[Ids, Ids]] = [((a, b, c), (a, d)), ((b,), (e,)), ((d, a), (c,)), ((a, e, b, b), (a, e, d))]
    return Pairs(
        tuple(
            Pair(pair.clean, pair.corrupted, [kinds[i % 4][0]], [kinds[i % 4][1]], pair.template, pair.entities)
            for i, pair in enumerate(pairs)
        )
    )


def stepwise(pairs: Pairs, steps: int) -> list[Pairs]:
    """For every step of the answers, pairs whose prompts hold the tokens before it, and whose answer is its token alone."""

    def said(prompt: Prompt, more: Ids) -> Prompt:
        return Prompt(prompt.text + more, prompt.roles)

    found = []
    for step in range(steps):
        items = []
        for pair in pairs:
            right = pair.answers[0]
            before = right[: min(step, len(right) - 1)]
            token = right[len(before)]
            items.append(Pair(said(pair.clean, before), said(pair.corrupted, before), token, (token + 1) % tiny.VOCAB))
        found.append(Pairs(tuple(items)))
    return found


def chained(pairs: Pairs, run: Callable[[Pairs], Any]) -> np.ndarray[Any, Any]:
    """The sum over steps of single-token results ``[…, example]``; an answer that has ended adds nothing."""
    most = max(len(pair.answers[0]) for pair in pairs)
    total = np.zeros(())
    for step, single in enumerate(stepwise(pairs, most)):
        there = np.array([len(pair.answers[0]) > step for pair in pairs])
        total = total + np.where(there, run(single), 0.0)
    return total


# by hand


def by_hand(logits_after: Callable[[Ids], Tensor], clean: Tensor, right: Ids, wrong: Ids) -> dict[str, float]:
    """Every metric from a function that gives the logits behind an answer's first tokens.

    Args:
        clean: logits at the end of the clean prompt.
    """
    steps = [logits_after(right[:i]).double() for i in range(len(right))]
    logprobs = [step.log_softmax(-1) for step in steps]
    differ = next(i for i in range(len(right)) if right[i] != wrong[i])
    total = sum(float(said[token]) for said, token in zip(logprobs, right, strict=True))
    theirs = sum(float(logprobs[i][token]) for i, token in enumerate(wrong))
    own, reference = logprobs[0], clean.double().log_softmax(-1)
    gap = float(steps[differ][right[differ]] - steps[differ][wrong[differ]])
    return {
        "logit_diff": gap,
        "logprob": total,
        "prob": float(np.exp(total)),
        "prob_diff": float(np.exp(total) - np.exp(theirs)),
        "accuracy": float(gap > 0),
        "rank": float((steps[0] > steps[0][right[0]]).sum()),
        "top1": float(all(int(step.argmax()) == token for step, token in zip(steps, right, strict=True))),
        "kl": float((reference.exp() * (reference - own)).sum()),
    }


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "mistral"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_metric_by_a_hand_loop(kind: str, strategy: Any, seed: int) -> None:
    """Without intervention, and with the last token of the corrupted prompt's stream replaced by the clean one's."""
    model, pairs, layer = sweeps.model(kind), long_pairs(seed), 1
    path = f"{model.anatomy.main.blocks and model.anatomy.blocks}.{layer}"
    found = patch(model, pairs, grid("resid_post", layer=layer, position=-1), ALL_METRICS, strategy=strategy)
    assert found.attrs["strategy"] == ("wavefront" if strategy == "auto" else strategy)
    for i, pair in enumerate(pairs):
        ids, theirs = pair.clean.text, pair.corrupted.text
        source = sweeps.record(model.module, path, ids)[0, -1]

        def replaced(h: Tensor, at: int = len(theirs) - 1, source: Tensor = source) -> Tensor:
            h = h.clone()
            h[:, at] = source
            return h

        end = sweeps.rerun(model.module, path, ids, lambda h: None)
        for name, prompt, change in (
            ("clean", ids, lambda h: None),
            ("corrupt", theirs, lambda h: None),
            ("value", theirs, replaced),
        ):
            expected = by_hand(
                lambda more, p=prompt, c=change: sweeps.rerun(model.module, path, (*p, *more), c),
                end,
                *pair.answers,
                *pair.wrong,
            )
            got = {metric: float(found[name].sel(metric=metric).values[..., i].item()) for metric in ALL_METRICS}
            assert got == pytest.approx(expected, abs=close(model) * 10), (name, i)


def test_the_first_differing_token_is_compared_behind_those_that_are_shared(seed: int) -> None:
    """An answer of two tokens is a single-token answer to the prompt with its first token, to the last place."""
    model = sweeps.model("gpt2", torch.float64)
    ids = sweeps.random_pairs(seed, [7])[0]
    shared, right, wrong = 11, 12, 13
    long = Pairs((Pair(ids.clean.text, ids.corrupted.text, [(shared, right)], [(shared, wrong)]),))
    short = Pairs((Pair((*ids.clean.text, shared), (*ids.corrupted.text, shared), right, wrong),))
    where = grid("resid_pre", layer=..., position=[2, 4, 6])
    for strategy in STRATEGIES:
        one, other = (patch(model, pairs, where, ["logit_diff", "accuracy"], strategy=strategy) for pairs in (long, short))
        for name in ("value", "clean", "corrupt"):
            np.testing.assert_allclose(one[name], other[name], atol=close(model))
        assert float(abs(one.value - one.corrupt).max()) > 1e-3


# every strategy, whatever is changed


WHERES: dict[str, Any] = {
    "stream by role": grid("resid_pre", layer=..., position=["subject", "end", -1]),
    "heads everywhere": grid("z", layer=..., head=...),
    "mlp": grid("mlp_out", layer=..., position=[-1, -2]),
    "queries": grid("q", layer=..., head=[0, 1], position=-1),
    "patterns": grid("pattern", layer=[1], head=[0, 1], position=-1),
    "logits": grid("logits", position=-1),
}


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
@pytest.mark.parametrize("which", WHERES)
@pytest.mark.parametrize("patching", ["denoising", "noising"])
def test_strategies_agree(kind: str, which: str, patching: Any, seed: int) -> None:
    model, where = sweeps.model(kind), WHERES[which]
    longer = None if which in ("heads everywhere", "patterns") else [1, 0, 2, 0]
    pairs = long_pairs(seed, longer=longer)
    serial, batched, auto = (patch(model, pairs, where, ALL_METRICS, patching=patching, strategy=s) for s in STRATEGIES)
    smooth = [name for name in ALL_METRICS if name not in ("accuracy", "rank", "top1")]
    for other in (batched, auto):
        difference = abs(other.value - serial.value).sel(metric=smooth)
        assert float(difference.max()) <= 3 * close(model)
    assert float(abs(serial.value - (serial.corrupt if patching == "denoising" else serial.clean)).max()) > 1e-3


CHANGES: dict[str, Intervention] = {
    "all tokens, forced ones too": Intervention.of(Change("L1.mlp_out", edit=Scale(2.0))),
    "all tokens of a head from the other prompt": Intervention.of(Change("L1H1.z")),
    "a mean of all tokens": Intervention.of(Change("L1.mlp_out", source=mean())),
    "a mean at the end": Intervention.of(Change("L1.z", "end", source=mean())),
    "another example's": Intervention.of(Change("L0.attn_out", "end", source=Activation(pool="resample", seed=1))),
    "a span": Intervention.of(Change("L2.resid_pre", "subject", edit=Scale(0.0))),
}


@pytest.mark.parametrize("name", CHANGES)
def test_interventions_agree_and_obey_the_chain_rule(name: str, seed: int) -> None:
    """Step by step they are single-token answers to longer prompts; means are of other tokens there, and are left out."""
    model, pairs = sweeps.model("gpt2", torch.float64), long_pairs(seed, (7, 7, 7, 7))
    intervention = CHANGES[name]
    long = [patch(model, pairs, intervention, "logprob", strategy=strategy).value.values for strategy in STRATEGIES]
    np.testing.assert_allclose(long[1], long[0], atol=close(model))
    np.testing.assert_allclose(long[2], long[0], atol=close(model))
    if "a mean of all" not in name and "resample" not in name:
        expected = chained(pairs, lambda single: patch(model, single, intervention, "logprob").value.values)
        np.testing.assert_allclose(long[0], expected, atol=close(model))
    base = patch(model, pairs, intervention, "logprob").corrupt.values
    assert abs(long[0] - base).max() > 1e-4


def test_what_is_given_is_in_force_at_every_step(seed: int) -> None:
    model, pairs = sweeps.model("llama", torch.float64), long_pairs(seed, (7, 7, 7, 7))
    given = Change("L0.mlp_out", source=Constant(0.3), edit=Add())
    where = grid("resid_mid", layer=[1, 2], position=["subject", "end"])
    for strategy in STRATEGIES:
        found = patch(model, pairs, where, "logprob", given=given, strategy=strategy)
        expected = chained(pairs, lambda single: patch(model, single, where, "logprob", given=given).value.values)
        np.testing.assert_allclose(found.value, expected, atol=close(model))


def test_in_pieces_and_in_shards(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = sweeps.model("gpt2"), long_pairs(seed)
    where = grid("resid_pre", layer=..., position=["subject", "end"])
    whole = patch(model, pairs, where, ["logprob", "logit_diff", "kl"])
    monkeypatch.setenv("INTERP_MEMORY_BYTES", "60000")
    assert explain(model, pairs, where, "logprob").shards > 1
    sharded = patch(model, pairs, where, ["logprob", "logit_diff", "kl"])
    monkeypatch.undo()
    monkeypatch.setitem(pieces.SIZE, "cpu", 2)
    cut = patch(model, pairs, where, ["logprob", "logit_diff", "kl"])
    for other in (sharded, cut):
        np.testing.assert_allclose(other.value, whole.value, atol=close(model))


# where positions are


def test_positions_mean_the_prompt_alone(seed: int) -> None:
    """−1 is the prompt's last token, a sweep of all positions has as many as the prompts, and no index reaches behind them."""
    model, pairs = sweeps.model("gpt2"), long_pairs(seed, (7, 7, 7, 7))
    swept = patch(model, pairs, grid("resid_pre", layer=[1], position=...), "logprob")
    assert swept.sizes["position"] == 7
    last = patch(model, pairs, grid("resid_pre", layer=[1], position=[-1]), "logprob")
    np.testing.assert_allclose(swept.value.values[:, :, -1], last.value.values[:, :, 0], atol=close(model))
    with pytest.raises(PositionError, match=r"7 is past the end of example 0, which has 7 tokens .*the 2 tokens of its answer"):
        patch(model, pairs, grid("resid_pre", layer=[1], position=[7]), "logprob")


def test_an_edit_of_all_positions_acts_on_forced_tokens_too(seed: int) -> None:
    """By hand: what a block gives, doubled at every token that was fed, or at the prompt's alone."""
    model, pairs = sweeps.model("gpt2"), long_pairs(seed)
    path = f"{model.anatomy.blocks}.1"
    everywhere = Intervention.of(Change("L1.resid_post", edit=Scale(2.0)))
    there = Intervention.of(Change("L1.resid_post", "end", edit=Scale(2.0)))
    found = patch(model, pairs, [everywhere, there], "logprob", patching="noising").value.values[0]
    for i, pair in enumerate(pairs):
        ids, right = pair.clean.text, pair.answers[0]

        def at_end(h: Tensor, n: int = len(ids)) -> Tensor:
            return torch.cat([h[:, : n - 1], 2 * h[:, n - 1 : n], h[:, n:]], dim=1)

        for row, change in enumerate((lambda h: 2 * h, at_end)):
            steps = [sweeps.rerun(model.module, path, (*ids, *right[:s]), change).log_softmax(-1) for s in range(len(right))]
            expected = sum(float(step[token]) for step, token in zip(steps, right, strict=True))
            assert found[row, i] == pytest.approx(expected, abs=10 * close(model))


def top_logit(logits: Tensor) -> Tensor:
    return logits.amax(-1)


def test_means_at_named_positions_are_of_the_prompts_alone(seed: int) -> None:
    """Prompts of different lengths: at the end of the longest, forced tokens of shorter ones would be in the mean."""
    model, pairs = sweeps.model("gpt2", torch.float64), long_pairs(seed, (7, 6, 5, 4))
    bare = Pairs(tuple(Pair(pair.clean, pair.corrupted) for pair in pairs))
    named = Intervention.of(Change("L1.resid_post", "end", source=mean()))
    everywhere = Intervention.of(Change("L1.resid_post", source=mean("clean", over=("example", "position"))))
    one, other = (patch(model, given, [named, everywhere], top_logit).value.values[0] for given in (pairs, bare))
    np.testing.assert_allclose(one[0], other[0], atol=close(model))
    assert abs(one[1] - other[1]).min() > 1e-6  # all tokens are meant, those that are fed too


def test_patterns_of_prompts_that_lie_otherwise_are_refused(seed: int) -> None:
    """As many tokens in all, but not in the prompts: rows would attend to others."""
    pairs = sweeps.random_pairs(seed, [7, 6])
    long = Pairs(
        (
            Pair(pairs[0].clean, pairs[0].corrupted, [(1, 2)], 3),
            Pair(pairs[1].clean, pairs[1].corrupted, [(1, 2, 4)], 3),
        )
    )
    change = Change("L1H0.pattern", "end", source=Activation(pool="resample"))
    with pytest.raises(UnequalLengthsError, match="by raw index, but base and source prompts differ in length"):
        patch(sweeps.model("gpt2"), long, Intervention.of(change), "logprob")


# how much is read


def test_no_more_is_read_than_metrics_declare(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), long_pairs(seed)
    encoded = model.encode(pairs)
    steps = {name: Reader.of(model, encoded, resolve(name)).steps for name in ALL_METRICS}
    assert steps == {"logit_diff": 3, "accuracy": 3, "rank": 1, "kl": 1} | dict.fromkeys(
        ("logprob", "prob", "prob_diff", "top1"), 4
    )
    reader = Reader.of(model, encoded, resolve(["logit_diff", "kl"]))
    assert reader.positions_of(encoded.clean).tolist() == [
        [n - 1 - k, *(n - 1 - k + min(i, k) for i in (1, 2))] for n, k in ((encoded.clean.width, k) for k in (2, 0, 1, 3))
    ]
    assert reader.keep == 4  # the last token of the prompt with three behind it
    assert reader.columns is not None
    right, wrong = pairs[0].answers[0], pairs[0].wrong[0]
    assert set(reader.columns[0].tolist()) == {*right, *wrong}


def test_single_tokens_are_read_as_ever(seed: int) -> None:
    """One answer of two tokens among the pairs, told apart by the first: the logit difference reads one position of each."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [7, 9])
    a, b, c = (int(t) for t in torch.randperm(tiny.VOCAB, generator=torch.Generator().manual_seed(seed))[:3])
    single = Pairs(tuple(Pair(pair.clean, pair.corrupted, a, b) for pair in pairs))
    long = Pairs(tuple(Pair(pair.clean, pair.corrupted, [(a, c)], [(b, c, c)]) for pair in pairs))
    one, other = (Reader.of(model, model.encode(p), resolve("logit_diff")) for p in (single, long))
    assert (one.steps, one.keep, one.columns.shape[1]) == (1, 1, 2)
    assert (other.steps, other.keep, other.columns.shape[1]) == (1, 2, 2)
    where = grid("resid_pre", layer=..., position=["subject", "end"])
    np.testing.assert_allclose(patch(model, long, where).value, patch(model, single, where).value, atol=close(model))


def test_the_plan_and_the_result_say_so(seed: int) -> None:
    model, pairs, where = sweeps.model("gpt2"), long_pairs(seed), grid("resid_pre", layer=..., position="end")
    plan = explain(model, pairs, where, "logprob")
    assert "answers are 1 to 4 tokens: both prompts carry up to 3 forced ones" in str(plan)
    assert "columns of the vocabulary at -1 and 3 behind it" in str(plan)
    found = patch(model, pairs, where, "logprob")
    assert found.attrs["answer_tokens"] == [1, 4]
    assert "teacher forced" in found.attrs["answers_read"]
    single = patch(model, sweeps.random_pairs(seed, [7, 9]), where, "logprob")
    assert "answer_tokens" not in single.attrs
    assert "forced" not in str(explain(model, sweeps.random_pairs(seed, [7, 9]), where, "logprob"))


# metrics of one's own


def test_functions_see_the_prompts_last_token(seed: int) -> None:
    model, pairs, where = sweeps.model("gpt2"), long_pairs(seed), grid("resid_pre", layer=..., position="end")
    bare = Pairs(tuple(Pair(pair.clean, pair.corrupted) for pair in pairs))
    one, other = (patch(model, p, where, top_logit) for p in (pairs, bare))
    np.testing.assert_allclose(one.value, other.value, atol=close(model))
    both = patch(model, pairs, where, ["logprob", top_logit])
    np.testing.assert_allclose(both.value[1], other.value[0], atol=close(model))


class Worst:
    """The least likely token of the answer: reads every step, declares it."""

    name, reads = "worst", Reads(columns="answers", logsumexp=True, needs=("answers",), steps="answers")

    def __call__(self, readout: Readout) -> Tensor:
        each = [
            torch.where((step.answers >= 0).any(-1), step.at(step.answers).amax(-1) - step.normaliser, 0.0)
            for step in readout.steps
        ]
        return torch.stack(each).amin(0)


def test_a_metric_of_ones_own_reads_steps(seed: int) -> None:
    model, pairs, where = sweeps.model("gpt2"), long_pairs(seed), grid("resid_pre", layer=[1], position="end")
    found = patch(model, pairs, where, Worst())
    steps = [patch(model, single, where, "logprob").value.values for single in stepwise(pairs, 4)]
    np.testing.assert_allclose(found.value.values, np.stack(steps).min(0), atol=close(model))


def test_later_tokens_are_read_behind_the_prompts_end(seed: int) -> None:
    model, pairs, where = sweeps.model("gpt2"), long_pairs(seed), grid("resid_pre", layer=[1], position="end")
    elsewhere = [replace(one, reads=replace(one.reads, positions=Positions.parse(-2))) for one in resolve(["logprob", "kl"])]
    with pytest.raises(
        AnswerError, match=r"metrics logprob read answers of several tokens, .* but positions are -2; read at -1"
    ):
        patch(model, pairs, where, elsewhere)
    patch(model, pairs, where, elsewhere[1])
    by_role = replace(resolve("logprob")[0], reads=replace(resolve("logprob")[0].reads, positions=Positions.parse("end")))
    np.testing.assert_array_equal(patch(model, pairs, where, by_role).value, patch(model, pairs, where, "logprob").value)


def test_a_wrong_answer_behind_other_tokens_has_no_probability(seed: int) -> None:
    pairs = long_pairs(seed)
    unreached = Pairs((*pairs, Pair(pairs[0].clean, pairs[0].corrupted, [(3, 4)], [(5, 6, 7)])))
    where = grid("resid_pre", layer=[1], position="end")
    with pytest.raises(
        AnswerError, match=r"'prob_diff' needs the probability of wrong \(5, 6, 7\) .* in example 4, .*use 'logit_diff'"
    ):
        patch(sweeps.model("gpt2"), unreached, where, "prob_diff")
    patch(sweeps.model("gpt2"), unreached, where, ["logit_diff", "logprob"])


# gradients


@pytest.mark.parametrize("metric", ["logprob", "logit_diff", "prob_diff"])
def test_gradients_are_those_of_the_raw_module(metric: str, seed: int) -> None:
    """With respect to what a block gives, at all tokens; zero behind the last that is read and at padding."""
    model, pairs = sweeps.model("gpt2", torch.float64), long_pairs(seed)
    encoded = model.encode(pairs)
    found = gradients(model, encoded, ["L1.resid_post"], metric)
    block = model.module.get_submodule(f"{model.anatomy.blocks}.1")
    for i, pair in enumerate(pairs):
        ids, right, wrong = pair.clean.text, pair.answers[0], pair.wrong[0]
        kept: list[Tensor] = []

        def keep(m: Any, a: Any, output: Any, kept: list[Tensor] = kept) -> Any:
            h = output[0] if isinstance(output, tuple) else output
            kept.append(h)
            h.retain_grad()

        handle = block.register_forward_hook(keep)
        logits = model.module(torch.tensor([[*ids, *right[:-1]]])).logits[0, len(ids) - 1 :]
        handle.remove()
        logprobs, differ = logits.log_softmax(-1), next(s for s in range(len(right)) if right[s] != wrong[s])
        total = sum(logprobs[s, token] for s, token in enumerate(right))
        theirs = sum(logprobs[s, token] for s, token in enumerate(wrong))
        value = {
            "logprob": total,
            "logit_diff": logits[differ, right[differ]] - logits[differ, wrong[differ]],
            "prob_diff": torch.as_tensor(total).exp() - torch.as_tensor(theirs).exp(),
        }[metric]
        value.backward()
        model.module.zero_grad()
        first = encoded.clean.width - len(ids) - len(right) + 1
        got = found.gradient[Site("resid_post", layer=1)][i]
        torch.testing.assert_close(got[first:], kept[0].grad[0], atol=1e-10, rtol=1e-8)
        assert not got[:first].any()
        assert float(found.value[i]) == pytest.approx(value.item(), abs=1e-10)


def test_attribution_obeys_the_chain_rule(seed: int) -> None:
    model, pairs = sweeps.model("llama", torch.float64), long_pairs(seed, (7, 7, 7, 7))
    where = grid("z", layer=..., head=..., position=["subject", "end"])
    found = attribute(model, pairs, where, "logprob")
    expected = chained(pairs, lambda single: attribute(model, single, where, "logprob").value.values)
    np.testing.assert_allclose(found.value, expected, rtol=1e-5, atol=close(model))  # its RMSNorms compute in float32
    assert found.attrs["answer_tokens"] == [1, 4]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_training_raises_what_is_patched(kind: str, seed: int) -> None:
    """The loss of a first step is what the sweep measures; and gradients are those of whole passes, learned in three steps."""
    model, pairs = sweeps.model(kind, torch.float64), long_pairs(seed)

    def made() -> Intervention:
        rotation = Rotation(tiny.WIDTH, 3, seed=1).to(torch.float64)
        return Intervention.of(Change("L1.resid_post", "end", featurizer=rotation)) & Intervention.of(
            Change("L0.z", "end", edit=Gate((tiny.HEADS, 1)).to(torch.float64))
        )

    intervention = made()
    expected = -patch(model, pairs, intervention, "logprob").value.values.mean()
    trained = fit(model, pairs, intervention, "logprob", epochs=3, batch=4, lr=1e-2, shuffle=False, progress=False)
    assert float(trained.loss[0, 0]) == pytest.approx(expected, abs=1e-9)
    assert trained.loss.attrs["answer_tokens"] == [1, 4]
    parameters = [p for change in trained.interventions[0].changes for p in _parts(change)]
    assert all(p.isfinite().all() for p in parameters)
    assert float(trained.loss[0, -1]) < float(trained.loss[0, 0])
    now = -patch(model, pairs, trained.interventions[0], "logprob", strategy="serial").value.values.mean()
    assert now < expected


def _parts(change: Change) -> list[Tensor]:
    parts = [part for part in (change.featurizer, change.edit) if isinstance(part, torch.nn.Module)]
    return [parameter for part in parts for parameter in part.parameters()]


# edges


def test_edges_obey_the_chain_rule(seed: int) -> None:
    model, pairs = sweeps.model("gpt2", torch.float64), long_pairs(seed, (7, 7, 7, 7))
    some = edges(model)[::37]
    found = patch_edges(model, pairs, ["logprob"], edges=some, progress=False)
    expected = chained(pairs, lambda single: patch_edges(model, single, ["logprob"], edges=some, progress=False).value.values)
    np.testing.assert_allclose(found.value, expected, atol=close(model))
    assert float(abs(found.value - found.clean).max()) > 1e-4
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(
            found.value, patch_edges(model, stepwise(pairs, 1)[0], ["logprob"], edges=some).value, atol=1e-6
        )


# other models


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_decoders_of_encoder_decoders(architecture: str, seed: int) -> None:
    """Padded on the left or on the right; expected: the raw module, one prompt at a time."""
    model = anything.model(architecture)
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n: tuple(torch.randint(4, 90, (n,), generator=generator).tolist())  # noqa: E731
    answers: list[Ids] = [(5, 6, 7), (8,), (9, 10)]
    items = []
    for target, right in zip((3, 5, 2), answers, strict=True):
        clean, corrupted = (Prompt(draw(6), target=(0, *draw(target))) for _ in range(2))
        items.append(Pair(clean, corrupted, [right], 3))
    pairs = Pairs(tuple(items))
    encoded = model.encode(pairs)
    assert encoded.clean.flush == (architecture == "t5")
    found = patch(model, pairs, grid("resid_post", layer=..., position=-1), ["logprob", "logit_diff", "kl"])
    for i, pair in enumerate(pairs):
        right = answers[i]
        for side, prompt in (("clean", pair.clean), ("corrupt", pair.corrupted)):
            fed = [*prompt.target, *right[:-1]]
            with torch.no_grad():
                inputs = {"input_ids": torch.tensor([list(prompt.text)]), "decoder_input_ids": torch.tensor([fed])}
                logits = model.module(**inputs).logits[0, len(prompt.target) - 1 :]
            expected = sum(float(logits.log_softmax(-1)[s, token]) for s, token in enumerate(right))
            assert float(found[side].sel(metric="logprob")[i]) == pytest.approx(expected, abs=1e-4)
            gap = float(logits[0, right[0]] - logits[0, 3])
            assert float(found[side].sel(metric="logit_diff")[i]) == pytest.approx(gap, abs=1e-4)
    last = found.value.sel(metric="logprob").isel(layer=-1)
    serial = patch(model, pairs, grid("resid_post", layer=..., position=-1), "logprob", strategy="serial")
    np.testing.assert_allclose(found.value.sel(metric="logprob"), serial.value[0], atol=1e-4)
    assert float(abs(last - found.corrupt.sel(metric="logprob")).max()) > 1e-4


def test_models_in_which_nothing_follows_a_prompt() -> None:
    pair = Pair((5, 6, 7), (5, 8, 7), [(9, 10)], 3)
    with pytest.raises(AnswerError, match=r"answers of up to 2 tokens .* but bert is not causal: .*give answers of one token"):
        anything.model("bert").encode(Pairs((pair,)))
    side = torch.zeros(3, 16, 16)
    shown = Pair(Prompt(inputs={"pixel_values": side}), Prompt(inputs={"pixel_values": side}), [(1, 2)], 3)
    with pytest.raises(AnswerError, match=r"example 0: answer \(1, 2\) is 2 tokens, and nothing stands behind a prompt"):
        anything.model("vit").encode(Pairs((shown,)))
    with pytest.raises(AnswerError, match=r"token id 97, but .* has 97 tokens"):
        sweeps.model("gpt2").encode(Pairs((Pair((5,), (6,), [(3, 97)], 4),)))


def test_text_is_generated_behind_the_prompts_alone(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), long_pairs(seed)
    bare = Pairs(tuple(Pair(pair.clean, pair.corrupted) for pair in pairs))
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
    one, other = (interp.generate(model, given, **options) for given in (model.encode(pairs), bare))
    assert torch.equal(one.ids, other.ids)


# a real model


def test_capitals_of_several_tokens(loaded_smollm2: interp.Model) -> None:
    """Traced over layer × role: the country's tokens matter early, the last token late; baselines by transformers' own loss."""
    model = loaded_smollm2
    prompts = [("Malaysia", "Italy", " Kuala Lumpur", " Rome"), ("Argentina", "Egypt", " Buenos Aires", " Cairo")]
    text = "The capital of {} is"
    of = lambda country: Prompt(text.format(country), {"country": (15, 15 + len(country))})  # noqa: E731
    pairs = Pairs(tuple(Pair(of(one), of(other), right, wrong) for one, other, right, wrong in prompts))
    encoded = model.encode(pairs)
    assert encoded.answered.right_strings[1] == ((" Buenos", " Aires"),)
    found = interp.patch(model, encoded, interp.grid("resid_pre", layer=[0, 10, 20, 29], position=["country", -1]), "logprob")
    for i, pair in enumerate(pairs):
        for side, prompt in (("clean", pair.clean), ("corrupt", pair.corrupted)):
            ids, whole = (
                model.tokenizer(t, return_tensors="pt")["input_ids"] for t in (prompt.text, prompt.text + pair.answers[0])
            )
            labels = whole.clone()
            labels[:, : ids.shape[1]] = -100
            with torch.no_grad():
                loss = model.module(whole, labels=labels).loss
            expected = -float(loss) * (whole.shape[1] - ids.shape[1])
            assert float(found[side].values[0, i]) == pytest.approx(expected, abs=2e-3)
    recovered = ((found.value - found.corrupt) / (found.clean - found.corrupt))[0]
    assert float(recovered.sel(layer=0, position="country").min()) > 0.9
    assert float(recovered.sel(layer=29, position="-1").min()) > 0.5
    assert float(abs(recovered.sel(layer=0, position="-1")).max()) < 0.05
