"""Causal mediation (card 3): identities that hold for any model, a linear one, and mediators that carry all or nothing."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import sweeps
import torch
import xarray as xr
from nets_linear import linear

from interp import effects
from interp.engine import patch
from interp.errors import InputError, UnknownNameError
from interp.interventions import Intervention
from interp.methods.localise.causal_mediation import concentration, mediate
from interp.sites import grid

SCALES: Any = ["difference", "ratio"]


def ones(found: xr.DataTree, scale: Any, aggregate: Any = None) -> dict[str, np.ndarray[Any, Any]]:
    return {name: variable.values for name, variable in effects.mediation(found, scale, aggregate).items()}


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "gemma2", "bloom"])
def test_total_is_direct_and_reverse_indirect(kind: str) -> None:
    """Card 3.1: TE = NDE + rNIE, and of ratios 1 + TE = (1 + NDE)(1 + rNIE), for every example."""
    found = mediate(sweeps.model(kind), sweeps.random_pairs(101, [6, 6, 6]), grid("z", head=..., position=[-1]))
    for scale in SCALES:
        each = effects.mediation(found, scale, None)
        if scale == "difference":
            together = each["direct"] + each["reverse_indirect"]
        else:
            together = (1 + each["direct"]) * (1 + each["reverse_indirect"]) - 1
        np.testing.assert_allclose(together, each["total"].broadcast_like(together), rtol=0, atol=1e-10)
        assert float(abs(each["indirect"]).max()) > 1e-6


def test_a_linear_net_has_no_interaction() -> None:
    """Card 3.2: TE = NDE + NIE where everything is linear; on another net they differ by the interaction."""
    pairs = sweeps.random_pairs(102, [6, 6])
    each = ones(mediate(linear(), pairs, grid("z", head=...), "logit_diff"), "difference")
    np.testing.assert_allclose(each["direct"] + each["indirect"] - each["total"][:, None, None], 0, rtol=0, atol=1e-10)
    each = ones(mediate(sweeps.model("gpt2"), pairs, grid("z", head=...), "logit_diff"), "difference")
    assert np.abs(each["direct"] + each["indirect"] - each["total"][:, None, None]).max() > 1e-4


@pytest.mark.parametrize("scale", SCALES)
def test_a_cut_carries_everything_and_other_mediators_nothing(scale: Any) -> None:
    """Card 3.3 and 3.4: all positions of a stream: NIE = TE, NDE = 0. A mediator behind which nothing is read: NIE = 0."""
    model, pairs = sweeps.model("llama", torch.float64), sweeps.random_pairs(103, [6, 6])
    whole = ones(mediate(model, pairs, "L1.resid_post"), scale)
    np.testing.assert_allclose(whole["indirect"].reshape(whole["total"].shape), whole["total"], rtol=0, atol=1e-7)
    np.testing.assert_allclose(whole["direct"], 0, rtol=0, atol=1e-7)
    last = model.sizes["layer"] - 1
    nothing = ones(mediate(model, pairs, grid(f"L{last}.mlp_out", position=[2])), scale)
    np.testing.assert_allclose(nothing["indirect"], 0, rtol=0, atol=1e-10)
    np.testing.assert_allclose(nothing["direct"][:, 0], nothing["total"], rtol=0, atol=1e-7)


def test_the_indirect_effect_is_noising() -> None:
    """Card 3.5, to the bit."""
    model, pairs, where = sweeps.model("gpt2"), sweeps.random_pairs(104, [6, 6]), grid("mlp_post", layer=[1], unit=[0, 3, 5])
    found = mediate(model, pairs, where)
    np.testing.assert_array_equal(found["indirect"]["value"], patch(model, pairs, where, "odds", patching="noising")["value"])
    np.testing.assert_array_equal(found["direct"]["value"], patch(model, pairs, where, "odds", patching="denoising")["value"])
    assert found["indirect"].attrs["method"] == "mediate"


def test_odds_are_those_of_two_probabilities() -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(105, [5, 5])
    clean = patch(model, pairs, "L0.z", ["odds", "prob", "prob_diff"])["clean"]
    right, difference = clean.sel(metric="prob"), clean.sel(metric="prob_diff")
    np.testing.assert_allclose(clean.sel(metric="odds"), (right - difference) / right, rtol=1e-4)


def test_families_and_aggregates() -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(106, [6, 6, 6])
    found = mediate(model, pairs, {"heads": grid("z", head=...), "mlps": "mlp_out"})
    each = effects.mediation(found["heads"], "ratio", None)["indirect"]
    for aggregate, expected in (
        ("mean", each.mean("example")),
        ("median", each.median("example")),
        ("log", np.log1p(each).mean("example")),
    ):
        got = effects.mediation(found["heads"], "ratio", aggregate)["indirect"]  # type: ignore[arg-type]
        np.testing.assert_allclose(got, expected)
    with pytest.raises(effects.EffectsError, match="of several families choose one"):
        effects.mediation(found)


@pytest.mark.parametrize("search", ["top", "greedy"])
def test_few_mediators_may_carry_it(search: Any) -> None:
    """The sets grow by one; the set of all heads and MLPs' streams at once carries everything. Expected: the sets by hand."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(107, [6, 6, 6])
    where = grid("z", head=...)
    found = concentration(model, pairs, where, 3, "logit_diff", search=search)
    assert found["size"].values.tolist() == [1, 2, 3]
    names = found["mediator"].values.tolist()
    sites = [name.split(" ")[0] for name in names]
    assert len(set(sites)) == 3
    sets = [Intervention.of(*sites[:size]) for size in (1, 2, 3)]
    expected = patch(model, pairs, sets, patching="noising", strategy="serial")["value"]
    np.testing.assert_allclose(found["value"], expected, rtol=0, atol=1e-4)
    single = patch(model, pairs, where, patching="noising")
    sign = np.sign(float((single["corrupt"] - single["clean"]).mean()))
    best = (sign * effects.effect(single).mean("example")).values[0]
    layer, head = np.unravel_index(best.argmax(), best.shape)
    assert sites[0] == f"L{layer}H{head}.z"
    assert found.attrs["in_sample"]
    shares = effects.damage(found).values[0]
    assert shares[0] > 0


def test_what_is_no_mediation() -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(108, [6, 6])
    found = mediate(model, pairs, "mlp_out", "logit_diff")
    with pytest.raises(effects.EffectsError, match="a ratio needs a response above 0 in every run, such as metric='odds'"):
        effects.mediation(found, "ratio")
    with pytest.raises(effects.EffectsError, match=re.escape("aggregate='log' is the mean of log(1 + ·)")):
        effects.mediation(found, "difference", "log")
    with pytest.raises(UnknownNameError, match="scale"):
        sweeps.unchecked(effects.mediation)(found, "odds")
    swapped = xr.DataTree.from_dict({"indirect": found["direct"].to_dataset(), "direct": found["indirect"].to_dataset()})
    with pytest.raises(effects.EffectsError, match="'indirect' is a sweep in the direction 'denoising'; expected 'noising'"):
        effects.mediation(swapped)
    with pytest.raises(InputError, match=r"k=99; expected how many mediators the largest set has, 1 to 3"):
        concentration(model, pairs, "mlp_out", 99)
    with pytest.raises(InputError, match=r"where holds several families \(a, b\); give one of them"):
        concentration(model, pairs, {"a": "z", "b": "mlp_out"}, 1)
