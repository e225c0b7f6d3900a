"""Doing what: pure functions of a value and a source value, in the featurizer's coordinates.

>>> import torch
>>> h, s = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 6.0])
>>> Replace()(h, s), Add(2.0)(h, s), Scale(0.5)(h, s), Interpolate(0.25)(h, s)
(tensor([5., 6.]), tensor([11., 14.]), tensor([0.5000, 1.0000]), tensor([2., 3.]))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from interp.errors import InputError


@runtime_checkable
class Edit(Protocol):
    """``edit(h, s)`` with both ``[..., feature]``; returns the same shape."""

    @property
    def kind(self) -> str:
        """Edits of one kind commute if ``commutes``: adding twice, scaling twice."""
        ...

    @property
    def commutes(self) -> bool: ...
    @property
    def reads_source(self) -> bool: ...
    def __call__(self, h: Tensor, s: Tensor) -> Tensor: ...
    def spec(self) -> dict[str, Any]: ...


def strength_name(edit: object) -> str | None:
    """What an edit calls its strength, in its class; None if it has none."""
    return getattr(type(edit), "strength", None)


def require_number(edit: object) -> None:
    """Raise unless the strength of an edit is one number: what is added or kept is the source's, a vector belongs there.

    Raises:
        InputError: it is a vector, as in ``Add(v)``.
    """
    name = strength_name(edit)
    given: Any = None if name is None else getattr(edit, name)
    if getattr(given, "ndim", 0):
        kind = type(edit).__name__
        reads = "" if not getattr(edit, "reads_source", False) else f"Change(site, source=vector, edit={kind}(4.0)), or "
        raise InputError(
            f"{name} of {kind} is a tensor of shape {tuple(given.shape)}, expected a number, how strongly; a vector is the "
            f"source, as in {reads}any function (h, ctx) -> h is an edit"
        )


def spelt(number: Any) -> str:
    """A number as representations have it, with four digits.

    >>> spelt(0.33915864676237106), spelt(0.0), spelt(2)
    ('0.3392', '0.0', '2')
    """
    return repr(float(f"{number:.4g}")) if isinstance(number, float) else repr(number)


class OfStrength:
    """An edit whose representation says how strong it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        name = strength_name(self)
        assert name is not None
        return f"{type(self).__name__}({name}={spelt(getattr(self, name))})"


@dataclass(frozen=True, slots=True)
class Replace:
    """The source's value takes the place of the site's."""

    kind = "replace"
    commutes = False
    reads_source = True

    def __call__(self, h: Tensor, s: Tensor) -> Tensor:
        return s.expand_as(h).to(h.dtype)

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind}


@dataclass(frozen=True, slots=True, repr=False)
class Add(OfStrength):
    """``h + scale · s``: steering vectors, noise."""

    scale: float = 1.0
    kind = "add"
    commutes = True
    reads_source = True
    strength = "scale"

    def __post_init__(self) -> None:
        require_number(self)

    def __call__(self, h: Tensor, s: Tensor) -> Tensor:
        return h + self.scale * s.to(h.dtype)

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "scale": self.scale}


@dataclass(frozen=True, slots=True, repr=False)
class Scale(OfStrength):
    """``factor · h``: gates; 0 knocks the site out. Reads no source."""

    factor: float = 0.0
    kind = "scale"
    commutes = True
    reads_source = False
    strength = "factor"

    def __post_init__(self) -> None:
        require_number(self)

    def __call__(self, h: Tensor, s: Tensor) -> Tensor:
        return self.factor * h

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "factor": self.factor}


@dataclass(frozen=True, slots=True, repr=False)
class Interpolate(OfStrength):
    """``h + weight · (s − h)``: a soft replacement, as masks learn it."""

    weight: float = 1.0
    kind = "interpolate"
    commutes = False
    reads_source = True
    strength = "weight"

    def __post_init__(self) -> None:
        require_number(self)

    def __call__(self, h: Tensor, s: Tensor) -> Tensor:
        return h + self.weight * (s.to(h.dtype) - h)

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "weight": self.weight}


@dataclass(frozen=True, slots=True)
class Apply:
    """Any function ``(h, s) -> h`` of the value and the source's. It has no spec, so its runs are anonymous: no resume."""

    function: Callable[[Tensor, Tensor], Tensor]
    kind = "apply"
    commutes = False
    reads_source = True

    def __call__(self, h: Tensor, s: Tensor) -> Tensor:
        return self.function(h, s)

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "function": None}


@dataclass(frozen=True, slots=True)
class Cut:
    """−∞ in place of attention scores: nothing is attended to there, and the softmax shares the row out among the rest.

    A row of which nothing is left has no softmax; the engine refuses it. Reads no source.
    """

    kind = "cut"
    commutes = True
    reads_source = False

    def __call__(self, h: Tensor, s: Tensor) -> Tensor:
        return torch.full_like(h, -torch.inf)

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind}


def knock_out() -> Scale:
    """Multiply by zero: the head, unit or stream says nothing.

    Of a head's ``z`` this depends on b_V, as :func:`interp.interventions.zero` does.
    """
    return Scale(0.0)
