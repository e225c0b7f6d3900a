"""One walk through a model: a forward pass is recorded, its stacks of blocks are found, and what plays which role is decided.

    >>> dissect(module, example(module)).main.sizes                                          # doctest: +SKIP
    {'layer': 3, 'd_model': 32, 'head': 4, 'd_head': 8, 'kv_head': 2, 'unit': 56}

Stacks that do not show their stream are left out, and a model of which none is left has its modules' paths alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from interp.models.anatomy import choose, ends, roles
from interp.models.anatomy.description import Anatomy, Stream
from interp.models.anatomy.evidence import Block, Evidence
from interp.models.anatomy.record import Seen, record
from interp.models.anatomy.stacks import Found, child, stacks
from interp.models.deviation import rounding
from interp.models.examples import batch_of
from interp.models.layouts import IMAGE, Flat, Layout, Own, Pooled
from interp.models.norms import is_norm
from interp.models.taps import Tap
from interp.sites import COMPONENTS, MAIN, Site


def dissect(module: nn.Module, inputs: Mapping[str, Tensor] | None) -> Anatomy:
    """Find the roles of a model by one forward pass.

    Args:
        inputs: keyword arguments of its forward; None leaves all but the modules' paths unknown.
    """
    if inputs is None:
        return Anatomy({MAIN: _bare(module, {}, {})}, {Site("logits"): Tap("", "output")})
    return _Dissection(module, inputs).anatomy()


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


class _Dissection:
    """One walk through a model."""

    def __init__(self, module: nn.Module, inputs: Mapping[str, Tensor]) -> None:
        self.module, self.inputs, self.batch = module, inputs, batch_of(inputs)
        self.taps: dict[Site, Tap] = {}

    def anatomy(self) -> Anatomy:
        seen = self._seen()
        evidence = Evidence(self.module, seen, self.batch, rounding(next(self.module.parameters()).dtype))
        found = stacks(self.module, seen.order)
        streams = {stack.name: self._stream(stack, [choose.block(evidence, path) for path in stack.blocks]) for stack in found}
        silent = {name: stream for name, stream in streams.items() if Site("resid_pre", layer=0, stream=name) not in self.taps}
        self.taps = {site: tap for site, tap in self.taps.items() if site.stream not in silent}
        self.taps[Site("logits")] = output = ends.output(evidence, self.inputs)
        found = tuple(stack for stack in found if stack.name not in silent)
        streams = {stack.name: self._entered(streams[stack.name], seen) for stack in found}
        streams = {name: replace(stream, attends=self._attended(stream, streams, seen)) for name, stream in streams.items()}
        streams = {stack.name: self._ended(streams[stack.name], stack, found, evidence) for stack in found}
        if not streams:
            streams = {MAIN: _bare(self.module, self.inputs, silent)}
        copied = {(path, "output"): Tap(path, "output", copied=True) for path in seen.overwritten}
        shape = seen.shapes.get((output.path, "output"), (0,))
        outputs = 1 if isinstance(output.layout, Own) else shape[1] if len(shape) == 4 else shape[-1]
        modules = {**self._plain(seen, streams.values()), **copied, **evidence.flat}
        return Anatomy(streams, self.taps, modules, outputs, seen.shapes, self.batch)

    def _seen(self) -> Seen:
        blocks = [path for stack in stacks(self.module) for path in stack.blocks]
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

    def _ended(self, stream: Stream, stack: Found, found: Sequence[Found], evidence: Evidence) -> Stream:
        """The stream with the reasons why something before its first block or after its last is not there."""
        outside = ends.of_stream(evidence, stack, [other for other in found if other != stack])
        self.taps |= {Site(name, stream=stack.name): tap for name, tap in outside.taps.items()}
        return replace(stream, absent={**stream.absent, **outside.absent})

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
