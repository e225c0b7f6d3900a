"""Graphs of causal models, tested on what the figure contains."""

from __future__ import annotations

import inspect

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr

from interp import tasks, views
from interp.errors import InputError, UnknownNameError
from interp.tasks.causal_model import Boolean, CausalModel, Real, marginalise

BIT = Boolean()


def equality() -> CausalModel:
    return tasks.hierarchical_equality().model


def places(figure: go.Figure) -> dict[str, tuple[float, float]]:
    """Where each variable's marker is, by the name in its hover."""
    markers = [t for t in figure.data if t.mode == "markers" and t.hoverinfo == "text"]
    return {
        text.split("</b>")[0][3:]: (float(x), float(y)) for t in markers for x, y, text in zip(t.x, t.y, t.text, strict=True)
    }


def arrows(figure: go.Figure) -> set[tuple[tuple[float, float], tuple[float, float]]]:
    """First and last point of every line, the last with a head, the others without."""
    [lines] = [t for t in figure.data if t.mode == "lines+markers"]
    path, heads = np.stack([lines.x, lines.y], -1), np.asarray(lines.marker.size)
    found, start = set(), 0
    for stop in np.flatnonzero(np.isnan(path[:, 0])):
        assert (heads[start : stop - 1] == 0).all()
        assert heads[stop - 1] > 0
        found.add((tuple(path[start].tolist()), tuple(path[stop - 1].tolist())))
        start = int(stop) + 1
    return found


def hovers(figure: go.Figure) -> dict[str, str]:
    every = [text for t in figure.data if t.hoverinfo == "text" for text in t.text]
    return {text.split("</b>")[0][3:]: text for text in every}


def test_there_is_an_arrow_from_every_parent_and_no_other() -> None:
    model = tasks.and_or().models["and-or-and"]
    figure = views.causal_model(model.to_xarray())
    at = places(figure)
    assert set(at) == set(model.variables)
    assert len(set(at.values())) == len(at), "no two variables in one place"
    expected = {(at[p], at[name]) for name, one in model.mechanisms.items() for p in one.parents}
    assert arrows(figure) == expected
    assert all(start[0] < end[0] for start, end in expected), "parents are on the left"
    assert {at[name][0] for name in model.inputs} == {0}
    assert at["O"][0] == max(x for x, _ in at.values())


def test_an_output_above_which_little_stands_is_still_on_the_right() -> None:
    """The output's only parent is an input, another variable is deeper."""
    model = CausalModel(
        {"a": BIT, "p": BIT, "q": BIT, "o": BIT}, {"p": lambda a: ~a, "q": lambda p: ~p, "o": lambda a: a}, output="o"
    )
    at = places(views.causal_model(model.to_xarray()))
    assert at["o"][0] == at["q"][0] == 2


def test_columns_are_ordered_so_that_arrows_do_not_cross() -> None:
    """Inputs are declared a, b, c, d; p is made of d and c, q of b and a: untangled, p stands beside d and c."""
    model = CausalModel(
        {**dict.fromkeys("abcd", BIT), "p": BIT, "q": BIT, "o": BIT},
        {"p": lambda d, c: d & c, "q": lambda b, a: b & a, "o": lambda p, q: p | q},
        output="o",
    )
    at = places(views.causal_model(model.to_xarray()))
    assert np.sign(at["p"][1] - at["q"][1]) == np.sign(at["c"][1] - at["a"][1])


def test_an_arrow_passes_by_what_is_between() -> None:
    """a → b → c in one row, and a → c: its way is at least a quarter of a row from b."""
    model = CausalModel({"a": BIT, "b": BIT, "c": BIT}, {"b": lambda a: ~a, "c": lambda a, b: a & b}, output="c")
    figure = views.causal_model(model.to_xarray())
    at = places(figure)
    assert at["a"][1] == at["b"][1] == at["c"][1]
    [lines] = [t for t in figure.data if t.mode == "lines+markers"]
    ways = np.split(np.stack([lines.x, lines.y], -1), np.flatnonzero(np.isnan(lines.x)))
    [long] = [w[~np.isnan(w[:, 0])] for w in ways if len(w) > 3 and np.ptp(w[~np.isnan(w[:, 0]), 0]) == 2]
    assert np.abs(long - at["b"]).max(-1).min() >= 0.25


def test_cycles_have_arrows_back() -> None:
    model = CausalModel(
        {"c": Real(), "a": Real(), "b": Real()},
        {"a": lambda a, b, c: 0.1 * a + 0.5 * b + c, "b": lambda a: a / 2},
        output="b",
        initial={"a": 0.0, "b": 0.0},
    )
    figure = views.causal_model(model.to_xarray(model.run({"c": [1.0]})))
    at = places(figure)
    assert (at["b"], at["a"]) in arrows(figure)
    assert any(np.allclose(start, at["a"]) and np.allclose(end, at["a"]) for start, end in arrows(figure))


def test_values_of_a_row_and_what_was_set_are_shown(seed: int) -> None:
    task = tasks.hierarchical_equality()
    rows = task.counterfactuals(16, ("WX",), seed=seed)
    model, found = rows.model, rows.model.interchange(rows.base, rows.sources)
    figure = views.causal_model(model.to_xarray(found, row=5, do=["WX"]))
    said = hovers(figure)
    assert said["WX"].split("<br>") == [
        "<b>WX</b> Boolean()", "WX(w, x)", f"value {bool(found['WX'][5])}", "set by an intervention",
    ]  # fmt: skip
    assert said["O"].split("<br>") == ["<b>O</b> Boolean()", "O(WX, YZ)", f"value {bool(rows.label[5])}"]
    entity = " ".join(f"{one:g}" for one in rows.base["w"][5])
    assert said["w"].split("<br>")[-1] == f"value ({entity})"
    [ring] = [t for t in figure.data if t.name == "set"]
    assert [(ring.x[0], ring.y[0])] == [places(figure)["WX"]]
    words = {text for t in figure.data if t.mode == "text" for text in t.text}
    assert {"<b>WX</b>", str(bool(rows.label[5]))} <= words
    assert "row 5 · set: WX" in figure.layout.title.text
    plain = views.causal_model(model.to_xarray())
    assert not [t for t in plain.data if t.name == "set"]
    assert "value" not in hovers(plain)["WX"]


def test_mechanisms_with_names_are_told_by_them() -> None:
    def both(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a & b

    model = CausalModel({"a": BIT, "b": BIT, "o": BIT}, {"o": both}, output="o", name="and")
    figure = views.causal_model(model.to_xarray())
    assert hovers(figure)["o"] == "<b>o</b> Boolean()<br>both(a, b)"
    assert hovers(figure)["a"] == "<b>a</b> Boolean()"
    assert figure.layout.title.text.startswith("causal model: and")


def test_names_are_words_and_no_markup() -> None:
    model = CausalModel({"<b>a": BIT, "o": BIT}, {"o": lambda: True}, output="o")
    figure = views.causal_model(model.to_xarray())
    assert any("&lt;b&gt;a" in text for t in figure.data if t.mode == "text" for text in t.text)


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(InputError, match="graph is a CausalModel; expected an xarray Dataset"):
        inspect.unwrap(views.causal_model)(equality())
    with pytest.raises(InputError, match=r"graph has no parents; give CausalModel\.to_xarray\(\)"):
        views.causal_model(xr.Dataset())
    with pytest.raises(UnknownNameError, match="variable 'XW'"):
        equality().to_xarray(do=["XW"])


def test_a_coarser_model_is_drawn_without_what_was_left_out() -> None:
    small = marginalise(tasks.and_or().models["and-or"], ["D"])
    figure = views.causal_model(small.to_xarray(), width=views.COLUMN, title="coarser")
    at = places(figure)
    assert "D" not in at
    assert {(at[p], at["O"]) for p in "abc"} <= arrows(figure)
    assert figure.layout.title.text.startswith("coarser")
