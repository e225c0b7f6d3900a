"""Graphs whose embedding is two writers, tokens and positions, against whole forward passes and against the graph with one.

Tolerance: 1e-9 in float64.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import circuits_by_hand
import edges_by_hand
import numpy as np
import pytest
import sweeps
import tiny
import torch
from torch import nn
from transformers import OPTConfig

import interp
from interp.circuits import Circuit, Edge, Graph, circuits_of
from interp.engine.budget import Budget
from interp.engine.graph.edges import graph
from interp.engine.graph.mixed import Mixed
from interp.engine.readout import Reader
from interp.engine.runs import Runs
from interp.errors import EdgesError, UnknownSiteError
from interp.interventions import Constant, Scale, mean
from interp.metrics import resolve
from interp.models import Model, load

KINDS = ("gpt2", "opt", "zoo", "zoo with MLPs")


def a_model(kind: str) -> Model:
    if kind == "opt":
        sizes = {"vocab_size": tiny.VOCAB, "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": tiny.MLP}
        config = OPTConfig(num_hidden_layers=2, num_attention_heads=4, dropout=0.0, max_position_embeddings=64, **sizes)
        return load(tiny.random_model(config, 0).double(), name="opt")
    if kind == "zoo with MLPs":
        return load(sweeps.zoo(0, attn_only=False).double(), name=kind)
    return sweeps.model(kind, torch.float64)


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Model:
    return a_model(request.param)


def split_of(model: Model) -> Graph:
    return graph(model, split_embed=True)


def drawn(shape: Graph, seed: int, *shares: float) -> list[Circuit]:
    draw = np.random.default_rng(seed)
    return [Circuit(shape, draw.random(len(shape)) < share, f"{share}") for share in shares]


@pytest.mark.parametrize("zero", [False, True], ids=["counterfactual", "zero"])
def test_every_circuit_is_whole_passes(model: Model, zero: bool, seed: int) -> None:
    """On prompts of two lengths, so that one is padded; the other prompt's positions are the same, so zero tells them apart."""
    pairs, shape = sweeps.random_pairs(seed, [6, 4]), split_of(model)
    circuits = [Circuit.empty(shape), *drawn(shape, seed, 0.1, 0.5, 0.9)]
    found = interp.patch_circuits(model, pairs, circuits, source=Constant(0.0) if zero else None)
    encoded = model.encode(pairs)
    for example, pair in enumerate(pairs):
        ids = list(pair.clean.text), list(pair.corrupted.text)
        reference = circuits_by_hand.ByHand(model, *ids, zero=zero, split=True)
        answers, wrong = (ids[example][ids[example] >= 0] for ids in (encoded.answers, encoded.wrong))
        for cell, circuit in enumerate(circuits):
            logits = reference.logits(circuit)
            assert float(found["value"][0, cell, example]) == pytest.approx(
                float(logits[answers].max() - logits[wrong].max()), abs=1e-9
            )
    assert float(abs(interp.effect(found)).max()) > 1e-2


@pytest.mark.parametrize("zero", [False, True], ids=["counterfactual", "zero"])
def test_every_edge_is_two_whole_passes(model: Model, zero: bool, seed: int) -> None:
    pairs, shape = sweeps.random_pairs(seed, [6]), split_of(model)
    chosen = [edge for edge in shape.edges if edge.sender in shape.roots][:: 3 if len(shape) > 200 else 1]
    found = interp.patch_edges(model, pairs, edges=chosen, graph=split_of(model), source=Constant(0.0) if zero else None)
    encoded = model.encode(pairs)
    reference = edges_by_hand.ByHand(model, list(pairs[0].clean.text), list(pairs[0].corrupted.text), zero=zero, split=True)
    answers, wrong = (ids[0][ids[0] >= 0] for ids in (encoded.answers, encoded.wrong))
    for cell, edge in enumerate(chosen):
        logits = reference.logits(edge)
        expected = float(logits[answers].max() - logits[wrong].max())
        assert float(found["value"][0, cell, 0]) == pytest.approx(expected, abs=1e-9), edge
    positions = abs(interp.effect(found)).values[:, [edge.sender.name == "pos_embed" for edge in chosen]]
    assert (positions.max() > 1e-2) == zero, "the other prompt stands at the same positions"


def test_norms_that_divide_the_stream_itself(seed: int) -> None:
    """OPT-350m's: tokens and positions go through every norm on their way, as other writers do."""
    sizes = {"vocab_size": tiny.VOCAB, "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": tiny.MLP}
    config = OPTConfig(num_hidden_layers=2, num_attention_heads=4, do_layer_norm_before=False, dropout=0.0, **sizes)
    model, pairs = load(tiny.random_model(config, seed).double(), name="post-norm"), sweeps.random_pairs(seed, [6])
    shape = split_of(model)
    chosen = [edge for edge in shape.edges if edge.sender in shape.roots][::2]
    found, ids = (
        interp.patch_edges(model, pairs, "logprob", edges=chosen, graph=split_of(model), source=Constant(0.0)),
        model.encode(pairs).answers[0],
    )
    reference = edges_by_hand.ByHand(model, list(pairs[0].clean.text), list(pairs[0].corrupted.text), zero=True, split=True)
    for cell, edge in enumerate(chosen):
        expected = float(reference.logits(edge).log_softmax(-1)[ids[ids >= 0]].logsumexp(0))
        assert float(found["value"][0, cell, 0]) == pytest.approx(expected, abs=1e-9), edge
    assert float(abs(interp.effect(found)).max()) > 1e-3


def test_all_edges_but_one_is_that_edge_patched(model: Model, seed: int) -> None:
    pairs, shape = sweeps.random_pairs(seed, [5, 6]), split_of(model)
    whole = Circuit.whole(shape)
    some = Circuit(shape, np.random.default_rng(seed).random(len(shape)) < 30 / len(shape), "some")
    for source in (Constant(0.0), mean("source")):
        rest = [whole - Circuit.of(shape, [edge]) for edge in some.edges]
        circuits = interp.patch_circuits(model, pairs, rest, source=source)
        edges = interp.patch_edges(model, pairs, edges=some.edges, graph=split_of(model), source=source)
        np.testing.assert_allclose(circuits["value"], edges["value"], rtol=0, atol=1e-9)


def joined(whole: Graph, split: Graph, circuit: Circuit) -> Circuit:
    """The circuit of the graph with two embeddings that keeps or leaves both where one keeps or leaves the one."""
    kept = whole.dense(circuit.kept)
    return Circuit(split, np.concatenate([kept[:1], kept])[split.sender, split.receiver], circuit.name)


def test_tokens_and_positions_together_are_the_embedding(model: Model, seed: int) -> None:
    """Patched together exactly, and estimated too: the two estimates add up to that of the embedding."""
    pairs, whole, split = sweeps.random_pairs(seed, [5, 6]), graph(model), split_of(model)
    circuits = drawn(whole, seed, 0.3, 0.6, 0.9)
    for source in (None, Constant(0.0)):
        first = interp.patch_circuits(model, pairs, circuits, source=source)
        second = interp.patch_circuits(model, pairs, [joined(whole, split, one) for one in circuits], source=source)
        np.testing.assert_allclose(first["value"], second["value"], rtol=0, atol=1e-9)
        for along in (None, "embeddings"):
            one = interp.effect(interp.attribute_edges(model, pairs, source=source, along=along))
            two = interp.effect(interp.attribute_edges(model, pairs, graph=split_of(model), source=source, along=along))
            parts = split.dense(np.moveaxis(two.values[0], 0, -1))
            np.testing.assert_allclose(parts[:, :2].sum(1), whole.dense(one.values[0].T)[:, 0], rtol=0, atol=1e-9)
            np.testing.assert_allclose(parts[:, 2:], whole.dense(one.values[0].T)[:, 1:], rtol=0, atol=1e-9)


def test_estimates_are_derivatives(model: Model, seed: int) -> None:
    """Against central differences of circuits that leave out a little of one edge."""
    pairs, shape, step = sweeps.random_pairs(seed, [5]), split_of(model), 1e-5
    edges = [edge for edge in shape.edges if edge.sender in shape.roots and edge.receiver.layer in (1, None)]
    encoded, numbers = model.encode(pairs), shape.numbers(edges)
    kept = torch.ones(2 * len(numbers), len(shape), dtype=torch.float64)
    kept[torch.arange(2 * len(numbers)), np.concatenate([numbers, numbers])] += torch.tensor([step, -step]).repeat_interleave(
        len(numbers)
    )
    reader = Reader.of(model, encoded, resolve("logit_diff"))
    budget = Budget(model, reader, encoded.clean.width)
    runs = Runs(model, encoded, "clean", budget.batch, reader)
    with torch.no_grad(), model.prepared():
        runs.want_logits("clean", "corrupted", "base")
        rows = Mixed(runs, shape, Constant(0.0), budget, kept)
        rows.open()
        more, less = rows.values(range(len(kept)), range(1), lambda n: None)[0, :, 0].numpy().reshape(2, -1)
    found = interp.attribute_edges(model, pairs, edges=edges, graph=split_of(model), source=Constant(0.0))
    estimated = interp.effect(found).values[0, :, 0]
    np.testing.assert_allclose((less - more) / (2 * step), estimated, rtol=0, atol=1e-6 * (1 + abs(estimated).max()))
    assert abs(estimated).max() > 1e-3


def test_which_graph_edges_are_of(seed: int, tmp_path: Path) -> None:
    """The same name means another edge where it is said that the embedding is split."""
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [5])
    edge, zero = Edge.of("embed", "L1H0.q"), Constant(0.0)
    values = []
    for split in (True, False):
        rest = ~Circuit.of(graph(model, split_embed=split), [edge])
        expected = float(interp.patch_circuits(model, pairs, rest, source=zero)["value"][0, 0, 0])
        for store in (None, tmp_path / "runs"):
            found = interp.patch_edges(
                model, pairs, edges=edge, graph=graph(model, split_embed=split), source=zero, store=store
            )
            assert float(found["value"][0, 0, 0]) == pytest.approx(expected, abs=1e-9)
        values.append(expected)
    assert abs(values[0] - values[1]) > 1e-6
    every = interp.patch_edges(model, pairs, graph=split_of(model), source=zero)
    assert every["edge"].values.tolist() == [repr(one) for one in split_of(model).edges]
    with pytest.raises(UnknownSiteError, match="positions are a writer of their own with split_embed=True alone"):
        interp.patch_edges(model, pairs, edges=Edge.of("pos_embed", "L1H0.q"))


def test_shares_of_a_reader_add_up_to_one(seed: int) -> None:
    """Information-flow routes: what is divided is the same, tokens and positions with a share each."""
    model = sweeps.model("gpt2", torch.float64)
    shape, pairs = split_of(model), sweeps.random_pairs(seed, [5])
    score = interp.information_flow(model, pairs, graph=split_of(model))["score"].values[:, 0]
    into = np.array([score[shape.receiver == number].sum() for number in range(len(shape.receivers))])
    np.testing.assert_allclose(into, 1, rtol=0, atol=1e-9)
    assert score[shape.sender == 1].max() > 0


def test_kept_in_a_store_and_made_again(seed: int, tmp_path: Path) -> None:
    tiny.gpt2(seed).save_pretrained(tmp_path / "model")
    model, pairs = interp.load(tmp_path / "model"), sweeps.random_pairs(seed, [5, 5])
    some = drawn(split_of(model), seed, 0.1)[0]
    interp.patch_edges(model, pairs, edges=some.edges, graph=split_of(model), store=tmp_path / "runs", name="edges")
    interp.attribute_edges(model, pairs, edges=some.edges, graph=split_of(model), store=tmp_path / "runs", name="estimates")
    interp.patch_circuits(model, pairs, some, store=tmp_path / "runs", name="circuit")
    interp.acdc(model, pairs, 0.1, graph=split_of(model), store=tmp_path / "runs", name="acdc")
    learn: Any = {
        "seeds": 1,
        "steps": 3,
        "graph": split_of(model),
        "store": tmp_path / "runs",
    }
    for over in ("edges", "nodes"):
        found = interp.edge_pruning(model, pairs, 0.5, over=over, name=f"pruned {over}", **learn)
        kept = circuits_of(found, some.graph)[0]
    assert kept.kept[some.graph.sender < 2].all(), "a mask over nodes has neither embedding"
    for name in ("edges", "estimates", "circuit", "acdc", "pruned edges", "pruned nodes"):
        assert interp.rerun(interp.Store(tmp_path / "runs").run(name)).within


def test_changes_in_force(seed: int) -> None:
    """Of what tokens say while their embedding is given; where the two have come together nothing can be."""
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [5])
    edges = [Edge.of("embed", "L1H0.q"), Edge.of("pos_embed", "L2.mlp_pre"), Edge.of("L0H1.z", "L1H0.q")]
    plain = interp.patch_edges(model, pairs, edges=edges, graph=split_of(model), source=Constant(0.0))
    same = interp.patch_edges(
        model,
        pairs,
        edges=edges,
        graph=split_of(model),
        source=Constant(0.0),
        given=interp.Change("embed", edit=Scale(1.0)),
    )
    np.testing.assert_allclose(plain["value"], same["value"], rtol=0, atol=1e-9)
    doubled = interp.patch_edges(
        model,
        pairs,
        edges=edges,
        graph=split_of(model),
        source=Constant(0.0),
        given=interp.Change("embed", edit=Scale(2.0)),
    )
    assert float(abs(doubled["value"] - plain["value"]).max()) > 1e-3
    given = interp.Change("L0.resid_pre", edit=Scale(0.5))
    with pytest.raises(EdgesError, match=r"L0\.resid_pre is given or held, where tokens and positions have come together"):
        interp.patch_edges(model, pairs, edges=edges, graph=split_of(model), given=given)
    later = Edge.of("L0H1.z", "L1H0.q")
    interp.patch_edges(model, pairs, edges=later, graph=split_of(model), given=given)


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_where_the_embedding_cannot_be_split() -> None:
    with pytest.raises(UnknownSiteError, match=r"pos_embed.*because no position embedding is added to the stream"):
        split_of(sweeps.model("llama"))
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(0, [5])
    with pytest.raises(UnknownSiteError, match="because no position embedding is added to the stream"):
        interp.patch_edges(
            sweeps.model("llama"), pairs, edges=Edge.of("embed", "logits"), graph=split_of(sweeps.model("llama"))
        )
    both = [Circuit.whole(graph(model)), Circuit.whole(split_of(model))]
    with pytest.raises(EdgesError, match="is of another graph than whole"):
        interp.patch_circuits(model, pairs, both)
    net = tiny.gpt2(0)
    net.transformer.drop = Doubled()
    scaled = load(net, name="scaled")
    with pytest.raises(EdgesError, match="what enters its first block is not the sum of embed and pos_embed, off by"):
        interp.patch_circuits(scaled, pairs, Circuit.whole(split_of(scaled)))
