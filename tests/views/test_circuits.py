"""Faithfulness and the size–recovery plot: what they read of results of circuits, with areas and frontiers by formulas."""

import numpy as np
import pytest
import xarray as xr

from interp import effects as fx
from interp import views
from interp.effects import curves
from interp.errors import InputError, ShapeMismatchError, UnknownNameError

SHARES = [0.001, 0.01, 0.1, 0.5, 1.0]
SIZES = [1, 10, 100, 500, 1000]


def circuits(f=(0.1, 0.4, 0.8, 0.9, 1.0), *, examples=12, templates=4, seed=0, sizes=SIZES, **coords):
    """Effects of circuits whose ratio of means is ``f`` exactly, with noise that sums to 0 over examples."""
    rng = np.random.default_rng(seed)
    clean, corrupt = 3 + rng.normal(size=examples), -3 + rng.normal(size=examples)
    noise = rng.normal(size=(len(f), examples))
    noise -= noise.mean(1, keepdims=True)
    value = corrupt + np.array(f)[:, None] * (clean - corrupt) + noise
    return fx.assemble(
        value[None],
        clean[None],
        corrupt[None],
        axes={"cell": range(len(f))},
        metrics=["logit_diff"],
        coords={"template": [f"t{i % templates}" for i in range(examples)], "size": ("cell", list(sizes))}
        | {name: ("cell", values) for name, values in coords.items()},
        attrs={
            "patching": "noising",
            "noise_floor": {"logit_diff": 1e-6},
            "engine_semantics": 1,
            "spec": None,
            "model": "tiny <model>",
            "task": "ioi",
            "source": "corrupted",
        },
    )


def published(f, **dims):
    return xr.DataArray(f, dims=(*dims, "size"), coords={"size": SHARES, **dims}, attrs={"model": "gpt2"})


def curve(figure):
    return [trace for trace in figure.data if trace.hoverinfo == "text"]


def filled(figure):
    return [trace for trace in figure.data if trace.fill == "toself"]


def test_an_only_metric_is_no_part_of_a_name():
    found = {"mine": published([[0.0, 0.2, 0.5, 0.8, 1.0]], metric=["logit_diff"])}
    (line,) = curve(views.faithfulness(found))
    assert line.name.startswith("mine: CPR")


def test_recovery_of_circuits_over_their_share():
    effects = circuits()
    figure = views.faithfulness(effects, total=1000)
    (line,) = curve(figure)
    np.testing.assert_allclose(line.y, [0.1, 0.4, 0.8, 0.9, 1.0])
    np.testing.assert_allclose(line.x, SHARES)
    table = fx.summary(effects, "recovery").isel(metric=0)
    band = next(one for one in filled(figure) if one.opacity == 0.18)
    np.testing.assert_allclose(band.y, [*table["high"], *table["low"][::-1]])
    assert line.text[2].split("<br>")[:2] == [
        "<b>100 of 1,000 edges (10%)</b>",
        f"faithfulness {views.labels.interval(0.8, *(float(table[c][2]) for c in ('low', 'high')))} (n=12, 4 templates)",
    ]
    title = figure.layout.title.text
    assert title.startswith("faithfulness of logit_diff by circuit size")
    for words in ("noising, source corrupted", "tiny &lt;model&gt;", "ioi", "n=12, 4 templates", "1,000 edges"):
        assert words in title
    assert "over shares 0.001 to 1" in title
    assert "band: 95% interval over templates" in title


def test_areas_are_shaded_and_said():
    found = curves.areas(SHARES, [0.1, 0.4, 0.8, 0.9, 1.0])
    figure = views.faithfulness(circuits(), total=1000)
    assert f"CPR {found.cpr:.2f} ± " in curve(figure)[0].name
    assert f"CMD {found.cmd:.2f} ± " in curve(figure)[0].name
    shade = next(one for one in filled(figure) if one.opacity == 0.14)
    np.testing.assert_allclose(shade.x, [*SHARES, *SHARES[::-1]])
    np.testing.assert_allclose(shade.y, [0.1, 0.4, 0.8, 0.9, 1.0, 0, 0, 0, 0, 0])
    above = next(one for one in filled(views.faithfulness(circuits(), total=1000, area="cmd")) if one.opacity == 0.14)
    np.testing.assert_allclose(above.y[5:], 1)
    assert not any(one.opacity == 0.14 for one in filled(views.faithfulness(circuits(), total=1000, area=None)))
    two = views.faithfulness({str(i): circuits(seed=i) for i in range(2)}, total=1000)
    assert {one.opacity for one in filled(two)} == {0.18}  # bands alone: areas would hide each other
    narrow = views.faithfulness(circuits(), total=1000, width=views.COLUMN)
    assert curve(narrow)[0].name == f"faithfulness: CPR {found.cpr:.2f}, CMD {found.cmd:.2f}"  # no room for intervals


def test_ends_are_marked():
    figure = views.faithfulness(published([0.0, 0.5, 1.5, 1.2, 1.0]))
    assert {(shape.y0, note.text) for shape, note in zip(figure.layout.shapes, figure.layout.annotations, strict=True)} == {
        (0, "empty circuit"),
        (1, "full model"),
    }
    low, high = figure.layout.yaxis.range
    assert low < 0
    assert high > 1.5


def test_published_numbers_have_no_interval():
    figure = views.faithfulness(published([1.0] * 5))
    assert curve(figure)[0].name == "faithfulness: CPR 1.00, CMD 0.00"
    assert curve(figure)[0].text[0] == "<b>0.1% of the edges</b><br>faithfulness 1<br>CPR 1.00, CMD 0.00"
    assert len(filled(figure)) == 1  # the area, no band


def test_methods_are_lines_of_a_mapping_of_a_coordinate_or_of_an_axis():
    first, second = circuits(seed=0), circuits((0.0, 0.1, 0.3, 0.6, 1.0), seed=1)
    figure = views.faithfulness({"EAP": first, "random": second}, total=1000)
    assert [line.name.split(":")[0] for line in curve(figure)] == ["EAP", "random"]
    np.testing.assert_allclose(curve(figure)[1].y, [0.0, 0.1, 0.3, 0.6, 1.0], atol=1e-12)
    ragged = circuits((0.1, 0.4, 0.8, 0.2, 1.0), method=["ACDC", "ACDC", "ACDC", "EAP", "EAP"])
    lines = curve(views.faithfulness(ragged, total=1000))
    assert [line.name.split(":")[0] for line in lines] == ["ACDC", "EAP"]
    assert [len(line.x) for line in lines] == [3, 2]
    axis = published(np.array([[0.1] * 5, [0.2] * 5]), method=["a", "b"])
    assert [line.name for line in curve(views.faithfulness(axis))] == ["a: CPR 0.10, CMD 0.90", "b: CPR 0.20, CMD 0.80"]


def test_random_circuits_have_the_range_of_their_seeds():
    f = np.array([0.1, 0.2, 0.6])[:, None] * np.ones(5)
    figure = views.faithfulness(published(f, seed=[0, 1, 2]))
    assert curve(figure)[0].y[0] == pytest.approx(0.3)
    assert curve(figure)[0].name == "faithfulness: CPR 0.30 [0.10, 0.60], CMD 0.70 [0.40, 0.90]"  # 0.999 times each
    assert "(3 seeds)<br>seeds from 0.1 to 0.6" in curve(figure)[0].text[0]
    assert "intervals of areas: range of the seeds" in figure.layout.title.text


def test_without_a_total_there_are_numbers_and_no_areas():
    figure = views.faithfulness(circuits())
    assert curve(figure)[0].x == (1, 10, 100, 500, 1000)
    assert curve(figure)[0].name == "faithfulness"
    assert "no areas: the size of the whole graph is not known, give total=" in figure.layout.title.text
    assert figure.layout.xaxis.title.text == "edges kept"
    known = views.faithfulness(circuits().assign_attrs(total=1000), x="size", unit="nodes", log=True)
    assert figure.layout.xaxis.type == "linear"
    assert known.layout.xaxis.type == "log"
    assert known.layout.xaxis.title.text == "nodes kept of 1,000 (log scale)"
    assert "on a linear axis" in known.layout.title.text
    with pytest.raises(InputError, match="x='share' needs the number of edges or nodes of the whole graph; give total="):
        views.faithfulness(circuits(), x="share")
    with pytest.raises(InputError, match="x='size' needs numbers of edges or nodes"):
        views.faithfulness(published([1.0] * 5), x="size")


def test_an_undefined_faithfulness_has_no_area():
    effects = circuits()
    effects["clean"] = effects["corrupt"] + xr.DataArray([1, -1] * 6, dims="example")  # its mean is 0
    figure = views.faithfulness(effects, total=1000)
    assert np.isnan(curve(figure)[0].y).all()
    assert curve(figure)[0].name == "faithfulness: CPR undefined, CMD undefined"
    assert filled(figure) == []


def test_an_empty_circuit_has_no_place_on_a_log_axis():
    figure = views.faithfulness(circuits(sizes=[0, 10, 100, 500, 1000]), total=1000, log=True)
    assert np.isnan(curve(figure)[0].x).tolist() == [True, False, False, False, False]


def test_circuits_without_sizes_are_refused(make):
    with pytest.raises(InputError, match=r"need their sizes, a coordinate 'size' along 'cell'.* has the axes cell, example"):
        views.faithfulness(circuits().drop_vars("size"))
    with pytest.raises(InputError, match=r"circuits of EAP need their sizes"):
        views.faithfulness({"EAP": make()})
    with pytest.raises(InputError, match="a circuit keeps 1000 of total=100; give the number"):
        views.faithfulness(circuits(), total=100)
    with pytest.raises(InputError, match="is a Dataset of faithfulness; expected effects"):
        views.faithfulness(xr.Dataset({"faithfulness": published([1.0] * 5)}))
    with pytest.raises(UnknownNameError, match="unknown area 'cpm'; did you mean 'cpr'"):
        views.faithfulness(circuits(), area="cpm")
    with pytest.raises(UnknownNameError, match="unknown x 'shares'; did you mean 'share'"):
        views.faithfulness(circuits(), x="shares")
    with pytest.raises(ShapeMismatchError, match="25 lines of circuits: at most 24"):
        views.faithfulness({str(i): published([1.0] * 5) for i in range(25)})


def points(figure):
    return [trace for trace in figure.data if trace.mode == "markers"]


def frontier(figure):
    return next(trace for trace in figure.data if trace.name == "frontier")


def test_the_frontier_joins_what_no_other_beats():
    first, second = circuits((0.1, 0.5, 0.4, 0.9, 1.0)), circuits((0.3, 0.2, 0.8, 0.85, 1.0), seed=1)
    figure = views.pareto({"EAP": first, "ACDC": second}, total=1000)
    np.testing.assert_allclose(frontier(figure).x, [0.001, 0.01, 0.1, 0.5, 1.0, 1.0])
    np.testing.assert_allclose(frontier(figure).y, [0.3, 0.5, 0.8, 0.9, 1.0, 1.0])
    assert frontier(figure).line.shape == "hv"
    assert [trace.name for trace in points(figure)] == ["EAP", "ACDC"]
    assert [("frontier" in text) for text in points(figure)[0].text] == [False, True, False, True, True]
    assert "10 circuits" in figure.layout.title.text
    assert "6 on the frontier: none as small does better" in figure.layout.title.text
    assert figure.layout.xaxis.type == "log"


def test_every_point_has_its_name_interval_and_what_else_is_known():
    effects = circuits(threshold=[0.5, 0.1, 0.05, 0.01, 0.001], method=["a", "a", "b", "b", "b"])
    figure = views.pareto(effects, total=1000)
    assert points(figure)[1].text[0].startswith("<b>b 100 of 1,000 edges (10%)</b><br>faithfulness 0.80 ± ")
    assert "(n=12, 4 templates)" in points(figure)[1].text[0]
    assert "<br>threshold 0.05" in points(figure)[1].text[0]
    bars = points(figure)[1].error_y
    assert len(bars.array) == 3
    assert "bars: 95% interval over templates" in figure.layout.title.text


def test_many_points_have_no_bars_and_undefined_ones_are_counted():
    values = np.linspace(0, 1, 100)
    values[3] = np.nan
    many = published(values.reshape(20, 5), method=[str(i) for i in range(20)])
    figure = views.pareto(many, log=False)
    assert all(trace.error_y.array is None for trace in points(figure))
    assert "99 circuits, 1 undefined" in figure.layout.title.text
    np.testing.assert_allclose(frontier(figure).x, SHARES)
    np.testing.assert_allclose(frontier(figure).y, values[-5:])
