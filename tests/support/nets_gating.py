"""Nets for gates on heads: one layer without norms whose heads each say the subject at END, under conditions of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from interp.models import Model, load
from interp.models.zoo import ZooConfig, ZooForCausalLM
from interp.models.zoo.handmade import Head
from interp.prompts import Pair, Pairs, Prompt

SUBJECTS, BOS = 4, 4
ENDS = (5, 6)
"""The last tokens of two tasks."""
_VOCABULARY, _LENGTH = 7, 3


def speakers(said: Sequence[float], hear: Sequence[Sequence[int]] | None = None, beta: float = 60.0) -> Model:
    """``[BOS, subject, END]``: head i adds ``said[i]`` to the subject's logit at the ENDs that it hears, all others being 0.

    At the other END it attends to BOS, which says nothing.
    """
    heads = len(said)
    width = _VOCABULARY + _LENGTH + SUBJECTS
    config = ZooConfig(
        vocab_size=_VOCABULARY, hidden_size=heads * width, num_hidden_layers=1, num_attention_heads=heads, head_dim=width,
        max_position_embeddings=16, positions="learned", norm="none", attn_only=True, attention_scale=1.0,
        tie_word_embeddings=False,
    )  # fmt: skip
    net = ZooForCausalLM(config).eval().double()
    tokens, places, subjects = torch.arange(_VOCABULARY), torch.arange(_LENGTH), torch.arange(SUBJECTS)
    at_subject, at_start, out = _VOCABULARY + 1, _VOCABULARY, _VOCABULARY + _LENGTH
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
        net.model.embed_tokens.weight[tokens, tokens] = 1.0
        net.model.embed_positions.weight[places, _VOCABULARY + places] = 1.0
        for number, strength in enumerate(said):
            head = Head(net, 0, number)
            heard = ENDS if hear is None else hear[number]
            for end in ENDS:
                head.q[0 if end in heard else 1, end] = beta
            head.k[0, at_subject] = head.k[1, at_start] = 1.0
            head.v[subjects, subjects] = 1.0
            head.o[out + subjects, subjects] = strength
        net.lm_head.weight[subjects, out + subjects] = 1.0
    return load(net, name="speakers")


def task(end: int = 0, wrong: bool = False) -> Pairs:
    """Every prompt with one of the two ENDs; the counterfactual has the next subject, the wrong answer if asked for."""
    made = []
    for subject in range(SUBJECTS):
        other = (subject + 1) % SUBJECTS
        clean, corrupted = (Prompt((BOS, of, ENDS[end])) for of in (subject, other))
        made.append(Pair(clean, corrupted, subject, (other,) if wrong else ()))
    return Pairs(tuple(made), f"task {end}")
