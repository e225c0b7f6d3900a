"""Nets of one layer whose two heads each tell END whether a source is on: read by a gate, or written to the logits at odds."""

from __future__ import annotations

from typing import Literal

import torch

from interp.models import Model, load
from interp.models.zoo import ZooConfig, ZooForCausalLM
from interp.models.zoo.handmade import Head
from interp.prompts import Pair, Pairs, Prompt

BOS, OFF, ON, END, RIGHT, WRONG, LOUD = range(7)
_PLACES, _HEARD, _SAID, _WIDTH = 7, 11, 12, 14
ALPHA = 2.0
"""What the negative head takes from the right answer and gives to the wrong one."""


def gates(kind: Literal["or", "and", "opposed"], beta: float = 400.0) -> tuple[Model, Pairs]:
    """``[BOS, source, source, END]``, clean with both sources on and corrupted with both off.

    ``or``: the right answer's logit at END is min(1, heads that hear ON); ``and``: the smaller of the two. ``opposed``: head 0
    adds 3 to the right answer and takes 3 from the wrong one, head 1 takes and gives ``ALPHA``; a third token is far likelier.
    """
    config = ZooConfig(
        vocab_size=7, hidden_size=_WIDTH, intermediate_size=2, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, norm="none", hidden_act="relu", attention_scale=1.0,
    )  # fmt: skip
    net = ZooForCausalLM(config).eval().double()
    tokens, places = torch.arange(7), torch.arange(4)
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
        net.model.embed_tokens.weight[tokens, tokens] = 1.0
        net.model.embed_positions.weight[places, _PLACES + places] = 1.0
        for number in range(2):
            head = Head(net, 0, number)
            head.q[0, _PLACES + 3] = beta
            head.k[0, _PLACES + 1 + number] = 1.0
            head.v[0, ON] = 1.0
            head.o[_HEARD, 0] = 1.0
        mlp = net.model.layers[0].mlp
        if kind != "opposed":
            mlp.up_proj.weight[:, _HEARD] = 1.0
            mlp.up_proj.weight[1, _PLACES + 3] = -1.0  # at END: how many are heard, and how many beyond the first
            mlp.down_proj.weight[_SAID] = torch.tensor([1.0, -1.0] if kind == "or" else [0.0, 1.0])
            net.lm_head.weight[RIGHT, _SAID] = 1.0
        else:
            Head(net, 0, 0).o[_HEARD, 0], Head(net, 0, 1).o[_HEARD, 0] = 3.0, -ALPHA
            net.lm_head.weight[RIGHT, _HEARD], net.lm_head.weight[WRONG, _HEARD] = 1.0, -1.0
            net.lm_head.weight[LOUD, _PLACES + 3] = 60.0
    clean, corrupted = (Prompt((BOS, x, x, END), {"sources": (1, 3)}) for x in (ON, OFF))
    return load(net, name=f"{kind} of two"), Pairs((Pair(clean, corrupted, RIGHT, WRONG),), f"{kind} of two")
