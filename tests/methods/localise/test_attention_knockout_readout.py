"""What attention and MLPs no longer say when edges of attention are cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch

import interp
from interp.doctor import architectures
from interp.engine import run
from interp.errors import HeadOutOfRangeError, InputError, PositionError, UnknownNameError
from interp.interventions import attention_knockout
from interp.methods.localise.attention_knockout import knockout
from interp.methods.localise.attention_knockout_readout import knockout_readout
from interp.prompts import Pairs

KINDS = ("gpt2", "llama", "neox", "gemma2")
"""Biases and LayerNorm; grouped queries; parallel blocks; norms behind attention and a soft cap."""
TOKENS = [3, 5]


def pairs_of(seed: int) -> Pairs:
    """Of unequal length, each with its roles "subject" and "end", which share no token."""
    return sweeps.random_pairs(seed, [7, 5, 6])


def within(got: Any, expected: Any, atol: float = 1e-5) -> None:
    expected = np.asarray(expected)
    np.testing.assert_allclose(np.asarray(got), expected, rtol=0, atol=atol * (1 + float(np.abs(expected).max())))


@pytest.mark.parametrize("norm", ["own", "full"])
@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_change_of_what_is_said_is_that_of_two_runs_decoded_by_hand(
    kind: str, renormalise: bool, norm: Any, seed: int
) -> None:
    """ℓ_full(mlp) − ℓ_KO(mlp), each by the formula W_U (γ ⊙ x) / σ with its own run's σ, or with the full run's."""
    model, prompts = sweeps.model(kind), [pair.clean for pair in pairs_of(seed)]
    found = knockout_readout(model, prompts, "end", "subject", TOKENS, renormalise=renormalise, norm=norm)
    assert found.effect.dims == ("example", "layer", "site", "position", "source_position", "token")
    module: Any = model.module
    last = module.get_output_embeddings().weight[TOKENS].double()
    final = next(m for name, m in module.named_modules() if name.endswith(("ln_f", "final_layer_norm", "model.norm")))
    gain = (final.weight + (1.0 if kind == "gemma2" else 0.0)).double()
    cut = attention_knockout("end", "subject", layers=range(3), renormalise=renormalise)
    ran = run(model, prompts, [None, cut], capture=["mlp_out", "attn_out", "resid_post", "ln_final_scale"], logits="none")
    ends = [len(prompt.text) - 1 for prompt in prompts]
    for site in ("mlp_out", "attn_out"):
        for layer in range(3):
            sides = []
            for cell in (0, 1):
                x = torch.stack([ran[f"L{layer}.{site}"][cell, i, end] for i, end in enumerate(ends)]).double()
                sigma = torch.stack([ran["ln_final_scale"][cell if norm == "own" else 0, i, end] for i, end in enumerate(ends)])
                x = x - x.mean(-1, keepdim=True) if kind in ("gpt2", "neox") else x
                sides.append(x * gain @ last.mT / sigma[:, None])
            within(found.effect.sel(site=site, layer=layer).squeeze(), (sides[0] - sides[1]).detach())
            within(found.full.sel(site=site, layer=layer), sides[0].detach())


def test_the_logits_lost_are_what_the_sweep_measures(seed: int) -> None:
    model, pairs = sweeps.model("llama"), pairs_of(seed)
    said = knockout_readout(model, pairs, "end", ["subject", 0], [3])
    swept = knockout(model, pairs, "end", ["subject", 0], lambda logits: logits[..., 3])
    lost, expected = said.logit_effect.squeeze(), (swept.clean - swept.value).squeeze()
    within(lost.transpose("source_position", "example"), expected.transpose("source_position", "example"))
    assert float(abs(said.scale_knocked_out - said.scale).max()) > 1e-4


def test_with_nothing_attended_to_attention_says_its_bias(seed: int) -> None:
    """Card 7, test 3, in zero mode attn_out = b_O, decoded at the knocked-out run's scale; in mask mode a row is empty."""
    model, prompts = sweeps.model("gpt2"), [pair.clean for pair in pairs_of(seed)]
    found = knockout_readout(model, prompts, "end", ..., TOKENS)
    module: Any = model.module
    for layer in range(3):
        bias = module.transformer.h[layer].attn.c_proj.bias.double()
        logits = ((bias - bias.mean()) * module.transformer.ln_f.weight.double()) @ module.lm_head.weight[TOKENS].double().mT
        left = (found.full - found.effect.squeeze(["position", "source_position"])).sel(site="attn_out", layer=layer)
        within(left, (logits / torch.tensor(found.scale_knocked_out.values.reshape(-1, 1))).detach())
    with pytest.raises(PositionError, match="leaves nothing to attend to"):
        knockout_readout(model, prompts, "end", ..., TOKENS, renormalise=True)


def test_what_is_given_is_in_force_in_both_runs(seed: int) -> None:
    """What a knockout takes away a second time is nothing."""
    model, prompts = sweeps.model("llama"), [pair.clean for pair in pairs_of(seed)]
    given = attention_knockout("end", "subject", layers=range(3))
    found = knockout_readout(model, prompts, "end", ["subject", 0], TOKENS, given=given)
    lost = abs(found.effect).max(["example", "layer", "site", "position", "token"])
    assert float(lost.sel(source_position="subject")) < 1e-5
    assert float(lost.sel(source_position="0")) > 1e-3


def test_some_layers_and_heads_and_logits_less_their_mean(seed: int) -> None:
    model, prompts = sweeps.model("llama"), [pair.clean for pair in pairs_of(seed)]
    some = knockout_readout(model, prompts, "end", "subject", range(tiny.VOCAB), layers=[1], heads=2, centred=True, norm="full")
    assert float(abs(some.effect.sel(layer=0)).max()) < 1e-5
    assert float(abs(some.effect.sel(layer=1, site="attn_out")).max()) > 1e-3
    within(some.full.sum("token"), np.zeros(some.full.shape[:-1]), 1e-4)
    with pytest.raises(HeadOutOfRangeError, match="layer 7"):
        knockout_readout(model, prompts, "end", "subject", TOKENS, layers=7)
    with pytest.raises(UnknownNameError, match="unknown norm 'frozen'"):
        sweeps.unchecked(knockout_readout)(model, prompts, "end", "subject", TOKENS, norm="frozen")
    with pytest.raises(InputError, match="what it does after its last block is unknown"):
        knockout_readout(architectures.loaded("t5"), [interp.Prompt([5, 6, 7], target=[0])], -1, 0, TOKENS)
