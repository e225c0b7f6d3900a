"""A rotation of the residual stream's basis, on a copy: the fourth rewrite that leaves a model's function as it was.

>>> rotate(model).what                                                                    # doctest: +SKIP
'the basis of main rotated'

What writes to a stream: its embeddings, W_O of attention and mixers, and in MLPs every weight whose product is as wide as
the stream and not of a norm's output. What reads it: the weights by which norms' outputs are multiplied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from interp.doctor.gauges import Rewritten, folded_gains, held_with, parameter_of, twin
from interp.doctor.readers import flow
from interp.doctor.verdict import Refused, kept
from interp.models import Model
from interp.models.norms import Norm
from interp.sites import Site


def rotate(model: Model) -> Rewritten:
    """A random rotation of the basis of every stream that has one: gains folded, then all that writes or reads it turned.

    A norm that subtracts the mean singles out the direction of equal numbers; the rotation then leaves that one as it is.
    """
    made = twin(model)
    folded, kept = folded_gains(model, made)
    turned: dict[str, Tensor] = {}
    left: dict[str, str] = {}
    for name, stream in model.anatomy.streams.items():
        if not stream.blocks:
            continue
        try:
            weights, norms = _writers_and_readers(model, name, folded, kept)
        except Refused as why:
            left[name] = str(why)
            continue
        with torch.no_grad():
            turned[name] = _turn(made, weights, norms)
    if not turned:
        raise Refused(next(iter(left.values()), "it has no stack of blocks"))
    return Rewritten(made, f"the basis of {', '.join(turned)} rotated", left, turned)


def _writers_and_readers(
    model: Model, name: str, folded: Mapping[str, Mapping[str, int]], kept: Mapping[str, str]
) -> tuple[dict[tuple[str, int], str], list[str]]:
    """Every weight that writes to a stream or reads it: parameter and axis, each with what it is; and the stream's norms."""
    stream, module = model.anatomy.streams[name], model.module
    width = stream.layers[0]["d_model"]
    if any(sizes["d_model"] != width or "d_model_before" in sizes for sizes in stream.layers):
        raise Refused("its width changes from block to block")
    around = _around(model, name)
    attention = tuple(f"{path}." for path in stream.attention.values())  # norms of queries and keys are in there
    norms = [
        path
        for path in (*folded, *kept)
        if f"{path}.".startswith(around) and not path.startswith(attention) and _width(module, path) == width
    ]
    for path in norms:
        if path in kept:
            raise Refused(f"the gain of {path} cannot be folded: {kept[path]}")
    if not norms:
        raise Refused("no norm with a gain reads it")
    found: dict[tuple[str, int], str] = {}
    for path in norms:
        found |= dict.fromkeys(folded[path].items(), "reads")
    for entry in ("embed", "pos_embed"):
        site = Site(entry, stream=name)
        path = model.taps(site).path if model.has(site) else ""
        if entry == "embed" and not isinstance(module.get_submodule(path), nn.Embedding):
            raise Refused(f"what enters its first block comes from no embedding table ({path or 'none is known'})")
        if model.has(site):
            if "weight" not in module.get_submodule(path)._parameters:
                raise Refused(f"{path} computes the positions that it adds, and has no table of them")
            found[f"{path}.weight", -1] = "embeds"
    return found | _written_in_blocks(model, name, width), norms


def _written_in_blocks(model: Model, name: str, width: int) -> dict[tuple[str, int], str]:
    """W_O of attention, cross-attention and mixers; of MLPs, every weight whose product is as wide as the stream."""
    stream, found, products = model.anatomy.streams[name], {}, flow(model).products
    for layer in range(len(stream.blocks)):
        paths = [
            model.taps(site).path
            for component in ("z", "cross_z", "mixer_post")
            if model.has(site := Site(component, layer=layer, stream=name))
        ]
        if layer in stream.attention and not paths:
            raise Refused(f"what attention of layer {layer} writes goes through no linear map that is known")
        for path in paths:
            linear = model.module.get_submodule(path)
            found[f"{path}.weight", -2 if kept(linear) is not linear.weight else -1] = "writes"
        inside = tuple(f"{path}." for path in (stream.mlp.get(layer),) if path is not None)
        for where, parameter, axis, reads in products:
            if f"{where}.".startswith(inside) and not reads and model.module.get_parameter(parameter).shape[axis] == width:
                found[parameter, axis] = "writes"
    return found


def _turn(made: Model, weights: Mapping[tuple[str, int], str], norms: list[str]) -> Tensor:
    width = _width(made.module, norms[0])
    rotation = _rotation(width, any(_subtracts_the_mean(made.module.get_submodule(path)) for path in norms))
    for (parameter, axis), what in weights.items():
        own, name = held_with(made.module, parameter), parameter.rpartition(".")[2]
        like: Any = own[name]
        turned = (like.double().movedim(axis, -1) @ rotation).movedim(-1, axis)
        own[name] = parameter_of(turned.to(like))
        bias = own.get("bias")
        if what == "writes" and bias is not None:
            own["bias"] = parameter_of((bias.double() @ rotation).to(bias))
    return rotation


def _rotation(width: int, keep_mean: bool) -> Tensor:
    """A random rotation, float64; one that leaves the vector of ones where it is, if asked."""
    generator = torch.Generator().manual_seed(0)
    if not keep_mean:
        return torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q
    basis = torch.randn(width, width, generator=generator, dtype=torch.float64)
    basis[:, 0] = 1
    basis = torch.linalg.qr(basis).Q  # its first column is the vector of ones, scaled
    turn = torch.eye(width, dtype=torch.float64)
    turn[1:, 1:] = _rotation(width - 1, keep_mean=False)
    return basis @ turn @ basis.T


def _subtracts_the_mean(norm: nn.Module) -> bool:
    form = Norm.alone(norm)
    return isinstance(form, Norm) and form.centred


def _around(model: Model, name: str) -> str:
    """The outermost module that holds a stack of blocks and no other, with a dot; empty for the whole model."""
    mine = model.anatomy.streams[name].blocks[0]
    others = [path for other in model.anatomy.streams.values() if other.name != name for path in other.blocks]
    path = mine
    while path:
        outer = path.rpartition(".")[0]
        if any(not outer or other.startswith(f"{outer}.") for other in others):
            return f"{path}."
        path = outer
    return ""


def _width(module: nn.Module, norm: str) -> int:
    return len(module.get_parameter(f"{norm}.weight"))
