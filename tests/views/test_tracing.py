"""The maps of causal tracing; the numbers follow from the formula in conftest.py."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from plotly.colors import get_colorscale

import interp
from interp import effects as fx
from interp import views
from interp.errors import UnknownNameError
from interp.interventions import Add, Change, Noise
from interp.prompts import Pair, Pairs
from interp.views.heatmap import WHY

SITES = ("resid_post", "mlp_out", "attn_out")


@pytest.fixture
def tree(make):
    def made(sites=SITES, window=None, **options):
        """A family a site, each with a share of what the first one restores."""
        found = {}
        for number, site in enumerate(sites):
            ds = make(**options)
            base = fx.base(ds)
            ds["value"] = (base + (ds["value"] - base) / (number + 1)).transpose(*ds["value"].dims)
            found[site] = ds.assign_attrs(site=site, **({"window": window} if number and window else {}))
        return xr.DataTree.from_dict(found)

    return made


def names(figure):
    return [one.text for one in figure.layout.annotations]


def test_a_map_of_every_family_in_the_same_colours(tree):
    results = tree()
    figure = views.tracing(results)
    for number, (site, drawn) in enumerate(zip(SITES, figure.data, strict=True), 1):
        value = results[site]["value"].isel(metric=0).mean("example").transpose("position", "layer")
        np.testing.assert_allclose(drawn.z, value, rtol=1e-6)
        assert (drawn.xaxis, drawn.yaxis) == (f"x{number}".removesuffix("1"), f"y{number}".removesuffix("1"))
        assert (drawn.zmin, drawn.zmax) == (-3, 3)  # mean corrupted, mean clean
        assert drawn.colorscale[0][1] == get_colorscale("Viridis")[0][1]
    assert [drawn.showscale for drawn in figure.data] == [True, False, False]
    assert names(figure) == ["state", "MLP", "attention"]
    assert names(views.tracing(tree(window=10))) == ["state", "MLP, 10 layers", "attention, 10 layers"]
    assert names(views.tracing(tree(("resid_mid", "L2.<x>")))) == ["state", "L2.&lt;x&gt;"]


def test_title_has_both_ends_and_provenance(tree):
    title = views.tracing(tree(), width=900).layout.title.text
    assert title.startswith("causal tracing: logit_diff with one state restored<br>")
    assert "corrupted -3, clean 3 · denoising, source clean · tiny &lt;model&gt; · ioi · n=8, 4 templates" in title
    noising = views.tracing(tree(patching="noising")).layout.title.text
    assert "with one state corrupted" in noising
    assert "corrupted -3, clean 3 · noising" in noising


def test_what_corrupts_is_said_whole(tree):
    noised = {
        name: one.to_dataset().assign_attrs(corruption="embed@S2 ← Noise(std=0.3392, seed=0) Add(scale=1.0)")
        for name, one in tree().children.items()
    }
    assert "Add(scale=1.0)" in views.tracing(xr.DataTree.from_dict(noised)).layout.title.text


def test_outlines_hold_over_all_maps_together(tree):
    """Hovers and the title count the cells of all maps; a map by itself counts its own."""
    results = tree(examples=16, templates=16)
    told = views.tracing(results, width=900)
    assert "effect ≠ 0, p ≤ 0.05" in {trace.name for trace in told.data}
    assert "outlined: p ≤ 0.05, max-T sign flips of templates over all maps" in told.layout.title.text
    (cells,) = {re.search("adjusted for (\\d+) cells", trace.text[9, 3])[1] for trace in told.data if trace.type == "heatmap"}
    assert int(cells) == 3 * 4 * 9  # position 0 is by rule
    alone = views.heatmap(results["mlp_out"].to_dataset())
    assert "adjusted for 36 cells" in alone.data[0].text[3, 9]


def test_a_cell_that_would_survive_alone_need_not_survive_with_others(tree):
    """One cell with an effect, 35 of noise in its map, and 72 of noise in the other maps."""
    results, rng = tree(examples=12, templates=12), np.random.default_rng(0)
    for number, site in enumerate(SITES):
        ds = results[site].to_dataset()
        noise = xr.zeros_like(ds["value"]) + rng.normal(size=ds["value"].shape).astype("float32")
        noise[0, 2, 5] += 0 if number else 1.1
        ds["value"] = (fx.base(ds) + noise.where(~ds["by_rule"], 0)).transpose(*ds["value"].dims)
        results[site] = xr.DataTree(ds)
    one = fx.sign_flip(results["resid_post"].to_dataset())
    together = fx.sign_flip_together(fx.families(results))
    p, adjusted = (found["p_adjusted"].values[0, 2, 5] for found in (one, together["resid_post"]))
    assert p < adjusted
    drawn = views.tracing(results, level=1 - (p + adjusted) / 2)
    assert not any(str(trace.name).startswith("effect ≠ 0") for trace in drawn.data)
    drawn = views.tracing(results, level=1 - adjusted - 1e-9)
    assert any(str(trace.name).startswith("effect ≠ 0") for trace in drawn.data)


def test_without_outlines_it_says_why(tree):
    too_few = views.tracing(tree(examples=4), width=900)  # 2^(1 − 4) is no p below 0.05
    assert "4 templates: 6 are needed to tell a cell from 0 at p ≤ 0.05" in too_few.layout.title.text


def test_hover_has_interval_n_and_the_token(tree):
    lines = views.tracing(tree()).data[1].text[9, 3].split("<br>")
    # half of the difference is restored, which is 0 in every example
    assert lines[0] == "<b>L3@9</b> 0.00 ± 0.00 (n=8, 4 templates)"
    assert lines[-1] == "token ' to'"


def test_rows_are_tokens_from_the_top_and_those_that_differ_have_a_star(tree):
    figure = views.tracing(tree())
    axes = [figure.layout[name] for name in ("yaxis", "yaxis2", "yaxis3")]
    assert [axis.range for axis in axes] == [(9.5, -0.5)] * 3
    assert [axis.showticklabels for axis in axes] == [None, False, False]
    assert axes[0].ticktext[4:8] == ("4 John", "5 ,", "6 John*", "7 gave")
    assert axes[0].ticktext[2] == "2 Anna|Mary"  # another token in other examples, but the same in both prompts
    assert "· * corrupted" in figure.layout.title.text
    chosen = views.tracing(tree(), subject=[4, 5]).layout
    assert [text for text in chosen.yaxis.ticktext if "*" in text] == ["4 John*", "5 ,*"]
    assert "· * subject" in chosen.title.text
    plain = views.tracing(tree(tokens=False)).layout
    assert plain.yaxis.ticktext[6] == "6"
    assert "*" not in plain.title.text


def test_roles_of_the_subject_have_a_star(tree):
    roles = ["subject[0]", "subject[-1]", "END"]
    results = tree(size=3, axes={"layer": range(4), "position": roles}, tokens=False)
    assert views.tracing(results).layout.yaxis.ticktext == ("subject[0]*", "subject[-1]*", "END")
    assert views.tracing(results, subject="END").layout.yaxis.ticktext == ("subject[0]", "subject[-1]", "END*")


def test_maps_stand_side_by_side_or_one_under_the_other(tree):
    beside, below = (views.tracing(tree(), width=width).layout for width in (views.PAGE, views.COLUMN))
    for side, down, across in (("x", beside, below), ("y", below, beside)):
        spread = [down[f"{side}axis{n}"].domain for n in ("", 2, 3)]
        spread = spread if side == "x" else spread[::-1]
        assert all(one[1] < next[0] for one, next in pairwise(spread))
        assert (spread[0][0], spread[-1][1]) == pytest.approx((0, 1))
        assert len({across[f"{side}axis{n}"].domain for n in ("", 2, 3)}) == 1
    assert [below[f"xaxis{n}"].showticklabels for n in ("", 2, 3)] == [False, False, None]
    assert [below[f"yaxis{n}"].showticklabels for n in ("", 2, 3)] == [None] * 3


def test_probabilities_are_drawn_where_there_are_several_metrics(tree):
    both = tree(metrics=["logit_diff", "prob"], **two_metrics())
    assert "causal tracing: prob with" in views.tracing(both).layout.title.text
    assert "causal tracing: logit_diff with" in views.tracing(both, metric="logit_diff").layout.title.text


def two_metrics():
    ends = np.array([[2, 4], [0.5, 0.75]], "float32")
    value = np.broadcast_to(ends[:, None, None], (2, 4, 10, 2)).copy()
    attrs = {"patching": "denoising", "noise_floor": {"logit_diff": 0.0, "prob": 0.0}, "engine_semantics": 1, "spec": {}}
    by_rule = np.zeros((4, 10, 2), bool)
    return {"value": value, "clean": ends, "corrupt": -ends, "attrs": attrs, "by_rule": by_rule, "tokens": False, "coords": {}}


def test_what_has_no_number_is_named_once(tree):
    results = tree()
    for site in ("mlp_out", "attn_out"):
        results[site]["value"][0, 1, 5] = np.nan
    figure = views.tracing(results)
    missing = [trace for trace in figure.data if trace.name == "not computed"]
    assert [(trace.xaxis, trace.showlegend) for trace in missing] == [("x2", True), ("x3", False)]
    assert all(np.argwhere(np.isfinite(trace.z)).tolist() == [[5, 1]] for trace in missing)
    assert missing[0].colorscale[0][1] == WHY["not computed"]


def test_other_families_are_refused(tree, make):
    with pytest.raises(fx.EffectsError, match=r"results is one family, 'mlp_out'; .* drawn by interp\.views\.heatmap"):
        views.tracing(tree(("mlp_out",)))
    with pytest.raises(fx.EffectsError, match=r"resid_post and z differ in 'position'"):
        views.tracing(xr.DataTree.from_dict({"resid_post": make(), "z": make(size=11)}))
    with pytest.raises(fx.EffectsError, match=r"resid_post and z differ in 'clean'"):
        views.tracing(xr.DataTree.from_dict({"resid_post": make(), "z": make(clean=np.full((1, 8), 9, "float32"))}))
    with pytest.raises(UnknownNameError, match=r"unknown swept axis 'position' of z .*head"):
        views.tracing(xr.DataTree.from_dict({"z": make(axis="head"), "q": make(axis="head")}))
    with pytest.raises(UnknownNameError, match=r"unknown subject 12 of these positions"):
        views.tracing(tree(), subject=12)
    with pytest.raises(UnknownNameError, match=r"unknown metric 'prop'"):
        views.tracing(tree(), metric="prop")


def test_noise_on_the_subject_of_a_model(seed):
    """Expected: with every later layer still to run, restoring the noised token's own stream brings back the clean value."""
    model = interp.load("zoo/language-4l")
    pair = interp.tasks.ioi(1, seed=seed % 1000)[0]
    pairs = Pairs((Pair(pair.clean, pair.clean, pair.answers),))
    grids = {site: interp.grid(site, layer=..., position=["S2", "END"]) for site in ("resid_pre", "mlp_out")}
    noise = Change("embed", "S2", source=Noise(3.0, seed), edit=Add())
    results = interp.patch(model, pairs, grids, metric="prob", given=noise)
    figure = views.tracing(results, subject="S2")
    drawn, (low, high) = figure.data[0], (results["resid_pre"][end].item() for end in ("given", "clean"))
    assert sorted((drawn.zmin, drawn.zmax)) == sorted((low, high))
    assert drawn.z[0, 0] == pytest.approx(high, abs=1e-4)
    assert f"corrupted {low:.3g}, clean {high:.3g}" in figure.layout.title.text
    assert figure.layout.yaxis.ticktext == ("S2*", "END")
