"""Nodes that are told apart, in coordinates or by tokens: whole forward passes (:mod:`circuits_by_hand`), and identities.

Tolerance: 1e-9 in float64; 1e-5 × (1 + max |logit|) in float32, in which BLOOM and Gemma 2 are run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
import torch
from circuits_by_hand import ByHand

import interp
from interp.circuits import Circuit, Coordinates, Edge, Graph, circuits_of, strongest, whole_of
from interp.engine.budget import Budget
from interp.engine.graph.edges import as_asked
from interp.engine.graph.mixed import Mixed
from interp.engine.readout import Reader
from interp.engine.runs import Runs
from interp.errors import EdgesError, HeadOutOfRangeError, InputError, InteropError, UnknownNameError, UnknownSiteError
from interp.interop import eap_ig
from interp.interventions import Activation, Constant, Scale, Subspace, mean
from interp.metrics import resolve
from interp.models import Model

SINGLE = ("bloom", "gemma2")
KINDS = [kind for kind in sorted(sweeps.MAKERS) if kind != "zoo"]
"""With MLPs; the zoo's smallest has none."""


def a_model(kind: str) -> Model:
    return sweeps.model(kind, torch.float32 if kind in SINGLE else torch.float64)


def a_basis(width: int, seed: int, dtype: torch.dtype = torch.float64) -> Subspace:
    draw = torch.Generator().manual_seed(seed)
    return Subspace(torch.linalg.qr(torch.randn(width, 3, generator=draw, dtype=torch.float64)).Q.to(dtype))


def told_apart(model: Model, seed: int, spans: Any = ()) -> Graph:
    """Neurons, coordinates of a head in a basis and in its own, of an MLP's output, and of the embedding."""
    basis, wide = a_basis(model.sizes["d_head"], seed, model.dtype), a_basis(model.sizes["d_model"], seed, model.dtype)
    coordinates = [
        Coordinates.of("L0.mlp_post[3]"),
        Coordinates.of("L0.mlp_post", [5, 7], name="two"),
        Coordinates.of("L0H1.z", [0, 2], basis, "plane"),
        Coordinates.of("L1H0.z", 1),
        Coordinates.of("L1.mlp_out", [0], wide),
        Coordinates.of("embed", [1, 2], wide),
    ]
    return interp.graph(model, coordinates=coordinates, spans=spans)


def drawn(shape: Graph, seed: int, *shares: float) -> list[Circuit]:
    draw = np.random.default_rng(seed)
    return [Circuit(shape, draw.random(len(shape)) < share, f"{share}") for share in shares]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zero", [False, True], ids=["counterfactual", "zero"])
@pytest.mark.parametrize("spans", [(), (-1, 2)], ids=["all tokens", "by tokens"])
def test_every_circuit_is_whole_passes(kind: str, zero: bool, spans: tuple[int, ...], seed: int) -> None:
    """On prompts of two lengths, so that one is padded."""
    model, pairs = a_model(kind), sweeps.random_pairs(seed, [6, 4])
    shape = told_apart(model, seed, spans)
    circuits = [Circuit.empty(shape), *drawn(shape, seed, 0.1, 0.5, 0.9, 0.99)]
    found = interp.patch_circuits(model, pairs, circuits, source=Constant(0.0) if zero else None)
    encoded, moved = model.encode(pairs), 0.0
    for example, pair in enumerate(pairs):
        base, other = list(pair.clean.text), list(pair.corrupted.text)
        columns = [[len(base) - 1], [2]] if spans else []
        reference = ByHand(model, base, other, zero=zero, graph=shape, columns=columns)
        answers, wrong = (ids[example][ids[example] >= 0] for ids in (encoded.answers, encoded.wrong))
        for cell, circuit in enumerate(circuits):
            logits = reference.logits(circuit)
            expected = float(logits[answers].max() - logits[wrong].max())
            tolerance = (1e-5 if kind in SINGLE else 1e-9) * (1 + float(abs(logits).max()))
            assert abs(float(found["value"][0, cell, example]) - expected) <= tolerance, circuit
            moved = max(moved, abs(expected - float(found["clean"][0, example])))
    assert moved > 1e-2


@pytest.mark.parametrize("spans", [(), (-1, 2)], ids=["all tokens", "by tokens"])
def test_what_is_kept_together_is_the_node(spans: tuple[int, ...], seed: int) -> None:
    """All coordinates and all tokens of a node kept alike are the graph whose nodes are whole."""
    model, pairs = a_model("llama"), sweeps.random_pairs(seed, [5, 6])
    whole, shape = interp.graph(model), told_apart(model, seed, spans)
    circuits = drawn(whole, seed, 0.3, 0.8)
    home = np.array([[whole.node(whole_of(edge.sender)), whole.reading.index(whole_of(edge.receiver))] for edge in shape.edges])
    apart = [Circuit(shape, whole.dense(one.kept)[home[:, 0], home[:, 1]]) for one in circuits]
    found = [interp.patch_circuits(model, pairs, each)["value"] for each in (circuits, apart)]
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
@pytest.mark.parametrize("spans", [(), (-1, 2)], ids=["all tokens", "by tokens"])
def test_an_edge_alone_is_all_edges_but_one(kind: str, spans: tuple[int, ...], seed: int) -> None:
    model, pairs = a_model(kind), sweeps.random_pairs(seed, [5, 6])
    shape = told_apart(model, seed, spans)
    some = [shape.edges[i] for i in np.random.default_rng(seed).choice(len(shape), 60, replace=False)]
    circuits = interp.patch_circuits(model, pairs, [~Circuit.of(shape, [edge]) for edge in some])
    edges = interp.patch_edges(model, pairs, edges=some, graph=shape)
    np.testing.assert_allclose(circuits["value"], edges["value"], rtol=0, atol=1e-9)
    assert edges["edge"].values.tolist() == [repr(edge) for edge in some]
    assert float(abs(interp.effect(edges)).max()) > 1e-4


def test_all_edges_out_of_coordinates_are_the_coordinates_patched(seed: int) -> None:
    model, pairs = a_model("gpt2"), sweeps.random_pairs(seed, [5, 6])
    basis = a_basis(model.sizes["d_head"], seed)
    both = Subspace(basis.basis[:, [0, 2]])
    shape = interp.graph(model, coordinates=[Coordinates.of("L1H2.z", [0, 2], basis, "plane"), "L0.mlp_post[3]"])
    circuits = [Circuit(shape, shape.sender != shape.node(name)) for name in ("L1H2[plane]", "m0[3]")]
    found = interp.patch_circuits(model, pairs, circuits)
    changes = [interp.Change("L1H2.z", featurizer=both), interp.Change("L0.mlp_post[3]")]
    patched = interp.patch(model, pairs, changes, patching="noising")
    np.testing.assert_allclose(found["value"], patched["value"], rtol=0, atol=1e-9)
    assert float(abs(interp.effect(found)).max()) > 1e-4


def test_all_edges_out_of_a_node_at_some_tokens_are_the_node_patched_there(seed: int) -> None:
    model, pairs = a_model("llama"), sweeps.random_pairs(seed, [5, 6])
    shape = interp.graph(model, spans=[1, -1])
    nodes = ["L0H1@1", "m1@-1", "L1H3@1", "embed@1"]
    circuits = [Circuit(shape, shape.sender != shape.node(one)) for one in nodes]
    changes = [interp.Change(*one) for one in (("L0H1.z", 1), ("L1.mlp_out", -1), ("L1H3.z", 1), ("L0.resid_pre", 1))]
    found = interp.patch_circuits(model, pairs, circuits)["value"]
    np.testing.assert_allclose(found, interp.patch(model, pairs, changes, patching="noising")["value"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("along", [None, "embeddings", "activations"])
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_estimates_of_what_is_told_apart_sum_to_the_nodes(kind: str, along: Any, seed: int) -> None:
    model, pairs = a_model(kind), sweeps.random_pairs(seed, [6, 6])
    whole = interp.graph(model)
    plain = interp.effect(interp.attribute_edges(model, pairs, along=along)).values
    for shape in (told_apart(model, seed), told_apart(model, seed, [2, -1])):
        found = interp.effect(interp.attribute_edges(model, pairs, along=along, graph=shape)).values
        total = np.zeros_like(plain)
        home = [whole.number(Edge(whole_of(edge.sender), whole_of(edge.receiver))) for edge in shape.edges]
        np.add.at(total, (slice(None), home), found)
        tolerance = 1e-5 if kind in SINGLE else 1e-9
        np.testing.assert_allclose(total, plain, rtol=0, atol=tolerance * (1 + abs(plain).max()))


def test_estimates_are_derivatives(seed: int) -> None:
    """Against central differences of circuits that leave out a little of one edge; Llama's norms are rounded to float32."""
    model, pairs, step = a_model("gpt2"), sweeps.random_pairs(seed, [5, 5]), 1e-5
    shape = told_apart(model, seed, [-1])
    some = np.random.default_rng(seed).choice(len(shape), 60, replace=False)
    kept = torch.ones(2, len(some), len(shape), dtype=torch.float64)
    kept[:, range(len(some)), some] += torch.tensor([[step], [-step]], dtype=torch.float64)
    encoded = model.encode(pairs)
    reader = Reader.of(model, encoded, resolve("logit_diff"))
    budget = Budget(model, reader, encoded.clean.width)
    runs = Runs(model, encoded, "clean", budget.batch, reader)
    with torch.no_grad(), model.prepared():
        runs.want_logits("clean", "corrupted", "base")
        rows = Mixed(runs, shape, Activation(), budget, kept.flatten(0, 1))
        rows.open()
        more, less = rows.values(range(2 * len(some)), range(2), lambda n: None)[0].numpy().reshape(2, len(some), 2)
    found = interp.attribute_edges(model, pairs, edges=[shape.edges[i] for i in some], graph=shape)
    estimated = interp.effect(found).values[0]
    np.testing.assert_allclose((less - more) / (2 * step), estimated, rtol=0, atol=1e-6 * (1 + abs(estimated).max()))
    assert abs(estimated).max() > 1e-3


def test_searches_take_the_graph(seed: int, tmp_path: Path) -> None:
    """And keep it, in a store, in files and in recipes."""
    model, pairs = a_model("gpt2"), sweeps.random_pairs(seed, [5, 5])
    shape = told_apart(model, seed, [-1])
    scores = interp.attribute_edges(model, pairs, graph=shape, store=tmp_path / "runs", name="scores")
    circuit = strongest(scores, shape, 40)
    again = interp.rerun(interp.Store(tmp_path / "runs").run("scores"), model=model)
    assert again.within, again
    found = interp.acdc(model, pairs, 0.05, graph=shape)
    [pruned] = circuits_of(found, shape)
    assert 0 < len(pruned) < len(shape)
    flow = interp.information_flow(model, pairs, graph=shape)["score"]
    of_readers = np.zeros((len(shape.receivers), 2))
    np.add.at(of_readers, shape.receiver, flow.values)
    assert (of_readers <= 1 + 1e-9).all()
    masked = interp.edge_pruning(model, pairs, 0.9, graph=shape, steps=3)
    evaluated = interp.evaluate_circuits(model, pairs, {"scores": scores}, graph=shape, sizes=[0.1, 0.5], random=2)
    assert masked.sizes["edge"] == evaluated["scores"].attrs["total"] == len(shape)
    circuit.save(tmp_path / "circuit.json")
    assert Circuit.load(tmp_path / "circuit.json") == circuit
    back = Circuit.load(tmp_path / "circuit.json", shape)
    np.testing.assert_allclose(
        interp.patch_circuits(model, pairs, back)["value"], interp.patch_circuits(model, pairs, circuit)["value"]
    )
    with pytest.raises(EdgesError, match=r"basis of .* is not at hand"):
        interp.patch_circuits(model, pairs, Circuit.load(tmp_path / "circuit.json"))
    with pytest.raises(EdgesError, match="is of another graph"):
        Circuit.load(tmp_path / "circuit.json", interp.graph(model))


def test_means_over_positions_are_seen_at_each(seed: int) -> None:
    """Left out everywhere at some tokens, a neuron is its mean there."""
    model, pairs, source = a_model("gpt2"), sweeps.random_pairs(seed, [5, 5, 5]), mean("source")
    shape = interp.graph(model, coordinates="L1.mlp_post[3]", spans=[2])
    circuit = Circuit(shape, shape.sender != shape.node("m1[3]@2"))
    found = interp.patch_circuits(model, pairs, circuit, source=source)
    patched = interp.patch(model, pairs, interp.Change("L1.mlp_post[3]", 2, source=source), patching="noising")
    np.testing.assert_allclose(found["value"][:, 0], np.squeeze(patched["value"].values).reshape(1, -1), rtol=0, atol=1e-9)


def test_what_is_pruned_does_nothing(seed: int) -> None:
    model, pairs = a_model("llama"), sweeps.random_pairs(seed, [5, 6])
    circuits = drawn(told_apart(model, seed, [-1, 2]), seed, 0.01, 0.02, 0.05)
    pruned = [circuit.pruned() for circuit in circuits]
    assert sum(map(len, pruned)) < sum(map(len, circuits))
    found = interp.patch_circuits(model, pairs, circuits + pruned)["value"]
    np.testing.assert_allclose(found[:, :3], found[:, 3:], rtol=0, atol=1e-9)


def test_what_cannot_be_told_apart_says_why(tmp_path: Path) -> None:
    model, pairs = a_model("gpt2"), sweeps.random_pairs(0, [5, 5])
    with pytest.raises(HeadOutOfRangeError, match="coordinate 4096 of m0\\[4096\\] does not exist"):
        interp.graph(model, coordinates=Coordinates.of("L0.mlp_post", 4096))
    with pytest.raises(HeadOutOfRangeError, match=r"coordinate 3 of .* does not exist: there are 3"):
        interp.graph(model, coordinates=Coordinates.of("L0H0.z", 3, a_basis(model.sizes["d_head"], 0)))
    with pytest.raises(UnknownSiteError, match="what is told apart is what one head, MLP or embedding writes"):
        Coordinates.of("L0.resid_pre", 1)
    with pytest.raises(EdgesError, match="does not say which of its coordinates"):
        interp.graph(model, coordinates="L0.mlp_post")
    assert interp.graph(model, spans=-1) == interp.graph(model, spans=[-1])
    for nothing in ([], [-1]):
        with pytest.raises(EdgesError, match="expected numbers of coordinates"):
            Coordinates.of("L0.mlp_post", nothing)
    with pytest.raises(InputError, match="coordinates hold a dict"):
        sweeps.unchecked(interp.graph)(model, coordinates=[{"L0.mlp_post": 3}])
    with pytest.raises(EdgesError, match="coordinate 3 is there twice"):
        interp.graph(model, coordinates=["L0.mlp_post[3]", Coordinates.of("L0.mlp_post", [3, 4])])
    with pytest.raises(EdgesError, match="are in two bases"):
        interp.graph(model, coordinates=["L0.mlp_post[3]", Coordinates.of("L0.mlp_out", 1)])
    with pytest.raises(EdgesError, match="does not have"):
        Graph.like(1, heads=2).apart([Coordinates.of("L5H0.z", 1)])
    with pytest.raises(EdgesError, match="each has a name of its own"):
        interp.graph(model, spans=[1, 1])
    with pytest.raises(EdgesError, match="share a token of example 0"):
        interp.attribute_edges(model, pairs, graph=interp.graph(model, spans=[4, -1]))
    with pytest.raises(UnknownNameError, match="unknown role 'END'"):
        interp.attribute_edges(model, pairs, graph=interp.graph(model, spans=["END"]))
    shape = interp.graph(model, coordinates="L0.mlp_post[3]")
    with pytest.raises(EdgesError, match="edges of nodes that are told apart cannot be swept beside it"):
        interp.patch_edges(model, pairs, graph=shape, given=interp.Change("L0.resid_pre", edit=Scale(2.0)))
    with pytest.raises(EdgesError, match="is of another graph than llama"):
        interp.patch_edges(a_model("llama"), pairs, graph=shape)
    with pytest.raises(InputError, match="graph is a str"):
        as_asked(model, "mine")
    with pytest.raises(UnknownSiteError, match="does not read it"):
        shape.number(Edge(shape.coordinates[0], shape.receivers[0]))
    with pytest.raises(InteropError, match="nodes are told apart"):
        eap_ig.write(tmp_path / "graph.json", shape, scores=np.zeros(len(shape)), d_model=32)
