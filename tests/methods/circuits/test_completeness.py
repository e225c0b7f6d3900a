"""Completeness and minimality: gates with known answers, and searches against trying every set of nodes."""

from __future__ import annotations

from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest
import sweeps
import torch
from nets_gates import gates

import interp
from interp import effects
from interp.circuits import Circuit, Graph
from interp.errors import EdgesError, InputError, UnknownNameError

BRANCH = ["embed → L0H{0}.q", "embed → L0H{0}.k", "embed → L0H{0}.v", "L0H{0} → m0"]
REST = ["embed → m0", "m0 → logits", "embed → logits"]


def branches(*heads: int) -> tuple[interp.Model, Any, Circuit]:
    model, pairs = gates("or")
    edges = [*REST, *(edge.format(head) for head in heads for edge in BRANCH)]
    return model, pairs, Circuit.of(interp.graph(model), edges, "branches")


def test_ground_truth_8_one_branch_of_an_or_is_faithful_and_not_complete() -> None:
    """Card 11, test 8. The answer's logit is min(1, heads that hear): one head alone gives 1, and without it the other does.

    So F(C) = F(N) = 1, and with that head knocked out F(C ∖ K) = 0 where F(N ∖ K) = 1. With both branches there is no gap.
    """
    model, pairs, circuit = branches(0)
    faithful = interp.evaluate_circuits(model, pairs, circuit, random=0)["circuits"].to_dataset()
    assert float(interp.recovery(faithful, None).item()) == pytest.approx(1, abs=1e-9)
    found = interp.completeness(model, pairs, circuit, {"hearer": ["L0H0"], "gate": ["m0"]}, draws=0)
    assert found["knocked_out"].values.tolist() == ["", "L0H0", "m0"]
    assert found["how"].values.tolist() == ["", "hearer", "gate"]
    np.testing.assert_allclose(found["circuit"].values[0, :, 0], [1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(found["model"].values[0, :, 0], [1, 1, 0], atol=1e-9)
    np.testing.assert_allclose(found["gap"].values[0], [0, 1, 0], atol=1e-9)
    assert found["difference"].values[0, 1] == pytest.approx(-1, abs=1e-9)
    assert interp.completeness(model, pairs, circuit, draws=0, greedy=2)["gap"].max().item() == pytest.approx(1, abs=1e-9)
    whole = interp.completeness(model, pairs, branches(0, 1)[2], draws=0, greedy=3)
    assert whole["gap"].max().item() == pytest.approx(0, abs=1e-9)
    assert whole.attrs["edges"] == len(branches(0, 1)[2])


def test_a_head_that_another_stands_in_for_counts_once_that_is_knocked_out() -> None:
    """Alone, neither head of the or changes anything; without the other it changes all. A head that is not read does never."""
    model, pairs, circuit = branches(0, 1)
    both = [["L0H0"], ["L0H1"]]
    for options in ({"knockouts": both}, {"greedy": 1}, {"draws": 12}):
        found = interp.minimality(model, pairs, circuit, **options)
        assert found["node"].values.tolist() == ["L0H0", "L0H1", "m0"]
        np.testing.assert_allclose(found["alone"].values[0], [0, 0, -1], atol=1e-9)
        np.testing.assert_allclose(found["change"].values[0], [1, 1, 1], atol=1e-9)
        np.testing.assert_allclose(found["difference"].values[0], [-1, -1, -1], atol=1e-9)
        assert found["knocked_out"].values[0, :2].tolist() == ["L0H1", "L0H0"]
    np.testing.assert_allclose(interp.minimality(model, pairs, circuit)["change"].values[0], [0, 0, 1], atol=1e-9)
    unread = circuit - Circuit.of(circuit.graph, ["L0H1 → m0"])
    np.testing.assert_allclose(
        interp.minimality(model, pairs, unread, both, greedy=2)["change"].values[0], [1, 0, 1], atol=1e-9
    )


def some_circuit(kind: str, seed: int) -> tuple[interp.Model, Any, Circuit, tuple[str, ...]]:
    model, pairs = sweeps.model(kind, torch.float64), sweeps.random_pairs(seed, [5, 6])
    shape = interp.graph(model)
    chosen = np.random.default_rng(seed).permutation(len(shape.senders) - 1)[:4] + 1
    nodes = [interp.circuits.node(shape.senders[i]) for i in sorted(chosen)]
    circuit = Circuit.among(shape, nodes)
    return model, pairs, circuit, tuple(node for node in circuit.nodes if node != "embed")


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
def test_every_set_by_hand(kind: str, seed: int) -> None:
    """Expected: circuits whose edges out of and into the nodes are taken away one by one, each patched alone.

    With grouped-query attention keys and values that others read too stay.
    """
    model, pairs, circuit, nodes = some_circuit(kind, seed)
    shape = circuit.graph
    sets = list(chain.from_iterable(combinations(nodes, k) for k in range(len(nodes) + 1)))

    def left(one: Circuit, k: tuple[str, ...]) -> Circuit:
        out = {shape.senders[shape.node(node)] for node in k}
        gone = [e for e in one.edges if e.sender in out or (shape.serves(e.receiver) and {*shape.serves(e.receiver)} <= out)]
        return one - Circuit.of(shape, gone)

    def means(one: Circuit) -> np.ndarray[Any, Any]:
        found = interp.patch_circuits(model, pairs, [left(one, k) for k in sets])["value"]
        return found.mean("example").values[0]

    of_circuit, of_model = means(circuit), means(Circuit.whole(shape))
    found = interp.completeness(model, pairs, circuit, sets[1:], draws=0)
    assert found["knocked_out"].values.tolist() == [", ".join(k) for k in sets]
    np.testing.assert_allclose(found["difference"].values[0], of_circuit - of_model, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found["gap"].values[0], abs(of_circuit - of_model), rtol=0, atol=1e-9)
    greedy = interp.completeness(model, pairs, circuit, draws=0, greedy=1)["gap"].values[0]
    assert greedy[1] == pytest.approx(max(abs(of_circuit - of_model)[1 : len(nodes) + 1]), abs=1e-9)
    known = {frozenset(k): value for k, value in zip(sets, of_circuit, strict=True)}
    needed = interp.minimality(model, pairs, circuit, sets[1:])
    for i, node in enumerate(nodes):
        every = {k: known[k | {node}] - known[k] for k in known if node not in k}
        assert needed["change"].values[0, i] == pytest.approx(max(map(abs, every.values())), abs=1e-9)
        assert needed["alone"].values[0, i] == pytest.approx(every[frozenset()], abs=1e-9)
        best = frozenset(filter(None, str(needed["knocked_out"].values[0, i]).split(", ")))
        assert needed["difference"].values[0, i] == pytest.approx(every[best], abs=1e-9)


def test_greedy_search_gains_with_every_step_or_stops(seed: int) -> None:
    model, pairs, circuit, nodes = some_circuit("gpt2", seed)
    alone, one, more = (interp.minimality(model, pairs, circuit, greedy=g)["change"].values[0] for g in (0, 1, len(nodes)))
    assert (alone <= one + 1e-12).all()
    assert (one <= more + 1e-12).all()
    found = interp.completeness(model, pairs, circuit, draws=3, greedy=len(nodes))
    assert (found["how"] == "greedy").sum() >= 1
    assert found["knocked_out"].values[-1] == ", ".join(nodes)


def test_results_say_what_they_are(seed: int) -> None:
    model, pairs, circuit, _ = some_circuit("gpt2", seed)
    found = interp.completeness(model, pairs, circuit, draws=3, metric=["logit_diff", "kl"])
    assert found["circuit"].dims == ("metric", "cell", "example")
    assert (found["low"] <= found["difference"] + 1e-12).all()
    assert (found["difference"] <= found["high"] + 1e-12).all()
    assert found.attrs["method"] == "completeness"
    assert found["clean_prompt"].sizes == {"example": 2}
    needed = interp.minimality(model, pairs, circuit, metric=["logit_diff", "kl"])
    assert needed["change"].dims == ("metric", "cell")
    assert "clean_prompt" not in needed.coords
    for one in (found, needed):
        assert not effects.derived(one)
        assert one.attrs["model"] == model.name
        assert one.attrs["source"] == "corrupted run"


def test_mistakes_are_named_with_what_to_do(seed: int) -> None:
    model, pairs, circuit, nodes = some_circuit("gpt2", seed)
    other = next(node for node in ["L0H0", "L0H1", "L0H2", "L0H3", "m0"] if node not in nodes)
    for ask in (sweeps.unchecked(interp.completeness), sweeps.unchecked(interp.minimality)):
        with pytest.raises(
            InputError, match=f"knockouts has '{other}', which is no node of circuit: .* it has the heads and MLPs"
        ):
            ask(model, pairs, circuit, [[nodes[0], other]])
        with pytest.raises(InputError, match="has no head and no MLP that could be knocked out"):
            ask(model, pairs, Circuit.of(circuit.graph, ["embed → logits"]))
        with pytest.raises(InputError, match=r"circuit is .* of type list; expected one interp.circuits.Circuit"):
            ask(model, pairs, [circuit])
        with pytest.raises(InputError, match="greedy=-1; expected how many nodes are searched for at most"):
            ask(model, pairs, circuit, greedy=-1)
        with pytest.raises(InputError, match=r"draws=0\.5; expected how many sets are drawn"):
            ask(model, pairs, circuit, draws=0.5)
        with pytest.raises(EdgesError, match="is of another graph than"):
            ask(model, pairs, Circuit.whole(Graph.like(2, heads=3)))
    with pytest.raises(UnknownNameError, match="unknown node 'L9H9'"):
        circuit.without(["L9H9"])
