"""Accuracy by layer beside its controls: lines and bands by formulas, and the words of the comparison."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import binomtest

from interp import views
from interp.errors import InputError, ShapeMismatchError, UnknownNameError

RNG = np.random.default_rng(0)


def found(**more):
    seeds = xr.DataArray([[0.5, 0.6], [0.9, 1.0], [0.7, 0.9]], dims=("layer", "seed"), coords={"seed": [0, 1]})
    drawn = xr.DataArray(np.linspace(0.5, 0.6, 60).reshape(3, 20), dims=("layer", "seed"), coords={"seed": range(20)})
    ceiling = xr.DataArray([0.8, 1.0, 1.0], dims="layer")
    variables = {"iia": seeds, "random_subspace": drawn, "full_vector": ceiling, "chance": 0.5} | more
    return xr.Dataset(variables, coords={"layer": [0, 1, 2], "rank": 8}, attrs={"model": "tiny <model>", "task": "equality"})


def lines(figure):
    return {trace.name: trace for trace in figure.data if trace.hoverinfo == "text"}


def bands(figure):
    return {trace.legendgroup: trace for trace in figure.data if trace.fill == "toself"}


def test_accuracy_and_controls_are_lines():
    figure = views.iia(found())
    drawn = lines(figure)
    assert list(drawn) == ["iia", "random subspace", "full vector", "chance"]
    np.testing.assert_allclose(drawn["iia"].y, [0.55, 0.95, 0.8])
    np.testing.assert_allclose(bands(figure)["iia"].y, [0.6, 1.0, 0.9, 0.7, 0.9, 0.5])  # the range of two seeds, not of 20
    assert drawn["iia"].text[1] == "<b>iia layer 1</b><br>accuracy 0.95 (2 seeds)<br>seeds from 0.9 to 1"
    assert "(20 seeds)" in drawn["random subspace"].text[0]
    np.testing.assert_array_equal(drawn["chance"].y, [0.5] * 3)  # the same all along
    assert drawn["chance"].line.dash == "dash"
    assert drawn["iia"].line.dash == "solid"
    title = figure.layout.title.text
    assert title.startswith("interchange intervention accuracy by layer")
    for words in ("tiny &lt;model&gt;", "equality", "rank=8", "lines of seeds: their mean, band: their range"):
        assert words in title


def test_maxima_are_compared_with_maxima():
    def told(results):
        return views.iia(results, title="t", width=5000).layout.title.text.replace("\u00a0", " ")

    beaten = told(found())
    assert "max 0.95 at layer 1" in beaten
    assert "max of controls: random subspace 0.58, full vector 1.00, chance 0.50" in beaten
    assert "does not beat" not in beaten  # a ceiling is no rival
    rival = xr.DataArray([0.2, 0.3, 0.95], dims="layer")
    assert "does not beat random network" in told(found(random_network=rival))
    assert "no controls are given" in told(found()["iia"])


def test_examples_of_zero_and_one_have_wilson_s_interval():
    each = xr.DataArray([[1] * 20, [1] * 15 + [0] * 5], dims=("layer", "example"), coords={"layer": [3, 4]}, name="iia")
    figure = views.iia(each)
    band = bands(figure)["iia"].y
    perfect, some = (binomtest(k, 20).proportion_ci(0.95, method="wilson") for k in (20, 15))
    np.testing.assert_allclose(band, [perfect.high, some.high, some.low, perfect.low])
    assert "accuracy 1.00 [0.84, 1.00] (n=20)" in lines(figure)["iia"].text[0]
    assert "band: 95% interval over 20 examples" in figure.layout.title.text
    templates = each.assign_coords(template=("example", [f"t{i % 5}" for i in range(20)]))
    assert "over 5 templates" in views.iia(templates).layout.title.text


def test_methods_and_models_are_lines():
    both = xr.DataArray([[0.5, 0.9], [0.4, 0.6]], dims=("method", "layer"), coords={"method": ["DAS", "PCA"], "layer": [0, 1]})
    figure = views.iia(both)
    assert list(lines(figure)) == ["DAS", "PCA"]
    assert "max of DAS 0.90 at layer 1" in figure.layout.title.text
    several = views.iia({"gpt2": found(), "llama": found()})
    assert "gpt2 random subspace" in lines(several)
    assert len(lines(several)) == 8


def test_other_variables_are_left_alone():
    figure = views.iia(
        found(loss=xr.DataArray([3.0, 2.0], dims="step"), my_control=xr.DataArray([0.1, 0.2, 0.3], dims="layer"))
    )
    assert "my control" in lines(figure)
    assert not any("loss" in name for name in lines(figure))


@pytest.mark.parametrize("layers", [1, 80])
def test_one_layer_and_eighty(layers):
    figure = views.iia(xr.DataArray(np.linspace(0, 1, layers), dims="layer"), width=views.COLUMN)
    assert figure.layout.xaxis.dtick == (1 if layers == 1 else 10)
    assert lines(figure)["iia"].x == tuple(range(layers))
    assert figure.layout.xaxis.range == ((-0.5, 0.5) if layers == 1 else None)


def test_points_of_one_layer_stand_side_by_side():
    table = xr.Dataset({"iia": ("layer", [0.9]), "chance": 0.5}, {"layer": [7]})
    drawn = lines(views.iia(table))
    np.testing.assert_allclose([drawn["iia"].x[0], drawn["chance"].x[0]], [6.95, 7.05])


def test_wrong_arguments():
    with pytest.raises(UnknownNameError, match="unknown variable 'acc' of this result"):
        views.iia(found(), "acc")
    with pytest.raises(UnknownNameError, match="unknown axis 'position' of gpt2"):
        views.iia({"gpt2": found()}, x="position")
    with pytest.raises(InputError, match="random_network of this result holds 87; expected shares from 0 to 1"):
        views.iia(found(random_network=xr.DataArray([87.0, 50.0, 50.0], dims="layer")))
    with pytest.raises(ShapeMismatchError, match="30 lines"):
        views.iia(xr.DataArray(np.zeros((30, 2)), dims=("method", "layer")))
