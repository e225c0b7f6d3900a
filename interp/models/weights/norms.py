"""Which norm stands between the stream and what reads it, and what of it is linear: its gain, its centring, its bias.

>>> norm = read_through(model, Site("q", layer=0))                                          # doctest: +SKIP
>>> norm.path, norm.centred                                                                # doctest: +SKIP
('transformer.h.0.ln_1', True)

A norm gives ``scale(x) · (x − mean) ⊙ gain + bias``, an RMSNorm without the mean. The gain and the centring are linear and can
be folded into the weights behind it; the scale, one positive number a token, depends on the data and cannot. Nothing is known
by name: the norm is the module that takes the stream and gives what the weights take, and its parts are found by calling it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import WeightsError
from interp.models.anatomy.record import record
from interp.models.model import Model
from interp.models.weights.projections import wide
from interp.sites import Site


@dataclass(frozen=True, eq=False)
class Norm:
    """The linear part of a norm."""

    path: str
    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    centred: bool
    """Whether it subtracts the mean over features."""

    def before(self, weight: Float[Tensor, "*head d_model d_out"]) -> Float[Tensor, "*head d_model d_out"]:
        """A map that reads the norm's output, as a map of the norm's input: up to the norm's scale."""
        folded = self.gain.to(weight).unsqueeze(-1) * weight
        return folded - folded.mean(-2, keepdim=True) if self.centred else folded

    def behind(self, weight: Float[Tensor, "*head d_in d_model"]) -> Float[Tensor, "*head d_in d_model"]:
        """A map that writes into the norm, as a map that writes what it gives: up to the norm's scale."""
        written = weight - weight.mean(-1, keepdim=True) if self.centred else weight
        return written * self.gain.to(weight)


# where it is


_PATHS: WeakKeyDictionary[nn.Module, dict[str, str]] = WeakKeyDictionary()
"""By module, for the path of a map the path of the norm before it, "" for none; what no norm explains is not kept."""


def read_through(model: Model, site: Site) -> Norm | None:
    """The norm by which the map at q, k or v of a layer reads the stream; None where it reads the stream itself.

    Raises:
        WeightsError: something else stands between.
    """
    stream = model.anatomy.streams[site.stream]
    path = model.taps(site.tensor).path
    paths = _PATHS.setdefault(model.module, {})
    if path not in paths:
        sites = [Site(site.name, layer=i, stream=site.stream) for i in range(len(stream.blocks))]
        maps = {model.taps(s).path: stream.blocks[s.layer or 0] for s in sites if model.has(s)}
        paths |= _between(model, maps)
    return _norm(model, paths, path, repr(site))


def before_unembedding(model: Model) -> Norm | None:
    """The norm between the last block of the main stream and the unembedding; None where there is none.

    Raises:
        WeightsError: something else stands between, or there is no unembedding.
    """
    path = unembedding(model)
    paths = _PATHS.setdefault(model.module, {})
    if path not in paths:
        blocks = model.anatomy.main.blocks
        inside = tuple(f"{block}." for block in blocks)
        outside = [n for n, p in model.module.named_modules() if _leaf(p) and not f"{n}.".startswith(inside)]
        seen = _recorded(model, [path, *outside, *blocks[-1:]])
        paths |= _explained(seen, path, seen.output(blocks[-1]) if blocks else None, outside)
    return _norm(model, paths, path, "the unembedding")


def unembedding(model: Model) -> str:
    """The path of the linear map from the stream to the logits.

    Raises:
        WeightsError: there is none.
    """
    module: Any = model.module
    find = getattr(module, "get_output_embeddings", None)
    found = find() if find is not None else None
    path = next((name for name, part in module.named_modules() if part is found), None)
    if found is None or path is None:
        raise WeightsError(f"{model.name} has no unembedding: its get_output_embeddings() gives none")
    return path


def _between(model: Model, maps: dict[str, str]) -> dict[str, str]:
    """For maps, each in a block, the norm through which it reads what enters the block."""
    inside = {m: [n for n, p in _within(model.module, block) if _leaf(p)] for m, block in maps.items()}
    every = dict.fromkeys(path for paths in inside.values() for path in paths)
    seen = _recorded(model, [*maps, *maps.values(), *every])
    found: dict[str, str] = {}
    for path, block in maps.items():
        found |= _explained(seen, path, seen.input(block), inside[path])
    return found


def _recorded(model: Model, paths: list[str]) -> Any:
    if not model.example:
        raise WeightsError(
            f"which norms {model.name} has is found in a forward pass, and nothing is known of what its forward takes"
        )
    with model.prepared():
        return record(model.module, paths, (), lambda: model.module(**model.example))


def _explained(seen: Any, path: str, stream: Tensor | None, candidates: list[str]) -> dict[str, str]:
    """What stands between the stream and a map, if it is nothing, or one module."""
    taken = seen.input(path)
    if taken is None or stream is None:
        return {}
    if _same(taken, stream):
        return {path: ""}
    norms = [n for n in candidates if _same(seen.output(n), taken) and _same(seen.input(n), stream)]
    return {path: norms[0]} if norms else {}


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two tensors hold the same numbers in the same order, however examples and positions are laid out."""
    if one is None or other is None or one.numel() != other.numel():
        return False
    # Zeros are like zeros wherever they come from, and what is found here is kept.
    return one.shape[-1] == other.shape[-1] and torch.equal(one.reshape(-1), other.reshape(-1)) and bool(one.any())


def _within(module: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    return [(f"{path}.{name}", part) for name, part in module.get_submodule(path).named_modules() if name]


def _leaf(part: nn.Module) -> bool:
    return next(part.children(), None) is None


# what of it is linear


def _norm(model: Model, paths: dict[str, str], path: str, what: str) -> Norm | None:
    if path not in paths:
        raise WeightsError(
            f"what {path} takes is not the residual stream of {model.name}, nor one norm of it, so that {what} is no map of "
            "the stream; fold_norm=False reads the weights alone"
        )
    norm = paths[path]
    return dissected(norm, model.module.get_submodule(norm)) if norm else None


def dissected(path: str, norm: nn.Module) -> Norm:
    """The gain, the bias and the centring of a norm, found by calling a copy of it in double precision.

    Raises:
        WeightsError: it is no norm over the last axis.
    """
    own: Any = norm
    weights = [p for p in own.parameters() if p.ndim == 1]
    width = len(weights[0]) if weights else _width_of(own)
    if width is None:
        raise WeightsError(f"{path} is a {type(norm).__name__}, and no norm over features that is known")
    twin: Any = copy.copy(norm)  # in double precision, and without the hooks that may be on the norm
    twin._parameters = {name: None if p is None else nn.Parameter(p.double()) for name, p in norm._parameters.items()}
    device = weights[0].device if weights else torch.device("cpu")

    def call(x: Tensor) -> Tensor:
        with torch.no_grad():
            return type(norm).forward(twin, x.unsqueeze(0))[0].double()  # [example, position, d_model]

    draw = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (1, width), generator=draw).double().to(device) * 2 - 1
    signs = (signs - signs.mean()) * 1e3  # no mean to subtract, and far larger than any epsilon
    plus, minus = call(signs), call(-signs)
    bias, gain = ((plus + minus) / 2)[0], ((plus - minus) / 2 / signs * signs.square().mean().sqrt())[0]
    x = (torch.randn(4, width, generator=draw, dtype=torch.float64) + 1).to(device) * 1e3
    for centred in (False, True):
        moved = x - x.mean(-1, keepdim=True) if centred else x
        expected = moved / moved.square().mean(-1, keepdim=True).sqrt() * gain + bias
        if (call(x) - expected).abs().max() <= 1e-4 * (1 + expected.abs().max()):
            return Norm(path, _kept(own, gain), _kept_bias(own, bias), centred)
    raise WeightsError(f"{path} is a {type(norm).__name__}, whose output is not its input, centred or not, to one scale")


def _kept(norm: Any, gain: Tensor) -> Tensor:
    """The gain as the module keeps it, to the last bit: its weight, or one more than that; what was measured else."""
    weight = getattr(norm, "weight", None)
    likely = [wide(weight), 1 + wide(weight)] if isinstance(weight, Tensor) else [torch.ones_like(gain)]
    return next((kept for kept in likely if torch.allclose(kept.double(), gain, 1e-3, 1e-4)), gain)


def _kept_bias(norm: Any, bias: Tensor) -> Tensor:
    kept = getattr(norm, "bias", None)
    return wide(kept) if isinstance(kept, Tensor) else torch.zeros_like(bias)


def _width_of(norm: Any) -> int | None:
    """Of a norm without a gain, by what it says of itself."""
    shape = getattr(norm, "normalized_shape", None)
    return int(shape[0]) if shape is not None and len(shape) == 1 else None
