"""Sweeps on a base that is changed already, and places where strategies once disagreed.

Tolerance: 1e-5 × (1 + max |logit|) in float32, against whole forward passes one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sweeps
import torch

from interp import effects
from interp.engine import edited, gradients, patch
from interp.interventions import Activation, Add, Change, Constant, Intervention, Scale
from interp.metrics import FromLogits
from interp.models.model import TorchHooks
from interp.prompts import Pairs, Prompt
from interp.sites import Site, grid

ATOL = 1e-5 * 11  # these models' logits are below 10


def same(model: Any, pairs: Pairs, where: Any, **options: Any) -> Any:
    """The numbers of ``serial``, which the other strategies give too."""
    serial = patch(model, pairs, where, strategy="serial", **options)
    for strategy in ("batched", "wavefront"):
        found = patch(model, pairs, where, strategy=strategy, **options)
        np.testing.assert_allclose(found["value"], serial["value"], rtol=0, atol=ATOL, err_msg=strategy)
        assert max(found.attrs["noise_floor"].values()) <= ATOL
        if "given" in serial:
            np.testing.assert_allclose(found["given"], serial["given"], rtol=0, atol=ATOL)
    return serial


GIVEN = [
    Intervention.of("L1H2.z", source=Constant(0.0)),
    Intervention.of("L2.attn_out@-1") & Intervention.of("L1.resid_post@-2"),
    Intervention.of(Change("L0.resid_post", "subject", edit=Add(0.7))),
    Intervention.of("embed@-1", source=Constant(0.1)),
    Intervention.of(Change("L1.q", -1, edit=Scale(0.5)), Change("L2.resid_pre", -1, edit=Scale(0.5))),
]


@pytest.mark.parametrize("kind", sorted(sweeps.MAKERS))
def test_every_site_on_a_changed_base(kind: str, seed: int) -> None:
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [6, 5])
    given = GIVEN[seed % len(GIVEN)]
    for k, name in enumerate(("resid_pre", "resid_mid", "resid_post", "z", "attn_out", "mlp_out", "mlp_post", "q")):
        if name in model.anatomy.absent:
            continue
        layers = [layer for layer in range(3) if model.has(Site(name, layer=layer))]
        source = (None, Constant(0.2), Activation("base"))[k % 3]
        same(model, pairs, grid(name, layer=layers, position=[1, -1]), given=given, source=source)


def test_effects_are_counted_from_the_changed_base(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 6])
    given = Intervention.of("L1H2.z", source=Constant(0.0))
    alone = patch(model, pairs, given)
    ds = patch(model, pairs, grid("L2.z", head=...), given=given)
    np.testing.assert_allclose(ds["given"].squeeze(), alone["value"].squeeze(), atol=ATOL)
    np.testing.assert_allclose(effects.effect(ds), ds["value"] - ds["given"])
    assert ds.attrs["given"] == repr(given)
    assert ds.attrs["spec"]["given"] == given.spec()
    assert patch(model, pairs, grid("L2.z", head=...)).attrs["spec"] != ds.attrs["spec"]


@pytest.mark.parametrize("kind", ["llama", "bloom", "neox"])
def test_what_is_given_behind_a_rows_own_change_has_the_last_word(kind: str, seed: int) -> None:
    """resid_post of a block and resid_pre of the next are one tensor, changed in that order."""
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [6, 5])
    own = [Intervention.of("L0.resid_post@-1", source=Constant(1.5)), Intervention.of("L1.resid_post@-1", source=Constant(1.5))]
    same(model, pairs, own, given=Intervention.of("L1.resid_pre@-1", source=Constant(0.0)))
    same(model, pairs, own, given=Intervention.of(Change("L2.resid_pre", -1, edit=Scale(0.5))))


@pytest.mark.parametrize("side", ["input", "output"])
def test_blocks_by_their_path(side: str, seed: int) -> None:
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [6, 5])
    for layer in range(3):
        path = f"model.layers.{layer}:{side}"
        asked = [
            Intervention.of(path, source=Constant(0.5)),
            Intervention.of(f"{path}@-2", "L2.mlp_out@-2", source=Constant(1.0)),
        ]
        same(model, pairs, asked)


def test_a_source_that_has_no_hash(seed: int) -> None:
    prompt = Activation(Prompt((9, 8, 7, 6, 5), {"end": (4, 5)}), positions=-1)
    asked = [Intervention.of("L1.resid_pre@-1", source=prompt), Intervention.of("L0.z@-1", "L2.z@-1", source=prompt)]
    same(sweeps.model("llama"), sweeps.random_pairs(seed, [6, 5]), asked)


def test_base_means_the_changed_base_and_given_is_made_once(seed: int) -> None:
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [6, 6, 5])
    given = Intervention.of("L1.resid_pre@-1", source=Activation("base"), edit=Add(1.0))
    ds = same(model, pairs, [Intervention.of("L2.z@-1", source=Activation("base"))], given=given)
    np.testing.assert_allclose(ds["value"].squeeze(), ds["given"].squeeze(), atol=ATOL)


@pytest.mark.parametrize("side", ["clean", "corrupted"])
def test_gradients_on_a_changed_base(side: Any, seed: int) -> None:
    """Expected: torch's own, of an offset at one MLP's output with another's halved, by hooks on Llama's modules."""
    model, pairs = sweeps.model("llama", torch.float64), sweeps.random_pairs(seed, [6, 6])
    first = FromLogits(lambda logits: logits[..., 0], "first")
    given = Change("L1.mlp_out", edit=Scale(0.5))
    found = gradients(model, model.encode(pairs), ["L0.mlp_out", "L1.mlp_out"], first, side, given=given)
    ids = torch.tensor([list(getattr(pair, side).text) for pair in pairs])
    layers: Any = model.module.model.layers
    offset = torch.zeros(*ids.shape, model.sizes["d_model"], dtype=torch.float64, requires_grad=True)
    handles = [
        layers[0].mlp.register_forward_hook(lambda m, args, out: out + offset),
        layers[1].mlp.register_forward_hook(lambda m, args, out: out / 2),
    ]
    logits = model.module(ids).logits[:, -1, 0]
    for handle in handles:
        handle.remove()
    (expected,) = torch.autograd.grad(logits.sum(), offset)
    torch.testing.assert_close(found.value, logits.detach(), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.gradient[Site("mlp_out", layer=0)], expected, rtol=0, atol=1e-9)
    plain = gradients(model, model.encode(pairs), ["L0.mlp_out", "L1.mlp_out"], first, side)
    assert float((plain.gradient[Site("mlp_out", layer=0)] - expected).abs().max()) > 1e-6
    assert not torch.allclose(plain.activation[Site("mlp_out", layer=1)], found.activation[Site("mlp_out", layer=1)])
    with edited(model, given):
        again = gradients(model, model.encode(pairs), ["L0.mlp_out"], first, side)
    torch.testing.assert_close(again.gradient[Site("mlp_out", layer=0)], expected, rtol=0, atol=1e-9)


def test_gradients_do_not_lead_through_what_is_held(seed: int) -> None:
    """Expected: what :func:`interp.attribute` takes for a slope: effects of a small change with the same parts held."""
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [6])
    first, size, site = FromLogits(lambda logits: logits[..., 0], "first"), 1e-6, Site("attn_out", layer=0)
    given = Change("L1H0.z", edit=Scale(2.0))
    for hold in ("pattern", "mlp_out", ("pattern", "ln_scale")):
        found = gradients(model, model.encode(pairs), [site], first, given=given, hold=hold, rows=1)
        moved = patch(model, pairs, Change(site, edit=Scale(1 + size)), first, patching="noising", given=given, hold=hold)
        slope = float((found.gradient[site] * found.activation[site]).sum())
        assert slope == pytest.approx(float(effects.effect(moved).squeeze()) / size, rel=1e-4, abs=1e-7)
    free = gradients(model, model.encode(pairs), [site], first, given=given)
    assert float((free.gradient[site] - found.gradient[site]).abs().max()) > 1e-6


def test_what_is_written_is_read_as_it_was_written(seed: int) -> None:
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [6, 6, 5])
    given = Intervention.of("L1.result@-1", source=Constant(0.0))
    ds = same(model, pairs, [Intervention.of("L1.result@-1", source=Activation("base"))], given=given)
    np.testing.assert_allclose(ds["value"].squeeze(), ds["given"].squeeze(), atol=ATOL)


def test_attention_stays_off_padding(seed: int) -> None:
    """A constant over all that is attended to: an example's number does not depend on how long its neighbours are."""
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [8, 6, 4])
    for asked in (
        Intervention.of(Change("L1.pattern", -1, Constant(1.0)), Change("embed", -1, Constant(1.0))),
        Intervention.of("L1.scores", source=Constant(1.0)),
        Intervention.of("L1H1.scores@-1", source=Constant(1.0)),
    ):
        alone = [float(patch(model, Pairs((pair,), "toy", {}), asked)["value"].squeeze()) for pair in pairs]
        np.testing.assert_allclose(same(model, pairs, asked)["value"].squeeze(), alone, atol=ATOL)


@pytest.mark.parametrize("fits", [1, 3])
def test_out_of_memory_in_a_part_of_the_base_run(fits: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [5] * 12)
    expected = patch(model, pairs, grid("resid_pre", layer=..., position=[-1]), strategy="serial")
    run = TorchHooks.run

    def limited(self: TorchHooks, inputs: Any, reads: Any, writes: Any) -> Any:
        if len(inputs["input_ids"]) > fits:
            raise torch.OutOfMemoryError("injected")
        return run(self, inputs, reads, writes)

    monkeypatch.setattr(TorchHooks, "run", limited)
    monkeypatch.setenv("INTERP_MEMORY_BYTES", "100000")  # the base run is kept in parts
    found = patch(model, pairs, grid("resid_pre", layer=..., position=[-1]))
    assert found.attrs["strategy"] == "wavefront"
    np.testing.assert_allclose(found["value"], expected["value"], rtol=0, atol=ATOL)


def test_attention_changed_at_tokens_that_are_not_carried(seed: int) -> None:
    """What is given lies before the rows' own change, so that none of its tokens is in their pass."""
    model, pairs = sweeps.model("neox-sequential"), sweeps.random_pairs(seed, [8, 8])
    given = Intervention.of(Change("L2H2.scores", 0, edit=Scale(0.5)))
    same(model, pairs, [Intervention.of("L1.z@-1", source=Constant(0.3))], given=given)


def test_forks_around_a_given_stream(seed: int) -> None:
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [6, 6])
    one = Intervention.of("L0H1.z@-1", source=Constant(1.0))
    other = Intervention.of("L1.resid_post@-1", source=Constant(1.5))
    same(model, pairs, [one, one & other], given=Intervention.of("L2.resid_pre@-1", source=Constant(0.0)))


def test_what_heads_add_comes_before_what_attention_adds(seed: int) -> None:
    """BLOOM shows both in one tensor; the network's order holds, whatever the order in which they are named."""
    model, pairs = sweeps.model("bloom"), sweeps.random_pairs(seed, [6, 6])
    attention, head = Change("L1.attn_out", -1, Constant(0.5)), Change("L1H0.result", -1, Constant(1.5))
    ds = same(model, pairs, [Intervention((attention, head), ordered=True), Intervention((head, attention), ordered=True)])
    np.testing.assert_allclose(ds["value"].isel(cell=0), ds["value"].isel(cell=1), atol=ATOL)
