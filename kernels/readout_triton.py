"""Triton kernels of :func:`interp.kernels.fused_readout`.

Forward: a program walks through a share of the vocabulary for a block of rows and keeps running sums only; the shares are put
together afterwards. Backward: the derivative by the products x · unembeddingᵀ is computed again, a chunk of the vocabulary at a
time, into a buffer of the size of a chunk, and a plain product takes it from there to x.
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

from interp.kernels.checks import first_derivative_only
from interp.kernels.launch import element, factors
from interp.kernels.readout_parts import Head, Reference

#: Rows, tokens and width of a tile.
ROWS, TOKENS, WIDTH = 32, 64, 32
#: Programs that are wanted at least, so that a GPU is filled also with few rows.
PROGRAMS = 264
#: The buffer of the backward pass holds this share of the vocabulary.
SHARE = 32


def whole(x: Tensor, head: Head, reference: Reference | None) -> tuple[Tensor, Tensor | None]:
    """Log-sum-exp over the vocabulary ``[row]``, and KL from the reference ``[row]``; arguments are checked."""
    lse, kl = _Whole.apply(x, head, reference)
    return lse, kl


class _Inputs:
    """Arguments that both kernels take. Those that are absent are a pointer to x, never read."""

    def __init__(self, x: Tensor, head: Head, reference: Reference | None) -> None:
        x, weight = x.contiguous(), head.weight
        states = values = example_of = used = None
        dtypes = [x.dtype, weight.dtype]
        if reference is not None:
            states, values, example_of, used = reference.states, reference.values, reference.example_of, reference.used
            dtypes += [] if states is None else [states.dtype]
        kind = 0 if reference is None else 1 if states is not None else 2
        tensors = (head.bias, states, values, example_of, used)
        self.pointers = (x, weight, *(x if tensor is None else tensor.contiguous() for tensor in tensors))
        self.numbers = (len(x), *weight.shape, *weight.stride(), head.softcap or 1.0)
        options = (head.bias is not None, head.softcap is not None, kind)
        self.constants = (*options, factors(head.wide, *dtypes), element(head.wide), ROWS, TOKENS, WIDTH)
        self.blocks = triton.cdiv(len(x), ROWS)


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, head: Head, reference: Reference | None) -> tuple[Tensor, Tensor | None]:
        inputs, vocab = _Inputs(x, head, reference), len(head.weight)
        tiles = triton.cdiv(vocab, TOKENS)
        share = TOKENS * triton.cdiv(tiles, min(tiles, triton.cdiv(PROGRAMS, max(inputs.blocks, 1))))
        parts = triton.cdiv(vocab, share)
        lse, expected, gap = (torch.empty((len(x), parts), dtype=head.wide, device=x.device) for _ in range(3))
        if len(x):
            _forward[inputs.blocks, parts](
                *inputs.pointers, lse, expected, gap, *inputs.numbers, share, parts, *inputs.constants
            )
        total = lse.logsumexp(-1)
        ctx.head, ctx.reference = head, reference
        if reference is None:
            ctx.save_for_backward(x, total)
            return total, None
        clean = expected.logsumexp(-1)
        ctx.save_for_backward(x, total, clean)
        shares = (expected - clean[:, None]).exp()
        return total, (gap * shares).sum(-1) + (total - clean)

    @staticmethod
    def backward(ctx: Any, lse_grad: Tensor, kl_grad: Tensor | None) -> tuple[Tensor, None, None]:
        first_derivative_only("fused_readout")
        x, total, *rest = ctx.saved_tensors
        head: Head = ctx.head
        inputs, vocab = _Inputs(x, head, ctx.reference), len(head.weight)
        x_grad = torch.zeros(x.shape, dtype=head.wide, device=x.device)
        if not len(x):
            return x_grad.to(x.dtype), None, None
        clean = rest[0] if rest else total
        kl_grad = torch.zeros_like(total) if kl_grad is None else kl_grad
        size = TOKENS * triton.cdiv(triton.cdiv(vocab, TOKENS), SHARE)
        buffer = torch.empty((len(x), size), dtype=head.wide, device=x.device)
        grads = (lse_grad.contiguous(), kl_grad.contiguous())
        for start in range(0, vocab, size):
            _backward[inputs.blocks, size // TOKENS](
                *inputs.pointers, total, clean, *grads, buffer, *inputs.numbers, start, size, *inputs.constants
            )
            weight = head.weight[start : start + size].to(head.wide)
            x_grad = torch.addmm(x_grad, buffer[:, : len(weight)], weight)
        return x_grad.to(x.dtype), None, None


@triton.jit
@no_type_check
def _logits(
    x, row, here, weight, bias, token, known, width, by_token, by_width, softcap,
    BIAS: tl.constexpr, CAP: tl.constexpr, FACTOR: tl.constexpr, ACC: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Logits ``[ROWS, TOKENS]`` of some rows of x."""
    total = tl.zeros([ROWS, TOKENS], ACC)
    for first in range(0, width, WIDTH):
        w = first + tl.arange(0, WIDTH)
        inside = w < width
        states = tl.load(x + row[:, None] * width + w[None, :], mask=here[:, None] & inside[None, :], other=0)
        place = token[None, :] * by_token + w[:, None] * by_width
        columns = tl.load(weight + place, mask=known[None, :] & inside[:, None], other=0)
        total = tl.dot(states.to(FACTOR), columns.to(FACTOR), total, input_precision="ieee", out_dtype=ACC)
    if BIAS:
        total += tl.load(bias + token, mask=known, other=0).to(ACC)[None, :]
    if CAP:
        fall = tl.exp(-2 * tl.abs(total / softcap))  # tanh |u| = (1 − exp(−2 |u|)) / (1 + exp(−2 |u|))
        total = tl.where(total < 0, -softcap, softcap) * (1 - fall) / (1 + fall)
    return total


@triton.jit
@no_type_check
def _expected(
    states, values, example, used, here, weight, bias, token, known, vocab, width, by_token, by_width, softcap,
    BIAS: tl.constexpr, CAP: tl.constexpr, REFERENCE: tl.constexpr, FACTOR: tl.constexpr, ACC: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The reference's logits ``[ROWS, TOKENS]``: from states (1), or as they are given (2)."""
    if REFERENCE == 1:
        total = _logits(
            states, example, here, weight, bias, token, known, width, by_token, by_width, softcap,
            BIAS, CAP, FACTOR, ACC, ROWS, TOKENS, WIDTH,
        )  # fmt: skip
    else:
        place = tl.load(used + example, mask=here, other=0)[:, None] * vocab + token[None, :]
        total = tl.load(values + place, mask=here[:, None] & known[None, :], other=0).to(ACC)
    return total


@triton.jit
@no_type_check
def _forward(
    x, weight, bias, states, values, example_of, used, lse, expected, gap,
    rows, vocab, width, by_token, by_width, softcap, share, parts,
    BIAS: tl.constexpr, CAP: tl.constexpr, REFERENCE: tl.constexpr, FACTOR: tl.constexpr, ACC: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One block of rows × one share of the vocabulary: log-sum-exp of both sides, and the mean of r − l under R."""
    row, part = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64), tl.program_id(1)
    here = row < rows
    stop = tl.minimum((part + 1) * share, vocab)
    top, total = tl.full([ROWS], -1e30, ACC), tl.zeros([ROWS], ACC)
    clean_top, clean_total, gaps = tl.full([ROWS], -1e30, ACC), tl.zeros([ROWS], ACC), tl.zeros([ROWS], ACC)
    example = row
    if REFERENCE:
        example = tl.load(example_of + row, mask=here, other=0)
    for first in range(part * share, stop, TOKENS):
        token = (first + tl.arange(0, TOKENS)).to(tl.int64)
        known = token < stop
        ours = _logits(
            x, row, here, weight, bias, token, known, width, by_token, by_width, softcap,
            BIAS, CAP, FACTOR, ACC, ROWS, TOKENS, WIDTH,
        )  # fmt: skip
        ours = tl.where(known[None, :], ours, -float("inf"))
        before, top = top, tl.maximum(top, tl.max(ours, 1))
        total = total * tl.exp(before - top) + tl.sum(tl.exp(ours - top[:, None]), 1)
        if REFERENCE:
            theirs = _expected(
                states, values, example, used, here, weight, bias, token, known, vocab, width, by_token, by_width, softcap,
                BIAS, CAP, REFERENCE, FACTOR, ACC, ROWS, TOKENS, WIDTH,
            )  # fmt: skip
            theirs = tl.where(known[None, :], theirs, -float("inf"))
            before, clean_top = clean_top, tl.maximum(clean_top, tl.max(theirs, 1))
            fade, each = tl.exp(before - clean_top), tl.exp(theirs - clean_top[:, None])
            clean_total = clean_total * fade + tl.sum(each, 1)
            gaps = gaps * fade + tl.sum(tl.where(each == 0, 0, each * (theirs - ours)), 1)
    place = row * parts + part
    tl.store(lse + place, top + tl.log(total), mask=here)
    if REFERENCE:
        tl.store(expected + place, clean_top + tl.log(clean_total), mask=here)
        tl.store(gap + place, tl.where(clean_total == 0, 0, gaps / clean_total), mask=here)


@triton.jit
@no_type_check
def _backward(
    x, weight, bias, states, values, example_of, used, lse, clean, lse_grad, kl_grad, out,
    rows, vocab, width, by_token, by_width, softcap, start, size,
    BIAS: tl.constexpr, CAP: tl.constexpr, REFERENCE: tl.constexpr, FACTOR: tl.constexpr, ACC: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One block of rows × one of tokens: the derivative by x · unembeddingᵀ, for the tokens from ``start`` on."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    place = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    token, here = (start + place).to(tl.int64), row < rows
    known = token < vocab
    ours = _logits(
        x, row, here, weight, bias, token, known, width, by_token, by_width, softcap,
        BIAS, CAP, FACTOR, ACC, ROWS, TOKENS, WIDTH,
    )  # fmt: skip
    by_kl = tl.load(kl_grad + row, mask=here, other=0)
    scale = tl.load(lse_grad + row, mask=here, other=0) + by_kl
    slope = tl.exp(ours - tl.load(lse + row, mask=here, other=0)[:, None]) * scale[:, None]
    if REFERENCE:
        example = tl.load(example_of + row, mask=here, other=0)
        theirs = _expected(
            states, values, example, used, here, weight, bias, token, known, vocab, width, by_token, by_width, softcap,
            BIAS, CAP, REFERENCE, FACTOR, ACC, ROWS, TOKENS, WIDTH,
        )  # fmt: skip
        slope -= tl.exp(theirs - tl.load(clean + row, mask=here, other=0)[:, None]) * by_kl[:, None]
    if CAP:
        slope *= 1 - (ours / softcap) * (ours / softcap)
    tl.store(out + row[:, None] * size + place[None, :], slope, mask=here[:, None] & known[None, :])
