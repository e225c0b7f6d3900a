"""In which basis: a map from a site's features to coordinates, and back.

    >>> import torch
    >>> F = Subspace(torch.eye(4)[:, :2])
    >>> F.decode(F.encode(torch.ones(3, 4))).sum().item()
    6.0

A featurizer may lose something (a rank-k subspace, an SAE): the engine adds the error back, so that writing a site's own value
changes nothing, unless ``keep_error=False`` drops it on purpose.
"""

from __future__ import annotations

import hashlib
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp import kernels
from interp.errors import ShapeMismatchError


@runtime_checkable
class Featurizer(Protocol):
    """``encode`` maps ``[..., width]`` to ``[..., feature]``, ``decode`` maps back; both differentiable.

    One of your own, a dictionary that you trained, is saved with a run if it is an ``nn.Module`` with a method ``options()``:
    the arguments of its constructor that make another one like it (:mod:`interp.interventions.files`).
    """

    def encode(self, h: Tensor) -> Tensor: ...
    def decode(self, f: Tensor) -> Tensor: ...
    def spec(self) -> dict[str, Any]: ...


@runtime_checkable
class Interchanging(Featurizer, Protocol):
    """A featurizer onto orthonormal columns R, which knows what replacing its coordinates comes to."""

    def interchange(self, h: Tensor, s: Tensor) -> Tensor:
        """``h + (s − h) R Rᵀ``: two products rather than the four of encoding and decoding both."""
        ...


class Identity:
    """The site's own coordinates; replacing then writes the source's value bit for bit."""

    def encode(self, h: Tensor) -> Tensor:
        return h

    def decode(self, f: Tensor) -> Tensor:
        return f

    def spec(self) -> dict[str, Any]:
        return {"kind": "identity"}

    def options(self) -> dict[str, Any]:
        return {}

    def __repr__(self) -> str:
        return "Identity()"


class Subspace(nn.Module):
    """The coordinates along the orthonormal columns of a matrix: a rotation if it is square, a rank-k subspace otherwise.

    Args:
        basis: ``[width, feature]``, orthonormal to 1e-4 of float32 (checked).

    Raises:
        ShapeMismatchError: the columns are not orthonormal, or there are more of them than rows.
    """

    basis: Tensor

    def __init__(self, basis: Float[Tensor, "width feature"]) -> None:
        super().__init__()
        if basis.ndim != 2 or basis.shape[1] > basis.shape[0]:
            raise ShapeMismatchError(f"basis has shape {tuple(basis.shape)}; expected [width, feature] with feature ≤ width")
        gram = basis.detach().double().mT @ basis.detach().double()
        error = (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).abs().max().item()
        if error > 1e-4:
            raise ShapeMismatchError(
                f"the columns of basis {tuple(basis.shape)} are not orthonormal: max |BᵀB − 1| = {error:.1e}; "
                "orthonormalise them first, for example with torch.linalg.qr(basis).Q"
            )
        self.register_buffer("basis", basis)

    def encode(self, h: Tensor) -> Tensor:
        self._check(h)
        return h @ self.basis.to(h)

    def decode(self, f: Tensor) -> Tensor:
        return f @ self.basis.to(f).mT

    def interchange(self, h: Tensor, s: Tensor) -> Tensor:
        self._check(h)
        return interchanged(h, s, self.basis.to(h.device))

    def _check(self, h: Tensor) -> None:
        if h.shape[-1] != self.basis.shape[0]:
            raise ShapeMismatchError(f"a subspace of width {self.basis.shape[0]} was used on features of width {h.shape[-1]}")

    def spec(self) -> dict[str, Any]:
        content = self.basis.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return {"kind": "subspace", "shape": list(self.basis.shape), "sha256": hashlib.sha256(content).hexdigest()[:16]}

    def options(self) -> dict[str, Any]:
        """Arguments that make another one like this."""
        return {"basis": self.basis}

    def __repr__(self) -> str:
        return f"Subspace({self.basis.shape[0]} → {self.basis.shape[1]})"


def interchanged(
    h: Float[Tensor, "*row width"], s: Float[Tensor, "*row width"], basis: Float[Tensor, "width feature"]
) -> Float[Tensor, "*row width"]:
    """``h + (s − h) R Rᵀ`` by :func:`interp.kernels.subspace_interchange`, in the dtype of ``h``."""
    rows = h.reshape(-1, h.shape[-1])
    every = torch.zeros(len(rows), dtype=torch.long, device=h.device)
    return kernels.subspace_interchange(rows, s.reshape(rows.shape), basis[None], every).reshape(h.shape)
