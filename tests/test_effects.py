"""The schema of a result and what is derived from it; every expected number is worked out by hand beside it."""

import json

import numpy as np
import pytest
import xarray as xr
from sweeps import unchecked

from interp import effects
from interp.errors import ShapeMismatchError, UnknownNameError

ATTRS = {"patching": "denoising", "noise_floor": {"logit_diff": 0.0, "prob": 0.0}, "engine_semantics": 1, "spec": {"a": 1}}


def small(patching="denoising", **attrs):
    """Two layers, two examples. Corrupted (−1, −3), clean (3, 5): differences 4 and 8."""
    value = np.array([[[-1.0, -3.0], [1.0, 5.0]]])
    return effects.assemble(
        value,
        clean=np.array([[3.0, 5.0]]),
        corrupt=np.array([[-1.0, -3.0]]),
        axes={"layer": [4, 7]},
        metrics=["logit_diff"],
        attrs=ATTRS | {"patching": patching} | attrs,
    )


def heads(rng, templates=6, examples=24, **changes):
    """Layer × head, with one head that restores half and one that takes back a quarter."""
    clean, corrupt = rng.normal(3, 0.3, (1, examples)), rng.normal(-3, 0.3, (1, examples))
    share = np.zeros((3, 4))
    share[2, 1], share[1, 3] = 0.5, -0.25
    arguments = {
        "value": corrupt[:, None, None] + share[None, :, :, None] * (clean - corrupt)[:, None, None],
        "clean": clean,
        "corrupt": corrupt,
        "axes": {"layer": range(3), "head": range(4)},
        "metrics": ["logit_diff"],
        "coords": {"template": [f"t{i % templates}" for i in range(examples)]},
        "attrs": ATTRS,
    }
    return effects.assemble(**(arguments | changes))


def test_recovery_is_the_ratio_of_means():
    # Layer 4: 0 and 0 of 4 and 8. Layer 7: 2 of 4 and 8 of 8, so 10/12; the mean of ratios is (0.5 + 1)/2.
    ds = small()
    assert effects.recovery(ds).values.tolist() == [[0.0, 10 / 12]]
    assert effects.recovery(ds, "examples").values.tolist() == [[0.0, 0.75]]
    assert effects.recovery(ds, None).values.tolist() == [[[0.0, 0.0], [0.5, 1.0]]]
    assert effects.recovery(ds).dims == ("metric", "layer")


def test_damage_is_what_recovery_lacks():
    ds = small("noising")
    np.testing.assert_allclose(effects.damage(ds), 1 - effects.recovery(ds), rtol=1e-15)


def test_effect_is_value_minus_base():
    assert effects.effect(small("denoising")).values.tolist() == [[[0.0, 0.0], [2.0, 8.0]]]
    assert effects.effect(small("noising")).values.tolist() == [[[-4.0, -8.0], [-2.0, 0.0]]]


def test_a_small_difference_between_the_baselines_gives_no_number():
    ds = small()
    ds["clean"][0, 0] = -1.0 + 1e-9  # example 0 has no difference, example 1 has 8
    found = effects.recovery(ds, "examples", floor=1e-6)
    assert found.values.tolist() == [[0.0, 1.0]]
    assert found["defined"].values.tolist() == [1]
    assert np.isnan(effects.recovery(ds, None, floor=1e-6).values[0, :, 0]).all()
    assert np.isnan(effects.recovery(ds, "ratio", floor=5.0)).all()  # the mean difference is 4


def test_the_floor_is_the_runs_noise_and_at_least_rounding():
    loud = small(noise_floor={"logit_diff": 6.5})  # the mean difference is 6
    assert np.isnan(effects.recovery(loud)).all()
    equal = small()
    equal["clean"] = equal["corrupt"] * (1 + 1e-16)
    assert np.isnan(effects.recovery(equal)).all()
    assert np.isnan(effects.recovery(equal, "examples")).all()
    assert np.isnan(effects.summary(equal)["mean"]).all()


def test_a_missing_example_makes_its_cell_missing():
    ds = small()
    ds["value"][0, 1, 0] = np.nan
    assert np.isnan(effects.recovery(ds).values).tolist() == [[False, True]]
    assert np.isnan(effects.recovery(ds, "examples").values).tolist() == [[False, True]]
    table = effects.summary(ds, "effect")
    assert np.isnan(table["mean"].values).tolist() == [[False, True]]
    assert table["n"].values.tolist() == [[2, 1]]


def test_summary_holds_the_truth_and_says_what_was_resampled(seed):
    ds = heads(np.random.default_rng(seed))
    table = effects.summary(ds)
    assert set(table.data_vars) == {"mean", "low", "high", "se", "n", "n_effective"}
    assert table["mean"].dims == ("metric", "layer", "head")
    # The share is exactly 0.5 in every example, so the ratio has no spread.
    cell = table.isel(metric=0, layer=2, head=1)
    np.testing.assert_allclose([cell["mean"], cell["low"], cell["high"]], 0.5, rtol=1e-9)
    assert (table["n"] == 24).all()
    assert (table["n_effective"] == 6).all()
    assert table.attrs["resampled"] == "template"
    assert table.attrs["quantity"] == "recovery"


@pytest.mark.parametrize("quantity", ["recovery", "damage", "effect", "value"])
@pytest.mark.parametrize("method", ["bootstrap", "t"])
def test_summary_agrees_with_the_means(quantity, method, seed):
    ds = heads(np.random.default_rng(seed))
    expected = {
        "recovery": effects.recovery(ds),
        "damage": effects.damage(ds),
        "effect": effects.effect(ds).mean("example"),
        "value": ds["value"].mean("example"),
    }[quantity]
    table = effects.summary(ds, quantity, method=method)
    np.testing.assert_allclose(table["mean"], expected, atol=1e-12)
    assert (table["low"] <= table["mean"] + 1e-12).all()
    assert (table["mean"] <= table["high"] + 1e-12).all()


@pytest.mark.parametrize(("templates", "resampled"), [(1, "example"), (3, "example"), (4, "template")])
def test_few_templates_fall_back_to_examples(templates, resampled, seed):
    table = effects.summary(heads(np.random.default_rng(seed), templates=templates), "effect")
    assert table.attrs["resampled"] == resampled
    assert table.attrs["templates"] == templates
    assert (table["n_effective"] == (24 if resampled == "example" else templates)).all()


def test_an_uncertain_denominator_makes_a_metric_undefined(seed):
    # clean − corrupt is +1 and −1 in turn plus 0.01: its mean is 0.01, its interval covers 0.
    ds = heads(np.random.default_rng(seed))
    wave = np.where(np.arange(24) % 2, 1.01, -0.99)
    ds["clean"] = ds["corrupt"] + wave
    assert np.isfinite(effects.recovery(ds)).all()
    for method in ("bootstrap", "t"):
        table = effects.summary(ds, "recovery", method=method, clusters=None)
        assert np.isnan(table[["mean", "low", "high"]].to_array()).all()
    assert effects.top(ds.drop_vars("template"))["recovery"].isna().all()


def test_by_rule_is_exactly_zero(seed):
    ds = heads(np.random.default_rng(seed), by_rule=np.broadcast_to(np.arange(3)[:, None, None] == 0, (3, 4, 24)))
    table = effects.summary(ds).isel(layer=0)
    for name in ("mean", "low", "high"):
        assert (table[name] == 0).all()


def test_top_ranks_by_size_and_names_the_cells(seed):
    table = effects.top(heads(np.random.default_rng(seed)), k=3)
    assert table["cell"].tolist()[:2] == ["L2H1", "L1H3"]
    adjusted = ["effect_adjusted", "p_adjusted", "survives"]
    assert table.columns.tolist() == ["cell", "layer", "head", "effect", "low", "high", "recovery", *adjusted, "n"]
    assert table["recovery"].round(6).tolist()[:2] == [0.5, -0.25]
    assert len(table) == 3
    assert (table["low"] <= table["effect"]).all()


@pytest.mark.parametrize("k", [-1, "5", 2.5])
def test_how_many_cells_is_a_number_of_cells(k):
    with pytest.raises(effects.EffectsError, match=rf"^k is {k!r}; expected how many cells, a whole number from 0 on$"):
        unchecked(effects.top)(small(), k)


def test_top_when_noising_reports_damage():
    assert "damage" in effects.top(small("noising")).columns


def two_cells(**coords):
    """Two examples of two cells whose effects are 1.0 and 3.5 on average."""
    return effects.assemble(
        np.array([[[1.0, 1.0], [3.0, 4.0]]]),
        np.full((1, 2), 4.0),
        np.zeros((1, 2)),
        axes={"cell": [0, 1]},
        metrics=["logit_diff"],
        coords={name: ("cell", values) for name, values in coords.items()},
        attrs=ATTRS,
    )


def test_top_of_cells_shows_their_own_coordinates():
    table = effects.top(two_cells(layer=[3, 5], position=["S2", "END"]))
    assert table["cell"].tolist() == ["L5@END", "L3@S2"]
    assert table["effect"].tolist() == [3.5, 1.0]


@pytest.mark.parametrize("told", ["edge", "intervention", None])
def test_top_of_a_list_names_its_cells(told):
    words = ["embed → L0H1.q", "L0H1 → logits"]
    table = effects.top(two_cells(**({told: words} if told else {})))
    assert table.columns.tolist()[:5] == ["cell", "effect", "low", "high", "recovery"]
    assert "layer" not in table
    assert table["cell"].tolist() == (words[::-1] if told else ["1", "0"])


def test_a_result_may_have_no_swept_axis():
    ds = effects.assemble(np.ones((1, 3)), np.full((1, 3), 2.0), np.zeros((1, 3)), axes={}, metrics=["logit_diff"], attrs=ATTRS)
    assert effects.recovery(ds).item() == 0.5
    assert effects.top(ds)["effect"].tolist() == [1.0]
    assert effects.summary(ds)["mean"].dims == ("metric",)


def test_a_selected_metric_is_still_a_result(seed):
    ds = heads(np.random.default_rng(seed)).sel(metric="logit_diff")
    effects.validate(ds)
    assert effects.top(ds, 1)["cell"].tolist() == ["L2H1"]
    assert effects.summary(ds).sizes["metric"] == 1


@pytest.mark.parametrize(
    ("coords", "name"),
    [
        ({"layer": 9, "head": 6}, "L9H6"),
        ({"layer": 3, "position": 5}, "L3@5"),
        ({"layer": 3, "head": 2, "position": "S2"}, "L3H2@S2"),
        ({"layer": 3, "unit": 120}, "L3[120]"),
        ({"seed": 1, "layer": 0}, "L0 seed=1"),
        ({}, "all"),
    ],
)
def test_cells_have_the_fields_names(coords, name):
    assert effects.cell_name(coords) == name


def test_attrs_come_back_from_json_unchanged():
    ds = small(versions={"torch": "2.13"}, seed=np.int64(3), note=(1, 2))
    assert json.loads(json.dumps(ds.attrs)) == ds.attrs
    assert ds.attrs["note"] == [1, 2]
    assert set(effects.PROVENANCE) <= set(ds.attrs)
    assert ds.attrs["model"] is None
    assert ds.attrs["made_at"]


def test_text_coordinates_keep_every_character():
    tokens = np.array([["\x00", "a\x00"], ["", "é"]], object)
    ds = effects.assemble(
        np.zeros((1, 2, 2)),
        np.ones((1, 2)),
        np.zeros((1, 2)),
        axes={"position": [0, 1]},
        metrics=["logit_diff"],
        coords={"clean_token": tokens, "template": ["x", "y"]},
        attrs=ATTRS,
    )
    assert ds["clean_token"].values.tolist() == tokens.tolist()
    assert ds["clean_token"].dims == ("position", "example")
    assert ds["position"].dtype == np.int64


def test_arrays_that_do_not_fit_are_all_listed():
    with pytest.raises(ShapeMismatchError) as error:
        effects.assemble(
            np.ones((1, 2, 3)), np.ones((1, 3)), np.ones((1, 4)), axes={"layer": [0, 1]}, metrics=["m"], attrs=ATTRS
        )
    assert "metric=1, layer=2, example=3" in str(error.value)
    assert "value (1, 2, 3) (expected (1, 2, 3))" in str(error.value)
    assert "corrupt (1, 4) (expected (1, 3))" in str(error.value)
    assert "by_rule (2, 3)" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attrs": ATTRS | {"patching": "sideways"}}, "'denoising' or 'noising', got 'sideways'"),
        ({"attrs": {"patching": "denoising"}}, "attrs lack engine_semantics, noise_floor, spec"),
        ({"attrs": ATTRS | {"noise_floor": {"prob": 0.0}}}, "noise_floor.* gives a number for every metric"),
        ({"attrs": ATTRS | {"loss": float("nan")}}, "attrs must be JSON"),
        ({"attrs": ATTRS | {"hook": print}}, "attrs must be JSON.*builtin"),
        ({"attrs": ATTRS | {"coordinates": "x"}}, "xarray keeps for itself"),
        ({"metrics": ["logit_diff"], "axes": {"layer": [1, 1, 2], "head": range(4)}}, "'layer' repeats values"),
        ({"axes": {"layer": [0.5, 1.5, 2.5], "head": range(4)}}, "'layer' holds integers or names, got float64"),
        ({"axes": {"head": range(3), "layer": range(4)}}, r"expected \('metric', 'layer', 'head', 'example'\)"),
        ({"by_rule": np.ones((3, 4, 24), bool)}, "marked by_rule but differ from the base"),
        ({"absent": np.ones((3, 4), bool)}, "absent has values; they must be NaN"),
        ({"coords": {"note": ["x"]}}, r"given as \(dims, values\), got list"),
    ],
)
def test_what_is_no_result_is_said(changes, message, seed):
    with pytest.raises(effects.EffectsError, match=message):
        heads(np.random.default_rng(seed), **changes)


def test_half_precision_is_refused():
    half = np.ones((1, 2), np.float16)
    with pytest.raises(effects.EffectsError, match="all float32 or all float64, got value float16"):
        effects.assemble(half, half, half, axes={}, metrics=["logit_diff"], attrs=ATTRS)


def test_unknown_names_answer_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="unknown axis 'layers'; did you mean 'layer'"):
        effects.assemble(np.ones((1, 1, 1)), np.ones((1, 1)), np.ones((1, 1)), axes={"layers": [0]}, metrics=["m"], attrs=ATTRS)
    with pytest.raises(UnknownNameError, match="unknown metric 'logit'; did you mean 'logit_diff'"):
        effects.top(small(), metric="logit")
    with pytest.raises(UnknownNameError, match="unknown quantity 'recover'; did you mean 'recovery'"):
        effects.summary(small(), "recover")
    with pytest.raises(UnknownNameError, match="unknown method 'student'"):
        effects.summary(small(), method="student")
    with pytest.raises(UnknownNameError, match="unknown aggregate 'ratios'; did you mean 'ratio'"):
        effects.recovery(small(), "ratios")
    with pytest.raises(effects.EffectsError, match="missing: corrupt, by_rule"):
        effects.validate(xr.Dataset({"value": ("example", [1.0]), "clean": ("example", [1.0])}))


def test_several_families_are_not_one() -> None:
    one = effects.assemble(
        np.zeros((1, 2)),
        np.ones((1, 2)),
        np.zeros((1, 2)),
        axes={},
        metrics=["logit_diff"],
        attrs={"patching": "denoising", "noise_floor": {"logit_diff": 0.0}, "engine_semantics": 1, "spec": None},
    )
    with pytest.raises(effects.EffectsError, match=r"several families \(resid, z\); choose one: result\['resid'\]"):
        effects.validate(xr.DataTree.from_dict({"resid": one, "z": one}))
    with pytest.raises(effects.EffectsError, match=r"the node 'z' of a DataTree; give its dataset: result\['z'\]\.to_dataset"):
        effects.validate(xr.DataTree.from_dict({"resid": one, "z": one})["z"])


def test_another_result_is_no_effects():
    with pytest.raises(
        effects.EffectsError, match=r"missing: value, .* any variable of another result can be drawn by interp\.views"
    ):
        effects.summary(xr.Dataset({"distance": ("example", [1.0, 2.0])}))


def test_cells_are_found_at_roles_and_indices():
    """Positions of a grid with roles in it are text, and an index finds its own all the same."""
    ds = small()
    (axis,) = effects.swept_axes(ds)
    numbers = ds.isel({axis: [0, 1]}).rename({axis: "position"})
    mixed = numbers.assign_coords(position=np.array(["S2", "-1"], object))
    numbers = numbers.assign_coords(position=[3, -1])
    assert effects.at(mixed, position=-1).equals(mixed.isel(position=1))
    assert effects.at(mixed, position=["S2", -1]).equals(mixed)
    assert effects.at(mixed, position="S2").equals(mixed.isel(position=0))
    assert effects.at(numbers, position=-1).equals(numbers.isel(position=1))
    with pytest.raises(UnknownNameError, match=r"unknown position '-2' of this result; did you mean .*\(known: S2, -1\)"):
        effects.at(mixed, position=-2)
    with pytest.raises(UnknownNameError, match="unknown axis 'postion'; did you mean 'position'"):
        effects.at(mixed, postion=-1)


def test_of_half_a_run_the_examples_that_are_furthest_are_comparable():
    value = np.ones((1, 3, 4))
    value[0, 1:, 2:] = np.nan  # examples 2 and 3 have one layer of three
    ds = effects.assemble(
        value,
        np.ones((1, 4)),
        np.zeros((1, 4)),
        axes={"layer": range(3)},
        metrics=["m"],
        attrs={"patching": "denoising", "noise_floor": {"m": 0.0}, "engine_semantics": 1, "spec": {}},
    )
    far = effects.furthest(ds)
    assert far["example"].values.tolist() == [0, 1]
    assert (effects.behind(ds), effects.behind(far)) == (2, 0)
    with pytest.warns(UserWarning, match=r"2 of 4 examples are not computed in every cell.*top\(effects.furthest\(result\)\)"):
        assert effects.top(ds)["layer"].tolist() == [0]
    assert sorted(effects.top(far)["layer"]) == [0, 1, 2]
    whole = ds.assign(value=ds["value"].fillna(1))
    assert effects.furthest(whole) is whole
    other = xr.Dataset({"prob": ("example", [1.0, np.nan])})
    assert effects.furthest(other) is other


@pytest.mark.parametrize("ask", [effects.recovery, effects.effect, effects.summary, effects.top, effects.validate])
def test_a_result_without_its_examples_says_how_to_choose_them(ask):
    ds = two_cells()
    with pytest.raises(effects.EffectsError, match=r"no axis 'example'.*isel\(example=\[0\]\).*interp.recovery\(result\)"):
        ask(ds.isel(example=0))
    assert ask(ds.isel(example=[0])) is not None


def test_families_by_name():
    one = xr.Dataset({"x": ("a", [1.0])})
    assert effects.families(one) == {"": one}
    found = effects.families(xr.DataTree.from_dict({"heads": one, "deep/mlp": one}))
    assert list(found) == ["heads", "deep/mlp"]
    assert found["deep/mlp"].identical(one)


def test_effects_are_known_by_their_variables():
    one = small()
    assert effects.is_effects(one)
    assert effects.is_effects(one.drop_attrs())
    assert not any(map(effects.is_effects, (one["value"], one.drop_vars("by_rule"), {"a": one}, xr.DataTree(one))))
