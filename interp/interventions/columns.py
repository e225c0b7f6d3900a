"""Some of a basis' coordinates: what one variable owns of a rotation that several share.

>>> whole = Rotation(768, 4, seed=0)
>>> first, second = Columns(whole, 0, 2), Columns(whole, 2, 4)      # two variables, disjoint and orthogonal
>>> first.encode(torch.randn(5, 768)).shape
torch.Size([5, 2])
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import ShapeMismatchError
from interp.interventions.digest import told
from interp.interventions.featurizer import Subspace, interchanged
from interp.interventions.rotation import Rotation


class Columns(nn.Module):
    """Columns ``start`` to ``stop`` of an orthonormal basis, which is shared: what trains one trains all.

    Since the columns are orthogonal to the others, writing these and then others is writing both at once. Of a basis that is
    not linear there are no such parts: choose coordinates there with ``edit=Select(…)`` or a mask.

    Args:
        whole: a rotation or a subspace.
        start, stop: which of its columns.

    Raises:
        ShapeMismatchError: another featurizer, or columns that it does not have.
    """

    whole: Rotation | Subspace

    def __init__(self, whole: Any, start: int, stop: int) -> None:
        super().__init__()
        if not isinstance(whole, Rotation | Subspace):
            raise ShapeMismatchError(
                f"whole is {whole!r}, whose coordinates cannot be written apart from each other; expected a Rotation or a "
                "Subspace, or choose coordinates with edit=Select(…)"
            )
        rank = whole.basis.shape[1]
        if not 0 <= start < stop <= rank:
            raise ShapeMismatchError(f"columns {start} to {stop} of {whole!r}, which has {rank}")
        self.whole, self.start, self.stop = whole, start, stop

    @classmethod
    def shared(cls, whole: Rotation | Subspace, parts: int) -> list[Any]:
        """A basis in equal parts, one after the other; of one part itself."""
        if parts == 1:
            return [whole]
        each = whole.basis.shape[1] // parts
        return [cls(whole, start, start + each) for start in range(0, parts * each, each)]

    @property
    def basis(self) -> Float[Tensor, "width column"]:
        return self.whole.basis[:, self.start : self.stop]

    def encode(self, h: Float[Tensor, "*row width"]) -> Float[Tensor, "*row column"]:
        return self.whole.encode(h)[..., self.start : self.stop]

    def decode(self, f: Float[Tensor, "*row column"]) -> Float[Tensor, "*row width"]:
        rank = self.whole.basis.shape[1]
        return self.whole.decode(torch.nn.functional.pad(f, (self.start, rank - self.stop)))

    def interchange(self, h: Float[Tensor, "*row width"], s: Float[Tensor, "*row width"]) -> Float[Tensor, "*row width"]:
        if h.shape[-1] != len(basis := self.basis):
            raise ShapeMismatchError(f"columns of width {len(basis)} were used on features of width {h.shape[-1]}")
        with torch.autocast(h.device.type, enabled=False):
            return interchanged(h.to(torch.promote_types(h.dtype, basis.dtype)), s, basis.to(h.device))

    def spec(self) -> dict[str, Any]:
        return {"kind": "columns", "start": self.start, "stop": self.stop, "whole": told(self.whole)}

    def options(self) -> dict[str, Any]:
        """Arguments that make another one like this."""
        return {"whole": self.whole, "start": self.start, "stop": self.stop}

    def __repr__(self) -> str:
        return f"Columns({self.start} to {self.stop} of {self.whole!r})"
