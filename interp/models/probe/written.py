"""What is written has the effect that the sites' names say: another run's value at a site gives that run's value behind it.

    stream      resid_pre, resid_cross or resid_mid of another run → its resid_post
    heads       q, k and v, or pattern and v, of another run → its z;  z → its attn_out
    MLP         mlp_pre and mlp_up of another run → its mlp_post;  mlp_post → its mlp_out

What is added to the stream moves it by the difference. A query moves its own row of its own scores alone, a key its column in
the heads that share it. Mixtures are linear in their routing, gated MLPs in their linear branch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import repeat
from torch import Tensor

from interp.models.probe import norms
from interp.models.probe.runs import SCALES, Outcome, Runs
from interp.models.taps import Write
from interp.sites import COMPONENTS, MAIN, Site


def outcomes(runs: Runs) -> Iterator[Outcome]:
    """Every law of this kind, at the last layer of every kind."""
    for layer in runs.kinds:
        yield from _of_layer(runs, layer)
    yield from _entrance(runs)


def _of_layer(runs: Runs, layer: int) -> Iterator[Outcome]:
    """Every part of one layer."""
    end = runs.site("resid_post", layer)
    for name in ("resid_pre", "resid_cross", "resid_mid"):
        yield from _written(runs, [runs.site(name, layer)], end, "joints" if name == "resid_pre" else "write")
    if runs.name == MAIN and layer == runs.last and Site("logits") in runs.found:
        yield from _written(runs, [end], Site("logits"), "trunk")
    for prefix in ("", "cross_"):
        z, result = runs.site(f"{prefix}z", layer), runs.site(f"{prefix}result", layer)
        shared = ("k_rotary",) if not prefix and runs.site("k_rotary", layer) in runs.found else ()
        for names in (("q", "k", "v", *shared), ("pattern", "v")):
            yield from _written(runs, [runs.site(f"{prefix}{name}", layer) for name in names], z)
        added = runs.site("cross_out" if prefix else "attn_out", layer)
        yield from _written(runs, [z], added)
        if result in runs.found:
            yield from _changed(runs, result, runs.w_o(result))
    post = runs.site("mlp_post", layer)
    halves = [site for site in (runs.site("mlp_pre", layer), runs.site("mlp_up", layer)) if site in runs.found]
    yield from _written(runs, halves, post)
    yield from _gate(runs, post)
    yield from _experts(runs, layer)
    yield from _written(runs, [post], runs.site("mlp_out", layer))
    for step in runs.steps(layer):
        yield from _added(runs, layer, *step)
    for name in SCALES[:-1]:
        yield from norms.outcomes(runs, runs.site(name, layer))
    for name in ("q", "k"):
        yield from _own_scores(runs, name, layer)


def _entrance(runs: Runs) -> Iterator[Outcome]:
    yield from _written(runs, [runs.site("embed", None)], runs.site("resid_pre", 0))
    yield from _numbered(runs)
    yield from norms.outcomes(runs, runs.site("ln_final_scale", None))


def _added(runs: Runs, layer: int, name: str, before: str, end: str) -> Iterator[Outcome]:
    """Writing another run's value of what is added moves the stream behind it by the difference, or norms the new sum."""
    site = runs.site(name, layer)
    if runs.stream.order.get(layer) == "parallel":
        before, end = "resid_pre", "resid_post"
    if any(runs.site(n, layer) not in runs.found for n in (name, before, end)):
        return
    if site not in runs.stream.norms:
        yield from _changed(runs, site, runs.site(end, layer))
        return
    start, effect = runs.found[runs.site(before, layer)], runs.site(end, layer)
    found = runs.under(runs.exchanged(site), effect)
    expected = runs.joined(name, layer, start + runs.others[site])
    yield runs.equal("write", found, expected, f"writing another run's {site!r} moves {effect!r}", (site,))


def _numbered(runs: Runs) -> Iterator[Outcome]:
    """What is added to the position embedding might as well be added to the embedding, or to the stream itself."""
    positions, first = runs.site("pos_embed", None), runs.site("resid_pre", 0)
    if positions not in runs.found or first not in runs.found:
        return
    moved = torch.randn(runs.found[positions].shape[-1], generator=torch.Generator().manual_seed(2)).to(runs.found[first])
    found = runs.under({positions: lambda h: h + moved.to(h)}, first)
    alike = [runs.found[first] + moved]
    if runs.site("embed", None) in runs.found:
        alike.append(runs.under({runs.site("embed", None): lambda h: h + moved.to(h)}, first))
    what = f"what is added to {positions!r} is added to the stream that enters the first block"
    yield min((runs.equal("write", found, other, what, (positions,)) for other in alike), key=lambda o: o.deviation)


def _gate(runs: Runs, post: Site) -> Iterator[Outcome]:
    """Of a gated MLP the linear branch is linear: twice of it is twice what W_out reads."""
    up = runs.site("mlp_up", post.layer)
    if up in runs.found and post in runs.found:
        found = runs.under({up: lambda h: 2 * h}, post)
        halves = (up, runs.site("mlp_pre", post.layer))
        yield runs.equal("gate", found, 2 * runs.found[post], f"twice {up!r} is twice {post!r}", halves)


def _experts(runs: Runs, layer: int) -> Iterator[Outcome]:
    """A mixture is linear in the weights of its experts, and what one of them gives is added."""
    routing, out = runs.site("routing", layer), runs.site("expert_out", layer)
    if routing not in runs.found or out not in runs.found:
        return
    whole = Site("output", path=runs.model.taps(out).path)
    mixed = runs.under({}, whole)
    total = runs.found[out].sum(-2)
    yield runs.equal("experts", total, mixed, f"Σ {out!r} is what the mixture gives", (out, routing))
    twice = runs.under({routing: lambda h: 2 * h}, whole)
    yield runs.equal("experts", twice, 2 * mixed, f"twice {routing!r} is twice the mixture", (routing,))
    one = runs.under({routing: lambda h: h * _first_of(h)}, whole)
    expected = (runs.found[out] * _first_of(runs.found[routing]).unsqueeze(-1)).sum(-2)
    yield runs.equal("experts", one, expected, f"one expert's {routing!r} alone gives its {out!r}", (routing, out))
    moved = runs.under({out: lambda h: 2 * h}, whole)
    yield runs.equal("experts", moved, 2 * mixed, f"twice {out!r} is twice the mixture", (out,))


def _own_scores(runs: Runs, name: str, layer: int) -> Iterator[Outcome]:
    """Writing some heads' queries (keys) at some positions leaves every other row (column) of the scores as it was."""
    site, scores = runs.site(name, layer), runs.site("scores", layer)
    if site not in runs.found or scores not in runs.found:
        return
    generator = torch.Generator().manual_seed(1)
    theirs = "e p kv -> e (kv group) p 1" if name == "q" else "e p kv -> e (kv group) 1 p"
    before, other = runs.found[scores], runs.others[site]
    chosen = (torch.rand(other.shape[:-1], generator=generator) < 0.5).to(other.device)
    if _norm_spans_heads(runs, name, layer):
        chosen = chosen[..., :1].expand_as(chosen)
    after = runs.under({site: _partly(chosen.unsqueeze(-1), other)}, scores)
    touched = repeat(chosen, theirs, group=before.shape[1] // other.shape[2])
    kept = (runs.found[runs.site("pattern", layer)] > 0) & ~touched  # masked scores are any large negative number
    what = f"{site!r} of one head and position moves its own {scores!r}"
    yield runs.equal("write", after.where(kept, 0), before.where(kept, 0), what, (site,))


def _norm_spans_heads(runs: Runs, name: str, layer: int) -> bool:
    """Whether queries (keys) are normalised over all heads together, as in OLMo-2, so that one head moves the others."""
    attention = runs.model.module.get_submodule(runs.stream.attention[layer])
    norm = getattr(attention, f"{name}_norm", None)
    width = runs.model.anatomy.size(runs.site("z", layer), "d_head")
    return norm is not None and any(p.numel() > width for p in norm.parameters())


def _written(runs: Runs, sites: list[Site], effect: Site, law: str = "write") -> Iterator[Outcome]:
    """Writing another run's values at all of ``sites`` gives that run's values at ``effect``."""
    if not sites or not all(site in runs.found for site in (*sites, effect)):
        return
    found = runs.under(runs.exchanged(*sites), effect)
    what = f"writing another run's {', '.join(map(repr, sites))} gives its {effect!r}"
    yield runs.equal(law, found, runs.others[effect], what, tuple(sites))


def _changed(runs: Runs, site: Site, effect: Site) -> Iterator[Outcome]:
    """Writing another run's value moves what it adds to by the difference of the two values."""
    if site not in runs.found or effect not in runs.found:
        return
    found = runs.under(runs.exchanged(site), effect)
    delta = runs.others[site] - runs.found[site]
    moved = delta.sum(-2) if COMPONENTS[site.name].axes[-2:] == ("head", "d_model") else delta
    what = f"writing another run's {site!r} moves {effect!r} by the difference"
    yield runs.equal("write", found, runs.found[effect] + moved, what, (site,))


def _first_of(routing: Tensor) -> Tensor:
    """1 at the expert of the greatest weight of each token, 0 elsewhere."""
    return torch.zeros_like(routing).scatter(-1, routing.argmax(-1, keepdim=True), 1.0)


def _partly(chosen: Tensor, value: Tensor) -> Write:
    return lambda h: torch.where(chosen, value.to(h), h)
