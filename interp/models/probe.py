"""A model proves its sites when it is loaded: short forward passes on random inputs, each site held to what its name says.

    >>> probe(model)                                                                     # doctest: +SKIP
    Probe(causal=True, checked=36, worst=2.4e-07)

Read: every site fires once and has its declared shape; the stream adds up (``resid_pre + attn_out = resid_mid``, ``resid_mid +
mlp_out = resid_post``, in parallel blocks all at once, block after block; a norm may follow a sum); heads add up to what W_O
gives, less its bias; pattern rows are probabilities, and pattern × v is z. Written are another run's values, at the last layer
of every kind that a stream has: the stream at each of its joints must give the other run's end of the stream, q, k and v, or
pattern and v, the other run's z; a head's query moves its own row of its own scores alone, a key its column in the heads that
share it.

The runs of one stream differ in the one argument that enters it, so that what other streams give is the same in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import einsum, repeat
from torch import Tensor

from interp.errors import ProbeError
from interp.models.deviation import rounding
from interp.models.examples import BATCH, last_token
from interp.models.model import Model, Probe
from interp.models.norms import Norm
from interp.models.taps import BesideSink, Write
from interp.sites import COMPONENTS, MAIN, Site


@dataclass(frozen=True)
class Outcome:
    """Whether a law holds."""

    law: str
    """Which kind: ``"shape"``, ``"stream"``, ``"heads"``, ``"pattern"``, ``"write"``."""
    what: str
    """The law with its sites, as an equation."""
    sites: tuple[Site, ...]
    """The sites that do not deserve their names if it does not hold."""
    deviation: float
    """Relative to the largest number."""
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.deviation <= self.tolerance


def probe(model: Model) -> Probe:
    """Hold every site to its laws.

    Raises:
        ProbeError: a site is not what its name says, naming site, identity and deviation.
    """
    return _held(model, list(outcomes(model)))


def _held(model: Model, found: Sequence[Outcome]) -> Probe:
    for outcome in found:
        if not outcome.holds and outcome.law != "trunk":
            raise ProbeError(
                f"{model.name}: {outcome.what} does not hold: relative deviation {outcome.deviation:.1e} (allowed "
                f"{outcome.tolerance:.0e}). A module does not play the role that its name suggests; load with check=False to "
                "look closer"
            )
    held = [outcome.deviation for outcome in found if outcome.holds]
    return Probe(causal(model), len(model.sites()), max(held, default=0.0))


def settle(model: Model) -> Probe:
    """Leave out the sites that break a law, with the reason, and hold the others to theirs.

    Raises:
        ProbeError: the stream between blocks itself cannot be written.
    """
    exchanged: set[str] = set()
    while True:
        found = list(outcomes(model))
        broken = [outcome for outcome in found if not outcome.holds and outcome.law not in ("joints", "trunk")]
        gates = {outcome.sites[0].stream for outcome in broken if outcome.law == "gate"} - exchanged
        if not any(outcome.sites for outcome in broken):
            return _held(model, found)
        for stream in gates:  # the halves of a fused map lie the other way round
            model.anatomy = model.anatomy.exchanged("mlp_pre", "mlp_up", stream)
        exchanged |= gates
        if gates:
            continue
        wrong: dict[Site, str] = {}
        for outcome in broken:
            why = f"{outcome.what} does not hold for it (deviation {outcome.deviation:.1e})"
            names = {(site.name, site.stream) for site in outcome.sites}
            wrong |= {site: why for site in model.sites() if (site.name, site.stream) in names}
        model.anatomy = model.anatomy.without(wrong)


def outcomes(model: Model) -> Iterator[Outcome]:
    """Every law, stream by stream."""
    for stream in model.anatomy.streams.values():
        if stream.blocks:
            yield from _Stream(model, stream.name).outcomes()


def causal(model: Model) -> bool:
    """Whether another last token leaves every earlier position of the main stream as it was."""
    main, name = model.anatomy.main, last_token(model.example)
    if not main.blocks or name is None:
        return False
    inputs = _only(model.example, name)
    site = Site("resid_post", layer=len(main.blocks) - 1)
    with torch.no_grad(), model.prepared():
        last = model.backend.run(inputs, reads=[site], writes={})[site].float()
    if last.ndim != 3 or last.shape[1] < 2:
        return False
    moved = (last[0, :-1] - last[2, :-1]).norm(dim=-1) / last[0, :-1].norm(dim=-1)  # a token at a time: some are far larger
    return bool((moved <= tolerance(model)).all())


def _only(inputs: Mapping[str, Tensor], varied: str) -> dict[str, Tensor]:
    """The same inputs, the examples alike in all arguments but one."""
    return {n: t if n == varied else torch.cat([t.chunk(BATCH)[0]] * BATCH) for n, t in inputs.items()}


def varied(model: Model, stream: str) -> dict[str, Tensor]:
    """The model's example, its three runs alike but for the argument that enters a stream.

    Raises:
        ProbeError: no argument does.
    """
    first = Site("resid_pre", layer=0, stream=stream)
    for name in sorted(model.example, key=lambda name: "ids" not in name):
        inputs = _only(model.example, name)
        with torch.no_grad(), model.prepared():
            h = model.backend.run(inputs, reads=[first], writes={})[first]
        if bool((h[0] != h[1]).any()):
            return inputs
    raise ProbeError(f"{model.name}: no argument of its forward reaches {first!r}")


def tolerance(model: Model) -> float:
    """By how much a law may be missed, relative to the largest number: what rounding in the model's dtype makes of it."""
    return rounding(model.dtype)


class _Stream:
    """The laws of one stream."""

    def __init__(self, model: Model, name: str) -> None:
        self.model, self.name = model, name
        self.stream = model.anatomy.streams[name]
        self.sites = [site for site in model.sites() if site.stream == name or site == Site("logits")]
        self.last = len(self.stream.blocks) - 1
        present: dict[int, set[str]] = {layer: set() for layer in range(len(self.stream.blocks))}
        for site in self.sites:
            if site.layer is not None:
                present[site.layer].add(site.name)
        kinds = {frozenset(names): layer for layer, names in present.items()}
        self.kinds = tuple(kinds.values())
        """The last layer of every kind: in hybrids and mixtures of experts, layers differ in what they have."""
        self.tolerance = tolerance(model)

    def site(self, name: str, layer: int | None) -> Site:
        return Site(name, layer=layer, stream=self.name)

    def get(self, name: str, layer: int | None) -> Tensor | None:
        return self.found.get(self.site(name, layer))

    def outcomes(self) -> Iterator[Outcome]:
        layers = range(len(self.stream.blocks))
        outputs = [self._w_o(site) for site in self.sites if site.name in ("result", "cross_result")]
        scales = [site for site in self.sites if site.name in SCALES and site.layer in (None, *self.kinds)]
        outputs += [Site(side, path=_norm_path(self.model, site)) for site in scales for side in ("input", "output")]
        with torch.no_grad(), self.model.prepared(self.sites):
            self.inputs = varied(self.model, self.name)
            self.found = self.model.backend.run(self.inputs, reads=[*self.sites, *outputs], writes={})
            # Another run's values: of the example before; positions are the same in every example, so theirs are moved along.
            self.others = {site: tensor.roll(1, 1 if site.name == "pos_embed" else 0) for site, tensor in self.found.items()}
            yield from self._shapes()
            for layer in layers:
                yield from self._sums(layer)
                yield from self._heads(layer)
            for layer in self.kinds:
                yield from self._writes(layer)
                for name in ("q", "k"):
                    yield from self._own_scores(name, layer)
            yield from self._entrance()

    # what is read

    def _shapes(self) -> Iterator[Outcome]:
        for site in self.sites:
            tensor = self.found[site]
            expected: list[int | None] = [BATCH if axis == "example" else None for axis in site.axes]
            for i, axis in enumerate(site.axes):
                if axis not in ("example", "position", "source_position", "vocab"):
                    expected[i] = self.model.anatomy.size(site, axis)
            ok = len(expected) == tensor.ndim and all(e in (None, n) for e, n in zip(expected, tensor.shape, strict=False))
            what = f"{site!r} is ({', '.join(site.axes)}) = {expected} (its shape is {tuple(tensor.shape)})"
            yield Outcome("shape", what, (site,), 0.0 if ok else float("inf"), self.tolerance)

    def _sums(self, layer: int) -> Iterator[Outcome]:
        """The stream from block to block, and inside one."""
        post, following = self.get("resid_post", layer), self.get("resid_pre", layer + 1)
        if post is not None and following is not None and post.shape == following.shape:
            what = f"{self._n(layer, 'resid_post')} = {self._n(layer + 1, 'resid_pre')}"
            if not self._between(layer):
                yield self.equal("stream", following, post, what, ())
        if self.stream.order.get(layer) == "parallel":
            pre, attn, mlp = (self.get(name, layer) for name in ("resid_pre", "attn_out", "mlp_out"))
            if pre is not None and attn is not None and mlp is not None and post is not None:
                what = f"{self._n(layer, 'resid_pre')} + attn_out + mlp_out = resid_post"
                yield self.equal("stream", pre + attn + mlp, post, what, self._at(layer, "attn_out", "mlp_out"))
            if self.get("resid_mid", layer) is None:
                return
        for name, before, end in self._steps(layer):
            given, start, stop = (self.get(n, layer) for n in (name, before, end))
            if given is not None and start is not None and stop is not None:
                law = f"{self._n(layer, before)} + {name} = {end}"
                yield self.equal("stream", self._joined(name, layer, start + given), stop, law, self._at(layer, name))

    def _steps(self, layer: int) -> list[tuple[str, str, str]]:
        """What is added to the stream inside a block, each with the stream before and behind it."""
        first = "mixer_out" if self.site("mixer_out", layer) in self.model.anatomy.taps else "attn_out"
        parts = [first] if layer in self.stream.attention else []
        parts += ["cross_out"] if self.stream.crosses(layer) else []
        parts += ["mlp_out"] if layer in self.stream.mlp else []
        states = ["resid_pre", *(_BEFORE[name] for name in parts[1:]), "resid_post"]
        return [*zip(parts, states, states[1:], strict=False)]

    def _joined(self, name: str, layer: int, total: Tensor) -> Tensor:
        """The sum, through the norm that follows it in post-norm blocks."""
        norm = self.stream.norms.get(self.site(name, layer))
        return total if norm is None else self.model.module.get_submodule(norm)(total)

    def _between(self, layer: int) -> bool:
        """Whether something stands between two blocks: they are in different lists."""
        one, other = (self.stream.blocks[i].rpartition(".")[0] for i in (layer, layer + 1))
        return one != other

    def _heads(self, layer: int) -> Iterator[Outcome]:
        for name in ("result", "cross_result"):
            result = self.get(name, layer)
            if result is not None:
                total = self.found[self._w_o(self.site(name, layer))]
                rest, size = total - result.sum(-2), total.abs().max()
                what = f"W_O of layer {layer} − Σ {self._n(layer, name)} = b_O"
                yield self.equal("heads", rest + size, rest[:1, :1].expand_as(rest) + size, what, self._at(layer, name))
        for prefix in ("", "cross_"):
            pattern, v, z = (self.get(f"{prefix}{name}", layer) for name in ("pattern", "v", "z"))
            if pattern is None:
                continue
            total, label = pattern.float().sum(-1), self._n(layer, f"{prefix}pattern")
            sites = self._at(layer, f"{prefix}pattern", f"{prefix}scores")
            sunk = isinstance(self.model.taps(sites[0]).layout, BesideSink)
            whole, what = (total.clamp(0, 1), "at most 1, with a sink") if sunk else (torch.ones_like(total), "1")
            yield self.equal("pattern", total, whole, f"rows of {label} sum to {what}", sites)
            if v is not None and z is not None:
                shared = repeat(v, "e k kv d -> e k (kv group) d", group=z.shape[-2] // v.shape[-2])
                mixed = einsum(pattern.to(v), shared, "e head q k, e k head d -> e q head d")
                yield self.equal("pattern", mixed, z, f"{label} × v = z", self._at(layer, *(f"{prefix}{n}" for n in "qkv")))

    # what is written

    def _writes(self, last: int) -> Iterator[Outcome]:
        """Every part of one layer, ``last``."""
        end = self.site("resid_post", last)
        for name in ("resid_pre", "resid_cross", "resid_mid"):
            yield from self._written([self.site(name, last)], end, "joints" if name == "resid_pre" else "write")
        if self.name == MAIN and last == self.last and Site("logits") in self.found:
            yield from self._written([end], Site("logits"), "trunk")
        for prefix in ("", "cross_"):
            z, result = self.site(f"{prefix}z", last), self.site(f"{prefix}result", last)
            shared = ("k_rotary",) if not prefix and self.site("k_rotary", last) in self.found else ()
            for names in (("q", "k", "v", *shared), ("pattern", "v")):
                yield from self._written([self.site(f"{prefix}{name}", last) for name in names], z)
            added = self.site("cross_out" if prefix else "attn_out", last)
            yield from self._written([z], added)
            if result in self.found:
                yield from self._changed(result, self._w_o(result))
        post = self.site("mlp_post", last)
        halves = [site for site in (self.site("mlp_pre", last), self.site("mlp_up", last)) if site in self.found]
        yield from self._written(halves, post)
        yield from self._gate(post)
        yield from self._experts(last)
        yield from self._written([post], self.site("mlp_out", last))
        for step in self._steps(last):
            yield from self._added(last, *step)
        for name in SCALES[:-1]:
            yield from self._scaled(self.site(name, last))

    def _entrance(self) -> Iterator[Outcome]:
        yield from self._written([self.site("embed", None)], self.site("resid_pre", 0))
        yield from self._numbered()
        yield from self._scaled(self.site("ln_final_scale", None))

    def _added(self, layer: int, name: str, before: str, end: str) -> Iterator[Outcome]:
        """Writing another run's value of what is added moves the stream behind it by the difference, or norms the new sum."""
        site = self.site(name, layer)
        if self.stream.order.get(layer) == "parallel":
            before, end = "resid_pre", "resid_post"
        if any(self.site(n, layer) not in self.found for n in (name, before, end)):
            return
        if site not in self.stream.norms:
            yield from self._changed(site, self.site(end, layer))
            return
        start, effect = self.found[self.site(before, layer)], self.site(end, layer)
        found = self._run({site: _constant(self.others[site])}, effect)
        expected = self._joined(name, layer, start + self.others[site])
        yield self.equal("write", found, expected, f"writing another run's {site!r} moves {effect!r}", (site,))

    def _numbered(self) -> Iterator[Outcome]:
        """What is added to the position embedding might as well be added to the embedding, or to the stream itself."""
        positions, first = self.site("pos_embed", None), self.site("resid_pre", 0)
        if positions not in self.found or first not in self.found:
            return
        moved = torch.randn(self.found[positions].shape[-1], generator=torch.Generator().manual_seed(2)).to(self.found[first])
        found = self._run({positions: lambda h: h + moved.to(h)}, first)
        alike = [self.found[first] + moved]
        if self.site("embed", None) in self.found:
            alike.append(self._run({self.site("embed", None): lambda h: h + moved.to(h)}, first))
        what = f"what is added to {positions!r} is added to the stream that enters the first block"
        yield min((self.equal("write", found, other, what, (positions,)) for other in alike), key=lambda o: o.deviation)

    def _scaled(self, site: Site) -> Iterator[Outcome]:
        """A norm takes and gives what it should, and with another run's scale what its form makes of its input and that."""
        if site not in self.found:
            return
        x, out = (Site(side, path=_norm_path(self.model, site)) for side in ("input", "output"))
        given = self.found[out]
        taken = self.found[x].reshape(given.shape)
        norm = self.model.module.get_submodule(out.path or "")
        norm = getattr(norm, "original_component", norm)  # of a bridge
        if any(parameter.is_meta for parameter in norm.parameters()):  # its weights are elsewhere
            return
        form = Norm.of(norm, taken, given, self.tolerance)
        if isinstance(form, str):
            yield Outcome("write", f"{site!r} is of a norm of a known form ({form})", (site,), float("inf"), self.tolerance)
            return
        yield self.equal("write", self.found[site], form.scale(taken), f"{site!r} is what the norm divides by", (site,))
        for what, passed, stream in (("takes", taken, self._taken(site)), ("gives", given, self._given(site))):
            if stream in self.found:
                law = f"what the norm of {site!r} {what} is {stream!r}"
                yield self.equal("write", passed, self.found[stream].reshape(passed.shape), law, (site,))
        found = self._run({site: _constant(self.others[site])}, out)
        expected = form.apply(norm, taken, self.others[site]).to(found.dtype)
        yield self.equal("write", found, expected, f"another run's {site!r} gives gain · c / σ + bias with that σ", (site,))

    def _taken(self, site: Site) -> Site | None:
        """The stream that a norm takes, of those before a part."""
        if site.name == "ln_final_scale":
            return self.site("resid_post", self.last)
        names = {"ln1_scale": "resid_pre", "ln2_scale": "resid_mid"}
        parallel = self.stream.order.get(site.layer or 0) == "parallel"
        return self.site("resid_pre" if parallel else names[site.name], site.layer) if site.name in names else None

    def _given(self, site: Site) -> Site | None:
        """What a norm behind a part gives."""
        names = {"ln1_post_scale": "attn_out", "ln2_post_scale": "mlp_out"}
        return self.site(names[site.name], site.layer) if site.name in names else None

    def _gate(self, post: Site) -> Iterator[Outcome]:
        """Of a gated MLP the linear branch is linear: twice of it is twice what W_out reads."""
        up = self.site("mlp_up", post.layer)
        if up in self.found and post in self.found:
            found = self._run({up: lambda h: 2 * h}, post)
            halves = (up, self.site("mlp_pre", post.layer))
            yield self.equal("gate", found, 2 * self.found[post], f"twice {up!r} is twice {post!r}", halves)

    def _experts(self, layer: int) -> Iterator[Outcome]:
        """A mixture is linear in the weights of its experts, and what one of them gives is added."""
        routing, out = self.site("routing", layer), self.site("expert_out", layer)
        if routing not in self.found or out not in self.found:
            return
        whole = Site("output", path=self.model.taps(out).path)
        mixed = self._run({}, whole)
        total = self.found[out].sum(-2)
        yield self.equal("experts", total, mixed, f"Σ {out!r} is what the mixture gives", (out, routing))
        twice = self._run({routing: lambda h: 2 * h}, whole)
        yield self.equal("experts", twice, 2 * mixed, f"twice {routing!r} is twice the mixture", (routing,))
        one = self._run({routing: lambda h: h * _first_of(h)}, whole)
        expected = (self.found[out] * _first_of(self.found[routing]).unsqueeze(-1)).sum(-2)
        yield self.equal("experts", one, expected, f"one expert's {routing!r} alone gives its {out!r}", (routing, out))
        moved = self._run({out: lambda h: 2 * h}, whole)
        yield self.equal("experts", moved, 2 * mixed, f"twice {out!r} is twice the mixture", (out,))

    def _own_scores(self, name: str, layer: int) -> Iterator[Outcome]:
        """Writing some heads' queries (keys) at some positions leaves every other row (column) of the scores as it was."""
        site, scores = self.site(name, layer), self.site("scores", layer)
        if site not in self.found or scores not in self.found:
            return
        generator = torch.Generator().manual_seed(1)
        theirs = "e p kv -> e (kv group) p 1" if name == "q" else "e p kv -> e (kv group) 1 p"
        before, other = self.found[scores], self.others[site]
        chosen = (torch.rand(other.shape[:-1], generator=generator) < 0.5).to(other.device)
        if self._norm_spans_heads(name, layer):
            chosen = chosen[..., :1].expand_as(chosen)
        after = self._run({site: _partly(chosen.unsqueeze(-1), other)}, scores)
        touched = repeat(chosen, theirs, group=before.shape[1] // other.shape[2])
        kept = (self.found[self.site("pattern", layer)] > 0) & ~touched  # masked scores are any large negative number
        what = f"{site!r} of one head and position moves its own {scores!r}"
        yield self.equal("write", after.where(kept, 0), before.where(kept, 0), what, (site,))

    def _norm_spans_heads(self, name: str, layer: int) -> bool:
        """Whether queries (keys) are normalised over all heads together, as in OLMo-2, so that one head moves the others."""
        attention = self.model.module.get_submodule(self.stream.attention[layer])
        norm = getattr(attention, f"{name}_norm", None)
        width = self.model.anatomy.size(self.site("z", layer), "d_head")
        return norm is not None and any(p.numel() > width for p in norm.parameters())

    def _written(self, sites: list[Site], effect: Site, law: str = "write") -> Iterator[Outcome]:
        """Writing another run's values at all of ``sites`` gives that run's values at ``effect``."""
        if not sites or not all(site in self.found for site in (*sites, effect)):
            return
        found = self._run({site: _constant(self.others[site]) for site in sites}, effect)
        what = f"writing another run's {', '.join(map(repr, sites))} gives its {effect!r}"
        yield self.equal(law, found, self.others[effect], what, tuple(sites))

    def _changed(self, site: Site, effect: Site) -> Iterator[Outcome]:
        """Writing another run's value moves what it adds to by the difference of the two values."""
        if site not in self.found or effect not in self.found:
            return
        found = self._run({site: _constant(self.others[site])}, effect)
        delta = self.others[site] - self.found[site]
        moved = delta.sum(-2) if COMPONENTS[site.name].axes[-2:] == ("head", "d_model") else delta
        what = f"writing another run's {site!r} moves {effect!r} by the difference"
        yield self.equal("write", found, self.found[effect] + moved, what, (site,))

    def _run(self, writes: dict[Site, Write], effect: Site) -> Tensor:
        return self.model.backend.run(self.inputs, reads=[effect], writes=writes)[effect]

    # helpers

    def _w_o(self, result: Site) -> Site:
        """What the linear map gives of which a site holds the heads' parts."""
        known = self.stream.w_o if result.name == "result" else {}
        return Site("output", path=known.get(result.layer or 0, self.model.taps(result).path))

    def _n(self, layer: int, name: str) -> str:
        return repr(self.site(name, layer))

    def _at(self, layer: int, *names: str) -> tuple[Site, ...]:
        return tuple(self.site(name, layer) for name in names)

    def equal(self, law: str, got: Tensor, expected: Tensor, what: str, sites: tuple[Site, ...]) -> Outcome:
        """Equal up to the tolerance, relative to the largest number of the two."""
        if got.shape != expected.shape:
            return Outcome(
                law, f"{what} (shapes {tuple(got.shape)}, {tuple(expected.shape)})", sites, float("inf"), self.tolerance
            )
        scale = max(1e-6, float(expected.abs().max()), float(got.abs().max()))
        return Outcome(law, what, sites, float((got.float() - expected.float()).abs().max()) / scale, self.tolerance)


SCALES = ("ln1_scale", "ln1_post_scale", "ln2_scale", "ln2_post_scale", "ln_final_scale")


def _norm_path(model: Model, site: Site) -> str:
    """The norm whose scale a site is; a bridge has a hook point for it inside the norm."""
    path = model.taps(site).path
    return path.removesuffix(".hook_scale")


_BEFORE = {"cross_out": "resid_cross", "mlp_out": "resid_mid"}
"""The stream to which something is added inside a block."""


def _first_of(routing: Tensor) -> Tensor:
    """1 at the expert of the greatest weight of each token, 0 elsewhere."""
    return torch.zeros_like(routing).scatter(-1, routing.argmax(-1, keepdim=True), 1.0)


def _constant(value: Tensor) -> Write:
    return lambda h: value.to(h)


def _partly(chosen: Tensor, value: Tensor) -> Write:
    return lambda h: torch.where(chosen, value.to(h), h)
