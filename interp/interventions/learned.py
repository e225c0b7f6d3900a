"""Gates, and what all learned edits share: numbers between 0 and 1, one for a head, a feature or whatever a shape says.

    >>> z, mean = torch.ones(5, 12, 64), torch.zeros(5, 12, 64)        # of 12 heads at 5 tokens
    >>> Gate((12, 1))(z, mean)[0, 0, 0]
    tensor(0.5000, grad_fn=<SelectBackward0>)

A gate g keeps, g·h or g·h + (1 − g)·s; a mask m (:mod:`interp.interventions.masks`) replaces, h + m·(s − h). Values come as
``[row, *features]``, and a shape has one axis for each of the features', as long or 1: ``(heads, 1)`` for all of ``L9.z``,
``(d_head,)`` for ``L9H6.z``, ``(rank,)`` in a rotation; or none, ``()``, for one number. Nothing else is broadcast.

Numbers are computed in float32 at least and returned in the value's own precision. ``hard()`` gives the frozen edit by which a
trained one is judged, since soft ones flatter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp import kernels
from interp.errors import ShapeMismatchError
from interp.interventions.digest import digest

Shape = int | Sequence[int]


class Soft(nn.Module, ABC):
    """What gates and masks share: a ``value`` in [0, 1] of some shape, and parameters behind it."""

    kind: str = "interpolate"
    commutes: bool = False
    reads_source: bool = True

    @property
    @abstractmethod
    def value(self) -> Float[Tensor, "*shape"]:
        """The numbers, each in [0, 1]."""

    @property
    def taken(self) -> Float[Tensor, "*shape"]:
        """How much of the source's value is taken."""
        return self.value

    def forward(self, h: Float[Tensor, "row ..."], s: Float[Tensor, "*given"]) -> Float[Tensor, "row ..."]:
        weight = fitting(self.taken, h, self)
        dtype = torch.promote_types(h.dtype, weight.dtype)
        own = h.to(dtype)
        return (own + weight * (s.to(dtype) - own)).to(h.dtype)

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Arguments that make another one like this, but for what was learned."""

    def spec(self) -> dict[str, Any]:
        return {"kind": _name(self), **self.options(), "sha256": digest(self.state_dict())}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value}' for key, value in self.options().items())})"


class Gate(Soft):
    """``g · h`` with g = σ(logits); with a source, ``g · h + (1 − g) · s``.

    Args:
        shape: of the logits.
        start: the first logits, a number or a tensor; 0 is a gate half open.
        seed: draw the first gates uniformly from (0, 1) instead, as causal head gating does (arXiv 2505.13737).
        source: what a shut gate lets through is the source's value rather than zero: its mean, another example's.
    """

    def __init__(self, shape: Shape, *, start: float | Tensor = 0.0, seed: int | None = None, source: bool = False) -> None:
        super().__init__()
        self.logits = nn.Parameter(started(shape, start) if seed is None else _uniform(shape, seed))
        if not source:
            self.kind, self.commutes, self.reads_source = "scale", True, False

    @property
    def value(self) -> Float[Tensor, "*shape"]:
        """1 keeps."""
        return self.logits.sigmoid()

    @property
    def taken(self) -> Float[Tensor, "*shape"]:
        return (-self.logits).sigmoid()

    def forward(self, h: Float[Tensor, "row ..."], s: Float[Tensor, "*given"]) -> Float[Tensor, "row ..."]:
        if self.reads_source:
            return super().forward(h, s)
        value = fitting(self.value, h, self)
        if self.kernel is None:
            return (value * h).to(h.dtype)
        gates, every = value[:, 0].expand(h.shape[1]), torch.zeros(len(h), dtype=torch.long, device=h.device)
        return kernels.head_gates(h[:, None], gates[None], every)[:, 0]

    @property
    def kernel(self) -> str | None:
        """The kernel that does this: gates on heads have one, ``(heads, 1)`` without a source."""
        of_heads = self.logits.ndim == 2 and self.logits.shape[1] == 1
        return "head_gates" if of_heads and not self.reads_source else None

    def hard(self, cut: float = 0.5) -> Select:
        """Every gate above the cut open, every other shut."""
        return Select(self.value <= cut, source=self.reads_source)

    def options(self) -> dict[str, Any]:
        return {"shape": list(self.logits.shape), "source": self.reads_source}


class Select(nn.Module):
    """The source's value where ``chosen``, the site's own elsewhere, both to the bit; without a source, zero where chosen."""

    chosen: Tensor

    def __init__(self, chosen: Bool[Tensor, "*shape"], *, source: bool = True) -> None:
        super().__init__()
        self.register_buffer("chosen", chosen.detach().clone())
        self.reads_source = source
        self.kind, self.commutes = ("replace", False) if source else ("scale", True)

    @property
    def count(self) -> int:
        return int(self.chosen.sum())

    def forward(self, h: Float[Tensor, "row ..."], s: Float[Tensor, "*given"]) -> Float[Tensor, "row ..."]:
        chosen = fitting(self.chosen, h, self)
        return torch.where(chosen, s.to(h.dtype) if self.reads_source else torch.zeros_like(h), h)

    def spec(self) -> dict[str, Any]:
        return {
            "kind": "select",
            "shape": list(self.chosen.shape),
            "source": self.reads_source,
            "sha256": digest(self.state_dict()),
        }

    def options(self) -> dict[str, Any]:
        """Arguments that make another one like this."""
        return {"chosen": self.chosen, "source": self.reads_source}

    def __repr__(self) -> str:
        return f"Select({self.count} of {self.chosen.numel()}{'' if self.reads_source else ', source=False'})"


# ---------------------------------------------------------------------------------------- shapes and starts


def fitting(weight: Tensor, h: Tensor, edit: nn.Module) -> Tensor:
    """The weight on the device of ``h``, if its axes are those of the features."""
    features = h.shape[1:]
    if weight.ndim and (
        weight.ndim != len(features) or any(w not in (1, n) for w, n in zip(weight.shape, features, strict=True))
    ):
        raise ShapeMismatchError(
            f"{edit!r} has shape {tuple(weight.shape)} and was used on features {tuple(features)}; expected one axis for each "
            "feature axis, as long or 1, or the shape ()"
        )
    return weight.to(h.device)


def started(shape: Shape, start: float | Tensor) -> Tensor:
    size = (shape,) if isinstance(shape, int) else tuple(shape)
    if isinstance(start, Tensor) and start.shape != size:
        raise ShapeMismatchError(f"start has shape {tuple(start.shape)}; expected {size}")
    return start.detach().clone() if isinstance(start, Tensor) else torch.full(size, float(start))


def _uniform(shape: Shape, seed: int) -> Tensor:
    """Logits of uniform draws."""
    like = started(shape, 0.0)
    u = torch.rand(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return u.logit(eps=1e-6).to(like)


def _name(edit: nn.Module) -> str:
    """``BoundlessMask`` → ``boundless mask``."""
    return "".join(f" {c.lower()}" if c.isupper() else c for c in type(edit).__name__).strip()
