"""Small networks whose weights are the algorithms of causal models: and-or in two ways, prices between bounds, thin margins.

    >>> net = price_tagging()
    >>> net(torch.tensor([[1.50, 6.00, 6.00], [1.50, 6.00, 6.01]]).double()).argmax(-1)      # lo, hi, amount: Yes, No
    tensor([1, 0])
    >>> and_or("and-or").part                      # which units hold which variable, by site
    {'b': ('variables:output', (0,)), 'D': ('variables:output', (1,))}

Each has ``part``, where its variables are: units that are swapped together with those of another input. ``interp.tasks`` has
the causal models of the same names.

Inputs of equality are entities of entries −1 and 1. ``first`` and ``act1`` give the L1 distance of a pair as a sum of 2 m
units; ``second`` and ``act2`` what of it is above 0 and above 2, the difference of which is 0 where the pair is equal and 2
where it is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from interp.errors import UnknownNameError
from interp.models.zoo.handmade import EqualityRows, entity_pairs, linear
from interp.models.zoo.mlp import Layers

Parts = Mapping[str, tuple[str, tuple[int, ...]]]
"""By variable, a site and the units of it that hold it."""

_DELTA = 2.0
"""Smallest L1 distance of two different entities of entries −1 and 1."""

ALGORITHMS = ("and-or-and", "and-or")


class AndOr(Layers):
    """``b and (a or c)``, of whether three pairs are equal; see :func:`and_or`."""

    def __init__(self, algorithm: str, m: int, dtype: torch.dtype) -> None:
        self.m, made = m, _with_names(algorithm)
        equal, bias = _unequal(dtype)
        variables, out = made.variables.to(dtype), made.out.to(dtype)
        super().__init__(
            first=linear(_distances(3, m, dtype)),
            act1=nn.ReLU(),
            second=linear(_twice(3, m, dtype), torch.tensor([0.0, -_DELTA] * 3, dtype=dtype)),
            act2=nn.ReLU(),
            # a, b and c are 1 − (unequal)/2, so that a row of coefficients has their sum as a bias
            third=linear(made.hidden.to(dtype) @ equal, made.hidden.to(dtype) @ bias + made.bias.to(dtype)),
            act3=nn.ReLU(),
            variables=linear(variables),
            **({} if made.joined is None else {"fourth": linear(made.joined.to(dtype), -torch.ones(1, dtype=dtype))}),
            **({} if made.joined is None else {"act4": nn.ReLU()}),
            readout=linear(torch.stack((-out, out)), torch.tensor([0.5, -0.5], dtype=dtype)),
        )
        self.part: Parts = {name: ("variables:output", (unit,)) for unit, name in enumerate(made.names)}

    def rows(self, n: int, seed: int) -> EqualityRows:
        """``n`` inputs, each of three pairs equal in about half of them; ``equal`` has a, b and c."""
        inputs, equal = entity_pairs(n, 3, self.m, seed)
        a, b, c = equal.unbind(-1)
        return EqualityRows(inputs.to(self.get_parameter("first.weight").dtype), equal, b & (a | c))


class _Algorithm(NamedTuple):
    names: tuple[str, str]
    hidden: Tensor
    """``[unit, 3]``, coefficients of a, b and c, and ``bias``, of the units behind ``act3``."""
    bias: Tensor
    variables: Tensor
    """``[2, unit]``, the variables of these units."""
    joined: Tensor | None
    """``[1, 2]``: what is 1 where both variables are, less 1; None where they are read as they are."""
    out: Tensor


def _with_names(algorithm: str) -> _Algorithm:
    if algorithm == "and-or-and":  # P = ReLU(a + b − 1), Q = ReLU(b + c − 1), P + Q > ½
        ands, eye = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]), torch.eye(2)
        return _Algorithm(("P", "Q"), ands, torch.tensor([-1.0, -1.0]), eye, None, torch.ones(2))
    if algorithm == "and-or":  # D = ReLU(a + c) − ReLU(a + c − 1), ReLU(b + D − 1) > ½
        sums = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
        read = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, -1.0]])
        return _Algorithm(("b", "D"), sums, torch.tensor([0.0, 0.0, -1.0]), read, torch.ones(1, 2), torch.ones(1))
    raise UnknownNameError("algorithm", algorithm, ALGORITHMS)


def and_or(algorithm: str, m: int = 4, dtype: torch.dtype = torch.float32) -> AndOr:
    """A network of formulas for ``(a and b) or (b and c) = b and (a or c)``, where a, b, c say that three pairs are equal.

    Input ``[example, 6 m]``; logits ``[example, 2]`` for (False, True), −½ and ½ or the reverse, or −3/2 and 3/2 where P and Q
    are both true. Modules in order:
    ``first act1 second act2 third act3 variables readout``, in ``and-or`` with ``fourth act4`` before the last. What
    ``variables`` gives are the two variables themselves, 0 or 1: P = a and b and Q = b and c of ``and-or-and``, b and
    D = a or c of ``and-or``. Units ``[2 m i, 2 m (i + 1))`` of ``act1`` and ``[2 i, 2 i + 2)`` of ``act2`` carry the i-th pair.

    Raises:
        UnknownNameError: another algorithm.
    """
    return AndOr(algorithm, m, dtype).eval()


class PriceRows(NamedTuple):
    """Bounds and amounts with the values of their causal models."""

    inputs: Tensor
    """``[example, 3]``, lo, hi and amount in dollars."""
    cents: Tensor
    """The same as whole numbers."""
    sides: Tensor
    """``[example, 2]``, boolean: lo ≤ amount (L), amount ≤ hi (R)."""
    label: Tensor
    """``[example]``, boolean: both."""


class PriceTagging(Layers):
    """``lo ≤ amount ≤ hi``; see :func:`price_tagging`."""

    def __init__(self, dtype: torch.dtype) -> None:
        left, right = torch.tensor([[-1.0, 0.0, 1.0]]), torch.tensor([[0.0, 1.0, -1.0]])
        steps = 100.0 * torch.cat((left, left, right, right)).to(dtype)
        pair = torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]], dtype=dtype)
        super().__init__(
            first=linear(steps, torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=dtype)),
            act1=nn.ReLU(),
            sides=linear(pair),
            second=linear(torch.ones(1, 2, dtype=dtype), -torch.ones(1, dtype=dtype)),
            act2=nn.ReLU(),
            readout=linear(torch.tensor([[-1.0], [1.0]], dtype=dtype), torch.tensor([0.5, -0.5], dtype=dtype)),
        )
        self.part: Parts = {"L": ("sides:output", (0,)), "R": ("sides:output", (1,))}

    def rows(self, n: int, seed: int) -> PriceRows:
        """Widths uniform in 2.50 to 7.50, lower bounds in what that leaves of 0.05 to 9.95, amounts in 0.01 to 9.99."""
        generator = torch.Generator().manual_seed(seed)
        width = torch.randint(250, 751, (n,), generator=generator)
        lo = (5 + (990 - width) * torch.rand(n, generator=generator)).round().long()
        cents = torch.stack((lo, lo + width, torch.randint(1, 1000, (n,), generator=generator)), dim=-1)
        sides = torch.stack((cents[:, 0] <= cents[:, 2], cents[:, 2] <= cents[:, 1]), dim=-1)
        dtype = self.get_parameter("first.weight").dtype
        return PriceRows((cents.double() / 100).to(dtype), cents, sides, sides.all(-1))


def price_tagging(dtype: torch.dtype = torch.float64) -> PriceTagging:
    """A network of formulas for "the amount is within the bounds", exact for prices of whole cents.

    Input ``[example, 3]``, lo, hi and amount in dollars; logits ``[example, 2]`` for (No, Yes), −½ and ½ or the reverse.
    Modules in order: ``first act1 sides second act2 readout``. With step(z) = ReLU(100 z + 1) − ReLU(100 z), which is 0 up to a
    cent below 0 and 1 from 0 on, the units of ``sides`` are ℓ = step(amount − lo) and r = step(hi − amount); units 0 and 1 of
    ``act1`` are those whose difference is ℓ, 2 and 3 those of r. The output is ReLU(ℓ + r − 1).
    """
    return PriceTagging(dtype).eval()


class ThinEquality(Layers):
    """Equality of equalities with hardly a margin; see :func:`thin_equality`."""

    def __init__(self, dtype: torch.dtype) -> None:
        delta, longest = 0.01, 4.0
        self.epsilon = delta / (2 * longest)
        self.margin = self.epsilon * delta / 2
        p, q = (torch.arange(8) < 4).to(dtype), (torch.arange(8) >= 4).to(dtype)
        read = torch.tensor([1.0, 1.0, self.epsilon - 1, self.epsilon - 1], dtype=dtype)
        super().__init__(
            first=linear(_distances(2, 2, dtype)),
            act1=nn.ReLU(),
            second=linear(torch.stack((p - q, q - p, p, q))),
            act2=nn.ReLU(),
            readout=linear(torch.stack((read, -read)), torch.tensor([-self.margin, self.margin], dtype=dtype)),
        )
        self.part: Parts = {"WX": ("act1:output", (0, 1, 2, 3)), "YZ": ("act1:output", (4, 5, 6, 7))}

    def rows(self, n: int, seed: int) -> EqualityRows:
        """``n`` inputs, each pair equal in about half of them, different pairs really different."""
        generator = torch.Generator().manual_seed(seed)
        equal = torch.rand(n, 2, generator=generator) < 0.5
        one, other = (torch.randint(-100, 101, (n, 2, 2), generator=generator) for _ in range(2))
        same = (one == other).all(-1)
        other[..., 0] = torch.where(same & (other[..., 0] == 100), 99, other[..., 0] + same.long())
        other = torch.where(equal[..., None], one, other)
        inputs = torch.cat((one[:, 0], other[:, 0], one[:, 1], other[:, 1]), dim=-1)
        dtype = self.get_parameter("first.weight").dtype
        return EqualityRows((inputs.double() / 100).to(dtype), equal, equal[:, 0] == equal[:, 1])


def thin_equality(dtype: torch.dtype = torch.float32) -> ThinEquality:
    """A network of formulas for hierarchical equality that is right by a hair: a test of numerics, not of searches.

    Input ``[example, 8]``, four entities of two entries each in −1 to 1 by hundredths; logits ``[example, 2]`` for (False,
    True). Modules in order: ``first act1 second act2 readout``. Of the distances p and q of the pairs the score for False is
    |p − q| − (1 − ε)(p + q) − τ, with ε the smallest distance by twice the largest, .00125, and τ the smallest margin, 6.25e-6
    (attributes ``epsilon`` and ``margin``). Units ``[0, 4)`` of ``act1`` carry the first pair, ``[4, 8)`` the second.
    """
    return ThinEquality(dtype).eval()


def _distances(pairs: int, m: int, dtype: torch.dtype) -> Tensor:
    """``[2 m pairs, 2 m pairs]``: behind a ReLU, the differences of the entries of every pair in both directions."""
    eye = torch.eye(m, dtype=dtype)
    pair = torch.cat((torch.cat((eye, -eye), 1), torch.cat((-eye, eye), 1)))
    return torch.block_diag(*[pair] * pairs)


def _twice(pairs: int, m: int, dtype: torch.dtype) -> Tensor:
    """``[2 pairs, 2 m pairs]``: every pair's distance, twice."""
    return torch.block_diag(*[torch.ones(2, 2 * m, dtype=dtype)] * pairs)


def _unequal(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Matrix ``[3, 6]`` and bias by which three pairs' units of ``act2`` are 1 where they are equal and 0 where not."""
    pair = torch.tensor([[-1.0, 1.0]], dtype=dtype) / _DELTA
    return torch.block_diag(*[pair] * 3), torch.ones(3, dtype=dtype)
