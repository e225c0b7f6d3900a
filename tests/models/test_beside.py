"""Rows of attention computed beside fused attention: those of eager attention, on whatever it is called with, and no others.

Expected are the rows of the model's own eager attention (transformers' code), or a softmax written here in float64.
"""

from __future__ import annotations

import re
from typing import Any

import anything
import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as fused

from interp.doctor import architectures
from interp.errors import SiteNotFiredError
from interp.models import load
from interp.models.hooks import Hooks
from interp.models.queries import AtQueries, Queries
from interp.models.taps import Tap, Write
from interp.sites import Site

EAGER = {"gpt-neo", "gpt-j", "bloom", "gemma2", "gpt-oss", "blip"}
"""Their classes have no fused attention, or transformers runs them without it."""
NONE = {"mamba", "resnet"}
"""They have no attention."""
SCORES, PATTERN = Site("scores", layer=0), Site("pattern", layer=0)


@pytest.mark.parametrize("architecture", sorted({*architectures.available()} - {"dcgan"}))
def test_every_architecture_proves_its_rows_or_says_why_not(architecture: str) -> None:
    refused = anything.model(architecture).beside_refused
    if architecture in EAGER:
        assert refused == "its attention is eager"
    else:
        assert refused == ("it has no scores or patterns" if architecture in NONE else "")


class Attention(nn.Module):
    """Fused attention of tensors that are given to it."""

    def __init__(self, call: dict[str, Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, hidden: Tensor) -> Tensor:
        return fused(**self.call)


def run(call: dict[str, Any], writes: dict[Site, Write], at: list[int]) -> tuple[Hooks, Tensor]:
    """One pass of fused attention with some writes, reading scores and pattern at some positions."""
    module = nn.Sequential(Attention(call))
    taps: dict[Site, Tap] = {SCORES: Tap("0", "scores"), PATTERN: Tap("0", "pattern")}
    positions = torch.tensor(at)
    n = call["query"].shape
    with Hooks(module, taps, {SCORES: positions, PATTERN: positions}, writes) as hooks:
        return hooks, module(torch.zeros(n[0], n[2] if n[1] > 2 else 1, 1))


def draw(seed: int, *, heads: int = 4, kv: int = 4, queries: int = 5, keys: int = 7) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"query": (2, heads, queries, 8), "key": (2, kv, keys, 8), "value": (2, kv, keys, 6)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def by_hand(call: dict[str, Any], added: Tensor, scale: float) -> Tensor:
    """Pattern of all queries in float64, from what is added to the scores."""
    group = call["query"].shape[1] // call["key"].shape[1]
    scores = call["query"].double() @ call["key"].double().repeat_interleave(group, 1).transpose(2, 3) * scale
    return (scores + added).softmax(-1)


MASKS = ["none", "bool", "float", "one for all rows", "causal", "key by key"]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kv", [4, 2, 1])
def test_rows_are_those_of_a_softmax_by_hand(mask: str, kv: int, seed: int) -> None:
    call = draw(seed, kv=kv)
    keep = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(seed)) < 0.7
    keep[..., 0] = True
    added = {
        "none": torch.zeros(1),
        "bool": torch.where(keep, 0.0, -torch.inf),
        "float": torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(seed + 1)),
        "one for all rows": torch.where(keep[0, 0], 0.0, -torch.inf),
        "causal": torch.full((5, 7), -torch.inf).triu(1),
        "key by key": torch.where(keep[:, :, :1], 0.0, -torch.inf),
    }[mask]
    given = {"none": {}, "causal": {"is_causal": True}}.get(mask, {"attn_mask": added if mask == "float" else added == 0})
    options: dict[str, Any] = {"scale": 0.3, "enable_gqa": kv != 4}
    if kv == 1:  # broadcast, as Falcon calls it
        options["enable_gqa"] = False
        call |= {name: call[name].expand(-1, 4, -1, -1) if mask == "causal" else call[name] for name in ("key", "value")}
    call |= given | options
    pattern = by_hand(call, added, 0.3)
    plain = fused(**call)

    hooks, output = run(call, {PATTERN: AtQueries(torch.tensor([1, 3]), lambda rows: 2 * rows)}, [0, 3])
    assert torch.equal(output[:, :, [0, 2, 4]], plain[:, :, [0, 2, 4]]), "rows that are not written keep their bits"
    torch.testing.assert_close(output[:, :, [1, 3]], 2 * plain[:, :, [1, 3]], atol=1e-5, rtol=0)
    torch.testing.assert_close(hooks.found[PATTERN][:, :, 0], pattern[:, :, 0].float(), atol=1e-6, rtol=0)
    torch.testing.assert_close(hooks.found[PATTERN][:, :, 1], 2 * pattern[:, :, 3].float(), atol=1e-6, rtol=0)
    assert hooks.beside == {SCORES, PATTERN}

    hooks, output = run(call, {SCORES: AtQueries(torch.tensor([2]), lambda rows: 0.5 * rows)}, [2])
    half = (by_hand(call, added, 0.3).log() / 2).softmax(-1)  # half of the scores, whatever their normalisation
    value = call["value"].double().repeat_interleave(4 // call["value"].shape[1], 1)
    if mask in ("none", "float"):
        torch.testing.assert_close(output[:, :, 2], (half @ value)[:, :, 2].float(), atol=1e-5, rtol=0)
    masked = pattern[:, :, 2] == 0
    assert bool((hooks.found[SCORES][:, :, 0][masked] < -1e30).all())


@pytest.mark.parametrize("by_head", [False, True])
def test_one_query_packed_with_its_group_is_one_query(by_head: bool, seed: int) -> None:
    """transformers hands one query over as the queries of a group of heads, [row, kv_head, group, d_head]."""
    call = draw(seed, heads=4, kv=2, queries=1)
    packed = {**call, "query": call["query"].reshape(2, 2, 2, 8), "attn_mask": torch.ones(2, 1, 1, 7, dtype=torch.bool)}
    packed["attn_mask"][0, ..., :3] = False
    mask = packed["attn_mask"].expand(-1, 4, -1, -1).clone()
    mask[1, 2, 0, 4] = not by_head
    if by_head:
        packed["attn_mask"] = mask.reshape(2, 2, 2, 7)
    plain = fused(**packed)
    hooks, output = run(packed, {PATTERN: AtQueries(torch.tensor([0]), lambda rows: 3 * rows)}, [0])
    torch.testing.assert_close(output, 3 * plain, atol=1e-5, rtol=0)
    added = torch.where(mask, 0.0, -torch.inf)
    torch.testing.assert_close(hooks.found[PATTERN], 3 * by_hand(call, added, 8**-0.5).float(), atol=1e-6, rtol=0)


def test_rows_of_some_examples_alone(seed: int) -> None:
    """What is written in one example leaves the others' output as it was, to the bit, and keys are copied in parts."""
    call = draw(seed) | {"is_causal": True}
    plain = fused(**call)

    class Second:
        def __call__(self, h: Tensor) -> Tensor:
            raise AssertionError("the whole tensor was formed")

        def pairs(self, examples: int) -> tuple[Tensor, Tensor]:
            return torch.tensor([1, 1]), torch.tensor([4, 2])

        def partly(self, part: Tensor, queries: Queries) -> Tensor:
            assert part.shape == (1, 4, 2, 7)
            return 0 * part

    module = nn.Sequential(Attention(call))
    with Hooks(module, {PATTERN: Tap("0", "pattern")}, (), {PATTERN: Second()}):
        output = module(torch.zeros(2, 5, 1))
    assert torch.equal(output[0], plain[0])
    assert torch.equal(output[1, :, [0, 1, 3]], plain[1, :, [0, 1, 3]])
    assert not output[1, :, [2, 4]].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_a_softmax_in_float32(dtype: torch.dtype, seed: int) -> None:
    """As eager attention: scores in the model's dtype, the pattern in float32; 8 or 11 bits of mantissa."""
    call = {name: tensor.to(dtype) for name, tensor in draw(seed).items()} | {"is_causal": True}
    hooks, output = run(call, {PATTERN: AtQueries(torch.tensor([3]), lambda rows: 1 * rows)}, [3])
    assert (hooks.found[SCORES].dtype, hooks.found[PATTERN].dtype, output.dtype) == (dtype, torch.float32, dtype)
    tolerance = 8 * torch.finfo(dtype).eps
    added = torch.full((5, 7), -torch.inf).triu(1)
    torch.testing.assert_close(hooks.found[PATTERN], by_hand(call, added, 8**-0.5)[:, :, 3:4].float(), atol=tolerance, rtol=0)
    torch.testing.assert_close(output, fused(**call), atol=2 * tolerance, rtol=0)


def test_plain_functions_want_whole_tensors_and_do_not_fire(tiny_llama: Any) -> None:
    model = load(tiny_llama)
    inputs = {"input_ids": torch.tensor([[1, 5, 9]])}
    for reads, writes in (([PATTERN], {}), ({PATTERN: None}, {}), ([], {PATTERN: lambda h: 0 * h})):
        with pytest.raises(SiteNotFiredError, match=re.escape("fired 0 times")):
            model.backend.run(inputs, reads=reads, writes=writes)


def test_a_write_of_rows_serves_eager_attention_too(seed: int) -> None:
    model = load(tiny.llama(seed))
    inputs = {"input_ids": torch.tensor([[1, 5, 9, 4], [2, 2, 7, 1]])}
    write = {Site("scores", layer=1): AtQueries(torch.tensor([1, 3]), lambda rows: 0.3 * rows)}
    logits = Site("logits")
    with torch.no_grad():
        with model.prepared([PATTERN]):
            eager = model.backend.run(inputs, [logits], write)[logits]
        with model.prepared([PATTERN], beside=True):
            beside = model.backend.run(inputs, [logits], write)[logits]
        plain = model.backend.run(inputs, [logits], {})[logits]
    torch.testing.assert_close(beside, eager, atol=1e-5 * 11, rtol=0)
    assert float((plain - eager).abs().max()) > 1e-3


def test_gradients_flow_through_rows_that_are_written(seed: int) -> None:
    """The output is not written in place where a graph needs it."""
    call = draw(seed, keys=5)
    inputs = [call[name].requires_grad_() for name in ("query", "key", "value")]
    module = nn.Sequential(Attention(call | {"is_causal": True}))
    with Hooks(module, {PATTERN: Tap("0", "pattern")}, (), {PATTERN: AtQueries(torch.tensor([4]), lambda rows: 2 * rows)}):
        output = module(torch.zeros(2, 5, 1))
    found = torch.autograd.grad((output * output.detach()).sum(), inputs)
    pattern = by_hand(call, torch.full((5, 5), -torch.inf).triu(1), 8**-0.5)
    pattern = torch.cat([pattern[:, :, :4], 2 * pattern[:, :, 4:]], dim=2)
    z = (pattern @ call["value"].double()).float()
    for got, expected in zip(found, torch.autograd.grad((z * z.detach()).sum(), inputs), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_fused_attention_that_differs_is_refused(seed: int) -> None:
    """A scale of its own in fused attention alone, as a soft cap or a bias that it lacks would be."""

    module = tiny.llama(seed)
    attention = module.model.layers[1].self_attn
    forward = type(attention).forward

    def other(*args: Any, **kwargs: Any) -> Any:
        attention.scaling = 8**-0.5 * (0.5 if module.config._attn_implementation == "sdpa" else 1.0)
        return forward(attention, *args, **kwargs)

    attention.forward = other
    refused = load(module).beside_refused
    assert re.match(
        r"L1\.(scores|pattern) computed beside its attention is not that of its eager attention \(deviation", refused
    )


def test_who_has_not_proven_it_runs_eager(seed: int) -> None:
    model = load(tiny.llama(seed), check=False)
    assert model.beside_refused == "it was loaded without its probe run"
    with model.prepared([PATTERN], beside=True):
        assert model.module.config._attn_implementation == "eager"
    assert model.module.config._attn_implementation == "sdpa"
    proven = load(tiny.llama(seed))
    with proven.prepared([PATTERN], beside=True):
        assert proven.module.config._attn_implementation == "sdpa"
    with proven.prepared([PATTERN]):
        assert proven.module.config._attn_implementation == "eager"


def test_eager_by_configuration_says_so(seed: int) -> None:
    module = tiny.llama(seed)
    module.set_attn_implementation("eager")
    assert load(module).beside_refused == "its attention is eager"
