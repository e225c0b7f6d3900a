"""Mixtures of experts: which experts a token is sent to, with what weights, and what each of them gives by itself.

>>> import torch
>>> dense(torch.tensor([[2, 0]]), torch.tensor([[0.75, 0.25]]), 4).tolist()
[[0.25, 0.0, 0.75, 0.0]]
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from interp.models.calls import Call, output_tensor


@dataclass(frozen=True)
class Experts:
    """Each expert's own contribution to what a mixture of experts gives: the tokens that are sent to it, run through it alone.

    The module is called as transformers calls it, ``experts(hidden, index, weights)`` with ``[token, choice]`` experts a token.
    """

    experts: int

    def read(self, seen: Tensor, call: Call | None) -> Float[Tensor, "example position expert d_model"]:
        assert call is not None
        hidden, index, weights = routed(call)
        forward = call.forward or call.module.forward
        found = hidden.new_zeros(len(hidden), self.experts, seen.shape[-1])
        for expert in index.unique().tolist():
            token, choice = (index == expert).nonzero(as_tuple=True)
            if expert < self.experts:  # implementations that split experts over devices send what is not theirs beyond the last
                alone = forward(hidden[token], index[token, choice, None], weights[token, choice, None])
                found[token, expert] = output_tensor(alone).to(found.dtype)
        return found.reshape(*seen.shape[:-1], self.experts, seen.shape[-1])

    def put(self, seen: Tensor, new: Tensor, call: Call | None) -> Tensor:
        return seen + (new - self.read(seen, call)).sum(-2)


def routed(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, the experts that each is sent to, and their weights, as a mixture of experts is called with them."""
    given = [value for value in (*call.args, *call.kwargs.values()) if isinstance(value, Tensor)]
    if len(given) < 3:
        raise TypeError(f"{type(call.module).__name__} was called with {len(given)} tensors, not tokens, experts and weights")
    return given[0], given[1], given[2]


def dense(index: Tensor, weights: Tensor, experts: int) -> Float[Tensor, "token expert"]:
    """The weight of every expert for every token, 0 where it is not chosen."""
    spare = weights.new_zeros(len(weights), experts + 1)
    return spare.scatter_add(-1, index.clamp(max=experts), weights)[:, :experts]


def chosen(weights: Float[Tensor, "token expert"]) -> tuple[Tensor, Tensor]:
    """Which experts have a weight, as many a token as the token with most of them needs, and the weights."""
    most = max(1, int((weights != 0).sum(-1).max()))
    index = (weights != 0).int().topk(most, dim=-1).indices
    return index, weights.gather(-1, index)
