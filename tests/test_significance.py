"""What is told from chance in a result: tests over its cells, the strongest of them, seeds, and what was seen before."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from interp import effects
from interp.views import labels

ATTRS = {"patching": "denoising", "noise_floor": {"logit_diff": 1e-3}, "engine_semantics": 1, "spec": None}


def heads(rng, strength=(), layers=3, each=6, templates=8, examples=32, noise=0.4, **attrs):
    """Layer × head; the first cells have these effects, the others none, in noise that templates share in part."""
    clean, corrupt = rng.normal(3, 0.3, (1, examples)), rng.normal(-3, 0.3, (1, examples))
    template = np.arange(examples) % templates
    planted = np.zeros(layers * each)
    planted[: len(strength)] = strength
    change = planted[:, None] + noise * (
        np.sqrt(0.3) * rng.normal(size=(layers * each, templates))[:, template]
        + np.sqrt(0.7) * rng.normal(size=(layers * each, examples))
    )
    return effects.assemble(
        corrupt[:, None, None] + change.reshape(1, layers, each, examples),
        clean,
        corrupt,
        axes={"layer": range(layers), "head": range(each)},
        metrics=["logit_diff"],
        coords={
            "template": [f"t{i}" for i in template],
            "clean_prompt": [f"clean {i}" for i in range(examples)],
            "corrupted_prompt": [f"corrupted {i}" for i in range(examples)],
        },
        attrs=ATTRS | attrs,
    )


def test_what_was_planted_survives_and_nothing_else(seed):
    # An effect of 2 with a standard error of about 0.4·sqrt(0.3/8 + 0.7/32) = 0.1.
    ds = heads(np.random.default_rng(seed), [2, -2])
    found = effects.sign_flip(ds)
    assert found["p_adjusted"].dims == ("metric", "layer", "head")
    assert found["survives"].values[0, 0, :2].all()
    told = found.attrs["sign_flips"]
    assert told == {
        "flipped": "template", "units": 8, "cells": {"logit_diff": 18}, "level": 0.95, "smallest_p": 1 / 128, "exact": True,
    }  # fmt: skip
    table = effects.summary(ds, "recovery", flips=1000)
    for name in ("p_alone", "p_adjusted", "survives"):
        assert table[name].equals(found[name])
    assert table.attrs["sign_flips"] == told
    assert "p_adjusted" not in effects.summary(ds)


def test_under_the_null_cells_survive_in_one_map_of_twenty(seed):
    # 300 maps: 5% is known to 1.3 points.
    rng = np.random.default_rng(seed)
    named = [bool(effects.sign_flip(heads(rng), flips=200)["survives"].any()) for _ in range(300)]
    assert np.mean(named) < 0.05 + 4 * 0.013


@pytest.mark.parametrize(
    ("templates", "flipped", "some"), [(3, "example", True), (5, "template", False), (8, "template", True)]
)
def test_few_templates_are_not_passed_over(templates, flipped, some, seed):
    found = effects.sign_flip(heads(np.random.default_rng(seed), [9, 9], templates=templates))
    assert found.attrs["sign_flips"]["flipped"] == flipped
    assert found["survives"].any().item() == some
    by_example = effects.sign_flip(heads(np.random.default_rng(seed), [9, 9], templates=templates), clusters=None)
    assert by_example["survives"].any()


def test_cells_by_rule_absent_or_of_noise_are_not_looked_at(seed):
    ds = heads(np.random.default_rng(seed), [2, 2, 2, 2])
    ds["value"][0, 0, 0] = ds["corrupt"][0]
    ds["value"][0, 0, 1] = ds["corrupt"][0] + 9e-4  # the same in every example, and below the floor of 1e-3
    ds["value"][0, 0, 2] = np.nan
    found = effects.sign_flip(ds)
    assert found.attrs["sign_flips"]["cells"] == {"logit_diff": 15}
    assert np.isnan(found["p_adjusted"].values[0, 0]).tolist() == [True, True, True, False, False, False]
    assert found["survives"].values[0, 0, :4].tolist() == [False, False, False, True]


def test_families_are_tested_together(seed):
    """Expected: what one result with the cells of both gives, since cells of one example are flipped together."""
    rng = np.random.default_rng(seed)
    one, other = heads(rng, [2, -2], layers=5).isel(layer=slice(0, 3)), heads(rng, [0.3], layers=2)
    other = other.assign(clean=one["clean"], corrupt=one["corrupt"])
    both = xr.concat([one, other.assign_coords(layer=[3, 4])], "layer", data_vars="minimal")
    together, whole = effects.sign_flip_together({"one": one, "other": other}), effects.sign_flip(both)
    assert together["one"].attrs["sign_flips"] == together["other"].attrs["sign_flips"] == whole.attrs["sign_flips"]
    for name in ("p_alone", "p_adjusted", "survives", "low_adjusted", "high_adjusted"):
        np.testing.assert_array_equal(together["one"][name], whole[name].isel(layer=slice(0, 3)))
        np.testing.assert_array_equal(together["other"][name], whole[name].isel(layer=slice(3, 5)))
    assert (together["one"]["p_adjusted"] >= effects.sign_flip(one)["p_adjusted"]).all()


def test_families_of_other_examples_are_not_tested_together(seed):
    one = heads(np.random.default_rng(seed))
    with pytest.raises(effects.EffectsError, match=r"z and q differ in their examples; families that are tested together"):
        effects.sign_flip_together({"z": one, "q": one.isel(example=slice(0, 16))})
    renamed = one.assign_coords(metric=["prob"]).assign_attrs(noise_floor={"prob": 1e-3})
    with pytest.raises(effects.EffectsError, match=r"z and q differ in their metrics"):
        effects.sign_flip_together({"z": one, "q": renamed})


def test_a_mean_below_the_floor_does_not_survive(seed):
    ds = heads(np.random.default_rng(seed), [0.5], noise=1e-3, noise_floor={"logit_diff": 1.0})
    loud = ds.copy(deep=True)
    loud["value"][0, 0, 0, 0] += 2  # one example beyond the floor, so that the cell is tested; its mean is not
    found = effects.sign_flip(loud)
    assert found.attrs["sign_flips"]["cells"] == {"logit_diff": 1}
    assert found["p_adjusted"][0, 0, 0] <= 0.05
    assert not found["survives"].any()


def test_the_strongest_by_luck_lose_what_they_had_by_luck(seed):
    # 36 cells without effect, 40 maps. The standard error is 0.1; the largest of 36 is about 2.6 of them.
    rng = np.random.default_rng(seed)
    maps = [heads(rng, layers=6) for _ in range(40)]
    tables = [effects.top(ds, 1, seed=i) for i, ds in enumerate(maps)]
    first = pd.concat([t.assign(sign=np.sign(t["effect"])) for t in tables])
    assert first["effect"].abs().mean() > 0.15
    assert abs((first["effect_adjusted"] * first["sign"]).mean()) < 0.06  # spread of one 0.08, of the mean 0.013
    around = [effects.sign_flip(ds, seed=i) for i, ds in enumerate(maps)]
    covered = [bool(((one["low_adjusted"] <= 0) & (one["high_adjusted"] >= 0)).all()) for one in around]
    assert np.mean(covered) > 0.95 - 3 * 0.035  # all cells at once, so the strongest too
    assert (first["survives"] == (first["p_adjusted"] <= 0.05)).all()


def test_the_strongest_by_merit_lose_nothing(seed):
    ds = heads(np.random.default_rng(seed), [-2])
    table, test = effects.top(ds, 2), effects.sign_flip(ds)
    assert table["cell"][0] == "L0H0"
    assert table["effect_adjusted"][0] == pytest.approx(table["effect"][0], rel=1e-9)
    low, high = (test[end].values[0, 0, 0] for end in ("low_adjusted", "high_adjusted"))
    assert low < table["effect"][0] < high < 0
    assert high - low > table["high"][0] - table["low"][0]
    assert table.attrs["sign_flips"] == test.attrs["sign_flips"]
    ds = heads(np.random.default_rng(seed), [-2], templates=4)
    few, test = effects.top(ds, 1), effects.sign_flip(ds)
    assert np.isinf([test[end].values[0, 0, 0] for end in ("low_adjusted", "high_adjusted")]).all()
    assert few["p_adjusted"][0] >= 1 / 8  # however strong
    assert not few["survives"][0]
    assert effects.top(heads(np.random.default_rng(seed), [1]).isel(example=[0]), 1)["effect_adjusted"].isna().all()


@pytest.mark.parametrize("axis", ["head", "position"])
def test_the_table_of_the_strongest_fits_a_line(seed, axis):
    ds = heads(np.random.default_rng(seed), [-20, 11], layers=48, each=25)
    ds = ds if axis == "head" else ds.rename(head=axis).assign_coords(position=[f"role {i}" for i in range(25)])
    lines = effects.top(ds).to_string().splitlines()
    assert max(map(len, lines)) <= 120
    assert len(lines) == 11


def test_undefined_recoveries_have_no_number_and_no_interval(seed):
    # Differences of the baselines planted at 0 to 3 standard errors over templates.
    rng = np.random.default_rng(seed)
    ds = heads(rng, [5, 5])
    noise = rng.normal(size=8)[np.arange(32) % 8] + rng.normal(size=32)
    per_template = noise.reshape(4, 8).mean(0)
    se = per_template.std(ddof=1) / np.sqrt(8)
    for errors in (0, 1, 2, 3):
        ds["clean"] = ds["corrupt"] + (noise - noise.mean() + errors * se)
        for quantity in ("recovery", "damage"):
            for method in ("bootstrap", "t"):
                table = effects.summary(ds, quantity, method=method)
                assert table[["mean", "low", "high", "se"]].to_array().isnull().all()


def seeds(rng, share, count=3, **kinds):
    """Seeds that share a map to this degree, and have one of their own."""
    common = rng.normal(size=18)
    parts = [heads(np.random.default_rng(7), share * common + (1 - share) * rng.normal(size=18), **kinds) for _ in range(count)]
    one = parts[0]
    value = np.stack([part["value"].values[0] for part in parts])[None]
    stacked = one.drop_vars(["value", "clean", "corrupt", "by_rule"]).expand_dims(seed=range(count)).assign_coords(one.coords)
    dims = ("metric", "seed", "layer", "head", "example")
    return stacked.assign(
        value=(dims, value),
        clean=(("metric", "seed", "example"), np.repeat(one["clean"].values[:, None], count, 1)),
        corrupt=(("metric", "seed", "example"), np.repeat(one["corrupt"].values[:, None], count, 1)),
        by_rule=(dims[1:], np.zeros(value.shape[1:], bool)),
    )


def test_seeds_that_are_the_same_agree_and_others_do_not(seed):
    same, others = (effects.stability(seeds(np.random.default_rng(seed), share), 4) for share in (1.0, 0.0))
    assert same["rank_correlation"].dims == ("seed", "other")
    np.testing.assert_allclose(same["rank_correlation"], 1, rtol=1e-12)
    assert (same["in_top"].sum() == 4) & same["in_top"].isin([0, 1]).all()
    np.testing.assert_allclose(same["spread"], 0, atol=1e-12)
    assert (same["same_sign"] == 1).all()
    assert others["rank_correlation"].values[0, 1] < 0.9
    assert others["in_top"].sum() == pytest.approx(4)  # four in every seed
    assert (others["spread"] > 3 * others["within"]).mean() > 0.5
    assert same["mean"].dims == ("layer", "head")
    assert same.attrs["k"] == 4


def test_spread_within_is_what_examples_alone_give(seed):
    # The same map in every seed, with noise that all seeds share and noise of their own: only the latter is spread. Of 18 cells
    # and 8 seeds the variance has 126 degrees of freedom: 13%. Errors of single seeds would be five times as large.
    rng = np.random.default_rng(seed)
    ds = seeds(np.random.default_rng(seed), 1.0, count=8)
    ds["value"] = ds["value"] + rng.normal(size=(1, 1, 1, 1, 8))[..., np.arange(32) % 8] + rng.normal(size=ds["value"].shape)
    found = effects.stability(ds)
    assert 0.5 < (found["spread"] ** 2).mean() / (found["within"] ** 2).mean() < 1.9


def test_a_cell_that_a_seed_lacks_is_no_part_of_it(seed):
    ds = seeds(np.random.default_rng(seed), 1.0)
    ds["value"][0, 1, 0, 0] = np.nan
    found = effects.stability(ds)
    assert found[["mean", "spread", "in_top", "same_sign"]].isel(layer=0, head=0).to_array().isnull().all()
    np.testing.assert_allclose(found["rank_correlation"], 1, rtol=1e-12)


def test_stability_says_what_it_needs(seed):
    ds = heads(np.random.default_rng(seed))
    with pytest.raises(
        effects.EffectsError, match=r"places of the axis 'seed'; this result has the axes layer \(3\), head \(6\)"
    ):
        effects.stability(ds)
    with pytest.raises(effects.EffectsError, match=r"interp\.over\(models, …, axis='checkpoint'\)"):
        effects.stability(ds, axis="checkpoint")


def test_a_result_on_the_examples_that_chose_it_is_in_sample(seed):
    ds = heads(np.random.default_rng(seed), pairs_digest="abc")
    chosen = effects.top(ds.isel(example=slice(0, 16)))
    assert chosen.attrs["in_sample"]
    first, second = (effects.mark_in_sample(ds.isel(example=part), chosen) for part in (slice(8, 24), slice(16, 32)))
    assert (first.attrs["in_sample"], first.attrs["in_sample_examples"]) == (True, 8)
    assert (second.attrs["in_sample"], second.attrs["in_sample_examples"]) == (False, 0)
    shared = {*second["template"].values} & {*chosen.attrs["selected_on"]["templates"]}
    assert second.attrs["in_sample_templates"] == len(shared) > 0
    assert "in_sample" not in ds.attrs
    again = effects.mark_in_sample(first, ds.isel(example=slice(24, 32)))  # chosen once more, on others
    assert again.attrs["in_sample"]
    assert effects.mark_in_sample(ds, ds).attrs["in_sample_examples"] == 32


def test_without_prompts_pairs_are_compared_as_a_whole(seed):
    ds = heads(np.random.default_rng(seed), pairs_digest="abc").drop_vars(["clean_prompt", "corrupted_prompt"])
    record = xr.DataArray([0.5], dims="step", attrs={"pairs_digest": "abc"})
    assert effects.mark_in_sample(ds, record).attrs["in_sample"]
    assert not effects.mark_in_sample(ds, {"pairs_digest": "other"}).attrs["in_sample"]
    assert effects.mark_in_sample(record, effects.top(ds)).attrs["in_sample"]
    with pytest.raises(effects.EffectsError, match="whether this result is in sample cannot be told"):
        effects.mark_in_sample(ds, xr.DataArray([0.5], dims="step"))
    with pytest.raises(effects.EffectsError, match=r"the table of interp\.top\(…\), or a result; got DataFrame"):
        effects.mark_in_sample(ds, pd.DataFrame({"cell": ["L0H1"]}))


def test_the_words_of_a_figure_say_it():
    assert labels.in_sample({}) == labels.in_sample({"in_sample": None}) == []
    assert labels.in_sample({"in_sample": False}) == ["out of sample"]
    assert labels.in_sample({"in_sample": False, "in_sample_templates": 2}) == ["out of sample, but of the same templates"]
    assert labels.in_sample({"in_sample": True}) == ["in sample: the examples also selected what is shown"]
    assert labels.in_sample({"in_sample": True, "in_sample_examples": 3}) == [
        "in sample: 3 examples also selected what is shown"
    ]
