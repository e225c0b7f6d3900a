"""Choices of activation patching: the ground truths of card 1 that no identity test has, and what the report says.

Card 1 elsewhere: tests 1, 2, 3, 4 and 8 are in ``tests/ground_truth/test_identities.py`` (the whole stream, the cut identity,
linear networks, ways of saying one head, cells before the first difference); of test 7 every strategy too.
"""

from __future__ import annotations

import inspect
from typing import Any

import nets_gates
import numpy as np
import pytest
import sweeps
import torch
import xarray as xr

import interp
from interp import effects
from interp.engine import patch
from interp.engine.embeddings import embedding_std
from interp.errors import HeadOutOfRangeError, InputError, UnknownNameError
from interp.interventions import Activation, Add, Change, Noise, zero
from interp.methods.localise.activation_patching import Choice, compare_choices
from interp.sites import grid
from interp.store import Store

HEADS = grid("z", layer=..., head=...)
BOTH = "L0.z"
KINDS = ["gpt2", "llama", "neox", "gemma2"]
METRICS = ["logit_diff", "prob", "kl"]


@pytest.mark.parametrize(
    ("kind", "alone"), [("or", {"denoising": 1.0, "noising": 0.0}), ("and", {"denoising": 0.0, "noising": 1.0})]
)
def test_redundant_and_necessary_sources_need_opposite_directions(kind: Any, alone: dict[str, float]) -> None:
    """Card 1.6: of min(1, a + b) either source is enough, of min(a, b) both are needed; so by hand 1 and 0, and 0 and 1."""
    model, pairs = nets_gates.gates(kind)
    found = compare_choices(model, pairs, HEADS, "logit_diff", corruptions=["str"])
    for choice, ds in found.effects.items():
        np.testing.assert_allclose(found.map(choice), alone[choice.patching], rtol=0, atol=1e-12)
        whole = effects.value_of(patch(model, pairs, [interp.Intervention.of(BOTH)], patching=choice.patching), _of(choice))
        np.testing.assert_allclose(whole, 1.0, rtol=0, atol=1e-12)
        assert ds.attrs["corrupted_by"] == "str"


def test_probability_misses_the_head_that_lowers_an_unlikely_answer() -> None:
    """Card 1.5: the head's logit difference is −2α by hand, and P(answer) ≈ 0 moves by less than 1e-6."""
    model, pairs = nets_gates.gates("opposed")
    found = compare_choices(model, pairs, HEADS, METRICS, patching="denoising", corruptions=["str"])
    (ds,) = found.effects.values()
    change = interp.effect(ds).isel(example=0, layer=0)
    np.testing.assert_allclose(change.sel(metric="logit_diff"), [6.0, -2 * nets_gates.ALPHA], rtol=0, atol=1e-12)
    assert float(abs(change.sel(metric="prob")).max()) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_every_choice_is_the_sweep_that_it_names(kind: str, seed: int) -> None:
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [6, 6, 6], early=True)
    where = {"heads": HEADS, "mlp": grid("mlp_out", layer=..., position=[-2, -1])}
    corruptions = ("str", "noise", "zero", "mean", "resample")
    found = compare_choices(model, pairs, where, METRICS, corruptions=corruptions, windows=(1, 2), seed=3)
    assert len(found.effects) == 7 * 3  # both directions of two corruptions, one of three; heads, and MLPs in two windows
    std = 3 * embedding_std(model, pairs)
    options: dict[str, dict[str, Any]] = {
        "str": {},
        "noise": {"corruption": Change("embed", "subject", Noise(std, 3), Add())},
        "zero": {"source": zero()},
        "mean": {"source": Activation("base", pool="mean", over=("example", "span"))},
        "resample": {"source": Activation("base", pool="resample", seed=3)},
    }
    for choice, ds in found.effects.items():
        alone = grid("mlp_out", layer=..., position=[-2, -1], window=choice.window) if choice.family == "mlp" else HEADS
        own = patch(model, pairs, alone, METRICS, patching=choice.patching, **options[choice.corruption])  # type: ignore[arg-type]
        for name in ("value", "clean", "corrupt"):
            np.testing.assert_allclose(ds[name], own[name], rtol=0, atol=1e-5, err_msg=f"{choice} {name}")
    assert found.metrics == METRICS


def test_kl_is_normalised_by_what_corruption_costs(seed: int) -> None:
    """Card 1, step 4: (D(clean ‖ corrupted) − D(clean ‖ patched)) / D(clean ‖ corrupted), from the definition."""
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [6, 6, 6], early=True)
    found = compare_choices(model, pairs, HEADS, "kl", corruptions=["str"], patching="denoising")
    ((choice, ds),) = found.effects.items()
    np.testing.assert_array_equal(ds["clean"], 0.0)
    corrupted, patched = (ds[name].sel(metric="kl").mean("example") for name in ("corrupt", "value"))
    np.testing.assert_allclose(found.map(choice), (corrupted - patched) / corrupted, rtol=1e-12, atol=1e-14)
    encoded = model.encode(pairs)
    with torch.no_grad():
        clean, other = (
            model.module(input_ids=side.ids).logits[:, -1].log_softmax(-1) for side in (encoded.clean, encoded.corrupted)
        )
    np.testing.assert_allclose(ds["corrupt"][0], (clean.exp() * (clean - other)).sum(-1), rtol=1e-10)


def test_noise_is_the_same_in_every_row(seed: int) -> None:
    """Card 1.7: rows of one batch are those of one row a pass, so the draw belongs to the example and not to the row."""
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [6, 5, 7], early=True)
    one, many = (
        compare_choices(model, pairs, HEADS, "logit_diff", corruptions=["noise"], rows=rows).effects for rows in (1, None)
    )
    for choice in one:
        np.testing.assert_allclose(one[choice]["value"], many[choice]["value"], rtol=0, atol=1e-12)
    other = compare_choices(model, pairs, HEADS, "logit_diff", corruptions=["noise"], seed=1).effects
    assert all(float(abs(one[choice]["corrupt"] - other[choice]["corrupt"]).max()) > 1e-6 for choice in one)


def test_what_is_flagged_and_how_maps_agree() -> None:
    """By hand: of 0 × 8, 1 and −1 the deviation is √0.2 ≈ 0.447, so that only the two are 2 of them away."""
    cells = xr.DataArray([0.0] * 8 + [1.0, -1.0], {"head": range(10)}, dims="head")
    assert effects.flagged(cells).values.tolist() == [0] * 8 + [1, -1]
    assert effects.flagged(cells, deviations=3).values.tolist() == [0] * 10
    assert effects.flagged(cells * 0 + 0.3).values.tolist() == [0] * 10
    other = xr.DataArray([0.0] * 9 + [-1.0], {"head": range(10)}, dims="head")
    found = effects.overlap(cells, other)
    assert (found.both, found.either, found.share) == (1, 2, 0.5)
    assert effects.overlap(cells, cells)[:3] == (pytest.approx(1.0), 2, 2)
    assert np.isnan(effects.overlap(cells * 0, cells * 0).share)


def test_the_tables(seed: int) -> None:
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [6, 6, 6], early=True)
    where = {"mlp": grid("mlp_out", layer=..., position=[-2, -1])}
    found = compare_choices(model, pairs, where, METRICS, corruptions=["str"], windows=(1, 2))
    table, agreement, windows = found.table(), found.agreement(), found.windows()
    assert len(table) == 2 * 2 * 3  # directions, windows, metrics
    row = table.iloc[0]
    one = found.map(Choice("mlp", "denoising", "str", 1), "logit_diff")
    assert row.peak == pytest.approx(one.values.ravel()[np.abs(one.values).argmax()])
    assert row.flagged == len(row.above) + len(row.below) == int((effects.flagged(one) != 0).sum())
    assert len(agreement) == 2 * (6 * 5 // 2)
    assert agreement["rank_correlation"].between(-1.0001, 1.0001).all()
    single, at = one.values, windows.iloc[0]
    summed = np.stack([single[max(0, n - 1) : n + 1].sum(0) for n in range(len(single))])  # a window of 2 is [l − 1, l + 1)
    assert at.summed_peak == pytest.approx(summed.ravel()[np.abs(summed).argmax()])
    assert at.ratio == pytest.approx(at.peak / at.summed_peak)
    assert "mlp, windows of 2 layers, 3 examples" in repr(found)
    assert list(found.maps(metrics=["kl"], windows=[1])) == ["denoising · str · kl", "noising · str · kl"]


def test_sweeps_are_kept(tmp_path: Any, seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 6], early=True)
    options: dict[str, Any] = {"corruptions": ("str", "noise", "zero"), "store": tmp_path, "name": "compared"}
    first, second = (compare_choices(model, pairs, **options) for _ in range(2))
    assert len(Store(tmp_path).runs()) == 5
    for choice in first.effects:
        xr.testing.assert_equal(first.effects[choice], second.effects[choice])


def test_one_word_is_as_a_list_of_it(seed: int) -> None:
    model, pairs, where = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 6]), grid("mlp_out", layer=..., position=[-1])
    one = compare_choices(model, pairs, where, "kl", patching="noising", corruptions="str", windows=2)
    many = compare_choices(model, pairs, where, ["kl"], patching=["noising"], corruptions=["str"], windows=[2])
    assert list(one.effects) == list(many.effects)
    assert [choice.window for choice in one.effects] == [2]
    for choice in one.effects:
        xr.testing.assert_equal(one.effects[choice], many.effects[choice])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"corruptions": ["swap"]}, UnknownNameError, "unknown corruption 'swap'"),
        ({"patching": "denoise"}, UnknownNameError, "unknown patching 'denoise'; did you mean 'denoising' or 'noising'?"),
        ({"corruptions": ["zero"], "patching": "denoising"}, InputError, "leave nothing to run; 'zero', 'mean' and 'resample'"),
        ({"where": {}}, InputError, "where is an empty mapping"),
        ({"windows": 0}, HeadOutOfRangeError, "windows=(0,): give numbers of adjacent layers, 1 at least"),
        ({"where": {"one": Change("L0.z")}}, InputError, "choices are compared on grids and sites"),
    ],
)
def test_wrong_use(options: dict[str, Any], error: type[Exception], message: str, seed: int) -> None:
    with pytest.raises(error) as caught:
        inspect.unwrap(compare_choices)(sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 6]), **options)
    assert message in str(caught.value)


def test_a_choice_that_was_not_made_is_refused(seed: int) -> None:
    found = compare_choices(sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 6], early=True), corruptions=["str"])
    with pytest.raises(UnknownNameError, match="unknown choice 'heads · noising · noise'"):
        found.map(Choice("heads", "noising", "noise", 1))
    with pytest.raises(UnknownNameError, match=r"unknown family 'mlp' \(known: heads\)"):
        found.maps("mlp")


def _of(choice: Choice) -> str:
    return "recovery" if choice.patching == "denoising" else "damage"
