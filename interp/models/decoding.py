"""What the last norm, its scale held, and some columns of the unembedding make of any vector of the stream.

    >>> decoder = Decoder.of(model)                                                          # doctest: +SKIP
    >>> scale = decoder.scale(final)                        # of what leaves the last block # doctest: +SKIP
    >>> decoder.decode(parts, scale, columns).shape                   # example, column      # doctest: +SKIP
    torch.Size([2, 5])

With σ held, the way from the stream to the logits (before a soft cap) is affine, so that what a sum of vectors decodes to is
the sum of what each decodes to, and a bias that is counted once. nostalgebraist, "interpreting GPT: the logit lens" (2020),
decodes by the vector's own norm; the frozen one is that of Elhage et al., "A Mathematical Framework for Transformer Circuits"
(2021), as TransformerLens' ``apply_ln_to_stack`` has it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.errors import InputError
from interp.models.hooks import Left
from interp.models.layouts import Flat
from interp.models.maps import matrix
from interp.models.model import Model
from interp.models.norms import Norm, Scale, bias_of
from interp.models.stack import Stack
from interp.sites import MAIN, Site

FINAL = Site("ln_final_scale")
_NEAR = 1e-3
"""By how much factors that should be one number may differ, relative to it."""


@dataclass(frozen=True, eq=False)
class Decoder:
    """The way from the stream behind the last block to the logits, before a soft cap."""

    norm: Norm | None
    """The form of the last norm; None where the unembedding reads the stream itself."""
    module: nn.Module | None
    """The last norm."""
    head: nn.Module
    """The unembedding."""
    factor: float
    """By which logits are multiplied on the way, before the unembedding or behind it (Cohere, Granite)."""
    softcap: float | None
    """What follows: c · tanh(logits / c)."""

    @classmethod
    def of(cls, model: Model) -> Decoder:
        """That of a model, held to what the model's own forward makes of a random stream.

        Raises:
            InputError: the model's blocks do not stand one on the other, or more than a norm and a linear map follows them.
        """
        stack = model.stack
        if stack is None:
            raise InputError(
                f"{model.name}: what it does after its last block is unknown: {model.stack_refused}. Its logits cannot be "
                "divided into what its parts add; interp.patch and interp.knockout measure what the parts change in them"
            )
        summed = next(iter(model.anatomy.main.norms.items()), None)
        if summed is not None:
            raise InputError(
                f"{model.name} norms the stream itself after every sum ({summed[1]} behind {summed[0]!r}), so that its last "
                "stream is no sum of what its parts add, and no logit is a sum of their contributions"
            )
        form, module = form_of(model, FINAL) if model.has(FINAL) else (None, None)
        with torch.no_grad(), model.prepared():
            factor = _before(model, stack, form, module) * _behind(model, stack)
        return cls(form, module, stack.unembedding, factor, stack.softcap)

    def scale(self, final: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes"]:
        """σ of what leaves the last block; 1 where no norm follows."""
        return final.new_ones(final.shape[:-1]) if self.norm is None else self.norm.scale(final)

    def directions(
        self, right: Int[Tensor, "*axes"], wrong: Int[Tensor, "*axes"] | None
    ) -> tuple[Float[Tensor, "*axes d_model"], Float[Tensor, "*axes"]]:
        """Directions of the stream, times σ, that decode to one logit less another, and what is added once; float64.

        Args:
            wrong: token ids; None for the mean over the vocabulary.
        """
        weight, bias = self._columns(right)
        if wrong is None:
            own = bias_of(self.head)
            other, less = self._weight.mean(-1).double(), own.double().mean() if isinstance(own, Tensor) else 0.0
        else:
            other, less = self._columns(wrong)
        return self._back(weight - other, bias - less)

    def towards(self, ids: Int[Tensor, "*axes"]) -> tuple[Float[Tensor, "*axes d_model"], Float[Tensor, "*axes"]]:
        """The same of single logits, compared with nothing."""
        return self._back(*self._columns(ids))

    def decode(
        self,
        vectors: Float[Tensor, "example *axes d_model"],
        scale: Float[Tensor, " example"],
        columns: Int[Tensor, " column"],
        *,
        bias: bool = False,
    ) -> Float[Tensor, "example *axes column"]:
        """Some logits that vectors of the stream decode to, float64.

        Args:
            scale: σ that is held, of each example.
            columns: token ids.
            bias: add what is counted once: the norm's bias through the unembedding, and the unembedding's own.
        """
        directions, own = self.towards(columns)
        found = einsum(vectors.double(), directions, "example ... d, column d -> example ... column")
        return found / scale.double().reshape(-1, *(1 for _ in found.shape[1:])) + (own if bias else 0.0)

    def logits(self, normed: Float[Tensor, "example d_model"]) -> Float[Tensor, "example vocab"]:
        """What the model's own unembedding makes of what the last norm gives, before a soft cap."""
        logits: Tensor = self.head(normed.to(next(self.head.parameters()).dtype))
        return logits.double() * self.factor

    @property
    def _weight(self) -> Float[Tensor, "d_model vocab"]:
        head: Any = self.head
        width = getattr(head, "in_features", None) or head.weight.shape[-1]
        return matrix(head, width, next(self.head.parameters()))

    def _columns(self, ids: Int[Tensor, "*axes"]) -> tuple[Float[Tensor, "*axes d_model"], Float[Tensor, "*axes"]]:
        weight, own = self._weight, bias_of(self.head)
        chosen = weight.mT[ids.to(weight.device)].double()
        return chosen, own[ids.to(own.device)].double() if isinstance(own, Tensor) else chosen.new_zeros(ids.shape)

    def _back(
        self, weight: Float[Tensor, "*axes d_model"], bias: Float[Tensor, "*axes"]
    ) -> tuple[Float[Tensor, "*axes d_model"], Float[Tensor, "*axes"]]:
        """Directions of what the unembedding takes as those of the stream, and what is added, the norm's bias with it."""
        weight, bias = weight * self.factor, bias * self.factor
        if self.norm is None or self.module is None:
            return weight, bias
        shift = bias_of(self.module)
        return self.norm.back(self.module, weight), bias + (weight @ shift.double() if isinstance(shift, Tensor) else 0.0)


def form_of(model: Model, site: Site) -> tuple[Norm, nn.Module]:
    """The form of the norm whose scale a site of a model is, and the norm."""
    tap = model.taps(site)
    layout = tap.layout.layout if isinstance(tap.layout, Flat) else tap.layout
    assert isinstance(layout, Scale)
    return layout.norm, model.module.get_submodule(tap.path)


def _before(model: Model, stack: Stack, form: Norm | None, module: nn.Module | None) -> float:
    """By which the norm's output is multiplied before the unembedding takes it."""
    hidden = _random(model)
    taken: list[Tensor] = []

    def take(x: Tensor) -> Any:
        taken.append(x)
        raise Left

    with suppress(Left):
        stack.leaving(hidden, take)
    expected = hidden if form is None or module is None else form.apply(module, hidden)
    what = "the stream behind the last block" if form is None else "what its last norm gives"
    return _factor(model, taken[0], expected, f"its unembedding does not take {what}")


def _behind(model: Model, stack: Stack) -> float:
    """By which logits are multiplied behind the unembedding."""
    if stack.softcap is not None:
        if stack.unfused:
            raise InputError(f"{model.name}: {stack.unfused}")
        return 1.0
    outputs = model.anatomy.outputs
    ramp = torch.linspace(-50.0, 50.0, outputs, device=model.device).to(model.dtype).expand(1, 1, -1)
    return _factor(model, stack.leaving(_random(model), _giving(ramp)), ramp, "something follows its unembedding")


def _giving(tensor: Tensor) -> Callable[..., Tensor]:
    return lambda *args, **kwargs: tensor


def _factor(model: Model, got: Tensor, expected: Tensor, why: str) -> float:
    one, other = got.double().flatten(), expected.double().flatten()
    factor = float((one @ other) / (other @ other)) if one.shape == other.shape else float("nan")
    near = 5e-2 if model.dtype in (torch.float16, torch.bfloat16) else _NEAR
    if not float((one - factor * other).abs().max()) <= near * float(one.abs().max()):
        raise InputError(f"{model.name}: {why}, so that its logits are no linear function of the stream at a held scale")
    return 1.0 if abs(factor - 1) <= _NEAR else factor


def _random(model: Model) -> Float[Tensor, "1 1 d_model"]:
    width = model.anatomy.size(Site("resid_post", layer=len(model.anatomy.streams[MAIN].blocks) - 1), "d_model")
    drawn = torch.randn(1, 1, width, generator=torch.Generator().manual_seed(0))
    return drawn.to(model.device, model.dtype)
