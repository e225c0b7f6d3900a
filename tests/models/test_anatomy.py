"""What a model has, and what is said of what it does not have."""

from __future__ import annotations

import re

import pytest
import tiny
from transformers import PreTrainedModel

from interp.errors import HeadOutOfRangeError, UnknownSiteError
from interp.models import Model, load
from interp.models.zoo import ZooConfig, induction_construction
from interp.sites import COMPONENTS, Site

BEHIND = {"ln1_post_scale", "ln2_post_scale"}
PER_LAYER = {c.name for c in COMPONENTS.values() if c.per_layer}


def attn_only(seed: int, **changes: object) -> PreTrainedModel:
    sizes = {"vocab_size": tiny.VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return tiny.random_model(ZooConfig(**(sizes | {"attn_only": True} | changes)), seed)


@pytest.mark.parametrize(
    ("make", "lacks", "sizes"),
    [
        (tiny.gpt2, {"mlp_up"} | BEHIND, {"layer": 3, "head": 4, "kv_head": 4, "d_head": 8, "d_model": 32, "unit": 56}),
        (tiny.llama, {"pos_embed"} | BEHIND, {"layer": 3, "head": 4, "kv_head": 2, "d_head": 8, "d_model": 32, "unit": 56}),
        (tiny.mistral, {"pos_embed"} | BEHIND, {"layer": 3, "head": 4, "kv_head": 2, "d_head": 8, "d_model": 32, "unit": 56}),
        (
            tiny.neox,
            {"pos_embed", "mlp_up", "resid_mid"} | BEHIND,
            {"layer": 3, "head": 4, "kv_head": 4, "d_head": 8, "d_model": 32, "unit": 56},
        ),
        (tiny.gemma2, {"pos_embed"}, {"layer": 3, "head": 4, "kv_head": 2, "d_head": 12, "d_model": 32, "unit": 56}),
        (tiny.qwen3, {"pos_embed"} | BEHIND, {"layer": 3, "head": 4, "kv_head": 2, "d_head": 12, "d_model": 32, "unit": 56}),
        (
            tiny.bloom,
            {"pos_embed", "mlp_up"} | BEHIND,
            {"layer": 3, "head": 4, "kv_head": 4, "d_head": 8, "d_model": 32, "unit": 128},
        ),
        (
            attn_only,
            {"resid_mid", "mlp_out", "mlp_pre", "mlp_up", "mlp_post", "ln2_scale"} | BEHIND,
            {"layer": 2, "head": 4, "kv_head": 4, "d_head": 8, "d_model": 32},
        ),
    ],
    ids=["gpt2", "llama", "mistral", "neox", "gemma2", "qwen3", "bloom", "attn_only"],
)
def test_sites_and_sizes(make: object, lacks: set[str], sizes: dict[str, int], seed: int) -> None:
    model = load(make(seed), check=False)  # type: ignore[operator]
    assert dict(model.sizes) == sizes
    assert set(model.anatomy.absent) - tiny.RARE == lacks
    expected = {Site(n) for n in COMPONENTS if n not in PER_LAYER and n not in lacks}
    expected |= {Site(n, layer=i) for n in PER_LAYER - tiny.RARE - lacks for i in range(sizes["layer"])}
    assert set(model.sites()) == expected
    for site in model.sites():
        model.check(site)


def test_a_wide_head_is_measured_not_computed(seed: int) -> None:
    """Heads need not fill the stream: 4 heads of width 5 in a stream of 32."""
    model = load(attn_only(seed, head_dim=5, num_key_value_heads=2))
    assert (model.sizes["d_head"], model.sizes["kv_head"]) == (5, 2)


def test_the_modules_of_a_block_by_layer(seed: int) -> None:
    gpt2, llama, bare = (load(make(seed), check=False).anatomy for make in (tiny.gpt2, tiny.llama, attn_only))
    layers = range(3)
    assert gpt2.attention == {i: f"transformer.h.{i}.attn" for i in layers}
    assert gpt2.mlp == {i: f"transformer.h.{i}.mlp" for i in layers}
    assert gpt2.w_o == {i: f"transformer.h.{i}.attn.c_proj" for i in layers}
    assert gpt2.w_out == {i: f"transformer.h.{i}.mlp.c_proj" for i in layers}
    assert llama.w_o[2] == "model.layers.2.self_attn.o_proj"
    assert llama.w_out[2] == "model.layers.2.mlp.down_proj"
    assert (set(bare.attention), bare.mlp, bare.w_out) == ({0, 1}, {}, {})


def test_sizes_at_a_site(tiny_llama: PreTrainedModel) -> None:
    model = load(tiny_llama, check=False)
    assert model.sizes_at(Site("z", layer=0)) == {"head": 4, "layer": 3}
    assert model.sizes_at(Site("k", layer=0)) == {"head": 2, "layer": 3}
    assert model.sizes_at(Site("mlp_post", layer=0)) == {"unit": 56, "layer": 3}
    assert model.sizes_at(Site("resid_pre")) == {"layer": 3}


@pytest.fixture
def llama(tiny_llama: PreTrainedModel) -> Model:
    return load(tiny_llama, check=False, name="tiny")


@pytest.mark.parametrize(
    ("site", "words"),
    [
        (Site("z", layer=3), "layer 3 of L3.z does not exist: tiny has 3 layers there, 0 to 2"),
        (Site("z", layer=0, head=4), "head 4 of L0H4.z does not exist: tiny has 4 heads there, 0 to 3"),
        (Site("k", layer=0, head=2), "head 2 of L0H2.k does not exist: tiny has 2 key/value heads there, 0 to 1"),
        (Site("v", layer=2, head=3), "head 3 of L2H3.v does not exist: tiny has 2 key/value heads there, 0 to 1"),
        (Site("mlp_post", layer=0, unit=56), "unit 56 of L0.mlp_post[56] does not exist: tiny has 56 units there, 0 to 55"),
        (Site("z", layer=-1), "layer -1 of L-1.z does not exist"),
    ],
)
def test_an_index_beyond_the_model(llama: Model, site: Site, words: str) -> None:
    with pytest.raises(HeadOutOfRangeError, match=re.escape(words)):
        llama.check(site)


def test_a_site_that_this_model_lacks_says_why(seed: int) -> None:
    model = load(attn_only(seed), check=False, name="toy")
    with pytest.raises(UnknownSiteError, match=r"'mlp_out'.*toy.*model\.layers\.1 has no MLP") as error:
        model.check(Site("mlp_out", layer=0))
    assert "resid_pre" in str(error.value), "the sites it has are listed"
    with pytest.raises(UnknownSiteError, match="its MLPs are not gated"):
        load(tiny.gpt2(seed), check=False).check(Site("mlp_up", layer=0))
    with pytest.raises(UnknownSiteError, match="no position embedding is added to the stream"):
        load(tiny.llama(seed), check=False).check(Site("pos_embed"))


def test_the_induction_construction() -> None:
    model = load(induction_construction(n_tokens=5, length=12))
    assert dict(model.sizes) == {"d_model": 68, "layer": 2, "head": 2, "kv_head": 2, "d_head": 34}


def test_how_a_model_prints(llama: Model) -> None:
    assert repr(llama).startswith("Model(tiny: layer 3, ")
    assert repr(llama).endswith("float32 on cpu)")
