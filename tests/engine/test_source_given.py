"""Sources of runs in which something is changed: the values are those that a run by itself gives, however deep."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import sweeps
import torch

from interp.engine import attribute, explain, patch, run
from interp.errors import InputError, UnknownSiteError
from interp.interventions import Activation, Add, Change, Constant, Intervention, Scale, attention_knockout
from interp.models import Model
from interp.sites import grid
from interp.store import Store

KINDS = ["gpt2", "llama", "neox", "gemma2"]
BASE = Activation("base")


def frozen(model: Model, sender: Change) -> Intervention:
    """A sender changed, and the heads behind it as they are."""
    assert sender.site.layer is not None
    behind = range(sender.site.layer + 1, model.sizes["layer"])
    return Intervention((sender, *(Change(f"L{layer}.z", source=BASE) for layer in behind)))


def captured(model: Model, pairs: Any, intervention: Intervention | None, site: str, **options: Any) -> torch.Tensor:
    return run(model, pairs, intervention, capture=site, logits="none", **options)[site]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("patching", ["denoising", "noising"])
@pytest.mark.parametrize("strategy", ["auto", "serial"])
def test_what_a_changed_run_holds_is_written(kind: str, patching: Any, strategy: Any) -> None:
    """Expected: one pair, its values captured in a run by itself and written as a constant."""
    model, pairs = sweeps.model(kind, torch.float64), sweeps.random_pairs(41, [6])
    through = frozen(model, Change("L0H1.z", 4))
    source = Activation("base", given=through)
    found = patch(model, pairs, Change("L1.mlp_pre", 4, source), patching=patching, strategy=strategy)
    value = captured(model, pairs, through, "L1.mlp_pre", patching=patching)[0, 4]
    expected = patch(model, pairs, Change("L1.mlp_pre", 4, value), patching=patching, strategy="serial")
    np.testing.assert_allclose(found["value"], expected["value"], rtol=0, atol=1e-10)
    assert float(np.abs(expected["value"] - expected["clean" if patching == "noising" else "corrupt"]).max()) > 1e-6


@pytest.mark.parametrize("which", ["clean", "corrupted", "source", "base"])
def test_any_run_of_the_pairs_can_be_changed(which: Any) -> None:
    """Expected: the run with the same words by :func:`interp.run`, whose base it is."""
    model, pairs = sweeps.model("llama", torch.float64), sweeps.random_pairs(42, [7])
    change = Change("L0.mlp_out", 3, Constant(0.5), Add())
    found = patch(model, pairs, Change("L1.resid_post", -1, Activation(which, given=change)), patching="denoising")
    side: Any = "noising" if which in ("clean", "source") else "denoising"
    value = captured(model, pairs, Intervention((change,)), "L1.resid_post", patching=side)[0, -1]
    expected = patch(model, pairs, Change("L1.resid_post", -1, value), patching="denoising")
    np.testing.assert_allclose(found["value"], expected["value"], rtol=0, atol=1e-10)


def test_base_is_the_base_with_what_is_given() -> None:
    """Expected: the changed base, captured; ``"corrupted"`` is that prompt's run without it."""
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(43, [6])
    standing, off = Change("L0.attn_out", 2, Constant(1.0), Add()), Change("L0.mlp_out", 2, edit=Scale(0.0))
    for which, given in (("base", standing), ("corrupted", None)):
        source = Activation(which, given=off)  # type: ignore[arg-type]
        found = patch(model, pairs, Change("L1.resid_mid", -1, source), given=standing)
        value = captured(model, pairs, Intervention((off,)), "L1.resid_mid", given=given)[0, -1]
        expected = patch(model, pairs, Change("L1.resid_mid", -1, value), given=standing)
        np.testing.assert_allclose(found["value"], expected["value"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_paths_nest(kind: str) -> None:
    """Expected: three runs, each writing what the one before it held."""
    model, pairs = sweeps.model(kind, torch.float64), sweeps.random_pairs(44, [6])
    first = Change("L0H0.z", 2)
    second = Change("L1H1.q", 5, Activation("base", given=frozen(model, first)))
    third = Change("L1.mlp_pre", 5, Activation("base", given=second))
    found = patch(model, pairs, third, patching="noising")
    q = captured(model, pairs, frozen(model, first), "L1H1.q", patching="noising")[0, 5]
    pre = captured(model, pairs, Intervention((Change("L1H1.q", 5, q),)), "L1.mlp_pre", patching="noising")[0, 5]
    expected = patch(model, pairs, Change("L1.mlp_pre", 5, pre), patching="noising", strategy="serial")
    np.testing.assert_allclose(found["value"], expected["value"], rtol=0, atol=1e-10)


def test_many_examples_and_cells_share_their_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left padding, several examples and cells: the same as pair by pair; a run is made once for all that read it."""
    model, pairs = sweeps.model("llama", torch.float64), sweeps.random_pairs(45, [5, 8, 6])
    through = frozen(model, Change("L0H1.z", -1))
    cells = [Change(f"L1H{head}.q", -1, Activation("base", given=through)) for head in range(2)]
    found = patch(model, pairs, cells, patching="noising")
    alone = [patch(model, pairs[n : n + 1], cells, patching="noising", strategy="serial")["value"].values for n in range(3)]
    np.testing.assert_allclose(found["value"], np.concatenate(alone, -1), rtol=0, atol=1e-10)


def test_knocked_out_attention_in_a_source() -> None:
    model, pairs = sweeps.model("llama", torch.float64), sweeps.random_pairs(46, [6])
    for renormalise in (False, True):
        cut = attention_knockout(-1, 2, layers=[0, 1], renormalise=renormalise)
        found = patch(model, pairs, Change("L1.mlp_out", -1, Activation("base", given=cut)))
        value = captured(model, pairs, cut, "L1.mlp_out")[0, -1]
        expected = patch(model, pairs, Change("L1.mlp_out", -1, value))
        np.testing.assert_allclose(found["value"], expected["value"], rtol=0, atol=1e-10)


def test_slopes_and_plans_know_it() -> None:
    """Attribution is exact where the metric is linear in the site: the last block's output at the read position, norm held."""
    model, pairs = sweeps.model("gpt2", torch.float64), sweeps.random_pairs(47, [6, 6])
    last = model.sizes["layer"] - 1
    source = Activation("base", given=Change("L0H0.z", 3))
    where = grid(f"L{last}.mlp_out", position=[-1])
    exact = patch(model, pairs, where, source=source, patching="noising", hold="ln_scale")
    estimate = attribute(model, pairs, where, source=source, patching="noising", hold="ln_scale")
    np.testing.assert_allclose(estimate["value"], exact["value"], rtol=0, atol=1e-9)
    assert explain(model, pairs, where, source=source).cells == 1


def test_it_is_part_of_a_runs_identity_and_recipe(tmp_path: object) -> None:
    from interp.reruns import rerun

    model, pairs, store = sweeps.model("gpt2"), sweeps.random_pairs(48, [6]), Store(str(tmp_path))
    for head in (0, 1, 0):
        patch(model, pairs, grid("q", position=[-1]), source=Activation("base", given=Change(f"L0H{head}.z", 3)), store=store)
    runs = store.runs()
    assert len(runs) == 2
    assert rerun(store.run(runs.index[0] if runs.index.name == "id" else runs["id"].iloc[0]), model=model).within


def test_what_cannot_be_in_force_on_a_source() -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(49, [6])
    with pytest.raises(InputError, match=r"given of a source is of type str; expected an interp.Intervention or interp.Change"):
        sweeps.unchecked(Activation.__init__)(object.__new__(Activation), "base", given="L0.z")
    with pytest.raises(InputError, match=re.escape("prompt='base', 'source', 'clean' or 'corrupted', and no model=")):
        Activation("Hello", given=Change("L0.z"))
    with pytest.raises(UnknownSiteError):
        patch(model, pairs, Change("L1.z", -1, Activation("base", given=Change("L0.expert_out", -1))))
    alone = ["Hello"] if model.tokenizer is not None else [[1, 2, 3]]
    with pytest.raises(InputError, match="takes its values from the source prompt, but these are no pairs"):
        patch(model, alone, Change("L1.z", -1, Activation("base", given=Change("L0.z", -1))), "kl")
    assert repr(Activation("base", given=Change("L0H1.z", 2))) == "Activation(base, given L0H1.z@2 ← Activation(source))"
    assert Activation("source", given=Change("L0.z")).is_counterpart is False
