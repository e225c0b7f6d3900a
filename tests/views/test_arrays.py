"""Maps of arrays that are no sweep. Expected: the array that went in, and Student's interval of it by hand."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from interp import effects as fx
from interp import views
from interp.errors import InputError, UnknownNameError
from interp.views import labels


def scores(layers=4, heads=3, **attrs):
    table = np.linspace(-1, 1, layers * heads).reshape(layers, heads)
    attrs = {"model": "tiny <model>", "quantity": "copying score", "fold_norm": 1} | attrs
    return xr.DataArray(table, {"layer": range(layers), "head": range(heads)}, ("layer", "head"), name="score", attrs=attrs)


def of_examples(examples=5):
    """A result of several variables, as direct attribution and attention give them."""
    drawn = np.random.default_rng(0).normal(size=(examples, 4, 3))
    coords = {
        "layer": range(2, 6),
        "head": range(3),
        "example": range(examples),
        "prompt": ("example", ["a prompt"] * examples),
    }
    ds = xr.Dataset({"by_head": (("example", "layer", "head"), drawn)}, coords, {"model": "m", "given": "Intervention(…)"})
    ds["total"] = ("example", np.ones(examples))
    return ds.assign_coords(answer=("example", [" Paris"] * examples), wrong=("example", [" Rome"] * examples))


def test_an_array_of_two_axes():
    array = scores()
    figure = views.heatmap(array)
    (drawn,) = figure.data
    np.testing.assert_array_equal(drawn.z, array.values)
    assert (drawn.colorscale[0][1], drawn.zmin, drawn.zmax) == ("rgb(103,0,31)", -1, 1)  # red below 0
    assert drawn.text[3, 1] == "<b>L3H1</b> 0.8182"
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("head", "layer")
    title = figure.layout.title.text
    assert "copying score, layer by head" in title
    assert "tiny &lt;model&gt; · norms folded in" in title
    assert views.heatmap(array, x="layer").data[0].z.shape == (3, 4)
    assert views.heatmap(abs(array)).data[0].zmin == 0
    assert views.heatmap(array, limit=0.5, title="mine").data[0].zmax == 0.5
    holed = views.heatmap(array.where(array > 0)).data[0]
    assert holed.text[0, 0] == ""
    assert np.isnan(holed.z[0, 0])


def test_of_examples_the_mean_and_its_interval():
    ds = of_examples()
    figure = views.heatmap(ds, "by_head")
    for same in (views.heatmap(ds), views.heatmap(ds.by_head)):  # the only one with two axes
        np.testing.assert_array_equal(same.data[0].z, figure.data[0].z)
    numbers = ds.by_head.values[:, 1, 2]
    np.testing.assert_allclose(figure.data[0].z[1, 2], numbers.mean(), rtol=1e-12)
    half = stats.t.ppf(0.975, 4) * numbers.std(ddof=1) / 5**0.5
    assert figure.data[0].text[1, 2] == f"<b>L3H2</b> {numbers.mean():.2f} ± {half:.2f} (n=5)"
    assert "m · n=5 · given Intervention(…)" in figure.layout.title.text
    one = views.heatmap(ds.isel(example=[0]), "by_head")
    assert "n=1 · “a prompt” · ' Paris' against ' Rome'" in one.layout.title.text
    assert one.data[0].text[1, 2] == f"<b>L3H2</b> {numbers[0]:.4g}"
    undefined = ds.by_head.copy()
    undefined[1] = np.nan  # a score that a prompt does not have
    rest = views.heatmap(undefined)
    np.testing.assert_allclose(rest.data[0].z, ds.by_head[[0, 2, 3, 4]].mean("example"))
    assert "n=4" in rest.layout.title.text


def test_tokens_a_slider_and_a_metric():
    tokens = [["The", " cat", " sat"], ["The", " dog", " sat"]]
    norms = xr.DataArray(np.ones((2, 4, 3)), dims=("example", "layer", "position"), coords={"position": [0, 1, 2]}, name="norm")
    norms = norms.assign_coords(token=(("example", "position"), tokens))
    assert list(views.heatmap(norms).layout.xaxis.ticktext) == ["0 The", "1 cat|dog", "2 sat"]
    assert list(views.heatmap(norms[1]).layout.xaxis.ticktext) == ["0 The", "1 dog", "2 sat"]
    stacked = xr.concat([scores(), 2 * scores()], xr.IndexVariable("checkpoint", [0, 400]))
    sliding = views.heatmap(stacked, slider="checkpoint")
    assert [frame.name for frame in sliding.frames] == ["0", "400"]
    assert sliding.data[0].zmax == 2
    by_metric = xr.concat([scores(), 2 * scores()], xr.IndexVariable("metric", ["kl", "prob"]))
    np.testing.assert_array_equal(views.heatmap(by_metric, metric="prob").data[0].z, 2 * scores().values)


def test_effects_that_were_computed(make):
    ds = make()
    figure = views.heatmap(fx.effect(ds))
    np.testing.assert_allclose(figure.data[0].z, fx.effect(ds)[0].mean("example"), rtol=1e-6)
    assert "effect, layer by position" in figure.layout.title.text
    np.testing.assert_array_equal(views.heatmap(ds, "value").data[0].z, views.heatmap(ds, quantity="value").data[0].z)


def test_mistakes_say_what_to_name():
    ds = of_examples().assign(other=2 * of_examples().by_head)
    with pytest.raises(InputError, match=r"2 variables have two axes; .* heatmap\(results, 'by_head'\): 'by_head', 'other'"):
        views.heatmap(ds)
    with pytest.raises(InputError, match=r"0 variables have two axes.*'total'"):
        views.heatmap(ds[["total"]])
    with pytest.raises(UnknownNameError, match="unknown quantity 'by_haed' of this result; did you mean 'by_head'"):
        views.heatmap(ds, "by_haed")
    with pytest.raises(UnknownNameError, match="it is one already; leave quantity out"):
        views.heatmap(ds.by_head, "by_head")
    with pytest.raises(UnknownNameError, match="unknown metric 'kl'"):
        views.heatmap(scores(), metric="kl")
    with pytest.raises(fx.EffectsError, match=r"this result has 3: seed \(2\), layer \(4\), head \(3\); select one value"):
        views.heatmap(xr.concat([scores(), scores()], "seed"))


def test_every_neuron_of_a_model_is_a_small_figure():
    many = xr.DataArray(np.random.default_rng(0).normal(size=(30, 1536)), dims=("layer", "unit"))
    assert len(views.heatmap(many).to_json()) < 3_000_000


def named_as(array, **options):
    return labels.plain(views.heatmap(array, **options).layout.title.text.split("<br>")[0])


def test_a_quantity_is_named_where_it_is_that_of_one_run(make):
    first = make()
    whole = fx.recovery(first)
    for same in (whole, whole.sel(metric="logit_diff"), whole.isel(layer=[1, 2]), whole.T):
        assert named_as(same, x="position", y="layer") == "recovery, layer by position"
    selected = fx.recovery(first.isel(metric=0))
    assert named_as(selected) == "recovery, layer by position"
    assert named_as(fx.effect(first)) == "effect, layer by position"


def test_what_was_reckoned_from_quantities_does_not_claim_to_be_one(make):
    first, second = make(), make(examples=6)
    drawn = views.heatmap(fx.recovery(first) - fx.recovery(second))
    assert drawn.layout.title.text.startswith("from recovery, layer by position")
    assert drawn.data[0].colorbar.title.text == "from recovery"
    assert named_as(fx.effect(first).mean("example") - fx.effect(second).mean("example")) == "from effect, layer by position"
    assert named_as(fx.recovery(first) - fx.recovery(second), title="A − B") == "A − B"
    with xr.set_options(keep_attrs=False):  # as older versions of xarray do
        assert named_as(fx.recovery(first) - fx.recovery(second)) == "from recovery, layer by position"
    two = xr.concat([first, first.assign(value=2 * first["value"])], "seed").assign_coords(seed=[0, 1])
    whole = fx.recovery(two)
    assert named_as(whole.sel(seed=1)) == "recovery, layer by position"
    assert named_as(whole.sel(seed=1) - whole.sel(seed=0)) == "from recovery, layer by position"
    assert named_as(whole.mean("seed")) == "from recovery, layer by position"
    mine = xr.DataArray(np.eye(3), dims=("layer", "head"), name="effect").assign_coords(layer=range(3), head=range(3))
    assert named_as(mine) == "effect, layer by head"
    line = views.curve(fx.recovery(first).mean("position") - fx.recovery(second).mean("position"), x="layer")
    assert line.layout.title.text.startswith("from recovery over layer")
