"""Triton kernels of :func:`interp.kernels.subspace_interchange`.

Rows are sorted by set and cut into tiles that never hold two sets, so that a tile reads its basis once. With d = s − h and g
the gradient of the result: y = d R, h' = h + y Rᵀ; q = g R, the gradient of s is q Rᵀ, that of h is g − q Rᵀ, and that of R is
dᵀ q + gᵀ y, summed over the rows that R serves. Any rank; sums in order, so that two runs give the same bits.
"""

# mypy: disable-error-code="no-untyped-def"
# Arguments of a Triton kernel have no Python types. ``no_type_check`` keeps the tests' checks from wrapping kernels, which
# Triton could then not compile.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from interp.kernels.checks import accumulator, first_derivative_only
from interp.kernels.launch import element

#: Rows, columns and rank of a tile; a product of tiles takes no fewer than 16 of each.
ROWS, COLUMNS, RANK = 16, 64, 16


def interchange(h: Tensor, s: Tensor, bases: Tensor, set_of: Tensor) -> Tensor:
    """``h + (s − h) R Rᵀ``; arguments are checked."""
    moved: Tensor = _Interchange.apply(h, s, bases, set_of)
    return moved


@dataclass(frozen=True, eq=False)
class _Tiles:
    """Where the rows of each tile are: ``order[start:stop]``, all served by ``set``."""

    order: Tensor
    set: Tensor
    start: Tensor
    stop: Tensor
    starts: Tensor
    """Where each set's rows begin in ``order``."""
    stops: Tensor

    @classmethod
    def of(cls, set_of: Tensor, sets: int) -> _Tiles:
        counts = set_of.bincount(minlength=sets)
        stops = counts.cumsum(0)
        tiles = (counts + ROWS - 1) // ROWS
        served = torch.repeat_interleave(torch.arange(sets, device=set_of.device), tiles)
        nth = torch.arange(len(served), device=set_of.device) - (tiles.cumsum(0) - tiles)[served]
        start = (stops - counts)[served] + nth * ROWS
        stop = torch.minimum(start + ROWS, stops[served])
        return cls(set_of.argsort(stable=True), served, start, stop, stops - counts, stops)


class _Interchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, s: Tensor, bases: Tensor, set_of: Tensor) -> Tensor:
        h, s, bases = h.contiguous(), s.contiguous(), bases.contiguous()
        tiles, wide = _Tiles.of(set_of, len(bases)), accumulator(h, s, bases)
        y = _projected(s, h, bases, tiles, wide)
        ctx.tiles, ctx.wide = tiles, wide
        ctx.save_for_backward(h, s, bases, y)
        return _expanded(h, y, bases, tiles, wide, h.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        first_derivative_only("subspace_interchange")
        h, s, bases, y = ctx.saved_tensors
        tiles, wide, grad = ctx.tiles, ctx.wide, grad.contiguous()
        q = _projected(grad, None, bases, tiles, wide)
        s_grad = _expanded(None, q, bases, tiles, wide, wide)
        h_grad = (grad.to(wide) - s_grad).to(h.dtype)
        bases_grad = _outer(h, s, grad, q, y, bases, tiles, wide) if ctx.needs_input_grad[2] else None
        return h_grad, s_grad.to(s.dtype), bases_grad, None


def _projected(a: Tensor, minus: Tensor | None, bases: Tensor, tiles: _Tiles, wide: torch.dtype) -> Tensor:
    """``(a − minus) R``, ``[row, rank]``."""
    width, rank = bases.shape[1:]
    out = torch.empty((len(a), rank), dtype=wide, device=a.device)
    if out.numel():
        _project[len(tiles.set), triton.cdiv(rank, RANK)](
            a, a if minus is None else minus, bases, tiles.order, tiles.set, tiles.start, tiles.stop, out,
            width, rank, minus is not None, element(wide), ROWS, COLUMNS, RANK,
        )  # fmt: skip
    return out


def _expanded(base: Tensor | None, y: Tensor, bases: Tensor, tiles: _Tiles, wide: torch.dtype, dtype: torch.dtype) -> Tensor:
    """``base + y Rᵀ``, ``[row, width]``."""
    width, rank = bases.shape[1:]
    out = torch.empty((len(y), width), dtype=dtype, device=y.device)
    if out.numel():
        _expand[len(tiles.set), triton.cdiv(width, COLUMNS)](
            y if base is None else base, y, bases, tiles.order, tiles.set, tiles.start, tiles.stop, out,
            width, rank, base is not None, element(wide), ROWS, COLUMNS, RANK,
        )  # fmt: skip
    return out


def _outer(
    h: Tensor, s: Tensor, grad: Tensor, q: Tensor, y: Tensor, bases: Tensor, tiles: _Tiles, wide: torch.dtype
) -> Tensor:  # fmt: skip
    """``dᵀ q + gᵀ y``, ``[set, width, rank]``."""
    sets, width, rank = bases.shape
    out = torch.empty_like(bases)
    if out.numel():
        _basis_gradient[sets, triton.cdiv(width, COLUMNS), triton.cdiv(rank, RANK)](
            h, s, grad, q, y, tiles.order, tiles.starts, tiles.stops, out, width, rank, element(wide), ROWS, COLUMNS, RANK
        )
    return out


@triton.jit
@no_type_check
def _project(
    a, minus, bases, order, set_of, start, stop, out, width, rank,
    DIFFERENCE: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    """One tile of rows × one of ranks: (a − minus) R."""
    tile, k = tl.program_id(0), tl.program_id(1) * RANK + tl.arange(0, RANK)
    at = tl.load(start + tile) + tl.arange(0, ROWS)
    here = at < tl.load(stop + tile)
    row = tl.load(order + at, mask=here, other=0)
    basis = bases + tl.load(set_of + tile) * width * rank
    total = tl.zeros([ROWS, RANK], ACC)
    for first in range(0, width, COLUMNS):
        w = first + tl.arange(0, COLUMNS)
        inside = here[:, None] & (w < width)[None, :]
        place = row[:, None] * width + w[None, :]
        value = tl.load(a + place, mask=inside, other=0).to(ACC)
        if DIFFERENCE:
            value -= tl.load(minus + place, mask=inside, other=0).to(ACC)
        known = (w < width)[:, None] & (k < rank)[None, :]
        tile_basis = tl.load(basis + w[:, None] * rank + k[None, :], mask=known, other=0).to(ACC)
        total = tl.dot(value, tile_basis, total, input_precision="ieee", out_dtype=ACC)
    tl.store(out + row[:, None] * rank + k[None, :], total, mask=here[:, None] & (k < rank)[None, :])


@triton.jit
@no_type_check
def _expand(
    base, y, bases, order, set_of, start, stop, out, width, rank,
    BASE: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    """One tile of rows × one of columns: base + y Rᵀ."""
    tile, w = tl.program_id(0), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    at = tl.load(start + tile) + tl.arange(0, ROWS)
    here = at < tl.load(stop + tile)
    row = tl.load(order + at, mask=here, other=0)
    basis = bases + tl.load(set_of + tile) * width * rank
    total = tl.zeros([ROWS, COLUMNS], ACC)
    for first in range(0, rank, RANK):
        k = first + tl.arange(0, RANK)
        part = tl.load(y + row[:, None] * rank + k[None, :], mask=here[:, None] & (k < rank)[None, :], other=0)
        known = (k < rank)[:, None] & (w < width)[None, :]
        tile_basis = tl.load(basis + w[None, :] * rank + k[:, None], mask=known, other=0).to(ACC)
        total = tl.dot(part, tile_basis, total, input_precision="ieee", out_dtype=ACC)
    inside = here[:, None] & (w < width)[None, :]
    place = row[:, None] * width + w[None, :]
    if BASE:
        total += tl.load(base + place, mask=inside, other=0).to(ACC)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _basis_gradient(
    h, s, grad, q, y, order, starts, stops, out, width, rank,
    ACC: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    """One set, one tile of columns × one of ranks: the sum over the set's rows of (s − h)ᵀ q + gradᵀ y."""
    served = tl.program_id(0).to(tl.int64)
    w, k = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS), tl.program_id(2) * RANK + tl.arange(0, RANK)
    stop = tl.load(stops + served)
    total = tl.zeros([COLUMNS, RANK], ACC)
    for first in range(tl.load(starts + served), stop, ROWS):
        at = first + tl.arange(0, ROWS)
        row = tl.load(order + at, mask=at < stop, other=0)
        inside = (w < width)[:, None] & (at < stop)[None, :]
        place = row[None, :] * width + w[:, None]
        ranks = row[:, None] * rank + k[None, :]
        known = (at < stop)[:, None] & (k < rank)[None, :]
        difference = tl.load(s + place, mask=inside, other=0).to(ACC) - tl.load(h + place, mask=inside, other=0).to(ACC)
        slope = tl.load(grad + place, mask=inside, other=0).to(ACC)
        rows_q, rows_y = tl.load(q + ranks, mask=known, other=0), tl.load(y + ranks, mask=known, other=0)
        total = tl.dot(difference, rows_q, total, input_precision="ieee", out_dtype=ACC)
        total = tl.dot(slope, rows_y, total, input_precision="ieee", out_dtype=ACC)
    place = served * width * rank + w[:, None] * rank + k[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=(w < width)[:, None] & (k < rank)[None, :])
