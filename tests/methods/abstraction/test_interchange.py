"""Interchange interventions of given alignments, and rivals told apart (cards 3 and 4 of causal abstraction)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp import tasks
from interp.effects.alignment import told_apart
from interp.errors import InputError, UnknownNameError
from interp.interventions import Activation, Change, Intervention, Subspace
from interp.models import Model
from interp.models.zoo.handmade import hierarchical_equality

TASK = tasks.hierarchical_equality()
EYE = torch.eye(16)
WX, YZ = (Change("act1:output", featurizer=Subspace(EYE[:, part])) for part in (slice(8), slice(8, 16)))


def model() -> Model:
    net = hierarchical_equality(4)
    return interp.load(net, example={"x": net.rows(4, 0).inputs[:3]})


def test_the_known_alignment_is_exact_in_every_stratum() -> None:
    """Card 3 (c), and (a): doing nothing is right wherever the label stays, and nowhere else."""
    rows = TASK.counterfactuals(300, seed=1)
    one = Change("act1:output", source=Activation("source:WX"), featurizer=WX.featurizer)
    two = Change("act1:output", source=Activation("source:YZ"), featurizer=YZ.featurizer)
    found = interp.interchange(model(), rows, Intervention((one, two), ordered=True))
    assert found["iia"].dims == ("hypothesis", "cell", "example")
    assert float(found["iia"].min()) == 1.0
    assert sorted(set(found["swapped"].values)) == ["WX", "WX+YZ", "YZ"]
    np.testing.assert_array_equal(found["no_op"].values[0], (~rows.flip).astype(float))
    np.testing.assert_array_equal(found["moved"].values[0], rows.moved)


def test_the_whole_vector_is_the_source() -> None:
    """Card 3 (b): everything swapped, the network says what it says to the source."""
    rows = TASK.counterfactuals(200, ("WX",), seed=2)
    found = interp.interchange(model(), rows.with_label("source"), Change("act1:output"))
    assert float(found["iia"].min()) == 1.0
    one_label = interp.interchange(model(), rows, Change("act1:output"))
    assert float(one_label["iia"].mean()) == pytest.approx(float((rows.label == rows.source_label).mean()), abs=1e-6)


def test_rivals_are_judged_by_the_same_passes_and_told_apart() -> None:
    """WX's neurons swapped: WX is right, YZ on the rows where both ask for the same."""
    rows = TASK.counterfactuals(400, ("WX",), seed=3)
    rivals = {"first pair": (TASK.model, ("WX",)), "second pair": (TASK.model, ("YZ",)), "both": (TASK.model, ("WX", "YZ"))}
    found = interp.interchange(model(), rows, [WX, YZ], hypotheses=rivals)
    mean = found["iia"].mean("example")
    assert float(mean.sel(hypothesis="first pair", cell=0)) == 1.0
    assert float(mean.sel(hypothesis="second pair", cell=1)) == 1.0
    for name in ("second pair", "both"):
        agree = float((rows.relabelled(*rivals[name]).label == rows.label).mean())
        assert float(mean.sel(hypothesis=name, cell=0)) == pytest.approx(agree, abs=1e-6)
    table = told_apart(found)
    assert isinstance(table, pd.DataFrame)
    assert len(table) == 3 * 2
    line = table[(table.hypothesis == "first pair") & (table.rival == "second pair") & (table.cell == 0)].iloc[0]
    assert line.told_apart
    assert line.low > 0.3
    of_one_place = told_apart(found.isel(cell=0))  # an alignment for each hypothesis has no axis of places
    pd.testing.assert_frame_equal(of_one_place, table[table.cell == 0].drop(columns="cell").reset_index(drop=True))
    same = interp.interchange(model(), rows, WX, hypotheses={"a": rivals["first pair"], "b": rivals["first pair"]})
    assert not told_apart(same).told_apart.any()


def test_rows_that_the_network_gets_wrong_are_left_out() -> None:
    """A network whose readout was spoilt for some rows: those are dropped, by base as by source."""
    net = hierarchical_equality(4)
    with torch.no_grad():
        net.second.bias[1] = -3.0  # s_p is then 3 rather than 2 where the pair differs by more than one entry
        net.readout.bias += torch.tensor([0.9, -0.9])
    broken = interp.load(net, example={"x": net.rows(4, 0).inputs[:3]})
    rows = TASK.counterfactuals(300, ("WX",), seed=4)
    x = {side: torch.tensor(np.concatenate([inputs[n] for n in "wxyz"], -1), dtype=torch.float32) for side, inputs in
         (("base", rows.base), ("source", rows.sources["WX"]))}  # fmt: skip
    said = {side: net(inputs).argmax(-1).bool().numpy() for side, inputs in x.items()}
    expected = (said["base"] == rows.base_label) & (said["source"] == rows.source_label)
    assert 0 < expected.sum() < 300
    found = interp.answered(broken, rows)
    assert len(found.rows) == expected.sum()
    assert found.share == pytest.approx(expected.mean())
    np.testing.assert_array_equal(found.rows.label, rows.label[expected])


def test_what_cannot_be_compared() -> None:
    rows = TASK.counterfactuals(40, ("WX",), seed=5)
    with pytest.raises(InputError, match="hypotheses are of rows of a causal model"):
        interp.interchange(model(), rows.pairs(), WX, hypotheses={"a": (TASK.model, ("WX",))})
    with pytest.raises(UnknownNameError, match="model 'equalty' of hierarchical equality; did you mean 'equality'"):
        interp.interchange(model(), rows, WX, hypotheses=["equalty"])
    found = interp.interchange(model(), rows.pairs(), WX)
    assert float(found["iia"].min()) == 1.0
    with pytest.raises(UnknownNameError, match="axis 'hypothesis'"):
        told_apart(found.isel(hypothesis=0))


def test_several_answers_are_chosen_among_as_accuracy_does(seed: int) -> None:
    """The share of choices of the right answer is the metric ``accuracy``."""
    rows = TASK.counterfactuals(100, ("WX",), seed=seed % 1000)
    drawn = Change("act1:output", featurizer=Subspace(torch.linalg.qr(torch.randn(16, 5)).Q))
    one: Any = interp.interchange(model(), rows, drawn)["iia"].values.ravel()
    other: Any = interp.patch(model(), rows.pairs(), drawn, metric="accuracy")["value"].values.ravel()
    np.testing.assert_array_equal(one, other)
