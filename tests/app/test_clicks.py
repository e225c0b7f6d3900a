"""What a click on each drawing means: the points are those of the figure itself, the cells those of the result."""

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr
from pages import texts

from interp import effects
from interp.app import answers, behind, clicks
from interp.app.choices import resolve
from interp.app.data import Library
from interp.app.drawing import draw
from interp.store import Store


@pytest.fixture
def keep(tmp_path):
    """Results as runs of a store: the library, and the ids by name."""

    def kept(**results):
        store = Store(tmp_path)
        ids = {name: store.save(one, name=name).id for name, one in results.items()}
        return Library(store), ids

    return kept


def means(ds, point, **wanted):
    """What a point of the figure of a choice means."""
    choice = resolve([{"": ds}], wanted).choice
    return clicks.clicked(ds, choice, point, draw(ds, choice).to_plotly_json())


def trace_of(figure, name):
    """Where the hover of a figure says this."""
    for number, trace in enumerate(figure.data):
        for i, text in enumerate(trace.text if trace.text is not None else ()):
            if str(text).startswith(f"<b>{name}</b>"):
                return {"curveNumber": number, "pointNumber": i, "text": text}
    raise AssertionError(name)


def figure_of(library, runs, wanted=None, of="a"):
    return answers.draw(library, runs, wanted or {})[of].figure.to_plotly_json()


def point_on(figure, line, i):
    """The i-th point of a line, by its name."""
    for number, trace in enumerate(figure["data"]):
        if trace.get("text") is not None and line == (trace.get("legendgroup") or trace["name"]):
            return {"curveNumber": number, "pointNumber": i, "text": trace["text"][i]}
    raise AssertionError(line)


@pytest.mark.parametrize("edge", range(4))
def test_an_edge_of_a_circuit(make, edge):
    ds = make.graph()
    figure = draw(ds, resolve([{"": ds}], {"view": "circuit"}).choice)
    point = trace_of(figure, ds["edge"].values[edge])
    assert means(ds, point, view="circuit").cell == {"cell": edge}


def test_a_node_of_a_circuit_has_its_edges_the_largest_first(make, keep):
    library, ids = keep(graph=make.graph())
    run, wanted = [ids["graph"]], {"view": "circuit"}
    figure = answers.draw(library, run, wanted)["a"].figure
    point = behind.clicked(library, run, wanted, "a", trace_of(figure, "L0H0"), {})
    assert (point["node"], point["cell"]) == ("L0H0", None)
    shown = behind.detail(library, run, wanted, point, "plotly_white")
    assert [word for word in texts(shown) if "→" in word] == ["L0H0 → logits", "L0H0 → L1H1.k", "embed → L0H0.q"]
    assert "0.3" in texts(shown)  # of the damage of 10
    assert behind.place_of("cell=2") == {"cell": 2}


def test_paths(make):
    ds = make.graph()
    figure = draw(ds, resolve([{"": ds}], {"view": "paths"}).choice)
    link = next(text for text in figure.data[0].link.customdata if "L1H1 → logits" in text)
    assert means(ds, {"customdata": link}, view="paths").cell == {"cell": 3}
    node = next(text for text in figure.data[0].node.customdata if "L1H1" in text)
    assert means(ds, {"customdata": node}, view="paths").node == "L1H1"
    assert not any(means(ds, {"customdata": "nonsense"}, view="paths"))


def test_bars_of_attribution():
    terms = [f"L{i}H0" for i in range(30)]
    values = np.arange(60.0).reshape(2, 30)
    ds = xr.Dataset({"contribution": (("example", "term"), values)}, {"term": terms})
    bars = draw(ds, resolve([{"": ds}], {}).choice).data[0].customdata
    assert means(ds, {"customdata": bars[0]}).cell == {"term": 29}
    assert "sum of all terms that are not drawn" in means(ds, {"customdata": bars[-1]}).why
    table = clicks.cells.examples(ds, resolve([{"": ds}], {}).choice, {"term": 29})
    assert table["contribution"].tolist() == [29.0, 59.0]


def test_a_pattern_whose_prompt_is_padded_on_the_left():
    pattern = np.full((2, 1, 1, 3, 3), 0.5)
    pattern[0, ..., 0, :], pattern[0, ..., 0] = np.nan, np.nan
    dims = ("example", "layer", "head", "position", "source_position")
    coords = {"layer": [4], "head": [7], "position": [0, 1, 2], "source_position": [0, 1, 2]}
    coords |= {"token": (("example", "position"), [["", "a", "b"], ["c", "d", "e"]])}
    ds = xr.Dataset({"pattern": (dims, pattern)}, coords)
    assert means(ds, {"x": 0, "y": 1}, example="0").cell == {"layer": 0, "head": 0, "position": 2, "source_position": 1}
    assert means(ds, {"x": 0, "y": 1}, example="1").cell == {"layer": 0, "head": 0, "position": 1, "source_position": 0}
    assert not any(means(ds, {"x": 2, "y": 1}, example="0"))
    assert clicks.cells.name(ds, {"layer": 0, "head": 0, "position": 2, "source_position": 1}) == "L4H7@2 ← 1"


def test_a_token(make):
    ds = make()
    figure = draw(ds, resolve([{"": ds}], {"view": "tokens"}).choice)
    hover = next(text for trace in figure.data for text in trace.hovertext if text.startswith("<b>1</b>"))
    assert means(ds, {"hovertext": hover}, view="tokens").cell == {"position": 1, "layer": 2}


def long(**sizes):
    shape = (1, *sizes.values(), 4)
    values = np.random.default_rng(0).normal(size=shape)
    attrs = {"patching": "denoising", "noise_floor": {"m": 0.0}, "engine_semantics": 1, "spec": None}
    ends = np.ones((1, 4)), np.zeros((1, 4))
    return effects.assemble(values, *ends, axes={a: range(n) for a, n in sizes.items()}, metrics=["m"], attrs=attrs)


def test_a_line_without_marks_is_clicked_too():
    ds = long(layer=60)
    figure = draw(ds, resolve([{"": ds}], {}).choice)
    (number,) = (i for i, trace in enumerate(figure.data) if trace.mode == "lines" and trace.text is not None)
    assert means(ds, {"curveNumber": number, "pointNumber": 41}).cell == {"layer": 41}
    assert not any(means(ds, {"curveNumber": 1 - number, "pointNumber": 41}))  # its band


def test_a_mean_over_seeds_has_no_examples_of_its_own_and_says_so(keep):
    ds = long(seed=3, layer=4)
    found = means(ds, {"curveNumber": 1, "pointNumber": 2}, view="curve")
    assert "mean over seeds" in found.why
    library, ids = keep(run=ds.assign_attrs(spec="seeds"))
    assert "mean over seeds" in " ".join(texts(behind.detail(library, [ids["run"]], {}, found._asdict(), "plotly_white")))


def test_a_circuit_of_some_size_and_a_threshold(make):
    ds = make.graph(size=("cell", [8, 1, 4, 2]), truth=("cell", [True, False, True, False]))
    for view in ("faithfulness", "pareto"):
        figure = draw(ds, resolve([{"": ds}], {"view": view}).choice)
        (number,) = (i for i, trace in enumerate(figure.data) if trace.text is not None)
        assert [means(ds, {"curveNumber": number, "pointNumber": i}, view=view).cell["cell"] for i in range(4)] == [1, 3, 2, 0]
        said = clicks.cells.said(ds, resolve([{"": ds}], {"view": view}).choice, {"cell": 1})
        assert said.startswith("recovery of logit_diff 0.80")
    assert clicks.cells.name(ds, {"cell": 1}) == "size 1: L0H0 → L1H1.k"
    assert "threshold over all edges" in means(ds, {"curveNumber": 1, "pointNumber": 1}, view="roc").why


def test_an_accuracy_without_examples_says_so(keep):
    ds = xr.Dataset({"iia": ("layer", [0.1, 0.9])}, {"layer": [3, 4]})
    library, ids = keep(iia=ds)
    point = behind.clicked(
        library, [ids["iia"]], {}, "a", {"curveNumber": 0, "pointNumber": 1}, figure_of(library, [ids["iia"]])
    )
    assert point["cell"] == {"layer": 1}
    assert "This result keeps no values per example here." in texts(
        behind.detail(library, [ids["iia"]], {}, point, "plotly_white")
    )


def test_families_together_are_a_tracing_and_a_click_shows_the_examples_of_each(make, keep):
    tree = xr.DataTree.from_dict({"resid_post": make(), "mlp_out": make(0.5)})
    library, ids = keep(tree=tree)
    run, wanted = [ids["tree"]], {"family": "*"}
    offer = answers.choose(library, run, wanted)
    assert [view for view, _ in offer.options["view"]] == ["tracing+", "compare+", "curve+"]
    assert offer.choice.metric == "prob"
    assert answers.draw(library, run, wanted)["a"].figure.layout.title.text.startswith("causal tracing: prob")
    point = behind.clicked(library, run, wanted, "a", {"x": 2, "y": 3}, {})
    assert point["cell"] == {"layer": 2, "position": 3}
    shown = texts(behind.detail(library, run, wanted, point, "plotly_white"))
    assert {"effect resid_post", "effect mlp_out", "resid_post − mlp_out"} <= set(shown)
    for ending in ("csv", "html"):
        assert answers.save(library, run, wanted, "a", ending)[1].startswith(f"{ids['tree']}-tracing")


def test_two_runs_in_one_figure(make, keep):
    b = make(0.5).isel(layer=slice(1, 3)).assign_attrs(spec="part")
    library, ids = keep(all=make(), part=b)
    runs = [ids["all"], ids["part"]]
    offer = answers.choose(library, runs, {})
    together = {value: label for value, label in offer.options["view"] if value.endswith("+")}
    assert together == {"compare+": "A and B: cell against cell", "curve+": "A and B: curve"}
    wanted = {"view": "compare+", "quantity": "effect"}
    panels = answers.draw(library, runs, wanted)
    assert [name for name, panel in panels.items() if panel.figure is not None] == ["both"]
    figure = panels["both"].figure
    assert "A all against B part" in figure.layout.title.text
    point = behind.clicked(library, runs, wanted, "both", trace_of(figure, "L2@3"), figure.to_plotly_json())
    assert point["cell"] == {"layer": 2, "position": 3}
    shown = " ".join(texts(behind.detail(library, runs, wanted, point, "plotly_white")))
    assert "L2@3 at position 3 A effect on logit_diff 6.00" in shown
    assert "B effect on logit_diff 3.00" in shown  # half as much, at the place of B with the same name
    assert answers.save(library, runs, wanted, "both", "html")[1].startswith("-".join(runs))
    with pytest.raises(answers.StoreError, match="those of each; download them one by one"):
        answers.save(library, runs, wanted, "both", "csv")


def test_lines_of_two_runs_stand_at_the_same_place_by_its_name(make, keep):
    b = make(0.5).isel(position=slice(2, 5)).assign_attrs(spec="part")
    library, ids = keep(all=make(), part=b)
    runs, wanted = [ids["all"], ids["part"]], {"view": "curve+", "x": "layer", "at": {"position": 3}}
    figure = answers.draw(library, runs, wanted)["both"].figure
    lines = {trace.name: trace for trace in figure.data if trace.mode == "lines+markers"}
    np.testing.assert_allclose(lines["A all"].y, [1 / 3, 2 / 3, 1], atol=1e-6)
    np.testing.assert_allclose(lines["B part"].y, [1 / 6, 1 / 3, 1 / 2], atol=1e-6)
    number = next(i for i, trace in enumerate(figure.data) if trace.name == "B part" and trace.text is not None)
    point = {"curveNumber": number, "pointNumber": 1}
    found = behind.clicked(library, runs, wanted, "both", point, figure.to_plotly_json())
    assert (found["of"], found["cell"]) == (1, {"layer": 1, "position": 1})  # position 3 is the second of B
    assert "L1@3" in texts(behind.detail(library, runs, wanted, found, "plotly_white"))
    said = answers.draw(library, runs, wanted | {"at": {"position": 0}})["both"].said
    assert "unknown position '0' of B part" in " ".join(texts(said))


def test_a_cell_that_only_the_second_run_has_says_so(make, keep):
    library, ids = keep(part=make().isel(layer=slice(0, 2)).assign_attrs(spec="part"), all=make(0.5))
    runs = [ids["part"], ids["all"]]
    found = behind.clicked(library, runs, {}, "b", {"x": 3, "y": 2}, {})
    shown = " ".join(texts(behind.detail(library, runs, {}, found, "plotly_white")))
    assert "L2@3 at position 3 B recovery of logit_diff 0.50" in shown
    assert "A has no such cell." in shown


def accuracies(**attrs):
    """Accuracy and a control by layer and seed, a ceiling by layer, and chance, which is the same all along."""
    accuracy = np.array([[0.5, 0.6, 0.7], [0.8, 0.9, 1.0]])
    variables = {"iia": (("layer", "seed"), accuracy), "random_subspace": (("layer", "seed"), accuracy / 2)}
    variables |= {"full_vector": ("layer", [0.9, 1.0]), "chance": 0.5}
    return xr.Dataset(variables, {"layer": [3, 4], "seed": [7, 8, 9]}, attrs)


def test_an_accuracy_has_its_seeds_behind_it(keep):
    library, ids = keep(iia=accuracies())
    run = [ids["iia"]]
    figure = figure_of(library, run)
    for control in ("iia", "random subspace", "full vector"):
        point = behind.clicked(library, run, {}, "a", point_on(figure, control, 1), figure)
        assert point["cell"] == {"layer": 1}, control
        shown = texts(behind.detail(library, run, {}, point, "plotly_white"))
        assert {"seed", "iia", "random_subspace", "7", "8", "9", "0.8", "0.9", "0.45"} <= set(shown)
        assert "L4" in shown
        assert "This result keeps no values per example here." not in shown
    assert "the same all along" in behind.clicked(library, run, {}, "a", point_on(figure, "chance", 1), figure)["why"]


def test_accuracies_of_two_runs(keep):
    library, ids = keep(first=accuracies(), second=accuracies(model="other").isel(layer=[1]).drop_vars("full_vector"))
    runs, wanted = [ids["first"], ids["second"]], {"view": "iia+"}
    figure = figure_of(library, runs, wanted, "both")
    point = behind.clicked(library, runs, wanted, "both", point_on(figure, "A first random subspace", 0), figure)
    assert (point["of"], point["cell"]) == (0, {"layer": 0})
    shown = texts(behind.detail(library, runs, wanted, point, "plotly_white"))
    assert {"L3", "B has no such cell.", "0.25"} <= set(shown)
    point = behind.clicked(library, runs, wanted, "both", point_on(figure, "B second", 0), figure)
    assert (point["of"], point["cell"]) == (1, {"layer": 0})
    shown = texts(behind.detail(library, runs, wanted, point, "plotly_white"))
    assert {"L4", "iia A", "iia B", "1"} <= set(shown)


@pytest.mark.parametrize("view", ["faithfulness", "pareto"])
def test_circuits_of_two_runs(make, keep, view):
    first = make.graph(size=("cell", [8, 1, 4, 2]))
    methods = ["EAP", "EAP-IG", "EAP", "EAP-IG"]
    second = make.graph(size=("cell", [5, 5, 3, 2]), method=("cell", methods)).drop_vars("edge").assign_attrs(spec="by method")
    library, ids = keep(first=first, second=second)
    runs, wanted = [ids["first"], ids["second"]], {"view": f"{view}+"}
    figure = figure_of(library, runs, wanted, "both")
    for line, of, cells in (("A first", 0, [1, 3, 2, 0]), ("B second EAP", 1, [2, 0]), ("B second EAP-IG", 1, [3, 1])):
        for i, cell in enumerate(cells):
            found = behind.clicked(library, runs, wanted, "both", point_on(figure, line, i), figure)
            assert (found["of"], found["cell"]) == (of, {"cell": cell}), line
    shown = " ".join(texts(behind.detail(library, runs, wanted, found, "plotly_white")))
    assert "B recovery of logit_diff 0.80" in shown  # it takes 2 of 10 away
    assert "A has no such cell." in shown


def test_edges_of_two_runs_are_matched_by_what_they_join(make, keep):
    other = make.graph().isel(cell=[3, 0, 2]).assign_coords(cell=range(3)).assign_attrs(spec="three")
    library, ids = keep(all=make.graph(), three=other)
    runs, wanted = [ids["all"], ids["three"]], {"view": "circuit"}
    figure = figure_of(library, runs, wanted, "b")
    point = behind.clicked(library, runs, wanted, "b", trace_of(go.Figure(figure), "L1H1 → logits"), figure)
    assert (point["of"], point["cell"]) == (1, {"cell": 0})
    shown = " ".join(texts(behind.detail(library, runs, wanted, point, "plotly_white")))
    assert "A damage of logit_diff 0.40" in shown
    assert "B damage of logit_diff 0.40" in shown
    point = behind.clicked(library, runs, wanted, "b", trace_of(go.Figure(figure), "L0H0"), figure)
    assert (point["of"], point["node"]) == (1, "L0H0")
    edges = [word for word in texts(behind.detail(library, runs, wanted, point, "plotly_white")) if "→" in word]
    assert edges == ["L0H0 → logits", "embed → L0H0.q"]  # B lacks the third


@pytest.mark.parametrize("of", [-1, 2, "0", None, 1.5])
def test_a_browser_that_says_nonsense_of_whose_point_it_is(make, keep, of):
    library, ids = keep(run=make())
    shown = behind.detail(library, [ids["run"]], {}, {"cell": {"layer": 1, "position": 3}, "of": of}, "plotly_white")
    assert "L1@3" in texts(shown)
