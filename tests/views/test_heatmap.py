"""Maps, tested on what the figure contains; the numbers follow from the formula in conftest.py."""

import html
import inspect

import numpy as np
import plotly.io as pio
import pytest
from plotly.colors import get_colorscale

from interp import effects as fx
from interp import views
from interp.errors import UnknownNameError
from interp.views.heatmap import WHY


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
    assert lines[3] == "token ' to'"
    hover = views.heatmap(make(layers=10, size=12, axis="head", templates=2)).data[0].text[9, 6]
    assert hover.startswith("<b>L9H6</b> -0.10 ± 0.00 (n=8, only 2 templates)")


def test_both_tokens_where_the_prompts_differ(make):
    text = views.heatmap(make()).data[0].text
    assert text[0, 6].endswith("token ' John', corrupted ' Mary'")
    assert text[0, 2].endswith("token differs")
    assert text[0, 0].endswith("token '&lt;|endoftext|&gt;'")


def test_equal_tokens_stay_apart_on_the_axis(make):
    axis = views.heatmap(make()).layout.xaxis
    assert axis.tickvals == tuple(range(10))
    assert axis.ticktext[4] == "4 John"
    assert axis.ticktext[6] == "6 John"
    assert axis.ticktext[2] == "2 ·"  # examples differ
    assert axis.ticktext[0] == "0 &lt;|endoftext|&gt;"
    assert axis.title.text == "position and token of the clean prompt"


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
