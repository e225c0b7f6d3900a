"""Sources: what is written, against values recorded from the raw module with plain torch hooks, and numpy's means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as tokenizer_models
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from interp import effects
from interp.engine import patch
from interp.engine.sources import _derangement
from interp.errors import ShapeMismatchError, UnequalLengthsError, UserError
from interp.interventions import Activation, Add, Change, Constant, Intervention, Noise, Source, mean, resample, zero
from interp.models import load
from interp.models.hooks import is_own
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Positions, grid

BLOCK = "transformer.h.1"
MODEL = "gpt2"
STRATEGIES = pytest.mark.parametrize("strategy", ["serial", "batched"])


def recorded(prompts: list[Any], kind: str = MODEL, seed: int = 0) -> list[Tensor]:
    """Output of block 1 on every prompt, alone and unpadded: ``[position, width]`` each."""
    return [sweeps.record(sweeps.model(kind, seed=seed).module, BLOCK, p.text)[0] for p in prompts]


def written(prompt: Any, rows: dict[int, Tensor]) -> float:
    """Logit 3 after putting ``rows`` (by position) into the output of block 1 of one prompt."""

    def change(h: Tensor) -> Tensor:
        h = h.clone()
        for position, value in rows.items():
            h[0, position] = value
        return h

    return float(sweeps.rerun(sweeps.model(MODEL).module, BLOCK, prompt.text, change)[3])


def third(logits: Tensor) -> Tensor:
    return logits[..., 3]


def found(pairs: Pairs, position: Any, source: Source, strategy: Any, **options: Any) -> np.ndarray[Any, Any]:
    """The same, by a sweep that denoises."""
    change = Change("L1.resid_post", position, source, **options)
    return patch(sweeps.model(MODEL), pairs, Intervention((change,)), third, strategy=strategy)["value"].values[0, 0]


def check(got: np.ndarray[Any, Any], expected: list[float]) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
    assert np.ptp(expected) > 1e-3, "the examples differ, so that a mixed-up order would show"


@pytest.fixture
def pairs(seed: int) -> Pairs:
    return sweeps.random_pairs(seed, [6, 6, 6, 6], early=True)


@pytest.fixture
def mixed(seed: int) -> Pairs:
    """Examples of different length; both sides of each alike."""
    return sweeps.random_pairs(seed, [4, 7, 5, 6], early=True)


# means


@STRATEGIES
def test_the_mean_over_examples_position_by_position(strategy: Any, pairs: Pairs) -> None:
    average = torch.stack(recorded([p.clean for p in pairs])).mean(0)
    for position in (-1, 2, [0, 3]):
        at = position if isinstance(position, list) else [position % 6]
        expected = [written(p.corrupted, {i: average[i] for i in at}) for p in pairs]
        check(found(pairs, position, mean(), strategy), expected)


@STRATEGIES
def test_the_mean_over_examples_and_positions(strategy: Any, mixed: Pairs) -> None:
    """Every real token counts once, whatever the length of its prompt; padding not at all."""
    average = torch.cat(recorded([p.clean for p in mixed])).mean(0)
    expected = [written(p.corrupted, {len(p.clean.text) - 1: average}) for p in mixed]
    check(found(mixed, -1, mean(over=("example", "position")), strategy), expected)


@STRATEGIES
def test_the_mean_at_a_raw_position_of_prompts_of_different_length(strategy: Any, mixed: Pairs) -> None:
    """Position 2 counted from each prompt's first real token."""
    average = torch.stack([h[2] for h in recorded([p.clean for p in mixed])]).mean(0)
    check(found(mixed, 2, mean(), strategy), [written(p.corrupted, {2: average}) for p in mixed])


@STRATEGIES
@pytest.mark.parametrize("by", ["template", "entities"])
def test_the_mean_within_groups(strategy: Any, by: str, pairs: Pairs) -> None:
    values = recorded([p.corrupted for p in pairs])
    groups = [getattr(p, by) for p in pairs]
    expected = []
    for pair, group in zip(pairs, groups, strict=True):
        average = torch.stack([v[-1] for v, g in zip(values, groups, strict=True) if g == group]).mean(0)
        expected.append(written(pair.corrupted, {5: average}))
    check(found(pairs, -1, mean("base", by=by), strategy), expected)


@STRATEGIES
def test_the_mean_of_one_prompts_positions(strategy: Any, mixed: Pairs) -> None:
    prompt = Prompt((9, 8, 7, 6, 5))
    average = recorded([prompt])[0].mean(0)
    source = Activation(prompt.text, pool="mean", over=("example", "position"))
    check(found(mixed, -1, source, strategy), [written(p.corrupted, {len(p.clean.text) - 1: average}) for p in mixed])


@STRATEGIES
def test_a_mean_that_no_prompt_has_is_never_zero(strategy: Any, seed: int) -> None:
    """The base is longer than every source prompt, or than those of its template: there is no value to average."""
    longer = sweeps.random_pairs(seed, [6, 6], longer=[1, 1])  # denoising runs on the corrupted prompts, of 7 tokens
    with pytest.raises(UserError):
        found(longer, -1, mean(), strategy)
    one_group = sweeps.random_pairs(seed, [6, 6], longer=[0, 1])  # of the two templates, one is longer
    with pytest.raises(UserError):
        found(one_group, -1, mean(by="template"), strategy)
    assert np.isfinite(found(sweeps.random_pairs(seed, [6, 4]), -1, mean(by="template"), strategy)).all()


@STRATEGIES
def test_a_mean_of_one_prompt_has_no_groups_but_one(strategy: Any, pairs: Pairs) -> None:
    """Either every group is served by that prompt, or it is refused; zeros are neither."""
    source = Activation((9, 8, 7, 6, 5, 4), pool="mean", by="template")
    try:
        got = found(pairs, -1, source, strategy)
    except (UserError, ValueError):
        return
    np.testing.assert_allclose(got, found(pairs, -1, Activation((9, 8, 7, 6, 5, 4)), strategy), atol=1e-5)


def test_a_mean_of_attention_needs_prompts_of_equal_length(mixed: Pairs) -> None:
    with pytest.raises(UnequalLengthsError, match=r"needs prompts of one length, got \[4, 5, 6, 7\]"):
        patch(sweeps.model(MODEL), mixed, grid("pattern", layer=1, head=0, position=-1), source=mean())


@STRATEGIES
def test_the_mean_of_a_head(strategy: Any, pairs: Pairs) -> None:
    path, columns = "transformer.h.1.attn.c_proj", slice(16, 24)
    module = sweeps.model(MODEL).module
    average = torch.stack([sweeps.record(module, path, p.clean.text, "input")[0, -1, columns] for p in pairs]).mean(0)
    expected = []
    for pair in pairs:

        def change(h: Tensor) -> Tensor:
            h = h.clone()
            h[0, -1, columns] = average
            return h

        expected.append(float(sweeps.rerun(module, path, pair.corrupted.text, change, "input")[3]))
    got = patch(sweeps.model(MODEL), pairs, grid("L1H2.z", position=-1), third, source=mean(), strategy=strategy)
    check(got["value"].values[0], expected)


# other runs, sites, positions, models


@STRATEGIES
def test_other_layers_and_sites(strategy: Any, pairs: Pairs) -> None:
    module = sweeps.model(MODEL).module
    for source, path in (
        (Activation(layer=0), "transformer.h.0"),
        (Activation(site="mlp_out"), "transformer.h.1.mlp"),
        (Activation(site="L2.attn_out"), "transformer.h.2.attn"),
        (Activation("base", site="embed"), "transformer.wte"),
    ):
        expected = []
        for pair in pairs:
            side = pair.corrupted if source.prompt == "base" else pair.clean
            value = sweeps.record(module, path, side.text)[0]
            value = value[-1]
            expected.append(written(pair.corrupted, {5: value}))
        check(found(pairs, -1, source, strategy), expected)


@STRATEGIES
def test_other_positions(strategy: Any, mixed: Pairs) -> None:
    values = recorded([p.clean for p in mixed])
    for position, own, at in (("end", 0, 0), (0, -1, -1), ("end", "subject[-1]", None)):
        expected = []
        for pair, value in zip(mixed, values, strict=True):
            n, (_, stop) = len(pair.clean.text), pair.clean.roles["subject"]
            expected.append(written(pair.corrupted, {0 if position == 0 else n - 1: value[stop - 1 if at is None else at]}))
        check(found(mixed, position, Activation(positions=own), strategy), expected)


@STRATEGIES
def test_one_source_token_serves_a_whole_span(strategy: Any, mixed: Pairs) -> None:
    values = recorded([p.clean for p in mixed])
    expected = []
    for pair, value in zip(mixed, values, strict=True):
        start, stop = pair.clean.roles["subject"]
        expected.append(written(pair.corrupted, dict.fromkeys(range(start, stop), value[-1])))
    check(found(mixed, "subject", Activation(positions="end"), strategy), expected)


@STRATEGIES
def test_another_prompt_serves_every_example(strategy: Any, mixed: Pairs) -> None:
    other = Prompt((9, 8, 7, 6, 5), {"x": (1, 2)})
    value = recorded([other])[0]
    for prompt, positions, at in ((other.text, None, -1), (other.text, 2, 2)):
        source = Activation(prompt, positions=positions)
        expected = [written(p.corrupted, {len(p.clean.text) - 1: value[at]}) for p in mixed]
        check(found(mixed, -1, source, strategy), expected)


@STRATEGIES
def test_another_prompt_has_roles_of_its_own(strategy: Any, mixed: Pairs) -> None:
    other = Prompt((9, 8, 7, 6, 5), {"x": (1, 2)})
    value = recorded([other])[0][1]
    expected = [written(p.corrupted, {len(p.clean.text) - 1: value}) for p in mixed]
    check(found(mixed, -1, Activation(other, positions="x"), strategy), expected)


@STRATEGIES
def test_another_model(strategy: Any, pairs: Pairs) -> None:
    values = recorded([p.clean for p in pairs], seed=1)
    expected = [written(p.corrupted, {5: v[5], 0: v[0]}) for p, v in zip(pairs, values, strict=True)]
    check(found(pairs, [0, -1], Activation(model=sweeps.model(MODEL, seed=1)), strategy), expected)


@STRATEGIES
def test_another_architecture_of_the_same_width(strategy: Any, pairs: Pairs) -> None:
    llama = sweeps.model("llama")
    values = [sweeps.record(llama.module, "model.layers.0", p.clean.text)[0] for p in pairs]
    expected = [written(p.corrupted, {5: v[5]}) for p, v in zip(pairs, values, strict=True)]
    check(found(pairs, -1, Activation(model=llama, layer=0), strategy), expected)
    assert not any(is_own(hook) for m in llama.module.modules() for hook in m._forward_hooks.values())


@STRATEGIES
def test_resampling_takes_another_examples_value(strategy: Any, mixed: Pairs) -> None:
    """For some partner, never itself, and each partner once: the map is recovered from the numbers."""
    values = [v[-1] for v in recorded([p.clean for p in mixed])]
    got = found(mixed, -1, resample(seed=3), strategy)
    partners = []
    for i, pair in enumerate(mixed):
        all_ = [written(pair.corrupted, {len(pair.clean.text) - 1: v}) for v in values]
        partners.append(int(np.argmin(np.abs(np.array(all_) - got[i]))))
        assert abs(all_[partners[-1]] - got[i]) < 1e-4
    assert sorted(partners) == [0, 1, 2, 3]
    assert all(i != p for i, p in enumerate(partners))


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_partners(n: int) -> None:
    draws = [_derangement(n, seed).tolist() for seed in range(20)]
    assert all(sorted(d) == list(range(n)) for d in draws)
    assert n == 1 or all(i != p for d in draws for i, p in enumerate(d))
    assert _derangement(n, 5).tolist() == draws[5]
    assert n < 3 or len({tuple(d) for d in draws}) > 1


# constants and noise


@STRATEGIES
def test_constants(strategy: Any, mixed: Pairs) -> None:
    vector = torch.linspace(-1, 1, 32)
    for source, value in ((zero(), torch.zeros(32)), (Constant(0.5), torch.full((32,), 0.5)), (Constant(vector), vector)):
        expected = [written(p.corrupted, {len(p.clean.text) - 1: value}) for p in mixed]
        check(found(mixed, -1, source, strategy), expected)


@STRATEGIES
def test_a_constant_for_each_head(strategy: Any, pairs: Pairs) -> None:
    """[head, d_head] for all heads together is what [d_head] is for each alone, one after another."""
    model, value = sweeps.model(MODEL), torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    together = Intervention((Change("L1.z", source=Constant(value)),))
    one_by_one = Intervention(tuple(Change(f"L1H{h}.z", source=Constant(value[h])) for h in range(4)))
    ds = patch(model, pairs, [together, one_by_one], third, strategy=strategy)["value"]
    np.testing.assert_allclose(ds.isel(cell=0), ds.isel(cell=1), atol=1e-5)


@STRATEGIES
def test_noise_is_added_where_it_should_be(strategy: Any, mixed: Pairs) -> None:
    noise = Noise(0.7, seed=2)
    values = recorded([p.corrupted for p in mixed])
    expected = []
    for i, (pair, value) in enumerate(zip(mixed, values, strict=True)):
        drawn = noise.draw(i, (len(pair.clean.text), 32)).float()
        expected.append(written(pair.corrupted, {p: value[p] + drawn[p] for p in range(len(value))}))
    check(found(mixed, ..., noise, strategy, edit=Add()), expected)


def test_noise_does_not_depend_on_rows_strategy_or_neighbours(mixed: Pairs) -> None:
    model, where = sweeps.model(MODEL), grid("resid_pre", layer=..., position=["subject", -1])
    options: dict[str, Any] = {"source": Noise(1.0), "edit": Add()}
    reference = patch(model, mixed, where, third, strategy="serial", **options)["value"]
    for rows in (1, 3, 1000):
        np.testing.assert_allclose(patch(model, mixed, where, third, rows=rows, **options)["value"], reference, atol=2e-5)
    few = patch(model, mixed[:2], where, third, **options)["value"]
    np.testing.assert_allclose(few, reference.isel(example=[0, 1]), atol=2e-5)
    other = patch(model, mixed, where, third, source=Noise(1.0, seed=1), edit=Add())["value"]
    assert float(abs(other - reference).min()) > 0


@STRATEGIES
def test_a_source_in_float64_is_cast_to_the_models_dtype(strategy: Any, pairs: Pairs) -> None:
    vector = torch.randn(32, dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        ds = patch(sweeps.model(MODEL, dtype), pairs, grid("L1.resid_post"), third, source=Constant(vector), strategy=strategy)
        assert str(ds["value"].dtype) == str(dtype).removeprefix("torch.")


# what does not fit


def test_spans_of_different_width_name_the_example(mixed: Pairs) -> None:
    with pytest.raises(
        ShapeMismatchError, match="in example 0 the target has 1 tokens, the source 2; spans must be equally long"
    ):
        found(mixed, "end", Activation(positions=[0, 1]), "batched")


def test_positions_of_another_prompt_are_checked(mixed: Pairs) -> None:
    with pytest.raises(UserError, match=r"source position of L1.resid_post 3 is past the end of example 0, which has 2 tokens"):
        found(mixed, 3, Activation((1, 2)), "batched")


def test_every_source_run_is_made_once(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass for the clean and one for the corrupted run, however many cells read them."""
    model, reads = sweeps.model(MODEL), []
    run = type(model.backend).run

    def spy(self: Any, inputs: Any, reads_: Any = None, writes: Any = None, **kw: Any) -> Any:
        wanted = kw.get("reads", reads_)
        if not kw.get("writes", writes) and {s.name for s in wanted} - {"logits"}:
            reads.append(sorted(map(repr, wanted)))
        return run(self, inputs, wanted, kw.get("writes", writes))

    monkeypatch.setattr(type(model.backend), "run", spy)
    parts = [Intervention.of(f"L{i}.resid_post@end") for i in range(3)] + [Intervention.of("L1H0.z", source=mean("base"))]
    ds = patch(model, pairs, parts)
    assert len(reads) <= 2
    assert effects.effect(ds).notnull().all()


def test_positions_are_the_sources_own_in_prompts_of_different_length(seed: int) -> None:
    """Roles of clean and corrupted prompts of different length: each side's own columns, by hand."""
    ragged = sweeps.random_pairs(seed, [6, 5, 7], longer=[1, 2, -1])
    values = recorded([p.clean for p in ragged])
    expected = []
    for pair, value in zip(ragged, values, strict=True):
        (a, b), (c, d) = pair.clean.roles["subject"], pair.corrupted.roles["subject"]
        assert b - a == d - c
        expected.append(written(pair.corrupted, dict(zip(range(c, d), value[a:b], strict=True))))
    for strategy in ("serial", "batched"):
        check(found(ragged, "subject", Activation(), strategy), expected)
    assert Positions.parse("subject").role == "subject"


def test_a_source_prompt_begins_as_the_sweeps_prompts_do(seed: int) -> None:
    """bos=True for the pairs: then position 0 of a text given as source is the BOS too."""
    names = ["<s>", *(f"w{i}" for i in range(1, tiny.VOCAB))]
    inner = Tokenizer(tokenizer_models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="<s>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model = load(tiny.gpt2(seed), tokenizer=PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>"))
    pair = Pair(Prompt("w1 w2 w3"), Prompt("w4 w2 w3"), ("w5",), ("w6",))
    encoded = model.encode(Pairs((pair,)), bos=True)
    where = grid("L1.resid_post", position=-1)
    as_text = patch(model, encoded, where, third, source=Activation("w7 w8", positions=0))
    as_ids = patch(model, encoded, where, third, source=Activation((0, 7, 8), positions=0))
    np.testing.assert_array_equal(as_text["value"], as_ids["value"])


def test_a_mean_beyond_every_source_prompt_is_named() -> None:
    """One prompt of three tokens has no mean for the later tokens of the base."""
    model = sweeps.model("gpt2")
    pair = Pair(Prompt((1, 2, 3, 4, 5)), Prompt((1, 2, 9, 4, 5)), (5,), (6,))
    source = Activation((7, 8, 9), pool="mean")
    with pytest.raises(ShapeMismatchError, match="example 0 needs the mean at position 4, which no prompt of the source has"):
        patch(model, [pair], grid("L1.resid_post", position=-1), source=source)
