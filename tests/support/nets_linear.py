"""A net without a nonlinearity between embedding and logits."""

from __future__ import annotations

import torch

from interp.models import Model, load
from interp.models.zoo import ZooConfig, ZooForCausalLM


def linear(seed: int = 0, layers: int = 3) -> Model:
    """N-lin of the method cards: no norm, attention that is the same whatever the prompt, linear MLPs.

    Queries and keys are zero, so that every pattern is uniform; all else is drawn.
    """
    config = ZooConfig(
        vocab_size=100,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        norm="none",
        hidden_act="linear",
    )
    net = ZooForCausalLM(config).eval().double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype) / weight.shape[-1] ** 0.5)
            if "q_proj" in name or "k_proj" in name:
                weight.zero_()
    return load(net, name=f"linear-{seed}")
