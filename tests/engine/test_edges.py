"""Edges, each against two whole forward passes that share nothing with the wave.

The reference reads what the receiver gives when its whole block sees the writer changed, and writes just that into a base run.
Tolerance: 1e-5 × (1 + max |logit|) in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sweeps
import torch
from torch import Tensor

from interp import effects
from interp.engine import patch_edges
from interp.engine.graph import EMBED, LOGITS, Edge, edges, senders
from interp.errors import EdgesError, ShapeMismatchError, UnknownSiteError
from interp.interventions import Constant, mean
from interp.models import Model
from interp.sites import Site


def written(model: Model, inputs: Any, reads: list[Site], writes: dict[Site, Tensor]) -> dict[Site, Tensor]:
    with torch.no_grad(), model.prepared():
        found = model.backend.run(inputs, reads=reads, writes={site: instead(tensor) for site, tensor in writes.items()})
    return {site: tensor.clone() for site, tensor in found.items()}


def instead(tensor: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda h: tensor.to(h)


class Reference:
    """One example, unpadded, whole passes."""

    def __init__(self, model: Model, base: list[int], source: list[int], zero: bool = False) -> None:
        self.model, self.zero = model, zero
        tokens = model.encode([tuple(base), tuple(source)])
        self.base_inputs, self.source_inputs = model.inputs(tokens.take([0])), model.inputs(tokens.take([1]))
        sites = [s for s in model.sites() if s.name not in ("scores", "pattern", "result")]
        self.base, self.source = written(model, self.base_inputs, sites, {}), written(model, self.source_inputs, sites, {})

    def moved(self, sender: Site) -> Tensor:
        """What the stream would see of the writer, less what it sees."""
        site = Site("resid_pre", layer=0) if sender == EMBED else sender.tensor
        theirs = torch.zeros_like(self.base[site]) if self.zero else self.source[site]
        if sender.name != "z":
            return theirs - self.base[site]
        z = self.base[site].clone()
        z[:, :, sender.head] = theirs[:, :, sender.head]
        out = Site("attn_out", layer=sender.layer)
        return written(self.model, self.base_inputs, [out], {site: z})[out] - self.base[out]

    def logits(self, edge: Edge) -> Tensor:
        moved, receiver = self.moved(edge.sender), edge.receiver
        if receiver == LOGITS:
            last = Site("resid_post", layer=self.model.sizes["layer"] - 1)
            return written(self.model, self.base_inputs, [LOGITS], {last: self.base[last] + moved})[LOGITS][0, -1]
        layer = receiver.layer
        if receiver.name == "mlp_pre":
            stream, out = Site("resid_mid", layer=layer), Site("mlp_out", layer=layer)
            stream = stream if stream in self.base else Site("resid_pre", layer=layer)
        else:
            stream, out = Site("resid_pre", layer=layer), receiver.tensor
        given = written(self.model, self.base_inputs, [out], {stream: self.base[stream] + moved})[out]
        if receiver.head is not None:
            new = self.base[out].clone()
            new[:, :, receiver.head] = given[:, :, receiver.head]
            given = new
        return written(self.model, self.base_inputs, [LOGITS], {out: given})[LOGITS][0, -1]


@pytest.mark.parametrize("kind", sorted(set(sweeps.MAKERS) - {"mistral"}))
@pytest.mark.parametrize("zero", [False, True], ids=["counterfactual", "zero"])
def test_every_edge_is_two_whole_passes(kind: str, zero: bool, seed: int) -> None:
    """A sample of edges on prompts of two lengths, so that one is padded."""
    model = sweeps.model(kind)
    pairs = sweeps.random_pairs(seed, [6, 4])
    every = edges(model)
    chosen = [every[i] for i in torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))[:24]]
    chosen += [Edge(EMBED, LOGITS), Edge(senders(model)[-1], LOGITS)]
    chosen += [edge for edge in every if edge.receiver.name == "mlp_pre"][-3:]
    found = patch_edges(model, pairs, "logit_diff", edges=chosen, source=Constant(0.0) if zero else None)
    encoded = model.encode(pairs)
    moved = 0.0
    for example, pair in enumerate(pairs):
        reference = Reference(model, list(pair.clean.text), list(pair.corrupted.text), zero)
        answers, wrong = (ids[example][ids[example] >= 0] for ids in (encoded.answers, encoded.wrong))
        for cell, edge in enumerate(chosen):
            logits = reference.logits(edge)
            expected = float(logits[answers].max() - logits[wrong].max())
            tolerance = 1e-5 * (1 + float(logits.abs().max()))
            assert abs(float(found["value"][0, cell, example]) - expected) <= tolerance, edge
            moved = max(moved, abs(expected - float(found["clean"][0, example])))
    assert moved > 1e-2
    assert found.attrs["noise_floor"]["logit_diff"] <= 1e-4


def test_the_edges_of_gpt2_small() -> None:
    """32,491 with queries, keys and values apart (Conmy et al., arXiv 2304.14997), counted from the model's shape alone."""
    from transformers import GPT2Config

    from interp.models import load

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
    assert effects.validate(found) is found
    assert bool((abs(effects.effect(found)) > 0).any())


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
    for wrong in ([(EMBED, LOGITS)], ["embed → logits"], [3], "all"):
        with pytest.raises(
            ValueError, match=r"edges holds (\(|'embed|3|'all').* expected edges as interp.engine.edges\(model\)"
        ):
            sweep(model, pairs, edges=wrong)
    for rows in (0, -1):
        with pytest.raises(ValueError, match=f"rows={rows}; a pass has at least one row"):
            patch_edges(model, pairs, edges=edges(model)[:1], rows=rows)
    with pytest.raises(ShapeMismatchError, match="features"):
        patch_edges(model, pairs, edges=edges(model)[:1], source=Constant(torch.zeros(5)))


def test_one_edge_needs_no_list_and_names_are_enough() -> None:
    assert Edge.of("L0H1.z", "L2H3.k") == Edge(Site("z", layer=0, head=1), Site("k", layer=2, head=3))
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(0, [5, 5])
    one = edges(model)[0]
    np.testing.assert_array_equal(
        patch_edges(model, pairs, edges=one)["value"], patch_edges(model, pairs, edges=[one])["value"]
    )


def test_a_model_that_cannot_be_resumed_says_why() -> None:
    from interp.models import load

    model = load(sweeps.MAKERS["gpt2"](0), check=False)
    with pytest.raises(EdgesError, match="it was loaded without its probe run"):
        patch_edges(model, sweeps.random_pairs(0, [5, 5]))
