"""Self-repair: the terms are those of hooks by hand, they add up, and the head with a backup shows its backup."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import sweeps
import torch

from interp import effects
from interp.engine import patch
from interp.errors import InputError, UnknownNameError, UnknownSiteError
from interp.interventions import Change, Constant
from interp.methods.localise.self_repair import PARTS, self_repair
from interp.methods.readouts.direct_logit_attribution import dla
from interp.models import load
from interp.models.zoo import BACKUP, PRIMARY, backup_construction, backup_prompts
from interp.prompts import Pair, Pairs
from interp.sites import grid
from interp.views import curve, heatmap

KINDS = ["gpt2", "llama", "neox", "gemma2", "qwen3"]
STRENGTH = 0.75


def pairs_of(seed: int, lengths: list[int]) -> Pairs:
    """With one answer of one token each."""
    drawn = sweeps.random_pairs(seed, lengths)
    return Pairs(tuple(Pair(one.clean, one.corrupted, 11, 23) for one in drawn), "toy")


def test_the_backup_is_all_of_the_compensation() -> None:
    """Expected: the net's docstring. Zeroed, the first head loses its direct −1, and the second says ``strength`` in its place.

    The terms sum to total minus direct effect to 1e-6 (here far below), and none of it is norm or MLPs: there are none.
    """
    net = backup_construction(strength=STRENGTH).double()
    prompts = backup_prompts(net).tolist()
    pairs = [Pair(one, other, one[1], other[1]) for one, other in zip(prompts, prompts[1:] + prompts[:1], strict=True)]
    found = self_repair(load(net, name="backup"), Pairs(tuple(pairs)), grid("z", layer=..., head=..., position=[-1]), "zero")
    first, second = (found.sel(layer=layer, head=head, position=-1) for layer, head in (PRIMARY, BACKUP))
    for cell, total, direct in ((first, STRENGTH - 1, -1.0), (second, 0.0, 0.0)):
        np.testing.assert_allclose(cell["total"], total, rtol=0, atol=1e-9)
        np.testing.assert_allclose(cell["direct"], direct, rtol=0, atol=1e-9)
        np.testing.assert_allclose(cell["heads"], total - direct, rtol=0, atol=1e-9)
        for name in ("mlps", "norm", "rest"):
            np.testing.assert_allclose(cell[name], 0, rtol=0, atol=1e-9)
    np.testing.assert_allclose(sum(found[name] for name in PARTS), found["total"] - found["direct"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ablation", ["zero", "mean", "counterfactual"])
def test_the_terms_add_up_and_are_those_of_two_runs(kind: str, ablation: Any) -> None:
    """Expected: direct logit attribution of the run as it is and of the ablated one, put together at the base's norm scale."""
    model, pairs = sweeps.model(kind), pairs_of(131, [6, 8, 7])
    heads, mlps = (self_repair(model, pairs, where, ablation) for where in (grid("z", head=..., position=[-1]), "mlp_out"))
    for found in (heads, mlps):
        together = sum(found[name] for name in PARTS)
        np.testing.assert_allclose(together, found["compensation"], rtol=0, atol=1e-4)
        np.testing.assert_allclose(found["total"], effects.effect(found), rtol=0, atol=1e-4)
        np.testing.assert_allclose(found["rest"], 0, rtol=0, atol=1e-4 if kind != "gemma2" else 10)
    if ablation != "zero":
        return
    base = dla(model, pairs)
    off = dla(model, pairs, given=Change("L0H1.z", -1, Constant(0.0)))
    held = off["contribution"] * (off["scale"] / base["scale"]) - base["contribution"]
    cell = heads.sel(layer=0, head=1, position=-1, metric="logit_diff")
    np.testing.assert_allclose(cell["direct"], held.sel(term="L0H1"), rtol=0, atol=1e-4)
    mlp_terms = held.isel(term=(held["term_kind"] == "mlp").values).sum("term")
    np.testing.assert_allclose(cell["mlps"], mlp_terms, rtol=0, atol=1e-4)
    other = held.isel(term=((held["term_kind"] == "head") & (held["term"] != "L0H1")).values).sum("term")
    np.testing.assert_allclose(cell["heads"], other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
def test_the_total_effect_is_that_of_patching(kind: str) -> None:
    """Expected: noising with the other prompt's values, in every strategy's number."""
    model, pairs = sweeps.model(kind), pairs_of(132, [6, 6])
    where = grid("z", head=..., position=[-1, 3])
    found, expected = self_repair(model, pairs, where, "counterfactual"), patch(model, pairs, where, patching="noising")
    for name in ("value", "clean", "corrupt"):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-4)
    assert float(np.abs(found["direct"].sel(position=3)).max()) < 1e-5  # what it says elsewhere is not read directly


def test_without_a_norm_nothing_is_rescaled_and_the_last_layer_is_direct() -> None:
    """Behind the last block's MLP only the norm answers; in a linear net it does not either."""
    from nets_linear import linear

    model, pairs = linear(), pairs_of(133, [6, 6])
    found = self_repair(model, pairs, "mlp_out", "zero")
    np.testing.assert_allclose(found["norm"], 0, rtol=0, atol=1e-10)
    last = found.isel(layer=-1)
    np.testing.assert_allclose(last["compensation"], 0, rtol=0, atol=1e-9)
    np.testing.assert_allclose(last["direct"], last["total"], rtol=0, atol=1e-9)
    other = self_repair(sweeps.model("gpt2", torch.float64), pairs, "mlp_out", "zero").isel(layer=-1)
    np.testing.assert_allclose(other["compensation"], other["norm"], rtol=0, atol=1e-9)
    assert float(np.abs(other["norm"]).max()) > 1e-6


def test_given_changes_what_is_compared() -> None:
    model, pairs = sweeps.model("gpt2"), pairs_of(134, [6, 6])
    off = Change("L1H0.z", -1, Constant(0.0))
    found = self_repair(model, pairs, grid("z", layer=[0], head=..., position=[-1]), "zero", given=off)
    expected = patch(
        model, pairs, grid("z", layer=[0], head=..., position=[-1]), source=Constant(0.0), given=off, patching="noising"
    )
    np.testing.assert_allclose(found["total"], effects.effect(expected), rtol=0, atol=1e-4)


def test_what_has_no_part_of_its_own() -> None:
    model, pairs = sweeps.model("gpt2"), pairs_of(135, [6, 6])
    with pytest.raises(UnknownSiteError, match="it is no part of the sum that the last stream is"):
        self_repair(model, pairs, "resid_post")
    with pytest.raises(UnknownNameError, match="kind"):
        sweeps.unchecked(self_repair)(model, pairs, "mlp_out", "optimal")
    with pytest.raises(InputError, match=re.escape("where holds several families (a); self-repair takes one of them")):
        self_repair(model, pairs, {"a": "mlp_out"})
    alone = [pair.clean for pair in pairs]
    with pytest.raises(Exception, match="prompt 0 has no answer"):
        self_repair(model, alone, "mlp_out")


def test_parts_say_what_they_are_in_figures() -> None:
    model, pairs = sweeps.model("gpt2"), pairs_of(136, [6, 6])
    found = self_repair(model, pairs, grid("z", layer=..., head=..., position=[-1]), "zero")
    for figure in (heatmap(found, "compensation"), heatmap(found["compensation"].mean("example", keep_attrs=True))):
        assert figure.layout.title.text.startswith("compensation (total − direct), layer by head")
    np.testing.assert_allclose(
        heatmap(found, "compensation").data[0].z, found["compensation"].mean("example").squeeze(), rtol=0, atol=1e-6
    )
    drawn = curve(found.isel(head=0), "norm", x="layer")
    assert drawn.layout.title.text.startswith("compensation by the last norm over layer")
    with pytest.raises(UnknownNameError, match="unknown quantity 'compensations'"):
        heatmap(found, "compensations")
