"""An estimate against the exact effect: points, statistics, marks and what is left out, on results made up by a formula."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import pearsonr, spearmanr

from interp import effects as fx
from interp import views
from interp.effects import EffectsError
from interp.errors import InputError, ShapeMismatchError, UnknownNameError
from interp.views.placing import beside


@pytest.fixture
def pair(make):
    """Exact effects, and an estimate that is off by noise but never by rule; the first column is 0 by rule in both."""
    exact = make(axis="head", size=6, layers=5)
    rng = np.random.default_rng(0)
    estimated = exact.copy(deep=True)
    noise = rng.normal(size=exact["value"].shape[1:3])[None, :, :, None] * ~exact["by_rule"].values[None]
    estimated["value"] = (exact["value"].dims, (exact["value"].values + noise).astype("float32"))
    return fx.validate(estimated.assign_attrs(estimate="first order")), exact


def cells(figure):
    return next(trace for trace in figure.data if trace.hoverinfo == "text")


def ringed(figure):
    return next(trace for trace in figure.data if trace.name == "largest differences")


def mean(ds):
    return fx.effect(ds).isel(metric=0).mean("example").values[:, 1:].ravel()


def test_points_and_identity(pair):
    figure = views.compare(*pair)
    np.testing.assert_allclose(cells(figure).x, mean(pair[1]), rtol=1e-6)
    np.testing.assert_allclose(cells(figure).y, mean(pair[0]), rtol=1e-6)
    line = figure.data[0]
    assert line.x == line.y == figure.layout.xaxis.range == figure.layout.yaxis.range
    assert figure.layout.xaxis.title.text == "exact effect on logit_diff"
    assert figure.layout.yaxis.title.text == "estimated effect on logit_diff"


def test_hover_has_both_values_with_intervals(pair):
    tables = [fx.summary(ds, "effect", method="t").isel(metric=0, layer=2, head=3) for ds in pair]
    said = [views.labels.interval(*(float(t[c]) for c in ("mean", "low", "high"))) for t in tables]
    d = float(tables[0]["mean"] - tables[1]["mean"])
    assert cells(views.compare(*pair)).text[2 * 5 + 2] == (
        f"<b>L2H3</b><br>estimated {said[0]} (n=8, 4 templates)<br>exact {said[1]} (n=8, 4 templates)<br>difference {d:+.3g}"
    )


def test_statistics_of_cells_that_were_measured(pair):
    figure = views.compare(*pair, width=5000)
    y, x = (mean(ds) for ds in pair)
    title = figure.layout.title.text
    assert title.startswith("estimated against exact effect on logit_diff")
    assert f"Pearson {pearsonr(x, y).statistic:.2f}, Spearman {spearmanr(x, y).statistic:.2f}" in title
    assert f"same sign {(x * y > 0).mean():.0%} ·" in title
    assert "25 cells · left out: 5 equal to the base by rule" in title
    assert "tiny &lt;model&gt; · ioi" in title


def test_the_largest_differences_are_ringed_and_named(pair):
    figure = views.compare(*pair, marked=3)
    y, x = (mean(ds) for ds in pair)
    worst = np.argsort(-abs(x - y))[:3]
    np.testing.assert_allclose(ringed(figure).x, x[worst], rtol=1e-6)
    assert {note.text for note in figure.layout.annotations} == {f"L{i // 5}H{i % 5 + 1}" for i in worst}
    same = views.compare(pair[1], pair[1])
    assert not same.layout.annotations
    assert "Pearson 1.00, Spearman 1.00 · same sign 100%" in same.layout.title.text


def test_edges_are_matched_by_name_and_what_is_in_one_only_is_counted():
    known = ["a→b", "a→c", "b→c", "b→d"]
    estimated = xr.DataArray(
        [1.0, 2.0, 3.0, 4.0], dims="cell", coords={"cell": range(4), "edge": ("cell", known)}, name="score"
    )
    exact = estimated.isel(cell=[3, 1]).assign_coords(cell=[0, 1]) * -1
    figure = views.compare(estimated, exact, called=("EAP", "patching"))
    assert [text.split("<br>")[0] for text in cells(figure).text] == ["<b>a→c</b>", "<b>b→d</b>"]
    assert cells(figure).text[1] == "<b>b→d</b><br>EAP 4<br>patching -4<br>difference +8"
    assert "same sign 0% · 2 cells" in figure.layout.title.text
    assert "left out: 2 in one result only" in figure.layout.title.text


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (["Activation(source)", "Activation(source)"], {"L0.z", "L1.z"}),
        (["Activation(source)", "Constant(0.0)"], {"L0.z ← Activation(source)", "L1.z ← Constant(0.0)"}),
    ],
)
def test_interventions_are_named_by_what_tells_them_apart(values, named):
    known = [f"L{i}.z ← {value}" for i, value in enumerate(values)]
    exact = xr.DataArray([1.0, 2.0], dims="cell", coords={"intervention": ("cell", known)}, name="score")
    figure = views.compare(exact * [2, -1], exact, width=1500)
    assert {note.text for note in figure.layout.annotations} == named
    assert {text.split("<br>")[0] for text in cells(figure).text} == {f"<b>{name}</b>" for name in known}


def test_signs_are_of_cells_beyond_the_noise_floor(pair):
    loud = [ds.assign_attrs(noise_floor={"logit_diff": 0.7}) for ds in pair]
    y, x = (mean(ds) for ds in pair)
    sure = (abs(x) > 0.7) & (abs(y) > 0.7)
    title = views.compare(*loud, width=5000).layout.title.text
    assert f"same sign {(x * y > 0)[sure].mean():.0%} of {sure.sum()} cells beyond the noise floor" in title
    nothing = xr.zeros_like(fx.effect(pair[1]).isel(metric=0))
    assert (
        "Pearson undefined, Spearman undefined · no cell has a sign in both"
        in views.compare(nothing, nothing, width=5000).layout.title.text
    )


def test_many_cells_are_thinned_and_counted():
    rng = np.random.default_rng(1)
    exact = xr.DataArray(rng.standard_t(2, size=141_304), dims="cell", coords={"cell": range(141_304)}, name="effect")
    estimated = exact + rng.normal(size=141_304) * 0.2
    figure = views.compare(estimated, exact)
    drawn = cells(figure)
    assert 2000 < len(drawn.x) < 20_000
    assert len(set(zip(drawn.x, drawn.y, strict=True))) == len(drawn.x)
    assert f"141,304 cells, {len(drawn.x):,} of them drawn, one at least in every place" in figure.layout.title.text
    more = [int(text.rsplit("and ", 1)[1].split(" more")[0].replace(",", "")) for text in drawn.text if "more here" in text]
    assert sum(more) + len(drawn.x) == 141_304
    assert max(drawn.x) == float(exact.max())  # what stands alone is drawn
    assert len(figure.to_json()) < 4_000_000


def test_arrays_with_examples_have_intervals():
    each = xr.DataArray(np.arange(12.0).reshape(3, 4), dims=("layer", "example"), coords={"layer": range(3)}, name="score")
    figure = views.compare(each, each.mean("example"))
    assert cells(figure).text[0].startswith("<b>L0</b><br>estimated 1.50 ± 2.05 (n=4)<br>exact 1.5<br>")  # t₃ · sd / 2


def test_an_estimate_is_never_called_exact(pair):
    estimated, exact = pair
    with pytest.raises(InputError, match=r"exact is an estimate \(first order\) and estimated is none; exchange the two"):
        views.compare(exact, estimated)
    with pytest.raises(InputError, match="exchange"):
        views.compare(fx.effect(exact), fx.effect(estimated))
    figure = views.compare(exact, estimated, called=("patching", "AtP"))
    assert figure.layout.xaxis.title.text == "AtP effect on logit_diff"
    two = views.compare(exact, exact)  # two sweeps, two seeds say: neither is an estimate
    assert (two.layout.xaxis.title.text, two.layout.yaxis.title.text) == (
        "second effect on logit_diff",
        "first effect on logit_diff",
    )


def test_other_cells_are_refused(pair, make):
    with pytest.raises(
        ShapeMismatchError, match=r"estimated has the axes layer \(5\), head \(6\), exact layer \(4\), position"
    ):
        views.compare(pair[0], make())
    with pytest.raises(InputError, match="first is of noising, second of denoising; compare the same direction"):
        views.compare(make(patching="noising"), make())
    with pytest.raises(ShapeMismatchError, match="no cell in common; their coordinates differ"):
        views.compare(pair[0], pair[1].assign_coords(layer=range(10, 15)))
    with pytest.raises(UnknownNameError, match="unknown metric 'logit_diff'"):
        views.compare(make(metric="prob"), make())
    with pytest.raises(ShapeMismatchError, match="has 3 along 'edges', exact 2, and no coordinate"):
        views.compare(xr.DataArray(np.ones(3), dims="edges"), xr.DataArray(np.ones(2), dims="edges"))
    with pytest.raises(ShapeMismatchError, match="no cell with a number in both"):
        views.compare(xr.DataArray([np.nan], dims="edges"), xr.DataArray([1.0], dims="edges"))
    with pytest.raises(EffectsError, match="missing: value"):
        views.compare(pair[0], pair[1].drop_vars("value"))


def test_names_cover_neither_each_other_nor_the_edge():
    rng = np.random.default_rng(2)
    points = rng.uniform(0, 200, (12, 2))
    widths = rng.uniform(20, 60, 12).tolist()
    places = beside(points, widths, 12.0, points, (200.0, 200.0))
    boxes = []
    for (x, y), width, place in zip(points, widths, places, strict=True):
        if place is None:
            continue
        left = x + place.xshift - {"left": 0, "center": width / 2, "right": width}[place.xanchor]
        low = y + place.yshift - {"bottom": 0, "middle": 6, "top": 12}[place.yanchor]
        boxes.append((left, low, left + width, low + 12))
    assert len(boxes) >= 6
    assert all(a >= 0 and b >= 0 and c <= 200 and d <= 200 for a, b, c, d in boxes)
    for i, (a, b, c, d) in enumerate(boxes):
        assert not any(a < g and e < c and b < h and f < d for e, f, g, h in boxes[:i])
    crowded = beside(np.full((9, 2), 100.0), [80.0] * 9, 12.0, points, (200.0, 200.0))
    assert None in crowded  # no room for nine names at one point
