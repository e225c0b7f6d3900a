"""Edges, each against two whole forward passes that share nothing with the wave (:mod:`edges_by_hand`).

Tolerance: 1e-5 × (1 + max |logit|) in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
from edges_by_hand import ByHand
from transformers import GraniteConfig, OPTConfig

from interp import effects
from interp.engine import patch_edges
from interp.engine.graph.edges import EMBED, LOGITS, Edge, edges, graph
from interp.errors import EdgesError, ShapeMismatchError, UnknownNameError, UnknownSiteError
from interp.interventions import Constant, mean
from interp.models import load
from interp.sites import Site


@pytest.mark.parametrize("kind", sorted(set(sweeps.MAKERS) - {"mistral"}))
@pytest.mark.parametrize("zero", [False, True], ids=["counterfactual", "zero"])
def test_every_edge_is_two_whole_passes(kind: str, zero: bool, seed: int) -> None:
    """A sample of edges on prompts of two lengths, so that one is padded."""
    model = sweeps.model(kind)
    pairs = sweeps.random_pairs(seed, [6, 4])
    every = edges(model)
    chosen = [every[i] for i in torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))[:24]]
    chosen += [Edge(EMBED, LOGITS), Edge(graph(model).senders[-1], LOGITS)]
    chosen += [edge for edge in every if edge.receiver.name == "mlp_pre"][-3:]
    found = patch_edges(model, pairs, "logit_diff", edges=chosen, source=Constant(0.0) if zero else None)
    encoded = model.encode(pairs)
    moved = 0.0
    for example, pair in enumerate(pairs):
        reference = ByHand(model, list(pair.clean.text), list(pair.corrupted.text), zero=zero)
        answers, wrong = (ids[example][ids[example] >= 0] for ids in (encoded.answers, encoded.wrong))
        for cell, edge in enumerate(chosen):
            logits = reference.logits(edge)
            expected = float(logits[answers].max() - logits[wrong].max())
            tolerance = 1e-5 * (1 + float(logits.abs().max()))
            assert abs(float(found["value"][0, cell, example]) - expected) <= tolerance, edge
            moved = max(moved, abs(expected - float(found["clean"][0, example])))
    assert moved > 1e-2
    assert found.attrs["noise_floor"]["logit_diff"] <= 1e-4


def test_norms_that_divide_the_stream_itself(seed: int) -> None:
    """OPT-350m's: between a writer and a reader stands a norm for every part in between, with what these add held."""
    sizes = {"vocab_size": tiny.VOCAB, "hidden_size": tiny.WIDTH, "word_embed_proj_dim": tiny.WIDTH, "ffn_dim": tiny.MLP}
    config = OPTConfig(num_hidden_layers=3, num_attention_heads=4, do_layer_norm_before=False, dropout=0.0, **sizes)
    model, pairs = load(tiny.random_model(config, seed), name="post-norm"), sweeps.random_pairs(seed, [6])
    chosen = [edge for edge in edges(model) if edge.receiver.name in ("mlp_pre", "logits") or edge.receiver.head == 1]
    found, ids = patch_edges(model, pairs, "logprob", edges=chosen), model.encode(pairs).answers[0]
    reference = ByHand(model, list(pairs[0].clean.text), list(pairs[0].corrupted.text))
    for cell, edge in enumerate(chosen):
        logits = reference.logits(edge)
        expected = float(logits.log_softmax(-1)[ids[ids >= 0]].logsumexp(0))
        assert abs(float(found["value"][0, cell, 0]) - expected) <= 1e-5 * (1 + float(logits.abs().max())), edge
    assert float(abs(effects.effect(found)).max()) > 1e-2


def test_the_edges_of_gpt2_small() -> None:
    """32,491 with queries, keys and values apart (Conmy et al., arXiv 2304.14997), counted from the model's shape alone."""
    from transformers import GPT2Config

    with torch.device("meta"):
        from transformers import GPT2LMHeadModel

        model = load(GPT2LMHeadModel(GPT2Config()), check=False)
    assert len(edges(model)) == 32_491
    assert len(set(edges(model))) == 32_491


def test_rows_do_not_change_the_numbers(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sweeps.model("llama")
    pairs = sweeps.random_pairs(seed, [5, 6, 5])
    chosen = edges(model)[::7]
    whole = patch_edges(model, pairs, ["logit_diff", "kl"], edges=chosen)
    one = patch_edges(model, pairs, ["logit_diff", "kl"], edges=chosen, rows=1)
    np.testing.assert_allclose(one["value"], whole["value"], atol=2e-5)
    monkeypatch.setenv("INTERP_MEMORY_BYTES", "20000")
    np.testing.assert_allclose(
        patch_edges(model, pairs, ["logit_diff", "kl"], edges=chosen)["value"], whole["value"], atol=2e-5
    )


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_no_pass_has_more_rows_than_were_allowed(rows: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ran = sweeps.model("llama"), sweeps.rows_of_blocks(monkeypatch)
    patch_edges(model, sweeps.random_pairs(seed, [5, 6, 5]), edges=edges(model)[::5], rows=rows)
    assert max(ran) == {1: 1, 2: 2, 5: 3}[rows], "3 examples: 1, 2 or all of them, and one edge at a time"


def test_labels_and_other_sources(seed: int) -> None:
    model = sweeps.model("gpt2")
    pairs = sweeps.random_pairs(seed, [5, 5])
    chosen = [Edge(Site("z", layer=0, head=1), Site("k", layer=2, head=3)), Edge(EMBED, Site("mlp_pre", layer=1))]
    found = patch_edges(model, pairs, edges=chosen, source=mean("source"), patching="denoising")
    assert found["edge"].values.tolist() == ["L0H1 → L2H3.k", "embed → m1"]
    assert found["slot"].values.tolist() == ["k", ""]
    assert found["receiver_layer"].values.tolist() == [2, 1]
    assert found["sender_head"].values.tolist() == [1, -1]
    assert found["receiver_heads"].values.tolist() == [1, 0]
    assert found.attrs["source"] != patch_edges(model, pairs, edges=chosen).attrs["source"] == "corrupted run"
    assert effects.validate(found) is found
    assert bool((abs(effects.effect(found)) > 0).any())


def test_how_many_heads_read_a_receiver(seed: int) -> None:
    """Four heads share two keys and values."""
    model = sweeps.model("llama")
    chosen = [Edge.of("embed", receiver) for receiver in ("L1H3.q", "L1H1.k", "L1H0.v", "L0.mlp_pre", "logits")]
    found = patch_edges(model, sweeps.random_pairs(seed, [5]), edges=chosen)
    assert found["receiver_heads"].values.tolist() == [1, 2, 2, 0, 0]


def test_edges_that_are_not_there() -> None:
    model = sweeps.model("gpt2")
    pairs = sweeps.random_pairs(0, [5, 5])
    with pytest.raises(UnknownSiteError, match="does not read it"):
        patch_edges(model, pairs, edges=[Edge(Site("z", layer=2, head=0), Site("q", layer=1, head=0))])
    with pytest.raises(UnknownSiteError, match="receiver"):
        patch_edges(model, pairs, edges=[Edge(EMBED, Site("resid_pre", layer=1))])
    with pytest.raises(ValueError, match="empty list"):
        patch_edges(model, pairs, edges=[])
    sweep: Any = sweeps.unchecked(patch_edges)
    for wrong in ([(EMBED, LOGITS)], [3]):
        with pytest.raises(ValueError, match=r"edges holds (\(|3).* expected edges as interp.engine.edges\(model\)"):
            sweep(model, pairs, edges=wrong)
    with pytest.raises(UnknownNameError, match="'all' is no edge as it is printed"):
        patch_edges(model, pairs, edges="all")
    named = patch_edges(model, pairs, edges=["embed → logits", "L0H1 → m1"])
    assert named["edge"].values.tolist() == ["embed → logits", "L0H1 → m1"]
    for rows in (0, -1):
        with pytest.raises(ValueError, match=f"rows={rows}; a pass has at least one row"):
            patch_edges(model, pairs, edges=edges(model)[:1], rows=rows)
    with pytest.raises(ShapeMismatchError, match="features"):
        patch_edges(model, pairs, edges=edges(model)[:1], source=Constant(torch.zeros(5)))


def test_a_stream_whose_sums_are_not_known() -> None:
    """Granite scales what its parts add, behind what they give."""
    sizes = {"vocab_size": tiny.VOCAB, "hidden_size": tiny.WIDTH, "intermediate_size": tiny.MLP, "num_hidden_layers": 2}
    config = GraniteConfig(num_attention_heads=4, num_key_value_heads=2, residual_multiplier=0.3, **sizes)
    model = load(tiny.random_model(config, 0), name="granite")
    for asked in (None, Edge.of("L0.mlp_out", "logits")):
        with pytest.raises(UnknownSiteError, match="unknown site 'mlp_out'"):
            patch_edges(model, sweeps.random_pairs(0, [5]), edges=asked)


def test_one_edge_needs_no_list_and_names_are_enough() -> None:
    assert Edge.of("L0H1.z", "L2H3.k") == Edge(Site("z", layer=0, head=1), Site("k", layer=2, head=3))
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(0, [5, 5])
    one = edges(model)[0]
    np.testing.assert_array_equal(
        patch_edges(model, pairs, edges=one)["value"], patch_edges(model, pairs, edges=[one])["value"]
    )


def test_a_model_that_cannot_be_resumed_says_why() -> None:
    model = load(sweeps.MAKERS["gpt2"](0), check=False)
    with pytest.raises(EdgesError, match="it was loaded without its probe run"):
        patch_edges(model, sweeps.random_pairs(0, [5, 5]))
