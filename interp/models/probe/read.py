"""What is read is what the sites' names say: shapes, the sums of the stream, heads that add up, patterns that mix values.

stream      resid_pre + attn_out = resid_mid,  resid_mid + mlp_out = resid_post,  resid_post = the next block's resid_pre
heads       W_O's output − Σ result = its bias
pattern     rows are probabilities,  pattern × v = z
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import einsum, repeat

from interp.models.examples import BATCH
from interp.models.layouts import BesideSink
from interp.models.probe.runs import Outcome, Runs


def outcomes(runs: Runs) -> Iterator[Outcome]:
    """Every law of this kind, layer by layer."""
    yield from _shapes(runs)
    for layer in range(len(runs.stream.blocks)):
        yield from _sums(runs, layer)
        yield from _heads(runs, layer)


def _shapes(runs: Runs) -> Iterator[Outcome]:
    """Every site has the axes that its name declares, of the sizes that the anatomy knows."""
    for site in runs.sites:
        tensor = runs.found[site]
        expected: list[int | None] = [BATCH if axis == "example" else None for axis in site.axes]
        for i, axis in enumerate(site.axes):
            if axis not in ("example", "position", "source_position", "vocab"):
                expected[i] = runs.model.anatomy.size(site, axis)
        ok = len(expected) == tensor.ndim and all(e in (None, n) for e, n in zip(expected, tensor.shape, strict=False))
        what = f"{site!r} is ({', '.join(site.axes)}) = {expected} (its shape is {tuple(tensor.shape)})"
        yield Outcome("shape", what, (site,), 0.0 if ok else float("inf"), runs.tolerance)


def _sums(runs: Runs, layer: int) -> Iterator[Outcome]:
    """The stream from block to block, and inside one."""
    post, following = runs.get("resid_post", layer), runs.get("resid_pre", layer + 1)
    if post is not None and following is not None and post.shape == following.shape:
        what = f"{runs.site('resid_post', layer)!r} = {runs.site('resid_pre', layer + 1)!r}"
        if not _between(runs, layer):
            yield runs.equal("stream", following, post, what, ())
    if runs.stream.order.get(layer) == "parallel":
        pre, attn, mlp = (runs.get(name, layer) for name in ("resid_pre", "attn_out", "mlp_out"))
        if pre is not None and attn is not None and mlp is not None and post is not None:
            what = f"{runs.site('resid_pre', layer)!r} + attn_out + mlp_out = resid_post"
            yield runs.equal("stream", pre + attn + mlp, post, what, runs.at(layer, "attn_out", "mlp_out"))
        if runs.get("resid_mid", layer) is None:
            return
    for name, before, end in runs.steps(layer):
        given, start, stop = (runs.get(n, layer) for n in (name, before, end))
        if given is not None and start is not None and stop is not None:
            law = f"{runs.site(before, layer)!r} + {name} = {end}"
            yield runs.equal("stream", runs.joined(name, layer, start + given), stop, law, runs.at(layer, name))


def _between(runs: Runs, layer: int) -> bool:
    """Whether something stands between two blocks: they are in different lists."""
    one, other = (runs.stream.blocks[i].rpartition(".")[0] for i in (layer, layer + 1))
    return one != other


def _heads(runs: Runs, layer: int) -> Iterator[Outcome]:
    """Heads add up to what W_O gives, less its bias; what a pattern mixes is z."""
    for name in ("result", "cross_result"):
        result = runs.get(name, layer)
        if result is not None:
            total = runs.found[runs.w_o(runs.site(name, layer))]
            rest, size = total - result.sum(-2), total.abs().max()
            what = f"W_O of layer {layer} − Σ {runs.site(name, layer)!r} = b_O"
            yield runs.equal("heads", rest + size, rest[:1, :1].expand_as(rest) + size, what, runs.at(layer, name))
    for prefix in ("", "cross_"):
        pattern, v, z = (runs.get(f"{prefix}{name}", layer) for name in ("pattern", "v", "z"))
        if pattern is None:
            continue
        total, label = pattern.float().sum(-1), runs.site(f"{prefix}pattern", layer)
        sites = runs.at(layer, f"{prefix}pattern", f"{prefix}scores")
        sunk = isinstance(runs.model.taps(sites[0]).layout, BesideSink)
        whole, what = (total.clamp(0, 1), "at most 1, with a sink") if sunk else (torch.ones_like(total), "1")
        yield runs.equal("pattern", total, whole, f"rows of {label!r} sum to {what}", sites)
        if v is not None and z is not None:
            shared = repeat(v, "e k kv d -> e k (kv group) d", group=z.shape[-2] // v.shape[-2])
            mixed = einsum(pattern.to(v), shared, "e head q k, e k head d -> e q head d")
            yield runs.equal("pattern", mixed, z, f"{label!r} × v = z", runs.at(layer, *(f"{prefix}{n}" for n in "qkv")))
