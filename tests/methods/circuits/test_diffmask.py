"""DiffMask+: the card's ground truths, and the loss by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
import xarray as xr
from nets_gating import speakers, task

import interp
from interp.engine.heads import Heads
from interp.errors import AnswerError, InputError, UnknownNameError
from interp.interventions import Change, HardConcrete, Replace
from interp.methods.circuits.diffmask import Constraint, Preference, coins
from interp.prompts import Pair, Pairs

STRETCH = (-0.2, 1.0)
SHORT: dict[str, Any] = {"count": 3, "epochs": 3, "batch": 2, "lr": 0.1, "progress": False}


def published(dtype: torch.dtype, shape: int = 1, stretch: tuple[float, float] = STRETCH) -> HardConcrete:
    return HardConcrete((shape,), temperature=0.2, stretch=stretch).to(dtype)


def test_card_7_1_a_mask_begins_more_than_0_with_a_probability_of_0_58() -> None:
    """σ(−0.2 · ln(0.2 / 1)) = 0.579784, which the card has."""
    assert float(published(torch.float64).probability.detach()) == pytest.approx(0.579784, abs=1e-6)


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 0.035), (torch.float64, 0.00066)])
def test_card_7_2_exactly_1_appears_by_rounding_alone(dtype: torch.dtype, share: float, seed: int) -> None:
    """The card's 3.5 % and 0.066 %, of a million draws, within 6 standard errors and half a last digit; beyond 1 it is real."""
    generator, n = torch.Generator().manual_seed(seed), 1_000_000
    mask = published(dtype, n)
    mask.resample(generator)
    found = float((mask.value == 1).double().mean())
    assert found == pytest.approx(share, abs=6 * np.sqrt(share / n) + 0.02 * share)
    beyond = published(torch.float64, n, (-0.2, 1.2))
    beyond.resample(generator)
    expected = 1 / (1 + np.exp(0.2 * np.log(1.2 / 0.2)))
    assert float((beyond.value == 1).double().mean()) == pytest.approx(expected, abs=0.003)


@pytest.mark.parametrize("stretch", [STRETCH, (-0.1, 1.1)])
def test_the_expected_mask_is_the_mean_of_draws(stretch: tuple[float, float], seed: int) -> None:
    """Within 5 standard errors of 400 000 draws."""
    draws, logits = 400_000, torch.tensor([-1.5, -0.2, 0.0, 0.4, 2.0], dtype=torch.float64)
    masks = HardConcrete((5,), temperature=0.2, stretch=stretch, start=logits)
    many = HardConcrete((draws, 5), temperature=0.2, stretch=stretch, start=logits.expand(draws, 5))
    many.resample(torch.Generator().manual_seed(seed))
    found = many.value.mean(0)
    assert (masks.expectation - found).abs().max() < 5 * 0.5 / draws**0.5
    if stretch == (-0.1, 1.1):
        assert float(masks.expectation[2].detach()) == pytest.approx(0.5, abs=1e-6), "by symmetry"


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
def test_card_7_3_no_mask_is_the_clean_run_and_whole_masks_patch_all_heads(kind: str, seed: int) -> None:
    model = sweeps.model(kind, torch.float64)
    pairs, heads = sweeps.random_pairs(seed, [6, 4, 7]), Heads.of(model)

    def masked(logit: float) -> Any:
        def mask(layer: int, count: int) -> HardConcrete:
            return HardConcrete((count, 1), temperature=0.2, stretch=STRETCH, start=logit).double()

        return heads.edited(mask, -1)

    every = interp.Intervention(tuple(Change(site, -1, edit=Replace()) for site in heads.sites))
    found = interp.patch(model, pairs, [masked(-50.0), masked(50.0), every], "logprob", patching="noising", progress=False)
    none, whole, patched = found.value.values[0]
    np.testing.assert_allclose(none, found.clean.values[0], rtol=1e-5 if kind == "llama" else 1e-12)
    np.testing.assert_allclose(whole, patched, rtol=1e-5 if kind == "llama" else 1e-12)


def test_card_7_4_planted_heads_are_found_and_their_number_is_that_aimed_at() -> None:
    """Of six heads two say the subject; E[L0] ends within ½ of K = 2."""
    model = speakers([0.0, 3.0, 0.0, 0.0, 3.0, 0.0])
    pairs = Pairs(tuple(task(0, wrong=True)) * 2, "planted")
    found = interp.diffmask(model, pairs, count=2, seeds=2, epochs=600, batch=8, lr=0.05, lr_multiplier=0.05, progress=False)
    assert (found.selected.isel(layer=0).transpose("seed", "head").values == [False, True, False, False, True, False]).all()
    assert np.abs(found.l0.isel(step=slice(-50, None)).mean("step") - 2).max() < 0.5
    assert float(found.expected.where(found.selected).min()) > 0.7
    assert float(found.expected.where(~found.selected).max()) < 0.1
    assert found.multiplier.min() >= 0


@pytest.mark.parametrize("divergence", ["categorical", "bernoulli"])
def test_the_loss_by_hand(divergence: Any, seed: int) -> None:
    """Of the first step: one draw of masks, whole runs of the raw module."""
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [6, 5])
    found = interp.diffmask(model, pairs, divergence=divergence, seeds=[4], **SHORT)
    heads, draw = Heads.of(model), torch.Generator().manual_seed(4)
    u = [torch.rand((n, 1), generator=draw, dtype=torch.float64) for n in heads.counts]
    masks = [(-0.2 + 1.2 * torch.sigmoid(part.logit(eps=1e-6) / 0.2)).clamp(0, 1) for part in u]
    width, total = tiny.WIDTH // tiny.HEADS, []
    for pair in pairs:
        paths = [f"transformer.h.{layer}.attn.c_proj" for layer in range(3)]
        theirs = [sweeps.record(model.module, path, pair.corrupted.text, "input")[0, -1] for path in paths]

        def change(handled: torch.Tensor, m: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            weight = m.expand(tiny.HEADS, width).flatten()
            new = handled.clone()
            new[0, -1] = (1 - weight) * handled[0, -1] + weight * other
            return new

        handles = [
            sweeps._hook(model.module.get_submodule(path), "input", lambda h, m=m, other=other: change(h, m, other))
            for path, m, other in zip(paths, masks, theirs, strict=True)
        ]
        with torch.no_grad():
            edited = model.module(torch.tensor([list(pair.clean.text)])).logits[0, -1]
            for handle in handles:
                handle.remove()
            clean = model.module(torch.tensor([list(pair.clean.text)])).logits[0, -1]
        p, q = clean.softmax(-1), edited.softmax(-1)
        if divergence == "categorical":
            spared = (p * (p / q).log()).sum()
        else:
            a, b = clean.sigmoid(), edited.sigmoid()
            spared = (a * (a / b).log() + (1 - a) * ((1 - a) / (1 - b)).log()).mean()
        total.append(spared + p[list(pair.answers)].sum() / q[list(pair.wrong)].sum())
    assert float(found.loss.isel(seed=0, step=0)) == pytest.approx(float(torch.stack(total).mean()), rel=1e-8)
    size = sum(len(part) for part in u) / (1 + (0.2 / 1.0) ** 0.2)
    assert float(found.l0.isel(seed=0, step=0)) == pytest.approx(size, rel=1e-9)


def test_coins_are_bernoulli() -> None:
    a, b = torch.tensor([0.3, -2.0], dtype=torch.float64), torch.tensor([-1.0, 0.5], dtype=torch.float64)
    from torch.distributions import Bernoulli, kl_divergence

    expected = kl_divergence(Bernoulli(logits=a), Bernoulli(logits=b)).mean()
    torch.testing.assert_close(coins(a, b), expected)


def test_the_multiplier_rises_while_there_are_too_many_and_never_below_0() -> None:
    mask = interp.Intervention.of("L0.z", edit=HardConcrete((4, 1), temperature=0.2, stretch=STRETCH))
    size = 4 * 0.579784
    for count, moves in ((1, 1), (4, -1)):
        constraint = Constraint(count, 0.02, 0.01)
        first = constraint(mask)
        assert float(first.detach()) == pytest.approx(0.02 * (size - count), abs=1e-6)
        for _ in range(5):
            constraint(mask)
        steps = np.diff(constraint.multipliers)
        assert (moves * steps >= 0).all()
        assert moves * steps[0] == pytest.approx(0.01, rel=1e-3), "Adam's first step is the rate"
        assert min(constraint.multipliers) >= 0


def test_seeds_trained_together_are_as_if_alone(seed: int) -> None:
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(seed, [6, 5, 7])
    together = interp.diffmask(model, pairs, seeds=[2, 5], **SHORT)
    for one in (2, 5):
        alone = interp.diffmask(model, pairs, seeds=[one], **SHORT)
        for name in ("expected", "logits", "loss", "l0", "multiplier"):
            np.testing.assert_allclose(together[name].sel(seed=[one]), alone[name], atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "bloom"])
def test_other_architectures(kind: str, seed: int) -> None:
    found = interp.diffmask(sweeps.model(kind), sweeps.random_pairs(seed, [6, 5, 7]), **SHORT)
    assert np.isfinite(found.expected).all()
    assert int(found.selected.sum()) == 3


def test_a_run_is_kept_and_made_again(tmp_path: Path) -> None:
    model = interp.load("zoo/induction-2l")
    pairs = [Pair([5, 6, 7, 5], [5, 8, 7, 5], 6, 8), Pair([8, 5, 6, 8], [8, 7, 6, 8], 5, 7)]
    first = interp.diffmask(model, pairs, store=tmp_path, name="masks", **SHORT)
    xr.testing.assert_identical(interp.diffmask(model, pairs, store=tmp_path, **SHORT), first)
    again = interp.rerun(interp.Store(tmp_path).run("masks"))
    assert again.within
    xr.testing.assert_allclose(again.result.expected, first.expected)


def test_what_is_refused(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 5])
    ask: Any = sweeps.unchecked(interp.diffmask)
    with pytest.raises(UnknownNameError, match="unknown divergence 'categoric'; did you mean 'categorical'"):
        ask(model, pairs, divergence="categoric")
    with pytest.raises(ValueError, match="count=13; expected at most 12, the heads that there are"):
        ask(model, pairs, count=13)
    with pytest.raises(InputError, match="these pairs have no counterfactual, from which heads' outputs would be taken"):
        ask(model, [Pair(pair.clean, pair.clean, pair.answers, pair.wrong) for pair in pairs])
    with pytest.raises(AnswerError, match="metric 'preference' needs the 'wrong' tokens"):
        ask(model, [Pair(pair.clean, pair.corrupted, pair.answers) for pair in pairs])
    assert Preference().reads.needs == ("answers", "wrong")
