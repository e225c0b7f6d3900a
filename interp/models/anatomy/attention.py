"""Attention in a block: its heads, where queries, keys and values lie, its pattern, and what reads z.

    heads       pattern × v = z

Several ways to divide a projection into heads are proposed; the one by which this is true is taken. Where attention calls no
softmax of its own there is no pattern to tell them apart, and a projection that could lie in two ways is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from einops import einsum, repeat
from torch import Tensor, nn

from interp.models.anatomy import roles
from interp.models.anatomy.evidence import Block, Evidence, missed
from interp.models.anatomy.stacks import child
from interp.models.deviation import deviation
from interp.models.layouts import BesideSink, Heads, Layout, MergedHeads, Results, Units, Whole
from interp.models.maps import is_map
from interp.models.norms import is_norm
from interp.models.taps import Tap


def of_block(evidence: Evidence, block: Block, names: tuple[str, ...], prefix: str) -> None:
    """Note what can be proven of the attention module that has one of some names; ``prefix`` is that of its components."""
    name = child(evidence.part(block.path), names)
    if name is not None:
        _Attention(evidence, block, f"{block.path}.{name}", prefix).decide()


class _Attention:
    """One attention module."""

    def __init__(self, evidence: Evidence, block: Block, path: str, prefix: str) -> None:
        self.evidence, self.block, self.path, self.prefix = evidence, block, path, prefix
        self.seen, self.part = evidence.seen, evidence.part(path)

    def decide(self) -> None:
        block, path, prefix = self.block, self.path, self.prefix
        pattern = self._pattern()
        heads = pattern.shape[1] if pattern is not None else _number_of_heads(self.part)
        w_o = self.evidence.beside(path, roles.W_O)
        if not prefix:
            block.attention, block.w_o = path if w_o is None or w_o.startswith(f"{path}.") else w_o, w_o
        z = self.seen.input(w_o) if w_o is not None else None
        if heads is None or w_o is None or z is None or z.shape[-1] % heads:
            lacks = (
                "says how many heads it has" if heads is None else f"is called {', '.join(roles.W_O[:-1])} and reads the heads"
            )
            self._lacks(("z", "result"), f"no module of {path} {lacks}")
            return
        if z.ndim == 3 and len(z) != self.evidence.batch:
            why = f"{path} runs over {z.shape[0]} windows of {self.evidence.batch} examples"
            self._lacks(("q", "k", "v", "z", "result", "out" if prefix else "attn_out"), why)
            return
        block.sizes |= {f"{prefix}head": heads, f"{prefix}d_head": z.shape[-1] // heads}
        block.taps[f"{prefix}z"] = self.evidence.tap(w_o, "input", block, Heads(heads))
        w_o_part = self.evidence.part(w_o)
        if is_map(w_o_part) and not is_norm(w_o_part):
            block.taps[f"{prefix}result"] = self.evidence.tap(w_o, "output", block, Results(heads))
        else:
            self._lacks(("result",), f"{w_o} is not a linear map")
        self._queries(heads, z, pattern)
        if not prefix and pattern is not None and pattern.shape[-1] != pattern.shape[-2]:
            why = f"{path} attends to {pattern.shape[-1]} places of its own making, not to the stream's {pattern.shape[-2]}"
            for name in ("scores", "pattern", "k", "v"):
                block.taps.pop(name, None)
                block.absent[name] = why

    def _lacks(self, names: Iterable[str], why: str) -> None:
        self.block.absent |= {f"{self.prefix}{name}": why for name in names}

    # the pattern

    def _pattern(self) -> Tensor | None:
        """The pattern by example and head; where it and the scores are seen is noted, or why they are not."""
        pattern, layouts = self._softmax()
        if pattern is None:
            self._lacks(("scores", "pattern"), self._no_pattern())
            return None
        self.block.taps |= {f"{self.prefix}{event}": Tap(self.path, event, layout) for event, layout in layouts.items()}
        self.block.sizes[f"{self.prefix}head"] = pattern.shape[1]
        return pattern

    def _softmax(self) -> tuple[Tensor | None, dict[Literal["scores", "pattern"], Layout]]:
        """The pattern, if there is one softmax, and how it and the scores lie where they are seen."""
        softmax = self.seen.softmax(self.path)
        seen = softmax[1] if softmax is not None else None
        if seen is not None and seen.ndim == 4 and len(seen) == self.evidence.batch:
            sink = self._sink(seen)
            if sink is not None:
                return BesideSink().read(seen, None), {"scores": BesideSink(sink), "pattern": BesideSink()}
            return seen, {"scores": Whole(), "pattern": Whole()}
        if seen is not None and seen.ndim == 3 and len(seen) % self.evidence.batch == 0:
            merged = MergedHeads(len(seen) // self.evidence.batch)
            return merged.read(seen, None), {"scores": merged, "pattern": merged}
        return None, {}

    def _sink(self, pattern: Tensor) -> str | None:
        """The parameter that stands in one more column than there are positions: a number for every head."""
        own = self.part._parameters.items()
        sinks = [name for name, numbers in own if numbers is not None and numbers.shape == pattern.shape[1:2]]
        return sinks[0] if len(sinks) == 1 and pattern.shape[-1] == pattern.shape[-2] + 1 else None

    def _no_pattern(self) -> str:
        calls = self.seen.softmaxes[self.path]
        if not calls:
            return f"{self.path} calls no softmax of its own: its attention is fused or has none"
        if len(calls) > 1:
            return f"{self.path} calls {len(calls)} softmaxes"
        return f"the softmax of {self.path} is over {tuple(calls[0][1].shape)}, not (example, head, position, source_position)"

    # queries, keys and values

    def _queries(self, heads: int, z: Tensor, pattern: Tensor | None) -> None:
        """Queries, keys and values: the division of the projections by which ``pattern × v = z``."""
        block, path, prefix = self.block, self.path, self.prefix
        nearest = float("inf")
        ways = list(self._projections(heads, z.shape[-1] // heads))
        for proposed in ways:
            taps = {name: self.evidence.tap(tap.path, "output", block, tap.layout) for name, tap in proposed.items()}
            values = self.evidence.read(taps["v"])
            if values is None:
                continue
            if pattern is None and len(ways) > 1:
                why = f"how queries, keys and values lie in {taps['v'].path} cannot be told without its pattern"
                self._lacks("qkv", why)
                return
            miss = _mixing(pattern, values, z) if pattern is not None else 0.0
            if miss <= self.evidence.tolerance:
                block.taps |= {f"{prefix}{name}": tap for name, tap in taps.items()}
                block.sizes[f"{prefix}kv_head"] = values.shape[-2]
                for name in "qk":
                    read = self.evidence.read(taps[name])
                    if not prefix and read is not None and read.shape[-1] != values.shape[-1]:
                        block.sizes[f"{name}_d_head"] = read.shape[-1]
                for name in ("latent", "k_rotary"):
                    if name in taps:
                        layout = proposed[name].layout
                        assert isinstance(layout, Units)
                        block.sizes[name] = layout.stop - layout.start
                return
            nearest = min(nearest, miss)
        names = ", ".join((*roles.QUERY[:1], *roles.KEY[:1], *roles.VALUE[:1], *roles.FUSED))
        why = (
            f"{path} has no projection called {names}" if nearest == float("inf") else missed("pattern × v = z", nearest, path)
        )
        self._lacks("qkv", why)

    def _projections(self, heads: int, width: int) -> Iterator[dict[str, Tap]]:
        """Ways in which queries, keys and values may lie in the projections; values have ``width`` numbers a head."""
        part, path, width_of = self.part, self.path, self.evidence.width
        query, key, value = (child(part, names) for names in (roles.QUERY, roles.KEY, roles.VALUE))
        fused, unfolded = child(part, roles.FUSED), child(part, roles.FUSED_KEY_VALUE)
        if query and key and value:
            groups = width_of(f"{path}.{value}") // width
            yield {
                "q": Tap(f"{path}.{query}", "output", Heads(heads)),
                "k": Tap(f"{path}.{key}", "output", Heads(groups)),
                "v": Tap(f"{path}.{value}", "output", Heads(groups)),
            }
        if query and unfolded:
            own = width_of(f"{path}.{unfolded}") // heads
            found = {
                "q": Tap(f"{path}.{query}", "output", Heads(heads)),
                "k": Tap(f"{path}.{unfolded}", "output", Heads(heads, heads, 0, own - width)),
                "v": Tap(f"{path}.{unfolded}", "output", Heads(heads, heads, own - width, own)),
            }
            latent = child(part, roles.LATENT)
            into = self.seen.input(f"{path}.{unfolded}")
            if latent is not None and into is not None:
                rank, width_of_both = into.shape[-1], width_of(f"{path}.{latent}")
                found["latent"] = Tap(f"{path}.{latent}", "output", Units(0, rank))
                found["k_rotary"] = Tap(f"{path}.{latent}", "output", Units(rank, width_of_both))
            yield found
        if fused:
            kv = (width_of(f"{path}.{fused}") // width - heads) // 2
            for groups in dict.fromkeys((1, kv)):  # all queries first, or group by group
                if kv < 1 or heads % kv:
                    continue
                q, k = heads // groups * width, kv // groups * width
                ends = {"q": (heads, 0, q), "k": (kv, q, q + k), "v": (kv, q + k, q + 2 * k)}
                yield {
                    name: Tap(f"{path}.{fused}", "output", Heads(n, groups, start, stop))
                    for name, (n, start, stop) in ends.items()
                }


def _mixing(pattern: Tensor, values: Tensor, z: Tensor) -> float:
    """By how much ``pattern × v`` misses ``z``, values shared by groups of heads."""
    heads, groups = pattern.shape[1], values.shape[-2]
    if heads % groups or values.shape[1] != pattern.shape[-1]:
        return float("inf")
    shared = repeat(values, "e k kv d -> e k (kv group) d", group=heads // groups)
    mixed = einsum(pattern.to(values), shared, "e head q k, e k head d -> e q head d").flatten(-2)
    return deviation(mixed, z) if mixed.shape == z.shape else float("inf")


_HEADS = ("num_heads", "n_heads", "num_attention_heads", "n_head", "heads")


def _number_of_heads(attention: nn.Module) -> int | None:
    """What an attention module says of itself, or its configuration does."""
    for owner in (attention, getattr(attention, "config", None)):
        for name in _HEADS:
            value = getattr(owner, name, None)
            if isinstance(value, int):
                return value
    return None
