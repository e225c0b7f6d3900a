"""A constant that is learned and takes the value's place, as optimal ablation finds it (Li & Janson, arXiv 2409.09951).

>>> h = torch.randn(5, 12, 64)                                        # of 12 heads at 5 tokens
>>> torch.equal(ConstantVector((12, 64))(h, h), torch.zeros(5, 12, 64))
True
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from interp.interventions.digest import digest
from interp.interventions.learned import Shape, fitting, started


class ConstantVector(nn.Module):
    """The same vector in place of every value. Reads no source.

    Args:
        shape: of the vector, one axis for each of the features', as long or 1.
        start: its first value, a number or a tensor.
    """

    kind: str = "constant"
    commutes: bool = False
    reads_source: bool = False

    def __init__(self, shape: Shape, *, start: float | Tensor = 0.0) -> None:
        super().__init__()
        self.value = nn.Parameter(started(shape, start))

    def forward(self, h: Float[Tensor, "row ..."], s: Float[Tensor, "*given"]) -> Float[Tensor, "row ..."]:
        return fitting(self.value, h, self).to(h.dtype).expand_as(h)

    def spec(self) -> dict[str, Any]:
        return {"kind": "constant vector", **self.options(), "sha256": digest(self.state_dict())}

    def options(self) -> dict[str, Any]:
        """Arguments that make another one like this, but for what was learned."""
        return {"shape": list(self.value.shape)}

    def __repr__(self) -> str:
        return f"ConstantVector(shape={list(self.value.shape)}, norm={float(self.value.detach().norm()):.3g})"
