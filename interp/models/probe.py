"""A model proves its sites when it is loaded: short forward passes on random tokens, each site held to what its name says.

    >>> probe(model)                                                                     # doctest: +SKIP
    Probe(causal=True, checked=36, worst=2.4e-07)

Checked: every site fires once and has its declared shape; the stream adds up (``resid_pre + attn_out = resid_mid``,
``resid_mid + mlp_out = resid_post``, block after block); heads add up to ``attn_out`` less its bias; pattern rows are
probabilities, and pattern × v is z. Writing is checked at the last layer, by writing another run's values: the residual stream
at each of its joints must give the other run's logits, and q, k and v, or pattern and v, the other run's z.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from einops import einsum, repeat
from torch import Tensor

from interp.errors import ProbeError
from interp.models.model import Model, Probe
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
    with torch.no_grad(), model.prepared(sites):
        found = model.backend.run(inputs, reads=sites, writes={})
        checks = _Checks(model, found)
        checks.shapes(batch=3)
        for layer in range(model.sizes["layer"]):
            checks.stream(layer)
            checks.heads(layer)
        checks.writes(inputs)
    last = found[Site("resid_post", layer=model.sizes["layer"] - 1)]
    moved = (last[0, :-1] - last[2, :-1]).norm(dim=-1) / last[0, :-1].norm(dim=-1)  # a token at a time: some are far larger
    return Probe(bool((moved <= checks.tolerance).all()), len(found), checks.worst)


class _Checks:
    def __init__(self, model: Model, found: dict[Site, Tensor]) -> None:
        self.model, self.found = model, found
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
        for site, tensor in self.found.items():
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
        if attn is not None and mlp is None:
            self.equal(pre + attn, post, f"L{layer}.resid_pre + attn_out = resid_post (no MLP)")

    def heads(self, layer: int) -> None:
        result, attn = self["result", layer], self["attn_out", layer]
        if result is not None and attn is not None:
            rest = attn - result.sum(-2)
            self.equal(
                rest + attn.abs().max(), rest[:1, :1].expand_as(rest) + attn.abs().max(), f"L{layer}.attn_out − Σ result = b_O"
            )
        pattern, v, z = self["pattern", layer], self["v", layer], self["z", layer]
        if pattern is not None:
            total = pattern.float().sum(-1)
            self.equal(total, torch.ones_like(total), f"rows of L{layer}.pattern sum to 1")
            if v is not None and z is not None:
                shared = repeat(v, "e k kv d -> e k (kv group) d", group=z.shape[-2] // v.shape[-2])
                mixed = einsum(pattern.to(v), shared, "e head q k, e k head d -> e q head d")
                self.equal(mixed, z, f"L{layer}.pattern × v = z")

    def writes(self, inputs: dict[str, Tensor]) -> None:
        layer = self.model.sizes["layer"] - 1
        others = {site: tensor.roll(1, 0) for site, tensor in self.found.items()}
        logits, z = Site("logits"), Site("z", layer=layer)
        for name in ("resid_pre", "resid_mid", "resid_post"):
            self._written([Site(name, layer=layer)], logits, others, inputs)
        for names in (("q", "k", "v"), ("pattern", "v")):
            self._written([Site(name, layer=layer) for name in names], z, others, inputs)
        for name, effect in (
            ("attn_out", "resid_mid"),
            ("mlp_out", "resid_post"),
            ("mlp_post", "mlp_out"),
            ("z", "attn_out"),
            ("result", "attn_out"),
        ):
            effect = effect if Site(effect, layer=layer) in self.found else "resid_post"
            self._changed(Site(name, layer=layer), Site(effect, layer=layer), others, inputs)
        for name in ("embed", "pos_embed"):
            self._changed(Site(name), Site("resid_pre", layer=0), others, inputs)

    def _written(self, sites: list[Site], effect: Site, others: dict[Site, Tensor], inputs: dict[str, Tensor]) -> None:
        """Writing another run's values at all of ``sites`` gives that run's values at ``effect``."""
        if not all(site in self.found for site in (*sites, effect)):
            return
        found = self.model.backend.run(inputs, reads=[effect], writes={site: _constant(others[site]) for site in sites})
        self.equal(found[effect], others[effect], f"writing another run's {', '.join(map(repr, sites))} gives its {effect!r}")

    def _changed(self, site: Site, effect: Site, others: dict[Site, Tensor], inputs: dict[str, Tensor]) -> None:
        """Writing another run's value moves what it adds to by the difference of the two values."""
        if site not in self.found or effect not in self.found:
            return
        found = self.model.backend.run(inputs, reads=[effect], writes={site: _constant(others[site])})[effect]
        if site.name in ("z", "mlp_post"):  # through a linear map: its image is the other run's
            self.equal(found, others[effect], f"writing another run's {site!r} gives its {effect!r}")
            return
        delta = others[site] - self.found[site]
        moved = delta.sum(-2) if COMPONENTS[site.name].axes[-2:] == ("head", "d_model") else delta
        self.equal(found, self.found[effect] + moved, f"writing another run's {site!r} moves {effect!r} by the difference")


def _constant(value: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda h: value.to(h)
