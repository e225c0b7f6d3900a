"""Gates on attention heads, one set of them for many rows.

>>> head_gates(torch.ones(1, 1, 2, 1), torch.tensor([[0.5, 2.0]]), torch.tensor([0])).flatten()
tensor([0.5000, 2.0000])
"""

from __future__ import annotations

from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from interp.kernels.checks import accumulator, indices, sizes
from interp.kernels.choice import implementation

NAME = "head_gates"


def head_gates(
    z: Float[Tensor, "row position head d_head"],
    gates: Float[Tensor, "set head"],
    set_of: Int[Tensor, " row"],
) -> Float[Tensor, "row position head d_head"]:
    """Every head's output times its gate, ``z · gates[set_of[row], head]``, in the dtype of ``z``.

    Gradients reach ``z`` and ``gates``; sums are float32, or float64 where an input is.

    Raises:
        ShapeMismatchError: shapes that do not fit.
        KernelError: a set that does not exist, tensors on several devices, or Triton where it cannot run.
    """
    axes = sizes(NAME, z=(z, "row position head d_head"), gates=(gates, "set head"), set_of=(set_of, "row"))
    indices(NAME, "set_of", set_of, axes["set"])
    if implementation(NAME, z.device) == "triton":
        from interp.kernels import gates_triton

        return gates_triton.gate(z, gates, set_of)
    return in_torch(z, gates, set_of)


def in_torch(z: Tensor, gates: Tensor, set_of: Tensor) -> Tensor:
    """The reference."""
    wide = accumulator(z, gates)
    served = rearrange(gates.to(wide)[set_of], "row head -> row 1 head 1")
    return (z.to(wide) * served).to(z.dtype)
