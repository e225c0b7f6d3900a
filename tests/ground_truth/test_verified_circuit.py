"""The trained network whose circuit was verified: what ships is faithful, needs each of its edges, and lacks none.

f ≥ 0.95 is the criterion of experiments/verified_circuit; the other bounds are rounder than what its README says was measured.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch

import interp
from interp.circuits import Circuit
from interp.effects import curves
from interp.interventions import Source, mean
from interp.models import Model
from interp.models.zoo import KNOWN, VERIFIED, VerifiedCircuit

FAITHFUL = 0.95
SOURCES: dict[str, Source | None] = {
    "other prompt": None,
    "positional mean": mean("source"),
    "mean": mean("source", over=("example", "position")),
}


@cache
def known() -> VerifiedCircuit:
    return VERIFIED["induction-2l"]()


@cache
def model() -> Model:
    return interp.load(known().net, tokenizer=known().tokenizer, name=known().name, progress=False)


def faithfulness(
    circuits: list[Circuit], source: Source | None = None, pairs: int = 64
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """(m(C) − m(∅)) / (m(full) − m(∅)) of each, by divergence and by logit difference."""
    graph = known().truth.graph
    every = [Circuit.whole(graph), Circuit.empty(graph), *circuits]
    metrics = ["kl", "logit_diff"]
    found = interp.patch_circuits(model(), known().pairs[:pairs], every, metrics, source=source, progress=False)
    full, empty, rest = np.split(found["value"].values.astype(float).mean(-1), [1, 2], axis=1)
    f = (rest - empty) / (full - empty)
    return f[0], f[1]


def test_it_is_the_network_that_ships() -> None:
    loaded = interp.load("zoo/induction-2l", dtype="float64", progress=False)
    ids = torch.randint(4, 260, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(known().net(ids).logits, loaded.module(ids).logits, rtol=0, atol=1e-10)
    assert known().truth.graph == interp.graph(loaded)
    assert known().vocabulary.index(" banana") == loaded.tokenizer(" banana")["input_ids"][-1]
    assert "5 of 81 edges, 64 pairs" in repr(known())


def test_it_is_the_circuit_of_the_program() -> None:
    """Of induction as a program (``KNOWN``) the edges out of tokens and heads; a rotary network adds no positions."""
    program = KNOWN["induction"]().truth
    heads = {"L0H0": "L0H2", "L1H0": "L1H1"}
    expected = set()
    for edge in map(repr, program.edges):
        for one, other in heads.items():
            edge = edge.replace(one, other)
        expected |= set() if edge.startswith("pos_embed") else {edge}
    assert {repr(edge) for edge in known().truth.edges} == expected
    assert known().truth.pruned() == known().truth


@pytest.mark.parametrize("name", SOURCES)
def test_it_is_faithful_on_pairs_that_did_not_make_it(name: str) -> None:
    own = interp.evaluate_circuits(
        model(), known().pairs, known().truth, ["kl", "same_top1"], random=0, prune=False, source=SOURCES[name], progress=False
    )
    assert own["circuits"].attrs["in_sample"] is False
    by_kl, by_answer = (interp.effects.faithfulness(own, metric).iloc[0] for metric in ("kl", "same_top1"))
    assert by_kl["f"] >= by_kl["low"] >= FAITHFUL
    assert by_answer["value"] >= FAITHFUL
    assert min(faithfulness([known().truth], SOURCES[name])[1]) >= 0.9


@pytest.mark.parametrize("name", SOURCES)
def test_each_edge_is_needed_and_no_other_one_is_missing(name: str) -> None:
    """Without one of its edges f is far below the criterion, of the circuit as of the whole model; one more hardly moves it."""
    truth = known().truth
    own = [Circuit.of(truth.graph, [edge]) for edge in truth.edges]
    others = [Circuit.of(truth.graph, [edge]) for edge in (~truth).edges]
    assert len(own) + len(others) == 81
    circuits = [truth, *(truth - one for one in own), *(~one for one in own), *(truth | one for one in others)]
    by_kl, by_difference = faithfulness(circuits, SOURCES[name], pairs=16)
    for f in (by_kl, by_difference):
        assert f[1 : 1 + 2 * len(own)].max() <= FAITHFUL - 0.3
    assert abs(by_kl[1 + 2 * len(own) :] - by_kl[0]).max() <= 0.01


@pytest.mark.parametrize("name", SOURCES)
def test_of_all_sets_of_heads_those_with_its_two_are_faithful(name: str) -> None:
    """2⁸ sets, with all edges among their heads; faithful are the 2⁶ that have both of the circuit's."""
    heads = [f"L{layer}H{head}" for layer in range(2) for head in range(4)]
    sets = [some for many in range(9) for some in combinations(heads, many)]
    own = {node for node in known().truth.nodes if node != "embed"}
    assert own == {"L0H2", "L1H1"}
    f = np.minimum(*faithfulness([Circuit.among(known().truth.graph, some) for some in sets], SOURCES[name], pairs=6))
    assert [own <= set(some) for some in sets] == (f >= FAITHFUL).tolist()


def test_exact_edge_patching_finds_it() -> None:
    """Absent edges have effects here, but each is smaller than those of the five."""
    for name, source in SOURCES.items():
        for metric in ("kl", "logit_diff"):
            found = interp.patch_edges(model(), known().pairs[:32], metric, source=source, progress=False)
            size = interp.circuits.ranking(found, known().truth.graph)
            assert curves.roc(size, known().truth.kept).auc == 1.0, name
            assert interp.circuits.strongest(found, known().truth.graph, 5) == known().truth, name


def test_it_is_the_circuit_of_its_contrast() -> None:
    """Where prompts differ in the last word alone, what was said before is the same in both, and only the query counts."""
    pairs = interp.tasks.induction(16, tokenizer=known().tokenizer)
    found = interp.acdc(model(), pairs, 0.1, progress=False)
    [circuit] = interp.circuits.circuits_of(found, known().truth.graph)
    assert circuit.pruned() == Circuit.of(circuit.graph, ["embed → L1H1.q", "L1H1 → logits"])
