"""Curves: means and bands by formulas, one panel a variable, a place for checkpoint 0."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import t

from interp import effects as fx
from interp import views
from interp.errors import ShapeMismatchError, UnknownNameError
from interp.views.curve import COLOURS

STEPS = [0, 10, 100, 1000]


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
    assert line.text[1] == "<b>checkpoint 10</b><br>score 0.333 (0 to 1)"
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
    gaps = np.diff(axis.tickvals) / 299 * (views.PAGE - 60)
    assert axis.ticktext[-1] == "100299"
    assert gaps.min() > 0.62 * 12 * 6


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


def test_wrong_arguments(scores, make):
    with pytest.raises(UnknownNameError, match="unknown axis of the results 'step'"):
        views.curve(scores, x="step")
    with pytest.raises(UnknownNameError, match="unknown swept axis 'checkpoint'"):
        views.curve(make())  # two axes: which runs along is not to be guessed
    with pytest.raises(UnknownNameError, match="did you mean 'effect'"):
        views.curve(make(), x="layer", quantity="effects")
    with pytest.raises(ShapeMismatchError, match=r"30 lines over head \(30\): at most 24"):
        views.curve(make(layers=2, size=30, axis="head"), x="layer")


@pytest.mark.skipif(not views.can_export(), reason="no image exporter")
def test_curves_are_drawn(scores, tmp_path):
    path = views.save(views.curve(xr.Dataset({"score": scores, "loss": -scores}), log=True), tmp_path / "curve.png")
    assert path.stat().st_size > 5000
