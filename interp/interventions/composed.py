"""A basis within a basis: principal components, then a rotation among them; a subspace of a dictionary's features.

>>> inner = Composed(Subspace(torch.eye(768)[:, :64]), Rotation(64, 4))
>>> inner.encode(torch.randn(5, 768)).shape
torch.Size([5, 4])
>>> learned = Change("L9.resid_post@END", featurizer=inner)                              # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import InputError, ShapeMismatchError
from interp.interventions.digest import digest, told
from interp.interventions.featurizer import Featurizer


class Composed(nn.Module):
    """The second featurizer's coordinates of the first one's.

    What either leaves out keeps its value, as with any lossy basis. Several variables within one basis are
    ``Composed(pca, Columns(rotation, 0, 2))``, ``Composed(pca, Columns(rotation, 2, 4))``.

    Args:
        first: of the site's features.
        second: of the coordinates that the first one gives.

    Raises:
        InputError: one of them is no featurizer.
    """

    first: Featurizer
    second: Featurizer

    def __init__(self, first: Any, second: Any) -> None:
        super().__init__()
        for name, part in (("first", first), ("second", second)):
            if isinstance(part, type) or not isinstance(part, Featurizer):
                what = f"the class {part.__name__}" if isinstance(part, type) else f"of type {type(part).__name__}"
                raise InputError(f"{name} is {what}; expected a featurizer, with encode, decode and spec")
        self.first, self.second = first, second

    @property
    def tokens(self) -> int:
        """How many tokens are taken together."""
        return int(getattr(self.first, "tokens", 1) * getattr(self.second, "tokens", 1))

    def encode(self, h: Float[Tensor, "*row width"]) -> Float[Tensor, "*coordinates"]:
        return self.second.encode(self.first.encode(h))

    def decode(self, f: Float[Tensor, "*coordinates"]) -> Float[Tensor, "*row width"]:
        return self.first.decode(self.second.decode(f))

    def spec(self) -> dict[str, Any]:
        return {"kind": "composed", "first": told(self.first), "second": told(self.second)}

    def options(self) -> dict[str, Any]:
        """Arguments that make another one like this."""
        return {"first": self.first, "second": self.second}

    def __repr__(self) -> str:
        return f"Composed({self.first!r}, {self.second!r})"


class Span(nn.Module):
    """The coefficients of a value's projection on what vectors span, which need be neither orthogonal nor of one length.

    A coordinate says how much of its own vector there is. Replacing all of them is h + (s − h) W(WᵀW)⁻¹Wᵀ, which is that of any
    basis of the span.

    Args:
        vectors: ``[width, feature]``, linearly independent.

    Raises:
        ShapeMismatchError: they are not, to 1e-4 of float32.
    """

    vectors: Tensor
    inverse: Tensor

    def __init__(self, vectors: Float[Tensor, "width feature"]) -> None:
        super().__init__()
        if vectors.ndim != 2 or not 1 <= vectors.shape[1] <= vectors.shape[0]:
            raise ShapeMismatchError(f"vectors have shape {tuple(vectors.shape)}; expected [width, feature], feature ≤ width")
        exact = vectors.detach().double()
        lengths = exact.norm(dim=0)
        least = torch.linalg.svdvals(exact / lengths.clamp_min(torch.finfo(exact.dtype).tiny)).min().item()
        if not least > 1e-4:
            raise ShapeMismatchError(
                f"the vectors {tuple(vectors.shape)} are not linearly independent: at unit length their least singular value "
                f"is {least:.1e}; give fewer, or a basis of their span as a Subspace"
            )
        dtype = torch.promote_types(vectors.dtype, torch.float32)
        self.register_buffer("vectors", vectors.detach().to(dtype))
        self.register_buffer("inverse", torch.linalg.pinv(exact).mT.to(dtype), persistent=False)

    def encode(self, h: Float[Tensor, "*row width"]) -> Float[Tensor, "*row feature"]:
        if h.shape[-1] != len(self.vectors):
            raise ShapeMismatchError(f"a span of width {len(self.vectors)} was used on features of width {h.shape[-1]}")
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        return h @ self.inverse.to(h)

    def decode(self, f: Float[Tensor, "*row feature"]) -> Float[Tensor, "*row width"]:
        f = f.to(torch.promote_types(f.dtype, torch.float32))
        return f @ self.vectors.to(f).mT

    def spec(self) -> dict[str, Any]:
        return {"kind": "span", "shape": list(self.vectors.shape), "sha256": digest(self.state_dict())}

    def options(self) -> dict[str, Any]:
        """Arguments that make another one like this."""
        return {"vectors": self.vectors}

    def __repr__(self) -> str:
        return f"Span({self.vectors.shape[0]} → {self.vectors.shape[1]})"
