"""Small maps in the same colours: what stands where, what is ringed, and what is refused."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import xarray as xr

from interp import views
from interp.errors import InputError, ShapeMismatchError


def one(values: object, name: str = "score") -> xr.DataArray:
    array = np.asarray(values, float)
    return xr.DataArray(array, {"layer": range(len(array)), "head": range(array.shape[1])}, ("layer", "head"), name=name)


LONE = np.zeros((3, 4))
LONE[1, 2] = 1.0


def test_maps_have_the_same_colours_and_rings_where_cells_stand_out() -> None:
    figure = views.maps({"str": one(LONE), "noise": one(-0.5 * LONE)})
    heat = [trace for trace in figure.data if trace.type == "heatmap"]
    rings = [trace for trace in figure.data if trace.type == "scatter"]
    assert [(trace.zmin, trace.zmax, trace.showscale) for trace in heat] == [(-1, 1, True), (-1, 1, False)]
    np.testing.assert_array_equal(heat[1].z, -0.5 * LONE)
    assert [(list(ring.x), list(ring.y)) for ring in rings] == [([2], [1]), ([2], [1])]
    assert heat[0].text[1][2] == "L1H2 1, flagged"
    assert heat[0].text[0][0] == "L0H0 0"
    assert [note.text for note in figure.layout.annotations] == ["str", "noise"]
    assert {trace.xaxis for trace in heat} == {"x", "x2"} or {trace.xaxis for trace in heat} == {"x1", "x2"}


def test_axes_can_be_exchanged_and_rows_chosen() -> None:
    figure = views.maps({"a": one(LONE), "b": one(LONE), "c": one(LONE, "gain")}, x="layer", across=2)
    np.testing.assert_array_equal(figure.data[0].z, LONE.T)
    assert figure.data[0].colorbar.title.text == "score or gain"
    assert figure.layout.xaxis4.visible is False
    assert figure.layout.yaxis3.domain[1] < figure.layout.yaxis.domain[0]  # the third is under the first


@pytest.mark.parametrize(
    ("results", "options", "error", "message"),
    [
        ({}, {}, InputError, "results are arrays by name, such as interp.compare_choices(…).maps()"),
        (one(LONE), {}, InputError, "got DataArray"),
        ({"a": one(LONE)[0]}, {}, ShapeMismatchError, "a map has two axes; 'a' has ('head',)"),
        ({"a": one(LONE), "b": one(LONE[:2])}, {}, ShapeMismatchError, "maps are of the same cells; 'b' has"),
        ({"a": one(LONE)}, {"x": "position"}, ShapeMismatchError, "these maps have the axes 'layer' and 'head'"),
    ],
)
def test_wrong_use(results: object, options: dict[str, str], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        inspect.unwrap(views.maps)(results, **options)  # type: ignore[arg-type]
    assert message in str(caught.value)
