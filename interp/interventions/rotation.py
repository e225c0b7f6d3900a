"""A basis that can be learned: orthonormal columns, whatever an optimiser does to the parameters behind them.

    >>> rotation = Rotation(width=768, rank=16, seed=0)
    >>> rotation.encode(torch.randn(4, 768)).shape, rotation.decode(torch.randn(4, 16)).shape
    (torch.Size([4, 16]), torch.Size([4, 768]))
    >>> optimiser = torch.optim.Adam(rotation.parameters(), lr=5e-3)

With ``edit=Replace()`` this is distributed alignment search, h' = h + Q Qᵀ(s − h) (Geiger, Wu et al., arXiv 2303.02536).

``Q`` is a function of free parameters W ``[width, rank]``, one of three:

- ``"qr"``: the orthonormal factor of W, with the signs that make the diagonal of R positive. The cheapest.
- ``"cayley"``: (I + A)⁻¹(I − A)·S, from a start S and the skew A = W Sᵀ − S Wᵀ of twice its rank, so that a system of that size
  is solved (Wen and Yin, Mathematical Programming 142, 2013).
- ``"householder"``: the map of ``torch.nn.utils.parametrizations.orthogonal`` for tall matrices, to compare with what was
  trained through it (pyvene): equal parameters, gradients and steps, by matrix products rather than a reflection at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import ShapeMismatchError, UnknownNameError
from interp.interventions.digest import digest
from interp.interventions.featurizer import Subspace, interchanged

_PRECISE = (torch.float32, torch.float64)


class Rotation(nn.Module):
    """Learned orthonormal columns: a rotation if there are as many as the width, a subspace of that rank otherwise.

    Args:
        width: features of the site.
        rank: columns.
        seed: of the first basis, an orthonormalised Gaussian draw; the same under every parametrization.
        parametrization: ``"qr"``, ``"cayley"`` or ``"householder"``, see above.
        start: the first basis instead of a draw, ``[width, rank]``, orthonormal.

    The columns are orthonormal to 1e-6 in float32, the precision they have unless ``.double()`` was called. Moving the module
    to a lower one moves its device alone, autocast does not reach it, and features of a lower precision come back as float32.

    Raises:
        ShapeMismatchError: a rank that is not between 1 and the width, a start of another shape or that is not orthonormal, or
            ``"householder"`` with as many columns as the width, for which torch takes the matrix exponential instead.
        UnknownNameError: another parametrization.
    """

    weight: nn.Parameter
    base: Tensor | None
    """What the parameters turn: the start (cayley), or the start with its complement (householder)."""

    def __init__(
        self,
        width: int,
        rank: int,
        *,
        seed: int = 0,
        parametrization: str = "qr",
        start: Float[Tensor, "width rank"] | None = None,
    ) -> None:
        super().__init__()
        _check(width, rank, parametrization)
        start = _drawn(width, rank, seed) if start is None else _orthonormal(start, width, rank)
        weight, base = _CENTRES[parametrization](start)
        self.width, self.rank, self.parametrization = width, rank, parametrization
        self.weight = nn.Parameter(weight)
        self.register_buffer("base", base)
        self._holding = False
        self._held: tuple[object, Tensor] | None = None

    @classmethod
    def like_torch(cls, trained: nn.Module | Mapping[str, Tensor]) -> Rotation:
        """The rotation that a module parametrized by ``torch.nn.utils.parametrizations.orthogonal`` holds, or its state dict.

        The module may be anything around the parametrized one, such as pyvene's ``LowRankRotatedSpaceIntervention``.

        Raises:
            ShapeMismatchError: there is not exactly one tall matrix with that parametrization and its base.
        """
        state = trained.state_dict() if isinstance(trained, nn.Module) else trained
        found = [name for name in state if re.search(r"parametrizations\.\w+\.original$", name)]
        base = state.get(re.sub(r"original$", "0.base", found[0])) if found else None
        if len(found) != 1 or base is None:
            raise ShapeMismatchError(
                "expected one tensor named parametrizations.*.original and its parametrizations.*.0.base, "
                f"got {', '.join(state) or 'none'}"
            )
        weight = state[found[0]]
        if not _torch_maps(trained) <= {"householder"} or weight.shape[0] <= weight.shape[1]:
            raise ShapeMismatchError(
                f"{found[0]} of shape {tuple(weight.shape)} is not a tall matrix under torch's map 'householder', the one "
                "shared; start from its value: Rotation(width, rank, start=module.weight)"
            )
        width, rank = weight.shape
        rotation = cls(width, rank, parametrization="householder", start=torch.eye(width, rank)).to(weight.dtype)
        rotation.load_state_dict({"weight": weight, "base": base})
        return rotation

    @property
    def basis(self) -> Float[Tensor, "width rank"]:
        """The orthonormal columns. Computed at every use, unless within :meth:`once`."""
        if not self._holding:
            return self._computed()
        key = (self.weight._version, self.weight.requires_grad, torch.is_grad_enabled())
        if self._held is None or self._held[0] != key:
            self._held = key, self._computed()
        return self._held[1]

    @contextmanager
    def once(self) -> Iterator[None]:
        """Compute the basis once inside: around one forward and its backward pass.

        A write in its coordinates asks for it up to four times.
        """
        before = self._holding, self._held
        self._holding, self._held = True, None
        try:
            yield
        finally:
            self._holding, self._held = before

    def _computed(self) -> Tensor:
        with _exact(self.weight):
            tensors = (self.weight,) if self.base is None else (self.weight, self.base)
            return _MAPS[self.parametrization](*tensors)

    def encode(self, h: Float[Tensor, "*row width"]) -> Float[Tensor, "*row rank"]:
        self._check(h)
        with _exact(h):
            basis = self.basis.to(h.device)
            dtype = torch.promote_types(h.dtype, basis.dtype)
            return h.to(dtype) @ basis.to(dtype)

    def decode(self, f: Float[Tensor, "*row rank"]) -> Float[Tensor, "*row width"]:
        with _exact(f):
            basis = self.basis.to(f.device)
            dtype = torch.promote_types(f.dtype, basis.dtype)
            return f.to(dtype) @ basis.to(dtype).mT

    def interchange(self, h: Float[Tensor, "*row width"], s: Float[Tensor, "*row width"]) -> Float[Tensor, "*row width"]:
        self._check(h)
        with _exact(h):
            basis = self.basis.to(h.device)
            return interchanged(h.to(torch.promote_types(h.dtype, basis.dtype)), s, basis)

    def _check(self, h: Tensor) -> None:
        if h.shape[-1] != self.width:
            raise ShapeMismatchError(f"a rotation of width {self.width} was used on features of width {h.shape[-1]}")

    def spec(self) -> dict[str, Any]:
        """The digest is of the parameters, and of what they turn: a basis differs in its last bits from device to device."""
        return {"kind": "rotation", **self.options(), "sha256": digest(self.state_dict())}

    def options(self) -> dict[str, Any]:
        """Arguments that make another one like this, but for what was learned."""
        return {"width": self.width, "rank": self.rank, "parametrization": self.parametrization}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Rotation:
        """What ``to``, ``half`` and ``cuda`` call. A lower precision would cost the columns their orthonormality."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype in _PRECISE else tensor.to(moved.device)

        return super()._apply(move, recurse)

    def __repr__(self) -> str:
        how = "" if self.parametrization == "qr" else f", {self.parametrization}"
        return f"Rotation({self.width} → {self.rank}{how})"


# ---------------------------------------------------------------------------------------- from parameters to a basis


def _qr(weight: Tensor) -> Tensor:
    q, r = torch.linalg.qr(weight)
    return q * _signs(r)


def _cayley(weight: Tensor, base: Tensor) -> Tensor:
    width, rank = weight.shape
    if 2 * rank < width:
        # A = U Vᵀ, and (I + U Vᵀ)⁻¹(I − U Vᵀ) = I − 2 U (I + Vᵀ U)⁻¹ Vᵀ by Woodbury's identity.
        u, v = torch.cat([weight, base], dim=1), torch.cat([base, -weight], dim=1)
        turned = base - 2 * u @ torch.linalg.solve(_eye(v.mT @ u) + v.mT @ u, v.mT @ base)
    else:
        skew = weight @ base.mT - base @ weight.mT
        turned = torch.linalg.solve(_eye(skew) + skew, base - skew @ base)
    return _nearer(turned)


def _householder(weight: Tensor, base: Tensor) -> Tensor:
    """The first columns of H₁ ⋯ H_rank, with signs, seen from ``base``.

    Hᵢ = 1 − τᵢ uᵢ uᵢᵀ with τᵢ = 2/‖uᵢ‖², where uᵢ has i zeros, a one, and the weights below the diagonal. Their product is
    1 − U T Uᵀ, T⁻¹ = triu(UᵀU, 1) + diag(1/τ) (Joffrain et al., ACM TOMS 32, 2006). The signs are those of the
    weights' diagonal, ±1 at the start; torch truncates that to integers, so that under weight decay its matrix becomes zero.
    """
    top = torch.eye(*weight.shape, dtype=weight.dtype, device=weight.device)
    reflectors = top + weight.tril(-1)
    gram = reflectors.mT @ reflectors
    inverse = gram.triu(1) + (gram.diagonal() / 2).diag()
    columns = top - reflectors @ torch.linalg.solve_triangular(inverse, reflectors[: weight.shape[1]].mT, upper=True)
    return _nearer(base @ (columns * weight.diagonal().detach().sign()))


def _nearer(columns: Tensor) -> Tensor:
    """One Newton–Schulz step towards the nearest orthonormal columns.

    In float32 a solve leaves errors of 2e-6, 3e-5 where A is large and square; this squares them, and moves nothing else.
    """
    gram = columns.mT @ columns
    return columns - columns @ (gram - _eye(gram)) / 2


_MAPS: dict[str, Callable[..., Tensor]] = {"qr": _qr, "cayley": _cayley, "householder": _householder}


# ---------------------------------------------------------------------------------------- where training starts


def _at_qr(start: Tensor) -> tuple[Tensor, None]:
    return start.clone(), None


def _at_cayley(start: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(start), start.clone()


def _at_householder(start: Tensor) -> tuple[Tensor, Tensor]:
    """No reflection and the sign −1, which together are the identity: so torch starts."""
    q, r = torch.linalg.qr(start.double(), mode="complete")
    rank = start.shape[1]
    return -torch.eye(*start.shape).to(start), torch.cat([q[:, :rank] * _signs(r), q[:, rank:]], dim=1).to(start)


_CENTRES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor | None]]] = {
    "qr": _at_qr,
    "cayley": _at_cayley,
    "householder": _at_householder,
}


def _drawn(width: int, rank: int, seed: int) -> Tensor:
    draw = torch.randn(width, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return _qr(draw).float()


def _orthonormal(start: Tensor, width: int, rank: int) -> Tensor:
    if start.shape != (width, rank):
        raise ShapeMismatchError(f"start has shape {tuple(start.shape)}; expected [width, rank] = [{width}, {rank}]")
    basis = Subspace(start.detach()).basis  # refuses what is not orthonormal
    return basis if basis.dtype in _PRECISE else _qr(basis.float())


def _check(width: int, rank: int, parametrization: str) -> None:
    if parametrization not in _MAPS:
        raise UnknownNameError("parametrization", parametrization, _MAPS)
    if not 1 <= rank <= width:
        raise ShapeMismatchError(f"rank={rank} with width={width}; expected 1 ≤ rank ≤ width")
    if parametrization == "householder" and rank == width:
        raise ShapeMismatchError(
            f"parametrization='householder' with rank = width = {width}: torch parametrizes square matrices by the matrix "
            "exponential instead; use 'qr' or 'cayley'"
        )


def _torch_maps(trained: nn.Module | Mapping[str, Tensor]) -> set[str]:
    """The maps that a module's parametrizations name; none for a state dict, which does not tell."""
    modules = trained.modules() if isinstance(trained, nn.Module) else ()
    maps = (getattr(module, "orthogonal_map", None) for module in modules)
    return {orthogonal_map.name for orthogonal_map in maps if orthogonal_map is not None}


def _signs(r: Tensor) -> Tensor:
    """±1 of a diagonal, never 0, and constant to gradients."""
    diagonal = r.detach().diagonal()
    return torch.where(diagonal < 0, -torch.ones_like(diagonal), torch.ones_like(diagonal))


def _eye(like: Tensor) -> Tensor:
    return torch.eye(len(like), dtype=like.dtype, device=like.device)


def _exact(tensor: Tensor) -> AbstractContextManager[object]:
    """Autocast would make bfloat16 of the products."""
    return torch.autocast(tensor.device.type, enabled=False)
