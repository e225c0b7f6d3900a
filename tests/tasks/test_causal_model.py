"""Causal models: solutions, interventions, interchange (cards 1 to 3 of causal abstraction)."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from interp import tasks
from interp.errors import InputError, ShapeMismatchError, UnknownNameError
from interp.tasks.causal_model import (
    Boolean,
    Categorical,
    CausalModel,
    CausalModelError,
    Change,
    Integer,
    Mechanism,
    Real,
    Set,
    Vector,
    counterfactuals,
    distinguishes,
    separating,
)
from interp.tasks.causal_model.rivals import every_row

BIT = Boolean()
DIGIT = Integer(0, 3)


def equality() -> CausalModel:
    """(w = x) = (y = z) of digits."""
    return CausalModel(
        {**dict.fromkeys("wxyz", DIGIT), "WX": BIT, "YZ": BIT, "O": BIT},
        {"WX": lambda w, x: w == x, "YZ": lambda y, z: y == z, "O": lambda WX, YZ: WX == YZ},
        output="O",
    )


def drawn(n: int, seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {name: draw.integers(4, size=n) for name in "wxyz"}


def by_hand(w: int, x: int, y: int, z: int) -> tuple[bool, bool, bool]:
    return w == x, y == z, (w == x) == (y == z)


def test_columns_are_what_scalars_are(seed: int) -> None:
    """Cards 1 (a) and (f): Python's own comparison, a row at a time."""
    rows = drawn(1000, seed)
    found = equality().run(rows)
    for i in range(1000):
        assert tuple(bool(found[name][i]) for name in ("WX", "YZ", "O")) == by_hand(*(int(rows[name][i]) for name in "wxyz"))


def test_interchange_with_the_base_with_the_output_and_with_all_inputs(seed: int) -> None:
    """Cards 1 (b), (c) and (d)."""
    model, base, source = equality(), drawn(300, seed), drawn(300, seed + 1)
    plain, other = model.run(base), model.run(source)
    same = model.interchange(base, {"WX": base, "YZ": base})
    assert all((same[name] == plain[name]).all() for name in plain)
    assert (model.interchange(base, {"O": source})["O"] == other["O"]).all()
    every = model.interchange(base, dict.fromkeys("wxyz", source))
    assert all((every[name] == other[name]).all() for name in other)


def test_variables_take_values_of_their_own_sources_where_they_are_swapped(seed: int) -> None:
    model, base, one, two = equality(), drawn(400, seed), drawn(400, seed + 1), drawn(400, seed + 2)
    swap = np.random.default_rng(seed).random((400, 2)) < 0.5
    found = model.interchange(base, {"WX": one, "YZ": two}, swap)
    own, first, second = (model.run(inputs) for inputs in (base, one, two))
    expected = np.where(swap[:, 0], first["WX"], own["WX"]) == np.where(swap[:, 1], second["YZ"], own["YZ"])
    assert (found["O"] == expected).all()
    inputs = model.interchange(base, {"w": one}, swap[:, :1])  # an input, in some rows
    assert (inputs["w"] == np.where(swap[:, 0], one["w"], base["w"])).all()


def test_a_source_that_was_itself_intervened_upon(seed: int) -> None:
    """Path-specific: the source's output, once one of its own variables was set."""
    model, base, source = equality(), drawn(200, seed), drawn(200, seed + 1)
    inner = model.run(source, {"WX": True})
    found = model.interchange(base, {"O": inner})
    assert (found["O"] == model.run(source)["YZ"]).all()


def test_interventions_of_every_kind(seed: int) -> None:
    model, rows = equality(), drawn(50, seed)
    plain = model.run(rows)
    assert (model.run(rows, {"WX": True})["O"] == plain["YZ"]).all()
    assert (model.run(rows, {"WX": plain["YZ"]})["O"]).all()
    soft = model.run(rows, {"WX": lambda w, z: w == z})
    assert (soft["WX"] == (rows["w"] == rows["z"])).all()
    changed = model.run(rows, {"WX": Change(lambda own: ~own)})
    assert (changed["O"] == ~plain["O"]).all()
    further = model.run(rows, {"WX": Change(lambda own, y: own & (y > 1))})
    assert (further["WX"] == (plain["WX"] & (rows["y"] > 1))).all()
    some = np.arange(50) % 2 == 0
    partly = model.run(rows, {"WX": Set(True, some)})
    assert (partly["WX"] == np.where(some, True, plain["WX"])).all()
    both = model.intervened({"WX": True}).intervened({"YZ": False})
    other = model.intervened({"YZ": False}).intervened({"WX": True})
    assert not both.run(rows)["O"].any()
    assert (both.run(rows)["O"] == other.run(rows)["O"]).all()


def test_a_linear_cycle_has_the_solution_of_its_equations() -> None:
    """Card 1 (e): v = Mv + c with spectral radius below 1, (I − M)⁻¹c by numpy."""
    model = CausalModel(
        {"c": Real(), "d": Real(), "a": Real(), "b": Real()},
        {"a": lambda b, c: 0.5 * b + c, "b": lambda a, d: -0.4 * a + d},
        output="b",
        initial={"a": 0.0, "b": 0.0},
    )
    c, d = np.array([1.0, -2.0, 0.3]), np.array([0.5, 0.0, 4.0])
    found = model.run({"c": c, "d": d})
    expected = np.linalg.solve(np.array([[1, -0.5], [0.4, 1]]), np.stack([c, d]))
    assert found.settled.all()
    np.testing.assert_allclose([found["a"], found["b"]], expected, atol=1e-8)
    cut = model.run({"c": c, "d": d}, {"a": np.array([1.0, 1.0, 1.0])})
    np.testing.assert_allclose(cut["b"], d - 0.4, atol=1e-12)


def test_a_cycle_that_does_not_settle_says_so() -> None:
    """Card 1 (e): x ← 1 − x on {0, 1} has period 2, and no value that could be read."""
    model = CausalModel({"go": BIT, "x": BIT}, {"x": lambda x, go: x ^ go}, output="x", initial={"x": False})
    found = model.run({"go": np.array([True, False])})
    assert found.status.tolist() == ["cycle(2)", "converged"]
    with pytest.raises(CausalModelError, match=r"x has no value in 1 of 2 rows.*row 0: cycle\(2\).*take"):
        found["x"]
    assert found.take(found.settled)["x"].tolist() == [False]
    growing = CausalModel({"x": Real()}, {"x": lambda x: x + 1}, output="x", initial={"x": 0.0})
    assert growing.run({}).status.tolist() == ["diverged"]


def test_many_rows_take_little_time() -> None:
    task = tasks.price_tagging()
    began = time.perf_counter()
    task.counterfactuals(10_000, ("L",), seed=0, balance="natural").label.sum()
    assert time.perf_counter() - began < 5


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="parent 'v' of WX"):
        CausalModel({"w": DIGIT, "WX": BIT}, {"WX": lambda w, v: w == v}, output="WX")
    with pytest.raises(CausalModelError, match=r"depend on themselves.*initial="):
        CausalModel({"x": BIT}, {"x": lambda x: ~x}, output="x")
    with pytest.raises(CausalModelError, match="mechanism of x is 3"):
        CausalModel({"x": BIT}, {"x": 3}, output="x")
    model = equality()
    with pytest.raises(CausalModelError, match="input z is missing"):
        model.run({name: [1] for name in "wxy"})
    with pytest.raises(UnknownNameError, match="variable 'WXX'"):
        model.run(drawn(2, 0), {"WXX": True})
    with pytest.raises(CausalModelError, match=r"w is .*7.* in row 1; expected 0 to 3"):
        model.run({**drawn(2, 0), "w": np.array([0, 7])})
    with pytest.raises(ShapeMismatchError, match="different numbers of rows: w 3, x 2"):
        model.run({**drawn(2, 0), "w": np.array([0, 1, 2])})
    with pytest.raises(CausalModelError, match="True or False"):
        model.run(drawn(2, 0), {"WX": np.array([1, 0])})
    with pytest.raises(ShapeMismatchError, match=r"v has shape \(2, 3\); expected \[row, 4\]"):
        Vector(4).check("v", np.zeros((2, 3)))
    with pytest.raises(CausalModelError, match="each once"):
        Categorical(["a", "a"])


def test_it_says_what_it_is() -> None:
    model = equality()
    assert repr(model) == "CausalModel(w, x, y, z → WX(w, x), YZ(y, z), O(WX, YZ))"
    assert model.parents.sel(variable="O").values.nonzero()[0].tolist() == [4, 5]
    shown = model.to_xarray(model.run(drawn(3, 0)), row=2)
    assert shown["depth"].values.tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert shown["role"].values.tolist() == ["input"] * 4 + ["inner"] * 2 + ["output"]
    listed = model.enumerated()
    assert len(listed["w"]) == 4**4
    assert len({tuple(int(listed[name][i]) for name in "wxyz") for i in range(4**4)}) == 4**4
    with pytest.raises(CausalModelError, match="values of c cannot be listed"):
        CausalModel({"c": Real(), "o": BIT}, {"o": lambda c: c > 0}, output="o").enumerated()


# rows


def test_rows_are_balanced_and_labelled_by_the_model(seed: int) -> None:
    model = equality()
    rows = counterfactuals(model, 240, ("WX", "YZ"), sample=lambda n, draw: drawn(n, int(draw.integers(1 << 30))), seed=seed)
    assert len(rows) == 240
    assert rows.flip.mean() == 0.5
    assert {name: rows.swapped.count(name) for name in ("WX", "YZ", "WX+YZ")} == {"WX": 80, "YZ": 80, "WX+YZ": 80}
    for i in range(240):
        own = by_hand(*(int(rows.base[name][i]) for name in "wxyz"))
        first, second = (by_hand(*(int(rows.sources[v][name][i]) for name in "wxyz")) for v in ("WX", "YZ"))
        wx, yz = first[0] if rows.swap[i, 0] else own[0], second[1] if rows.swap[i, 1] else own[1]
        assert bool(rows.label[i]) == (wx == yz)
        assert bool(rows.flip[i]) == ((wx == yz) != own[2])
        assert bool(rows.moved[i]) == ((wx, yz) != own[:2])
        for j, v in enumerate(("WX", "YZ")):  # what is not swapped comes from the base itself
            if not rows.swap[i, j]:
                assert all(rows.sources[v][name][i] == rows.base[name][i] for name in "wxyz")


def test_the_same_seed_draws_the_same_rows(seed: int) -> None:
    task = tasks.price_tagging()
    one, two = (task.counterfactuals(64, seed=seed).pairs().digest for _ in range(2))
    assert one == two
    assert task.counterfactuals(64, seed=seed + 1).pairs().digest != one


def test_rows_that_cannot_be_had_are_refused() -> None:
    constant = CausalModel({"x": BIT, "o": BIT}, {"o": lambda x: x | True}, output="o")
    sample = lambda n, draw: {"x": draw.random(n) < 0.5}  # noqa: E731
    with pytest.raises(CausalModelError, match=r"none has another output than its base.*balance='natural'"):
        counterfactuals(constant, 8, ("x",), sample=sample, seed=0)
    assert len(counterfactuals(constant, 8, ("x",), sample=sample, seed=0, balance="natural")) == 8
    with pytest.raises(InputError, match="made by no task"):
        counterfactuals(constant, 8, ("x",), sample=sample, seed=0, balance="natural").pairs()
    with pytest.raises(UnknownNameError, match="swapped variable 'y'"):
        counterfactuals(constant, 8, ("x",), sample=sample, seed=0, swapped=[("y",)])


def test_other_labels_of_the_same_rows(seed: int) -> None:
    task = tasks.hierarchical_equality()
    rows = task.counterfactuals(200, ("WX",), seed=seed)
    own, other = rows.model.run(rows.base), rows.model.run(rows.sources["WX"])
    assert (rows.with_label("base").label == own["O"]).all()
    assert (rows.with_label("source").label == other["O"]).all()
    assert (rows.relabelled(variables=("WX", "YZ")).label == other["O"]).all()
    assert (rows.relabelled(variables=("YZ",)).label == (own["WX"] == other["YZ"])).all()
    few = rows.relabelled(variables=("WX", "YZ")).take(slice(10))
    assert few.pairs()[0].sources == {}  # one source of both stays one
    with pytest.raises(CausalModelError, match="sources of their own"):
        task.counterfactuals(20, seed=seed).relabelled(variables=("O",))


def test_pairs_hold_bases_sources_and_labels(seed: int) -> None:
    task = tasks.hierarchical_equality()
    single, several = task.counterfactuals(40, ("WX",), seed=seed), task.counterfactuals(40, seed=seed)
    for number, pair in enumerate(single.pairs()):
        entities = np.concatenate([single.base[name][number] for name in "wxyz"])
        np.testing.assert_array_equal(pair.corrupted.inputs["x"], entities)
        np.testing.assert_array_equal(pair.clean.inputs["x"][:4], single.sources["WX"]["w"][number])
        assert (pair.answers, pair.wrong) == ((int(single.label[number]),), (1 - int(single.label[number]),))
    assert single.pairs().sources == ()
    pairs = several.pairs()
    assert pairs.sources == ("WX", "YZ")
    for number, pair in enumerate(pairs):
        first = ("WX", "YZ")[int(several.swap[number].argmax())]
        assert pair.clean.inputs["x"] is pair.sources[first].inputs["x"]


# rivals


def test_price_tagging_has_the_published_rates() -> None:
    """Bed 5 [C]: changed labels .31/.32/.37 (left, midpoint, bracket), y* yes .56/.49/.50, left and bracket differ on 42 %."""
    task = tasks.price_tagging()
    rows = task.counterfactuals(40_000, ("L",), seed=0, balance="natural")
    each = {name: rows.relabelled(name, task.variables[name]) for name in ("left", "midpoint", "bracket")}
    assert [float(one.flip.mean()) for one in each.values()] == pytest.approx([0.31, 0.32, 0.37], abs=0.015)
    assert [float(one.label.mean()) for one in each.values()] == pytest.approx([0.56, 0.49, 0.50], abs=0.015)
    assert float(rows.base_label.mean()) == pytest.approx(0.5, abs=0.01)
    found = distinguishes(rows, {name: (task.models[name], task.variables[name]) for name in each})
    assert float(found.differ.sel(hypothesis="left", rival="bracket")) == pytest.approx(0.42, abs=0.01)
    assert "every two hypotheses" in found.words


def test_hypotheses_that_no_row_tells_apart_are_named() -> None:
    """b ∧ (a ∨ c) by swapping a ∨ c of either algorithm of the same function: enumerated."""
    bits = dict.fromkeys("abc", BIT)
    one = CausalModel({**bits, "D": BIT, "O": BIT}, {"D": lambda a, c: a | c, "O": lambda b, D: b & D}, output="O")
    other = CausalModel({**bits, "E": BIT, "O": BIT}, {"E": lambda a, c: ~(a | c), "O": lambda b, E: b & ~E}, output="O")
    rival = CausalModel({**bits, "P": BIT, "O": BIT}, {"P": lambda a, b: a & b, "O": lambda P, b, c: P | (b & c)}, output="O")
    every = {"or": (one, ("D",)), "nor": (other, ("E",)), "and": (rival, ("P",))}
    rows = every_row(one, ("D",))
    assert len(rows) == 64
    found = distinguishes(rows, every, all_rows=True)
    assert found.same == [("or", "nor")]
    assert re.search("or / nor ask for the same output in every row that there is", found.words)
    sample = lambda n, draw: {name: draw.random(n) < 0.5 for name in "abc"}  # noqa: E731
    told = separating({"or": every["or"], "and": every["and"]}, 100, sample=sample, seed=0)
    assert float(distinguishes(told, {"or": every["or"], "and": every["and"]}).differ.sel(hypothesis="or", rival="and")) == 1
    with pytest.raises(CausalModelError, match="or / nor"):
        separating(every, 100, sample=sample, seed=0)


def test_separating_rows_are_shared_between_every_two(seed: int) -> None:
    task = tasks.price_tagging()
    hypotheses = {name: (task.models[name], task.variables[name]) for name in ("left", "midpoint", "bracket")}
    rows = separating(hypotheses, 300, sample=task.sample["train"], seed=seed, task=task)
    assert len(rows) == 300
    differ = distinguishes(rows, hypotheses).differ
    assert all(float(differ.sel(hypothesis=a, rival=b)) >= 1 / 3 for a, b in (("left", "midpoint"), ("midpoint", "bracket")))
    assert len(rows.pairs()) == 300


def test_mechanisms_may_name_their_parents_apart() -> None:
    found = CausalModel({"a": BIT, "b": BIT}, {"b": Mechanism(lambda x: ~x, ("a",))}, output="b")
    assert found.run({"a": np.array([True, False])})["b"].tolist() == [False, True]
