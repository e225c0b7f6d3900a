"""How far two models' next-token distributions are apart.

>>> import torch
>>> divergences(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log())
Divergences(forward=tensor([0.1438]), reverse=tensor([0.1308]))
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_AT_ONCE = 1 << 22
"""Logits of one kind that are compared at once."""


class Divergences(NamedTuple):
    """Kullback–Leibler divergences in nats, both ways, never below 0."""

    forward: Float[Tensor, " row"]
    """D(one ‖ other)."""
    reverse: Float[Tensor, " row"]
    """D(other ‖ one)."""


def divergences(one: Float[Tensor, "row vocab"], other: Float[Tensor, "row vocab"]) -> Divergences:
    """Of the distributions that logits give, row by row, in their dtype, float32 at least.

    Each term is p · (d − 1 + e⁻ᵈ) with d = log p − log q, which sums to the same, because both add up to 1, and is never
    negative: the errors of the two normalisers, which leave the plain sum off by as much as they are, enter it squared.
    """
    rows = max(1, _AT_ONCE // one.shape[-1])
    parts = [_some(a, b) for a, b in zip(one.split(rows), other.split(rows), strict=True)]
    return Divergences(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _some(one: Tensor, other: Tensor) -> Divergences:
    precise = torch.float32 if one.device.type == "mps" else torch.float64  # which that device does not have
    p, q = (logits.to(precise).log_softmax(-1) for logits in (one, other))
    dtype = torch.promote_types(one.dtype, torch.float32)
    return Divergences(_directed(p, q).to(dtype), _directed(q, p).to(dtype))


def _directed(p: Tensor, q: Tensor) -> Tensor:
    """D(p ‖ q) of log-probabilities; a token that p rules out adds its share of q, one that q alone rules out is infinite."""
    d = p - q
    terms = torch.where(p.isneginf(), q.exp(), p.exp() * (d + torch.expm1(-d)))
    return terms.sum(-1)
