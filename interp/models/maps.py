"""Linear maps, in whatever form their weights are kept: as a matrix, packed in fewer bits, beside an adapter, or on disk.

>>> import torch
>>> linear = torch.nn.Linear(6, 4)
>>> z = torch.randn(1, 3, 2, 3)                                # two heads of width 3
>>> bool(torch.allclose(per_head(linear, z).sum(-2) + linear.bias, linear(z.flatten(-2)), atol=1e-5))
True

A plain ``nn.Linear`` (or transformers' ``Conv1D``) is a matrix and is read as one. Any other module is asked: what its forward
makes of a vector, less what it makes of zero. Where that is no linear map after all – activations rounded to eight bits, say –
the laws of :mod:`interp.models.probe` and :mod:`interp.models.stack_probe` find out.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn


def in_out(linear: nn.Module) -> Float[Tensor, "d_in d_out"] | None:
    """The weight of a linear map with inputs as rows; None where it is not kept as a matrix that can be read.

    ``nn.Linear`` stores it transposed, transformers' ``Conv1D`` does not.
    """
    kind = type(linear)
    own = isinstance(linear, nn.Linear) and kind.__module__.startswith("transformers.models.")  # Falcon's, of plain matrices
    transposed = kind is nn.Linear or own
    if not transposed and not (kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.")):
        return None
    weight: Any = linear.weight
    if type(weight) not in (Tensor, nn.Parameter) or not weight.is_floating_point():
        return None
    if weight.is_meta and hasattr(linear, "_hf_hook"):  # accelerate brings it in when the module is called
        return None
    return weight.mT if transposed else weight


def is_map(module: nn.Module) -> bool:
    """Whether a module looks like a linear map, by its weight or by what it says of itself."""
    weight = getattr(module, "weight", None)
    matrix = isinstance(weight, Tensor) and weight.ndim == 2 and not isinstance(module, nn.Embedding)
    return matrix or (hasattr(module, "in_features") and hasattr(module, "out_features"))


def applied(linear: nn.Module, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
    """What a linear map makes of ``x``, without its bias."""
    weight = in_out(linear)
    if weight is not None:
        return x @ weight.to(x.device)
    return linear.forward(x) - linear.forward(torch.zeros_like(x[:1]))


def matrix(linear: nn.Module, width: int, where: Any) -> Float[Tensor, "d_in d_out"]:
    """The map as a matrix with inputs as rows, without its bias, asked for where it is not kept as one.

    Args:
        width: of what it takes.
        where: has the ``device`` and the ``dtype`` of what it takes.
    """
    weight = in_out(linear)
    return applied(linear, torch.eye(width, dtype=where.dtype, device=where.device)) if weight is None else weight


def per_head(linear: nn.Module, z: Float[Tensor, "*batch head d_head"]) -> Float[Tensor, "*batch head d_model"]:
    """What a linear map makes of each head's slice of its input, without its bias."""
    weight = in_out(linear)
    if weight is not None:
        matrices = rearrange(weight, "(head d_head) d_model -> head d_head d_model", head=z.shape[-2])
        return einsum(z, matrices.to(z.device), "... head d_head, head d_head d_model -> ... head d_model")
    own = torch.eye(z.shape[-2], dtype=z.dtype, device=z.device)
    alone = einsum(z, own, "... head d_head, head slot -> ... head slot d_head").flatten(-2)  # the other heads are zero
    found = applied(linear, alone.reshape(-1, *alone.shape[-2:]))
    return found.reshape(*z.shape[:-1], found.shape[-1])
