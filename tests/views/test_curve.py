"""Curves: means and bands by formulas, one panel a variable, a place for checkpoint 0."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import t

from interp import effects as fx
from interp import views
from interp.errors import InputError, ShapeMismatchError, UnknownNameError
from interp.views import bands as bands_of
from interp.views.colours import COLOURS

STEPS = [0, 10, 100, 1000]
TEMPLATES = ("plotly_white", "plotly_dark")


@pytest.fixture
def scores():
    """``[seed, checkpoint, example]``, seed k earlier by a step, examples spread by ±1 and 0."""
    rises = np.array([[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]], float)
    values = rises[:, :, None] + np.array([-1.0, 0.0, 1.0])
    return xr.DataArray(values, dims=("seed", "checkpoint", "example"), coords={"checkpoint": STEPS}, name="score")


def lines(figure):
    return [trace for trace in figure.data if trace.fill is None]


def bands(figure):
    return [trace for trace in figure.data if trace.fill == "toself"]


def test_mean_and_range_of_seeds(scores):
    figure = views.curve(scores)
    (line,), (band,) = lines(figure), bands(figure)
    np.testing.assert_allclose(line.y, [0, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(band.y, [0, 1, 1, 1, 1, 0, 0, 0])  # the highest seed there, the lowest one back
    np.testing.assert_allclose(band.x, [*STEPS, *STEPS[::-1]])
    assert line.x == tuple(map(float, STEPS))
    assert line.text[1] == "<b>checkpoint 10</b><br>score 0.333 (3 seeds)<br>seeds from 0 to 1"
    assert "line: mean of 3 seeds, band: their range" in figure.layout.title.text


def test_interval_over_examples_where_there_are_no_seeds(scores):
    figure = views.curve(scores.isel(seed=0), level=0.9)
    (line,), (band,) = lines(figure), bands(figure)
    half = t.ppf(0.95, 2) * 1 / np.sqrt(3)  # examples −1, 0, 1: standard deviation 1
    np.testing.assert_allclose(line.y, [0, 0, 1, 1], atol=1e-12)
    np.testing.assert_allclose(band.y[:4], np.array([0, 0, 1, 1]) + half)
    assert "band: 90% interval over 3 examples" in figure.layout.title.text


def test_no_band_where_nothing_repeats(scores):
    figure = views.curve(scores.isel(seed=0, example=1))
    assert bands(figure) == []
    np.testing.assert_array_equal(lines(figure)[0].y, [0, 0, 1, 1])


def test_a_panel_for_each_variable_and_one_legend(scores):
    both = xr.Dataset({"score": scores, "loss": -scores, "other": ("layer", [1, 2])}, attrs={"model": "tiny <model>"})
    figure = views.curve(both)
    assert [axis.title.text for axis in figure.select_yaxes()] == ["score", "loss"]
    assert figure.layout.xaxis2.title.text == "checkpoint"
    assert "tiny &lt;model&gt;" in figure.layout.title.text
    assert not any(trace.showlegend for trace in figure.data)
    heads = xr.concat([both, both * 2], xr.Variable("head", [0, 1]), data_vars="all")
    named = views.curve(heads[["score", "loss"]])
    assert [trace.name for trace in named.data if trace.showlegend] == ["H0", "H1"]
    assert [trace.line.color for trace in lines(named)] == [*COLOURS[:2], *COLOURS[:2]]


def test_log_has_a_place_for_zero(scores):
    figure = views.curve(scores, log=True)
    np.testing.assert_allclose(lines(figure)[0].x, np.log10([1, 2, 11, 101]))
    assert figure.layout.xaxis.ticktext == ("0", "10", "100", "1000")
    assert figure.layout.xaxis.title.text == "checkpoint (log scale, linear below 10)"
    with pytest.raises(ShapeMismatchError, match="log=True needs numbers from 0 on along 'checkpoint'"):
        views.curve(scores.assign_coords(checkpoint=["a", "b", "c", "d"]), log=True)


def test_ticks_have_room(scores):
    many = xr.DataArray(np.arange(300.0), dims="checkpoint", coords={"checkpoint": range(100_000, 100_300)})
    axis = views.curve(many).layout.xaxis
    assert axis.ticktext == tuple(str(i) for i in range(100_000, 100_300, 50))
    assert np.diff(axis.tickvals).min() / 299 * (views.PAGE - 70) > 0.62 * 12 * 6
    uneven = many.assign_coords(checkpoint=np.arange(300) ** 2)
    axis = views.curve(uneven).layout.xaxis
    assert axis.ticktext[-1] == str(299**2)
    assert np.diff(axis.tickvals).min() / 299**2 * (views.PAGE - 70) > 0.62 * 12 * 5


def test_labels_are_an_axis_too(scores):
    named = scores.isel(seed=0).assign_coords(checkpoint=["a", "b", "c", "d"]).rename(checkpoint="model")
    figure = views.curve(named, x="model")
    assert figure.layout.xaxis.ticktext == ("a", "b", "c", "d")
    assert lines(figure)[0].x == (0.0, 1.0, 2.0, 3.0)


def test_effects_by_seed_and_by_example(make):
    whole = make(layers=2, size=3, axis="head")
    parts = [whole.copy(deep=True) for _ in range(2)]
    parts[1]["value"] = (parts[1]["corrupt"] + 0.5 * (parts[1]["value"] - parts[1]["corrupt"])).transpose(*whole["value"].dims)
    seeds = xr.concat(parts, xr.Variable("seed", [0, 1]), data_vars="all", coords="minimal", compat="override", join="exact")
    seeds = fx.validate(seeds.transpose("metric", "seed", ..., "example").assign_attrs(whole.attrs))
    figure = views.curve(seeds, x="layer")
    assert [trace.name for trace in lines(figure)] == ["H0", "H1", "H2"]
    np.testing.assert_allclose(lines(figure)[2].y, [0.375, 0.75], rtol=1e-6)  # the last head: (l + 1)/2, in seed 1 half of it
    np.testing.assert_allclose(bands(figure)[2].y, [0.5, 1, 0.5, 0.25], rtol=1e-6)
    assert "z: recovery of logit_diff" in figure.layout.title.text
    one = views.curve(seeds.isel(seed=0), x="layer", quantity="effect")
    table = fx.summary(seeds.isel(seed=0), "effect").isel(metric=0)
    np.testing.assert_allclose(bands(one)[2].y[:2], table["high"].isel(head=2))
    assert "band: 95% interval over templates" in one.layout.title.text
    assert "seed=0" in one.layout.title.text


def test_gaps_stay_gaps(scores):
    holed = scores.copy()
    holed[1, 2] = np.nan
    figure = views.curve(holed)
    assert np.isnan(lines(figure)[0].y).tolist() == [False, False, True, False]
    band = bands(figure)[0]
    np.testing.assert_allclose(band.x, [0, 10, 10, 0, np.nan, 1000, 1000])  # nothing is drawn across the gap
    np.testing.assert_allclose(band.y, [0, 1, 0, 0, np.nan, 1, 1])


def test_the_only_axis_needs_no_name(make):
    ds = make().isel(position=0)
    assert views.curve(ds).to_json() == views.curve(ds, x="layer").to_json()
    one = fx.effect(ds).isel(metric=0)
    assert views.curve(one).to_json() == views.curve(one, x="layer").to_json()


def test_of_several_axes_it_is_checkpoints_or_layers(scores, make):
    ds = make(axis="head", size=2)
    assert views.curve(ds).to_json() == views.curve(ds, x="layer").to_json()
    several = scores.expand_dims(layer=[0, 1])
    assert views.curve(several).to_json() == views.curve(several, x="checkpoint").to_json()


def test_hover_has_interval_n_and_raw_value(make):
    figure = views.curve(make(axis="head", size=2), x="layer")
    table = fx.summary(make(axis="head", size=2)).isel(metric=0, layer=1, head=1)
    low, high = float(table["low"]), float(table["high"])
    assert lines(figure)[1].text[1].split("<br>") == [
        "<b>H1 layer 1</b>",
        f"recovery 0.50 ± {(high - low) / 2:.2f} (n=8, 4 templates)",
        f"95% interval {low:.3g} to {high:.3g}",
        "logit_diff 0",  # half way between −3 and 3, the means of corrupted and clean
    ]


def test_arrays_whose_examples_have_templates_are_told_by_templates():
    each = np.random.default_rng(0).normal(size=(3, 5))
    array = xr.DataArray(
        np.repeat(each, 4, axis=1), dims=("layer", "example"), coords={"template": ("example", np.repeat(list("abcde"), 4))}
    )
    figure = views.curve(array.assign_coords(layer=range(3)), x="layer")
    half = t.ppf(0.975, 4) * each.std(1, ddof=1) / np.sqrt(5)  # four copies of an example are worth one
    np.testing.assert_allclose(np.array(bands(figure)[0].y[:3]) - lines(figure)[0].y, half)
    assert "band: 95% interval over 5 templates" in figure.layout.title.text
    assert "(n=20, 5 templates)" in lines(figure)[0].text[0]


def test_several_results_share_the_axes(make):
    first, second = (make(axis="head", size=2).isel(head=1, drop=True) for _ in range(2))
    second = second.isel(layer=slice(1, None)).assign_attrs(site="mlp_out", task="other")
    figure = views.curve({"heads": first, "MLP": second})
    assert [line.name for line in lines(figure)] == ["heads", "MLP"]
    assert [list(line.x) for line in lines(figure)] == [[0, 1, 2, 3], [1, 2, 3]]
    title = figure.layout.title.text
    assert title.startswith("recovery of logit_diff (0 = corrupted, 1 = clean)")  # of no one site
    assert "tiny &lt;model&gt;" in title
    assert "ioi" not in title
    tree = xr.DataTree.from_dict({"heads": first, "MLP": second})
    assert views.curve(tree).to_json() == figure.to_json()
    arrays = {"a": xr.DataArray([1.0, 2.0], dims="layer", coords={"layer": [0, 1]}, name="score")}
    assert lines(views.curve(arrays | {"b": arrays["a"] * 2}))[1].y.tolist() == [2, 4]
    with pytest.raises(InputError, match=r"effects and other arrays .*: heads \(effects\), a \(array\)"):
        views.curve({"heads": first} | arrays)
    with pytest.raises(InputError, match="MLP measures prob, others logit_diff"):
        views.curve({"heads": first, "MLP": make(metric="prob", axis="head", size=2).isel(head=1)})
    with pytest.raises(InputError, match="results is a list; expected an xarray result, or several by name"):
        bands_of.named([first, second])


def test_models_and_methods_are_called_by_their_names():
    array = xr.DataArray(np.ones((2, 1, 3)), dims=("model", "head", "layer"), coords={"model": ["gpt2", "llama"], "head": [4]})
    assert [line.name for line in lines(views.curve(array, x="layer"))] == ["gpt2 H4", "llama H4"]


def test_a_seed_alone_has_the_band_of_its_examples(scores):
    assert "interval over 3 examples" in views.curve(scores.isel(seed=[1])).layout.title.text


def test_lines_on_dark_paper_are_seen(make):
    many = make(axis="head", size=8)
    colours = {t: [line.line.color for line in lines(views.curve(many, x="layer", template=t))] for t in TEMPLATES}
    assert colours["plotly_white"][-1] == "#000000"
    assert colours["plotly_dark"][-1] == "#ffffff"
    assert len(set(colours["plotly_dark"])) == 8


@pytest.mark.parametrize("layers", [1, 80])
def test_one_layer_and_eighty(make, layers):
    figure = views.curve(make(layers=layers, axis="head", size=2).isel(head=1), x="layer", width=views.COLUMN)
    assert figure.layout.xaxis.ticktext[0] == "0"
    assert len(figure.layout.xaxis.ticktext) == (1 if layers == 1 else 8)  # every tenth
    assert lines(figure)[0].mode == ("lines+markers" if layers == 1 else "lines")


def test_points_of_one_layer_stand_side_by_side(make):
    figure = views.curve(make(layers=1, axis="head", size=3), x="layer")
    np.testing.assert_allclose([line.x[0] for line in lines(figure)], [-0.1, 0, 0.1])
    assert figure.layout.xaxis.range == (-0.5, 0.5)
    assert figure.layout.xaxis.tickvals == (0,)
    assert [line.text[0].split("<br>")[0] for line in lines(figure)] == [f"<b>H{head} layer 0</b>" for head in range(3)]


def test_positions_have_their_tokens(make):
    ds = make().sel(layer=[1, 2])
    figure = views.curve(ds, x="position")
    axis = figure.layout.xaxis
    assert axis.ticktext[:5] == ("0 &lt;|endoftext|&gt;", "1 When", "2 Anna|Mary", "3 and", "4 John")
    assert axis.tickangle == -90
    assert axis.title.text == "position and token of the clean prompt"
    assert lines(figure)[1].text[4].startswith("<b>L2 position 4 John</b><br>recovery ")
    assert figure.layout.margin.b > views.curve(make(tokens=False).sel(layer=[1, 2]), x="position").layout.margin.b
    few = views.curve(ds.isel(position=[1]), x="position")
    assert (few.layout.xaxis.ticktext, few.layout.xaxis.tickangle) == (("1 When",), 0)
    other = ds.assign_coords(clean_token=ds["clean_token"].copy(data=np.full(ds["clean_token"].shape, " x", object)))
    both = views.curve({"one": ds, "other": other}, x="position")
    assert both.layout.xaxis.ticktext[4] == "4", "results of other prompts have no token in common"


def test_arrays_have_their_tokens_too():
    words = [["The", " cat"], ["The", " dog"]]
    coords = {"position": [0, 1], "input_token": (("example", "position"), words)}
    entropy = xr.DataArray(np.ones((2, 2)), coords, ("example", "position"), name="entropy")
    axis = views.curve(entropy, x="position").layout.xaxis
    assert (axis.ticktext, axis.title.text) == (("0 The", "1 cat|dog"), "position and token")


def test_a_variable_and_a_metric_of_arrays(scores):
    both = xr.Dataset({"score": scores, "loss": -scores})
    (line,) = lines(views.curve(both, "loss"))
    np.testing.assert_allclose(line.y, [0, -1 / 3, -2 / 3, -1])
    by_metric = xr.concat([scores, 2 * scores], xr.Variable("metric", ["one", "other"]))
    (line,) = lines(views.curve(by_metric, metric="other"))
    np.testing.assert_allclose(line.y, [0, 2 / 3, 4 / 3, 2])
    with pytest.raises(UnknownNameError, match=r"unknown quantity 'los' along 'checkpoint'; did you mean 'loss'"):
        views.curve(both, "los")
    with pytest.raises(UnknownNameError, match=r"unknown metric 'others'.* 'other'"):
        views.curve(by_metric, metric="others")


def test_wrong_arguments(scores, make):
    with pytest.raises(UnknownNameError, match="unknown axis of the results 'step'"):
        views.curve(scores, x="step")
    with pytest.raises(InputError, match="runs from left to right: x='head' or x='position'"):
        views.curve(scores.isel(seed=0).rename(checkpoint="position").expand_dims(head=2))
    with pytest.raises(InputError, match="this result has no axis to draw along"):
        views.curve(scores.isel(checkpoint=0))
    with pytest.raises(UnknownNameError, match="did you mean 'effect'"):
        views.curve(make(), x="layer", quantity="effects")
    with pytest.raises(ShapeMismatchError, match=r"30 lines over head \(30\): at most 24"):
        views.curve(make(layers=2, size=30, axis="head"), x="layer")


@pytest.mark.skipif(not views.can_export(), reason="no image exporter")
def test_curves_are_drawn(scores, tmp_path):
    path = views.save(views.curve(xr.Dataset({"score": scores, "loss": -scores}), log=True), tmp_path / "curve.png")
    assert path.stat().st_size > 5000


def test_a_point_without_neighbours_has_a_bar_for_its_interval(scores):
    ends = scores.isel(checkpoint=[0])
    (line,) = lines(views.curve(ends))
    assert (line.error_y.array[0], line.error_y.arrayminus[0]) == (0, 0)
    of_examples = ends.isel(seed=0)
    (line,) = lines(views.curve(of_examples))
    half = t.ppf(0.975, 2) / np.sqrt(3)  # examples −1, 0, 1
    np.testing.assert_allclose([line.error_y.array[0], line.error_y.arrayminus[0]], half)
    assert lines(views.curve(scores))[0].error_y.array is None
