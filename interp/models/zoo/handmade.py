"""Networks whose weights are formulas, so that what a method finds can be compared with the truth.

    >>> model = induction_construction(n_tokens=5, length=12)
    >>> tokens = induction_sequences(4, seed=0)
    >>> model(tokens).logits[:, -1].shape          # the empirical conditional of the token that follows the last one
    torch.Size([4, 5])
    >>> net = hierarchical_equality(m=4)
    >>> net(torch.ones(1, 16)).argmax(-1)          # (w = x) = (y = z): True
    tensor([1])

Sources: the induction construction of Nichani et al., "How Transformers Learn Causal Structure with Gradient Descent"
(arXiv 2402.14735); hierarchical equality as in Geiger et al. (arXiv 2303.02536), here with formulas for weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as tokenizer_models
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from interp.models.zoo.modeling import ZooConfig, ZooForCausalLM

ROOT = -1
"""Parent of a position that has none."""

INDUCTION_HEADS = ((0, 1), (1, 0))
"""The two (layer, head) of :func:`induction_construction` that do anything: copy the parent, then look up by it."""


def parents_of(parents: str | Sequence[int], length: int) -> tuple[int, ...]:
    """The parent of every position: ``"chain"`` means the position before; a sequence is checked.

    >>> parents_of("chain", 4)
    (-1, 0, 1, 2)

    Raises:
        ValueError: another length, or a parent that is not earlier than its child.
    """
    if isinstance(parents, str):
        if parents != "chain":
            raise ValueError(f"parents={parents!r}: expected 'chain' or one parent a position, {ROOT} where there is none")
        return tuple(range(ROOT, length - 1))
    found = tuple(int(p) for p in parents)
    if len(found) != length:
        raise ValueError(f"parents has {len(found)} entries, but length={length}: one parent a position is needed")
    late = [i for i, p in enumerate(found) if not ROOT <= p < i]
    if late:
        raise ValueError(
            f"the parent of position {late[0]} is {found[late[0]]}; expected an earlier position, or {ROOT} for none"
        )
    return found


def induction_construction(
    n_tokens: int = 5,
    length: int = 12,
    parents: str | Sequence[int] = "chain",
    beta: float = 40.0,
    gamma: float = 40.0,
) -> ZooForCausalLM:
    """Two attention layers that count, in context, which token follows which on a given graph of positions.

    Logits at the last position are the empirical conditional itself (probabilities, not their logarithms)::

        logits[s] = #{i : x[parent(i)] = x[last], x[i] = s} / #{i : x[parent(i)] = x[last]}

    over positions i that have a parent, the last one left out; uniform over the eligible positions where nothing matches. The
    error is of order exp(-min(beta, gamma)).

    The paper concatenates what each layer computes; here the concatenated streams are orthogonal blocks of one residual
    stream, with d0 = n_tokens + length::

        [0, d0)        token one-hot, position one-hot      (embeddings)
        [d0, 2 d0)     the same of the parent               (written by layer 0, head 1)
        [2 d0, 4 d0)   average of both over the matches     (written by layer 1, head 0)

    Layer 0 head 1 scores ``beta`` from a position to its parent. Layer 1 head 0 scores ``gamma`` where the token copied from
    the parent equals the current token, and -10 gamma at positions without a parent and at the last position. The other head
    of each layer (L0H0, L1H1) has random queries, keys and values, and zero output: it attends, but can have no effect.
    ``INDUCTION_HEADS`` says so to a program. There is no normalisation, no MLP, no BOS; prompts are ``length`` token ids.

    Args:
        n_tokens: vocabulary size (S of the paper).
        length: number of positions (T); the final position holds the query token.
        parents: ``"chain"`` (the position before), or one earlier position each, -1 where there is none.
        beta, gamma: sharpness of the two layers' attention.
    """
    above = parents_of(parents, length)
    d0 = n_tokens + length
    config = ZooConfig(
        vocab_size=n_tokens,
        hidden_size=4 * d0,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=2 * d0,
        max_position_embeddings=length,
        positions="learned",
        norm="none",
        attn_only=True,
        attention_scale=1.0,
        tie_word_embeddings=False,
    )
    model = ZooForCausalLM(config).eval()
    tokens, places = torch.arange(n_tokens), torch.arange(length)
    place = n_tokens + places  # columns of the position block
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.model.embed_tokens.weight[tokens, tokens] = 1.0
        model.model.embed_positions.weight[places, place] = 1.0

        copy, look = (Head(model, *which) for which in INDUCTION_HEADS)
        # layer 0: the query at i and the key at parent(i) meet in coordinate parent(i)
        for i, parent in enumerate(above):
            if parent != ROOT:
                copy.q[parent, n_tokens + i] = beta
        copy.k[places, place] = 1.0
        copy.carry(start=0, width=d0, to=d0)
        # layer 1: query = current token, key = the parent's token, pushed down where it must not count
        look.q[tokens, tokens] = 1.0
        look.k[tokens, d0 + tokens] = gamma
        for i, parent in enumerate(above):
            if parent == ROOT or i == length - 1:
                look.k[tokens, n_tokens + i] = -10.0 * gamma
        look.carry(start=0, width=2 * d0, to=2 * d0)
        model.lm_head.weight[tokens, 2 * d0 + tokens] = 1.0

        for layer, head in INDUCTION_HEADS:
            idle = Head(model, layer, 1 - head)
            for weight in (idle.q, idle.k, idle.v):
                weight.copy_(torch.randn(weight.shape, generator=noise) / d0**0.5)
    return model


class Head:
    """Views of one head's weights: ``q``, ``k``, ``v`` are ``[d_head, d_model]``, ``o`` is ``[d_model, d_head]``."""

    def __init__(self, model: ZooForCausalLM, layer: int, head: int) -> None:
        attention = model.model.layers[layer].self_attn
        rows = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
        self.q, self.k, self.v = (p.weight[rows] for p in (attention.q_proj, attention.k_proj, attention.v_proj))
        self.o = attention.o_proj.weight[:, rows]

    def carry(self, start: int, width: int, to: int) -> None:
        """Move ``width`` coordinates of the stream from ``start`` to ``to``, unchanged."""
        along = torch.arange(width)
        self.v[along, start + along] = 1.0
        self.o[to + along, along] = 1.0


def induction_tokenizer(n_tokens: int = 5) -> PreTrainedTokenizerFast:
    """One letter a token, split at spaces, no special tokens: ``"a b a"`` is ``[0, 1, 0]``.

    Raises:
        ValueError: more tokens than the alphabet has letters.
    """
    letters = "abcdefghijklmnopqrstuvwxyz"
    if not 0 < n_tokens <= len(letters):
        raise ValueError(f"n_tokens={n_tokens}: this tokenizer has one letter a token, so 1 to {len(letters)}")
    inner = Tokenizer(tokenizer_models.WordLevel({letter: i for i, letter in enumerate(letters[:n_tokens])}))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False)


def induction_sequences(
    n: int,
    seed: int,
    n_tokens: int = 5,
    length: int = 12,
    parents: str | Sequence[int] = "chain",
    alpha: float = 0.1,
) -> Tensor:
    """Token ids ``[example, position]`` from a random Markov chain an example, the last token a uniform query.

    Rows of the transition matrix are Dirichlet(alpha); a position without a parent is uniform.
    """
    above = parents_of(parents, length)
    random = np.random.default_rng(seed)
    edges = random.dirichlet(np.full(n_tokens, alpha), size=(n, n_tokens)).cumsum(-1)
    out = random.integers(n_tokens, size=(n, length))
    for i, parent in enumerate(above[:-1]):
        if parent != ROOT:
            beyond = random.random((n, 1)) > edges[np.arange(n), out[:, parent], :-1]
            out[:, i] = beyond.sum(-1)  # the first token whose cumulated probability exceeds the draw
    return torch.from_numpy(out)


class EqualityRows(NamedTuple):
    """Inputs of hierarchical equality with the values of its causal model."""

    inputs: Tensor
    """``[example, 4 m]``, four entities of entries -1 and 1."""
    equal: Tensor
    """``[example, 2]``, boolean: first pair equal (WX), second pair equal (YZ)."""
    label: Tensor
    """``[example]``, boolean: the two agree (O)."""


class HierarchicalEquality(nn.Module):
    """ReLU network for ``(w = x) = (y = z)``; see :func:`hierarchical_equality`."""

    def __init__(self, m: int = 4, dtype: torch.dtype = torch.float32, rotation: Tensor | None = None) -> None:
        super().__init__()
        self.m = m
        eye, zero = torch.eye(m, dtype=dtype), torch.zeros(m, m, dtype=dtype)
        pair = torch.cat((torch.cat((eye, -eye), 1), torch.cat((-eye, eye), 1)))
        delta = 2.0  # smallest L1 distance of two distinct entities
        u_p, u_q = self.planted(dtype)
        turn = torch.eye(4 * m, dtype=dtype) if rotation is None else rotation.to(dtype)
        second = torch.stack((u_p, u_p, u_q, u_q)) @ turn.T
        bias = torch.tensor([0.0, -delta, 0.0, -delta], dtype=dtype)
        third = torch.tensor([[1.0, -1.0, -1.0, 1.0], [-1.0, 1.0, 1.0, -1.0]], dtype=dtype)
        readout = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=dtype)
        self.first = linear(torch.cat((torch.cat((pair, zero.repeat(2, 2)), 1), torch.cat((zero.repeat(2, 2), pair), 1))))
        self.act1 = nn.ReLU()
        self.hidden = nn.Identity() if rotation is None else linear(turn)
        self.second = linear(second, bias)
        self.act2 = nn.ReLU()
        self.third = linear(third)
        self.act3 = nn.ReLU()
        self.readout = linear(readout, torch.tensor([-delta / 2, delta / 2], dtype=dtype))

    def planted(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """``u_p, u_q [feature]``: what the network reads of ``act1``'s output is its products with these two, no more."""
        half = torch.arange(4 * self.m) < 2 * self.m
        return half.to(dtype), (~half).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hidden(self.act1(self.first(x)))
        return self.readout(self.act3(self.third(self.act2(self.second(hidden)))))

    def rotated(self, seed: int) -> HierarchicalEquality:
        """The same function with ``hidden`` a random rotation Q: the answer is now a subspace, no set of units.

        Q is Haar-distributed (QR of a Gaussian matrix, signs fixed by R's diagonal) and ``second`` undoes it.
        """
        draw = torch.randn(4 * self.m, 4 * self.m, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        q, r = torch.linalg.qr(draw)
        return HierarchicalEquality(self.m, self.first.weight.dtype, rotation=q * r.diagonal().sign())

    def rows(self, n: int, seed: int) -> EqualityRows:
        """``n`` inputs, each pair equal in about half of them, different pairs really different."""
        inputs, equal = entity_pairs(n, 2, self.m, seed)
        return EqualityRows(inputs.to(self.first.weight.dtype), equal, equal[:, 0] == equal[:, 1])


def entity_pairs(n: int, pairs: int, m: int, seed: int) -> tuple[Tensor, Tensor]:
    """Entities of ``m`` entries −1 and 1, two a pair, and which pairs are equal: half of them, the others really different.

    Returns:
        ``[row, 2 pairs m]`` and ``[row, pair]``, boolean.
    """
    generator = torch.Generator().manual_seed(seed)
    equal = torch.rand(n, pairs, generator=generator) < 0.5
    first = torch.randint(2**m, (n, pairs), generator=generator)
    other = (first + torch.randint(1, 2**m, (n, pairs), generator=generator)) % 2**m
    codes = torch.stack((first, torch.where(equal, first, other)), dim=-1).reshape(n, 2 * pairs)
    bits = codes[..., None] >> torch.arange(m) & 1
    return (2 * bits - 1).reshape(n, 2 * pairs * m), equal


def hierarchical_equality(m: int = 4, dtype: torch.dtype = torch.float32) -> HierarchicalEquality:
    """A network of formulas for "the first two entities are equal exactly if the last two are".

    Input ``[example, 4 m]``, entries -1 and 1, the entities w, x, y, z after one another; logits ``[example, 2]`` for (False,
    True), always 1 and -1. Modules in order: ``first act1 hidden second act2 third act3 readout``, so that a site is
    ``"act1:output"`` or ``"hidden:output"``. Units ``[0, 2m)`` of ``act1`` carry the first pair (their sum is the L1 distance
    of w and x), units ``[2m, 4m)`` the second. ``hidden`` is an identity, a rotation in :meth:`HierarchicalEquality.rotated`.
    """
    return HierarchicalEquality(m, dtype).eval()


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear layer of given numbers, ``[output, input]`` and ``[output]``."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer
