"""Edits along a direction, and one intervention at several strengths.

>>> import torch
>>> h, v = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
>>> AddPreservingNorm(2.0)(h, v), ProjectOut()(h, v), SetCoefficient(1.0)(h, v)
(tensor([1.7556, 4.6816]), tensor([3., 0.]), tensor([3., 1.]))
>>> doses(Change("L15.resid_post", source=Constant(v), edit=Add()), [0, 2])
[L15.resid_post ← Constant((2,)) Add(scale=0), L15.resid_post ← Constant((2,)) Add(scale=2)]

A direction is a vector along the last axis of what is changed, the features: each token, and of a site of heads each head, has
its own norm and its own coefficient. That of a token is :func:`interp.weights.token_direction`. What is added adds as it is,
``h + scale · v``; where a norm or a coefficient is taken, that is done in float32 at least. The edits are those of activation
addition (Turner et al., arXiv 2308.10248), its form that keeps the norm, and directional ablation (Arditi et al., arXiv
2406.11717).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from interp.errors import InputError, ShapeMismatchError
from interp.interventions.edit import OfStrength, require_number, strength_name
from interp.interventions.intervention import Change, Intervention

Dosed = TypeVar("Dosed", Change, Intervention)


@dataclass(frozen=True, slots=True, repr=False)
class AddPreservingNorm(OfStrength):
    """``h' · ‖h‖ / ‖h'‖`` with ``h' = h + scale · s``: the direction is turned to, the size stays; what is 0 stays 0."""

    scale: float = 1.0
    kind = "add_preserving_norm"
    commutes = False
    reads_source = True
    strength = "scale"

    def __post_init__(self) -> None:
        require_number(self)

    def __call__(self, h: Tensor, s: Tensor) -> Tensor:
        old, s = _precise(h, s)
        new = old + self.scale * s
        norm = new.norm(dim=-1, keepdim=True)
        ratio = old.norm(dim=-1, keepdim=True) / torch.where(norm == 0, 1, norm)
        return (new * ratio).to(h.dtype)

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "scale": self.scale}


@dataclass(frozen=True, slots=True)
class ProjectOut:
    """``h − ⟨h, ŝ⟩ ŝ``: nothing is left along the source's direction."""

    kind = "project_out"
    commutes = False
    reads_source = True

    def __call__(self, h: Tensor, s: Tensor) -> Tensor:
        return _with_coefficient(h, s, 0.0)

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind}


@dataclass(frozen=True, slots=True, repr=False)
class SetCoefficient(OfStrength):
    """``h + (coefficient − ⟨h, ŝ⟩) ŝ``: as much along the source's direction as is said, in the activation's own units."""

    coefficient: float = 0.0
    kind = "set_coefficient"
    commutes = False
    reads_source = True
    strength = "coefficient"

    def __post_init__(self) -> None:
        require_number(self)

    def __call__(self, h: Tensor, s: Tensor) -> Tensor:
        return _with_coefficient(h, s, self.coefficient)

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "coefficient": self.coefficient}


def _with_coefficient(h: Tensor, s: Tensor, coefficient: float) -> Tensor:
    """``h`` with another coefficient along the unit vector of ``s``."""
    old, s = _precise(h, s)
    if s.shape[-1] != old.shape[-1]:
        raise ShapeMismatchError(
            f"the source is read as a direction of {old.shape[-1]} features, but it has {s.shape[-1]}; give a vector"
        )
    norm = s.norm(dim=-1, keepdim=True)
    if bool((norm == 0).any()):
        raise InputError("the source is read as a direction, but it is zero somewhere, which points nowhere")
    unit = s / norm
    own = (old * unit).sum(-1, keepdim=True)
    return (old + (coefficient - own) * unit).to(h.dtype)


def _precise(h: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one dtype, float32 at least."""
    dtype = torch.promote_types(h.dtype, torch.float32)
    return h.to(dtype), s.to(dtype)


def doses(intervention: Dosed, strengths: Iterable[float] | Tensor) -> list[Dosed]:
    """The same at several strengths, for a dose–response in one call.

    The strength of an edit is the scale of ``Add`` and ``AddPreservingNorm``, the factor of ``Scale``, the weight of
    ``Interpolate`` and the coefficient of ``SetCoefficient``; it is set, whatever it was. Of an intervention with several
    changes, every edit that has one gets it.

    Raises:
        InputError: no edit has a strength, or one of the strengths is not a finite number.
    """
    if not isinstance(intervention, Change | Intervention):
        raise InputError(
            f"doses are of one Change or Intervention, got {intervention!r} of type {type(intervention).__name__}; "
            "several at one strength are one intervention: Intervention.of(change, change)"
        )
    numbers = [one.item() if hasattr(one, "item") else one for one in strengths]
    if not numbers or not all(isinstance(one, int | float) and math.isfinite(one) for one in numbers):
        raise InputError(f"strengths={numbers!r}; expected finite numbers, such as [0, 2, 4, 8]")
    return [_dosed(intervention, number) for number in numbers]


def _dosed(intervention: Dosed, strength: float) -> Dosed:
    changes = (intervention,) if isinstance(intervention, Change) else intervention.changes
    dosed = tuple(_with_strength(change, strength) for change in changes)
    if all(new is old for new, old in zip(dosed, changes, strict=True)):
        edits = ", ".join(dict.fromkeys(type(change.edit).__name__ for change in changes))
        raise InputError(
            f"{intervention!r} has no strength ({edits}); give its edit one: Add, AddPreservingNorm, Scale, Interpolate, "
            "SetCoefficient, as in Change(site, source=Constant(v), edit=Add())"
        )
    found: Any = dosed[0] if isinstance(intervention, Change) else replace(intervention, changes=dosed)
    return found


def _with_strength(change: Change, strength: float) -> Change:
    name = strength_name(change.edit)
    if name is None:
        return change
    edit: Any = change.edit
    return replace(change, edit=replace(edit, **{name: strength}))


def strength_of(intervention: Change | Intervention | None) -> float | None:
    """The one strength of an intervention's edits; None where they have none, or several."""
    changes = () if intervention is None else (intervention,) if isinstance(intervention, Change) else intervention.changes
    found = {getattr(c.edit, name) for c in changes if (name := strength_name(c.edit)) is not None}
    return float(found.pop()) if len(found) == 1 else None
