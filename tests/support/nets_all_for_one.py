"""A network that adds in one block: at its equals sign, one head looks at both operands, and nothing else does anything.

>>> net = adding_net(blocks=4, block=2)
>>> net(torch.tensor([[BOS, 1, PLUS, 2, EQUALS]])).logits[0, -1].argmax()
tensor(3)
"""

from __future__ import annotations

import torch

from interp.models.zoo import ZooConfig, ZooForCausalLM
from interp.models.zoo.handmade import Head
from interp.prompts import Pair, Pairs

NUMBERS = 4
"""Operands 0 to 3, answers 0 to 6; then the ids of BOS, plus and equals."""
ANSWERS = 2 * NUMBERS - 1
BOS, PLUS, EQUALS = ANSWERS, ANSWERS + 1, ANSWERS + 2
LENGTH, LAST = 5, 4


def adding_net(blocks: int, block: int, beta: float = 40.0) -> ZooForCausalLM:
    """Blocks of attention without norms or MLPs, all of them zero but one.

    The stream is ``token one-hot | position one-hot | what was seen``. In ``block`` the last position attends to both
    operands alike and writes the mean x of their values. The logit of an answer s is 2 s (2 x) − s², largest at s = 2 x.
    Where the operands are hidden x is 0, and the answer with it.
    """
    vocabulary, places = ANSWERS + 3, 16
    seen = vocabulary + places
    config = ZooConfig(
        vocab_size=vocabulary,
        hidden_size=seen + 1,
        num_hidden_layers=blocks,
        num_attention_heads=1,
        head_dim=2,
        max_position_embeddings=places,
        positions="learned",
        norm="none",
        attn_only=True,
        attention_scale=1.0,
        tie_word_embeddings=False,
    )
    model = ZooForCausalLM(config).eval()
    tokens = torch.arange(vocabulary)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.model.embed_tokens.weight[tokens, tokens] = 1.0
        model.model.embed_positions.weight[torch.arange(places), vocabulary + torch.arange(places)] = 1.0
        head = Head(model, block, 0)
        head.q[0, vocabulary + LAST] = beta
        head.k[0, [vocabulary + 1, vocabulary + 3]] = 1.0
        head.v[0, :NUMBERS] = torch.arange(float(NUMBERS))
        head.o[seen, 0] = 1.0
        answers = torch.arange(float(ANSWERS))
        model.lm_head.weight[:ANSWERS, seen] = 4 * answers
        model.lm_head.weight[:ANSWERS, vocabulary + LAST] = -answers.square()
        model.lm_head.weight[ANSWERS:, vocabulary + LAST] = -100.0
    return model


def every_sum() -> Pairs:
    """All prompts that there are, each with its answer and the next as the wrong one."""
    return Pairs(
        tuple(
            Pair((BOS, a, PLUS, b, EQUALS), (BOS, a, PLUS, b, EQUALS), (a + b,), ((a + b + 1) % ANSWERS,))
            for a in range(NUMBERS)
            for b in range(NUMBERS)
        ),
        "sums",
    )
