"""A model edited for a while: raw calls, generation by transformers, calls of this library, against interp.run and given=."""

from __future__ import annotations

from typing import Any

import anything
import numpy as np
import pytest
import sweeps
import torch
from torch import Tensor

from interp import Change, Intervention, Prompt, generate, grid, patch
from interp.engine import attribute, check, edited, explain, run
from interp.errors import InputError, OrderError, PositionError, SiteNotFiredError
from interp.interventions import Activation, Add, Constant, Scale, attention_knockout
from interp.metrics import FromLogits
from interp.models.hooks import is_own

FIRST = FromLogits(lambda logits: logits[..., 0], "first")
KINDS = ("gpt2", "llama", "neox", "bloom")
TEXT = (5, 9, 2, 11, 3)

CHANGES: dict[str, Any] = {
    "scale": Change("L1.mlp_out", edit=Scale(0.0)),
    "a function of all tokens": Change("L1.resid_post", edit=lambda h, ctx: h.flip(1) + ctx.positions[..., None]),
    "two heads at some tokens": Intervention.of("L1H0.z@1,2", "L2H1.z@-1", edit=Scale(3.0)),
    "another prompt": Change("L1.resid_post", -1, source=Activation(TEXT, positions=2)),
    "knockout": attention_knockout(-1, (0, 1), layers=[1], renormalise=True),
    "patterns": Change("L2.pattern", -1, edit=Scale(0.5)),
}


def ids_of(seed: int, n: int, width: int) -> Tensor:
    return torch.randint(0, 50, (n, width), generator=torch.Generator().manual_seed(seed))


def raw(model: Any, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    given: dict[str, Any] = {"input_ids": ids} | ({} if mask is None else {"attention_mask": mask})
    if mask is not None and "position_ids" in model.arguments:
        given["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        return model.module(**given).logits


def written(model: Any, ids: Tensor, **options: Any) -> Tensor:
    """Six tokens by the loop of transformers."""
    rest: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, **options}
    return model.module.generate(ids, attention_mask=torch.ones_like(ids), **rest)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_raw_calls_are_runs(kind: str, name: str, seed: int) -> None:
    """Expected: interp.run under the same change; outside, bit by bit what it was before."""
    model, ids, change = sweeps.model(kind), ids_of(seed, 3, 7), CHANGES[name]
    plain = raw(model, ids)
    with model.edited(change) as same:
        found = raw(model, ids)
        assert same is model
    expected = run(model, ids, change).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * (1 + float(plain.abs().max())))
    assert torch.equal(raw(model, ids), plain)
    assert float((found - plain).abs().max()) > 1e-3
    hooks = [h for m in model.module.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    assert not any(map(is_own, hooks))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("left", [True, False])
def test_padding_never_shows(kind: str, left: bool, seed: int) -> None:
    """Expected: each prompt alone, whichever side is padded."""
    model, ids = sweeps.model(kind), ids_of(seed, 2, 8)
    mask = torch.ones_like(ids)
    mask[0, slice(0, 3) if left else slice(5, 8)] = 0
    change = Change("L1.resid_post", (1, -1), source=Constant(2.0), edit=Add())
    with edited(model, change):
        found = raw(model, ids, mask)
    for row, real, logits in zip(ids, mask.bool(), found, strict=True):
        expected = run(model, [row[real].tolist()], change).logits
        assert expected is not None
        torch.testing.assert_close(logits[real], expected[0], rtol=0, atol=1e-4 * (1 + float(expected.abs().max())))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("name", ["scale", "two heads at some tokens", "patterns"])
def test_generation_by_transformers(kind: str, name: str, seed: int) -> None:
    """Expected: the tokens of interp.generate, which keeps positions the prompt's; cached and uncached."""
    model, ids = sweeps.model(kind), ids_of(seed, 1, 6)
    expected = generate(model, ids, CHANGES[name], max_new_tokens=6, eos_token_id=None).ids[0, 0]
    for cache in (True, False):
        with edited(model, CHANGES[name]):
            text = written(model, ids, use_cache=cache)
        if cache or name == "scale":  # without a cache every call is a prompt of its own, whose end −1 means
            assert text[0, 6:].tolist() == expected.tolist()


def test_a_position_behind_the_prompt_is_reached_by_a_later_call(seed: int) -> None:
    model, ids = sweeps.model("llama"), ids_of(seed, 1, 6)
    change = Change("L1.resid_post", 8, source=Constant(5.0), edit=Add())
    expected = generate(model, ids, change, max_new_tokens=6, eos_token_id=None)
    with edited(model, change):
        text = model.module.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, eos_token_id=None
        )
    assert text[0, 6:].tolist() == expected.ids[0, 0].tolist()
    with (
        pytest.raises(SiteNotFiredError, match=r"L1\.resid_post@8 .* never made .* no call reached its positions"),
        edited(model, change),
    ):
        raw(model, ids)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_calls_of_this_library_take_it_as_given(kind: str, seed: int) -> None:
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [6, 8])
    change, where = Change("L1.mlp_out", edit=Scale(0.0)), grid("z", layer=..., head=...)
    for call in (patch, attribute):
        expected = call(model, pairs, where, FIRST, given=change)
        with edited(model, change):
            found = call(model, pairs, where, FIRST)
        np.testing.assert_array_equal(found.value, expected.value)
        np.testing.assert_array_equal(found.given, expected.given)
        assert found.attrs["given"] == expected.attrs["given"]
        assert found.attrs["strategy"] == expected.attrs["strategy"]
    with edited(model, change):
        assert explain(model, pairs, where, FIRST).strategy() == "wavefront"
        one = run(model, pairs)
    torch.testing.assert_close(one.final, run(model, pairs, given=change).final, rtol=0, atol=0)


def test_generating_inside(seed: int) -> None:
    model, ids, change = sweeps.model("llama"), ids_of(seed, 2, 6), Change("L1.mlp_out", edit=Scale(-3.0))
    with edited(model, change):
        found = generate(model, ids, max_new_tokens=6)
    expected = generate(model, ids, change, max_new_tokens=6)
    assert torch.equal(found.ids, expected.ids)
    assert not torch.equal(found.ids, generate(model, ids, max_new_tokens=6).ids)


def test_nested(seed: int) -> None:
    """Expected: the outer first, then the inner, where they meet; the outer alone again after."""
    model, ids = sweeps.model("gpt2"), ids_of(seed, 2, 6)
    outer, inner = Change("L1.mlp_out", edit=Scale(0.0)), Change("L1.mlp_out", source=Constant(1.0), edit=Add())
    with edited(model, outer):
        first = raw(model, ids)
        with edited(model, inner):
            both = raw(model, ids)
        assert torch.equal(raw(model, ids), first)
    expected = run(model, ids, inner, given=outer).logits
    torch.testing.assert_close(both, expected, rtol=0, atol=1e-5 * (1 + float(first.abs().max())))
    assert model.background is None


def test_everything_is_put_back_after_an_error(seed: int) -> None:
    model, ids = sweeps.model("gpt2"), ids_of(seed, 2, 6)
    plain, change = raw(model, ids), Change("L1.mlp_out", edit=Scale(0.0))
    with pytest.raises(KeyError, match="mine"), edited(model, change):
        raise KeyError("mine")
    with edited(model, change):
        with pytest.raises(ValueError, match="input_ids"):
            model.module(inputs_embeds=torch.zeros(1, 3, model.sizes["d_model"]))
        with pytest.raises(IndexError):
            model.module(input_ids=torch.full((1, 3), 10_000))
        found = raw(model, ids)
    assert torch.equal(raw(model, ids), plain)
    torch.testing.assert_close(found, run(model, ids, change).logits, rtol=0, atol=1e-5 * (1 + float(plain.abs().max())))
    assert model.background is None
    assert model.sessions == 0


def test_gradients_flow_through_raw_calls(seed: int) -> None:
    """Expected: a coefficient's derivative by central differences."""
    model, ids = sweeps.model("gpt2", torch.float64), ids_of(seed, 1, 5)
    size = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)

    def loss(factor: Tensor) -> Tensor:
        with edited(model, Change("L1.mlp_out", edit=lambda h, ctx: factor * h)):
            return model.module(input_ids=ids).logits[0, -1, 3]

    (slope,) = torch.autograd.grad(loss(size), size)
    step = 1e-4
    with torch.no_grad():
        expected = (loss(size + step) - loss(size - step)) / (2 * step)
    assert abs(float(slope) - float(expected)) < 1e-6 * (1 + abs(float(expected)))


def test_what_is_refused(seed: int) -> None:
    model, pairs, ids = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 6]), ids_of(seed, 1, 5)
    change = Change("L1.mlp_out", edit=Scale(0.0))
    for prompt in ("source", "base", "clean"):
        with (
            pytest.raises(InputError, match=f"takes its value from the run '{prompt}'"),
            edited(model, Change("L1.z", source=Activation(prompt))),
        ):
            pass
    with pytest.raises(SiteNotFiredError, match="nothing ran inside"), edited(model, change):
        pass
    with edited(model, change):
        with pytest.raises(SiteNotFiredError, match="call the model itself"):
            model.module.get_submodule(model.anatomy.main.blocks[1])(torch.zeros(1, 3, model.sizes["d_model"]))
        with pytest.raises(OrderError, match="check does not run on an edited model"):
            check(model, pairs)
        raw(model, ids)
    with pytest.raises(PositionError, match="past the end"), edited(model, Change("L1.z", -9, edit=Scale(0.0))):
        raw(model, ids)


def test_encoder_decoders(seed: int) -> None:
    """Raw calls of T5: an edit of the encoder's stream and one of the decoder's."""
    model = anything.model("t5")
    source, target = ids_of(seed, 2, 6), ids_of(seed + 1, 2, 4)
    changes = [Change("encoder:L1.mlp_out", edit=Scale(0.0)), Change("L1.mlp_out", -1, edit=Scale(0.0))]
    with torch.no_grad():
        plain = model.module(input_ids=source, decoder_input_ids=target).logits
        with edited(model, changes):
            found = model.module(input_ids=source, decoder_input_ids=target).logits
    prompts = [Prompt(a.tolist(), target=b.tolist()) for a, b in zip(source, target, strict=True)]
    expected = run(model, prompts, Intervention(tuple(changes))).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * (1 + float(plain.abs().max())))
    assert float((found - plain).abs().max()) > 1e-4
