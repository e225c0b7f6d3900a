"""Triton kernels of :func:`interp.kernels.head_gates`.

Backward, one program reads z and the gradient once for both gradients; the rows of a set are then summed in order, so that two
runs give the same bits.
"""

# mypy: disable-error-code="no-untyped-def"
# Arguments of a Triton kernel have no Python types. ``no_type_check`` keeps the tests' checks from wrapping kernels, which
# Triton could then not compile.

from __future__ import annotations

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from interp.kernels.checks import accumulator, first_derivative_only
from interp.kernels.launch import element

#: Numbers that a program handles at once.
BLOCK = 1024


def gate(z: Tensor, gates: Tensor, set_of: Tensor) -> Tensor:
    """``z · gates[set_of]``; arguments are checked."""
    gated: Tensor = _Gate.apply(z, gates, set_of)
    return gated


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, gates: Tensor, set_of: Tensor) -> Tensor:
        z, gates, set_of = z.contiguous(), gates.contiguous(), set_of.contiguous()
        rows, positions, heads, width = z.shape
        each = positions * heads * width
        out = torch.empty_like(z)
        if out.numel():
            _scale[rows, triton.cdiv(each, BLOCK)](
                z, gates, set_of, out, each, heads, width, element(accumulator(z, gates)), BLOCK
            )
        ctx.save_for_backward(z, gates, set_of)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        first_derivative_only("head_gates")
        z, gates, set_of = ctx.saved_tensors
        rows, positions, heads, width = z.shape
        wide = accumulator(z, gates)
        z_grad, by_row = torch.empty_like(z), z.new_zeros((rows, heads), dtype=wide)
        if rows * heads:
            _scale_and_sum[rows, heads](
                grad.contiguous(), z, gates, set_of, z_grad, by_row, positions, heads, width, element(wide), BLOCK
            )
        order, counts = set_of.argsort(stable=True), set_of.bincount(minlength=len(gates))
        gates_grad = torch.zeros(gates.shape, dtype=wide, device=gates.device)
        if gates.numel():
            _sum_by_set[len(gates), heads](by_row, order, counts.cumsum(0), counts, gates_grad, heads, element(wide), 128)
        return z_grad, gates_grad.to(gates.dtype), None


@triton.jit
@no_type_check
def _scale(z, gates, set_of, out, each, heads, width, ACC: tl.constexpr, BLOCK: tl.constexpr):
    """One block of a row: out = z · gate."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < each
    factor = tl.load(gates + tl.load(set_of + row) * heads + (at // width) % heads, mask=inside, other=0).to(ACC)
    value = tl.load(z + row * each + at, mask=inside, other=0).to(ACC)
    tl.store(out + row * each + at, (value * factor).to(out.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _scale_and_sum(
    grad, z, gates, set_of, z_grad, by_row, positions, heads, width, ACC: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """One head of a row: z_grad = grad · gate, and the sum of grad · z over positions and d_head."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    factor = tl.load(gates + tl.load(set_of + row) * heads + head).to(ACC)
    start, each = row * positions * heads * width + head * width, positions * width
    total = tl.zeros([BLOCK], ACC)
    for first in range(0, each, BLOCK):
        at = first + tl.arange(0, BLOCK)
        inside = at < each
        place = start + (at // width) * heads * width + at % width
        slope = tl.load(grad + place, mask=inside, other=0).to(ACC)
        total += slope * tl.load(z + place, mask=inside, other=0).to(ACC)
        tl.store(z_grad + place, (slope * factor).to(z_grad.dtype.element_ty), mask=inside)
    tl.store(by_row + row * heads + head, tl.sum(total, 0))


@triton.jit
@no_type_check
def _sum_by_set(by_row, order, stops, counts, out, heads, ACC: tl.constexpr, BLOCK: tl.constexpr):
    """One head of a set: the sum over the rows that the set serves, which ``order`` lists one set after the other."""
    served, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    stop = tl.load(stops + served)
    total = tl.zeros([BLOCK], ACC)
    for first in range(stop - tl.load(counts + served), stop, BLOCK):
        at = first + tl.arange(0, BLOCK)
        row = tl.load(order + at, mask=at < stop, other=0)
        total += tl.load(by_row + row * heads + head, mask=at < stop, other=0)
    tl.store(out + served * heads + head, tl.sum(total, 0))
