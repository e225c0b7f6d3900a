"""Contrastive head gating: the card's ground truths on a net of two tasks, made by hand (tests/support/nets_gating.py)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import nets_gating
import numpy as np
import pytest
import sweeps
import torch
import xarray as xr
from nets_gating import ENDS, speakers, task

import interp
from interp.errors import InputError, ShapeMismatchError, UnknownNameError
from interp.methods.circuits.head_gating.contrastive import _OBJECTIVES, judged
from interp.models import Model
from interp.prompts import Pair, Prompt

FORMS = ("difference", "margin")
OPEN, SHUT = 1 / (1 + np.exp(-4.0)), 1 / (1 + np.exp(4.0))
"""Where λ lets go of a gate."""
QUICK: dict[str, Any] = {"seeds": 3, "weight": 0.01, "updates": 150, "lr": (0.2, 0.05), "progress": False}


@cache
def disjoint() -> Model:
    """Head 0 answers after the first END alone, head 1 after the second, head 2 never says anything.

    Open, a head is worth 1.7 nats; pulls of 0.01 / 3 a gate leave that its slope, also where the gate is nearly open.
    """
    return speakers([3.0, 3.0, 0.0], [ENDS[:1], ENDS[1:], ENDS])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weight", [0.01, -0.01])
def test_card_9_1_where_both_tasks_are_one_the_pull_alone_sets_the_gates(form: str, weight: float) -> None:
    """Both terms of a tuple cancel, so all gates go where λ pulls, to ±4 at least, whatever heads do."""
    gates = interp.contrastive_gates(disjoint(), task(0), task(0), form=form, **(QUICK | {"weight": weight}))
    assert bool((gates.gate >= OPEN).all() if weight > 0 else (gates.gate <= SHUT).all())
    np.testing.assert_allclose(gates.objective if form == "difference" else gates.objective.min() * 0, 0.0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_card_9_2_heads_of_the_forgotten_task_shut_and_those_of_the_other_open(form: str) -> None:
    gates = interp.contrastive_gates(disjoint(), task(0), task(1), form=form, **QUICK)
    cut = (gates.gate > 0.5).isel(layer=0).transpose("seed", "head").values
    assert (cut == [False, True, True]).all(), "the head that says nothing follows λ"
    found = judged(disjoint(), {"forget": task(0), "retain": task(1)}, gates, progress=False)
    assert found.accuracy.sel(gated="plain").values.ravel().tolist() == [1.0] * 6
    assert (found.accuracy.sel(task="retain", gated="hard") == 1).all()
    assert (found.logprob.sel(task="forget", gated="hard") < -1.5).all(), "near ln 1/7"
    assert (found.logprob.sel(task="retain", gated="soft") > -0.35).all(), "ln(e³ / (e³ + 6)) = -0.26"
    assert found.in_sample.values.tolist() == [True, True]
    assert found.n.values.tolist() == [4, 4]


def test_card_9_3_a_head_that_both_tasks_share_stays_open() -> None:
    """Shutting it takes as much from r as from f, so nothing is gained: the pull decides."""
    model = speakers([3.0, 0.0])
    gates = interp.contrastive_gates(model, task(0), task(1), **QUICK)
    assert (gates.gate > 0.5).all()


@pytest.mark.parametrize(("form", "own"), [("difference", 0.0), ("margin", -0.5)])
def test_card_9_4_the_forget_gradient_stops_at_the_margin(form: str, own: float) -> None:
    """Two tuples of f and r, 4.99 and 5.01 nats apart. The mean over two has slopes of 1/2; one form has r by itself too."""
    values = torch.tensor([-6.99, -2.0, -7.01, -2.0], dtype=torch.float64, requires_grad=True)
    [slopes] = torch.autograd.grad(_OBJECTIVES[form](5.0)(values), [values])
    assert slopes.tolist() == [0.5, -0.5, 0.0, own]


def test_both_forms_by_hand() -> None:
    values = torch.tensor([-1.0, -2.0, -9.0, -3.0], dtype=torch.float64)
    assert float(_OBJECTIVES["difference"](5.0)(values)) == pytest.approx((1.0 - 5.0) / 2)
    assert float(_OBJECTIVES["margin"](5.0)(values)) == pytest.approx((2.0 + 1.0 + 3.0 - 5.0) / 2)
    far = torch.tensor([-1.0, -9.0], dtype=torch.float64)
    assert float(_OBJECTIVES["difference"](5.0)(far)) == 5.0
    assert float(_OBJECTIVES["margin"](5.0)(far)) == 9.0 + 8.0


def test_seeds_trained_together_are_as_if_alone_and_tuples_stay_whole(seed: int) -> None:
    """Batches of two tuples of five: were a tuple split, f would be compared with another's r."""
    model = sweeps.model("gpt2", torch.float64)
    forget, retain = sweeps.random_pairs(seed, [5, 6, 4, 7, 5]), sweeps.random_pairs(seed + 1, [6, 5, 7, 4, 5])
    settings: dict[str, Any] = {"updates": 4, "batch": 2, "form": "difference", "progress": False}
    together = interp.contrastive_gates(model, forget, retain, seeds=[3, 8], **settings)
    for one in (3, 8):
        alone = interp.contrastive_gates(model, forget, retain, seeds=[one], **settings)
        for name in ("gate", "objective", "penalty"):
            np.testing.assert_allclose(together[name].sel(seed=[one]), alone[name], atol=1e-9, rtol=0)


def test_a_run_is_kept_and_made_again(tmp_path: Path) -> None:
    model = interp.load("zoo/induction-2l")
    sides = [[Pair(ids, ids, ids[1]) for ids in tuples] for tuples in ([[5, 6, 7, 5], [8, 5, 6, 8]], [[5, 6, 5], [8, 5, 8]])]
    asked: dict[str, Any] = {"seeds": 2, "updates": 3, "batch": 2, "progress": False, "store": tmp_path, "name": "contrast"}
    first = interp.contrastive_gates(model, *sides, **asked)
    xr.testing.assert_identical(interp.contrastive_gates(model, *sides, **asked), first)
    again = interp.rerun(interp.Store(tmp_path).run("contrast"))
    assert again.within
    xr.testing.assert_allclose(again.result.gate, first.gate)


def test_what_is_refused() -> None:
    ask: Any = sweeps.unchecked(interp.contrastive_gates)
    with pytest.raises(ShapeMismatchError, match=r"forget has 4 pairs and retain 2; the i-th of both are one tuple"):
        ask(disjoint(), task(0), task(1)[:2])
    with pytest.raises(UnknownNameError, match="unknown form 'margins'; did you mean 'margin'"):
        ask(disjoint(), task(0), task(1), form="margins")
    with pytest.raises(ValueError, match=r"margin=0, bound=4\.0; expected both more than 0"):
        ask(disjoint(), task(0), task(1), margin=0)
    encoded = disjoint().encode(task(1), bos=False)
    with pytest.raises(InputError, match="forget was encoded with bos='model' and retain with bos=False; encode both alike"):
        ask(disjoint(), task(0), encoded)
    with pytest.raises(InputError, match=r"gates is a Dataset; expected what interp\.contrastive_gates"):
        judged(disjoint(), {"a": task(0)}, xr.Dataset())
    gates = interp.contrastive_gates(disjoint(), task(0), task(1), **(QUICK | {"updates": 1}))
    with pytest.raises(InputError, match="tasks is empty; give pairs by name"):
        judged(disjoint(), {}, gates)
    other = Pair(Prompt((nets_gating.BOS, 1, ENDS[1])), Prompt((nets_gating.BOS, 1, ENDS[1])), 2)
    assert judged(disjoint(), {"other": [other]}, gates, progress=False).in_sample.values.tolist() == [True], "the same prompt"
