"""W_Q, W_K, W_V and W_O of any architecture, each head's own matrix: the taps know the module and where in it a head lies.

>>> found = projection(model, Site("q", layer=3))                                            # doctest: +SKIP
>>> found.weight.shape, found.bias is None                   # head, d_model, d_head         # doctest: +SKIP
(torch.Size([9, 576, 64]), True)

Fused maps, maps whose heads are interleaved, grouped-query attention, weights in fewer bits and adapters are all read; nothing
is known by a model's name. What is returned is a copy, in at least float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import WeightsError
from interp.models.layouts import Flat, Heads
from interp.models.maps import is_map, matrix
from interp.models.model import Model
from interp.sites import Site


class Projection(NamedTuple):
    """``x @ weight + bias`` for each head: what q, k or v is of what the module takes."""

    weight: Float[Tensor, "head d_in d_head"]
    bias: Float[Tensor, "head d_head"] | None


class OutputMap(NamedTuple):
    """``Σ_head z @ weight + bias``: what attention gives of its heads' outputs, before a norm that may follow it."""

    weight: Float[Tensor, "head d_head d_out"]
    bias: Float[Tensor, " d_out"] | None


def projection(model: Model, site: Site) -> Projection:
    """The map whose output is seen at q, k or v of a layer; k and v have the key/value heads.

    Raises:
        UnknownSiteError: the model has no such site.
        WeightsError: its weights are not there to be read, or its heads lie in it in a way of their own.
    """
    linear, layout = head_map(model, site)
    weight, bias = kept_matrix(model, model.taps(site.tensor).path), _bias(linear)
    return Projection(
        rearrange(layout.read(weight.unsqueeze(0), None)[0], "d_in head d_head -> head d_in d_head").contiguous(),
        None if bias is None else layout.read(bias[None, None], None)[0, 0].clone(),
    )


def output_map(model: Model, site: Site) -> OutputMap:
    """W_O of a layer, whose input is seen at z.

    Raises:
        UnknownSiteError: the model has no such site.
        WeightsError: its weights are not there to be read, or it is no linear map.
    """
    linear, layout = head_map(model, site)
    weight = kept_matrix(model, model.taps(site.tensor).path)
    return OutputMap(rearrange(weight, "(head d_head) d_out -> head d_head d_out", head=layout.heads), _bias(linear))


def wide(tensor: Tensor) -> Tensor:
    """A copy in at least float32, without a gradient: QR, eigenvalues and long sums are not for half precisions."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)


def head_map(model: Model, site: Site) -> tuple[nn.Module, Heads]:
    """The linear map at a site, and how heads lie in its features, however the examples lie."""
    model.check(site)
    tap = model.taps(site.tensor)
    layout = tap.layout.layout if isinstance(tap.layout, Flat) else tap.layout
    linear = model.module.get_submodule(tap.path)
    if not isinstance(layout, Heads):
        raise WeightsError(
            f"{site!r} of {model.name} is seen at {tap.path} as {layout}, and not at a projection with its heads side by side; "
            "a model that was loaded with another backend is read from the module itself: load(module)"
        )
    if not is_map(linear):
        raise WeightsError(f"{site!r} of {model.name} has no weights: {tap.path} is a {type(linear).__name__}, no linear map")
    return linear, layout


def kept_matrix(model: Model, path: str) -> Float[Tensor, "d_in d_out"]:
    """The weight of a linear map by its path, inputs as rows.

    Raises:
        WeightsError: it is not there to be read.
    """
    linear: Any = model.module.get_submodule(path)
    shape = model.anatomy.shapes.get((path, "input"))
    width = shape[-1] if shape else getattr(linear, "in_features", 0)
    weight = matrix(linear, width, model)
    if weight.is_meta:
        raise WeightsError(f"the weights of {path} are not here: {model.name} runs on a service, or is on the meta device")
    return wide(weight)


def _bias(linear: Any) -> Tensor | None:
    bias = getattr(linear, "bias", None)
    return wide(bias) if isinstance(bias, Tensor) else None
