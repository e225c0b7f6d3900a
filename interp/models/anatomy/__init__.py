"""Which tensor plays which role, found by structure and proven in numbers: streams, their blocks, attention, MLPs.

    >>> anatomy = Anatomy.of(module, example(module))                                         # doctest: +SKIP
    >>> anatomy.streams["main"].blocks[0], anatomy.taps[Site("z", layer=0)].path              # doctest: +SKIP
    ('model.layers.0', 'model.layers.0.self_attn.o_proj')

A name proposes, a law decides (:mod:`interp.models.anatomy.choose`), and a write proves (:mod:`interp.models.probe`). A role
that is not there leaves its sites out, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from interp import axes
from interp.errors import LoadError
from interp.models.anatomy import norms, roles
from interp.models.anatomy.choose import Block, Chooser, rounding
from interp.models.anatomy.record import Seen, Shapes, record, shapes
from interp.models.anatomy.stacks import Found, child, stacks
from interp.models.examples import batch_of
from interp.models.norms import is_norm
from interp.models.taps import IMAGE, Flat, Half, Layout, Named, Own, Pooled, Shared, Tap, Whole
from interp.sites import COMPONENTS, MAIN, Site

__all__ = ["Anatomy", "Repeated", "Stream"]


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

    @classmethod
    def of(cls, module: nn.Module, inputs: Mapping[str, Tensor] | None) -> Anatomy:
        """Find the roles of a model by one forward pass.

        Args:
            inputs: keyword arguments of its forward; None leaves all but the modules' paths unknown.
        """
        if inputs is None:
            return cls({MAIN: _bare(module, {}, {})}, {Site("logits"): Tap("", "output")})
        return _Dissection(module, inputs).anatomy()

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


def _bare(module: nn.Module, inputs: Mapping[str, Tensor], silent: Mapping[str, Stream]) -> Stream:
    """What is said of a model without a stack of blocks, or with stacks that do not show their streams."""
    reasons = [f"its block {stream.absent['resid_pre']}" for stream in silent.values()]
    what = reasons[0] if reasons else f"{type(module).__name__} has no list of blocks with attention in it"
    why = f"{what}; name its modules by path"
    absent = {name: why for name in COMPONENTS if name != "logits"}
    ids = inputs.get("input_ids")
    if ids is None or ids.ndim != 2:
        return Stream(MAIN, absent=absent)
    return Stream(MAIN, absent=absent, reads="input_ids", positions=ids.shape[1])


def _block(chooser: Chooser, path: str) -> Block:
    """A block with its parts and, where it has a stream and is no feature map, the scales of its norms."""
    block, enters = chooser.block(path), chooser.seen.input(path)
    if "resid_pre" in block.taps and enters is not None and enters.ndim != 4:
        norms.of_block(chooser, block)
    return block


class _Dissection:
    """One walk through a model."""

    def __init__(self, module: nn.Module, inputs: Mapping[str, Tensor]) -> None:
        self.module: Any = module
        self.inputs = inputs
        self.batch = batch_of(inputs)
        self.taps: dict[Site, Tap] = {}

    def anatomy(self) -> Anatomy:
        guesses = stacks(self.module)
        seen = self._seen(guesses)
        found = stacks(self.module, seen.order)
        chooser = Chooser(self.module, seen, self.batch, rounding(next(self.module.parameters()).dtype))
        streams = {stack.name: self._stream(stack, [_block(chooser, path) for path in stack.blocks]) for stack in found}
        silent = {name: stream for name, stream in streams.items() if Site("resid_pre", layer=0, stream=name) not in self.taps}
        self.taps = {site: tap for site, tap in self.taps.items() if site.stream not in silent}
        found = tuple(stack for stack in found if stack.name not in silent)
        streams = {name: stream for name, stream in streams.items() if name not in silent}
        streams = {name: self._entered(stream, seen) for name, stream in streams.items()}
        streams = {name: replace(stream, attends=self._attended(stream, streams, seen)) for name, stream in streams.items()}
        if not streams:
            streams = {MAIN: _bare(self.module, self.inputs, silent)}
        self._ends(streams, found, seen)
        copied = {(path, "output"): Tap(path, "output", copied=True) for path in seen.overwritten}
        tap = self.taps[Site("logits")]
        shape = seen.shapes.get((tap.path, "output"), (0,))
        outputs = 1 if isinstance(tap.layout, Own) else shape[1] if len(shape) == 4 else shape[-1]
        modules = {**self._plain(seen, streams.values()), **copied, **chooser.flat}
        return Anatomy(streams, self.taps, modules, outputs, seen.shapes, self.batch)

    def _plain(self, seen: Seen, streams: Iterable[Stream]) -> dict[tuple[str, str], Tap]:
        """Taps of modules that see one vector an example, an image, or the tokens of all examples in one axis."""
        layouts: dict[int, Layout] = {2: Pooled(), 4: IMAGE}
        around = [(f"{path}.", path, self.batch * (stream.positions or 0)) for stream in streams for path in stream.blocks]
        found = {}
        for (path, side), shape in seen.shapes.items():
            event: Any = side
            if path and len(shape) in layouts and shape[0] == self.batch:
                found[path, side] = Tap(path, event, layouts[len(shape)])
            elif len(shape) == 2:
                block = next((b for inside, b, tokens in around if path.startswith(inside) and shape[0] == tokens), None)
                if block is not None:
                    found[path, side] = Tap(path, event, Flat(), within=block)
        return found

    def _entered(self, stream: Stream, seen: Seen) -> Stream:
        """The stream with the number of its positions, and the argument of which each is a token."""
        first = seen.input(stream.blocks[0])
        if first is None or first.ndim != 3 or len(first) != self.batch:
            return stream
        shape = (self.batch, first.shape[1])
        order = ("decoder_input_ids", "input_ids") if stream.name == MAIN else ("input_ids", "decoder_input_ids")
        reads = next((name for name in order if name in self.inputs and self.inputs[name].shape == shape), None)
        return replace(stream, positions=first.shape[1], reads=reads)

    def _attended(self, stream: Stream, streams: Mapping[str, Stream], seen: Seen) -> str | None:
        """The stream with as many positions as cross-attention attends to."""
        taps = [self.taps.get(Site("cross_pattern", layer=layer, stream=stream.name)) for layer in stream.cross]
        counts = {seen.softmaxes[tap.path][0][1].shape[-1] for tap in taps if tap is not None}
        others = [name for name, other in streams.items() if name != stream.name and {other.positions} == counts]
        return others[0] if len(others) == 1 else None

    def _seen(self, found: Sequence[Found]) -> Seen:
        blocks = [path for stack in found for path in stack.blocks]
        inside = [f"{path}.{name}" for path in blocks for name, _ in self.module.get_submodule(path).named_modules() if name]
        attention = [
            f"{path}.{name}"
            for path in blocks
            for names in (roles.ATTENTION, roles.CROSS)
            if (name := child(self.module.get_submodule(path), names)) is not None
        ]
        outside = [
            name
            for name, part in self.module.named_modules()
            if isinstance(part, nn.Embedding)
            or is_norm(part)
            or name.rpartition(".")[2] in (*roles.EMBEDDING, *roles.POSITION_EMBEDDING)
        ]
        return record(self.module, [*blocks, *inside, *outside, ""], attention, lambda: self.module(**self.inputs))

    def _stream(self, stack: Found, blocks: Sequence[Block]) -> Stream:
        for layer, block in enumerate(blocks):
            self.taps |= {Site(name, layer=layer, stream=stack.name): tap for name, tap in block.taps.items()}
        reasons = {name: why for block in blocks for name, why in block.absent.items()}
        present = {name for block in blocks for name in block.taps}
        per_layer = [name for name, component in COMPONENTS.items() if component.per_layer]
        absent = {n: reasons.get(n, "no module of this model plays that role") for n in per_layer if n not in present}

        def by_layer(what: str) -> dict[int, Any]:
            return {i: getattr(block, what) for i, block in enumerate(blocks) if getattr(block, what) is not None}

        return Stream(
            stack.name,
            stack.blocks,
            tuple(block.sizes for block in blocks),
            absent,
            {
                Site(name, layer=i, stream=stack.name): why
                for i, block in enumerate(blocks)
                for name, why in block.absent.items()
                if name not in block.taps
            },
            by_layer("attention"),
            by_layer("mlp"),
            by_layer("w_o"),
            by_layer("w_out"),
            by_layer("order"),
            {
                Site(name, layer=i, stream=stack.name): path
                for i, block in enumerate(blocks)
                for name, path in block.norms.items()
            },
            frozenset(i for i, block in enumerate(blocks) if any(name.startswith("cross_") for name in block.taps)),
        )

    def _ends(self, streams: dict[str, Stream], found: Sequence[Found], seen: Seen) -> None:
        """What comes before the first block and after the last."""
        self.taps[Site("logits")] = self._output(seen)
        names = {id(part): name for name, part in self.module.named_modules()}
        try:
            embedding = self.module.get_input_embeddings()
        except (AttributeError, NotImplementedError):
            embedding = None
        for stack in found:
            first = seen.input(stack.blocks[0])
            where = stack.blocks[0]
            around = self._around(where, [block for other in found if other != stack for block in other.blocks])
            own = self._embedding(around) or (names.get(id(embedding)) if stack.name == MAIN else None)
            for name, path in (("embed", own), ("pos_embed", self._positions(around))):
                out = seen.output(path) if path is not None else None
                if out is not None and first is not None and out.shape[-1] == first.shape[-1]:
                    self.taps[Site(name, stream=stack.name)] = self._entry(path or "", out, first, seen)
                else:
                    why = {"embed": "no embedding of its own enters the stream", "pos_embed": "no position embedding is added"}
                    absent = {**streams[stack.name].absent, name: why[name] + (" to the stream" if name == "pos_embed" else "")}
                    streams[stack.name] = replace(streams[stack.name], absent=absent)
            final = norms.last(self.module, seen, stack.blocks, rounding(next(self.module.parameters()).dtype))
            if isinstance(final, Tap):
                self.taps[Site("ln_final_scale", stream=stack.name)] = final
            else:
                absent = {**streams[stack.name].absent, "ln_final_scale": final}
                streams[stack.name] = replace(streams[stack.name], absent=absent)

    def _output(self, seen: Seen) -> Tap:
        """What the model says in the end: its logits, or those of the part that has some, or whatever it gives."""
        path = "" if "" in seen.heads or not seen.heads else seen.heads[-1]
        shape = seen.shapes.get((path, "output"), ())
        if shape == (self.batch, self.batch) and self._compares(path):
            return Tap(path, "output", Own())
        layouts: dict[int, Layout] = {2: Pooled(), 4: IMAGE}
        return Tap(path, "output", layouts.get(len(shape), Whole()))

    def _compares(self, path: str) -> bool:
        """Whether a matrix compares every example with every other: it has fewer columns for fewer examples."""
        fewer = {name: tensor[: len(tensor) * 2 // self.batch] for name, tensor in self.inputs.items()}
        shape = shapes(self.module, lambda: self.module(**fewer))[0].get((path, "output"))
        return shape == (2, 2) and self.batch != 2

    def _entry(self, path: str, out: Tensor, stream: Tensor, seen: Seen) -> Tap:
        """An embedding: of every example's own tokens, of all of them in one axis, or one for all examples."""
        copied = path in seen.overwritten
        if out.ndim == 4:
            return Tap(path, "output", IMAGE, copied=copied)
        if out.ndim == 3 and len(out) == self.batch:
            return Tap(path, "output", copied=copied)
        layout: Layout = Flat() if out.numel() == stream.numel() else Shared()
        return Tap(path, "output", layout, copied=copied, within="")

    def _around(self, block: str, others: Sequence[str]) -> list[str]:
        """Modules that hold a stack, from the inside, and no other stack."""
        found, path = [], block
        while path:
            path = path.rpartition(".")[0]
            if any(not path or other.startswith(f"{path}.") for other in others):
                break
            found.append(path)
        return found

    def _embedding(self, around: Sequence[str]) -> str | None:
        """The embedding that is nearest to a stack."""
        for path in around:
            part = self.module.get_submodule(path)
            inside = {n for n, p in part.named_modules() if isinstance(p, (nn.ModuleList, nn.Sequential))}
            near = [
                n
                for n, p in part.named_modules()
                if (isinstance(p, nn.Embedding) or n.rpartition(".")[2] in roles.EMBEDDING)
                and n.rpartition(".")[2] not in (*roles.POSITION_EMBEDDING, *roles.OTHER_EMBEDDING)
                and not any(n.startswith(f"{container}.") for container in inside)
            ]
            tokens = [n for n in near if isinstance(part.get_submodule(n), nn.Embedding)]
            if near:
                nearest = (tokens or near)[0]
                return f"{path}.{nearest}" if path else nearest
        return None

    def _positions(self, around: Sequence[str]) -> str | None:
        for path in around:
            part = self.module.get_submodule(path)
            near = [n for n, p in part.named_modules() if n.rpartition(".")[2] in roles.POSITION_EMBEDDING]
            if near:
                return f"{path}.{near[0]}" if path else near[0]
        return None
