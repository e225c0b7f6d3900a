"""Sparse autoencoders: many features, few of them active, each a direction that adds to the reconstruction.

    >>> enc, dec = torch.randn(16, 64), torch.randn(64, 16)
    >>> sae = SparseAutoencoder(enc, torch.zeros(64), dec, torch.zeros(16), activation="topk", k=4)
    >>> (sae.encode(torch.randn(5, 16)) > 0).sum(-1).max().item() <= 4
    True
    >>> Change("L9.resid_post@END", featurizer=sae, edit=Select(torch.arange(64) == 7))      # doctest: +SKIP

What the reconstruction misses is kept: a value whose features are left alone is left alone. Files of SAELens are read by
:mod:`interp.interop.sae_lens`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import InputError, ShapeMismatchError
from interp.interventions.digest import digest

NORMALIZATIONS = ("none", "norm", "layer")
_EPS = 1e-5


class SparseAutoencoder(nn.Module):
    """f = act((h − b_dec) W_enc + b_enc), h ≈ f W_dec + b_dec. The tensors are fixed: no optimiser sees them.

    Args:
        w_enc: ``[width, feature]``.
        b_enc: ``[feature]``; with ``"gated"`` the magnitudes' bias.
        w_dec: ``[feature, width]``.
        b_dec: ``[width]``.
        activation: ``"relu"``; ``"topk"``, the k largest, if positive; ``"jumprelu"``, what exceeds a threshold and 0;
            ``"gated"``, relu(x W_enc exp(scale) + b_enc) where x W_enc + gate > 0.
        k: of ``"topk"``.
        threshold: ``[feature]``, of ``"jumprelu"``. Batch-top-k dictionaries become these once trained.
        gate, scale: ``[feature]``, of ``"gated"``.
        subtract: whether b_dec is subtracted before encoding.
        normalize: what is taken out of a value before and put back after: ``"norm"``, its length over √width; ``"layer"``, its
            mean and standard deviation. They follow the features as further coordinates, so that replacing all coordinates
            takes over the source's, and replacing features alone leaves the site's own.

    Raises:
        ShapeMismatchError: tensors that do not fit.
        InputError: another activation or normalization, or one without what it needs.
    """

    w_enc: Tensor
    b_enc: Tensor
    w_dec: Tensor
    b_dec: Tensor
    threshold: Tensor | None
    gate: Tensor | None
    scale: Tensor | None

    def __init__(
        self,
        w_enc: Tensor,
        b_enc: Tensor,
        w_dec: Tensor,
        b_dec: Tensor,
        *,
        activation: str = "relu",
        k: int | None = None,
        threshold: Tensor | None = None,
        gate: Tensor | None = None,
        scale: Tensor | None = None,
        subtract: bool = True,
        normalize: str = "none",
    ) -> None:
        super().__init__()
        given = {"k": k, "threshold": threshold, "gate": gate, "scale": scale}
        _check_choices(activation, normalize, {name for name, value in given.items() if value is not None})
        if w_enc.ndim != 2:
            raise ShapeMismatchError(f"w_enc has shape {tuple(w_enc.shape)}; expected [width, feature]")
        width, features = w_enc.shape
        expected = {"b_enc": (features,), "w_dec": (features, width), "b_dec": (width,)}
        tensors: dict[str, Tensor | None] = {"w_enc": w_enc, "b_enc": b_enc, "w_dec": w_dec, "b_dec": b_dec}
        tensors |= {"threshold": threshold, "gate": gate, "scale": scale}
        for name, tensor in tensors.items():
            shape = expected.get(name, (features,))
            if tensor is not None and name != "w_enc" and tuple(tensor.shape) != shape:
                raise ShapeMismatchError(
                    f"{name} has shape {tuple(tensor.shape)}; expected {shape}, beside w_enc of shape {(width, features)}"
                )
            exact = None if tensor is None else tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
            self.register_buffer(name, exact)
        if k is not None and not 1 <= k <= features:
            raise InputError(f"k={k}; expected 1 to {features}, the number of features")
        self.activation, self.k, self.subtract, self.normalize = activation, k, subtract, normalize
        self.width, self.features = width, features

    def encode(self, h: Float[Tensor, "*row width"]) -> Float[Tensor, "*row coordinate"]:
        if h.shape[-1] != self.width:
            raise ShapeMismatchError(f"{self!r} was used on features of width {h.shape[-1]}")
        x, taken = self._normalized(h.to(torch.promote_types(h.dtype, self.w_enc.dtype)))
        return torch.cat([self._active(x - self.b_dec.to(x) if self.subtract else x), *taken], dim=-1)

    def decode(self, f: Float[Tensor, "*row coordinate"]) -> Float[Tensor, "*row width"]:
        f = f.to(torch.promote_types(f.dtype, self.w_dec.dtype))
        features, taken = f[..., : self.features], f[..., self.features :]
        rebuilt = features @ self.w_dec.to(f) + self.b_dec.to(f)
        if self.normalize == "none":
            return rebuilt
        return rebuilt * taken[..., :1] + (taken[..., 1:] if self.normalize == "layer" else 0)

    def _normalized(self, h: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The value as it is encoded, and what was taken out of it, one coordinate each."""
        if self.normalize == "norm":
            size = h.norm(dim=-1, keepdim=True) / self.width**0.5
            return h / size.clamp_min(torch.finfo(h.dtype).tiny), (size,)
        if self.normalize == "layer":
            mean, spread = h.mean(-1, keepdim=True), h.std(-1, keepdim=True)
            return (h - mean) / (spread + _EPS), (spread, mean)
        return h, ()

    def _active(self, x: Tensor) -> Tensor:
        product = x @ self.w_enc.to(x)
        bias = self.b_enc.to(x)
        if self.gate is not None and self.scale is not None:
            return (product * self.scale.to(x).exp() + bias).relu() * (product + self.gate.to(x) > 0)
        before = product + bias
        if self.threshold is not None:
            return before.relu() * (before > self.threshold.to(x))
        if self.k is None:
            return before.relu()
        highest = before.topk(self.k, dim=-1)
        return torch.zeros_like(before).scatter(-1, highest.indices, highest.values.relu())

    def spec(self) -> dict[str, Any]:
        told = {"activation": self.activation, "k": self.k, "subtract": self.subtract, "normalize": self.normalize}
        shape = [self.width, self.features]
        return {"kind": "sparse autoencoder", "shape": shape, **told, "sha256": digest(self.state_dict())}

    def options(self) -> dict[str, Any]:
        """Arguments that make another one like this."""
        fixed = {"activation": self.activation, "k": self.k, "subtract": self.subtract, "normalize": self.normalize}
        optional = {"threshold": self.threshold, "gate": self.gate, "scale": self.scale}
        return {"w_enc": self.w_enc, "b_enc": self.b_enc, "w_dec": self.w_dec, "b_dec": self.b_dec, **optional, **fixed}

    def __repr__(self) -> str:
        how = self.activation if self.k is None else f"top {self.k}"
        return f"SparseAutoencoder({self.width} → {self.features}, {how})"


_NEEDED: dict[str, set[str]] = {"relu": set(), "topk": {"k"}, "jumprelu": {"threshold"}, "gated": {"gate", "scale"}}


def _check_choices(activation: str, normalize: str, given: set[str]) -> None:
    if activation not in _NEEDED:
        raise InputError(f"activation={activation!r}; expected one of {', '.join(_NEEDED)}")
    if normalize not in NORMALIZATIONS:
        raise InputError(f"normalize={normalize!r}; expected one of {', '.join(NORMALIZATIONS)}")
    if given != _NEEDED[activation]:
        needed = " and ".join(sorted(_NEEDED[activation])) or "none of k, threshold, gate, scale"
        raise InputError(f"activation={activation!r} with {' and '.join(sorted(given)) or 'none of them'}; it takes {needed}")
