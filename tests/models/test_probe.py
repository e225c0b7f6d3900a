"""The probe run: right models pass, sabotaged ones are refused by the identity that they break."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from transformers import GPTJConfig, Olmo2Config, PreTrainedModel

from interp.errors import UnknownSiteError
from interp.models import load
from interp.models.zoo import ZooConfig, induction_construction
from interp.sites import Site


def zoo(seed: int, **changes: object) -> PreTrainedModel:
    sizes = {"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "attn_only": True}
    return tiny.random_model(ZooConfig(**(sizes | changes)), seed)


def olmo2(seed: int) -> PreTrainedModel:
    """Norms after attention and MLP alone, and norms that span all heads' queries: no head moves by itself."""
    config = Olmo2Config(
        vocab_size=tiny.VOCAB,
        hidden_size=tiny.WIDTH,
        intermediate_size=tiny.MLP,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        eos_token_id=0,
    )
    return tiny.random_model(config, seed)


def gptj(seed: int) -> PreTrainedModel:
    """Parallel blocks with one norm, no flag that says so, and attention that no implementation can be chosen for."""
    sizes = {"n_layer": 2, "n_embd": 32, "n_head": 4, "rotary_dim": 4, "n_positions": 64, "vocab_size": tiny.VOCAB}
    return tiny.random_model(GPTJConfig(**sizes, bos_token_id=0, eos_token_id=0), seed)


RIGHT: dict[str, Callable[[int], PreTrainedModel]] = {
    "gpt2": tiny.gpt2,
    "llama": tiny.llama,
    "llama-mqa": lambda seed: tiny.llama(seed, num_key_value_heads=1),
    "llama-mha": lambda seed: tiny.llama(seed, num_key_value_heads=4),
    "llama-biased": lambda seed: tiny.llama(seed, attention_bias=True, mlp_bias=True),
    "llama-one-layer": lambda seed: tiny.llama(seed, num_hidden_layers=1),
    "llama-wide-heads": lambda seed: tiny.llama(seed, head_dim=12),
    "mistral": tiny.mistral,
    "neox": tiny.neox,
    "neox-sequential": lambda seed: tiny.neox(seed, parallel=False),
    "gemma2": tiny.gemma2,
    "gemma2-mqa": lambda seed: tiny.gemma2(seed, num_key_value_heads=1),
    "qwen3": tiny.qwen3,
    "qwen3-biased": lambda seed: tiny.qwen3(seed, attention_bias=True),
    "bloom": tiny.bloom,
    "bloom-six-heads": lambda seed: tiny.bloom(seed, n_head=6, hidden_size=24),
    "olmo2": olmo2,
    "gptj": gptj,
    "zoo-attn-only": zoo,
    "zoo-rotary-gqa": lambda seed: zoo(seed, positions="rotary", num_key_value_heads=2, norm="rmsnorm", attn_only=False),
    "zoo-bare": lambda seed: zoo(seed, positions="none", norm="none"),
    "induction": lambda seed: induction_construction(),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_models_pass(name: str, seed: int) -> None:
    module = RIGHT[name](seed)
    implementation = module.config._attn_implementation
    model = load(module)
    assert model.probe is not None
    assert model.causal
    assert model.probe.checked == len(model.sites())
    assert model.probe.worst < 1e-5
    assert module.config._attn_implementation == implementation


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "neox", "gemma2", "qwen3", "bloom"])
def test_other_dtypes_pass(name: str, dtype: torch.dtype, seed: int) -> None:
    probe = load(RIGHT[name](seed).to(dtype)).probe
    assert probe is not None
    assert probe.worst < (1e-6 if dtype == torch.float64 else 5e-2)


def block(module: PreTrainedModel, layer: int = 1) -> Any:
    return module.transformer.h[layer] if hasattr(module, "transformer") else module.model.layers[layer]


def scaled_after_the_tap(module: PreTrainedModel) -> None:
    """The block adds half of what its attention module returns, as models with a residual multiplier do."""
    inner = block(module)
    attend = inner.self_attn

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn = attend
            self.input_layernorm, self.post_attention_layernorm, self.mlp = (
                inner.input_layernorm,
                inner.post_attention_layernorm,
                inner.mlp,
            )

        def forward(self, h: Tensor, **kwargs: Any) -> Tensor:
            h = h + 0.5 * self.self_attn(hidden_states=self.input_layernorm(h), **kwargs)[0]
            return h + self.mlp(self.post_attention_layernorm(h))

    module.model.layers[1] = Half()


def parallel(module: PreTrainedModel) -> None:
    """Attention and MLP both read the block's input, as in GPT-J: nothing is between them."""
    inner = block(module)

    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn, self.mlp = inner.self_attn, inner.mlp
            self.input_layernorm, self.post_attention_layernorm = inner.input_layernorm, inner.post_attention_layernorm

        def forward(self, h: Tensor, **kwargs: Any) -> Tensor:
            attended = self.self_attn(hidden_states=self.input_layernorm(h), **kwargs)[0]
            return h + attended + self.mlp(self.post_attention_layernorm(h))

    module.model.layers[1] = Parallel()


def edited_by_a_hook(module: PreTrainedModel) -> None:
    """A user's hook adds to the block's output after the MLP was added: the stream no longer adds up."""
    block(module).register_forward_hook(lambda m, a, o: o + 1.0)


def mixed_heads(module: PreTrainedModel) -> None:
    """Heads are permuted between pattern × v and W_O."""
    block(module).self_attn.o_proj.register_forward_pre_hook(lambda m, a: (a[0].roll(8, -1),))


@pytest.mark.parametrize(
    ("sabotage", "lost", "words"),
    [
        (scaled_after_the_tap, ("attn_out", "resid_mid", "mlp_out"), "the stream before + it = the stream after"),
        (parallel, ("resid_mid",), "attention and MLP of model.layers.1 both read the block's input"),
        (edited_by_a_hook, ("mlp_out",), "the stream before + it = the stream after"),
        (mixed_heads, ("q", "k", "v"), "pattern × v = z"),
    ],
)
def test_a_sabotaged_block_loses_the_sites_whose_laws_it_breaks(
    sabotage: Callable[[PreTrainedModel], None], lost: tuple[str, ...], words: str, tiny_llama: PreTrainedModel
) -> None:
    whole = load(tiny_llama)
    sabotage(tiny_llama)
    model = load(tiny_llama, name="broken")
    assert set(whole.sites()) - set(model.sites()) == {Site(name, layer=1) for name in lost}
    with pytest.raises(UnknownSiteError, match=r"only the layers \[0, 2\] of broken have .*" + re.escape(words)):
        model.check(Site(lost[0], layer=1))
    assert not any(m._forward_hooks and sabotage is not edited_by_a_hook for m in tiny_llama.modules())


def test_heads_are_counted_in_the_pattern_not_in_the_config(tiny_llama: PreTrainedModel) -> None:
    """The config says two heads of width 16 where the model runs four of width 8."""
    tiny_llama.config.num_attention_heads = 2
    assert load(tiny_llama).sizes["head"] == 4


def test_an_mlp_whose_output_is_dropped_adds_nothing(tiny_gpt2: PreTrainedModel) -> None:
    inner = block(tiny_gpt2)

    def forward(h: Tensor, **kwargs: Any) -> Tensor:
        h = h + inner.attn(inner.ln_1(h), attention_mask=kwargs.get("attention_mask"))[0]
        inner.mlp(inner.ln_2(h))
        return h

    inner.forward = lambda h, *args, **kwargs: forward(h, **kwargs)
    model = load(tiny_gpt2)
    assert not model.has(Site("mlp_out", layer=1))
    assert model.has(Site("resid_mid", layer=1))


class Mixes(nn.Module):
    """Self-attention without a mask, in the names that transformers uses."""

    class Attention(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (p(x).unflatten(-1, (2, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
            pattern = torch.softmax(q @ k.transpose(-1, -2), dim=-1)
            return self.o_proj((pattern @ v).transpose(1, 2).flatten(-2))

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.self_attn = Mixes.Attention(width)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.self_attn(x)

    def __init__(self) -> None:
        super().__init__()
        self.config = type("Config", (), {"num_attention_heads": 2})()
        self.embed = nn.Embedding(13, 8)
        self.layers = nn.ModuleList([Mixes.Block(8), Mixes.Block(8)])
        self.out = nn.Linear(8, 13)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return self.out(x)


def test_a_model_that_looks_ahead_is_not_causal(seed: int) -> None:
    torch.manual_seed(seed)
    model = load(Mixes())
    assert model.probe is not None
    assert not model.causal


def test_without_a_probe_nothing_is_taken_for_causal(tiny_gpt2: PreTrainedModel) -> None:
    assert not load(tiny_gpt2, check=False).causal


def test_the_probe_leaves_the_random_state_alone(tiny_gpt2: PreTrainedModel) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load(tiny_gpt2)
    assert torch.equal(torch.rand(3), expected)
