"""Circuits, each against whole forward passes that share nothing with the wave (:mod:`circuits_by_hand`), and identities.

Tolerance: 1e-10 × (1 + max |logit|) in float64; 1e-5 in float32, in which BLOOM and Gemma 2 are run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
from circuits_by_hand import ByHand
from transformers import OPTConfig

import interp
from interp.circuits import Circuit, Graph
from interp.engine import patch_circuits, patch_edges
from interp.engine.graph.edges import graph
from interp.errors import EdgesError, InputError
from interp.interventions import Constant, mean
from interp.models import load

SINGLE = ("bloom", "gemma2")
"""Their attention is not a number in float64 where a prompt is padded."""


def a_model(kind: str) -> interp.Model:
    return sweeps.model(kind, torch.float32 if kind in SINGLE else torch.float64)


def tolerance(model: interp.Model, logits: Any) -> float:
    return (1e-5 if model.dtype == torch.float32 else 1e-10) * (1 + float(abs(logits).max()))


def drawn(shape: Graph, seed: int, *shares: float) -> list[Circuit]:
    draw = np.random.default_rng(seed)
    return [Circuit(shape, draw.random(len(shape)) < share, f"{share}") for share in shares]


@pytest.mark.parametrize("kind", sorted(sweeps.MAKERS))
@pytest.mark.parametrize("zero", [False, True], ids=["counterfactual", "zero"])
def test_every_circuit_is_whole_passes(kind: str, zero: bool, seed: int) -> None:
    """On prompts of two lengths, so that one is padded."""
    model, pairs = a_model(kind), sweeps.random_pairs(seed, [6, 4])
    shape = graph(model)
    circuits = [Circuit.empty(shape), *drawn(shape, seed, 0.1, 0.5, 0.9, 0.99)]
    found = patch_circuits(model, pairs, circuits, "logit_diff", source=Constant(0.0) if zero else None)
    encoded, moved = model.encode(pairs), 0.0
    for example, pair in enumerate(pairs):
        reference = ByHand(model, list(pair.clean.text), list(pair.corrupted.text), zero=zero)
        answers, wrong = (ids[example][ids[example] >= 0] for ids in (encoded.answers, encoded.wrong))
        for cell, circuit in enumerate(circuits):
            logits = reference.logits(circuit)
            expected = float(logits[answers].max() - logits[wrong].max())
            assert abs(float(found["value"][0, cell, example]) - expected) <= tolerance(model, logits), circuit
            moved = max(moved, abs(expected - float(found["clean"][0, example])))
    assert moved > 1e-2


@pytest.mark.parametrize("kind", sorted(sweeps.MAKERS))
def test_all_edges_are_the_clean_run_and_none_the_corrupted(kind: str, seed: int) -> None:
    model, pairs = a_model(kind), sweeps.random_pairs(seed, [6, 4, 6])
    circuits = [Circuit.whole(graph(model)), Circuit.empty(graph(model))]
    for patching in ("noising", "denoising"):
        found = patch_circuits(model, pairs, circuits, ["logit_diff", "logprob"], patching=patching)
        base, other = ("clean", "corrupt") if patching == "noising" else ("corrupt", "clean")
        for cell, side in enumerate((base, other)):
            np.testing.assert_allclose(found["value"][:, cell], found[side], rtol=0, atol=10 * tolerance(model, found[side]))
        assert all(floor <= 1e-4 for floor in found.attrs["noise_floor"].values())


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "qwen3"])
def test_all_edges_but_one_is_that_edge_patched(kind: str, seed: int) -> None:
    model, pairs = a_model(kind), sweeps.random_pairs(seed, [5, 6])
    shape = graph(model)
    some = np.random.default_rng(seed).choice(len(shape), 40, replace=False)
    whole = Circuit.whole(shape)
    circuits = [whole - Circuit.of(shape, [shape.edges[i]]) for i in some]
    found = patch_circuits(model, pairs, circuits)
    edges = patch_edges(model, pairs, edges=[shape.edges[i] for i in some])
    np.testing.assert_allclose(found["value"], edges["value"], rtol=0, atol=1e-9)
    assert float(abs(interp.effect(found)).max()) > 1e-3


def test_all_edges_out_of_a_node_are_the_node_patched(seed: int) -> None:
    """And all into a node leave it with what the source says of it, so that patching it is the same."""
    model, pairs = a_model("llama"), sweeps.random_pairs(seed, [5, 6])
    shape = graph(model)
    whole = Circuit.whole(shape)
    senders, circuits = [], []
    for number, sender in enumerate(shape.senders[1:], 1):
        senders.append(interp.Change(sender))
        circuits.append(Circuit(shape, whole.kept & (shape.sender != number)))
    patched = interp.patch(model, pairs, senders, patching="noising")
    found = patch_circuits(model, pairs, circuits)
    np.testing.assert_allclose(found["value"], patched["value"], rtol=0, atol=1e-9)
    reading = [~np.isin(shape.receiver, np.flatnonzero(shape.served[:, shape.node("m1")])), shape.sender != shape.node("m1")]
    into = patch_circuits(model, pairs, [Circuit(shape, reading[0]), Circuit(shape, reading[1])])
    np.testing.assert_allclose(into["value"][:, 0], into["value"][:, 1], rtol=0, atol=1e-9)


def test_what_is_pruned_does_nothing(seed: int) -> None:
    model, pairs = a_model("llama"), sweeps.random_pairs(seed, [5, 6])
    circuits = drawn(graph(model), seed, 0.03, 0.06, 0.1, 0.2)
    pruned = [circuit.pruned() for circuit in circuits]
    assert sum(map(len, pruned)) < sum(map(len, circuits))
    found = patch_circuits(model, pairs, circuits + pruned)["value"]
    np.testing.assert_allclose(found[:, :4], found[:, 4:], rtol=0, atol=1e-9)


def test_rows_and_order_do_not_change_the_numbers(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = a_model("gpt2"), sweeps.random_pairs(seed, [5, 6, 5])
    shape = graph(model)
    late = shape.before[shape.receiver] > len(shape.senders) // 2
    circuits = drawn(shape, seed, 0.5, 0.9, 0.99)
    circuits += [Circuit(shape, circuit.kept | ~late) for circuit in circuits] + [Circuit.whole(shape)]
    metrics = ["logit_diff", "kl"]
    whole = patch_circuits(model, pairs, circuits, metrics)["value"]
    np.testing.assert_allclose(patch_circuits(model, pairs, circuits, metrics, rows=1)["value"], whole, rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        patch_circuits(model, pairs, circuits[::-1], metrics)["value"][:, ::-1], whole, rtol=0, atol=1e-9
    )
    monkeypatch.setenv("INTERP_MEMORY_BYTES", "20000")
    np.testing.assert_allclose(patch_circuits(model, pairs, circuits, metrics)["value"], whole, rtol=0, atol=1e-9)


def test_means_are_seen_in_the_place_of_what_is_left_out(seed: int) -> None:
    """Left out everywhere, a writer is its mean: what ablating it does."""
    model, pairs = a_model("gpt2"), sweeps.random_pairs(seed, [5, 5, 5])
    shape, source = graph(model), mean("source")
    circuits = [Circuit(shape, shape.sender != number) for number in range(1, len(shape.senders))]
    found = patch_circuits(model, pairs, circuits, source=source)
    changes = [interp.Change(sender, source=source) for sender in shape.senders[1:]]
    np.testing.assert_allclose(
        found["value"], interp.patch(model, pairs, changes, patching="noising")["value"], rtol=0, atol=1e-9
    )


def test_labels(seed: int) -> None:
    model, pairs = a_model("gpt2"), sweeps.random_pairs(seed, [5, 5])
    circuits = drawn(graph(model), seed, 0.3, 0.6)
    found = patch_circuits(model, pairs, circuits)
    assert found["circuit"].values.tolist() == ["0.3", "0.6"]
    assert found["edges"].values.tolist() == [len(circuit) for circuit in circuits]
    assert found.attrs["method"] == "patch_circuits"
    assert found.attrs["source"] == "corrupted run"
    assert interp.effects.validate(found) is found


def test_kept_in_a_store_and_made_again(seed: int, tmp_path: Path) -> None:
    model = interp.load("zoo/language-4l")
    pairs = interp.tasks.ioi(4, seed=seed, tokenizer=model.tokenizer)
    circuits = drawn(graph(model), seed, 0.3, 0.9)
    first = patch_circuits(model, pairs, circuits, store=tmp_path / "runs", name="two")
    again = patch_circuits(model, pairs, circuits, store=tmp_path / "runs", name="two")
    np.testing.assert_array_equal(first["value"], again["value"])
    np.testing.assert_allclose(first["value"], patch_circuits(model, pairs, circuits)["value"], rtol=0, atol=1e-4)
    others = patch_circuits(model, pairs, drawn(graph(model), seed + 1, 0.3, 0.9), store=tmp_path / "runs")
    assert bool((others["value"].values != first["value"].values).any())
    assert interp.rerun(interp.Store(tmp_path / "runs").run("two")).within


def test_what_cannot_be_run_says_why() -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(0, [5, 5])
    with pytest.raises(InputError, match="circuits is empty"):
        patch_circuits(model, pairs, [])
    with pytest.raises(EdgesError, match="is of another graph than"):
        patch_circuits(model, pairs, Circuit.whole(Graph.like(2, 2)))
    sweep: Any = sweeps.unchecked(patch_circuits)
    with pytest.raises(InputError, match=r"circuits hold 'embed → logits' of type str"):
        sweep(model, pairs, ["embed → logits"])
    sizes = {"vocab_size": tiny.VOCAB, "hidden_size": tiny.WIDTH, "word_embed_proj_dim": tiny.WIDTH, "ffn_dim": tiny.MLP}
    config = OPTConfig(num_hidden_layers=2, num_attention_heads=4, do_layer_norm_before=False, dropout=0.0, **sizes)
    normed = load(tiny.random_model(config, 0), name="post-norm")
    with pytest.raises(EdgesError, match="norms"):
        patch_circuits(normed, pairs, Circuit.whole(graph(normed)))
