"""OV and QK of a head are what the head does, in every architecture.

Expected numbers: the model's own scores and head results in one forward pass on its example. The stream is divided by the scale
of the norm in front of attention, computed here from its definition; that is all that the matrices leave out.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from interp.doctor import architectures
from interp.errors import HeadOutOfRangeError, UnknownSiteError, WeightsError
from interp.models import Model, load
from interp.models.weights import ov, ov_bias, qk, qk_bias
from interp.models.weights.heads import choose
from interp.models.weights.norms import read_through
from interp.sites import Site

WITH_HEADS = [n for n in architectures.available() if n not in {"mamba", "resnet", "dcgan", "qwen3-next", "deepseek-v3", "dit"}]
loaded = cache(architectures.loaded)
PAIR = (2, 0)
"""A query and a key."""


def streams(model: Model) -> list[tuple[str, int]]:
    """Streams with attention of their own, each with its last layer of it."""
    found = {site.stream: site.layer or 0 for site in model.sites() if site.name == "q"}
    return list(found.items())


def divided(model: Model, site: Site, x: Tensor) -> Tensor:
    """The stream over the scale of the norm through which attention reads it, from the norm's definition."""
    norm = read_through(model, site)
    if norm is None:
        return x
    module: Any = model.module.get_submodule(norm.path)
    eps = getattr(module, "eps", None) or getattr(module, "variance_epsilon", 0.0)
    spread = x - x.mean(-1, keepdim=True) if norm.centred else x
    return x / (spread.square().mean(-1, keepdim=True) + eps).sqrt()


def seen(model: Model, stream: str, layer: int) -> dict[str, Tensor]:
    names = ("resid_pre", "q", "k", "scores", "pattern", "result")
    sites = {name: Site(name, layer=layer, stream=stream) for name in names}
    with torch.no_grad(), model.prepared(sites.values()):
        found = model.backend.run(model.example, reads=list(sites.values()), writes={})
    return {name: found[site] for name, site in sites.items()}


def close(got: Tensor, expected: Tensor, what: object) -> None:
    deviation = float((got - expected).abs().max())
    print(what, f"deviation {deviation:.1e}")
    assert got.shape == expected.shape
    assert deviation <= 2e-5 * (1 + float(expected.abs().max())), what


@pytest.mark.parametrize("architecture", WITH_HEADS)
def test_what_a_head_writes(architecture: str) -> None:
    """Σ_key pattern · (x_key @ ov) + ov_bias is the head's result, behind the norm or the scale that may follow W_O."""
    model = loaded(architecture)
    for stream, layer in streams(model):
        if architecture == "swin":
            continue  # its stream is cut into windows on the way
        z = Site("z", layer=layer, stream=stream)
        found = seen(model, stream, layer)
        x = divided(model, z.at(name="v"), found["resid_pre"])
        written = x.unsqueeze(1) @ ov(model, z)  # example head position d_model
        bias = torch.einsum("ehqk,hm->eqhm", found["pattern"], ov_bias(model, z))
        got = torch.einsum("ehqk,ehkm->eqhm", found["pattern"], written) + bias
        module: Any = model.module.get_submodule(model.anatomy.streams[stream].blocks[layer])
        expected = found["result"]
        if architecture in ("gemma2", "gemma3"):
            expected = expected * (1 + module.post_attention_layernorm.weight)
        if architecture == "olmo2":
            expected = expected * module.post_attention_layernorm.weight
        if architecture == "dinov2":
            expected = expected * module.layer_scale1.lambda1
        close(got, expected.detach(), (architecture, stream))


@pytest.mark.parametrize("architecture", WITH_HEADS)
def test_what_a_head_attends_to(architecture: str) -> None:
    """x_query @ qk @ x_key and the biases are the scores, up to what positions add, which is the same in two examples."""
    model = loaded(architecture)
    i, j = PAIR
    for stream, layer in streams(model):
        if architecture == "swin":
            continue
        z = Site("z", layer=layer, stream=stream)
        found = seen(model, stream, layer)
        x = divided(model, z.at(name="q"), found["resid_pre"])
        circuit = qk(model, z, scaled=True, distance=i - j)
        got = torch.einsum("ehm,em->eh", _rows(x[:, i], circuit), x[:, j])
        expected = found["scores"][:, :, i, j]
        if architecture in ("qwen3", "qwen3-moe", "gemma3", "olmo2"):
            got = got / _scale(found["q"][:, i], architecture) / _scale(found["k"][:, j], architecture)
            with pytest.raises(WeightsError, match="norms its queries and keys"):
                qk_bias(model, z)
            with pytest.raises(WeightsError, match="fold_norm=True"):
                qk(model, z, fold_norm=False)
        else:
            bias = qk_bias(model, z, scaled=True, distance=i - j)
            got = got + x[:, i] @ bias.query.mT + x[:, j] @ bias.key.mT + bias.constant
        if architecture == "gemma2":
            got = 3 * torch.tanh(got / 3)
        close(got[0] - got[1], expected[0] - expected[1], (architecture, stream))
        if architecture not in ("bloom", "t5"):  # which add numbers of their own to the scores
            close(got, expected, (architecture, stream))


def _rows(x: Tensor, circuit: Any) -> Tensor:
    """x @ circuit for every example and head: example head d_model."""
    return (x @ circuit).transpose(0, 1)


def _scale(tensor: Tensor, architecture: str) -> Tensor:
    """Root mean square of every head's query, or of the key that it meets: example head."""
    axes = (-2, -1) if architecture == "olmo2" else -1
    eps = 1e-5 if architecture == "olmo2" else 1e-6
    root = (tensor.square().mean(axes, keepdim=True) + eps).sqrt().expand(*tensor.shape[:-1], 1)[..., 0]
    return root.repeat_interleave(tiny.HEADS // root.shape[-1], -1)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "falcon-new", "phi3"])
def test_one_head_a_layer_and_all_are_the_same(architecture: str) -> None:
    model = loaded(architecture)
    for read in (ov, qk):
        every, layer, one = read(model), read(model, 1), read(model, "L1H3")
        assert every.shape == (tiny.LAYERS, tiny.HEADS, tiny.WIDTH, tiny.WIDTH)
        torch.testing.assert_close(every[1].matrix(), layer.matrix())
        torch.testing.assert_close(layer[3].matrix(), one.matrix())
        torch.testing.assert_close(read(model, "L1.z").matrix(), layer.matrix())
        torch.testing.assert_close(read(model, "L1").matrix(), layer.matrix())
    torch.testing.assert_close(ov_bias(model)[1, 3], ov_bias(model, "L1H3"))
    for all_of_them, own in zip(qk_bias(model), qk_bias(model, "L1H3"), strict=True):
        torch.testing.assert_close(all_of_them[1, 3], own)


def test_without_folding_the_weights_are_read_alone(seed: int) -> None:
    """Expected: slices of c_attn and c_proj, by hand."""
    network = tiny.gpt2(seed)
    model = load(network)
    attention = network.transformer.h[1].attn
    width = tiny.WIDTH // tiny.HEADS
    q, k, v = attention.c_attn.weight.detach().split(tiny.WIDTH, dim=1)
    own = slice(2 * width, 3 * width)
    torch.testing.assert_close(ov(model, "L1H2", fold_norm=False).matrix(), v[:, own] @ attention.c_proj.weight.detach()[own])
    torch.testing.assert_close(qk(model, "L1H2", fold_norm=False).matrix(), q[:, own] @ k[:, own].T)
    torch.testing.assert_close(qk(model, "L1H2", fold_norm=False, scaled=True).matrix(), q[:, own] @ k[:, own].T / width**0.5)


def test_a_distance_turns_queries_and_keys(seed: int) -> None:
    """In Llama by the angles of RoFormer (arXiv 2104.09864); distance 0 and none are the plain product; GPT-2's never turns."""
    network = tiny.llama(seed)
    model = load(network)
    width = tiny.WIDTH // tiny.HEADS
    attention = network.model.layers[0].self_attn
    q = attention.q_proj.weight.detach()[:width].T
    k = attention.k_proj.weight.detach()[:width].T
    base = network.config.rope_parameters["rope_theta"]
    angles = 7 * base ** (-torch.arange(0, width, 2) / width)
    cos, sin = torch.diag(angles.cos()), torch.diag(angles.sin())
    turned = q @ torch.cat([torch.cat([cos, sin]), torch.cat([-sin, cos])], dim=1).T
    got = qk(model, "L0H0", fold_norm=False, distance=7).matrix()
    torch.testing.assert_close(got, turned @ k.T, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(qk(model, "L0H0", distance=0).matrix(), qk(model, "L0H0").matrix())
    assert not torch.allclose(got, q @ k.T, atol=1e-2)
    plain = load(tiny.gpt2(seed))
    torch.testing.assert_close(qk(plain, "L0H0", distance=7).matrix(), qk(plain, "L0H0").matrix())


def test_refusals(seed: int) -> None:
    model = load(tiny.gpt2(seed))
    with pytest.raises(HeadOutOfRangeError, match=r"head 9 of L0H9\.z does not exist"):
        ov(model, "L0H9")
    with pytest.raises(HeadOutOfRangeError, match=r"layer 7 of L7\.z does not exist"):
        qk(model, 7)
    with pytest.raises(UnknownSiteError, match="name heads as 'L3H2'"):
        ov(model, "L0.mlp_out")
    with pytest.raises(UnknownSiteError, match="it is a tuple; name heads as 'L3H2'"):
        choose(model, (3, 2))
    with pytest.raises(WeightsError, match="distance=-1"):
        qk(model, "L0H0", distance=-1)
    with pytest.raises(WeightsError, match="distance=900 is past the end"):
        qk(model, "L0H0", distance=900)
    latent = loaded("deepseek-v3")
    with pytest.raises(WeightsError, match="not the residual stream"):
        ov(latent, "L0H0")
    with pytest.raises(WeightsError, match="something that is not linear stands between"):
        ov(latent, "L0H0", fold_norm=False)
    with pytest.raises(WeightsError, match="no QK circuit in the weights alone"):
        qk(latent, "L0H0")


def test_half_precision_is_read_in_float32(seed: int) -> None:
    network = tiny.llama(seed).to(torch.bfloat16)
    model = load(network)
    assert ov(model, "L0H0").dtype == qk(model, "L0H0", scaled=True, distance=3).dtype == torch.float32
    expected = ov(load(network.float()), "L0H0").matrix()
    torch.testing.assert_close(ov(model, "L0H0").matrix(), expected)
