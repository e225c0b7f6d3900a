"""Every kind of result gets the views that are made for it."""

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr

import interp
from interp import effects, views


def sweep(metrics=("logit_diff",), coords=None, **sizes):
    shape = (len(metrics), *sizes.values(), 4)
    return effects.assemble(
        np.linspace(0, 1, np.prod(shape)).reshape(shape),
        np.ones((len(metrics), 4)),
        np.zeros((len(metrics), 4)),
        axes={axis: range(n) for axis, n in sizes.items()},
        metrics=list(metrics),
        coords=coords,
        attrs={
            "patching": "denoising",
            "noise_floor": dict.fromkeys(metrics, 0.0),
            "engine_semantics": 1,
            "spec": {},
            "model": "tiny",
        },
    )


@pytest.mark.parametrize(
    ("ds", "shown"),
    [
        (sweep(layer=3, head=2), {"logit_diff: layer by head": "heatmap"}),
        (
            sweep(("logit_diff", "prob"), layer=3, position=5),
            {"logit_diff: layer by position": "heatmap", "prob: layer by position": "heatmap"},
        ),
        (sweep(layer=3, head=2, position=4), {"logit_diff: layer by head": "heatmap"}),
        (sweep(seed=2, layer=3, head=2, position=4), {"logit_diff: layer by head": "heatmap"}),
        (sweep(checkpoint=3, layer=4, head=5), {"logit_diff: layer by head": "heatmap"}),
        (sweep(seed=2, checkpoint=3), {"logit_diff: seed by checkpoint": "heatmap"}),
        (sweep(layer=3), {"logit_diff: by layer": "scatter"}),
        (sweep(layer=3, head=1), {"logit_diff: by layer": "scatter"}),
        (sweep(layer=1, head=1), {}),
        (sweep(cell=3), {}),
        (sweep(cell=3, coords={"size": ("cell", [1, 2, 3])}), {"logit_diff: faithfulness": "scatter"}),
        (xr.Dataset({"norm": (("layer", "position"), np.ones((3, 4)))}), {"norm: layer by position": "heatmap"}),
        (xr.Dataset({"loss": ("layer", np.ones(3)), "word": ("layer", ["a", "b", "c"])}), {"loss: by layer": "scatter"}),
        (xr.Dataset({"iia": ("layer", [0.1, 0.9])}, {"layer": [0, 1]}), {"interchange intervention accuracy": "scatter"}),
        (xr.Dataset(), {}),
    ],
)
def test_what_fits_by_the_axes_of_a_result(ds, shown):
    found = {shows: draw() for shows, draw in views.fitting(ds).items()}
    assert {shows: figure.data[0].type for shows, figure in found.items()} == shown


def test_a_third_axis_is_a_slider_and_of_a_fourth_the_last_place_is_shown():
    ds = sweep(seed=2, layer=3, head=2, position=4)
    (figure,) = (draw() for draw in views.fitting(ds).values())
    (slider,) = figure.layout.sliders
    assert [step.label for step in slider.steps] == ["0", "1"]  # the seeds
    expected = effects.recovery(ds.isel(position=-1, seed=-1).sel(metric="logit_diff"))
    shown = next(trace for trace in figure.data if trace.visible is not False)
    assert np.allclose(np.asarray(shown.z, float), expected.values)


@pytest.fixture(scope="module")
def made():
    """A result of each kind that is no map."""
    model = interp.load("zoo/language-4l")
    pairs = interp.tasks.ioi(4, seed=0, templates=[0], order="ABBA", tokenizer=model.tokenizer)
    text = pairs[0].clean.text
    return {
        "lens": interp.lens(model, text),
        "attention": interp.attention(model, text),
        "dla": interp.dla(model, pairs),
        "edges": interp.patch_edges(model, pairs, metric="logit_diff"),
    }


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("lens", ["logit lens"]),
        ("attention", ["attention pattern"]),
        ("dla", ["direct logit attribution", "contribution of heads"]),
        ("edges", ["logit_diff: circuit", "logit_diff: paths"]),
    ],
)
@pytest.mark.parametrize("options", [{}, {"width": views.COLUMN, "template": "plotly_dark"}])
def test_results_with_views_of_their_own(made, kind, shown, options):
    found = {shows: draw(**options) for shows, draw in views.fitting(made[kind]).items()}
    assert list(found) == shown
    for figure in found.values():
        assert isinstance(figure, go.Figure)
        assert figure.data
        assert "zoo/language-4l" in figure.layout.title.text
