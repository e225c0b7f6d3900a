"""What stands between W_O and the stream: nothing in most models, a norm in Gemma 2, a scale of every feature in DINOv2.

>>> behind_attention(model, Site("z", layer=0)).of(w_o)                                      # doctest: +SKIP
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import WeightsError
from interp.models.model import Model
from interp.models.weights.norms import Norm, dissected
from interp.sites import Site


class Behind(NamedTuple):
    """How what W_O gives comes into the stream."""

    norm: Norm | None = None
    """Of which the gain and the centring are folded in; its scale, one positive number a token, is left out."""
    factors: Float[Tensor, " d_model"] | None = None
    """By which every feature is multiplied."""

    def of(self, weight: Float[Tensor, "head d_head d_model"]) -> Float[Tensor, "head d_head d_model"]:
        """W_O with what stands behind it."""
        if self.norm is not None:
            return self.norm.behind(weight)
        return weight if self.factors is None else weight * self.factors.to(weight)


def behind_attention(model: Model, z: Site) -> Behind:
    """What stands behind W_O of a layer.

    Raises:
        WeightsError: something that is neither a norm nor a scale.
    """
    site = z.at(name="attn_out")
    attention = model.anatomy.streams[z.stream].attention[z.layer or 0]
    if not model.has(site):  # it is not known what is added; W_O itself is
        return Behind()
    path = model.taps(site).path
    if f"{path}.".startswith(f"{attention}.") or f"{attention}.".startswith(f"{path}."):
        return Behind()
    part = model.module.get_submodule(path)
    factors = _factors(part, model.anatomy.size(site, "d_model"), model)
    if factors is not None:
        return Behind(factors=factors)
    try:
        return Behind(norm=dissected(path, part))
    except WeightsError as error:
        raise WeightsError(f"between the heads of layer {z.layer} and the stream of {model.name} stands {error}") from None


def _factors(part: nn.Module, width: int, model: Model) -> Tensor | None:
    """By what a module multiplies every feature; None where it does something else."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, width, generator=draw).to(model.device, model.dtype)
    try:
        with torch.no_grad():
            factors, found = part.forward(torch.ones_like(x)), part.forward(x)
    except (TypeError, ValueError, RuntimeError):  # it is called with more than a tensor
        return None
    same = isinstance(found, Tensor) and found.shape == x.shape and torch.allclose(found, factors * x, 1e-2, 1e-3)
    return factors[0, 0].detach().clone() if same else None
