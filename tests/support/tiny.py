"""Tiny random models built from config, offline: float32, eval mode, the same again for the same seed.

>>> model = llama(seed=0)
>>> model.config.num_attention_heads, model.config.num_key_value_heads
(4, 2)

Every parameter matters (no zero biases, no unit gains) and logits are a few units wide, so that a patch at any site shows.
"""

from __future__ import annotations

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from interp.sites import COMPONENTS

# Deliberately awkward: an MLP that is no multiple of the stream, a vocabulary that is no multiple of anything.
LAYERS, WIDTH, HEADS, KV_HEADS, MLP, VOCAB, LENGTH = 3, 32, 4, 2, 56, 97, 64

RARE = {n for n in COMPONENTS if n.startswith(("cross_", "mixer_"))} | {"resid_cross", "latent", "k_rotary"}
RARE |= {"routing", "expert_out"}
"""Components that few architectures have."""


def gpt2(seed: int) -> PreTrainedModel:
    """Learned positions, fused projections, biases, LayerNorm, tied embeddings."""
    config = GPT2Config(
        n_layer=LAYERS,
        n_embd=WIDTH,
        n_head=HEADS,
        n_inner=MLP,
        n_positions=LENGTH,
        vocab_size=VOCAB,
        bos_token_id=0,
        eos_token_id=0,
        architectures=["GPT2LMHeadModel"],
    )
    return random_model(config, seed)


def llama(seed: int, **changes: object) -> PreTrainedModel:
    """Rotary positions, two key/value heads for four query heads, gated MLP, RMSNorm."""
    return random_model(LlamaConfig(**_rotary("LlamaForCausalLM", changes)), seed)


def mistral(seed: int, *, window: int = 4) -> PreTrainedModel:
    """As Llama, but attention sees the last ``window`` positions only."""
    return random_model(MistralConfig(**_rotary("MistralForCausalLM", {"sliding_window": window})), seed)


def neox(seed: int, parallel: bool = True) -> PreTrainedModel:
    """Query, key and value interleaved by head, half of each head rotated, biases; attention and MLP side by side, or not."""
    rotary = _rotary("GPTNeoXForCausalLM", {"use_parallel_residual": parallel, "rotary_pct": 0.5})
    del rotary["num_key_value_heads"]
    return random_model(GPTNeoXConfig(**rotary), seed)


def gemma2(seed: int, **changes: object) -> PreTrainedModel:
    """Norms before and after attention and MLP, soft caps that bite, wide heads, windows of 4 in every other layer."""
    own: dict[str, object] = {
        "head_dim": 12,
        "query_pre_attn_scalar": 20,
        "sliding_window": 4,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 16.0,
        "tie_word_embeddings": True,
    }
    return random_model(Gemma2Config(**_rotary("Gemma2ForCausalLM", own | changes)), seed)


def qwen3(seed: int, **changes: object) -> PreTrainedModel:
    """As Llama, with norms of each head's query and key, and heads that do not fill the stream."""
    return random_model(Qwen3Config(**_rotary("Qwen3ForCausalLM", {"head_dim": 12} | changes)), seed)


def bloom(seed: int, **changes: object) -> PreTrainedModel:
    """Alibi, a norm after the embedding, interleaved projections; attention and MLP modules add to the stream themselves."""
    sizes = {
        "n_layer": LAYERS,
        "hidden_size": WIDTH,
        "n_head": HEADS,
        "vocab_size": VOCAB,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return random_model(BloomConfig(**(sizes | {"architectures": ["BloomForCausalLM"]} | changes)), seed)


def random_model(config: PretrainedConfig, seed: int) -> PreTrainedModel:
    """A causal language model of any configuration, with weights drawn here rather than by its own initialisation."""
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                gain = name.endswith("weight")  # of a norm: 1-D weights are nothing else
                parameter.copy_(0.2 * draw + gain)
            else:
                scale = 0.5 if "embed" in name or "wte" in name else 1.5 / parameter.shape[-1] ** 0.5
                parameter.copy_(scale * draw)
    return model


def _rotary(architecture: str, changes: dict[str, object]) -> dict[str, object]:
    sizes = {
        "num_hidden_layers": LAYERS,
        "hidden_size": WIDTH,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "intermediate_size": MLP,
        "max_position_embeddings": LENGTH,
        "vocab_size": VOCAB,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
        "architectures": [architecture],  # TransformerLens looks models up by it
    }
    return sizes | changes
