"""Weight readings equal TransformerLens' on the same weights.

Expected numbers: W_Q, W_K, W_V, W_O, OV, QK, composition scores and eigenvalues of TransformerLens 4.3, on a TransformerBridge
of a copy of the network: raw against weights that are read alone, and in compatibility mode, which folds gains into what reads the
stream and centres it, against readings with the norms folded in. Compatibility mode also centres what *writes* to a stream that
LayerNorms read, which no reader sees; so OV's right factor, and with it the norm in the score's denominator, is centred first.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from interp.models import load
from interp.models.weights import Factored, composition, copying_score, full_ov, ov, projection, qk
from interp.sites import Site


def bridge_of(network: PreTrainedModel, *, compatible: bool, **options: bool) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    words = Tokenizer(models.WordLevel({f"<{i}>": i for i in range(tiny.VOCAB)}, unk_token="<0>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<0>", pad_token="<0>", eos_token="<0>")
    bridge = TransformerBridge.boot_transformers("tiny", hf_model=copy.deepcopy(network), tokenizer=tokenizer).eval()
    if compatible:
        bridge.enable_compatibility_mode(**options)
    return bridge


def whole(product: Any) -> torch.Tensor:
    return (product.A @ product.B).detach()


def test_projections(network: PreTrainedModel, assert_close: Callable[..., None]) -> None:
    model, bridge = load(network), bridge_of(network, compatible=False)
    for layer in range(tiny.LAYERS):
        for name in ("q", "k", "v"):
            theirs = getattr(bridge, f"W_{name.upper()}")[layer].detach()
            assert_close(projection(model, Site(name, layer=layer)).weight, theirs, float(theirs.abs().max()), name)


def test_circuits_without_norms(network: PreTrainedModel, assert_close: Callable[..., None]) -> None:
    model, bridge = load(network), bridge_of(network, compatible=False)
    for ours, theirs in ((ov(model, fold_norm=False), bridge.OV), (qk(model, fold_norm=False), bridge.QK)):
        assert_close(ours.matrix(), whole(theirs), float(whole(theirs).abs().max()))
        assert_close(ours.norm(), theirs.norm().detach(), float(whole(theirs).norm()), "norm")
        singular = theirs.S.detach()[..., : ours.rank]
        assert_close(ours.singular_values(), singular, float(singular.max()), "singular values")


def test_circuits_with_norms(network: PreTrainedModel, assert_close: Callable[..., None]) -> None:
    model, bridge = load(network), bridge_of(network, compatible=True)
    theirs = whole(bridge.QK)
    assert_close(qk(model).matrix(), theirs, float(theirs.abs().max()))
    theirs = whole(bridge.OV)
    assert_close(centred(ov(model), network).matrix(), theirs, float(theirs.abs().max()))


def centred(product: Factored, network: PreTrainedModel) -> Factored:
    """What is written, without its mean over features where LayerNorms read it."""
    right = product.right - product.right.mean(-1, keepdim=True) if hasattr(network, "transformer") else product.right
    return Factored(product.left, right)


def heads(product: Factored) -> list[Factored]:
    return [head for layer in product for head in layer]


@pytest.mark.parametrize("compatible", [False, True], ids=["raw", "compatible"])
@pytest.mark.parametrize("kind", ["q", "k", "v"])
def test_composition(kind: Any, compatible: bool, network: PreTrainedModel, assert_close: Callable[..., None]) -> None:
    model, bridge = load(network), bridge_of(network, compatible=compatible)
    theirs = bridge.all_composition_scores(kind.upper()).scores.detach().flatten(2, 3).flatten(0, 1)
    ours = torch.tensor(composition(model, kind, fold_norm=compatible).values, dtype=theirs.dtype)
    if compatible:
        written = centred(ov(model), network)
        ours *= (ov(model).norm() / written.norm()).reshape(-1, 1)
        if kind == "v":  # the receiver writes too
            before, behind = heads(ov(model)), heads(written)
            for i, one in enumerate(behind):
                for j, other in enumerate(behind):
                    ours[i, j] *= (one @ other).norm() / (one @ before[j]).norm() * before[j].norm() / other.norm()
    assert torch.equal(ours.isnan(), theirs == 0), "a sender before the receiver, for them as for us"
    assert_close(ours.nan_to_num(), theirs, 1.0, kind)


def test_eigenvalues_of_full_circuits(network: PreTrainedModel) -> None:
    """With their unembedding not centred over the vocabulary, which is no part of the circuit's definition."""
    model, bridge = load(network), bridge_of(network, compatible=True, center_unembed=False)
    circuit = bridge.W_E.detach() @ bridge.OV @ bridge.W_U.detach()
    values = circuit.eigenvalues.detach()
    theirs = (values.sum(-1).real / values.abs().sum(-1)).numpy()
    np.testing.assert_allclose(copying_score(model).values, theirs, atol=1e-4)
    ours = full_ov(model, "L1H2").eigenvalues()
    order, other = ours.abs().argsort(), values[1, 2].abs().argsort()
    np.testing.assert_allclose(ours.abs()[order], values[1, 2].abs()[other], rtol=1e-3, atol=1e-4)
