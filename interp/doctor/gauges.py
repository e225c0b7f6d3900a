"""Rewrites of a model's weights that leave its function as it was, made on a copy.

>>> rewritten = fold_value_biases(model)                                                  # doctest: +SKIP
>>> rewritten.what                                                                        # doctest: +SKIP
'3 value biases folded into b_O'

Where weights lie is asked of the anatomy (taps and their layouts) and of one forward pass (:mod:`interp.doctor.readers`), never
of a model's name. That interventions must not depend on such choices is what the gauge laws are about
(:mod:`interp.doctor.invariance`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import einsum, rearrange, repeat
from torch import Tensor, nn

from interp.doctor.readers import flow, owners
from interp.doctor.verdict import Refused, kept
from interp.models import Model
from interp.models.layouts import BesideSink, Flat, Heads, Layout
from interp.models.model import TorchHooks
from interp.models.norms import Norm
from interp.sites import Site


@dataclass(frozen=True)
class Rewritten:
    """A copy of a model with other weights and the same function."""

    model: Model
    what: str
    """What was rewritten, in words."""
    left: Mapping[str, str] = field(default_factory=dict)
    """What could not be, each with the reason."""
    turned: Mapping[str, Tensor] = field(default_factory=dict)
    """By stream, the rotation of its basis: what was ``x`` is now ``x @ R``."""
    reversed_heads: frozenset[Site] = frozenset()
    """Sites whose first head is now the last one, and so on."""
    moves_zero: frozenset[str] = frozenset()
    """Components at which zero is another point than before."""

    def site(self, site: Site, heads: int) -> Site:
        """Where what was at a site is now, of so many heads."""
        return site.at(head=heads - 1 - site.head) if site.head is not None and site.tensor in self.reversed_heads else site


def twin(model: Model) -> Model:
    """The same model with a module of its own, in at least float32."""
    made = copy.copy(model)
    made.module = copy.deepcopy(model.module)
    if model.dtype in (torch.float16, torch.bfloat16):
        made.module.float()
        made.example = {name: t.float() if t.is_floating_point() else t for name, t in model.example.items()}
    made.backend = TorchHooks(made)
    for parameter in made.module.parameters():
        parameter.requires_grad_(False)
    return made


# norm gains


def fold_gains(model: Model) -> Rewritten:
    """Every norm's gain and bias, folded into the linear maps that read it; the gain is then 1 and the bias 0."""
    made = twin(model)
    folded, left = folded_gains(model, made)
    if not folded:
        raise Refused(next((f"{path}: {why}" for path, why in left.items()), "no norm of it has a gain"))
    if all(_alike(model.module.get_submodule(path), made.module.get_submodule(path)) for path in folded):
        raise Refused("the gains of its norms are 1 already, and their biases 0")
    return Rewritten(made, f"the gains of {len(folded)} norms folded into what reads them", left)


def folded_gains(model: Model, made: Model) -> tuple[dict[str, dict[str, int]], dict[str, str]]:
    """Fold what can be folded in ``made``: the weights that read each of those norms, by axis, and why others were left."""
    seen = flow(model)
    readers: dict[str, list[str]] = {}
    for path, reading in seen.readings.items():
        for parameter in reading.weights:
            readers.setdefault(parameter, []).append(path)
    in_stream = {path for stream in model.anatomy.streams.values() for path in stream.norms.values()}
    elsewhere = {parameter for _, parameter, _, marked in seen.products if not marked}
    places = {parameter: _place(made.module, parameter) for parameter in readers}
    folded, left = {}, {}
    for path, reading in seen.readings.items():
        shared = [parameter for parameter in reading.weights if parameter in elsewhere or len(readers[parameter]) > 1]
        norm = made.module.get_submodule(path)
        bias = getattr(norm, "bias", None)
        homeless = [p for p in reading.weights if isinstance(bias, Tensor) and "bias" not in held_with(made.module, places[p])]
        if path in in_stream:
            left[path] = "what it gives is the residual stream"
        elif reading.others:
            left[path] = f"its output also goes into {', '.join(sorted(reading.others))}, not only into linear maps"
        elif not reading.weights:
            left[path] = "no linear map reads it"
        elif shared:
            left[path] = f"{shared[0]} also reads something else"
        elif homeless:
            left[path] = f"its bias has no place in {homeless[0]}"
        elif isinstance(form := Norm.alone(norm), str):
            left[path] = form
        else:
            with torch.no_grad():
                _fold(made.module, norm, form, {places[parameter]: axis for parameter, axis in reading.weights.items()})
            folded[path] = {places[parameter]: axis for parameter, axis in reading.weights.items()}
    return folded, left


def _alike(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(p, q.to(p)) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def _fold(module: nn.Module, norm: Any, form: Norm, weights: Mapping[str, int]) -> None:
    gain: Any = form.gain(norm)
    bias = norm.bias.detach().clone() if isinstance(getattr(norm, "bias", None), Tensor) else None
    for parameter, axis in weights.items():
        own = held_with(module, parameter)
        name = parameter.rpartition(".")[2]
        weight: Any = own[name]
        if bias is not None:
            added = weight @ bias if axis == -1 else bias @ weight
            own["bias"] = parameter_of(added if own["bias"] is None else own["bias"] + added)
        own[name] = parameter_of(weight * (gain if axis == -1 else gain[:, None]))
    norm.weight.fill_(form.unit)
    if bias is not None:
        norm.bias.zero_()


def _place(module: nn.Module, parameter: str) -> str:
    """Where a parameter is multiplied by: of weights tied to an embedding, not the embedding, so that they come apart."""
    found = owners(module, parameter)
    return next((place for place, part in found.items() if not isinstance(part, nn.Embedding)), parameter)


def held_with(module: nn.Module, parameter: str) -> dict[str, nn.Parameter | None]:
    """The parameters of the module that holds one."""
    return module.get_submodule(parameter.rpartition(".")[0])._parameters


# value biases


def fold_value_biases(model: Model) -> Rewritten:
    """b_V into b_O: rows of the pattern sum to 1, so W_O b_V is added at every position anyway."""
    made, count = twin(model), 0
    left: dict[str, str] = {}
    for at, _ in _attentions(model):
        v, z = made.taps(at("v")), made.taps(at("z"))
        values, linear = made.module.get_submodule(v.path), made.module.get_submodule(z.path)
        bias = getattr(values, "bias", None)
        if isinstance(made.taps(at("pattern")).layout, BesideSink):
            left[repr(at("v"))] = f"a sink takes a share of {at('pattern')!r}, so that b_V is not added at every position alike"
            continue
        if not isinstance(bias, Tensor) or not bool(_heads(v.layout).read(bias[None, None], None).any()):
            left[repr(at("v"))] = f"{v.path} has no bias of its values"
            continue
        with torch.no_grad():
            _fold_value_bias(bias, _heads(v.layout), linear, model.anatomy.size(at("z"), "head"))
        count += 1
    if not count:
        raise Refused(next(iter(left.values()), "it has no attention whose values and outputs are known"))
    moved = frozenset(f"{prefix}{name}" for prefix in ("", "cross_") for name in ("v", "z", "result"))
    return Rewritten(made, f"{count} value biases folded into b_O", left, moves_zero=moved)


def _fold_value_bias(bias: Tensor, layout: Layout, linear: Any, heads: int) -> None:
    values = layout.read(bias[None, None], None)
    weight = rearrange(kept(linear), "(head d_head) d_model -> head d_head d_model", head=heads)
    each = repeat(values[0, 0], "kv d_head -> (kv group) d_head", group=heads // values.shape[-2])
    added = einsum(each, weight, "head d_head, head d_head d_model -> d_model")
    old = linear._parameters.get("bias")
    bias.copy_(layout.put(bias[None, None], torch.zeros_like(values), None)[0, 0])
    linear.register_parameter("bias", parameter_of(added if old is None else old + added))


# the order of heads


def reverse_heads(model: Model) -> Rewritten:
    """The last head first, with its queries, keys, values, norms, position biases and slice of W_O."""
    made, done = twin(model), set()
    for at, attention in _attentions(model):
        heads = model.anatomy.size(at("z"), "head")
        if heads < 2:
            continue
        with torch.no_grad():
            for name in ("q", "k", "v"):
                _reverse_outputs(made, at(name))
            weight = kept(made.module.get_submodule(made.taps(at("z")).path))
            each = rearrange(weight, "(head d_head) d_model -> head d_head d_model", head=heads)
            weight.copy_(rearrange(each.flip(0), "head d_head d_model -> (head d_head) d_model"))
            _reverse_what_belongs_to_heads(made, at, made.module.get_submodule(attention), heads)
        done |= {at(name) for name in ("q", "k", "v", "scores", "pattern", "z", "result")}
    if not done:
        raise Refused("it has no attention with several heads whose queries, keys, values and outputs are known")
    count = sum(site.name in ("z", "cross_z") for site in done)
    return Rewritten(made, f"the heads of {count} attentions in reverse order", reversed_heads=frozenset(done))


def _reverse_outputs(made: Model, site: Site) -> None:
    """A projection with its heads the other way round; the layout knows where they lie."""
    tap = made.taps(site)
    linear: Any = made.module.get_submodule(tap.path)
    layout = _heads(tap.layout)
    rows = [kept(linear)] + ([linear.bias[None]] if isinstance(getattr(linear, "bias", None), Tensor) else [])
    for row in rows:
        seen = row[None].clone()
        row.copy_(layout.put(seen, layout.read(seen, None).flip(-2), None)[0])


def _reverse_what_belongs_to_heads(made: Model, at: Callable[[str], Site], attention: nn.Module, heads: int) -> None:
    """Norms over all heads together, sinks, and tables of position biases, which have a column for every head."""
    for name in ("q", "k"):
        norm, site = getattr(attention, f"{name}_norm", None), at(name)
        width, many = made.anatomy.size(site, "d_head"), made.anatomy.size(site, "head")
        for parameter in norm.parameters() if isinstance(norm, nn.Module) else ():
            if parameter.shape == (many * width,) and many > 1:
                parameter.copy_(parameter.unflatten(0, (many, width)).flip(0).flatten())
    layout = made.taps(at("scores")).layout
    if isinstance(layout, BesideSink) and layout.parameter is not None:
        sinks = attention.get_parameter(layout.parameter)
        sinks.copy_(sinks.flip(0))
    maps = {made.taps(at(name)).path for name in ("q", "k", "v", "z")}
    mapped = {id(parameter) for path in maps for parameter in made.module.get_submodule(path).parameters()}
    for parameter in attention.parameters():
        if parameter.ndim == 2 and parameter.shape[1] == heads and id(parameter) not in mapped:
            parameter.copy_(parameter.flip(1))


# helpers


def _attentions(model: Model) -> Iterator[tuple[Callable[[str], Site], str]]:
    """Every attention whose queries, keys, values and outputs are known, with what gives its sites by their names."""
    for name, stream in model.anatomy.streams.items():
        for layer in range(len(stream.blocks)):
            for prefix in ("", "cross_"):

                def at(component: str, prefix: str = prefix, layer: int = layer, name: str = name) -> Site:
                    return Site(f"{prefix}{component}", layer=layer, stream=name)

                sites = [at(component) for component in ("q", "k", "v", "z", "result", "pattern")]
                if all(model.has(site) for site in sites) and all(_linear(model, site) for site in sites[:4]):
                    yield at, model.taps(at("pattern")).path


def _linear(model: Model, site: Site) -> bool:
    weight = getattr(model.module.get_submodule(model.taps(site).path), "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2 and weight.is_floating_point()


def _heads(layout: Layout) -> Heads:
    """How heads lie in the features, however the examples lie."""
    inner = layout.layout if isinstance(layout, Flat) else layout
    if not isinstance(inner, Heads):
        raise Refused(f"heads lie in the projections in a way of their own ({type(inner).__name__})")
    return inner


def parameter_of(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)
