"""A net in which one MLP reads the subject and one head brings what it says to the end."""

from __future__ import annotations

import torch

from interp.models import Model, load
from interp.models.zoo import ZooConfig, ZooForCausalLM
from interp.models.zoo.handmade import Head
from interp.prompts import Pair, Pairs, Prompt


def one_reader(n_tokens: int = 3, beta: float = 200.0, loud: float = 1e9) -> tuple[Model, Pairs]:
    """``[BOS, subject, END]``: MLP 1 says the subject at the subject's own token, L2H0 carries that to END; the rest is zero.

    The stream is ``token one-hot | position one-hot | what is said``; the logit of the subject at END is 1, others are 0.
    What is said is so loud that noise on an embedding's own entries of it is as good as none; noise well below 1 leaves the
    head's attention where it is.
    """
    vocabulary, length = n_tokens + 2, 3
    said = vocabulary + length
    config = ZooConfig(
        vocab_size=vocabulary,
        hidden_size=said + vocabulary,
        intermediate_size=n_tokens,
        num_hidden_layers=3,
        num_attention_heads=1,
        max_position_embeddings=16,
        norm="none",
        hidden_act="relu",
        attention_scale=1.0,
    )
    net = ZooForCausalLM(config).eval().double()
    tokens, subjects = torch.arange(vocabulary), torch.arange(n_tokens)
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
        net.model.embed_tokens.weight[tokens, tokens] = 1.0
        net.model.embed_positions.weight[torch.arange(length), vocabulary + torch.arange(length)] = 1.0
        reader = net.model.layers[1].mlp
        reader.up_proj.weight[subjects, subjects] = 1.0
        reader.down_proj.weight[said + subjects, subjects] = loud
        carrier = Head(net, 2, 0)
        carrier.q[0, vocabulary + 2] = beta
        carrier.k[0, vocabulary + 1] = 1.0
        carrier.carry(said, vocabulary, said)
        net.lm_head.weight[tokens, said + tokens] = 1 / loud
    prompts = [Prompt((n_tokens, subject, n_tokens + 1), {"subject": (1, 2)}) for subject in range(n_tokens)]
    pairs = [Pair(one, one, n, (n + 1) % n_tokens) for n, one in enumerate(prompts)]
    return load(net, name="one reader"), Pairs(tuple(pairs), "one reader")
