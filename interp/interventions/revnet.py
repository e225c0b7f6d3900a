"""A non-linear basis with an exact inverse: additive coupling blocks (Gomez et al., arXiv 1707.04585).

    >>> phi = RevNet(width=16, blocks=10, seed=0)
    >>> h = torch.randn(5, 16)
    >>> torch.allclose(phi.decode(phi.encode(h)), h, atol=1e-5)
    True

A block takes halves x₁, x₂ to y₁ = x₁ + F(x₂), y₂ = x₂ + G(y₁), with F and G networks of one hidden layer. Its inverse needs
that of neither, and its volume is that of the identity. What an expressive map finds it may have brought along: show an
accuracy found with one beside that of a random network (Sutter et al., arXiv 2507.08802).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from interp.errors import ShapeMismatchError
from interp.interventions.digest import digest


class RevNet(nn.Module):
    """Coupling blocks, all coordinates to all coordinates.

    A variable's coordinates are chosen by the edit, ``Select`` or a mask: there is no writing of some of them apart from the
    others.

    Args:
        width: features of the site, an even number.
        blocks: how many.
        hidden: width of the networks' hidden layers; by default that of the site.
        seed: of the first weights. Outer layers begin small, so that the map begins near the identity.

    Numbers are computed in float32 at least. The inverse is exact but for rounding, which grows with the networks' slopes:
    2e-6 at ten blocks of sixteen features.

    Raises:
        ShapeMismatchError: an odd width, or sizes below 1.
    """

    by_row = True
    """Rows go through it one by one, so that several tensors may go together."""

    def __init__(self, width: int, blocks: int = 10, hidden: int | None = None, *, seed: int = 0) -> None:
        super().__init__()
        hidden = width if hidden is None else hidden
        if width < 2 or width % 2 or blocks < 1 or hidden < 1:
            raise ShapeMismatchError(
                f"width={width}, blocks={blocks}, hidden={hidden}; expected an even width, whose halves are coupled, and at "
                "least one block and one hidden unit"
            )
        self.width, self.blocks, self.hidden = width, blocks, hidden
        half, draw = width // 2, torch.Generator().manual_seed(seed)

        def drawn(*shape: int, scale: float) -> nn.Parameter:
            return nn.Parameter(scale * torch.randn(shape, generator=draw))

        # Both networks of all blocks in one tensor each: [block, F or G, …].
        self.inner = drawn(blocks, 2, half, hidden, scale=math.sqrt(2 / half))
        self.inner_bias = nn.Parameter(torch.zeros(blocks, 2, hidden))
        self.outer = drawn(blocks, 2, hidden, half, scale=0.1 / math.sqrt(hidden))
        self.outer_bias = nn.Parameter(torch.zeros(blocks, 2, half))

    def encode(self, h: Float[Tensor, "*row width"]) -> Float[Tensor, "*row width"]:
        return self._run(h, 1)

    def decode(self, f: Float[Tensor, "*row width"]) -> Float[Tensor, "*row width"]:
        return self._run(f, -1)

    def _run(self, h: Tensor, sign: int) -> Tensor:
        one, two = self._halves(h)
        weights = [parameter.to(one) for parameter in (self.inner, self.inner_bias, self.outer, self.outer_bias)]
        with torch.autocast(h.device.type, enabled=False):
            found: Tensor = _Coupled.apply(one.reshape(-1, self.width // 2), two.reshape(-1, self.width // 2), *weights, sign)
        return found.reshape(*h.shape[:-1], self.width)

    def _halves(self, h: Tensor) -> tuple[Tensor, Tensor]:
        if h.shape[-1] != self.width:
            raise ShapeMismatchError(f"a RevNet of width {self.width} was used on features of width {h.shape[-1]}")
        one, two = h.to(torch.promote_types(h.dtype, self.inner.dtype)).chunk(2, dim=-1)
        return one, two

    def spec(self) -> dict[str, Any]:
        return {"kind": "revnet", **self.options(), "sha256": digest(self.state_dict())}

    def options(self) -> dict[str, Any]:
        """Arguments that make another one like this, but for what was learned."""
        return {"width": self.width, "blocks": self.blocks, "hidden": self.hidden}

    def __repr__(self) -> str:
        return f"RevNet({self.width}, blocks={self.blocks}, hidden={self.hidden})"


class _Coupled(torch.autograd.Function):
    """All blocks, from the first to the last or back, as one operation.

    Slopes in the weights are then two products for all blocks together; taken block by block each would be as large as all.
    """

    @staticmethod
    def forward(ctx: Any, one: Tensor, two: Tensor, *rest: Any) -> Tensor:
        *weights, sign = rest
        inner, inner_bias, outer, outer_bias = (_each(one) for one in weights)
        halves, (blocks, _, half, hidden) = [one, two], weights[0].shape
        entered, active = one.new_empty(blocks, 2, len(one), half), one.new_empty(blocks, 2, len(one), hidden)
        for number, x, a in _order(sign, _each(entered), _each(active)):
            x.copy_(halves[1 - number % 2])
            torch.addmm(inner_bias[number], x, inner[number], out=a).relu_()
            halves[number % 2] = halves[number % 2].add(torch.addmm(outer_bias[number], a, outer[number]), alpha=sign)
        ctx.save_for_backward(entered, active, weights[0], weights[2])
        ctx.sign = sign
        return torch.cat(halves, dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        entered, active, inner, outer = ctx.saved_tensors
        into, through, open_ = _each(inner.mT), _each(outer.mT), _each(active > 0)
        slopes = [one.contiguous() for one in slope.chunk(2, dim=-1)]
        said, behind = torch.empty_like(entered), torch.empty_like(active)
        for number, out, within in _order(-ctx.sign, _each(said), _each(behind)):
            torch.mul(slopes[number % 2], ctx.sign, out=out)
            torch.mm(out, through[number], out=within).mul_(open_[number])
            slopes[1 - number % 2] = torch.addmm(slopes[1 - number % 2], within, into[number])
        wanted = any(ctx.needs_input_grad[2:6])
        weights = (entered.mT @ behind, behind.sum(-2), active.mT @ said, said.sum(-2)) if wanted else (None,) * 4
        return (*slopes, *weights, None)


def _each(stacked: Tensor) -> tuple[Tensor, ...]:
    """``[block, F or G, …]`` network by network: those of even number are F."""
    return stacked.flatten(0, 1).unbind()


def _order(sign: int, *stacked: Sequence[Tensor]) -> list[Any]:
    """Number of every network, with its part of each, as encoding or decoding goes through them."""
    order = list(zip(range(len(stacked[0])), *stacked, strict=True))
    return order if sign > 0 else order[::-1]
