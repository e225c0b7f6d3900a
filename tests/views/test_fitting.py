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


def edges(values=(1.0, 2.0, 3.0, 4.0), **coords):
    """Four edges of a network of three nodes, the first two in the known circuit."""
    sender, receiver = ["a", "a", "b", "a"], ["b", "c", "c", "d"]
    told = {"sender": ("cell", sender), "receiver": ("cell", receiver)}
    told |= {"edge": ("cell", [f"{s} → {r}" for s, r in zip(sender, receiver, strict=True)])}
    ds = sweep(cell=4, coords=told | coords)
    ds["value"][:] = np.asarray(values)[None, :, None] * np.ones(4)
    return ds


KNOWN = {"truth": ("cell", [True, True, False, False])}
SIZES = {"size": ("cell", [1, 2, 3])}
MAP, CURVE = "heatmap", "scatter"


@pytest.mark.parametrize(
    ("ds", "shown"),
    [
        (sweep(layer=3, head=2), {"logit_diff: layer by head": MAP, "logit_diff: by layer": CURVE}),
        (
            sweep(("logit_diff", "prob"), layer=3, position=25),  # more positions than lines can be told apart
            {"logit_diff: layer by position": MAP, "prob: layer by position": MAP},
        ),
        (sweep(layer=3, head=2, position=4), {"logit_diff: layer by head": MAP, "logit_diff: by layer": CURVE}),
        (sweep(seed=2, layer=3, head=4, position=4), {"logit_diff: layer by head": MAP}),
        (sweep(checkpoint=3, layer=4, head=5), {"logit_diff: layer by head": MAP}),
        (sweep(seed=2, checkpoint=3), {"logit_diff: seed by checkpoint": MAP, "logit_diff: by checkpoint": CURVE}),
        (sweep(layer=3), {"logit_diff: by layer": CURVE}),
        (sweep(layer=3, head=1), {"logit_diff: by layer": CURVE, "logit_diff: layer by head": MAP}),
        (sweep(layer=1, head=1), {}),
        (sweep(cell=3), {}),
        (
            sweep(cell=3, coords=SIZES),
            {"logit_diff: faithfulness": CURVE, "logit_diff: size against faithfulness": CURVE},
        ),
        (edges(), {"logit_diff: senders × receivers": MAP}),
        (edges(**KNOWN), {"logit_diff: senders × receivers": MAP, "logit_diff: ROC": CURVE}),
        (
            xr.Dataset({"norm": (("layer", "position"), np.ones((3, 4)))}),
            {"norm: layer by position": MAP, "norm: by layer": CURVE},
        ),
        (xr.Dataset({"loss": ("layer", np.ones(3)), "word": ("layer", ["a", "b", "c"])}), {"loss: by layer": CURVE}),
        (
            xr.Dataset({"logprob": ("position", np.ones(2))}, {"token": ("position", [" a", " b"])}),
            {"logprob: by position": CURVE, "logprob: tokens": "bar"},
        ),
        (xr.Dataset({"iia": ("layer", [0.1, 0.9])}, {"layer": [0, 1]}), {"interchange intervention accuracy": CURVE}),
        (
            xr.Dataset({"v": (("sender", "receiver"), np.eye(2))}, {"sender": ["a", "b"], "receiver": ["c", "d"]}),
            {"v: senders × receivers": MAP},
        ),
        (
            xr.Dataset({"f": ("size", [0.0, 0.5, 1.0])}, {"size": [0.1, 0.5, 1.0]}),
            {"f: faithfulness": CURVE, "f: size against faithfulness": CURVE},
        ),
        (xr.Dataset(), {}),
    ],
)
def test_what_fits_by_the_axes_of_a_result(ds, shown):
    found = {shows: draw() for shows, draw in views.fitting(ds).items()}
    assert {shows: figure.data[0].type for shows, figure in found.items()} == shown


def test_a_third_axis_is_a_slider_and_of_a_fourth_the_last_place_is_shown():
    ds = sweep(seed=2, layer=3, head=4, position=4)
    (figure,) = (draw() for draw in views.fitting(ds).values())
    (slider,) = figure.layout.sliders
    assert [step.label for step in slider.steps] == ["0", "1"]  # the seeds
    expected = effects.recovery(ds.isel(position=-1, seed=-1).sel(metric="logit_diff"))
    shown = next(trace for trace in figure.data if trace.visible is not False)
    assert np.allclose(np.asarray(shown.z, float), expected.values)


def test_tokens_are_shown_at_the_layer_of_the_largest_effect_and_as_a_mean_where_they_agree():
    for differ in (False, True):
        words = [[f" {i}{e if differ or i == 1 else ''}" for e in range(4)] for i in range(3)]
        ds = sweep(layer=4, position=3, coords={"clean_token": words})
        ds["value"][:, 2, 1] = 9.0
        title = views.fitting(ds)["logit_diff: tokens"]().layout.title.text
        assert "layer=2" in title
        assert ("example 0" in title) == differ


@pytest.mark.parametrize(
    ("results", "shown"),
    [
        (
            {"A": sweep(layer=3, head=2), "B": sweep(layer=3, head=2)},
            ["logit_diff: cell against cell", "logit_diff: by layer"],
        ),
        ({"A": sweep(layer=3, head=2), "B": sweep(layer=3, position=2)}, []),
        ({"A": sweep(layer=3), "B": sweep(layer=3).assign_coords(layer=[7, 8, 9])}, []),  # no cell in common
        ({"A": sweep(layer=3, head=12), "B": sweep(layer=3, head=13)}, ["logit_diff: cell against cell"]),  # 25 lines
        ({"A": sweep(("prob",), layer=3), "B": sweep(layer=3)}, []),
        ({"A": sweep(layer=3), "B": xr.Dataset({"loss": ("layer", np.ones(3))})}, []),
        (
            {"q": sweep(layer=3, position=2), "k": sweep(layer=3, position=2)},
            ["logit_diff: causal tracing", "logit_diff: cell against cell", "logit_diff: by layer"],
        ),
        (
            {one: sweep(layer=3, position=2) for one in ("resid", "mlp", "attn")},
            ["logit_diff: causal tracing", "logit_diff: by layer"],
        ),
        (
            {"A": sweep(cell=3, coords=SIZES), "B": xr.Dataset({"f": ("size", [0.0, 0.5])}, {"size": [1, 2]})},
            ["faithfulness", "size against faithfulness"],
        ),
        ({"A": edges(**KNOWN), "B": edges((4.0, 3.0, 2.0, 1.0))}, ["logit_diff: cell against cell", "logit_diff: ROC"]),
        ({"A": edges(), "known": edges().drop_vars("edge").assign_coords(KNOWN)["truth"].to_dataset(name="known")}, ["ROC"]),
        (
            {"A": xr.Dataset({"iia": ("layer", [0.1, 0.9])}), "B": xr.Dataset({"iia": ("layer", [0.2, 0.3])})},
            ["iia: cell against cell", "interchange intervention accuracy", "iia: by layer"],
        ),
        ({"A": sweep(layer=3)}, []),
    ],
)
def test_what_draws_several_results_together(results, shown):
    found = {
        shows: draw()
        for shows, draw in views.fitting(
            {name: ds.assign_coords(layer=ds["layer"]) if "layer" in ds.dims else ds for name, ds in results.items()}
        ).items()
    }
    assert list(found) == shown
    assert all(isinstance(figure, go.Figure) and figure.data for figure in found.values())


def test_one_with_the_known_circuit_and_another_are_judged_by_it():
    results = {"good": edges((9.0, 8.0, 1.0, 1.0), **KNOWN), "bad": edges((1.0, 1.0, 8.0, 9.0))}
    legend = [trace.name for trace in views.fitting(results)["logit_diff: ROC"]().data if trace.name]
    assert any(name.startswith("good: AUC 1.00") for name in legend)
    assert any(name.startswith("bad: AUC 0.00") for name in legend)


def test_a_tree_is_drawn_by_what_draws_its_families_together():
    tree = xr.DataTree.from_dict({"mlp": sweep(layer=3, position=2), "attn": sweep(layer=3, position=2)})
    assert list(views.fitting(tree)) == list(
        views.fitting({"mlp": tree["mlp"].to_dataset(), "attn": tree["attn"].to_dataset()})
    )
    assert "logit_diff: causal tracing" in views.fitting(tree)


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
        ("edges", ["logit_diff: senders × receivers", "logit_diff: circuit", "logit_diff: paths"]),
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
