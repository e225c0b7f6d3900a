"""Small networks whose attributions are known: a linear one, a saturated softmax, a node that a later layer undoes."""

from __future__ import annotations

import torch

from interp.models import Model, load
from interp.models.zoo import ZooConfig
from interp.models.zoo.modeling import ZooForCausalLM
from interp.prompts import Pair, Pairs, Prompt

WORDS = 6
"""Tokens of the two nets below; each has its own logit and a place of its own in the stream."""
SURE, FLAT = 4, 5
"""Last tokens of the saturated net: the first attends to one token alone, the second to all alike."""
DIRECT = 1.5
"""What the node of :func:`cancelling` adds to the logit that is read."""


def _zoo(layers: int, width: int, **changes: object) -> ZooForCausalLM:
    sizes = {
        "vocab_size": WORDS, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 1, "head_dim": width,
        "max_position_embeddings": 16, "positions": "none", "norm": "none", "attention_scale": 1.0, "hidden_act": "linear",
    }  # fmt: skip
    return ZooForCausalLM(ZooConfig(**(sizes | changes))).eval().double()


def linear(seed: int, layers: int = 3, heads: int = 2) -> Model:
    """No norm, MLPs without nonlinearity, every row of attention uniform: all is linear in the token embeddings."""
    width = 12
    changes = {"num_attention_heads": heads, "head_dim": 5, "vocab_size": 97, "positions": "learned", "attention_bias": True}
    module = _zoo(layers, width, **changes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / parameter.shape[-1] ** 0.5
            parameter.copy_(0 * draw if "q_proj" in name or "k_proj" in name else draw)
    return load(module)


def saturated(sharpness: float = 16.0) -> Model:
    """A head that says at the last position what it attends to; a second layer is idle.

    The stream is the one-hot token. Behind :data:`SURE` the query matches token 0 alone, by ``sharpness``, so that its share p
    of the row is above 1 − 1e-6; behind :data:`FLAT` the query is zero and the row uniform. What is said is the share of each
    token, as its logit, so the logits are linear in the pattern.
    """
    module = _zoo(2, 2 * WORDS, attn_only=True)
    tokens = torch.arange(WORDS)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.model.embed_tokens.weight[tokens, tokens] = 1.0
        first = module.model.layers[0].self_attn
        first.q_proj.weight[0, SURE] = sharpness
        first.k_proj.weight[0, 0] = 1.0
        first.v_proj.weight[tokens, tokens] = 1.0
        first.o_proj.weight[WORDS + tokens, tokens] = 1.0
        module.lm_head.weight[tokens, WORDS + tokens] = 1.0
    return load(module)


def saturated_pairs() -> Pairs:
    """Sure on the clean prompt, flat on the corrupted one; token 0 against token 1."""
    contexts = [(0, 1, 2), (2, 0, 1), (1, 3, 0)]
    return Pairs(tuple(Pair(Prompt((*c, SURE)), Prompt((*c, FLAT)), (0,), (1,)) for c in contexts))


def cancelling() -> Model:
    """Layer 0's MLP adds :data:`DIRECT` × [token is 0] to a direction that token 1's logit reads; layer 1's takes it all back.

    Layer 2 is idle. Token 2's logit is always 0.
    """
    module = _zoo(3, 2 * WORDS, intermediate_size=1, mlp_bias=False)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.model.embed_tokens.weight[torch.arange(WORDS), torch.arange(WORDS)] = 1.0
        says, takes = module.model.layers[0].mlp, module.model.layers[1].mlp
        says.up_proj.weight[0, 0] = 1.0
        says.down_proj.weight[WORDS, 0] = DIRECT
        takes.up_proj.weight[0, WORDS] = 1.0
        takes.down_proj.weight[WORDS, 0] = -1.0
        module.lm_head.weight[1, WORDS] = 1.0
    return load(module)


def cancelling_pairs() -> Pairs:
    """The node is on at the end of the clean prompt and off at that of the corrupted one; token 1 against token 2."""
    return Pairs(tuple(Pair(Prompt((3, first, 0)), Prompt((3, first, 4)), (1,), (2,)) for first in (3, 4)))
