"""Low-rank interchange: a row takes over the part of its source that lies in a subspace.

    >>> h, s = torch.zeros(1, 2), torch.ones(1, 2)
    >>> subspace_interchange(h, s, torch.tensor([[[1.0], [0.0]]]), torch.tensor([0]))
    tensor([[1., 0.]])

With orthonormal columns R this is the interchange of distributed alignment search (Geiger et al., arXiv 2303.02536) written
without the full rotation: h + (s − h) R Rᵀ.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.kernels.checks import accumulator, indices, sizes
from interp.kernels.choice import implementation

NAME = "subspace_interchange"


def subspace_interchange(
    h: Float[Tensor, "row width"],
    s: Float[Tensor, "row width"],
    bases: Float[Tensor, "set width rank"],
    set_of: Int[Tensor, " row"],
) -> Float[Tensor, "row width"]:
    """``h + (s − h) R Rᵀ`` with R = ``bases[set_of[row]]``, in the dtype of ``h``.

    Gradients reach ``h``, ``s`` and ``bases``; sums are float32, or float64 where an input is. R is used as it stands: nothing
    makes its columns orthonormal.

    Raises:
        ShapeMismatchError: shapes that do not fit.
        KernelError: a set that does not exist, tensors on several devices, or Triton where it cannot run.
    """
    axes = sizes(NAME, h=(h, "row width"), s=(s, "row width"), bases=(bases, "set width rank"), set_of=(set_of, "row"))
    indices(NAME, "set_of", set_of, axes["set"])
    if implementation(NAME, h.device) == "triton":
        from interp.kernels import subspace_triton

        return subspace_triton.interchange(h, s, bases, set_of)
    return in_torch(h, s, bases, set_of)


def in_torch(h: Tensor, s: Tensor, bases: Tensor, set_of: Tensor) -> Tensor:
    """The reference: rows sorted by set, two products a set, so that no basis is copied for every row that it serves."""
    wide = accumulator(h, s, bases)
    base = h.to(wide)
    difference = s.to(wide) - base
    order = set_of.argsort(stable=True)
    groups = difference[order].split(set_of.bincount(minlength=len(bases)).tolist())
    moved = [(rows @ basis) @ basis.mT for rows, basis in zip(groups, bases.to(wide), strict=True)]
    return (base + torch.cat([difference[:0], *moved])[order.argsort()]).to(h.dtype)
