"""Composition scores, copying scores and token circuits are those of the explicit matrices.

Expected numbers: the matrices formed and multiplied, in float64; hand-built heads whose circuits are known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from interp.doctor import architectures
from interp.errors import UnknownNameError, UnknownSiteError, WeightsError
from interp.models import load
from interp.models.reweighted import reweighted
from interp.models.weights import (
    composition,
    copying_score,
    embedding_matrix,
    full_ov,
    full_qk,
    ov,
    qk,
    unembedding_matrix,
)
from interp.models.zoo import INDUCTION_HEADS, induction_construction


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({f"<{i}>": i for i in range(tiny.VOCAB)}, unk_token="<0>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<0>", pad_token="<0>", eos_token="<0>")


@pytest.fixture(params=["gpt2", "llama", "qwen3"])
def network(request: pytest.FixtureRequest, seed: int) -> PreTrainedModel:
    return getattr(tiny, request.param)(seed).double()


@pytest.mark.parametrize("kind", ["q", "k", "v"])
def test_composition(kind: Any, network: PreTrainedModel) -> None:
    model = load(network)
    scores = composition(model, kind)
    written = ov(model).matrix().flatten(0, 1)
    read = {"q": qk(model).matrix(), "k": qk(model).mT.matrix(), "v": ov(model).matrix()}[kind].flatten(0, 1)
    products = torch.einsum("sab,rbc->srac", written, read)
    norms = torch.linalg.matrix_norm(written)[:, None] * torch.linalg.matrix_norm(read)
    expected = (torch.linalg.matrix_norm(products) / norms).numpy()
    layer = np.repeat(np.arange(tiny.LAYERS), tiny.HEADS)
    expected[~(layer[:, None] < layer)] = np.nan
    assert scores.dims == ("sender", "receiver")
    assert scores.sender.values.tolist() == [f"L{i}H{j}" for i in range(tiny.LAYERS) for j in range(tiny.HEADS)]
    np.testing.assert_allclose(scores.values, expected, atol=1e-10)
    assert scores.receiver_layer.values.tolist() == layer.tolist()
    assert scores.attrs["kind"] == kind
    assert float(scores.max()) <= 1


def test_heads_that_are_built_to_compose(seed: int) -> None:
    """A head that reads exactly what another writes, and nothing else, has the score 1; one that reads none of it 0."""
    model = load(tiny.llama(seed))
    gains = {"*norm.weight": torch.ones_like}
    width = tiny.WIDTH // tiny.HEADS
    basis = torch.eye(tiny.WIDTH)[:, :width]  # d_model × d_head, orthonormal
    other = torch.eye(tiny.WIDTH)[:, width : 2 * width]
    built = {"L0H1.W_O": basis.T.clone(), "L2H2.W_Q": basis.clone(), "L2H0.W_Q": other.clone(), "L1.W_V": lambda w: w}
    with reweighted(model, gains), reweighted(model, {**built, "L0H0.W_V": basis.clone(), "L2H3.W_Q": basis.clone()}):
        scores = composition(model, "q")
        # ‖OV QK‖ of A I I B is ‖A B‖: with B the key map of orthonormal rows the norm stays
        assert scores.sel(sender="L0H1", receiver="L2H0").item() == pytest.approx(0, abs=1e-6)
        first = ov(model, "L0H1")
        expected = (first @ qk(model, "L2H2")).norm() / (first.norm() * qk(model, "L2H2").norm())
        assert scores.sel(sender="L0H1", receiver="L2H2").item() == pytest.approx(float(expected), rel=1e-5)
        assert float(expected) > 0.1


def test_the_induction_network_of_formulas() -> None:
    """Its construction (``interp.models.zoo.handmade``): L0H0 and L1H1 write nothing, L1H0 moves tokens as they are.

    L0H1 writes the parent's token and place where L1H0 alone looks for them.
    """
    model = load(induction_construction(n_tokens=5, length=12))
    silent, (copies, looks) = ("L0H0", "L1H1"), (f"L{layer}H{head}" for layer, head in INDUCTION_HEADS)
    np.testing.assert_allclose(full_ov(model, looks).matrix(), torch.eye(5), atol=1e-6)
    assert copying_score(model).sel(layer=1, head=0).item() == pytest.approx(1, abs=1e-6)
    assert np.isnan(copying_score(model).sel(layer=0, head=0))
    assert not ov(model, silent[0]).matrix().any()
    for kind in ("q", "k", "v"):
        assert (composition(model, kind).sel(sender=silent[0], receiver=["L1H0", "L1H1"]) == 0).all()
    keys, queries = composition(model, "k"), composition(model, "q")
    assert keys.sel(sender=copies, receiver=looks) > 0.01
    assert queries.sel(sender=copies, receiver=looks) == 0, "its queries are of the token itself"
    assert composition(model, "v").sel(sender=copies, receiver=silent[1]) == 0


def test_other_streams_and_hybrids() -> None:
    """An encoder's heads are named as such; layers without attention have no heads."""
    t5 = architectures.loaded("t5")
    assert composition(t5, stream="encoder").sizes == {"sender": 12, "receiver": 12}
    jamba = composition(architectures.loaded("jamba"), "k")
    assert jamba.sender.values.tolist() == [f"L1H{i}" for i in range(tiny.HEADS)]
    assert np.isnan(jamba.values).all()
    with pytest.raises(UnknownSiteError, match="unknown stream 'vision'"):
        composition(t5, stream="vision")
    with pytest.raises(UnknownNameError, match="kind of composition 'qk'"):
        composition(t5, "qk")
    with pytest.raises(UnknownSiteError, match="resnet"):
        ov(architectures.loaded("resnet"))


def test_token_circuits(network: PreTrainedModel) -> None:
    """W_E OV W_U and W_E QK W_Eᵀ; the stream's scale left out, everything else of the norms in."""
    model = load(network)
    embed = network.get_input_embeddings().weight.detach()
    unembed = network.get_output_embeddings().weight.detach().T
    if hasattr(network, "transformer"):
        folded = network.transformer.ln_f.weight.detach()[:, None] * unembed
        folded = folded - folded.mean(0)
    else:
        folded = network.model.norm.weight.detach()[:, None] * unembed
    np.testing.assert_allclose(unembedding_matrix(model), folded, atol=1e-10)
    np.testing.assert_allclose(unembedding_matrix(model, fold_norm=False), unembed, atol=1e-10)
    expected = embed @ ov(model, "L1H2").matrix() @ folded
    np.testing.assert_allclose(full_ov(model, "L1H2").matrix(), expected, atol=1e-10 * (1 + float(expected.abs().max())))
    expected = embed @ qk(model, "L1H2").matrix() @ embed.T
    np.testing.assert_allclose(full_qk(model, "L1H2").matrix(), expected, atol=1e-10 * (1 + float(expected.abs().max())))
    assert full_ov(model, 1).shape == (tiny.HEADS, tiny.VOCAB, tiny.VOCAB)
    some = full_ov(model, "L1H2").top(3, rows=[7, 5])
    assert torch.equal(some.columns, full_ov(model, "L1H2").top(3).columns[[7, 5]])
    np.testing.assert_allclose(full_ov(model, 1)[2].matrix(), full_ov(model, "L1H2").matrix(), atol=1e-8)


def test_copying_scores(network: PreTrainedModel) -> None:
    model = load(network)
    scores = copying_score(model)
    assert scores.dims == ("layer", "head")
    for layer, head in ((0, 0), (2, 3)):
        values = torch.linalg.eigvals(full_ov(model, f"L{layer}H{head}").matrix())
        expected = float(values.sum().real / values.abs().sum())
        assert scores.sel(layer=layer, head=head).item() == pytest.approx(expected, abs=1e-6)


def test_a_head_that_copies(seed: int) -> None:
    """With the transpose of the value map behind it, and tied embeddings, OV is positive semidefinite: the score is 1."""
    network = tiny.gpt2(seed).double()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.fill_(1)
    model = load(network)
    centre = torch.eye(tiny.WIDTH, dtype=torch.float64) - 1 / tiny.WIDTH
    values = ov(model, 0, fold_norm=False).left
    for sign in (1, -1):
        with reweighted(model, {"L0.W_O": sign * (centre @ values).mT.contiguous()}):
            np.testing.assert_allclose(copying_score(model).sel(layer=0), sign, atol=1e-8)


def test_the_table_of_a_token_circuit(seed: int) -> None:
    model = load(tiny.llama(seed), tokenizer=tokenizer())
    circuit = full_ov(model, "L1H2")
    table = circuit.table(3, ["<5>", 7])
    whole = circuit.matrix()
    assert table.value.dims == ("row", "rank")
    assert table.row.values.tolist() == ["<5>", "<7>"]
    assert table.row_id.values.tolist() == [5, 7]
    expected = whole[[5, 7]].topk(3)
    np.testing.assert_allclose(table.value.values, expected.values, rtol=1e-5)
    assert table.id.values.tolist() == expected.indices.tolist()
    assert table.token.values.tolist() == [[f"<{i}>" for i in row] for row in expected.indices.tolist()]
    layer = full_ov(model, 1).table(2, [5], largest=False)
    assert layer.value.dims == ("head", "row", "rank")
    np.testing.assert_allclose(layer.value.values[2, 0, 0], whole[5].min(), rtol=1e-5)
    assert full_ov(model, 1)[2].table(1, "<5>").token.item() == table.token.values[0, 0]


def test_refusals_of_tokens(seed: int) -> None:
    model = load(tiny.llama(seed), tokenizer=tokenizer())
    circuit = full_ov(model, "L1H2")
    with pytest.raises(WeightsError, match=r"token ids \[97\] are not in the vocabulary, which has 97"):
        circuit.table(1, [97])
    with pytest.raises(WeightsError, match="the model has no tokenizer"):
        full_ov(load(tiny.llama(seed)), "L1H2").table(1, ["<5>"])
    with pytest.raises(WeightsError, match="as 'L3H2' or 3; where=None was given"):
        full_ov(model, None)
    with pytest.raises(WeightsError, match="embeds no tokens"):
        full_ov(architectures.loaded("vit"), 0)
    with pytest.raises(WeightsError, match="has no unembedding"):
        unembedding_matrix(architectures.loaded("vit"))
    with pytest.raises(WeightsError, match="not the residual stream"):
        full_ov(architectures.loaded("bert"), 0)  # a layer of its own stands before its unembedding
    table = architectures.build("gemma").model.embed_tokens.weight.detach()
    torch.testing.assert_close(embedding_matrix(architectures.loaded("gemma")), tiny.WIDTH**0.5 * table)


def test_an_unknown_word_is_no_row() -> None:
    with pytest.raises(WeightsError, match=r"'Emma' is no token of this tokenizer \(a space in front"):
        full_ov(load("zoo/language-4l", check=False), "L1H3").table(1, [" Sara", "Emma"])


def test_several_tokens_are_no_row(smollm2: Any) -> None:
    model = load(smollm2, check=False)
    circuit = full_ov(model, "L3H2")
    with pytest.raises(WeightsError, match=r"is 2 tokens .*a space in front"):
        circuit.table(1, [" John Mary"])
    assert circuit.table(2, [" John"]).row.item() == " John"
