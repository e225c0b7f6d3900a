"""Sets of edges: pruning against a search of all paths, algebra against sets, JSON there and back."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.circuits import Block, Circuit, Edge, Graph, random_circuits
from interp.errors import EdgesError, UnknownNameError, UnknownSiteError
from interp.sites import Site

MIXED = Graph((Block(4, 2), Block(2, 1, parallel=True), Block(3, 3, mlp=False), Block(2, 2)))


def drawn(seed: int, share: float, graph: Graph = MIXED) -> Circuit:
    return Circuit(graph, np.random.default_rng(seed).random(len(graph)) < share, "drawn")


def on_a_path(circuit: Circuit) -> set[Edge]:
    """Edges on some path from the embedding to the logits, by walking forward and backward from each end."""
    after, before = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    ends = {}
    for edge in circuit.edges:
        ends[edge] = (repr(edge.sender), [repr(s) for s in circuit.graph.serves(edge.receiver)] or ["end"])
        for reader in ends[edge][1]:
            after[ends[edge][0]].add(reader)
            before[reader].add(ends[edge][0])

    def reached(start: str, steps: dict[str, set[str]]) -> set[str]:
        found, new = {start}, [start]
        while new:
            more = steps[new.pop()] - found
            found |= more
            new += more
        return found

    forward, backward = reached("embed", after), reached("end", before)
    return {edge for edge, (sender, readers) in ends.items() if sender in forward and backward & {*readers}}


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.8])
def test_pruned_is_what_is_on_a_path(share: float, seed: int) -> None:
    for draw in range(30):
        circuit = drawn(seed + draw, share)
        pruned = circuit.pruned()
        assert {*pruned.edges} == on_a_path(circuit)
        assert pruned.pruned() == pruned
        assert pruned <= circuit


def test_keys_and_values_that_are_shared_feed_every_head_of_theirs() -> None:
    circuit = Circuit.of(MIXED, ["embed → L0H1.v", "L0H3 → logits", "L0H0 → logits"])
    assert [repr(edge) for edge in circuit.pruned().edges] == ["embed → L0H1.v", "L0H3 → logits"]


def test_algebra_is_that_of_sets(seed: int) -> None:
    one, other = drawn(seed, 0.4), drawn(seed + 1, 0.4)
    first, second = {*one.edges}, {*other.edges}
    for found, expected in (
        (one | other, first | second),
        (one & other, first & second),
        (one - other, first - second),
        (one ^ other, first ^ second),
        (~one, {*MIXED.edges} - first),
    ):
        assert {*found.edges} == expected
    assert one & other <= one
    assert not one <= one & other
    assert (one | ~one) == Circuit.whole(MIXED)
    assert len(one & ~one) == 0
    assert hash(one & one) == hash(one)
    assert (one | other).name == "drawn | drawn"
    assert one != "drawn"
    with pytest.raises(EdgesError, match="are of two graphs"):
        one | Circuit.empty(Graph.like(2, 2))


def test_nodes_and_circuits_of_nodes() -> None:
    circuit = Circuit.of(MIXED, ["L0H1 → L2H1.k", "embed → m1"])
    assert circuit.nodes == ("embed", "L0H1", "m1", "L2H1")
    assert "embed → m1" in circuit
    assert Edge.of("embed", "logits") not in circuit
    among = Circuit.among(MIXED, ["L0H2", "m1", Site("z", layer=3, head=0)])
    assert among.nodes == ("embed", "L0H2", "m1", "L3H0")
    for edge in MIXED.edges:
        writes = repr(edge.sender) in {"embed", "L0H2.z", "L1.mlp_out", "L3H0.z"}
        reads = [repr(site) for site in MIXED.serves(edge.receiver)]
        reached = not reads or bool({"L0H2.z", "L1.mlp_out", "L3H0.z"} & {*reads})
        assert (edge in among) == (writes and reached), edge
    with pytest.raises(UnknownNameError, match="unknown node 'L9H9'"):
        Circuit.among(MIXED, ["L9H9"])


def test_json_there_and_back(seed: int, tmp_path: Path) -> None:
    circuit = Circuit(MIXED, drawn(seed, 0.3).kept, "three", {"method": "by hand", "examples": ["ab12"], "n": 3})
    circuit.save(tmp_path / "circuit.json")
    found = Circuit.load(tmp_path / "circuit.json")
    assert found == circuit
    assert (found.name, dict(found.origin)) == ("three", {"method": "by hand", "examples": ["ab12"], "n": 3})
    for wrong, said in (("nothing", "no JSON"), ("[]", "no circuit of this library"), ('{"format": "x"}', "no circuit of")):
        with pytest.raises(EdgesError, match=said):
            Circuit.from_json(wrong)
    later: dict[str, Any] = json.loads(circuit.to_json())
    with pytest.raises(EdgesError, match="of version 99; version 1 is read"):
        Circuit.from_json(json.dumps(later | {"version": 99}))
    with pytest.raises(UnknownNameError):
        Circuit.from_json(json.dumps(later | {"edges": ["L7H0 → logits"]}))


def test_as_a_dataset(seed: int) -> None:
    circuit = drawn(seed, 0.3)
    found = circuit.dataset()
    np.testing.assert_array_equal(found["in_circuit"], circuit.kept)
    assert found["edge"].values[circuit.kept].tolist() == [repr(edge) for edge in circuit.edges]


def test_kept_is_not_changed_behind_its_back() -> None:
    kept = np.ones(len(MIXED), dtype=bool)
    circuit = Circuit(MIXED, kept)
    kept[:] = False
    assert len(circuit) == len(MIXED)
    with pytest.raises(ValueError, match="read-only"):
        circuit.kept[0] = False
    with pytest.raises(EdgesError, match="kept has shape"):
        Circuit(MIXED, np.ones(3, dtype=bool))
    with pytest.raises(UnknownSiteError):
        Circuit.of(MIXED, [Edge.of("L3H0.z", "L0H0.q")])


def test_random_circuits_have_its_size(seed: int) -> None:
    circuit = drawn(seed, 0.2)
    for by_layer in (False, True):
        found = random_circuits(circuit, 5, seed=seed, by_layer=by_layer)
        assert [len(one) for one in found] == [len(circuit)] * 5
        assert len({*found}) == 5
        assert found == random_circuits(circuit, 5, seed=seed, by_layer=by_layer)
    layers = np.array([[edge.sender.layer or -1, edge.receiver.layer or -1] for edge in MIXED.edges])
    for one in found:
        kept, like = layers[one.kept].tolist(), layers[circuit.kept].tolist()
        assert sorted(kept) == sorted(like)
    with pytest.raises(ValueError, match="count=0"):
        random_circuits(circuit, 0)


def test_chance_of_random_circuits(seed: int) -> None:
    """|A ∩ B| of two random sets of k among n is hypergeometric: mean k²/n, variance k²(n−k)²/(n²(n−1))."""
    graph = Graph.like(4, 4)
    circuit = Circuit(graph, np.arange(len(graph)) < len(graph) // 4)
    found = random_circuits(circuit, 60, seed=seed)
    n, k = len(graph), len(circuit)
    common = [len(a & b) for i, a in enumerate(found[::2]) for b in found[1::2][i : i + 1]]
    error = k * (n - k) / (n * np.sqrt(n - 1) * np.sqrt(len(common)))
    assert abs(np.mean(common) - k * k / n) < 4.5 * error
