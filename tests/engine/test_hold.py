"""Parts that are held at the base's values: in every strategy, against torch hooks, for slopes and for training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sweeps
import torch
from torch import Tensor, nn

from interp import Change, Site, effects, explain, grid, patch
from interp.doctor.architectures import loaded
from interp.engine import attribute
from interp.engine.background import held, words
from interp.errors import HeadOutOfRangeError, UnknownSiteError
from interp.interventions import Constant, Gate, Intervention, Scale
from interp.metrics import FromLogits
from interp.training import fit
from interp.views import heatmap

FIRST = FromLogits(lambda logits: logits[..., 0], "first")
HOLDS: tuple[Any, ...] = (("pattern",), ("mlp_out",), ("pattern", "mlp_out"), "L1.z", ("z", "mlp_out"), ("resid_mid",))
WHERE = (
    grid("z", layer=..., head=..., position="subject"),
    grid("resid_pre", layer=..., position="end"),
    grid("mlp_out", layer=...),
    grid("q", layer=..., head=...),
)


@pytest.mark.parametrize("hold", HOLDS, ids=str)
@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "gemma2"])
def test_strategies_agree(kind: str, hold: Any, seed: int) -> None:
    """Expected: the reference's numbers, and others than without anything held somewhere."""
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [6, 8, 7])
    if hold == ("resid_mid",) and not model.has(Site("resid_mid", layer=0)):
        pytest.skip("attention and MLP read the same stream")
    moved = 0.0
    for where in WHERE:
        found = [patch(model, pairs, where, FIRST, hold=hold, strategy=s) for s in ("serial", "batched", "auto")]
        size = 2e-5 * (1 + float(abs(found[0].value).max()))
        for other in found[1:]:
            np.testing.assert_allclose(other.value, found[0].value, rtol=0, atol=size)
        moved = max(moved, float(abs(patch(model, pairs, where, FIRST).value - found[0].value).max()))
    assert moved > 1e-3


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_held_mlps_are_torch_hooks(kind: str, seed: int) -> None:
    """Expected: hooks that write what every MLP gave the base prompt, beside one that scales an attention output."""
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [6, 8])
    paths = [model.taps(Site("mlp_out", layer=layer)).path for layer in range(3)]
    changed = model.taps(Site("attn_out", layer=1)).path
    found = patch(model, pairs, Change("L1.attn_out", edit=Scale(3.0)), FIRST, hold="mlp_out")
    for i, pair in enumerate(pairs):
        ids = pair.corrupted.text
        assert isinstance(ids, tuple)
        own = {path: sweeps.record(model.module, path, ids) for path in paths}
        handles = [_gives(model.module.get_submodule(path), own[path]) for path in paths]
        expected = sweeps.rerun(model.module, changed, ids, lambda h: 3 * h)[0]
        for handle in handles:
            handle.remove()
        got = float(found.value[0, 0, i])
        assert abs(got - float(expected)) < 1e-5 * (1 + abs(float(expected)))
        assert abs(got - float(sweeps.rerun(model.module, changed, ids, lambda h: 3 * h)[0])) > 1e-4


def _gives(module: nn.Module, value: Tensor) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        return (value, *output[1:]) if isinstance(output, tuple) else value

    return module.register_forward_hook(hook)


@pytest.mark.parametrize("kind", ["gpt2", "neox"])  # Llama's norm computes in float32
def test_with_all_components_held_effects_add_up(kind: str, seed: int) -> None:
    """Expected: linear but for the final norm, whose scale moves little under a small change: the sum of the single effects.

    Every head and MLP is held, so that each has its direct effect alone.
    """
    model, pairs = sweeps.model(kind, torch.float64), sweeps.random_pairs(seed, [6, 7])
    size, hold = 1e-6, ("z", "mlp_out")
    single = [Change(f"L{layer}.{name}", "end", edit=Scale(1 + size)) for layer in range(3) for name in ("z", "mlp_out")]
    every = Intervention(tuple(single))
    found = effects.effect(patch(model, pairs, [*single, every], FIRST, hold=hold))
    np.testing.assert_allclose(found[0, :-1].sum("cell"), found[0, -1], rtol=1e-4, atol=1e-12)
    free = effects.effect(patch(model, pairs, single[:1], FIRST))
    assert abs(float(free[0, 0, 0]) - float(found[0, 0, 0])) > 1e-9


def test_slopes_do_not_lead_through_what_is_held(seed: int) -> None:
    """Expected: exact effects of small changes with the same parts held, to second order."""
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [6, 7])
    size = 1e-5
    where = [Change(f"L{layer}.attn_out", "subject", edit=Scale(1 + size)) for layer in range(3)]
    for hold in (("pattern",), ("mlp_out", "pattern"), ("z",)):
        exact, slope = (effects.effect(f(model, pairs, where, FIRST, hold=hold)) for f in (patch, attribute))
        np.testing.assert_allclose(slope, exact, rtol=1e-3, atol=1e-12)
    free = effects.effect(attribute(model, pairs, where, FIRST))
    assert float(abs(free - slope).max()) > 1e-9


def test_given_and_held_together(seed: int) -> None:
    """What is held has the value that it has in the base with what is given: held everywhere, nothing is left to move."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 8])
    given = Change("L0.mlp_out", edit=Scale(0.0))
    where = grid("resid_pre", layer=[1], position="subject")
    found = [patch(model, pairs, where, FIRST, given=given, hold="resid_post", strategy=s) for s in ("serial", "auto")]
    for one in found:
        np.testing.assert_allclose(one.value, one.given.broadcast_like(one.value), rtol=0, atol=1e-5)
    assert float(abs(found[0].given - found[0].corrupt).max()) > 1e-3


def test_training_sees_what_is_held(seed: int) -> None:
    """Expected: with everything behind it held, a gate has no gradient and its loss stays."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 6])
    gate = Change("L1.z", "end", edit=Gate((1, 1)))
    trained = fit(model, pairs, gate, "logprob", hold=("L1.resid_post",), epochs=3, lr=1.0, shuffle=False, batch=2)
    np.testing.assert_allclose(trained.loss, np.broadcast_to(trained.loss[:, :1], trained.loss.shape), rtol=0, atol=1e-6)
    free = fit(model, pairs, Change("L1.z", "end", edit=Gate((1, 1))), "logprob", epochs=3, lr=1.0, shuffle=False, batch=2)
    assert float(abs(free.loss - trained.loss).max()) > 1e-4


def test_results_and_figures_say_what_was_held(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 8, 7, 6])
    where = grid("z", layer=..., head=...)
    given = Change("L0.mlp_out", source=Constant(0.0))
    found = patch(model, pairs, where, "logit_diff", hold=("pattern", "L1.mlp_out"), given=given)
    assert found.attrs["hold"] == ["pattern", "L1.mlp_out"]
    assert found.attrs["spec"]["hold"][-1] == "L1.mlp_out"
    said = heatmap(found).layout.title.text.replace("<br>", " ")
    assert "held: pattern, L1.mlp_out" in " ".join(said.split())
    assert "given L0.mlp_out ← Constant(0.0)" in " ".join(said.split())
    assert "hold" not in patch(model, pairs, where).attrs
    assert "eager" in repr(explain(model, pairs, where, hold="pattern"))


def test_one_head_of_every_layer_is_held(seed: int) -> None:
    """A head without a layer is that head in each of them, and no other."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 8, 7, 6])
    where = grid("resid_pre", layer=..., position="end")
    named = patch(model, pairs, where, FIRST, hold="H1.z")
    listed = patch(model, pairs, where, FIRST, hold=[f"L{layer}H1.z" for layer in range(model.sizes["layer"])])
    np.testing.assert_array_equal(named.value, listed.value)
    assert float(abs(named.value - patch(model, pairs, where, FIRST, hold="z").value).max()) > 1e-5
    assert named.attrs["hold"] == listed.attrs["hold"] == ["H1.z"]


def test_a_stream_that_is_held_is_named() -> None:
    model = loaded("t5")
    assert words(model, held(model, ("z", "encoder:L0.z"))) == ["z", "encoder:L0.z"]  # type: ignore[arg-type]
    assert words(model, held(model, "encoder:z")) == ["encoder:z"]  # type: ignore[arg-type]


def test_what_cannot_be_held(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6])
    with pytest.raises(UnknownSiteError, match="did you mean 'pattern'"):
        patch(model, pairs, grid("z", layer=..., head=...), hold="patern")
    with pytest.raises(HeadOutOfRangeError, match="layer 9"):
        patch(model, pairs, grid("z", layer=..., head=...), hold="L9.z")
