"""Functions as edits: what they are told, what they make, and that it is the same in every strategy and as a torch hook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sweeps
import torch
import xarray as xr
from torch import Tensor

from interp import Change, Intervention, Site, explain, generate, grid, patch
from interp.engine import attribute
from interp.errors import ShapeMismatchError, UnknownNameError
from interp.interventions import Constant, Context, Subspace
from interp.metrics import FromLogits

FIRST = FromLogits(lambda logits: logits[..., 0], "first")
KINDS = ("gpt2", "llama", "neox", "gemma2")


def mixed(h: Tensor, ctx: Context) -> Tensor:
    """Depends on every token of the change, on where each is and on which it is."""
    told = (ctx.positions + ctx.tokens).reshape(*ctx.positions.shape, *(1 for _ in ctx.axes[2:]))
    return h.flip(1) + h.mean(1, keepdim=True).tanh() + 0.01 * told.to(h)


def shifted(h: Tensor, ctx: Context) -> Tensor:
    """Of rows of attention: half of each row goes one token back."""
    return 0.5 * h + 0.5 * h.roll(-1, -1)


def near(found: Sequence[xr.Dataset]) -> float:
    """What rounding may move a logit by in float32."""
    return 2e-5 * (1 + max(float(abs(one.value).max()) for one in found))


WHERE: dict[str, Any] = {
    "a span": grid("resid_pre", layer=..., position=["subject"]),
    "heads": grid("z", layer=..., head=..., position=["subject", "end"]),
    "all positions": grid("mlp_out", layer=...),
    "all heads": grid("z", layer=...),
    "units": grid("mlp_post", layer=[1], unit=[0, 5], position="subject"),
    "the last block": grid("resid_post", layer=...),
}


@pytest.mark.parametrize("name", WHERE)
@pytest.mark.parametrize("kind", KINDS)
def test_strategies_agree(kind: str, name: str, seed: int) -> None:
    """Expected: the reference's numbers. Roles span one token or two, prompts differ in length."""
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [5, 7, 9, 6])
    found = [patch(model, pairs, WHERE[name], FIRST, edit=mixed, strategy=s) for s in ("serial", "batched", "auto")]
    for other in found[1:]:
        np.testing.assert_allclose(other.value, found[0].value, rtol=0, atol=near(found))
    assert float(abs(found[0].value - found[0].corrupt).max()) > 1e-3


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_function_is_a_torch_hook(kind: str, seed: int) -> None:
    """Expected: the same function in a forward hook on the MLP, one prompt at a time."""
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [5, 7])
    path = model.taps(Site.parse("L1.mlp_out")).path
    found = patch(model, pairs, Change("L1.mlp_out", edit=lambda h, ctx: h.flip(1) * 2), FIRST)
    for i, pair in enumerate(pairs):
        assert isinstance(pair.corrupted.text, tuple)
        expected = sweeps.rerun(model.module, path, pair.corrupted.text, lambda h: h.flip(1) * 2)[0]
        np.testing.assert_allclose(found.value[0, 0, i], expected, rtol=0, atol=near([found]))


def test_what_a_function_is_told(seed: int) -> None:
    """Expected: the pair's own ids and spans."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [5, 8, 6])
    calls: list[Context] = []

    def spy(h: Tensor, ctx: Context) -> Tensor:
        calls.append(ctx)
        assert h.shape[:2] == ctx.positions.shape
        assert len(h.shape) == len(ctx.axes)
        return h + 0 * ctx.source

    patch(model, pairs, Change("L1H1.z", "subject", Constant(2.0), spy), FIRST)
    assert {ctx.axes for ctx in calls} == {("example", "position", "d_head")}
    assert {repr(ctx.site) for ctx in calls} == {"L1H1.z"}
    for ctx in calls:
        assert ctx.source is not None
        assert bool((ctx.source == 2).all())
        for row, positions, tokens in zip(ctx.rows.tolist(), ctx.positions.tolist(), ctx.tokens.tolist(), strict=True):
            prompt = pairs[row].corrupted
            assert positions == list(range(*prompt.roles["subject"]))
            assert tokens == [prompt.text[p] for p in positions]
    assert {row for ctx in calls for row in ctx.rows.tolist()} == {0, 1, 2}


def test_patterns_come_as_the_site_declares_them(seed: int) -> None:
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [6, 8])
    axes: set[tuple[str, ...]] = set()

    def spy(h: Tensor, ctx: Context) -> Tensor:
        axes.add(ctx.axes)
        return shifted(h, ctx)

    where = [Change("L1.pattern", "end", edit=spy), Change("L1H2.pattern", "subject", edit=spy)]
    found = [patch(model, pairs, where, FIRST, strategy=s) for s in ("serial", "batched", "wavefront")]
    assert axes == {("example", "head", "position", "source_position"), ("example", "position", "source_position")}
    for other in found[1:]:
        np.testing.assert_allclose(other.value, found[0].value, rtol=0, atol=near(found))


def test_in_a_basis(seed: int) -> None:
    """Expected: the subspace's coordinates are doubled, which adds the projection; by a torch hook's arithmetic."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6])
    basis = torch.linalg.qr(torch.randn(model.sizes["d_model"], 3)).Q
    free = Change("L1.resid_post", "end", edit=lambda h, ctx: 2 * h, featurizer=Subspace(basis))
    whole = Change("L1.resid_post", "end", edit=lambda h, ctx: h + h @ basis @ basis.T)
    found = patch(model, pairs, [free, whole], FIRST)
    np.testing.assert_allclose(found.value[0, 0], found.value[0, 1], rtol=0, atol=near([found]))


def test_given_on_the_base(seed: int) -> None:
    """A function of all tokens in force on the base, and rows that begin behind its first token."""
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [7, 7])
    given = Change("L0.mlp_out", edit=mixed)
    found = [patch(model, pairs, grid("resid_pre", layer=...), FIRST, given=given, strategy=s) for s in ("serial", "auto")]
    np.testing.assert_allclose(found[1].value, found[0].value, rtol=0, atol=near(found))


def test_attribution_of_a_function_is_its_first_order_effect(seed: int) -> None:
    """Expected: gradient × (h' − h) predicts a small change to second order."""
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [6, 7])
    size = 1e-4
    where = [Change(f"L{layer}.z", "subject", edit=lambda h, ctx: h + size * mixed(h, ctx)) for layer in range(3)]
    exact, estimate = patch(model, pairs, where, FIRST), attribute(model, pairs, where, FIRST)
    effect = (exact.value - exact.corrupt).values
    np.testing.assert_allclose((estimate.value - estimate.corrupt).values, effect, atol=50 * size**2)
    assert abs(effect).max() > 1e-6


def test_text_is_generated_under_a_function(seed: int) -> None:
    """Expected: cached, a function of each token alone gives the text that it gives uncached."""
    model, prompt = sweeps.model("llama"), sweeps.random_pairs(seed, [6])[0].clean
    change = Change("L1.resid_post", edit=lambda h, ctx: 3 * h.roll(1, -1))
    cached, plain = (generate(model, prompt, [None, change], max_new_tokens=6, use_cache=c) for c in (True, False))
    assert torch.equal(cached.ids, plain.ids)
    assert not torch.equal(cached.logprobs[0], cached.logprobs[1])


def test_two_heads_of_one_row_come_apart(seed: int) -> None:
    """One intervention with the same function on two heads: each call holds one head's values."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6])
    both = Intervention.of("L1H0.z@subject", "L1H1.z@subject", edit=mixed)
    found = [patch(model, pairs, both, FIRST, strategy=s) for s in ("serial", "auto")]
    np.testing.assert_allclose(found[1].value, found[0].value, rtol=0, atol=near(found))


def half(h: Tensor, ctx: Context) -> Tensor:
    return h[..., ::2]


@pytest.mark.parametrize("strategy", ["serial", "batched", "wavefront"])
def test_another_shape_is_refused(strategy: Any, seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6])
    said = r"half at L1\.z returned shape \(1, 1, \d+, \d+\) for values of shape \(1, 1, "
    with pytest.raises(ShapeMismatchError, match=said):
        patch(model, pairs, Change("L1.z", "end", edit=half), FIRST, strategy=strategy)


def test_what_is_no_edit_is_refused(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6])
    with pytest.raises(ShapeMismatchError, match="returned 'NoneType' for values of shape"):
        patch(model, pairs, Change("L1.z", "end", edit=lambda h, ctx: None), FIRST)  # type: ignore[arg-type,return-value]
    with pytest.raises(UnknownNameError, match=r"a function \(h, ctx\) -> h"):
        sweeps.unchecked(Change.__init__)(object.__new__(Change), "L1.z", edit=3)


def test_explain_says_what_a_function_leaves_possible(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6])
    said = repr(explain(model, pairs, grid("resid_post", layer=...), FIRST, edit=mixed))
    assert "free function mixed: every strategy gives its rows; runs are anonymous, so they are not resumed" in said
    assert "L2.resid_post is changed at several tokens together" in said
    assert patch(model, pairs, grid("z", layer=...), FIRST, edit=mixed).attrs["spec"] is None
