"""Which of the proposed tensors plays a role: the one of which the law of the role is true, in numbers of one forward pass.

    stream      resid_pre + attn_out = resid_mid,  resid_mid + mlp_out = resid_post      (a norm may follow either sum)
    parallel    resid_pre + attn_out + mlp_out = resid_post
    heads       pattern × v = z

Names propose (:mod:`interp.models.anatomy.roles`), laws decide. Where no candidate obeys, the site is absent and says by how
much the nearest one missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from einops import einsum, repeat
from torch import Tensor, nn

from interp.models.anatomy import roles
from interp.models.anatomy.record import Seen
from interp.models.anatomy.stacks import child, has
from interp.models.maps import is_map
from interp.models.norms import is_norm
from interp.models.taps import IMAGE, BesideSink, Call, Experts, Flat, Heads, Layout, MergedHeads, Results, Tap, Units, Whole

Order = str
"""How a block's parts follow each other: ``"sequential"``, ``"parallel"``, or ``"unknown"``."""


@dataclass
class Block:
    """What was found in one block."""

    path: str
    taps: dict[str, Tap] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    attention: str | None = None
    """The module whose output is what attention gives, before a norm that may follow it."""
    mlp: str | None = None
    w_o: str | None = None
    w_out: str | None = None
    order: Order = "unknown"
    within: str = ""
    """A module whose input has the examples in front: the block, or the model where the block's has not."""
    norms: dict[str, str] = field(default_factory=dict)
    """Path of the norm of the whole stream that follows the sum with ``"attn_out"``, ``"cross_out"`` or ``"mlp_out"``."""


def rounding(dtype: torch.dtype) -> float:
    """By how much a law may be missed in a dtype, relative to the largest number."""
    return 5e-2 if dtype in (torch.float16, torch.bfloat16) else 1e-4


class _Sum(NamedTuple):
    """A part of the stream that obeys the law, or how near the best candidate came."""

    deviation: float
    what: str = ""
    norm: str | None = None
    state: str | None = None


class Chooser:
    """Decides for the blocks of one model.

    Args:
        batch: number of examples of the recorded pass.
        tolerance: largest deviation from a law, relative to the largest number.
    """

    def __init__(self, module: nn.Module, seen: Seen, batch: int, tolerance: float) -> None:
        self.module, self.seen, self.batch, self.tolerance = module, seen, batch, tolerance
        self.flat: dict[tuple[str, str], Tap] = {}
        """Taps of modules that see the tokens of all examples in one axis."""
        self.states: list[tuple[str, Tensor]] = []
        """Of the block at hand, tensors that may be the stream inside it."""

    def block(self, path: str) -> Block:
        """Everything that can be proven of one block."""
        block = Block(path)
        pre, post = self.seen.input(path), self.seen.output(path)
        if pre is None or post is None:
            calls = len(self.seen.inputs[path])
            why = f"is called {calls} times in one pass" if calls > 1 else "is not called with a tensor, or gives none"
            block.absent = dict.fromkeys(("resid_pre", "resid_post"), f"{path} {why}")
            return block
        block.within = path if len(pre) == self.batch else ""
        block.taps |= {"resid_pre": self.tap(path, "input", block), "resid_post": self.tap(path, "output", block)}
        if pre.ndim == 4:  # a feature map: no parts are known of its blocks
            block.sizes |= _widths(pre.shape[1], post.shape[1])
            return block
        block.sizes |= _widths(pre.shape[-1], post.shape[-1])
        self._attention(block, roles.ATTENTION, "")
        self._attention(block, roles.CROSS, "cross_")
        self._mixer(block)
        self._mlp(block)
        self._stream(block, pre, post)
        return block

    # attention

    def _attention(self, block: Block, names: tuple[str, ...], prefix: str) -> None:
        part = self._part(block.path)
        name = child(part, names)
        if name is None:
            return
        path = f"{block.path}.{name}"
        pattern, layouts = self._pattern(path)
        if pattern is not None:
            block.taps |= {f"{prefix}{event}": Tap(path, event, layout) for event, layout in layouts.items()}
            block.sizes[f"{prefix}head"] = pattern.shape[1]
        else:
            why = self._no_pattern(path)
            block.absent |= {f"{prefix}scores": why, f"{prefix}pattern": why}
        heads = pattern.shape[1] if pattern is not None else _number_of_heads(self._part(path))
        w_o = self._beside(path, roles.W_O)
        if not prefix:
            block.attention, block.w_o = path if w_o is None or w_o.startswith(f"{path}.") else w_o, w_o
        z = self.seen.input(w_o) if w_o is not None else None
        if heads is None or w_o is None or z is None or z.shape[-1] % heads:
            lacks = (
                "says how many heads it has" if heads is None else f"is called {', '.join(roles.W_O[:-1])} and reads the heads"
            )
            block.absent |= dict.fromkeys((f"{prefix}z", f"{prefix}result"), f"no module of {path} {lacks}")
            return
        if z.ndim == 3 and len(z) != self.batch:
            why = f"{path} runs over {z.shape[0]} windows of {self.batch} examples"
            block.absent |= {f"{prefix}{c}": why for c in ("q", "k", "v", "z", "result", "attn_out" if not prefix else "out")}
            return
        block.sizes |= {f"{prefix}head": heads, f"{prefix}d_head": z.shape[-1] // heads}
        block.taps[f"{prefix}z"] = self.tap(w_o, "input", block, Heads(heads))
        if is_map(self._part(w_o)) and not is_norm(self._part(w_o)):
            block.taps[f"{prefix}result"] = self.tap(w_o, "output", block, Results(heads))
        else:
            block.absent[f"{prefix}result"] = f"{w_o} is not a linear map"
        self._queries(block, path, prefix, heads, z, pattern)
        if not prefix and pattern is not None and pattern.shape[-1] != pattern.shape[-2]:
            why = f"{path} attends to {pattern.shape[-1]} places of its own making, not to the stream's {pattern.shape[-2]}"
            for name in ("scores", "pattern", "k", "v"):
                block.taps.pop(name, None)
                block.absent[name] = why

    def _queries(self, block: Block, path: str, prefix: str, heads: int, z: Tensor, pattern: Tensor | None) -> None:
        """Queries, keys and values: the division of the projections by which ``pattern × v = z``."""
        nearest = float("inf")
        ways = list(self._projections(path, heads, z.shape[-1] // heads))
        for proposed in ways:
            taps = {name: self.tap(tap.path, "output", block, tap.layout) for name, tap in proposed.items()}
            values = self._read(taps["v"])
            if values is None:
                continue
            if pattern is None and len(ways) > 1:
                why = f"how queries, keys and values lie in {taps['v'].path} cannot be told without its pattern"
                block.absent |= {f"{prefix}{name}": why for name in "qkv"}
                return
            deviation = _mixing(pattern, values, z) if pattern is not None else 0.0
            if deviation <= self.tolerance:
                block.taps |= {f"{prefix}{name}": tap for name, tap in taps.items()}
                block.sizes[f"{prefix}kv_head"] = values.shape[-2]
                for name in "qk":
                    read = self._read(taps[name])
                    if not prefix and read is not None and read.shape[-1] != values.shape[-1]:
                        block.sizes[f"{name}_d_head"] = read.shape[-1]
                for name in ("latent", "k_rotary"):
                    if name in taps:
                        layout = proposed[name].layout
                        assert isinstance(layout, Units)
                        block.sizes[name] = layout.stop - layout.start
                return
            nearest = min(nearest, deviation)
        names = ", ".join((*roles.QUERY[:1], *roles.KEY[:1], *roles.VALUE[:1], *roles.FUSED))
        why = (
            f"{path} has no projection called {names}" if nearest == float("inf") else _missed("pattern × v = z", nearest, path)
        )
        block.absent |= {f"{prefix}{name}": why for name in "qkv"}

    def _projections(self, path: str, heads: int, width: int) -> Iterator[dict[str, Tap]]:
        """Ways in which queries, keys and values may lie in the projections; values have ``width`` numbers a head."""
        part = self._part(path)
        query, key, value = (child(part, names) for names in (roles.QUERY, roles.KEY, roles.VALUE))
        fused, unfolded = child(part, roles.FUSED), child(part, roles.FUSED_KEY_VALUE)
        if query and key and value:
            groups = self._width(f"{path}.{value}") // width
            yield {
                "q": Tap(f"{path}.{query}", "output", Heads(heads)),
                "k": Tap(f"{path}.{key}", "output", Heads(groups)),
                "v": Tap(f"{path}.{value}", "output", Heads(groups)),
            }
        if query and unfolded:
            own = self._width(f"{path}.{unfolded}") // heads
            found = {
                "q": Tap(f"{path}.{query}", "output", Heads(heads)),
                "k": Tap(f"{path}.{unfolded}", "output", Heads(heads, heads, 0, own - width)),
                "v": Tap(f"{path}.{unfolded}", "output", Heads(heads, heads, own - width, own)),
            }
            latent = child(part, roles.LATENT)
            into = self.seen.input(f"{path}.{unfolded}")
            if latent is not None and into is not None:
                rank, width_of_both = into.shape[-1], self._width(f"{path}.{latent}")
                found["latent"] = Tap(f"{path}.{latent}", "output", Units(0, rank))
                found["k_rotary"] = Tap(f"{path}.{latent}", "output", Units(rank, width_of_both))
            yield found
        if fused:
            kv = (self._width(f"{path}.{fused}") // width - heads) // 2
            for groups in dict.fromkeys((1, kv)):  # all queries first, or group by group
                if kv < 1 or heads % kv:
                    continue
                q, k = heads // groups * width, kv // groups * width
                ends = {"q": (heads, 0, q), "k": (kv, q, q + k), "v": (kv, q + k, q + 2 * k)}
                yield {
                    name: Tap(f"{path}.{fused}", "output", Heads(n, groups, start, stop))
                    for name, (n, start, stop) in ends.items()
                }

    def _pattern(self, path: str) -> tuple[Tensor | None, dict[Literal["scores", "pattern"], Layout]]:
        """The pattern of an attention module by example and head, and how it and scores lie where they are seen."""
        softmax = self.seen.softmax(path)
        seen = softmax[1] if softmax is not None else None
        if seen is not None and seen.ndim == 4 and len(seen) == self.batch:
            sink = self._sink(path, seen)
            if sink is not None:
                return BesideSink().read(seen, None), {"scores": BesideSink(sink), "pattern": BesideSink()}
            return seen, {"scores": Whole(), "pattern": Whole()}
        if seen is not None and seen.ndim == 3 and len(seen) % self.batch == 0:
            merged = MergedHeads(len(seen) // self.batch)
            return merged.read(seen, None), {"scores": merged, "pattern": merged}
        return None, {}

    def _sink(self, path: str, pattern: Tensor) -> str | None:
        """The parameter that stands in one more column than there are positions: a number for every head."""
        own = self._part(path)._parameters.items()
        sinks = [name for name, numbers in own if numbers is not None and numbers.shape == pattern.shape[1:2]]
        return sinks[0] if len(sinks) == 1 and pattern.shape[-1] == pattern.shape[-2] + 1 else None

    def _no_pattern(self, path: str) -> str:
        calls = self.seen.softmaxes[path]
        if not calls:
            return f"{path} calls no softmax of its own: its attention is fused or has none"
        if len(calls) > 1:
            return f"{path} calls {len(calls)} softmaxes"
        return f"the softmax of {path} is over {tuple(calls[0][1].shape)}, not (example, head, position, source_position)"

    # mixer and MLP

    def _mixer(self, block: Block) -> None:
        name = child(self._part(block.path), roles.MIXER)
        if name is None:
            return
        path = f"{block.path}.{name}"
        block.attention = block.attention or path
        out = self._beside(path, roles.W_O)
        if out is not None:
            block.taps["mixer_post"] = self.tap(out, "input", block)
            block.sizes["mixer_unit"] = self._width(out, "input")

    def _mlp(self, block: Block) -> None:
        part = self._part(block.path)
        name = child(part, roles.MLP)
        path = block.path if name is None else f"{block.path}.{name}"
        inner = self._part(path)
        out = child(inner, roles.W_OUT)
        if name is None and out is None:
            why = f"{block.path} has no MLP"
            block.absent |= dict.fromkeys(("mlp_out", "mlp_pre", "mlp_up", "mlp_post"), why)
            return
        block.mlp = path if name is not None else f"{path}.{out}"
        if out is None:
            experts = child(inner, roles.EXPERTS)
            why = f"{path} is a mixture of experts" if experts else f"no module of {path} is called {', '.join(roles.W_OUT)}"
            block.absent |= dict.fromkeys(("mlp_pre", "mlp_up", "mlp_post"), why)
            if experts is not None:
                self._experts(block, f"{path}.{experts}")
            return
        block.w_out = f"{path}.{out}"
        units = self._width(block.w_out, "input")
        block.taps["mlp_post"], block.sizes["unit"] = self.tap(block.w_out, "input", block), units
        gate, up, both, into = (child(inner, names) for names in (roles.GATE, roles.UP, roles.GATE_AND_UP, roles.W_IN))
        if gate and up:
            block.taps |= {
                "mlp_pre": self.tap(f"{path}.{gate}", "output", block),
                "mlp_up": self.tap(f"{path}.{up}", "output", block),
            }
        elif both and self._width(f"{path}.{both}") == 2 * units:
            # Which half is the gate is decided where it can be written (interp.models.probe).
            block.taps |= {
                "mlp_pre": self.tap(f"{path}.{both}", "output", block, Units(0, units)),
                "mlp_up": self.tap(f"{path}.{both}", "output", block, Units(units, 2 * units)),
            }
        elif into or both:
            block.taps["mlp_pre"] = self.tap(f"{path}.{into or both}", "output", block)
            block.absent["mlp_up"] = "its MLPs are not gated"
        else:
            block.absent |= dict.fromkeys(("mlp_pre", "mlp_up"), f"no module of {path} is called {', '.join(roles.W_IN)}")

    def _experts(self, block: Block, path: str) -> None:
        """A mixture of experts whose weights are tensors with the experts in front, called with tokens and their routing."""
        numbers = {len(parameter) for parameter in self._part(path).parameters() if parameter.ndim == 3}
        shapes = self.seen.tensors.get(path, ())
        if len(numbers) != 1 or len(shapes) < 3 or shapes[1] != shapes[2]:
            why = f"{path} is not called with tokens, experts and weights"
            block.absent |= dict.fromkeys(("routing", "expert_out"), why)
            return
        block.sizes["expert"] = n = numbers.pop()
        block.taps["expert_out"] = self.tap(path, "output", block, Experts(n))
        block.taps["routing"] = Tap(path, "routing", Flat(Units(0, n)), within=block.within)

    # the stream

    def _stream(self, block: Block, pre: Tensor, post: Tensor) -> None:
        """What is added to the stream, and the stream in between: the sums that come out right."""
        mixed = (
            child(self._part(block.path), roles.ATTENTION) is None and child(self._part(block.path), roles.MIXER) is not None
        )
        parts = [
            ("mixer_out" if mixed else "attn_out", list(self._given(block, block.attention, block.w_o, roles.AFTER_ATTENTION))),
            ("cross_out", list(self._given(block, *self._cross(block), ()))),
            ("mlp_out", list(self._given(block, block.mlp, block.w_out, roles.AFTER_MLP))),
        ]
        there = [(name, candidates) for name, candidates in parts if candidates]
        if not there:
            return
        self.states = [*self._states(block)]
        chain, missed = self._chain(block, pre, post, [candidates for _, candidates in there])
        if len(chain) < len(there):
            if len(there) == 2 and self._parallel(block, pre, post, [c for _, c in there]):
                return
            name = there[len(chain)][0]
            block.absent[name] = _missed("the stream before + it = the stream after", missed, block.path)
        names = [name for name, _ in there]
        self._keep(block, [*zip(names, chain, strict=False)], complete=len(chain) == len(there), following=names[1:])

    def _chain(self, block: Block, stream: Tensor, post: Tensor, candidates: list[list[str]]) -> tuple[list[_Sum], float]:
        """The longest row of sums from a stream to what leaves the block, and by how much the next one missed."""
        ends = [(None, post)] if len(candidates) == 1 else self.states
        longest: list[_Sum] = []
        nearest = float("inf")
        for option in self._sums(block, stream, candidates[0], ends):
            if option.deviation > self.tolerance:
                nearest = min(nearest, option.deviation)
                continue
            if len(candidates) == 1:
                return [option], 0.0
            assert option.state is not None
            following = self._as_stream(self.seen.inputs[option.state][0], stream)
            assert following is not None
            rest, missed = self._chain(block, following, post, candidates[1:])
            if len(rest) == len(candidates) - 1:
                return [option, *rest], 0.0
            if 1 + len(rest) > len(longest):
                longest, nearest = [option, *rest], missed
        return longest, nearest

    def _keep(self, block: Block, found: list[tuple[str, _Sum]], *, complete: bool, following: list[str]) -> None:
        for (name, best), after in zip(found, [*following, None], strict=False):
            block.taps[name] = self._given_at(block, best.what)
            if best.norm is not None:
                block.norms[name] = best.norm
            if best.state is not None:
                state = "resid_mid" if after == "mlp_out" else "resid_cross"
                block.taps[state] = replace(self.tap(best.state, "input", block), in_place=True)
        if complete:
            block.order = "sequential"

    def _parallel(self, block: Block, pre: Tensor, post: Tensor, candidates: list[list[str]]) -> bool:
        for attention in candidates[0]:
            for mlp in candidates[1]:
                one, other = (self._as_stream(self.seen.output(path), pre) for path in (attention, mlp))
                if one is not None and other is not None and _deviation(pre + one + other, post) <= self.tolerance:
                    block.taps |= {"attn_out": self._given_at(block, attention), "mlp_out": self._given_at(block, mlp)}
                    block.absent["resid_mid"] = f"attention and MLP of {block.path} both read the block's input"
                    block.order = "parallel"
                    return True
        return False

    def _sums(
        self, block: Block, stream: Tensor, candidates: list[str], ends: Sequence[tuple[str | None, Tensor]]
    ) -> Iterator[_Sum]:
        """How far each candidate, added to the stream, perhaps by way of a norm, is from each of ``ends``."""
        norms: list[str | None] = [None, *self._norms(block)]
        for norm in norms:
            for what in candidates:
                given = self._as_stream(self.seen.output(what), stream)
                if given is None:
                    continue
                total = stream + given
                if norm is not None:
                    with torch.no_grad():
                        total = self._part(norm)(total)
                for state, end in ends:
                    same = self._as_stream(end, total)
                    if same is not None:
                        yield _Sum(_deviation(total, same), what, norm, state)

    def _given(self, block: Block, part: str | None, linear: str | None, after: tuple[str, ...]) -> Iterator[str]:
        """Modules whose output may be what a part adds: a norm behind it, the part, what holds it, its last map."""
        if part is None:
            return
        yield from (f"{block.path}.{name}" for name in after if has(self._part(block.path), name))
        while part != block.path:
            yield part
            part = part.rpartition(".")[0]
        if linear is not None:
            yield linear

    def _cross(self, block: Block) -> tuple[str | None, str | None]:
        name = child(self._part(block.path), roles.CROSS)
        path = f"{block.path}.{name}" if name is not None else None
        return (None, None) if path is None or not self.seen.inputs[path] else (path, self._beside(path, roles.W_O))

    def _states(self, block: Block) -> Iterator[tuple[str, Tensor]]:
        """Tensors that may be the stream inside a block: what norms, MLPs and whole parts take behind its first part."""
        called = {path: i for i, path in enumerate(self.seen.order)}
        begun = called.get(block.attention or "", -1)
        for name, part in self._part(block.path).named_modules():
            path = f"{block.path}.{name}"
            seen = self.seen.input(path) if name and called.get(path, -1) > begun else None
            if seen is not None and (is_norm(part) or part._modules or name in (*roles.W_IN, *roles.GATE_AND_UP)):
                yield path, seen

    def _norms(self, block: Block) -> Iterator[str]:
        for name, part in self._part(block.path).named_modules():
            path = f"{block.path}.{name}"
            if name and is_norm(part) and path in self.seen.alone:
                yield path

    # helpers

    def _part(self, path: str) -> nn.Module:
        return self.module.get_submodule(path)

    def _beside(self, path: str, names: Iterable[str]) -> str | None:
        """The first of some modules in a module, or beside it where the name says so."""
        for name in names:
            base = path.rpartition(".")[0] if name.startswith("../") else path
            if has(self._part(base), name.removeprefix("../")):
                return f"{base}.{name.removeprefix('../')}"
        return None

    def _as_stream(self, tensor: Tensor | None, like: Tensor) -> Tensor | None:
        """A tensor in the shape of the stream, if it is the stream's size: some models put all tokens into one axis."""
        if tensor is None or tensor.shape[-1] != like.shape[-1] or tensor.numel() != like.numel():
            return None
        return tensor.reshape(like.shape)

    def _given_at(self, block: Block, path: str) -> Tap:
        """What a module gives, as it was before somebody wrote into it."""
        return replace(self.tap(path, "output", block), copied=path in self.seen.overwritten)

    def tap(self, path: str, event: Any, block: Block, layout: Layout | None = None) -> Tap:
        """A tensor that a module takes or gives, with the examples in front."""
        seen = self.seen.input(path) if event == "input" else self.seen.output(path)
        layout = Whole() if layout is None else layout
        if seen is None or seen.ndim == 3:
            return Tap(path, event, layout)
        if seen.ndim == 4 and seen.shape[1] != 1:
            return Tap(path, event, IMAGE)
        tap = Tap(path, event, Flat(layout), within=block.within)
        self.flat[path, event] = replace(tap, layout=Flat())
        return tap

    def _width(self, path: str, side: str = "output") -> int:
        seen = self.seen.output(path) if side == "output" else self.seen.input(path)
        return seen.shape[-1] if seen is not None else 0

    def _read(self, tap: Tap) -> Tensor | None:
        seen = self.seen.output(tap.path)
        call = Call(self._part(tap.path), (), {}, self.batch)
        return tap.layout.read(seen, call) if seen is not None else None


def _deviation(got: Tensor, expected: Tensor) -> float:
    """Largest deviation, relative to the largest number of the two; none on the meta device, where only shapes are known."""
    if got.is_meta:
        return 0.0
    got, expected = got.float(), expected.float()
    scale = max(1e-6, float(expected.abs().max()), float(got.abs().max()))
    return float((got - expected).abs().max()) / scale


def _widths(before: int, after: int) -> dict[str, int]:
    return {"d_model": after} | ({"d_model_before": before} if before != after else {})


def _mixing(pattern: Tensor, values: Tensor, z: Tensor) -> float:
    """By how much ``pattern × v`` misses ``z``, values shared by groups of heads."""
    heads, groups = pattern.shape[1], values.shape[-2]
    if heads % groups or values.shape[1] != pattern.shape[-1]:
        return float("inf")
    shared = repeat(values, "e k kv d -> e k (kv group) d", group=heads // groups)
    mixed = einsum(pattern.to(values), shared, "e head q k, e k head d -> e q head d").flatten(-2)
    return _deviation(mixed, z) if mixed.shape == z.shape else float("inf")


_HEADS = ("num_heads", "n_heads", "num_attention_heads", "n_head", "heads")


def _number_of_heads(attention: nn.Module) -> int | None:
    """What an attention module says of itself, or its configuration does."""
    for owner in (attention, getattr(attention, "config", None)):
        for name in _HEADS:
            value = getattr(owner, name, None)
            if isinstance(value, int):
                return value
    return None


def _missed(law: str, deviation: float, path: str) -> str:
    return f"of no module of {path} is it true that {law}; the nearest is off by {deviation:.1e} of the largest number"
