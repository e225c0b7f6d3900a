"""Positional patterns (card 10): three vectors by hand, kernels that are relative, and scores against transformers' patterns.

Tolerance: 1e-10 × (1 + max) in float64; Monte-Carlo means within 3 standard errors, with seeds fixed.
"""

from __future__ import annotations

import math
from typing import Any

import anything
import numpy as np
import pytest
import sweeps
import tiny
import torch
from torch import Tensor

from interp import views
from interp.doctor import architectures
from interp.engine.single.cache import cache
from interp.errors import HeadOutOfRangeError, InputError, ShapeMismatchError, UnknownNameError, UnknownSiteError
from interp.interventions import Change, Context, Intervention
from interp.methods.localise import positional_patterns as module
from interp.methods.localise.positional_patterns import centred, positional_patterns, simulated_patterns
from interp.models import load
from interp.prompts import Prompt

KINDS = ["gpt2", "llama", "neox", "gemma2"]


def texts(seed: int, count: int, length: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    return [tuple(int(token) for token in row) for row in rng.integers(0, tiny.VOCAB, (count, length))]


def reference(kind: str, ids: tuple[int, ...]) -> np.ndarray:
    """``[layer, head, position, source_position]`` of log patterns, which are scores up to a constant of each row."""
    own = sweeps.model(kind).module
    before = own.config._attn_implementation
    own.set_attn_implementation("eager")
    with torch.no_grad():
        found = own(torch.tensor([ids]), output_attentions=True).attentions
    own.set_attn_implementation(before)
    return torch.stack([layer[0] for layer in found]).double().log().numpy()


def test_three_orthonormal_tokens_by_hand() -> None:
    """Card 10.1: y₂ = (a, 1+ea, 0) and y₃ = (b, b, 1+eb) with a = 1/(1+e), b = 1/(2+e); the next layer's cosines to 5e-5."""
    found = simulated_patterns(inputs=np.eye(3)[None], layers=1)
    a, b = 1 / (1 + math.e), 1 / (2 + math.e)
    y2, y3 = np.array([a, 1 + math.e * a, 0]), np.array([b, b, 1 + math.e * b])
    lengths = np.linalg.norm(y2), np.linalg.norm(y3)
    by_hand = [a / lengths[0], b / lengths[1], y2 @ y3 / (lengths[0] * lengths[1])]
    next_layer = found.score.sel(layer=1).values
    cosines = [next_layer[1, 0], next_layer[2, 0], next_layer[2, 1]]
    np.testing.assert_allclose(cosines, by_hand, rtol=1e-12)
    np.testing.assert_allclose(cosines, [0.1535, 0.1321, 0.1508], atol=5e-5)
    assert np.isnan(next_layer[np.triu_indices(3, 1)]).all()
    np.testing.assert_array_equal(np.tril(found.score.sel(layer=0).values), np.eye(3))


@pytest.mark.parametrize("masked", [True, False])
def test_one_vector_everywhere_has_scores_of_one_in_every_layer(masked: bool) -> None:
    """Card 10.2: ρ = 1."""
    found = simulated_patterns(cosine=1.0, sequences=3, length=6, width=5, masked=masked)
    known = found.score.values[np.isfinite(found.score.values)]
    assert known.size == 5 * (21 if masked else 36)
    np.testing.assert_allclose(known, 1, atol=1e-12)
    np.testing.assert_allclose(found.norm, 0, atol=1e-10)


def test_without_a_mask_exchangeable_inputs_have_constant_means_and_with_it_they_have_not() -> None:
    """Card 10.2, in every layer, over 24 independent simulations: deviations from the mean off the diagonal within 3 standard
    errors of it, which of 30 entries a layer one exceeds in 8% of seeds; 3.5 are allowed for the largest of all."""
    off = ~np.eye(6, dtype=bool)

    def deviations(masked: bool) -> np.ndarray:
        below = off if not masked else np.tril(off)
        runs = [simulated_patterns(cosine=0.3, sequences=100, length=6, width=8, masked=masked, seed=s) for s in range(24)]
        entries = np.stack([run.score.values[:, below] for run in runs])
        entries -= entries.mean(-1, keepdims=True)
        return np.abs(entries.mean(0)) / (entries.std(0, ddof=1) / math.sqrt(len(runs)))

    assert deviations(False).max() < 3.5
    masked = deviations(True)
    assert masked[0].max() < 3.5, "nothing was attended to yet"
    assert (masked[1:].max(-1) > 10).all()


@pytest.mark.parametrize("cosine", [0.0, 0.4])
def test_inputs_have_the_mean_cosine_that_was_asked_for(cosine: float) -> None:
    found = simulated_patterns(cosine=cosine, sequences=400, length=6, width=64, seed=3)
    assert float(found.profile.sel(layer=0, distance=slice(1, None)).mean()) == pytest.approx(cosine, abs=0.02)
    np.testing.assert_allclose(found.profile.sel(distance=0), 1, atol=1e-12)


def test_diagonal_centring_is_idempotent_and_maps_toeplitz_to_zero(seed: int) -> None:
    """Card 10.3, also of the causal half alone."""
    rng = np.random.default_rng(seed)
    whole = rng.normal(size=(2, 7, 7))
    half = np.where(np.tril(np.ones((7, 7), bool)), whole, np.nan)
    for scores in (whole, half):
        once = centred(scores)
        np.testing.assert_allclose(centred(once), once, atol=1e-10)
        for distance in range(7):
            np.testing.assert_allclose(np.diagonal(once, -distance, 1, 2).sum(-1), 0, atol=1e-10)
    by_distance = rng.normal(size=13)
    toeplitz = np.array([[by_distance[i - j + 6] for j in range(7)] for i in range(7)])
    np.testing.assert_allclose(centred(toeplitz), 0, atol=1e-10)


def test_shuffled_inputs_permute_scores_without_a_mask_and_keep_the_profile_with_it() -> None:
    """Card 10.4: the same permutation of every sequence exactly; with the mask the profile within 3 standard errors, which are
    taken from 24 independent lots."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(2400, 6, 8)) + rng.normal(size=(2400, 1, 8))
    order = rng.permutation(6)
    plain = simulated_patterns(inputs=x[:50], masked=False)
    shuffled = simulated_patterns(inputs=x[:50, order], masked=False)
    np.testing.assert_allclose(shuffled.score.values, plain.score.values[:, order][..., order], atol=1e-10)
    differences = np.stack(
        [
            (simulated_patterns(inputs=lot[:, order]).profile - simulated_patterns(inputs=lot).profile).values[1:, 1:]
            for lot in x.reshape(24, 100, 6, 8)
        ]
    )
    errors = differences.std(0, ddof=1) / math.sqrt(24)
    assert (np.abs(differences.mean(0)) < 3 * errors).all()
    assert float(simulated_patterns(inputs=x).slope[1:].max()) < 0, "what is nearer scores higher"


def test_batches_of_sequences_change_nothing(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(11, 5, 4))
    drawn: dict[str, Any] = {"sequences": 11, "length": 5, "width": 4, "cosine": 0.3, "seed": seed}
    at_once = simulated_patterns(inputs=x), simulated_patterns(**drawn)
    monkeypatch.setattr(module, "_NUMBERS", 1)
    in_pairs = simulated_patterns(inputs=x), simulated_patterns(**drawn)
    for name in ("score", "centred", "noise", "slope"):
        for one, other in zip(in_pairs, at_once, strict=True):
            np.testing.assert_allclose(one[name], other[name], atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_a_model_are_those_before_its_softmax(kind: str, seed: int) -> None:
    """Expected: transformers' patterns, whose logarithms are scores up to a constant of each row; windows are masked too."""
    given = texts(seed, 3, 7)
    found = positional_patterns(sweeps.model(kind), given, by="head")
    assert found.score.dims == ("layer", "head", "position", "source_position")
    expected = np.mean([reference(kind, ids) for ids in given], axis=0)
    hidden = ~np.isfinite(expected)
    assert (np.isnan(found.score.values) == hidden).all()
    expected[hidden] = np.nan
    for scores in (found.score.values, expected):
        scores -= np.nanmean(scores, -1, keepdims=True)
    np.testing.assert_allclose(found.score.values, expected, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_averages_do_not_depend_on_how_many_are_run_together(kind: str, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """By layer it is the mean over heads; and so is a batch of one layer of one text at a time."""
    model, given = sweeps.model(kind), texts(seed, 5, 7)
    by_head, by_layer = positional_patterns(model, given, by="head"), positional_patterns(model, given)
    np.testing.assert_allclose(by_layer.score, by_head.score.mean("head", skipna=False), atol=1e-5)
    monkeypatch.setattr(module, "_NUMBERS", 1)
    one_by_one = positional_patterns(model, given)
    for name in ("score", "noise", "norm", "profile"):
        np.testing.assert_allclose(one_by_one[name], by_layer[name], atol=1e-4)


def test_summaries_by_hand(seed: int) -> None:
    """Loops over distances and texts; the slope by numpy's weighted fit."""
    model, given = sweeps.model("gpt2"), texts(seed, 4, 6)
    found = positional_patterns(model, given, layers=[2, 1], length=6)
    assert found.layer.values.tolist() == [1, 2]
    assert found.attrs["n_texts"] == 4
    for layer in (1, 2):
        one = found.sel(layer=layer)
        score = one.score.values
        means = [np.mean([score[i, i - d] for i in range(d, 6)]) for d in range(6)]
        np.testing.assert_allclose(one.profile, means, atol=1e-10)
        assert one.entries.values.tolist() == [6, 5, 4, 3, 2, 1]
        slope = np.polyfit(range(1, 6), means[1:], 1, w=np.sqrt([5, 4, 3, 2, 1]))[0]
        assert float(one.slope) == pytest.approx(slope, abs=1e-10)
        left = [score[i, j] - means[i - j] for i in range(6) for j in range(i + 1)]
        assert float(one.norm) == pytest.approx(np.linalg.norm(left), abs=1e-10)
        assert float(one.rms) == pytest.approx(np.sqrt(np.sum(np.square(left)) / 15), abs=1e-10)  # 21 entries, 6 means
        pairs = [positional_patterns(model, given[half::2]).sel(layer=layer).centred.values for half in range(2)]
        assert float(one.noise) == pytest.approx(np.sqrt(np.nansum(((pairs[0] - pairs[1]) / 2) ** 2)), abs=1e-5)


def test_a_relative_kernel_leaves_nothing(seed: int) -> None:
    """Scores that are the distance: M̃ is 0, and the slope what was put in."""

    def relative(h: Tensor, ctx: Context) -> Tensor:
        keys = torch.arange(h.shape[-1])
        return torch.where(h > -1e30, -0.5 * (ctx.positions[:, None, :, None] - keys), h)

    forced = Intervention(tuple(Change(f"L{layer}.scores", edit=relative) for layer in range(tiny.LAYERS)))
    found = positional_patterns(sweeps.model("llama"), texts(seed, 3, 7), given=forced)
    np.testing.assert_allclose(found.norm, 0, atol=1e-10)
    np.testing.assert_allclose(found.slope, -0.5, atol=1e-10)
    assert "L0.scores" in found.attrs["given"]


def test_positions_stand_out_of_the_noise_where_a_model_has_them() -> None:
    """Of random tokens the first layer of a rotary model sees distances alone, one with learned positions more."""
    given = texts(1, 400, 8)
    rotary, learned = (positional_patterns(sweeps.model(kind), given, layers=0) for kind in ("llama", "gpt2"))
    assert rotary.norm.item() < 1.5 * rotary.noise.item()
    assert learned.norm.item() > 3 * learned.noise.item()
    alone = positional_patterns(sweeps.model("gpt2"), given[:1], layers=0)
    assert np.isnan(alone.noise.item()), "one text has no noise of its own"


def test_the_beginning_is_left_out_and_texts_are_cut(seed: int) -> None:
    model, given = sweeps.model("gpt2"), texts(seed, 3, 9)
    whole = positional_patterns(model, [ids[:7] for ids in given])
    cut = positional_patterns(model, given, length=7, skip=2)
    assert cut.position.values.tolist() == [2, 3, 4, 5, 6]
    np.testing.assert_allclose(cut.score, whole.score[:, 2:, 2:], atol=1e-5)
    assert (cut.attrs["n_tokens"], cut.attrs["skip"]) == (7, 2)


def test_views_draw_what_it_finds() -> None:
    found = positional_patterns(sweeps.model("gpt2"), texts(2, 4, 9))
    assert views.heatmap(found.centred, slider="layer").data
    assert views.curve(found.profile, x="distance").data
    assert views.curve({"norm": found.norm, "noise": found.noise}, x="layer").data


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"prompts": [(1, 2, 3), (1, 2)]},
            ShapeMismatchError,
            r"text 1 has 2 tokens where 3 are averaged; give length=, at most 2",
        ),
        ({"length": 9}, ShapeMismatchError, r"text 0 has 6 tokens where 9 are averaged"),
        ({"length": 1}, InputError, r"length=1; expected how many tokens of every text are run, a whole number from 2 on"),
        ({"length": "6"}, InputError, r"length='6'; expected how many tokens"),
        ({"layers": []}, HeadOutOfRangeError, r"layers is empty; name one or several of \[0, 1, 2\], or None for all"),
        ({"skip": 5}, InputError, r"skip=5 of 6 positions; expected to leave at least two"),
        ({"layers": 3}, HeadOutOfRangeError, r"layers names 3, which has no scores; those of gpt2-0 are \[0, 1, 2\]"),
        ({"by": "heads"}, UnknownNameError, r"unknown by 'heads'; did you mean 'head'"),
    ],
)
def test_what_cannot_be_averaged_is_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"prompts": texts(0, 2, 6)} | arguments
    with pytest.raises(error, match=message):
        sweeps.unchecked(positional_patterns)(sweeps.model("gpt2"), given.pop("prompts"), **given)


def test_a_model_without_scores_is_refused_with_the_reason() -> None:
    with pytest.raises(UnknownSiteError, match="scores"):
        positional_patterns(architectures.loaded("mamba"), texts(0, 2, 6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cosine": 1.5}, r"cosine=1\.5; expected a mean cosine from 0 to 1"),
        ({"layers": 0}, r"layers=0; expected at least 1"),
        ({"length": 1}, r"length=1; expected at least 2"),
    ],
)
def test_simulations_that_are_none_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulated_patterns(**arguments)


@pytest.mark.parametrize("length", [None, 4])
def test_of_an_encoder_decoder_the_decoder_reads_behind_the_whole_text_of_the_encoder(length: int | None) -> None:
    """Scores by :func:`interp.cache` of the same prompts; a causal decoder's first tokens score as they do with more behind."""
    model = load(architectures.build("bart"), name="bart")
    said = texts(5, 3, 6)
    prompts = [Prompt(heard, target=one) for heard, one in zip(texts(6, 3, 5), said, strict=True)]
    found = positional_patterns(model, prompts, length=length)
    whole = cache(model, prompts, "scores").scores.astype(float).mean(("example", "head")).values
    below = np.tril_indices(length or 6)
    np.testing.assert_allclose(found.score.values[:, *below], whole[:, *below], rtol=0, atol=1e-5)
    assert np.isnan(found.score.values[:, *np.triu_indices(length or 6, 1)]).all()


def test_prompts_that_hold_more_than_a_text_are_not_cut() -> None:
    model = anything.model("llava")
    with pytest.raises(InputError, match=r"length=8 would cut prompts that hold more than a text \(.*pixel_values.*equally"):
        positional_patterns(model, [pair.clean for pair in anything.pairs(model, 0)], length=8)
