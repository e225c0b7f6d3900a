"""A stack of blocks proves itself when the model is loaded: run block by block, it gives what the model's own forward gives.

    >>> stack, refused = prove(model)                                                        # doctest: +SKIP

Checked on left-padded random prompts: every block resumed from the first and from a later position, on rows in another order
than the examples'; attention and MLP replaced by what they gave; the last block at the last position alone; and single columns
of the vocabulary. Numbers about all logits are had without the logits where nothing but a soft cap follows the unembedding:
found by standing in for it with a ramp, and by comparing what the kernel reads with what the logits say.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from interp import kernels
from interp.errors import ProbeError
from interp.models.anatomy import Anatomy
from interp.models.deviation import rounding
from interp.models.encoding import Tokens
from interp.models.hooks import Hooks
from interp.models.maps import applied, in_out
from interp.models.placement import devices, first_device
from interp.models.stack import Arguments, Stack
from interp.sites import MAIN, Site

_LENGTH, _START = 6, 3
_STEEP = 200.0
"""Logits far beyond those of any model, so that a cap shows."""
_FAILS = (ProbeError, TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError)
"""What a forward that is called in an unforeseen way raises."""


def prove(module: nn.Module, anatomy: Anatomy, accepted: frozenset[str]) -> tuple[Stack | None, str]:
    """The model's stack, or None and the reason why its blocks cannot be run one by one.

    Args:
        accepted: keyword arguments that the module's forward takes.
    """
    if anatomy.blocks is None:
        return None, "its blocks are not in one list"
    if anatomy.main.cross:
        return None, "its blocks attend to another stream"
    if anatomy.main.reads is None or "input_ids" not in accepted:
        return None, "no token ids enter its blocks"
    if len(anatomy.attention) < anatomy.sizes["layer"]:
        return None, "not every block has an attention module"
    used = devices(module)
    if len(used) > 1:
        return None, f"its blocks are on {len(used)} devices ({', '.join(map(str, used))})"
    if _unembedding(module) is None:
        return None, "it does not say which of its modules is the unembedding (get_output_embeddings)"
    stack, why = _proved(Stack(module, anatomy, accepted), anatomy, accepted)
    if stack is None and "past_key_values" in accepted:  # state spaces and linear attention hand on more than keys and values
        stack, _ = _proved(Stack(module, anatomy, accepted, resumes=False), anatomy, accepted)
    return stack, "" if stack is not None else why


def _proved(stack: Stack, anatomy: Anatomy, accepted: frozenset[str]) -> tuple[Stack | None, str]:
    try:
        with kernels.use("torch"):
            _check(stack, anatomy, accepted)
    except _FAILS as error:
        return None, f"its blocks cannot be run one by one: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return stack, ""


def _unembedding(module: Any) -> nn.Module | None:
    found = getattr(module, "get_output_embeddings", lambda: None)()
    return found if isinstance(found, nn.Module) else None


def _check(stack: Stack, anatomy: Anatomy, accepted: frozenset[str]) -> None:
    module: Any = stack.module
    tokens = _prompts(int(module.get_input_embeddings().weight.shape[0]), first_device(module))
    with torch.no_grad():
        stack.learn(tokens.take(slice(0, 2)), tokens)
        layers = range(len(stack))
        pre = [Site("resid_pre", layer=layer) for layer in layers]
        post, logits = Site("resid_post", layer=len(stack) - 1), Site("logits")
        attention = {layer: Site("output", path=path) for layer, path in anatomy.attention.items()}
        mlp = {layer: Site("output", path=path) for layer, path in anatomy.mlp.items()}
        paths = {site: anatomy.tap(site) for site in (*attention.values(), *mlp.values())}
        maps = [*anatomy.w_o.values(), *anatomy.w_out.values()]
        sides = [Site(side, path=path) for path in maps for side in ("input", "output")]
        paths |= {site: anatomy.tap(site) for site in sides}
        reads = [*pre, post, logits, *paths]
        inputs = {**tokens.inputs(), "use_cache": False}
        before = None
        if stack.resumes:
            from interp.models.suffix import recorded, recording

            cache = recording()
            inputs |= {"use_cache": True, "past_key_values": cache}
        with Hooks(module, {**anatomy.taps, **paths}, reads) as hooks:
            module(**{name: value for name, value in inputs.items() if name in accepted})
        found = hooks.found
        if stack.resumes:
            before = recorded(cache)
        stack.local = _is_local(stack, tokens)
        for path in maps:
            _linear(module.get_submodule(path), path, *(found[Site(side, path=path)] for side in ("input", "output")))
        stream = [*(found[site] for site in pre), found[post]]
        rows = torch.tensor([2, 0, 1, 2], device=tokens.mask.device)
        compare = _Compare(rounding(next(module.parameters()).dtype), tokens.mask[rows])
        for start in (0, _START) if stack.resumes else (0,):
            call = stack.arguments(tokens, range(start, _LENGTH), before)
            for layer in layers:
                hidden, after = stream[layer][rows, start:], stream[layer + 1][rows, start:]
                compare(stack.run(layer, hidden, call, rows), after, f"block {layer} from position {start}")
                known = found[attention[layer]][rows, start:]
                got = stack.run(layer, hidden, call, rows, attention=known)
                compare(got, after, f"block {layer} with attention known")
                if layer in mlp:
                    got = stack.run(layer, hidden, call, rows, attention=known, mlp=found[mlp[layer]][rows, start:])
                    compare(got, after, f"block {layer} with attention and MLP known")
        if stack.resumes:
            later = stack.arguments(tokens, range(_START, _LENGTH), before)
            stack.unfolded = _unfolded(stack, anatomy, later, stream, rows)
            whole = stack.keys_values(len(stack) - 1, stream[-2][rows, _START:], later, rows)
            tail = stack.arguments(tokens, range(_LENGTH - 1, _LENGTH), before)
            last = stack.run(len(stack) - 1, stream[-2][rows, -1:], tail, rows, whole=whole)
            compare(last, stream[-1][rows, -1:], "the last block at the last position alone")
        compare(stack.logits(stream[-1][rows, -2:]), found[logits][rows, -2:], "logits of what leaves the last block")
        columns = torch.tensor([[0, 3], [1, 2], [3, 0], [2, 2]], device=rows.device)
        chosen = found[logits][rows, -2:].gather(-1, columns[:, None].expand(-1, 2, -1))
        compare(stack.logits(stream[-1][rows, -2:], columns), chosen, "single columns of the logits")
        stack.unfused = _unfused(stack, stream[-1][rows, -2:], columns, found[logits][rows, -2:], compare)


def _linear(output: nn.Module, path: str, x: Tensor, y: Tensor) -> None:
    """Rows whose z or units are changed have the change carried on by the output map, if that is linear."""
    x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    expected = y - y.roll(1, 0)
    got = applied(output, x - x.roll(1, 0))
    deviation = float((got - expected).float().abs().max()) / max(1e-6, float(y.float().abs().max()))
    if not deviation <= rounding(y.dtype):
        raise ProbeError(f"{path} is not a linear map: a change of what it takes moves what it gives, off by {deviation:.1e}")


def _unfolded(stack: Stack, anatomy: Anatomy, call: Arguments, stream: list[Tensor], rows: Tensor) -> frozenset[str]:
    """Components of a block that are seen at more positions than are run."""
    found = set()
    for layer, block in enumerate(stream[:-1]):
        sites = [site for site in anatomy.taps if (site.stream, site.layer) == (MAIN, layer) and site.name in _INSIDE]
        with Hooks(stack.module, anatomy.taps, sites) as hooks:
            stack.run(layer, block[rows, call.columns.start :], call, rows)
        found |= {site.name for site in sites if hooks.found[site].shape[1] != len(call.columns)}
    return frozenset(found)


_INSIDE = ("q", "k", "v", "latent", "k_rotary", "z", "mlp_pre", "mlp_up", "mlp_post", "mixer_post")


def _unfused(stack: Stack, hidden: Tensor, columns: Tensor, logits: Tensor, compare: _Compare) -> str:
    """Why numbers about all logits cannot be read without keeping the logits; empty if they can."""
    if in_out(stack.unembedding) is None:
        return f"the weight of its unembedding ({type(stack.unembedding).__name__}) is not kept as a matrix that can be read"
    cap = stack.softcap
    ramp = torch.linspace(-_STEEP, _STEEP, logits.shape[-1]).to(logits).expand_as(logits)
    each = columns[:, None].expand(-1, logits.shape[1], -1)
    expected = torch.cat([logits.gather(-1, each), logits.logsumexp(-1, keepdim=True)], dim=-1)
    try:
        compare(stack.leaving(hidden, lambda x: ramp), ramp if cap is None else cap * (ramp / cap).tanh(), "a ramp of logits")
        read = stack.read(hidden, columns)
        assert read.logsumexp is not None
        got = torch.cat([read.columns, read.logsumexp[:, None]], dim=-1)
        compare(got.unflatten(0, logits.shape[:2]), expected, "the fused readout")
    except _FAILS as error:
        return f"its logits are more than a linear map and a soft cap: {str(error).splitlines()[0][:200]}"
    return ""


def _is_local(stack: Stack, tokens: Tokens) -> bool:
    """Whether another token at one position leaves what enters the first block at the others as it was, to the bit."""
    assert tokens.ids is not None
    ids, column = tokens.ids.clone(), _START
    ids[:, column] = (ids[:, column] + 1) % int(ids.max().clamp(min=1))
    one, other = (stack.arguments(t, range(_LENGTH), None).hidden for t in (tokens, replace(tokens, ids=ids)))
    moved = (one != other).any(-1)
    return bool(moved[:, column].any()) and not bool(moved[:, :column].any() or moved[:, column + 1 :].any())


def _prompts(vocabulary: int, device: torch.device) -> Tokens:
    """Three random prompts of unequal length, padded on the left."""
    ids = torch.randint(vocabulary, (3, _LENGTH), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(3, _LENGTH, dtype=torch.bool)
    mask[0, :2] = mask[1, :1] = False
    return Tokens(ids=ids, mask=mask).to(device)


class _Compare:
    def __init__(self, tolerance: float, mask: Tensor) -> None:
        self.tolerance, self.mask = tolerance, mask

    def __call__(self, got: Tensor, expected: Tensor, what: str) -> None:
        """Equal at real tokens."""
        if got.shape != expected.shape:
            raise ProbeError(f"{what} gives shape {tuple(got.shape)}, expected {tuple(expected.shape)}")
        real = self.mask[:, -got.shape[1] :]
        got, expected = got[real].float(), expected[real].float()
        deviation = float((got - expected).abs().max()) / max(1e-6, float(expected.abs().max()))
        if not deviation <= self.tolerance:
            raise ProbeError(f"{what} deviates by {deviation:.1e} of the largest number (allowed {self.tolerance:.0e})")
