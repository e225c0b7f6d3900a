"""Logits of chosen tokens, a row's own: one product of vectors for each; both implementations use it."""

from __future__ import annotations

from typing import Any

import torch
from einops import einsum
from torch import Tensor

from interp.kernels.checks import first_derivative_only
from interp.kernels.readout_parts import Head

#: Most numbers that the rows of the unembedding gathered at once may have: 4 MB in float32.
GATHERED = 2**20


def at(x: Tensor, head: Head, columns: Tensor) -> Tensor:
    """``[row, column]`` logits, −inf where the column is −1."""
    logits: Tensor = _Columns.apply(x, head, columns.long())
    return logits


class _Columns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, head: Head, columns: Tensor) -> Tensor:
        wide = x.to(head.wide)
        logits = torch.empty(columns.shape, dtype=head.wide, device=x.device)
        for some in _groups(wide, columns):
            weight, bias = _gathered(head, columns[:, some])
            products = einsum(wide, weight, "row width, row column width -> row column")
            logits[:, some] = Head(weight, bias, head.softcap, head.wide).finish(products)
        ctx.head, ctx.dtype = head, x.dtype
        ctx.save_for_backward(columns, logits)
        return logits.masked_fill(columns < 0, -torch.inf)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        first_derivative_only("fused_readout")
        columns, logits = ctx.saved_tensors
        grad = ctx.head.through(grad.masked_fill(columns < 0, 0), logits)
        x_grad = grad.new_zeros(len(columns), ctx.head.weight.shape[1])
        for some in _groups(x_grad, columns):
            weight, _ = _gathered(ctx.head, columns[:, some])
            x_grad += einsum(grad[:, some], weight, "row column, row column width -> row width")
        return x_grad.to(ctx.dtype), None, None


def _groups(x: Tensor, columns: Tensor) -> list[slice]:
    """Columns whose rows of the unembedding are gathered together."""
    size = max(1, GATHERED // max(1, x.numel()))
    return [slice(start, start + size) for start in range(0, columns.shape[1], size)]


def _gathered(head: Head, columns: Tensor) -> tuple[Tensor, Tensor | None]:
    part = head.take(columns.clamp(min=0))
    return part.weight, part.bias
