"""A corrupted run that is the clean prompt with something in force: both directions, every strategy, recovery."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sweeps
import torch

from interp import effects
from interp.engine import attribute, explain, patch, run
from interp.errors import InputError
from interp.interventions import Activation, Add, Change, Constant, Intervention, Noise
from interp.prompts import Pairs
from interp.sites import grid
from interp.store import Store

NOISE = Change("embed", [2, 3], Noise(0.7, seed=5), Add())
KINDS = ["gpt2", "llama", "neox", "gemma2"]


def prompts(seed: int, lengths: list[int]) -> Pairs:
    return sweeps.random_pairs(seed, lengths)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", ["auto", "batched", "serial"])
def test_denoising_is_given_on_the_clean_prompt(kind: str, strategy: Any) -> None:
    """Expected: the same noise as ``given`` on the clean prompts, values from a run captured without it."""
    model, pairs = sweeps.model(kind, torch.float64), prompts(61, [7])
    where = grid("resid_post", position=[1, 3, 5])
    found = patch(model, pairs, where, corruption=NOISE, strategy=strategy)
    clean = run(model, pairs, capture="resid_post", patching="noising")
    cells = [
        Change(f"L{layer}.resid_post", at, clean[f"L{layer}.resid_post"][0, at])
        for layer in range(model.sizes["layer"])
        for at in (1, 3, 5)
    ]
    expected = patch(model, pairs, cells, given=NOISE, patching="noising", strategy="serial")
    np.testing.assert_allclose(found["value"].values.ravel(), expected["value"].values.ravel(), rtol=0, atol=1e-10)
    np.testing.assert_allclose(found["corrupt"], expected["given"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(found["clean"], expected["clean"], rtol=0, atol=1e-10)
    assert "given" not in found
    assert found["by_rule"].sel(position=1).all()
    assert not found["by_rule"].sel(position=[3, 5]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_noising_takes_values_of_the_changed_run(kind: str) -> None:
    """Expected: values captured in the noised run, written one by one into the clean one."""
    model, pairs = sweeps.model(kind, torch.float64), prompts(62, [7])
    found = patch(model, pairs, grid("mlp_out", position=[1, 3, 5]), corruption=NOISE, patching="noising")
    noised = run(model, pairs, Intervention((NOISE,)), capture="mlp_out", patching="noising")
    cells = [
        Change(f"L{layer}.mlp_out", at, noised[f"L{layer}.mlp_out"][0, at])
        for layer in range(model.sizes["layer"])
        for at in (1, 3, 5)
    ]
    expected = patch(model, pairs, cells, patching="noising", strategy="serial")
    np.testing.assert_allclose(found["value"].values.ravel(), expected["value"].values.ravel(), rtol=0, atol=1e-10)
    assert found["by_rule"].sel(position=1).all()
    assert found.attrs["corruption"] == "embed@2,3 ← Noise(std=0.7, seed=5) Add(scale=1.0)"


def test_a_whole_stream_carries_all_of_it() -> None:
    """Restoring every position of a layer gives the clean value, noising it the corrupted one; plain prompts do."""
    model, pairs = sweeps.model("llama", torch.float64), prompts(63, [6, 8, 7])
    for patching, value in (("denoising", 1.0), ("noising", 0.0)):
        found = patch(model, pairs, "resid_post", corruption=NOISE, patching=patching)  # type: ignore[arg-type]
        np.testing.assert_allclose(effects.recovery(found), value, rtol=0, atol=1e-8)
    alone = [pair.clean for pair in pairs]
    found = patch(model, alone, "resid_post", "kl", corruption=NOISE)
    assert effects.paired(found)
    np.testing.assert_allclose(found["value"], 0.0, rtol=0, atol=1e-10)
    assert float(found["corrupt"].min()) > 1e-6


def test_something_given_comes_on_top() -> None:
    """Expected: noise, then what is given, both in force on the base; the corrupted run has the noise alone."""
    model, pairs = sweeps.model("gpt2", torch.float64), prompts(64, [6])
    off = Change("L0.mlp_out", 4, Constant(0.3), Add())
    found = patch(model, pairs, grid("resid_mid", position=[3]), corruption=NOISE, given=off)
    both = patch(model, pairs, Change("L0.z", 0, edit=lambda h, ctx: h), given=[NOISE, off], patching="noising")
    np.testing.assert_allclose(found["given"], both["given"], rtol=0, atol=1e-10)
    noise = patch(model, pairs, Change("L0.z", 0, edit=lambda h, ctx: h), given=[NOISE], patching="noising")
    np.testing.assert_allclose(found["corrupt"], noise["given"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("patching", ["denoising", "noising"])
def test_slopes_see_it(patching: Any) -> None:
    """Exact where the metric is linear in the site: the last MLP's output with the last norm held."""
    model, pairs = sweeps.model("gpt2", torch.float64), prompts(65, [6, 7])  # RMSNorms of transformers compute in float32
    where = grid(f"L{model.sizes['layer'] - 1}.mlp_out", position=[-1])
    options: Any = {"corruption": NOISE, "patching": patching, "hold": "ln_scale"}
    exact, estimate = patch(model, pairs, where, **options), attribute(model, pairs, where, **options)
    for name in ("value", "clean", "corrupt"):
        np.testing.assert_allclose(estimate[name], exact[name], rtol=0, atol=1e-9)
    assert float(np.abs(exact["value"] - exact["clean"]).max()) > 1e-6


def test_other_corruptions(tmp_path: object) -> None:
    """A mean over prompts, and values of the clean run elsewhere; each is a run of its own in the store."""
    model, pairs, store = sweeps.model("gpt2"), prompts(66, [6, 6, 6]), Store(str(tmp_path))
    mean = Change("embed", 2, Activation("base", pool="mean"))
    moved = Change("L0.resid_pre", 2, Activation("clean", positions=3))
    for corruption in (mean, moved, [mean, NOISE], mean):
        found = patch(model, pairs, grid("resid_post", position=[2, -1]), corruption=corruption, store=store)
        assert float(np.abs(found["corrupt"] - found["clean"]).max()) > 1e-6
        assert "corruption" in found.attrs["spec"]
    assert len(store.runs()) == 3
    assert "1 cell" in str(explain(model, pairs, "L1.resid_post", corruption=mean))


def test_a_corruption_does_not_read_what_it_makes() -> None:
    model, pairs = sweeps.model("gpt2"), prompts(67, [6])
    for which in ("source", "corrupted"):
        with pytest.raises(InputError, match=f"takes its values from the {which} run, which the corruption itself makes"):
            patch(model, pairs, "L0.z", corruption=Change("embed", 2, Activation(which)))  # type: ignore[arg-type]
