"""The multiverse: every analysis is what patching gives, and what is counted is counted right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sweeps

from interp import effects
from interp.engine import patch
from interp.errors import InputError, UnknownNameError
from interp.interventions import Add, Change, Constant, Noise
from interp.methods.localise.multiverse import CHOICES, multiverse
from interp.prompts import Pair, Pairs
from interp.sites import grid
from interp.store import Store

WHERE = grid("z", head=..., position=[-1])
NOISE = Change("embed", [2], Noise(0.5), Add())
CORRUPTIONS: Any = {"own": None, "noise": NOISE, "zero": "zero"}
WORDS: Any = {"own": {}, "noise": {"corruption": NOISE}, "zero": {"source": Constant(0.0)}}


def pairs_of(seed: int, many: int = 12) -> Pairs:
    """Two templates, with as many examples each."""
    drawn = sweeps.random_pairs(seed, [6] * many)
    return Pairs(tuple(Pair(p.clean, p.corrupted, 11, 23, template=f"t{n % 2}") for n, p in enumerate(drawn)), "toy")


def test_every_combination_is_an_analysis() -> None:
    found = multiverse(
        sweeps.model("gpt2"), pairs_of(141), WHERE, {"own": None, "noise": NOISE, "zero": "zero"}, ["logit_diff", "kl"]
    )
    # two directions of two corruptions and one of ablation, two metrics, three normalisations, three groups
    assert found.sizes["analysis"] + found.attrs["left_out"] == 5 * 2 * 3 * 3
    made = {tuple(str(found[name].values[n]) for name in CHOICES) for n in range(found.sizes["analysis"])}
    assert len(made) == found.sizes["analysis"]
    assert set(found["patching"].values[found["corruption"].values == "zero"]) == {"noising"}
    assert set(zip(found["group"].values.tolist(), found["n"].values.tolist(), strict=True)) == {
        ("all", 12),
        ("t0", 6),
        ("t1", 6),
    }
    np.testing.assert_allclose(found["share"], found["matters"].mean("analysis"))
    np.testing.assert_array_equal(found["matters"], abs(found["z"]) >= 2)


def one(found: Any, **choice: str) -> Any:
    which = np.logical_and.reduce([found[name].values == value for name, value in choice.items()])
    return found.isel(analysis=int(np.flatnonzero(which)[0]))


@pytest.mark.parametrize(
    ("direction", "corruption"),
    [("denoising", "own"), ("noising", "own"), ("denoising", "noise"), ("noising", "noise"), ("noising", "zero")],
)
def test_scores_are_those_of_patching(direction: Any, corruption: str) -> None:
    """Expected: interp.patch by itself; recovery when denoising, damage when noising, over the examples of the group."""
    model, pairs = sweeps.model("llama"), pairs_of(142)
    found = multiverse(model, pairs, WHERE, CORRUPTIONS, ["kl", "logit_diff"])
    swept = patch(model, pairs, WHERE, ["kl", "logit_diff"], patching=direction, **WORDS[corruption])
    half = swept.isel(example=list(range(1, 12, 2)))
    ratio = effects.recovery if direction == "denoising" else effects.damage
    for metric in ("kl", "logit_diff"):
        choice = {"patching": direction, "corruption": corruption, "metric": metric, "group": "t1"}
        difference = (half["clean"] - half["corrupt"]).sel(metric=metric).mean().item()
        expected = ratio(half).sel(metric=metric).values * abs(difference)
        got = one(found, **choice, normalisation="effect")
        np.testing.assert_allclose(got["score"], expected, rtol=0, atol=1e-4)
        np.testing.assert_allclose(got["z"], (expected - expected.mean()) / expected.std(), rtol=0, atol=1e-2)
        examples = ratio(half, "examples").sel(metric=metric).values
        np.testing.assert_allclose(one(found, **choice, normalisation="ratios")["score"], examples, rtol=1e-3, atol=1e-4)
        moved = ((half["value"] - half["corrupt"]) if direction == "denoising" else (half["clean"] - half["value"])).sel(
            metric=metric
        )
        t = np.sign(difference) * moved.mean("example") / (moved.std("example", ddof=1) / 6**0.5)
        np.testing.assert_allclose(one(found, **choice, normalisation="t")["score"], t, rtol=1e-3, atol=1e-3)


def test_sweeps_are_kept_and_not_run_again(tmp_path: object) -> None:
    model, pairs, store = sweeps.model("gpt2"), pairs_of(143), Store(str(tmp_path))
    words: Any = {"metrics": ["logit_diff"], "store": store, "name": "m"}
    first = multiverse(model, pairs, WHERE, ("counterfactual", "mean"), **words)
    assert sorted(store.runs()["name"]) == ["m, counterfactual, denoising", "m, counterfactual, noising", "m, mean, noising"]
    again = multiverse(model, pairs, WHERE, ("counterfactual", "mean", "zero"), **words)
    assert len(store.runs()) == 4
    kept = again.isel(analysis=again["corruption"].values != "zero")
    np.testing.assert_array_equal(first["score"], kept["score"])


def test_other_counterfactuals_and_no_groups() -> None:
    model, pairs = sweeps.model("gpt2"), pairs_of(144)
    other = Pairs(tuple(Pair(a.clean, b.corrupted, 11, 23) for a, b in zip(pairs, pairs_of(145), strict=True)))
    found = multiverse(model, pairs, WHERE, {"own": None, "other": other}, ["logit_diff"], groups=None)
    assert set(found["group"].values) == {"all"}
    assert set(found["corruption"].values) == {"own", "other"}


def test_what_is_no_multiverse() -> None:
    model, pairs = sweeps.model("gpt2"), pairs_of(146)
    with pytest.raises(InputError, match=r"where holds several families \(a\); a multiverse is of one"):
        multiverse(model, pairs, {"a": "z"})
    with pytest.raises(UnknownNameError, match="corruption"):
        multiverse(model, pairs, WHERE, ["means"])
    with pytest.raises(UnknownNameError, match="groups"):
        multiverse(model, pairs, WHERE, groups="templates")
    with pytest.raises(InputError, match=r"corruptions\['x'\] has other clean prompts than pairs"):
        multiverse(model, pairs, WHERE, {"x": pairs_of(147)})
    with pytest.raises(InputError, match="zero, mean and resample are noised alone"):
        multiverse(model, pairs, WHERE, ["zero"], patching=["denoising"])
    alone = Pairs(tuple(Pair(p.clean, p.clean, 11, 23) for p in pairs))
    with pytest.raises(InputError, match="pairs are prompts without counterfactuals"):
        multiverse(model, alone, WHERE, ["mean"])


def test_one_word_is_a_list_of_one() -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(97, [6, 6, 6, 6])
    where = grid("z", layer=..., head=..., position=[-1])
    options: Any = {"patching": "noising", "normalisations": "effect", "groups": None}
    one = multiverse(model, pairs, where, "zero", "kl", **options)
    listed = {name: [word] if word else None for name, word in options.items()}
    several = multiverse(model, pairs, where, ["zero"], ["kl"], **listed)
    assert one.sizes["analysis"] == 1
    np.testing.assert_array_equal(one["score"], several["score"])


def test_analyses_that_there_are_not() -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(98, [6, 6, 6, 6])
    where = grid("z", layer=..., head=..., position=[-1])
    with pytest.raises(InputError, match=r"normalisations is empty; give some of 'effect', 'ratios', 't'"):
        multiverse(model, pairs, where, "zero", normalisations=[])
    with pytest.raises(InputError, match=r"patching is empty; give some of 'denoising', 'noising'"):
        multiverse(model, pairs, where, "zero", patching=[])
    for none in (-1, 0, "2"):
        with pytest.raises(InputError, match=r"deviations=.*; expected a number of standard deviations above 0, such as 2.0"):
            sweeps.unchecked(multiverse)(model, pairs, where, "zero", deviations=none)


def test_few_components_cannot_stand_out() -> None:
    """Of n numbers none is more than √(n − 1) of their standard deviations from their mean: 5 reach 2, 4 do not."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(99, [6, 6, 6, 6])
    heads = grid("z", layer=[0], head=..., position=[-1])
    assert model.sizes["head"] == 4
    with pytest.raises(
        InputError, match=r"where holds 4 components, of which none can be 2 standard .* their mean; give 5 at least"
    ):
        multiverse(model, pairs, heads, "zero", "kl")
    assert multiverse(model, pairs, heads, "zero", "kl", deviations=1.5).sizes["head"] == 4
    five = grid("z", layer=[0], head=..., position=[-1, -2])
    assert multiverse(model, pairs, five, "zero", "kl").sizes["position"] == 2
