"""Norms over the features of a stream: what they divide by, whether they subtract the mean, their gain and bias.

>>> import torch
>>> layer_norm = torch.nn.LayerNorm(8)
>>> x = torch.randn(2, 3, 8)
>>> found = Norm.of(layer_norm, x, layer_norm(x))
>>> found.centred, found.eps
(True, 1e-05)
>>> bool(torch.allclose((x - x.mean(-1, keepdim=True)) / found.scale(x)[..., None], layer_norm(x), atol=1e-5))
True

A norm gives ``gain · c / σ + β``, where ``c`` is its input, less its mean in a LayerNorm, and ``σ = sqrt(mean(c²) + ε)``, which
is what TransformerLens' ``hook_scale`` holds. With σ held it is an affine map. What a module's gain is (its weight, or 1 + its
weight) and whether it centres is never asked of its name: the form that reproduces its output is the one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.models.calls import Call, first_tensor

EXACT = 1e-4
"""By how much a norm's form may miss its output, relative to the largest number, in at least float32."""


def is_norm(module: nn.Module) -> bool:
    """Whether a module says that it is a norm, and of features: norms of channels have statistics over more than one axis."""
    of_channels = isinstance(module, (nn.GroupNorm, nn.modules.batchnorm._NormBase))
    return "norm" in type(module).__name__.lower() and not of_channels


@dataclass(frozen=True, slots=True)
class Norm:
    """The form of one norm."""

    centred: bool
    """Whether it subtracts the mean."""
    eps: float
    unit: float | None
    """The weight of which its gain is 1: 1, or 0 where the gain is 1 + weight; None where it has no weight."""

    @classmethod
    def of(cls, module: nn.Module, x: Float[Tensor, "*axes d_model"], out: Tensor, tolerance: float = EXACT) -> Norm | str:
        """The form that makes ``out`` of ``x``, or why none does; of several the nearest.

        Args:
            x: what the module was called with.
            out: what it gave.
            tolerance: largest deviation, relative to the largest number.
        """
        if x.shape != out.shape:
            return f"it takes {tuple(x.shape)} and gives {tuple(out.shape)}"
        if x.is_meta:
            return "what it gives is not known on the meta device"
        if isinstance(weight := parameter(module, "weight"), Tensor) and weight.shape != x.shape[-1:]:
            return f"its gain has not the width of what it takes, {x.shape[-1]}"
        size = max(1e-6, float(out.detach().abs().max()))
        missed = {
            form: float((form.apply(module, x).detach().double() - out.detach().double()).abs().max()) / size
            for form in _forms(module)
        }
        nearest = min(missed, key=lambda form: missed[form])
        if missed[nearest] <= tolerance:
            return nearest
        return f"it is not gain · x / σ + bias; the nearest form is off by {missed[nearest]:.1e} of the largest number"

    @classmethod
    def alone(cls, module: Any) -> Norm | str:
        """The same of a norm with a weight, by what it makes of random numbers."""
        weight = parameter(module, "weight")
        assert weight is not None
        x = torch.randn(1, 2, len(weight), generator=torch.Generator().manual_seed(0)).to(weight)
        with torch.no_grad():
            return cls.of(module, x, module(x))

    def centre(self, x: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_model"]:
        """What is divided: the input in at least float32, less its mean where the norm subtracts it."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def scale(self, x: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes"]:
        """σ, by which it is divided."""
        return (self.centre(x).square().mean(-1) + self.eps).sqrt()

    def gain(self, module: Any) -> Float[Tensor, " d_model"] | float:
        """By which the quotient is multiplied."""
        if self.unit is None:
            return 1.0
        weight = parameter(module, "weight")
        assert weight is not None
        return weight.to(torch.promote_types(weight.dtype, torch.float32)) + (1 - self.unit)

    def back(self, module: nn.Module, direction: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_model"]:
        """The direction d' for which ⟨d', x⟩ / σ is ⟨d, what the norm gives less its bias⟩."""
        turned = direction * self.gain(module)
        return turned - turned.mean(-1, keepdim=True) if self.centred else turned

    def apply(
        self, module: nn.Module, x: Float[Tensor, "*axes d_model"], scale: Tensor | None = None
    ) -> Float[Tensor, "*axes d_model"]:
        """What the norm makes of ``x``, in at least float32; with another σ, if one is given."""
        return self.centre(x) / (self.scale(x) if scale is None else scale)[..., None] * self.gain(module) + bias_of(module)


def bias_of(module: nn.Module) -> Tensor | float:
    """What a norm adds in the end; 0 without."""
    bias = parameter(module, "bias")
    return 0.0 if bias is None else bias


def parameter(module: nn.Module, name: str) -> Tensor | None:
    """A parameter of a module, brought in for a moment where accelerate has put it away; None without."""
    found, hook = getattr(module, name, None), getattr(module, "_hf_hook", None)
    if not isinstance(found, Tensor):
        return None
    if not found.is_meta or hook is None:
        return found
    hook.pre_forward(module)
    try:
        return getattr(module, name).detach().clone()
    finally:
        hook.post_forward(module, None)


def _forms(module: Any) -> Iterator[Norm]:
    """Forms that a norm may have, LayerNorm's first; ε is one of the small numbers that the module holds."""
    weight = parameter(module, "weight")
    units = (1.0, 0.0) if isinstance(weight, Tensor) else (None,)
    if hasattr(module, "eps") and module.eps is None:  # torch's RMSNorm then takes the least number of the dtype
        small = [torch.finfo(weight.dtype if isinstance(weight, Tensor) else torch.float32).eps]
    else:
        small = [value for value in vars(module).values() if isinstance(value, float) and 0 < value < 0.1]
    for centred, unit, eps in product((True, False), units, dict.fromkeys((*small, 0.0))):
        yield Norm(centred, eps, unit)


@dataclass(frozen=True)
class Scale:
    """σ of a norm, seen where the norm gives its output, from what it was called with.

    Written σ' makes of the output ``(out − β) · σ / σ' + β``, so that with a held σ the norm is an affine map.
    """

    norm: Norm

    def read(self, seen: Tensor, call: Call | None) -> Float[Tensor, "example position"]:
        assert call is not None
        return self.norm.scale(first_tensor(call.args, call.kwargs).reshape(seen.shape)).to(seen.dtype)

    def put(self, seen: Tensor, new: Tensor, call: Call | None) -> Tensor:
        assert call is not None
        ratio = self.read(seen, call) / new  # 1, to the bit, where its own value is written
        return seen + (seen - bias_of(call.module)) * (ratio - 1)[..., None]
