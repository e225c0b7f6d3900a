"""ROC against a known circuit: corners and areas by hand, what is matched, and what is said of ties and gaps."""

import numpy as np
import pytest
import xarray as xr

from interp import effects as fx
from interp import views
from interp.effects import curves
from interp.errors import InputError, ShapeMismatchError

EDGES = ["a→b", "a→c", "b→c", "b→d", "c→d"]
TRUTH = xr.DataArray([True, False, True, False, False], dims="edge", coords={"edge": EDGES})


def scored(values, **attrs):
    return xr.DataArray(values, dims="edge", coords={"edge": EDGES}, attrs=attrs)


def lines(figure):
    return [trace for trace in figure.data if trace.hoverinfo == "text"]


def test_corners_area_and_chance():
    figure = views.roc(scored([-5.0, 4.0, 3.0, 2.0, 1.0], model="tiny <model>"), TRUTH)
    (line,) = lines(figure)
    np.testing.assert_allclose(line.x, [0, 0, 1 / 3, 1 / 3, 1])  # |−5| first, then a false one, then the second true one
    np.testing.assert_allclose(line.y, [0, 0.5, 0.5, 1, 1])
    assert line.name == "scores: AUC 0.83"
    assert line.text[1] == (
        "<b>scores</b> from 5 on<br>1 of 2 edges of the circuit, 0 of 3 others<br>TPR 0.500, FPR 0, AUC 0.833"
    )
    chance = figure.data[0]
    assert (chance.name, chance.x, chance.y) == ("chance: AUC 0.50", (0, 1), (0, 1))
    title = figure.layout.title.text
    assert title.startswith("ROC of edges against the known circuit")
    assert "tiny &lt;model&gt;" in title
    assert "2 of 5 edges in the circuit" in title
    assert "ranked by size, whatever its sign" in title
    assert "ties" not in title
    signed = views.roc(scored([-5.0, 4.0, 3.0, 2.0, 1.0]), TRUTH, absolute=False)
    assert lines(signed)[0].name == "scores: AUC 0.33"  # of 2 · 3 pairs two are in order
    assert "ranked by score, the highest first" in signed.layout.title.text


def test_ties_and_gaps_are_said():
    figure = views.roc({"EAP": scored([1.0, 1.0, np.nan, 0.5, np.nan])}, TRUTH)
    assert "ties count half" in figure.layout.title.text
    # c→d has no score and is not true: no such edge. b→c is true and comes last: pairs (½ + 1) + (0 + 0) of four
    assert lines(figure)[0].name == "EAP: AUC 0.38, 1 without a score"
    assert "2 of 4 edges in the circuit" in figure.layout.title.text


def test_circuits_are_joined_by_pessimistic_steps():
    kept = xr.DataArray(
        [[True, False, False, False, False], [True, True, True, False, False]],
        dims=("threshold", "edge"),
        coords={"edge": EDGES, "threshold": [0.1, 0.01]},
    )
    figure = views.roc({"ACDC": kept, "EAP": scored([5.0, 4.0, 3.0, 2.0, 1.0])}, TRUTH)
    assert [line.name for line in lines(figure)] == ["ACDC: AUC 0.83", "EAP: AUC 0.83"]
    np.testing.assert_allclose(lines(figure)[0].x, [0, 0, 1 / 3, 1 / 3, 1])
    assert "circuits joined by pessimistic steps" in figure.layout.title.text
    with pytest.raises(InputError, match="circuits of ACDC have the axes seed, threshold besides truth's; expected one"):
        views.roc({"ACDC": kept.expand_dims("seed")}, TRUTH)


def test_edges_are_matched_by_name_whatever_their_order():
    values = scored([5.0, 4.0, 3.0, 2.0, 1.0])
    turned = views.roc(values.isel(edge=[3, 1, 0, 2, 4]), TRUTH)
    assert turned.to_json() == views.roc(values, TRUTH).to_json()
    along_cells = values.rename(edge="cell").assign_coords(edge=("cell", EDGES), cell=range(5))
    assert lines(views.roc(along_cells, TRUTH))[0].name == "scores: AUC 0.83"
    with pytest.raises(
        ShapeMismatchError, match=r"scores of EAP and truth are of other edges: 4 and 5 along 'edge', and 'c→d'"
    ):
        views.roc({"EAP": values.isel(edge=slice(4))}, TRUTH)
    with pytest.raises(InputError, match="scores have the axes layer; expected those of truth, edge"):
        views.roc(xr.DataArray([1.0], dims="layer"), TRUTH)
    with pytest.raises(InputError, match="truth is an array of int64; expected bool: which edges"):
        views.roc(values, TRUTH.astype("int64"))
    with pytest.raises(ShapeMismatchError, match="of 5 edges 0 are true"):
        views.roc(values, TRUTH & False)
    with pytest.raises(ShapeMismatchError, match="have 4 along 'edge', truth has 5"):
        views.roc(values.drop_vars("edge").isel(edge=slice(4)), TRUTH)


def test_two_axes_of_edges_and_methods_seeds_and_examples():
    rng = np.random.default_rng(0)
    truth = xr.DataArray(np.array([[True, False, False], [False, True, False]]), dims=("sender", "receiver"))
    values = xr.DataArray(
        rng.normal(size=(2, 4, 2, 3)), dims=("method", "seed", "sender", "receiver"), coords={"method": ["a", "b"]}
    )
    values[..., 1, 0] = np.nan  # no such edge
    figure = views.roc(values, truth)
    assert len(lines(figure)) == 8
    areas = [curves.roc(np.delete(abs(v.ravel()), 3), np.delete(truth.values.ravel(), 3)).auc for v in values.values[0]]
    low, high = min(areas), max(areas)
    assert lines(figure)[0].name == f"a: AUC {views.labels.interval(np.mean(areas), low, high)}"
    assert [line.showlegend for line in lines(figure)] == [True, False, False, False] * 2
    assert "interval of AUC: range of 4 seeds" in figure.layout.title.text
    each = values.isel(method=0).rename(seed="example")
    found = curves.auc_interval(np.delete(each.values.reshape(4, 6).T, 3, 0), np.delete(truth.values.ravel(), 3), absolute=True)
    figure = views.roc(each, truth)
    assert lines(figure)[0].name == f"scores: AUC {views.labels.interval(*map(float, found[:3]))}"
    assert "interval of AUC: over 4 examples" in figure.layout.title.text


def test_effects_are_ranked_by_their_mean(make):
    effects = make(axis="head", size=3, tokens=False)
    mean = fx.effect(effects).isel(metric=0).mean("example")
    truth = xr.zeros_like(mean, dtype=bool).drop_vars(["metric"])
    truth[3, 2] = truth[2, 2] = truth[0, 1] = True
    figure = views.roc(effects, truth, unit="heads")
    wanted = curves.roc(abs(mean.values.ravel()), truth.values.ravel())
    assert lines(figure)[0].name.startswith(f"scores: AUC {wanted.auc:.2f} ± ")
    title = figure.layout.title.text
    assert "3 of 12 heads in the circuit" in title
    assert "ranked by size of the effect on logit_diff" in title
    assert "denoising, source clean" in title
    assert "interval of AUC: over templates" in title


def test_a_long_line_is_drawn_through_few_corners():
    rng = np.random.default_rng(1)
    truth = xr.DataArray(rng.random(141_304) < 0.3, dims="cell")
    figure = views.roc(xr.DataArray(rng.normal(size=141_304), dims="cell"), truth)
    assert len(lines(figure)[0].x) == 2000
    assert lines(figure)[0].name == f"scores: AUC {0.5:.2f}"
