"""The sites of a TransformerBridge: hook points that fire once in a forward pass and hold what our names say.

    >>> anatomy(bridge, {"input_ids": ids}).tap(Site("z", layer=0)).path                        # doctest: +SKIP
    'blocks.0.attn.o.hook_in'

Names propose here as they do for modules. A hook point is left out, with the reason, where it does not fire, where the bridge
puts another tensor under the name, and where what is written into it goes nowhere; the laws of the probe run decide the rest.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from interp import axes, hook_names
from interp.models.anatomy import Anatomy, Stream
from interp.models.backends.bridge_hooks import Column, PointHandle, PointHooks, called
from interp.models.hooks import evaluating
from interp.models.layouts import Pooled, Results, Whole
from interp.models.taps import Tap
from interp.sites import COMPONENTS, MAIN, Site

STACKS = (("blocks", MAIN), ("decoder_blocks", MAIN), ("encoder_blocks", "encoder"))
ATTENTION, CROSS = ("attn", "self_attn"), ("cross_attn",)

Shape = tuple[int, ...]


def anatomy(bridge: Any, inputs: Mapping[str, Tensor]) -> Anatomy:
    """The sites of a bridge, found by three forward passes.

    Args:
        inputs: keyword arguments of the wrapped model's forward.
    """
    stacks = {stream: _Stack(bridge, name, stream) for name, stream in STACKS if _is_list(getattr(bridge, name, None))}
    if not stacks:
        why = f"the bridge of {type(bridge.original_model).__name__} has no list of blocks; name its modules by path"
        return Anatomy(
            {MAIN: Stream(MAIN, absent={n: why for n in COMPONENTS if n != "logits"})}, {Site("logits"): Tap("", "output")}
        )
    modules: dict[str, nn.Module] = {}
    for stack in stacks.values():
        modules |= stack.propose(bridge.hook_dict)
    shapes = _sounded(bridge, inputs, modules)
    for stack in stacks.values():
        stack.keep(shapes)
        _unwritable(stack, inputs)
    taps = {site: tap for stack in stacks.values() for site, tap in stack.taps.items()}
    # Not unembed.hook_out: a soft cap may follow the unembedding.
    taps[Site("logits")] = Tap("", "output", Pooled() if len(shapes[""][0]) == 2 else Whole())
    streams = {stream: _read(stack.described(), inputs, len(stacks) > 1) for stream, stack in stacks.items()}
    once = {(path, "output"): found[0] for path, found in shapes.items() if len(found) == 1}
    outputs, batch = (shapes[""][0][-1], shapes[""][0][0])
    return Anatomy(streams, taps, outputs=outputs, shapes=once, batch=batch)


def _read(stream: Stream, inputs: Mapping[str, Tensor], several: bool) -> Stream:
    """The stream with the argument whose token ids enter it: a decoder's own, where there is an encoder too."""
    name = "decoder_input_ids" if several and stream.name == MAIN else "input_ids"
    if name not in inputs:
        return stream
    attends = "encoder" if several and stream.name == MAIN else None
    return replace(stream, reads=name, positions=inputs[name].shape[1], attends=attends)


def _is_list(part: object) -> bool:
    return isinstance(part, nn.ModuleList)


@dataclass
class _Stack:
    """One list of blocks."""

    bridge: Any
    name: str
    stream: str
    taps: dict[Site, Tap] = field(default_factory=dict)
    lacking: dict[Site, str] = field(default_factory=dict)
    """Sites that have a hook point but are left out, each with the reason."""
    shapes: Mapping[str, list[Shape]] = field(default_factory=dict)
    """Of what every module gave, one a call."""

    @property
    def blocks(self) -> list[str]:
        return [f"{self.name}.{layer}" for layer in range(len(getattr(self.bridge, self.name)))]

    # which hook points may be which sites

    def propose(self, points: Mapping[str, HookPoint]) -> dict[str, nn.Module]:
        """Note a tap for every site whose name is there; returns the modules to be watched, by path."""
        modules: dict[str, nn.Module] = {}
        for site, name in self._named(points):
            path, (owner, _, own) = points[name].name or name, name.rpartition(".")
            part = self.bridge.get_submodule(owner)
            alias = own not in part._modules  # the bridge keeps the point in another place; its name says so in one mode only
            if (why := _another(site, name, points[name], part, alias)) is not None:
                self.lacking[site] = why
                continue
            # An alias of what the MLP's norm takes: the block adds to the very tensor, so that is what must change.
            layout = Column() if site.axes[-1] == axes.POSITION else Whole()
            self.taps[site] = Tap(path, "output", layout, in_place=site.name == "resid_mid" and alias)
            modules[path] = points[name]
        for block in self.blocks:
            for path in filter(None, (self.part(block, ATTENTION), self.part(block, CROSS))):
                linear: Any = getattr(getattr(self.bridge.get_submodule(path), "o", None), "original_component", None)
                if isinstance(getattr(linear, "weight", None), Tensor):
                    modules[_w_o(path)] = linear
        return modules

    def _named(self, points: Mapping[str, HookPoint]) -> Iterator[tuple[Site, str]]:
        for name, component in COMPONENTS.items():
            if name == "logits" or (self.stream != MAIN and not component.per_layer):
                continue
            spellings = list(hook_names.spellings(name, stack=self.name))
            if not component.per_layer:
                spellings.reverse()  # its own point first: hook_embed is behind a norm that follows the embedding in BLOOM
            for layer in range(len(self.blocks)) if component.per_layer else [None]:
                there = (spelling.format(layer=layer) for spelling in spellings)
                if (hit := next((spelling for spelling in there if spelling in points), None)) is not None:
                    yield Site(name, layer=layer, stream=self.stream), hit

    def part(self, block: str, names: Collection[str]) -> str | None:
        """The path of the first of several parts that a block has."""
        owner = self.bridge.get_submodule(block)
        return next((f"{block}.{name}" for name in names if isinstance(getattr(owner, name, None), nn.Module)), None)

    # which of them hold something

    def keep(self, shapes: Mapping[str, list[Shape]]) -> None:
        """Leave out what did not fire once as the tensor that its axes say; add the heads' results where W_O is called."""
        self.shapes = shapes
        stream = shapes[self.taps[self.site("resid_pre", 0)].path]
        for site, tap in list(self.taps.items()):
            seen = shapes.get(tap.path, [])
            if len(seen) != 1:
                self.leave_out(site, f"its hook point {tap.path} fired {len(seen)} times in one forward pass")
            elif isinstance(tap.layout, Column) and seen[0] != (*stream[0][:2], 1):
                self.leave_out(site, f"its hook point {tap.path} holds a tensor of shape {seen[0]}, not one number a token")
            elif not isinstance(tap.layout, Column) and (
                len(seen[0]) != len(site.axes) or (site.layer is None and seen != stream)
            ):
                self.leave_out(site, f"its hook point {tap.path} holds a tensor of shape {seen[0]}, not {site.axes}")
        for layer, block in enumerate(self.blocks):
            for name, part in (("resid_mid", "mlp_out"), ("resid_cross", "cross_z")):
                self._before(self.site(name, layer), self.site(part, layer))
            for prefix, names in (("", ATTENTION), ("cross_", CROSS)):
                path, z, result = self.part(block, names), self.site(f"{prefix}z", layer), self.site(f"{prefix}result", layer)
                if z in self.taps and (given := shapes[self.taps[z].path][0][2]) != self.heads:
                    self.leave_out(
                        z, f"its hook point {self.taps[z].path} divides it into {given} heads, of which there are {self.heads}"
                    )
                if path is not None and result not in self.taps and self.once(_w_o(path)):
                    self.taps[result] = Tap(_w_o(path), "output", Results(self.heads))

    def _before(self, site: Site, part: Site) -> None:
        """Leave out a stream that is seen behind the part that should read it: a post-norm block's norm is there."""
        fired = list(self.shapes)  # in the order of the network
        if site in self.taps and part in self.taps:
            one, other = self.taps[site].path, self.taps[part].path
            if fired.index(one) > fired.index(other):
                self.leave_out(site, f"its hook point {one} comes behind {other} in this model")

    @property
    def heads(self) -> int:
        return int(self.bridge.cfg.n_heads)

    def site(self, name: str, layer: int | None) -> Site:
        return Site(name, layer=layer, stream=self.stream)

    def leave_out(self, site: Site, why: str) -> None:
        del self.taps[site]
        self.lacking[site] = why

    def once(self, path: str) -> bool:
        return len(self.shapes.get(path, [])) == 1

    # what is there

    def described(self) -> Stream:
        there = {site.name for site in self.taps}
        why = {n: hook_names.NAMELESS.get(n, "TransformerLens has no hook point for it in this model") for n in COMPONENTS}
        why |= {site.name: reason for site, reason in self.lacking.items()}
        attention = self._parts(ATTENTION)
        return Stream(
            self.stream,
            tuple(self.blocks),
            tuple(self._sizes(layer) for layer in range(len(self.blocks))),
            absent={name: reason for name, reason in why.items() if name not in there and name != "logits"},
            lacks={site: reason for site, reason in self.lacking.items() if site not in self.taps},
            attention=attention,
            mlp=self._parts(("mlp",)),
            # With use_attn_result the bridge multiplies by W_O's weights itself, and the map is never called.
            w_o={layer: _w_o(path) if self.once(_w_o(path)) else f"{path}.hook_out" for layer, path in attention.items()},
            order={layer: self._order(layer) for layer in range(len(self.blocks))},
            cross=frozenset(site.layer for site in self.taps if site.name == "cross_out" and site.layer is not None),
        )

    def _parts(self, names: Collection[str]) -> dict[int, str]:
        found = {layer: self.part(block, names) for layer, block in enumerate(self.blocks)}
        return {layer: path for layer, path in found.items() if path is not None}

    def _order(self, layer: int) -> str:
        both = all(self.part(self.blocks[layer], names) is not None for names in (ATTENTION, ("mlp",)))
        return "parallel" if both and self.site("resid_mid", layer) not in self.taps else "sequential"

    def _sizes(self, layer: int) -> dict[str, int]:
        taps = {size: (self.taps.get(self.site(name, layer)), axis) for size, (name, axis) in _SIZES.items()}
        found = {size: self.shapes[tap.path][0][axis] for size, (tap, axis) in taps.items() if tap is not None}
        return found if self.part(self.blocks[layer], ATTENTION) is None else {"head": self.heads, **found}


_SIZES = {
    "d_model": ("resid_pre", 2),
    "head": ("z", 2),
    "d_head": ("z", 3),
    "kv_head": ("v", 2),
    "unit": ("mlp_post", 2),
    "cross_head": ("cross_z", 2),
    "cross_d_head": ("cross_z", 3),
    "cross_kv_head": ("cross_v", 2),
}
"""Which axis of which site says how large something is."""


def _w_o(attention: str) -> str:
    """W_O of an attention, as transformers made it."""
    return f"{attention}.o.original_component"


def _another(site: Site, name: str, point: HookPoint, part: Any, alias: bool) -> str | None:
    """Why the point behind a hook name is not what the site means; None if it may be.

    Args:
        part: the attention, MLP, … whose hook it is.
        alias: the point belongs to a module inside of that part.
    """
    if site.name in ("q", "k", "v") and not alias:
        return f"{name} is what attention multiplies there, behind the rotary embedding, with heads before positions"
    if site.name in ("mlp_pre", "mlp_post") and any(point is getattr(part, end, None) for end in ("hook_in", "hook_out")):
        return f"{name} is what goes into or comes out of the whole mixture of experts there"
    return None


def _sounded(bridge: Any, inputs: Mapping[str, Tensor], modules: Mapping[str, nn.Module]) -> dict[str, list[Shape]]:
    """One forward pass: the shapes of the tensors that modules gave, one a call, in the order of the network."""
    shapes: dict[str, list[Shape]] = {}

    def at(path: str) -> Any:
        def seen(*args: Any, hook: Any = None) -> None:
            shapes.setdefault(path, []).append(tuple(args[-1].shape) if isinstance(args[-1], Tensor) else ())

        return seen

    with ExitStack() as hooks, evaluating(bridge), torch.no_grad():
        for path, module in modules.items():
            if isinstance(module, HookPoint):
                hooks.callback(PointHandle(module, module.add_hook(at(path))).remove)
            else:
                hooks.callback(module.register_forward_hook(at(path)).remove)
        shapes[""] = [tuple(called(bridge, inputs).shape)]
    return shapes


def _unwritable(stack: _Stack, inputs: Mapping[str, Tensor]) -> None:
    """Leave out scores and patterns where attention is transformers' own, and what is written into the hook points is lost.

    A pattern of zeros must give a z of zeros, and scores of zeros patterns that are the same for every source position.
    """
    for prefix in ("", "cross_"):
        for name, effect in (("pattern", "z"), ("scores", "pattern")):
            layers = [s.layer for s in stack.taps if s.name == f"{prefix}{name}"]
            pairs = {stack.site(f"{prefix}{name}", layer): stack.site(f"{prefix}{effect}", layer) for layer in layers}
            pairs = {site: moved for site, moved in pairs.items() if moved in stack.taps}
            taps = {site: stack.taps[site] for pair in pairs.items() for site in pair}
            zeros = PointHooks(stack.bridge, taps, pairs.values(), dict.fromkeys(pairs, torch.zeros_like))
            with torch.no_grad(), evaluating(stack.bridge), warnings.catch_warnings(), zeros as hooks:
                warnings.simplefilter("ignore")  # the bridge says what is found out here
                called(stack.bridge, inputs)
            for site, moved in pairs.items():
                found = hooks.found[moved]
                spread = found.abs() if effect == "z" else found.amax(-1) - found.amin(-1)
                if float(spread.max()) > _TINY:
                    where = stack.taps[site].path
                    stack.leave_out(
                        site, f"what is written into its hook point {where} is lost: attention is transformers' own there"
                    )
                    if name == "pattern" and (scores := stack.site(f"{prefix}scores", site.layer)) in stack.taps:
                        stack.leave_out(scores, stack.lacking[site])


_TINY = 1e-3
"""Zeros are exact; a row of a half-precision softmax of zeros is the same in every column."""
