"""Maps, tested on what the figure contains; the numbers follow from the formula in conftest.py."""

import html
import inspect
import re

import numpy as np
import plotly.io as pio
import pytest
from plotly.colors import get_colorscale

from interp import effects as fx
from interp import views
from interp.errors import UnknownNameError
from interp.views.heatmap import WHY
from interp.views.outline import borders


def overlay(figure, name):
    return next(trace for trace in figure.data if trace.name == name)


def test_a_map_of_recovery(make):
    ds = make()
    figure = views.heatmap(ds)
    drawn = figure.data[0]
    np.testing.assert_allclose(drawn.z, fx.recovery(ds).isel(metric=0), atol=1e-6)
    assert drawn.z.shape == (4, 10)  # layers from bottom to top, positions from left to right
    assert (drawn.zmin, drawn.zmax) == pytest.approx((-1, 1), abs=1e-6)  # symmetric about 0
    assert figure.layout.yaxis.title.text == "layer"
    assert len(figure.data) == 1


def test_positive_is_blue(make):
    figure = views.heatmap(make())
    (_, red), *_, (_, blue) = get_colorscale("RdBu")
    low, high = figure.data[0].colorscale[0], figure.data[0].colorscale[-1]
    assert (low[1], high[1]) == (red, blue)
    assert [int(c) for c in blue.removeprefix("rgb(").removesuffix(")").split(",")][2] > 90  # rgb(5,48,97)


def test_hover_has_interval_n_and_raw_value(make):
    lines = views.heatmap(make()).data[0].text[3, 9].split("<br>")
    # All of the difference is restored in every example: 1 without spread. Mean clean is 3, mean corrupted −3.
    assert lines[0] == "<b>L3@9</b> 1.00 ± 0.00 (n=8, 4 templates)"
    assert lines[1] == "95% interval 1 to 1"
    assert lines[2] == "logit_diff 3, corrupted -3, effect +6"
    assert lines[3] == "sign-flip p 0.12, adjusted for 36 cells"  # 4 templates: one of 8 flips; 4 cells are 0 by rule
    assert lines[4] == "token ' to'"
    hover = views.heatmap(make(layers=10, size=12, axis="head", templates=2)).data[0].text[9, 6]
    assert hover.startswith("<b>L9H6</b> -0.10 ± 0.00 (n=8, only 2 templates)")


def test_both_tokens_where_the_prompts_differ(make):
    text = views.heatmap(make()).data[0].text
    assert text[0, 6].endswith("token ' John', corrupted ' Mary'")
    assert text[0, 2].endswith("token differs: ' Anna', ' Mary'")
    assert text[0, 0].endswith("token '&lt;|endoftext|&gt;'")


def test_equal_tokens_stay_apart_on_the_axis(make):
    axis = views.heatmap(make()).layout.xaxis
    assert axis.tickvals == tuple(range(10))
    assert axis.ticktext[4] == "4 John"
    assert axis.ticktext[6] == "6 John"
    assert axis.ticktext[2] == "2 Anna|Mary"  # examples differ
    assert axis.ticktext[0] == "0 &lt;|endoftext|&gt;"
    assert axis.title.text == "position and token of the clean prompt"


def test_many_tokens_are_their_role_or_a_dot(make):
    ds = make()
    ds["clean_token"][2] = ds["clean_token"][4] = [f" name{i % 5}" for i in range(8)]
    ds["corrupted_token"][2] = ds["clean_token"][2]
    ds = ds.assign_coords(role=("position", ["", "", "IO", *[""] * 6, "END"]))
    figure = views.heatmap(ds)
    assert figure.layout.xaxis.ticktext[2] == "2 {IO}"
    assert figure.layout.xaxis.ticktext[4] == "4 ·"
    assert figure.layout.xaxis.ticktext[9] == "9 to", "all have this token"
    text = figure.data[0].text[0]
    assert text[2].endswith("<br>IO, token differs: ' name0', ' name1', ' name2' and 2 others")
    assert text[4].endswith("<br>token differs: ' name0', ' name1', ' name2' and 2 others, corrupted ' John'")
    assert text[9].endswith("<br>END, token ' to'")


def test_roles_are_labels(make):
    ds = make(size=3, axes={"layer": range(4), "position": ["IO", "S2", "END"]}, tokens=False)
    axis = views.heatmap(ds).layout.xaxis
    assert axis.ticktext == ("IO", "S2", "END")
    assert axis.title.text == "position"
    assert views.heatmap(ds).data[0].text[0, 1].startswith("<b>L0@S2</b>")


@pytest.mark.parametrize(
    ("layers", "size", "width"),
    [(1, 5, views.PAGE), (1, 5, views.COLUMN), (12, 15, views.PAGE), (40, 120, views.COLUMN), (80, 500, views.PAGE)],
)
def test_labels_thin_out_and_never_overlap(make, layers, size, width):
    figure = views.heatmap(make(layers, size, examples=4), width=width)
    layout = figure.layout
    font = layout.font.size
    inner = (layout.width - layout.margin.l - layout.margin.r) / size
    places = layout.xaxis.tickvals
    gaps = np.diff(places) * inner
    longest = max(len(html.unescape(t)) for t in layout.xaxis.ticktext)
    needed = font if layout.xaxis.tickangle == -90 else 0.6 * font * longest
    assert len(places) <= 60
    assert (gaps >= needed).all()
    tall = layout.height - layout.margin.t - layout.margin.b
    assert (np.diff(layout.yaxis.tickvals) * tall / layers >= font).all()
    assert layout.width == width
    assert inner * size > 100


def test_noising_shows_damage(make):
    ds = make(patching="noising")
    figure = views.heatmap(ds)
    np.testing.assert_allclose(figure.data[0].z, fx.damage(ds).isel(metric=0), atol=1e-6)
    assert "damage of logit_diff (0 = clean, 1 = corrupted)" in figure.layout.title.text


def test_other_metrics_show_the_effect_on_them(make):
    figure = views.heatmap(make(metric="prob"))
    np.testing.assert_allclose(figure.data[0].z[:, -1], [1.5, 3.0, 4.5, 6.0], rtol=1e-6)  # share · (3 − −3)
    assert "effect on prob" in figure.layout.title.text
    assert figure.data[0].zmin == -figure.data[0].zmax


def test_raw_shares_are_sequential(make):
    ds = make(metric="accuracy")
    for name in ("value", "clean", "corrupt"):
        ds[name] = (ds[name] + 4) / 8
    drawn = views.heatmap(ds, quantity="value").data[0]
    assert (drawn.zmin, drawn.zmax) == (0, 1)
    assert drawn.colorscale[0][1] == get_colorscale("Viridis")[0][1]
    assert drawn.colorbar.title.text == "accuracy"
    tall = make(layers=12, metric="kl").assign_attrs(units={"kl": "nats"})
    assert views.heatmap(tall).data[0].colorbar.title.text == "effect on kl (nats)"
    assert views.heatmap(tall.isel(layer=[0])).data[0].colorbar.title.text == "effect"  # no room beside one row
    mixed = views.heatmap(make(), quantity="value").data[0]  # a logit difference of both signs
    assert mixed.zmin == -mixed.zmax


def test_title_is_provenance(make):
    title = views.heatmap(make()).layout.title.text
    assert "resid_pre: recovery of logit_diff (0 = corrupted, 1 = clean)" in title
    assert "denoising, source clean · tiny &lt;model&gt; · ioi · n=8, 4 templates" in title
    assert "mine" in views.heatmap(make(), title="mine").layout.title.text
    replaced = views.heatmap(make(axis="head").assign_attrs(edit="Replace()", positions="END")).layout.title.text
    assert replaced.startswith("z@END: recovery of logit_diff")
    assert "denoising, source clean · tiny" in replaced
    scaled = views.heatmap(make(axis="head").assign_attrs(edit="Scale(0.5)", positions="all")).layout.title.text
    assert scaled.startswith("z: recovery of logit_diff")
    assert "denoising, source clean, Scale(0.5) · tiny" in scaled
    guessed = views.heatmap(make().assign_attrs(estimate="first order")).layout.title.text
    assert "denoising, source clean · estimate: first order · tiny" in guessed


def test_what_has_no_number_looks_different_and_is_named(make):
    ds = make(absent=np.zeros((4, 10), bool))
    ds["value"][0, 1, 1] = np.nan
    ds["value"][0, 2, 2] = ds["corrupt"][0] + np.float32(5e-5)
    ds["value"][0, 3, 3] = np.nan
    ds["absent"][3, 3] = True
    figure = views.heatmap(ds)
    drawn = figure.data[0]
    assert np.argwhere(np.isnan(drawn.z)).tolist() == [[1, 1], [2, 2], [3, 3]]
    assert drawn.z[0, 0] == 0  # by rule: a number like any other
    assert "equal to the base by rule" in drawn.text[0, 0]
    seen = {
        "not computed": ((1, 1), "<b>L1@1</b> not computed"),
        "within noise": ((2, 2), "within the run's noise floor, 0.0001"),
        "no such site": ((3, 3), "<b>L3@3</b> no such site"),
    }
    colours = set()
    for name, (cell, words) in seen.items():
        trace = overlay(figure, name)
        assert np.argwhere(np.isfinite(trace.z)).tolist() == [list(cell)]
        assert words in trace.text[cell]
        assert trace.showlegend
        colours.add(trace.colorscale[0][1])
    assert len(colours) == 3
    assert not colours & {colour for _, colour in drawn.colorscale}
    assert {t.name for t in figure.data[1:]} == set(seen)


def test_examples_of_half_a_run_are_counted_under_the_title(make):
    ds = make()
    assert "incomplete" not in views.heatmap(ds).layout.title.text
    ds["value"][0, 1:, :, 3:] = np.nan
    late = ds.sizes["example"] - 3
    title = views.heatmap(ds).layout.title.text
    assert f"n={late + 3}" in title
    assert f"{late} examples incomplete (effects.furthest leaves them out)" in title.replace("<br>", " ")
    assert "incomplete" not in views.heatmap(fx.furthest(ds)).layout.title.text


def test_a_metric_without_a_difference_is_undefined_everywhere(make):
    ds = make()
    ds["clean"] = ds["corrupt"] + np.float32(1e-5)
    figure = views.heatmap(ds)
    trace = overlay(figure, "undefined: clean ≈ corrupted")
    assert np.isfinite(trace.z[:, 1:]).all()
    assert "recovery undefined" in trace.text[1, 1]
    assert np.isnan(figure.data[0].z).all()
    assert len(set(WHY.values())) == len(WHY)


def test_axes_can_be_turned_and_the_scale_set(make):
    ds = make()
    turned = views.heatmap(ds, x="layer", y="position", limit=0.5)
    np.testing.assert_array_equal(turned.data[0].z, views.heatmap(ds).data[0].z.T)
    assert turned.layout.yaxis.ticktext[6] == "6 John"
    assert (turned.data[0].zmin, turned.data[0].zmax) == (-0.5, 0.5)
    np.testing.assert_array_equal(views.heatmap(ds, x="layer").data[0].z, turned.data[0].z)
    np.testing.assert_array_equal(views.heatmap(ds, y="position").data[0].z, turned.data[0].z)


def three(make):
    ds = make(axis="head", size=5)
    value = np.repeat(ds["value"].values[..., None, :], 3, axis=3)
    by_rule = np.repeat(ds["by_rule"].values[..., None, :], 3, axis=2)
    return make(
        axis="head", size=5, value=value, by_rule=by_rule, axes={"layer": range(4), "head": range(5), "position": range(3)}
    )


def test_another_number_of_axes_says_what_to_select(make):
    ds = three(make)
    with pytest.raises(fx.EffectsError, match=r"is an xarray Dataset; got list"):
        inspect.unwrap(views.heatmap)([ds])
    with pytest.raises(fx.EffectsError) as error:
        views.heatmap(ds)
    assert str(error.value) == (
        "a heatmap needs exactly two swept axes, this result has 3: layer (4), head (5), position (3); "
        "select one value of the others, e.g. results.isel(layer=0), or give slider='layer'"
    )
    with pytest.raises(fx.EffectsError, match=r"e\.g\. results\.isel\(position=0\)"):
        views.heatmap(ds, x="head", y="layer")
    with pytest.raises(fx.EffectsError, match=r"this result has 1: head \(5\); sweep a second axis"):
        views.heatmap(ds.isel(layer=0, position=0))


def test_a_selected_axis_is_named_and_an_axis_of_one_is_none(make):
    ds = three(make)
    figure = views.heatmap(ds.isel(position=2))
    assert "position=2" in figure.layout.title.text
    assert figure.data[0].text[1, 1].startswith("<b>L1H1@2</b>")
    np.testing.assert_array_equal(views.heatmap(ds.isel(position=[2])).data[0].z, figure.data[0].z)
    assert views.heatmap(make(layers=1)).data[0].z.shape == (1, 10)  # a model of one layer is a map of one row


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": "heads"}, "unknown swept axis 'heads'"),
        ({"metric": "logit"}, "unknown metric 'logit'; did you mean 'logit_diff'"),
        ({"quantity": "recover"}, "unknown quantity 'recover'; did you mean 'recovery'"),
    ],
)
def test_unknown_names(make, arguments, message):
    with pytest.raises(UnknownNameError, match=message):
        views.heatmap(make(), **arguments)


def test_the_same_axis_twice(make):
    with pytest.raises(fx.EffectsError, match="x and y are both 'layer'"):
        views.heatmap(make(), x="layer", y="layer")


def test_a_dark_template_and_no_global_change(make):
    before, ds = pio.templates.default, make()
    copy = ds.copy(deep=True)
    dark = views.heatmap(ds, template="plotly_dark")
    assert dark.layout.template.layout.paper_bgcolor == pio.templates["plotly_dark"].layout.paper_bgcolor
    assert pio.templates.default == before
    assert ds.identical(copy)


def test_two_metrics(make, seed):
    one, two = make(metric="logit_diff"), make(metric="prob")
    value = np.concatenate([one["value"], 2 * two["value"]])
    both = make(
        value=value,
        clean=np.concatenate([one["clean"], 2 * two["clean"]]),
        corrupt=np.concatenate([one["corrupt"], 2 * two["corrupt"]]),
        metrics=["logit_diff", "prob"],
        attrs=one.attrs | {"noise_floor": {"logit_diff": 0.0, "prob": 0.0}},
    )
    np.testing.assert_allclose(views.heatmap(both, metric="prob").data[0].z[:, -1], [3, 6, 9, 12], rtol=1e-6)
    np.testing.assert_allclose(views.heatmap(both).data[0].z[-1, -1], 1, rtol=1e-6)


def outline(figure):
    """The lines around cells, as a white and a black one, and what the legend calls them."""
    white, black, named = figure.data[-3:]
    assert (white.line.color, black.line.color) == ("white", "black")
    assert white.line.width > black.line.width
    np.testing.assert_array_equal(white.x, black.x)
    assert not white.showlegend
    assert not black.showlegend
    return black, named.name


def with_noise(ds, noise):
    """The same result with these effects, ``[layer, head, example]``, where it is not by rule."""
    noise = np.where(ds["by_rule"].values, 0, noise - noise.mean(-1, keepdims=True) + 1e-3)
    return ds.assign(value=ds["value"].copy(data=(ds["corrupt"].values[:, None, None] + noise).astype("f4")))


def hover(figure, row, column):
    """What is said of a cell, whichever trace says it."""
    return "".join(str(trace.text[row, column]) for trace in figure.data if trace.type == "heatmap")


def test_cells_that_survive_are_outlined(make, seed):
    ds = make(axis="head", size=6, examples=16, templates=16)
    ds = with_noise(ds, np.random.default_rng(seed).normal(0, 1, (4, 6, 16)))
    ds["value"][0, 1, 2] += 9
    ds["value"][0, 1, 3] -= 9
    figure = views.heatmap(ds)
    lines, name = outline(figure)
    assert name == "effect ≠ 0, p ≤ 0.05"
    # One line around both cells, closed; the cells' centres are (2, 1) and (3, 1).
    assert sorted({*zip(lines.x[:-1].tolist(), lines.y[:-1].tolist(), strict=True)}) == [
        (1.5, 0.5), (1.5, 1.5), (3.5, 0.5), (3.5, 1.5),
    ]  # fmt: skip
    assert (lines.x[0], lines.y[0]) == (lines.x[-2], lines.y[-2])
    assert "outlined: p ≤ 0.05, max-T sign flips of templates" in said(figure)
    assert (figure.layout.xaxis.range, figure.layout.yaxis.range) == ((-0.5, 5.5), (-0.5, 3.5))
    assert "sign-flip p 0.001, adjusted for 20 cells" in hover(figure, 1, 2)
    assert "sign-flip" not in hover(figure, 1, 0)  # by rule
    strict = views.heatmap(ds, level=0.9999)  # 1000 flips give no p below 0.001
    assert {trace.type for trace in strict.data} == {"heatmap"}


def said(figure):
    """The title and what stands under it, on one line."""
    return re.sub("(<br>)?<[^>]*>", " ", figure.layout.title.text).replace("  ", " ")


def test_why_no_cell_is_outlined(make, seed):
    ds = make(axis="head", size=6, examples=16, templates=16)
    quiet = views.heatmap(with_noise(ds, np.random.default_rng(seed).normal(0, 1, (4, 6, 16))))
    assert "no cell told from 0 at p ≤ 0.05, max-T sign flips of templates" in said(quiet)
    assert {trace.type for trace in quiet.data} == {"heatmap"}
    assert "4 templates: 6 are needed to tell a cell from 0 at p ≤ 0.05" in said(views.heatmap(make()))
    assert "to tell" not in said(views.heatmap(make(examples=1)))


def test_an_outline_follows_the_slider_and_is_of_all_that_it_shows(make, seed):
    ds = make(axis="head", size=5, examples=16, templates=16)
    strong = three_maps(make, ds, seed)
    figure = views.heatmap(strong, slider="position")
    assert "adjusted for 48 cells" in hover(figure, 1, 1)  # 3 maps of 4 × 4, without those by rule
    for i, frame in enumerate(figure.frames):
        assert len(frame.data) == len(figure.data)
        assert set(frame.data[-2].x[:-1]) == {i + 0.5, i + 1.5}  # what survives moves with the map


def three_maps(make, ds, seed):
    """Nothing but noise, and one head that moves: head i + 1 of layer 0 at position i."""
    maps = [with_noise(ds, each) for each in np.random.default_rng(seed).normal(0, 0.2, (3, 4, 5, 16))]
    for i, one in enumerate(maps):
        one["value"][0, 0, i + 1] += 9
    value, by_rule = (np.stack([one[name].values for one in maps], axis=-2) for name in ("value", "by_rule"))
    axes = {"layer": range(4), "head": range(5), "position": range(3)}
    return make(axis="head", size=5, examples=16, templates=16, value=value, by_rule=by_rule, axes=axes)


def test_borders_of_cells_that_touch_at_a_corner_are_two():
    x, y = borders(np.array([[True, False], [False, True]]))
    ends = np.flatnonzero(np.isnan(x))
    assert len(ends) == 2
    for line in (slice(0, ends[0]), slice(ends[0] + 1, ends[1])):
        assert len(x[line]) == 5
        assert (x[line][0], y[line][0]) == (x[line][-1], y[line][-1])
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    x, y = borders(ring)  # a line around, and one around the hole
    assert np.isnan(x).sum() == 2
    assert len(x) == 12
    assert [len(each) for each in borders(np.zeros((2, 2), bool))] == [0, 0]


def test_a_figure_says_that_it_is_in_sample(make):
    ds = make()
    assert "in sample" not in views.heatmap(ds).layout.title.text
    marked = ds.assign_attrs(in_sample=True, in_sample_examples=3)
    assert "in sample: 3 examples also selected what is shown" in said(views.heatmap(marked))
    scores = ds["value"].mean("example").isel(metric=0).rename("score")
    assert "in sample" in views.heatmap(scores.assign_attrs(in_sample=True)).layout.title.text


def test_unequal_templates_have_an_effective_number(make):
    ds = make(examples=12, coords={"template": list("aaaaaaabbccd")})
    # 12² / (49 + 4 + 4 + 1) = 2.48
    assert "(n=12, 4 templates, effectively 2.5)" in views.heatmap(ds).data[0].text[3, 9]


def test_an_undefined_cell_is_not_outlined(make, seed):
    ds = make(axis="head", size=6, examples=16, templates=16)
    ds["clean"] = ds["corrupt"] + np.random.default_rng(seed).normal(0, 1, ds["clean"].shape).astype("f4")
    ds["clean"] -= (ds["clean"] - ds["corrupt"]).mean()  # the difference is 0 in the mean
    assert fx.sign_flip(ds)["survives"].any()
    assert {trace.type for trace in views.heatmap(ds).data} == {"heatmap"}
    assert "scatter" in {trace.type for trace in views.heatmap(ds, "effect").data}
