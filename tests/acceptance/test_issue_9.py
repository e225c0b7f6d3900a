"""Issue 9, causal abstraction: its "Done when" lines at full size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from suites import require

import interp
from interp import tasks
from interp.interventions import Change, Subspace
from interp.models.zoo.handmade import hierarchical_equality

EQUALITY = (
    "Hand-crafted hierarchical equality: IIA exactly 1.0 at the known neurons; its randomly rotated version: DAS at ranks 2 "
    "and 8 reaches IIA ≥ 0.999 with keep and leak errors ≤ 0.01 (the card says why zero principal angles is the wrong "
    "demand), at rank 1 the restart logic finds it; a wrong causal model scores at its predicted lower IIA."
)
PARITY = (
    "DAS parity: same loss curve as pyvene's low-rank rotated intervention from the same start (1e-4, 50 steps), same IIA on "
    "held-out pairs; the pyvene traps in the card each have a regression test on our side."
)


@pytest.mark.done_when(9, EQUALITY)
def test_known_neurons_are_exact_and_a_wrong_model_is_as_wrong_as_predicted(figures: dict[str, Any]) -> None:
    net, task, eye = hierarchical_equality(4), tasks.hierarchical_equality(), torch.eye(16)
    model = interp.load(net, example={"x": net.rows(4, 0).inputs[:3]})
    wx, yz = (Change("act1:output", featurizer=Subspace(eye[:, part])) for part in (slice(8), slice(8, 16)))
    rows = task.counterfactuals(4096, ("WX",), seed=0)
    rivals = {"WX": (task.model, ("WX",)), "YZ": (task.model, ("YZ",)), "both": (task.model, ("WX", "YZ"))}
    found = interp.interchange(model, rows, [wx, yz], hypotheses=rivals)["iia"].mean("example")
    predicted = {name: float((rows.relabelled(*rivals[name]).label == rows.label).mean()) for name in rivals}
    figures |= {"first eight": found.isel(cell=0).values.tolist(), "predicted": list(predicted.values())}
    figures["last eight, YZ"] = float(found.sel(hypothesis="YZ").isel(cell=1))
    assert float(found.sel(hypothesis="WX").isel(cell=0)) == 1.0
    assert figures["last eight, YZ"] == 1.0
    np.testing.assert_allclose(found.isel(cell=0).values, list(predicted.values()), atol=1e-6)
    assert max(predicted["YZ"], predicted["both"]) < 0.9


@pytest.mark.done_when(9, EQUALITY)
def test_rotated_variables_are_found(figures: dict[str, Any]) -> None:
    task = tasks.hierarchical_equality()
    for turn in range(5):
        net = hierarchical_equality(4).rotated(turn)
        model = interp.load(net, example={"x": net.rows(4, 0).inputs[:3]})
        train, test = (task.counterfactuals(n, ("WX",), seed=10 * turn + i) for i, n in enumerate((2048, 1024)))
        words: dict[str, Any] = {"steps": 400, "batch": 256, "lr": 2e-2, "progress": False, "controls": False}
        found = interp.das(model, train, "hidden:output", test=test, rank=[1, 2, 8], seeds=6, **words)
        keep, leak = (u / u.norm() for u in net.planted())
        turned = net.hidden.weight.detach().double()
        iia = found.effects["iia"].mean("example")
        errors: dict[int, list[float]] = {}
        for rank in (1, 2, 8):
            each = []
            for seed in range(6):
                basis: Any = found.at(rank=rank, seed=seed).changes[0].featurizer
                projection = basis.basis.double() @ basis.basis.double().mT
                kept, leaked = turned @ keep, turned @ leak
                each.append(max(float((projection @ kept - kept).norm()), float((projection @ leaked).norm())))
            errors[rank] = each
        chosen = int(found.effects["validation"].sel(rank=1).values.argmax())
        figures[f"rotation {turn}"] = {
            "iia": {rank: iia.sel(rank=rank).values.tolist() for rank in (1, 2, 8)},
            "worst of keep and leak": {rank: max(errors[rank]) for rank in (2, 8)},
            "rank 1, chosen of six starts": float(iia.sel(rank=1).values[chosen]),
        }
        for rank in (2, 8):
            assert float(iia.sel(rank=rank).min()) >= 0.999
            assert max(errors[rank]) <= 0.01
        assert figures[f"rotation {turn}"]["rank 1, chosen of six starts"] >= 0.999
        assert errors[1][chosen] <= 0.01


@pytest.mark.done_when(9, PARITY)
def test_pyvene(figures: dict[str, Any]) -> None:
    """Losses to 1e-4 over 50 steps and the same held-out answers, and a test for each trap: the whole of that suite."""
    require(figures, "tests/parity/test_pyvene_das.py")
