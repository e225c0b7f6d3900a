"""A model proves its sites when it is loaded: short forward passes on random tokens, each site held to what its name says.

    >>> probe(model)                                                                     # doctest: +SKIP
    Probe(causal=True, checked=36, worst=2.4e-07)

Checked: every site fires once and has its declared shape; the stream adds up (``resid_pre + attn_out = resid_mid``,
``resid_mid + mlp_out = resid_post``, in parallel blocks all at once, block after block); heads add up to ``attn_out`` less the
bias of W_O, or to the output of W_O where a norm comes between; pattern rows are probabilities, and pattern × v is z. Writing
is checked at the last layer, by writing another run's values: the residual stream at each of its joints must give the other
run's logits, q, k and v, or pattern and v, the other run's z; a head's query moves its own row of its own scores alone, a key
its column in the heads that share it.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import einsum, repeat
from torch import Tensor

from interp.errors import ProbeError
from interp.models.model import Model, Probe
from interp.models.taps import Write
from interp.sites import COMPONENTS, Site

_TOKENS = 6


def probe(model: Model) -> Probe:
    """Run the checks.

    Raises:
        ProbeError: a site is not what its name says, naming site, identity and deviation.
    """
    module: Any = model.module
    vocabulary = int(module.get_input_embeddings().weight.shape[0])
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (3, _TOKENS), generator=generator).to(model.device)
    ids[2] = ids[0]
    ids[2, -1] = (ids[2, -1] + 1) % vocabulary
    mask = torch.ones_like(ids)
    inputs = model.accepted({"input_ids": ids, "attention_mask": mask, "position_ids": mask.cumsum(-1) - 1})
    sites = model.sites()
    sums = [_sum_of_heads(model, layer) for layer in model.anatomy.w_o]
    with torch.no_grad(), model.prepared(sites):
        found = model.backend.run(inputs, reads=[*sites, *sums], writes={})
        checks = _Checks(model, found)
        checks.shapes(batch=3)
        for layer in range(model.sizes["layer"]):
            checks.stream(layer)
            checks.heads(layer)
        checks.writes(inputs)
        checks.queries_and_keys(inputs)
    last = found[Site("resid_post", layer=model.sizes["layer"] - 1)]
    moved = (last[0, :-1] - last[2, :-1]).norm(dim=-1) / last[0, :-1].norm(dim=-1)  # a token at a time: some are far larger
    return Probe(bool((moved <= checks.tolerance).all()), len(sites), checks.worst)


class _Checks:
    def __init__(self, model: Model, found: dict[Site, Tensor]) -> None:
        self.model, self.found = model, found
        # Another run's values: of the example before; positions are the same in every example, so theirs are moved along.
        self.others = {site: tensor.roll(1, 1 if site.name == "pos_embed" else 0) for site, tensor in found.items()}
        self.last = model.sizes["layer"] - 1
        self.worst = 0.0
        half = next(model.module.parameters()).dtype in (torch.float16, torch.bfloat16)
        self.tolerance = 5e-2 if half else 1e-4

    def __getitem__(self, key: tuple[str, int | None]) -> Tensor | None:
        return self.found.get(Site(key[0], layer=key[1]))

    def equal(self, got: Tensor, expected: Tensor, what: str) -> None:
        """Equal up to the tolerance, relative to the largest number of the two."""
        if got.shape != expected.shape:
            raise ProbeError(f"{self.model.name}: {what}: shapes {tuple(got.shape)} and {tuple(expected.shape)}")
        scale = max(1e-6, float(expected.abs().max()), float(got.abs().max()))
        deviation = float((got.float() - expected.float()).abs().max()) / scale
        self.worst = max(self.worst, deviation)
        if not deviation <= self.tolerance:
            raise ProbeError(
                f"{self.model.name}: {what} does not hold: relative deviation {deviation:.1e} (allowed {self.tolerance:.0e}). "
                "A module does not play the role that its name suggests; load with check=False to look closer"
            )

    def shapes(self, batch: int) -> None:
        for site in self.model.sites():
            tensor = self.found[site]
            expected = [{"example": batch, "position": _TOKENS, "source_position": _TOKENS}.get(a) for a in site.axes]
            for i, axis in enumerate(site.axes):
                if expected[i] is None and axis != "vocab":
                    expected[i] = self.model.anatomy.size(site, axis)
            ok = len(expected) == tensor.ndim and all(e in (None, n) for e, n in zip(expected, tensor.shape, strict=False))
            if not ok:
                raise ProbeError(
                    f"{self.model.name}: {site!r} has shape {tuple(tensor.shape)}, expected {site.axes} = {expected}"
                )

    def stream(self, layer: int) -> None:
        pre, mid, post = self["resid_pre", layer], self["resid_mid", layer], self["resid_post", layer]
        attn, mlp, following = self["attn_out", layer], self["mlp_out", layer], self["resid_pre", layer + 1]
        assert pre is not None
        assert post is not None
        if following is not None:
            self.equal(following, post, f"L{layer}.resid_post = L{layer + 1}.resid_pre")
        if attn is not None and mid is not None:
            self.equal(pre + attn, mid, f"L{layer}.resid_pre + attn_out = resid_mid")
        if mid is not None and mlp is not None:
            self.equal(mid + mlp, post, f"L{layer}.resid_mid + mlp_out = resid_post")
        if attn is not None and mid is None and mlp is not None:
            self.equal(pre + attn + mlp, post, f"L{layer}.resid_pre + attn_out + mlp_out = resid_post")
        if attn is not None and mlp is None:
            self.equal(pre + attn, post, f"L{layer}.resid_pre + attn_out = resid_post (no MLP)")

    def heads(self, layer: int) -> None:
        result = self["result", layer]
        if result is not None:
            site = _sum_of_heads(self.model, layer)
            total = self.found[site]
            rest, size = total - result.sum(-2), total.abs().max()
            self.equal(rest + size, rest[:1, :1].expand_as(rest) + size, f"{site!r} − Σ L{layer}.result = b_O")
        pattern, v, z = self["pattern", layer], self["v", layer], self["z", layer]
        if pattern is not None:
            total = pattern.float().sum(-1)
            self.equal(total, torch.ones_like(total), f"rows of L{layer}.pattern sum to 1")
            if v is not None and z is not None:
                shared = repeat(v, "e k kv d -> e k (kv group) d", group=z.shape[-2] // v.shape[-2])
                mixed = einsum(pattern.to(v), shared, "e head q k, e k head d -> e q head d")
                self.equal(mixed, z, f"L{layer}.pattern × v = z")

    def writes(self, inputs: dict[str, Tensor]) -> None:
        def at(*names: str) -> list[Site]:
            return [Site(name, layer=self.last) for name in names]

        z, result, attn_out, resid_mid = at("z", "result", "attn_out", "resid_mid")
        mlp_post, mlp_out, resid_post = at("mlp_post", "mlp_out", "resid_post")
        for joint in at("resid_pre", "resid_mid", "resid_post"):
            self._written([joint], Site("logits"), inputs)
        for parts in (at("q", "k", "v"), at("pattern", "v")):
            self._written(parts, z, inputs)
        self._written([site for site in at("mlp_pre", "mlp_up") if site in self.found], mlp_post, inputs)
        self._written([z], attn_out, inputs)
        self._written([mlp_post], mlp_out, inputs)
        if result in self.found:
            self._changed(result, _sum_of_heads(self.model, self.last), inputs)
        self._changed(attn_out, resid_mid if resid_mid in self.found else resid_post, inputs)
        self._changed(mlp_out, resid_post, inputs)
        self._written([Site("embed")], Site("resid_pre", layer=0), inputs)
        self._changed(Site("pos_embed"), Site("resid_pre", layer=0), inputs)

    def queries_and_keys(self, inputs: dict[str, Tensor]) -> None:
        """Writing some heads' queries (keys) at some positions leaves every other row (column) of the scores as it was."""
        scores = Site("scores", layer=self.last)
        generator = torch.Generator().manual_seed(1)
        for name, theirs in (("q", "e p kv -> e (kv group) p 1"), ("k", "e p kv -> e (kv group) 1 p")):
            site = Site(name, layer=self.last)
            if site not in self.found or scores not in self.found:
                continue
            before, other = self.found[scores], self.others[site]
            chosen = (torch.rand(other.shape[:-1], generator=generator) < 0.5).to(other.device)
            if self._norm_spans_heads(name):
                chosen = chosen[..., :1].expand_as(chosen)
            write = _partly(chosen.unsqueeze(-1), other)
            after = self.model.backend.run(inputs, reads=[scores], writes={site: write})[scores]
            touched = repeat(chosen, theirs, group=before.shape[1] // other.shape[2])
            kept = (self.found[scores.at(name="pattern")] > 0) & ~touched  # masked scores are any large negative number
            self.equal(
                after.where(kept, 0), before.where(kept, 0), f"{site!r} of one head and position moves its own {scores!r}"
            )

    def _norm_spans_heads(self, name: str) -> bool:
        """Whether queries (keys) are normalised over all heads together, as in OLMo-2, so that one head moves the others."""
        attention = self.model.module.get_submodule(self.model.anatomy.attention[self.last])
        norm = getattr(attention, f"{name}_norm", None)
        return norm is not None and any(p.numel() > self.model.sizes["d_head"] for p in norm.parameters())

    def _written(self, sites: list[Site], effect: Site, inputs: dict[str, Tensor]) -> None:
        """Writing another run's values at all of ``sites`` gives that run's values at ``effect``."""
        if not sites or not all(site in self.found for site in (*sites, effect)):
            return
        found = self.model.backend.run(inputs, reads=[effect], writes={site: _constant(self.others[site]) for site in sites})
        self.equal(
            found[effect], self.others[effect], f"writing another run's {', '.join(map(repr, sites))} gives its {effect!r}"
        )

    def _changed(self, site: Site, effect: Site, inputs: dict[str, Tensor]) -> None:
        """Writing another run's value moves what it adds to by the difference of the two values."""
        if site not in self.found or effect not in self.found:
            return
        found = self.model.backend.run(inputs, reads=[effect], writes={site: _constant(self.others[site])})[effect]
        delta = self.others[site] - self.found[site]
        moved = delta.sum(-2) if COMPONENTS[site.name].axes[-2:] == ("head", "d_model") else delta
        self.equal(found, self.found[effect] + moved, f"writing another run's {site!r} moves {effect!r} by the difference")


def _sum_of_heads(model: Model, layer: int) -> Site:
    """What the heads' results add up to, but for a bias: ``attn_out``, or the output of W_O where a norm follows it."""
    anatomy, added = model.anatomy, Site("attn_out", layer=layer)
    plain = anatomy.taps[added].path in (anatomy.attention[layer], anatomy.w_o[layer])
    return added if plain else Site("output", path=anatomy.w_o[layer])


def _constant(value: Tensor) -> Write:
    return lambda h: value.to(h)


def _partly(chosen: Tensor, value: Tensor) -> Write:
    return lambda h: torch.where(chosen, value.to(h), h)
