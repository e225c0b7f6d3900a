"""The torch reference of :func:`interp.kernels.fused_readout`: one pass over the vocabulary in chunks.

Where a gradient will be asked for, the same pass gathers what it needs: the derivative of a log-sum-exp is the mean derivative
of the logits under their softmax, which is a running mean as the KL itself is one. So nothing is computed twice, and forward
and backward together do the products that plain logits do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from interp.kernels.readout_parts import Head, Reference

#: A chunk is this share of the vocabulary; half a dozen tensors of its size live at once.
SHARE = 128
#: Fewest columns of a chunk, and most numbers in one of its tensors (16 MB in float32).
FEWEST, LARGEST = 512, 2**22
#: Where running sums start: below every logit, yet not −inf, whose difference from itself is no number.
START = -1e30


def whole(x: Tensor, head: Head, reference: Reference | None) -> tuple[Tensor, Tensor | None]:
    """Log-sum-exp over the vocabulary ``[row]``, and KL from the reference ``[row]``."""
    lse, kl = _Whole.apply(x, head, reference, torch.is_grad_enabled() and x.requires_grad)
    return lse, kl


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, head: Head, reference: Reference | None, gradient: bool) -> tuple[Tensor, Tensor | None]:
        wide = x.to(head.wide)
        rows = _Rows(wide, gradient)
        compared = None if reference is None else _Compared(wide, head, reference, gradient)
        for columns, part in head.chunks(_chunk(len(x), len(head.weight))):
            logits = part.logits(wide)
            rows.see(logits, part)
            if compared is not None:
                compared.see(logits, part, columns)
        ctx.dtype = x.dtype
        ctx.save_for_backward(rows.mean, None if compared is None else compared.mean)
        return rows.softmax.logsumexp, None if compared is None else compared.kl(rows.softmax.logsumexp)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, lse_grad: Tensor, kl_grad: Tensor | None) -> tuple[Tensor, None, None, None]:
        mean, reference_mean = ctx.saved_tensors
        if reference_mean is None:
            return (mean * lse_grad[:, None]).to(ctx.dtype), None, None, None
        assert kl_grad is not None
        x_grad = (mean * (lse_grad + kl_grad)[:, None]).addcmul_(reference_mean, kl_grad[:, None], value=-1)
        return x_grad.to(ctx.dtype), None, None, None


def _chunk(rows: int, vocab: int) -> int:
    """Columns of a chunk."""
    return min(max(vocab // SHARE, FEWEST), max(LARGEST // max(rows, 1), 1))


class _RunningSoftmax:
    """A softmax over columns that come in chunks; shares are of the columns seen so far."""

    def __init__(self, rows: int, like: Tensor) -> None:
        self.logsumexp = like.new_full((rows,), START)

    def see(self, logits: Tensor) -> Tensor:
        """Take a chunk in; returns the factor by which the columns before it lose share."""
        before = self.logsumexp
        self.logsumexp = torch.logaddexp(before, logits.logsumexp(-1))
        return (before - self.logsumexp).exp_()

    def shares(self, logits: Tensor) -> Tensor:
        """Shares of the chunk just seen."""
        return (logits - self.logsumexp[:, None]).exp_()


class _Rows:
    """The rows' softmax and, for the gradient, the mean under it of the derivative of a logit by x, ``[row, width]``."""

    def __init__(self, x: Tensor, gradient: bool) -> None:
        self.softmax = _RunningSoftmax(len(x), x)
        self.mean = torch.zeros_like(x) if gradient else None

    def see(self, logits: Tensor, part: Head) -> None:
        fade = self.softmax.see(logits)
        if self.mean is not None:
            shares = part.through(self.softmax.shares(logits), logits)
            self.mean.mul_(fade[:, None]).addmm_(shares, part.weight)


class _Compared:
    """Running means under the reference's softmax R, with l and r the logits of the row and of the reference."""

    def __init__(self, x: Tensor, head: Head, reference: Reference, gradient: bool) -> None:
        self.reference = reference
        self.softmax = _RunningSoftmax(len(reference.used), x)
        self.gap = x.new_zeros(len(x))
        """Mean of r − l, a row."""
        self.mean = torch.zeros_like(x) if gradient else None
        """Mean of the derivative of l by x, ``[row, width]``."""

    def see(self, logits: Tensor, part: Head, columns: slice) -> None:
        expected = self.reference.logits(part, columns)
        example_of = self.reference.example_of
        fade = self.softmax.see(expected)[example_of]
        shares = self.softmax.shares(expected)[example_of]
        gaps = expected[example_of].sub_(logits).mul_(shares)
        gaps.masked_fill_(shares == 0, 0)  # 0 · log 0 is 0, also where both logits are −inf
        self.gap.mul_(fade).add_(gaps.sum(-1))
        if self.mean is not None:
            self.mean.mul_(fade[:, None]).addmm_(part.through(shares, logits), part.weight)

    def kl(self, logsumexp: Tensor) -> Tensor:
        """The mean of r − l, both normalised."""
        return self.gap + logsumexp - self.softmax.logsumexp[self.reference.example_of]
