"""Maps behind a slider: a frame for each value is the map of that value alone, in colours that all of them share."""

import re

import numpy as np
import pytest
import xarray as xr

from interp import effects as fx
from interp import views
from interp.errors import UnknownNameError


@pytest.fixture
def stacked(make):
    """Three checkpoints: nothing, a third of the effect, all of it; clean and corrupted differ by model, as they do."""
    whole = make(layers=2, size=4, axis="head")
    parts = []
    for step, share in ((0, 0.0), (100, 1 / 3), (1000, 1.0)):
        part = whole.copy(deep=True)
        for name in ("value", "clean", "corrupt"):
            part[name] = (whole[name] * (0.5 + share)).astype("float32")
        part["value"] = (part["corrupt"] + share * (part["value"] - part["corrupt"])).transpose(*whole["value"].dims)
        parts.append(part.expand_dims(checkpoint=[step]))
    together = xr.concat(parts, "checkpoint", data_vars="all", coords="minimal", compat="override", join="exact")
    order = ("metric", "checkpoint", "layer", "head", "example")
    return fx.validate(together.transpose(*order, missing_dims="ignore").assign_attrs(whole.attrs))


def without_test(text):
    return [[re.sub("<br>sign-flip p[^<]*", "", one) for one in row] for row in text.tolist()]


def test_a_frame_is_the_map_of_its_value(stacked):
    figure = views.heatmap(stacked, slider="checkpoint", quantity="effect")
    assert [frame.name for frame in figure.frames] == ["0", "100", "1000"]
    assert [step.label for step in figure.layout.sliders[0].steps] == ["0", "100", "1000"]
    for i, frame in enumerate(figure.frames):
        alone = views.heatmap(stacked.isel(checkpoint=i), quantity="effect")
        np.testing.assert_array_equal(frame.data[0].z, alone.data[0].z)
        assert without_test(frame.data[0].text) == without_test(alone.data[0].text)  # alone, fewer cells are looked at
        assert frame.layout.title.text.split("</span>")[0] == alone.layout.title.text.split("</span>")[0]
        assert f"checkpoint={frame.name}" in frame.layout.title.text
        assert tuple(frame.traces) == tuple(range(len(figure.data)))


def test_colours_are_shared_and_fixed(stacked):
    figure = views.heatmap(stacked, slider="checkpoint", quantity="effect")
    largest = np.nanmax([np.nanmax(np.abs(np.asarray(frame.data[0].z, float))) for frame in figure.frames[1:]])
    assert (figure.data[0].zmin, figure.data[0].zmax) == (-largest, largest)
    assert all(frame.data[0].zmax is None and frame.data[0].colorscale is None for frame in figure.frames)
    assert views.heatmap(stacked, slider="checkpoint", limit=0.5).data[0].zmax == 0.5
    shares = stacked.copy()
    for name in ("value", "clean", "corrupt"):
        shares[name] = (stacked[name] / 20 + 0.5).astype("float32")
    drawn = views.heatmap(shares, slider="checkpoint", quantity="value").data[0]
    assert (drawn.zmin, drawn.zmax) == (0, 1)


def test_it_opens_at_the_last_value(stacked):
    figure = views.heatmap(stacked, slider="checkpoint", quantity="effect")
    np.testing.assert_array_equal(figure.data[0].z, figure.frames[-1].data[0].z)
    assert figure.layout.title.text == figure.frames[-1].layout.title.text
    assert figure.layout.sliders[0].active == 2


def test_reasons_of_any_frame_are_traces_of_all(stacked):
    """At step 0 the effect is 0, within noise; later it is not."""
    figure = views.heatmap(stacked, slider="checkpoint", quantity="effect")
    assert [trace.name for trace in figure.data] == [None, "within noise"]
    assert np.isfinite(np.asarray(figure.frames[0].data[1].z, float)).sum() == 6  # column 0 is 0 by rule, which is a number
    assert not np.isfinite(np.asarray(figure.frames[2].data[1].z, float)).any()


def test_the_plot_keeps_its_size_and_the_title_its_place(stacked):
    figure, plain = views.heatmap(stacked, slider="checkpoint"), views.heatmap(stacked.isel(checkpoint=-1))

    def inner(one):
        return one.layout.height - one.layout.margin.t - one.layout.margin.b

    assert inner(figure) == inner(plain)
    below = [(1 - one.layout.title.y) * one.layout.height for one in (figure, plain)]
    assert below[0] == pytest.approx(below[1])
    foot = -figure.layout.sliders[0].y * inner(figure)
    assert plain.layout.margin.b <= foot < figure.layout.margin.b - 60


def test_one_value_needs_no_slider(stacked):
    figure = views.heatmap(stacked.isel(checkpoint=[1]), slider="checkpoint")
    assert not figure.frames
    assert not figure.layout.sliders
    assert figure.layout.height == views.heatmap(stacked.isel(checkpoint=1)).layout.height


def test_axes_beside_a_slider(stacked):
    turned = views.heatmap(stacked, slider="head", x="checkpoint")
    assert turned.layout.xaxis.title.text == "checkpoint"
    assert turned.layout.yaxis.title.text == "layer"
    assert [frame.name for frame in turned.frames] == ["0", "1", "2", "3"]
    with pytest.raises(fx.EffectsError, match="x and slider are both 'head'"):
        views.heatmap(stacked, slider="head", x="head")
    with pytest.raises(UnknownNameError, match="did you mean 'checkpoint'"):
        views.heatmap(stacked, slider="checkpoints")
    with pytest.raises(fx.EffectsError, match=r"beside slider='checkpoint', this result has 1: head \(4\)"):
        views.heatmap(stacked.isel(layer=0), slider="checkpoint")
    more = stacked.expand_dims(seed=[0, 1], axis=1).transpose("metric", "seed", ..., "example")
    with pytest.raises(fx.EffectsError, match=r"this result has 3: seed \(2\).*results\.isel\(seed=0\)$"):
        views.heatmap(more, slider="checkpoint")


def test_the_slider_works_in_a_browser_and_nothing_moves_by_itself(stacked, browse, tmp_path):
    figure = views.heatmap(stacked, slider="checkpoint", quantity="effect")
    path = views.save(figure, tmp_path / "slider.html")
    page = path.read_text(encoding="utf-8")
    assert "Plotly.animate(" not in page.rsplit("<script", 1)[-1]  # opens still
    assert "checkpoint=1000" in browse(path)
    move = (
        "<script>setTimeout(() => { const graph = document.querySelector('.plotly-graph-div');"
        "const step = graph.layout.sliders[0].steps[1]; Plotly.animate(graph, ...step.args) }, 1000)</script></body>"
    )
    moved = tmp_path / "moved.html"
    moved.write_text(page.replace("</body>", move), encoding="utf-8")
    titles = browse(moved).split('class="gtitle"')[1]
    assert "checkpoint=100<" in titles
    assert "checkpoint=1000" not in titles.split("</text>")[0]
