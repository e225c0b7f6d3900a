"""What is known of a model: its streams of blocks, the modules that play their parts, and where every site is seen.

>>> anatomy = Anatomy({"main": Stream("main", ("h.0", "h.1"))}, {Site("logits"): Tap("", "output")})
>>> anatomy.sizes, anatomy.block_of("h.1.mlp"), anatomy.tap(Site("output", path="h.1.mlp")).path
({'layer': 2}, 1, 'h.1.mlp')

Nothing is looked for here: :func:`interp.models.anatomy.dissection.dissect` makes a description from one forward pass. None is
ever written into: what changes one (axes that the user names, sites that broke a law) gives another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from interp import axes
from interp.errors import LoadError
from interp.models.anatomy.record import Shapes
from interp.models.layouts import Flat, Half, Named, Own, Pooled, Shared
from interp.models.taps import Tap
from interp.sites import MAIN, Site


@dataclass(frozen=True)
class Stream:
    """One stack of blocks that pass a residual stream on. Mappings are by layer, and lack layers without the part."""

    name: str
    blocks: tuple[str, ...] = ()
    """Path of every block."""
    layers: tuple[Mapping[str, int], ...] = ()
    """Sizes by layer: ``head``, ``kv_head``, ``unit``, ``d_model``, ``d_head``."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Components that no layer has, each with the reason."""
    lacks: Mapping[Site, str] = field(default_factory=dict)
    """Why single layers lack a component."""
    attention: Mapping[int, str] = field(default_factory=dict)
    """The module that gives what attention adds, before a norm that may follow it."""
    mlp: Mapping[int, str] = field(default_factory=dict)
    w_o: Mapping[int, str] = field(default_factory=dict)
    """The linear map W_O, from the heads' outputs to the stream."""
    w_out: Mapping[int, str] = field(default_factory=dict)
    """The MLP's output linear map, from its units to the stream."""
    order: Mapping[int, str] = field(default_factory=dict)
    """``"sequential"``, ``"parallel"``, or ``"unknown"`` where no sum of the stream came out right."""
    norms: Mapping[Site, str] = field(default_factory=dict)
    """The norm that follows the stream's sum with what is seen at a site (post-norm models)."""

    cross: frozenset[int] = frozenset()
    """Layers with cross-attention."""
    positions: int | None = None
    """How many there were in the recorded pass, where every example has its own in an axis of theirs."""
    reads: str | None = None
    """The argument of the forward whose token ids enter it, one a position; None where something else does."""
    attends: str | None = None
    """The stream that cross-attention attends to, where it is one of the model's."""

    def crosses(self, layer: int) -> bool:
        return layer in self.cross

    @property
    def sizes(self) -> dict[str, int]:
        """Number of layers, and the sizes of the first layer that has each."""
        found = {name: n for layer in reversed(self.layers) for name, n in layer.items()}
        return {axes.LAYER: len(self.blocks), **found} if self.blocks else found


class Repeated(NamedTuple):
    """How one forward pass calls a part of the model."""

    calls: int = 1
    halves: int = 1
    """2 where every example is run without and with its prompt, in one batch."""


ONCE = Repeated()


@dataclass(frozen=True)
class Anatomy:
    """The roles of one model's modules."""

    streams: Mapping[str, Stream]
    taps: Mapping[Site, Tap]
    """Where every site is seen."""
    modules: Mapping[tuple[str, str], Tap] = field(default_factory=dict)
    """Taps of modules by path and side, where they are not simply the tensor that goes in or comes out."""
    outputs: int = 0
    """How many logits there are at a position."""
    shapes: Shapes = field(default_factory=dict)
    """Of what every module took and gave in the recorded pass."""
    batch: int = 0
    """Number of examples of that pass."""
    repeated: Mapping[str, Repeated] = field(default_factory=dict)
    """Parts that one pass calls several times, by their path."""

    def tap(self, site: Site) -> Tap:
        """Where a site is seen: a role, or a module by its path."""
        event: Any = site.name
        if site.path is None:
            tap = self.taps[site.at(call=None, half=None)]
        else:
            tap = self.modules.get((site.path, site.name), Tap(site.path, event))
        return tap if site.half is None else replace(tap, layout=Half(site.half, tap.layout))

    def repeats(self, site: Site) -> Repeated:
        """How often a site is seen in one pass, and whether with and without the prompt."""
        path = self.tap(site.at(half=None)).path
        return next((times for part, times in self.repeated.items() if f"{path}.".startswith(f"{part}.")), ONCE)

    # the main stream

    @property
    def main(self) -> Stream:
        """The stream of sites that name none: the decoder, or the only one."""
        return self.streams.get(MAIN, _NO_STREAM)

    @property
    def blocks(self) -> str | None:
        """Path of the list that holds the main stream's blocks; None if they are not in one list."""
        parents = {path.rpartition(".")[0] for path in self.main.blocks}
        return parents.pop() if len(parents) == 1 else None

    @property
    def sizes(self) -> Mapping[str, int]:
        return self.main.sizes

    @property
    def attention(self) -> Mapping[int, str]:
        return self.main.attention

    @property
    def mlp(self) -> Mapping[int, str]:
        return self.main.mlp

    @property
    def w_o(self) -> Mapping[int, str]:
        return self.main.w_o

    @property
    def w_out(self) -> Mapping[int, str]:
        return self.main.w_out

    @property
    def absent(self) -> Mapping[str, str]:
        return self.main.absent

    # any stream

    def why_absent(self, site: Site) -> str | None:
        """Why no layer of a site's stream has it; None if one does."""
        stream = self.streams.get(site.stream)
        return None if stream is None else stream.absent.get(site.name)

    def size(self, site: Site, axis: str) -> int:
        """How many heads, units, … a site has along an axis."""
        stream = self.streams.get(site.stream, _NO_STREAM)  # a model's logits may be of none
        if axis == axes.LAYER:
            return len(stream.blocks)
        if axis == "d_model" and site.name in ("resid_pre", "embed", "pos_embed"):
            layer = stream.layers[site.layer or 0]
            return layer.get("d_model_before", layer["d_model"])
        name = f"kv_{axis}" if axis == axes.HEAD and site.name in ("k", "v", "cross_k", "cross_v") else axis
        if axis == "d_head" and site.name in ("q", "k"):
            name = f"{site.name}_d_head"
        if site.name.startswith("cross_") and axis in (axes.HEAD, "d_head"):
            name = f"cross_{name}"
        if axis == axes.UNIT and site.name != "mlp_post":
            name = {"mixer_post": "mixer_unit", "latent": "latent", "k_rotary": "k_rotary"}.get(site.name, name)
        if site.layer is not None and 0 <= site.layer < len(stream.layers):
            sizes = stream.layers[site.layer]
            if name in sizes or axis in sizes:
                return sizes.get(name, sizes.get(axis, 0))
        return stream.sizes[name] if name in stream.sizes else stream.sizes[axis]

    def units(self, site: Site) -> int | None:
        """How many numbers a module that is named by its path had at a position of the recorded pass."""
        tap = self.tap(site)
        shape = self.shapes.get((tap.path, tap.event))
        if isinstance(tap.layout, Named):
            return None if not shape else shape[tap.layout.names.index(tap.layout.unit)]
        return shape[-1] if shape else None

    def with_axes(self, axes: Mapping[str, str]) -> Anatomy:
        """The same anatomy with names for the axes of some modules, by path, or by path and side.

        Raises:
            LoadError: a module that is not there, or names that do not say which axis is which.
        """
        named = {}
        for where, names in axes.items():
            site = Site.parse(where if where.endswith((":input", ":output")) else f"{where}:output")
            event: Any = site.name
            tap, shape = Tap(site.path or "", event, Named.parse(names)), self.shapes.get((site.path or "", site.name))
            if shape is not None and len(shape) != len(names.split()):
                raise LoadError(f"axes {names!r} were given for {site!r}, whose tensor has the shape {shape}")
            named[site.path or "", site.name] = tap
        return replace(self, modules={**self.modules, **named})

    def without(self, sites: Mapping[Site, str]) -> Anatomy:
        """The same anatomy without some sites, each with the reason."""
        taps = {site: tap for site, tap in self.taps.items() if site not in sites}
        there = {(site.stream, site.name) for site in taps}
        streams = dict(self.streams)
        for site, why in sites.items():
            if (site.stream, site.name) not in there:
                stream = streams[site.stream]
                streams[site.stream] = replace(stream, absent={**stream.absent, site.name: why})
        return replace(self, streams=streams, taps=taps)

    def exchanged(self, one: str, other: str, stream: str) -> Anatomy:
        """The same anatomy with two components of a stream in each other's place."""
        names = {one: other, other: one}
        taps = {s.at(name=names[s.name]) if s.stream == stream and s.name in names else s: tap for s, tap in self.taps.items()}
        return replace(self, taps=taps)

    def count(self, site: Site, shapes: Shapes | None = None, batch: int | None = None) -> int | None:
        """How many positions a site had in the recorded pass, or in another one.

        Args:
            shapes: of the other pass.
            batch: its number of examples.
        """
        tap, shapes, batch = self.tap(site.at(half=None)), self.shapes if shapes is None else shapes, batch or self.batch
        shape = shapes.get((tap.path, tap.event))
        if shape is None or not shape:
            return None
        if isinstance(tap.layout, Pooled | Own):
            return 1
        if isinstance(tap.layout, Named):
            return math.prod(self.lattice(site, shapes).values())
        if isinstance(tap.layout, Shared):
            return shape[-2]
        if isinstance(tap.layout, Flat):
            return math.prod(shape[:-1]) // batch
        return shape[1] if len(shape) > 1 else None

    def lattice(self, site: Site, shapes: Shapes | None = None) -> dict[str, int]:
        """The axes that the positions of a site run along, where there are names for them, with their sizes."""
        tap, shapes = self.tap(site.at(half=None)), self.shapes if shapes is None else shapes
        layout = tap.layout
        shape = shapes.get((tap.path, tap.event), ())
        if not isinstance(layout, Named) or len(shape) != len(layout.names):
            return {}
        sizes = dict(zip(layout.names, shape, strict=True))
        return {name: sizes[name] for name in layout.positions}

    def layer_of(self, site: Site) -> int | None:
        """The main block that a site belongs to, −1 for what comes before the first; None for what is behind or elsewhere."""
        if site.path is not None:
            return self.block_of(site.path)
        if site.stream != MAIN:
            return None
        return None if site.name in ("logits", "ln_final_scale") else -1 if site.layer is None else site.layer

    def block_of(self, path: str, stream: str = MAIN) -> int | None:
        """The number of the main stream's block that a module is, or is inside of; None if it is outside."""
        blocks = self.streams[stream].blocks if stream in self.streams else ()
        return next((i for i, block in enumerate(blocks) if f"{path}.".startswith(f"{block}.")), None)

    def stream_of(self, site: Site, *, attended: bool = False) -> str | None:
        """The stream whose positions are those of a site, or those that it attends to; None if that is not known."""
        if site.path is not None:
            return next((name for name in self.streams if self.block_of(site.path, name) is not None), None)
        if site.name == "logits":
            return None if isinstance(self.taps[site].layout, Pooled | Own | Named) or not self.main.reads else MAIN
        if axes.POSITION not in site.axes or (attended and site.name.startswith("cross_")):
            return self.streams[site.stream].attends
        return site.stream


_NO_STREAM = Stream(MAIN)
