"""The zoo's network class keeps the contracts of transformers: cache, masks, attention implementations, save and load.

Where two runs must agree, the expected number is the other run, to 1e-5 · (1 + max |logit|), the design's rule for float32.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from interp.errors import PositionError, UnknownNameError
from interp.models import zoo
from interp.models.zoo.modeling import eager_attention_forward, register

NORMED = [(positions, norm) for positions in ("learned", "rotary", "none") for norm in ("layernorm", "none")]
KINDS = [(*kind, attn_only) for kind in NORMED for attn_only in (True, False)] + [("rotary", "rmsnorm", False)]


def tiny(positions: str = "rotary", norm: str = "layernorm", attn_only: bool = False, **more: object) -> zoo.ZooForCausalLM:
    """Random weights, large enough for attention to be far from uniform; 2 key/value heads for 4, heads wider than 24 / 4."""
    torch.manual_seed(3)
    config = zoo.ZooConfig(
        vocab_size=50,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=20,
        positions=positions,
        norm=norm,
        attn_only=attn_only,
        attention_bias=True,
        initializer_range=0.3,
        bos_token_id=1,
        pad_token_id=0,
        **more,
    )
    return zoo.ZooForCausalLM(config).eval()


def tokens(rows: int = 2, length: int = 9) -> Tensor:
    return torch.randint(2, 50, (rows, length), generator=torch.Generator().manual_seed(5))


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * (1 + other.abs().max().item()))


@pytest.mark.parametrize(("positions", "norm", "attn_only"), KINDS)
@torch.no_grad()
def test_cached_and_eager_and_embedded_runs_equal_the_plain_one(positions: str, norm: str, attn_only: bool) -> None:
    model, x = tiny(positions, norm, attn_only), tokens()
    whole = model(x).logits
    assert whole.shape == (2, 9, 50)
    assert model.config._attn_implementation == "sdpa"

    cache = DynamicCache(config=model.config)
    parts = [model(x[:, :4], past_key_values=cache).logits]
    parts += [model(x[:, i : i + 1], past_key_values=cache).logits for i in range(4, 9)]
    close(torch.cat(parts, 1), whole)

    close(model(inputs_embeds=model.get_input_embeddings()(x)).logits, whole)
    close(model(x, logits_to_keep=2).logits, whole[:, -2:])
    model.set_attn_implementation("eager")
    close(model(x).logits, whole)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize(("positions", "norm", "attn_only"), KINDS)
@torch.no_grad()
def test_left_padding_equals_no_padding(positions: str, norm: str, attn_only: bool, implementation: str) -> None:
    model, x = tiny(positions, norm, attn_only), tokens(1, 6)
    model.set_attn_implementation(implementation)
    alone = model(x).logits
    padded = torch.cat((torch.zeros(1, 4, dtype=torch.long), x), 1)
    mask = (torch.arange(10) >= 4).long()[None]
    place = (mask.cumsum(-1) - 1).clamp_min(0)
    close(model(padded, attention_mask=mask, position_ids=place).logits[:, 4:], alone)


@torch.no_grad()
def test_positions_are_what_the_configuration_says() -> None:
    """Without positions the last token sees its context as a set; with either kind it does not."""
    x = tokens(1, 5)
    turned = x[:, [2, 0, 1, 3, 4]]
    one_layer = tiny("none", attn_only=True)
    del one_layer.model.layers[1:]  # a second layer would see which prefixes the first one saw
    close(one_layer(turned).logits[:, -1], one_layer(x).logits[:, -1])
    for positions in ("learned", "rotary"):
        other = tiny(positions, attn_only=True)
        assert (other(turned).logits[:, -1] - other(x).logits[:, -1]).abs().max() > 1e-2
    shifted = torch.arange(5)[None] + 7
    rotary, learned = tiny("rotary"), tiny("learned")
    close(rotary(x, position_ids=shifted, attention_mask=torch.ones_like(x)).logits, rotary(x).logits)  # rotary is relative
    assert (learned(x, position_ids=shifted, attention_mask=torch.ones_like(x)).logits - learned(x).logits).abs().max() > 1e-2


@torch.no_grad()
def test_generation_continues_with_the_most_probable_token() -> None:
    model, x = tiny(), tokens()
    for _ in range(4):
        x = torch.cat((x, model(x).logits[:, -1:].argmax(-1)), 1)
    cached = model.generate(tokens(), attention_mask=torch.ones_like(tokens()), max_new_tokens=4, do_sample=False)
    assert torch.equal(cached, x)


@torch.no_grad()
def test_attention_and_hidden_states_are_returned_on_request() -> None:
    model, x = tiny(), tokens()
    model.set_attn_implementation("eager")
    out = model(x, output_attentions=True, output_hidden_states=True)
    assert [tuple(a.shape) for a in out.attentions] == [(2, 4, 9, 9)] * 3
    assert [tuple(h.shape) for h in out.hidden_states] == [(2, 9, 24)] * 4
    close(out.attentions[0].sum(-1), torch.ones(2, 4, 9))
    assert out.attentions[0].triu(1).count_nonzero() == 0
    as_tuple = model(x, return_dict=False)
    assert isinstance(as_tuple, tuple)
    close(as_tuple[0], out.logits)


def test_eager_attention_is_softmax_of_scaled_scores() -> None:
    """Against the formula, one query head at a time, in float64; two query heads share a key/value head."""
    g = torch.Generator().manual_seed(0)
    q = torch.randn(1, 4, 3, 8, generator=g, dtype=torch.float64)
    k, v = torch.randn(2, 1, 2, 3, 8, generator=g, dtype=torch.float64)
    attention = tiny().model.layers[0].self_attn
    out, pattern = eager_attention_forward(attention, q, k, v, None, scaling=0.7)
    assert out.dtype == pattern.dtype == torch.float64
    for head in range(4):
        weights = torch.exp(0.7 * q[0, head] @ k[0, head // 2].T)
        weights /= weights.sum(-1, keepdim=True)
        torch.testing.assert_close(pattern[0, head], weights)
        torch.testing.assert_close(out[0, :, head], weights @ v[0, head // 2])


@torch.no_grad()
def test_attention_scale_is_the_configured_one() -> None:
    assert tiny().model.layers[0].self_attn.scaling == 8**-0.5
    assert tiny(attention_scale=1.0).model.layers[0].self_attn.scaling == 1.0
    assert (tiny(attention_scale=1.0)(tokens()).logits - tiny()(tokens()).logits).abs().max() > 1e-2


def test_what_the_configuration_leaves_out_does_not_exist() -> None:
    names = {name.rsplit(".", 1)[-1] for name, _ in tiny("rotary", attn_only=True).named_modules()}
    assert not names & {"mlp", "up_proj", "down_proj", "act_fn", "post_attention_layernorm", "embed_positions"}
    names = {name.rsplit(".", 1)[-1] for name, _ in tiny("learned").named_modules()}
    assert {"mlp", "up_proj", "down_proj", "act_fn", "post_attention_layernorm", "embed_positions"} <= names
    assert "rotary_emb" not in names
    assert isinstance(tiny(norm="none").model.norm, torch.nn.Identity)
    biased = {name for name, _ in tiny(mlp_bias=False).named_parameters() if name.endswith("proj.bias")}
    assert len(biased) == 3 * 4  # q, k, v, o of three layers, none of the MLPs
    block = tiny().model.layers[0]
    assert isinstance(block(torch.zeros(1, 2, 24), position_embeddings=None), Tensor)


def test_tied_embeddings_are_one_parameter() -> None:
    model = tiny(tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tiny().lm_head.weight is not tiny().model.embed_tokens.weight


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_saved_and_loaded_by_the_auto_classes(tmp_path: object, tied: bool) -> None:
    register()  # a second time: nothing happens
    model = tiny("rotary", tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), zoo.ZooConfig)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(again, zoo.ZooForCausalLM)
    assert not again.training
    assert torch.equal(again(tokens()).logits, model(tokens()).logits)


@torch.no_grad()
def test_float64_stays_float64() -> None:
    model = tiny().double()
    model.set_attn_implementation("eager")
    assert model(tokens()).logits.dtype == torch.float64
    # eager and sdpa agree far beyond float32, so nothing on the way was rounded to it
    eager = model(tokens()).logits
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(model(tokens()).logits, eager, rtol=0, atol=1e-10 * (1 + eager.abs().max().item()))


def test_labels_give_the_mean_cross_entropy_of_the_next_token() -> None:
    model, x = tiny(), tokens()
    out = model(x, labels=x)
    expected = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), x[:, 1:].flatten())
    torch.testing.assert_close(out.loss, expected)


def test_wrong_use_is_answered() -> None:
    with pytest.raises(UnknownNameError, match="unknown kind of positions 'rotery'; did you mean 'rotary'"):
        zoo.ZooConfig(positions="rotery")
    with pytest.raises(UnknownNameError, match="unknown norm 'layer_norm'; did you mean 'layernorm'"):
        zoo.ZooConfig(norm="layer_norm")
    with pytest.raises(ValueError, match="num_attention_heads=4 is not a multiple of num_key_value_heads=3"):
        zoo.ZooConfig(num_attention_heads=4, num_key_value_heads=3)
    with pytest.raises(ValueError, match="head_dim=5 is odd"):
        zoo.ZooConfig(positions="rotary", head_dim=5)
    with pytest.raises(PositionError, match="position 20 is past the end: this zoo model has 20 learned positions"):
        tiny("learned")(tokens(1, 21))
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        tiny()()
    with pytest.raises(
        UnknownNameError,
        match=r"unknown zoo model 'induction-2'; did you mean 'induction-2l' or 'induction' or 'induction-forming'\?",
    ):
        zoo.path("zoo/induction-2")
