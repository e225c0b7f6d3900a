"""The torch reference of :func:`interp.kernels.fused_readout`: one pass over the vocabulary in chunks.

Where a gradient will be asked for, the same pass gathers what it needs: the derivative of a log-sum-exp is the mean derivative
of the logits under their softmax, which is a running mean as the KL itself is one. So nothing is computed twice, and forward
and backward together do the products that plain logits do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp.kernels.checks import first_derivative_only
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
        logsumexp = rows.softmax.logsumexp
        ctx.save_for_backward(rows.mean_slope(), None if compared is None else compared.mean_slope())
        return logsumexp, None if compared is None else compared.kl(logsumexp)

    @staticmethod
    def backward(ctx: Any, lse_grad: Tensor, kl_grad: Tensor | None) -> tuple[Tensor, None, None, None]:
        first_derivative_only("fused_readout")
        slope, reference_slope = ctx.saved_tensors
        if reference_slope is None:
            return (slope * lse_grad[:, None]).to(ctx.dtype), None, None, None
        assert kl_grad is not None
        x_grad = (slope * (lse_grad + kl_grad)[:, None]).addcmul_(reference_slope, kl_grad[:, None], value=-1)
        return x_grad.to(ctx.dtype), None, None, None


def _chunk(rows: int, vocab: int) -> int:
    """Columns of a chunk."""
    return min(max(vocab // SHARE, FEWEST), max(LARGEST // max(rows, 1), 1))


class _RunningSoftmax:
    """A softmax over columns that come in chunks: the largest logit so far, and the sum of exp(logit − largest)."""

    def __init__(self, rows: int, like: Tensor) -> None:
        self.top = like.new_full((rows,), START)
        self.total = like.new_zeros(rows)

    def see(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Take a chunk in; returns the weights of its columns, and the factor by which earlier weights fade."""
        before = self.top
        self.top = torch.maximum(before, logits.amax(-1))
        fade = (before - self.top).exp_()
        weights = (logits - self.top[:, None]).exp_()
        self.total = self.total * fade + weights.sum(-1)
        return weights, fade

    @property
    def logsumexp(self) -> Tensor:
        return self.top + self.total.log()


class _Rows:
    """The rows' softmax and, for the gradient, the sum under it of the derivative of a logit by x, ``[row, width]``."""

    def __init__(self, x: Tensor, gradient: bool) -> None:
        self.softmax = _RunningSoftmax(len(x), x)
        self.slopes = torch.zeros_like(x) if gradient else None

    def see(self, logits: Tensor, part: Head) -> None:
        weights, fade = self.softmax.see(logits)
        if self.slopes is not None:
            self.slopes = torch.addmm(self.slopes.mul_(fade[:, None]), part.through(weights, logits), part.weight)

    def mean_slope(self) -> Tensor | None:
        return None if self.slopes is None else self.slopes.div_(self.softmax.total[:, None])


class _Compared:
    """Running sums under the reference's softmax R, with l and r the logits of the row and of the reference."""

    def __init__(self, x: Tensor, head: Head, reference: Reference, gradient: bool) -> None:
        self.reference = reference
        self.softmax = _RunningSoftmax(len(reference.used), x)
        self.gaps = x.new_zeros(len(x))
        """Sum of r − l, a row."""
        self.by_example = head.softcap is None
        """Whether the derivative of l by x does not depend on l, so that rows of one example share its sum."""
        self.slopes = x.new_zeros(len(reference.used) if self.by_example else len(x), x.shape[1]) if gradient else None
        """Sum of the derivative of l by x."""

    def see(self, logits: Tensor, part: Head, columns: slice) -> None:
        expected = self.reference.logits(part, columns)
        weights, fade = self.softmax.see(expected)
        if self.slopes is not None and self.by_example:
            self.slopes = torch.addmm(self.slopes.mul_(fade[:, None]), weights, part.weight)
        weights, fade = weights[self.reference.example_of], fade[self.reference.example_of]
        gaps = expected[self.reference.example_of].sub_(logits).mul_(weights)
        gaps.masked_fill_(weights == 0, 0)  # 0 · log 0 is 0, also where both logits are −inf
        self.gaps.mul_(fade).add_(gaps.sum(-1))
        if self.slopes is not None and not self.by_example:
            self.slopes = torch.addmm(self.slopes.mul_(fade[:, None]), part.through(weights, logits), part.weight)

    def kl(self, logsumexp: Tensor) -> Tensor:
        """The mean of r − l, both normalised."""
        total, expected = (seen[self.reference.example_of] for seen in (self.softmax.total, self.softmax.logsumexp))
        return self.gaps / total + (logsumexp - expected)

    def mean_slope(self) -> Tensor | None:
        """``[row, width]``."""
        if self.slopes is None:
            return None
        example_of = self.reference.example_of
        slopes = self.slopes[example_of] if self.by_example else self.slopes
        return slopes.div_(self.softmax.total[example_of][:, None])
