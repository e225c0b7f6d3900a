"""A product of two matrices that is kept as its factors: what a head does to the stream has rank d_head, not d_model.

>>> import torch
>>> low = Factored(torch.eye(5, 2), torch.eye(2, 5))
>>> low
Factored(5 × 5, rank 2)
>>> (torch.arange(5.0) @ low).tolist(), round(float(low.norm()), 3)
([0.0, 1.0, 0.0, 0.0, 0.0], 1.414)

Vectors are rows and stand in front: ``x @ product``. Axes in front of the last two are batch axes, as in torch: all heads of a
layer are one object, and ``product[3]`` is one of them. Everything that is read of a product ``[a, b]`` of rank r costs what
matrices ``[a, r]``, ``[r, b]`` and ``[r, r]`` cost; only :meth:`Factored.matrix` forms it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from einops import einsum
from jaxtyping import Complex, Float, Int
from torch import Tensor

from interp.errors import ShapeMismatchError

_NUMBERS = 1 << 24
"""Most numbers of a product that are formed at once where its rows are searched."""


class SVD(NamedTuple):
    """``U @ diag(S) @ V.mT``, with orthonormal columns of U and V and the largest singular value first."""

    U: Float[Tensor, "*batch a rank"]
    S: Float[Tensor, "*batch rank"]
    V: Float[Tensor, "*batch b rank"]

    def __repr__(self) -> str:
        largest, smallest = float(self.S.max()), float(self.S.min())
        shapes = f"U {list(self.U.shape)}, S {list(self.S.shape)} from {largest:.3g} to {smallest:.3g}, V {list(self.V.shape)}"
        return f"SVD({shapes})"


class Top(NamedTuple):
    """The largest numbers of some rows, largest first, and the columns in which they stand."""

    values: Float[Tensor, "*batch row k"]
    columns: Int[Tensor, "*batch row k"]

    def __repr__(self) -> str:
        largest, smallest = float(self.values.max()), float(self.values.min())
        return f"Top(values and columns {list(self.values.shape)}, from {largest:.3g} to {smallest:.3g})"


@dataclass(frozen=True, eq=False, repr=False)
class Factored:
    """``left @ right``, never formed.

    Args:
        left: ``[…, a, rank]``.
        right: ``[…, rank, b]``, with the same axes in front.

    Raises:
        ShapeMismatchError: factors that cannot be multiplied, or whose batch axes differ.
    """

    left: Float[Tensor, ...]
    """``[…, a, rank]``."""
    right: Float[Tensor, ...]
    """``[…, rank, b]``."""

    def __post_init__(self) -> None:
        left, right = self.left, self.right
        if min(left.ndim, right.ndim) < 2 or left.shape[:-2] != right.shape[:-2] or left.shape[-1] != right.shape[-2]:
            raise ShapeMismatchError(
                f"factors of shapes {tuple(left.shape)} and {tuple(right.shape)} make no product: expected […, a, rank] and "
                "[…, rank, b] with the same batch axes in front"
            )
        if (left.dtype, left.device) != (right.dtype, right.device):
            raise ShapeMismatchError(
                f"factors are {left.dtype} on {left.device} and {right.dtype} on {right.device}; both must be alike"
            )

    @classmethod
    def of(cls, svd: SVD) -> Factored:
        """The product of which this is the singular value decomposition; of fewer columns, its best approximation."""
        return cls(svd.U * svd.S.unsqueeze(-2), svd.V.mT)

    # what it is

    @property
    def shape(self) -> torch.Size:
        """Of the matrix: batch axes, rows, columns."""
        return torch.Size((*self.left.shape[:-1], self.right.shape[-1]))

    @property
    def ndim(self) -> int:
        return self.left.ndim

    @property
    def rank(self) -> int:
        """The inner width; the rank of the matrix is at most this."""
        return self.left.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        return self.left.dtype

    @property
    def device(self) -> torch.device:
        return self.left.device

    def __len__(self) -> int:
        return len(self.left)

    def __iter__(self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Self:
        """Of the batch axes alone.

        Raises:
            ShapeMismatchError: an index of rows or columns.
        """
        given = index if isinstance(index, tuple) else (index,)
        batch = self.ndim - 2
        if any(i is None or i is Ellipsis for i in given) or len(given) > batch:
            raise ShapeMismatchError(
                f"index {index!r} of a {self!r}: it has {batch} batch axes to index; of one product, rows(…) forms some rows"
            )
        return replace(self, left=self.left[index], right=self.right[index])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({' × '.join(map(str, self.shape))}, rank {self.rank})"

    def to(self, *where: Any, **named: Any) -> Factored:
        """In another dtype or on another device, as ``Tensor.to``."""
        return Factored(self.left.to(*where, **named), self.right.to(*where, **named))

    def double(self) -> Factored:
        return self.to(torch.float64)

    def matrix(self) -> Float[Tensor, "*batch a b"]:
        """The matrix itself, formed."""
        return self.left @ self.right

    def rows(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "*batch row b"]:
        """Some rows of the matrix, formed."""
        return self.left[..., rows.to(self.device), :] @ self.right

    # products

    @property
    def mT(self) -> Factored:  # noqa: N802 - torch's name
        """Transposed."""
        return Factored(self.right.mT, self.left.mT)

    T = mT

    def __matmul__(self, other: Any) -> Any:
        """With a tensor a tensor, with another product one of the smaller rank of the two; batch axes broadcast as torch's."""
        if isinstance(other, Factored):
            return self._chained(other)
        if not isinstance(other, Tensor):
            return NotImplemented
        self._check("the columns", self.shape[-1], "the other's rows", other.shape[0] if other.ndim == 1 else other.shape[-2])
        if other.ndim == 1:
            return (self.left @ (self.right @ other).unsqueeze(-1))[..., 0]
        return self.left @ (self.right @ other)

    def __rmatmul__(self, other: Any) -> Tensor:
        """``x @ product``: vectors or rows of matrices, through the inner width."""
        if not isinstance(other, Tensor):
            return NotImplemented
        self._check("the rows", self.shape[-2], "the other's last axis", other.shape[-1])
        if other.ndim == 1:
            return ((other @ self.left).unsqueeze(-2) @ self.right)[..., 0, :]
        return (other @ self.left) @ self.right

    def __mul__(self, number: float) -> Factored:
        return Factored(self.left * number, self.right)

    __rmul__ = __mul__

    def between(
        self, before: Float[Tensor, "... c a"] | None = None, after: Float[Tensor, "... b d"] | None = None
    ) -> Factored:
        """``before @ self @ after``, kept as factors: an OV circuit between embedding and unembedding."""
        left, right = self.left, self.right
        if before is not None:
            self._check("the rows", self.shape[-2], "the last axis of before", before.shape[-1])
            left = before @ left
        if after is not None:
            self._check("the columns", self.shape[-1], "the rows of after", after.shape[-2])
            right = right @ after
        return Factored(left, right)

    def _chained(self, other: Factored) -> Factored:
        self._check("the columns", self.shape[-1], "the other's rows", other.shape[-2])
        middle = self.right @ other.left
        if self.rank <= other.rank:
            right = middle @ other.right
            return Factored(self.left.expand(*right.shape[:-2], *self.left.shape[-2:]), right)
        left = self.left @ middle
        return Factored(left, other.right.expand(*left.shape[:-2], *other.right.shape[-2:]))

    def _check(self, what: str, mine: int, whose: str, theirs: int) -> None:
        if mine != theirs:
            raise ShapeMismatchError(f"{what} of a {self!r} are {mine}, {whose} {theirs}: they cannot be multiplied")

    # readings

    def norm(self) -> Float[Tensor, "*batch"]:
        """Frobenius norm, from the Gram matrices of the factors: ‖LR‖² = tr(LᵀL · RRᵀ).

        Exact to the rounding of ‖L‖²‖R‖²: of a product far smaller than its factors the singular values know more.
        """
        grams = einsum(self.left.mT @ self.left, self.right @ self.right.mT, "... i j, ... j i -> ...")
        return grams.clamp(min=0).sqrt()

    def trace(self) -> Float[Tensor, "*batch"]:
        """The sum of the diagonal of a square product."""
        self._square("trace")
        return einsum(self.left, self.right, "... a r, ... r a -> ...")

    def eigenvalues(self) -> Complex[Tensor, "*batch rank"]:
        """The eigenvalues of a square product that can differ from 0: those of ``right @ left``; in no order."""
        self._square("eigenvalues")
        return torch.linalg.eigvals(self.right @ self.left)

    def singular_values(self) -> Float[Tensor, "*batch rank"]:
        """Largest first; those beyond the inner width are 0 and are left out."""
        return torch.linalg.svdvals(torch.linalg.qr(self.left).R @ torch.linalg.qr(self.right.mT).R.mT)

    def svd(self) -> SVD:
        """The singular value decomposition, through QR of both factors."""
        one, other = torch.linalg.qr(self.left), torch.linalg.qr(self.right.mT)
        inner = torch.linalg.svd(one.R @ other.R.mT, full_matrices=False)
        return SVD(one.Q @ inner.U, inner.S, other.Q @ inner.Vh.mT)

    def top(self, k: int, rows: Int[Tensor, " row"] | None = None, *, largest: bool = True) -> Top:
        """The largest numbers of each row, formed a few rows at a time.

        Args:
            k: how many of each row.
            rows: which; by default all.
            largest: False for the smallest ones, smallest first.

        Raises:
            ShapeMismatchError: more numbers than a row has, or fewer than one.
        """
        if not 1 <= k <= self.shape[-1]:
            raise ShapeMismatchError(f"k={k} numbers of each row of a {self!r}: it must be from 1 to {self.shape[-1]}")
        rows = torch.arange(self.shape[-2]) if rows is None else rows
        each = max(1, self.left[..., 0, 0].numel()) * self.shape[-1]
        parts = [self.rows(some).topk(k, dim=-1, largest=largest) for some in rows.split(max(1, _NUMBERS // each))]
        return Top(*(torch.cat(found, dim=-2) for found in zip(*parts, strict=True)))

    def _square(self, what: str) -> None:
        if self.shape[-1] != self.shape[-2]:
            raise ShapeMismatchError(f"{what} are of square products; this is a {self!r}")
