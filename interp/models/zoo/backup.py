"""A head with a backup: two heads that can say the same, of which the second speaks only where the first did not.

    >>> model = backup_construction()
    >>> model(backup_prompts(model)).logits[:, -1].round().int().tolist()
    [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]]

Self-repair in its simplest form (the backup name movers of Wang et al., arXiv 2211.00593): ablating the first head changes
little, ablating the second nothing, and ablating the second *given* that the first is ablated changes all that is left.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp.models.zoo.handmade import Head
from interp.models.zoo.modeling import ZooConfig, ZooForCausalLM

PRIMARY, BACKUP = (0, 0), (1, 0)
"""The two (layer, head) that say anything."""
INTERFERING = (1, 1)
"""The one that speaks against them, where it is asked for."""


def backup_construction(
    n_tokens: int = 3, strength: float = 0.75, beta: float = 60.0, interference: float = 0.0, alert: float = 2.0
) -> ZooForCausalLM:
    """Two attention layers that repeat the middle one of three tokens, ``[BOS, subject, END]``.

    The logit of the subject at END, all others being 0, to within exp(−beta)::

        as it is                      1
        L0H0 zeroed                   strength      (the backup takes over: an effect of strength − 1)
        L1H0 zeroed                   1             (an effect of 0)
        both zeroed                   0             (given the first, the second has an effect of −strength)
        L0H0 zeroed, patterns held    0             (its direct effect, −1: nothing takes over)

    The stream is ``token one-hot | position one-hot | what is said | whether the first head spoke``. L0H0 attends from END to
    the subject by position, says it and sets the mark. L1H0 attends there unless the mark is set, in which case it
    attends to BOS, which says nothing. The other head of each layer is zero, unless L1H1 interferes: it attends to the subject
    whatever the others do and takes ``interference`` from its logit. There is no normalisation and no MLP.

    Args:
        n_tokens: subjects there are; BOS and END are the two ids behind them.
        strength: what the backup says, where it speaks.
        beta: sharpness of attention.
        interference: what L1H1 takes away.
        alert: the backup speaks where the mark is below 1 / alert: of a first head that is scaled by g, it is g.
    """
    vocabulary, length = n_tokens + 2, 3
    said, mark = vocabulary + length, vocabulary + length + vocabulary
    config = ZooConfig(
        vocab_size=vocabulary,
        hidden_size=2 * (mark + 1),
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=mark + 1,
        max_position_embeddings=16,  # those behind END mean nothing; a probe of the model has more than three tokens
        positions="learned",
        norm="none",
        attn_only=True,
        attention_scale=1.0,
        tie_word_embeddings=False,
    )
    model = ZooForCausalLM(config).eval()
    tokens, subjects = torch.arange(vocabulary), torch.arange(n_tokens)
    subject, end = vocabulary + 1, vocabulary + 2  # of the position block
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.model.embed_tokens.weight[tokens, tokens] = 1.0
        model.model.embed_positions.weight[torch.arange(length), vocabulary + torch.arange(length)] = 1.0
        first, second = (Head(model, *which) for which in (PRIMARY, BACKUP))
        first.q[0, end] = beta
        first.k[0, subject] = 1.0
        first.v[subjects, subjects] = 1.0
        first.o[said + subjects, subjects] = 1.0
        first.v[n_tokens, subjects] = 1.0
        first.o[mark, n_tokens] = 1.0
        second.q[0, end] = beta
        second.q[0, mark] = -alert * beta
        second.k[0, subject] = 1.0
        second.v[subjects, subjects] = 1.0
        second.o[said + subjects, subjects] = strength
        if interference:
            against = Head(model, *INTERFERING)
            against.q[0, end] = beta
            against.k[0, subject] = 1.0
            against.v[subjects, subjects] = 1.0
            against.o[said + subjects, subjects] = -interference
        model.lm_head.weight[tokens, said + tokens] = 1.0
    return model


def backup_prompts(model: ZooForCausalLM) -> Tensor:
    """Every prompt that there is, ``[example, 3]``: BOS, a subject, END."""
    n = model.config.vocab_size - 2
    subjects = torch.arange(n)
    return torch.stack([torch.full_like(subjects, n), subjects, torch.full_like(subjects, n + 1)], dim=-1)
