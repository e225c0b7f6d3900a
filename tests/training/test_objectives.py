"""Training of objectives in which examples do not simply add up, by steps, and with pairs that stay together."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import sweeps
import torch
from torch import Tensor

from interp.engine import patch
from interp.engine.heads import Heads, drawn, logits_of
from interp.interventions import Intervention
from interp.models import Model
from interp.prompts import Pairs
from interp.training import fit

KINDS = ("gpt2", "neox", "bloom")
"""The last cannot be resumed between blocks: its rows are whole passes."""


def setting(kind: str, seed: int) -> tuple[Model, Pairs, Heads, list[Intervention]]:
    model = sweeps.model(kind, torch.float64 if kind != "bloom" else torch.float32)
    heads = Heads.of(model)
    return model, sweeps.random_pairs(seed, [6, 5, 7, 6]), heads, [heads.gates(drawn(len(heads), s, 2.0)) for s in (1, 2)]


@pytest.mark.parametrize("kind", KINDS)
def test_minus_the_mean_is_what_is_trained_anyway(kind: str, seed: int) -> None:
    found = []
    for objective in (None, lambda values: -values.mean()):
        model, pairs, _, masks = setting(kind, seed)
        trained = fit(model, pairs, masks, steps=4, batch=2, lr=0.1, objective=objective, rows=3, progress=False)
        found.append((trained.loss.values, torch.stack([logits_of(mask) for mask in masks])))
    tolerance = 1e-9 if kind != "bloom" else 1e-4
    np.testing.assert_allclose(found[1][0], found[0][0], atol=tolerance)
    np.testing.assert_allclose(found[1][1], found[0][1], atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_of_examples_against_differences(kind: str, seed: int) -> None:
    """One plain step moves a gate by −lr times the slope, here by central differences of the loss itself."""

    def objective(values: Tensor) -> Tensor:
        return (values[0] - 2 * values[2]) * values[1] + values[3] ** 2

    model, pairs, heads, masks = setting(kind, seed)
    starts = [logits_of(mask).clone() for mask in masks]
    kept: dict[str, Any] = {"steps": 1, "batch": 4, "rows": 3, "shuffle": False, "progress": False}
    trained = fit(model, pairs, masks, lr=1e-3, optimizer=torch.optim.SGD, objective=objective, **kept)
    step = 1e-5 if kind != "bloom" else 3e-2
    for number, (mask, start) in enumerate(zip(masks, starts, strict=True)):
        moved = [start + sign * step * torch.eye(len(heads), dtype=start.dtype)[i] for i in (0, 5) for sign in (1, -1)]
        found = patch(model, pairs, [heads.gates(one) for one in (start, *moved)], "logprob", progress=False)
        values = torch.from_numpy(found["value"].values[0])
        loss = [float(objective(one)) for one in values]
        assert float(trained.loss[number, 0]) == pytest.approx(loss[0], rel=1e-9 if kind != "bloom" else 1e-4)
        for place, head in enumerate((0, 5)):
            slope = (loss[1 + 2 * place] - loss[2 + 2 * place]) / (2 * step)
            change = float((logits_of(mask) - start)[head]) / -1e-3
            scale = 1 + max(map(abs, loss))
            assert change == pytest.approx(slope, abs=1e-6 * scale if kind != "bloom" else 1e-2 * scale)


def test_an_objective_without_a_gradient_leaves_all_as_it_is(seed: int) -> None:
    """What is clipped has none, and then the penalty alone is trained."""
    model, pairs, _, masks = setting("gpt2", seed)
    before = [logits_of(mask).clone() for mask in masks]
    trained = fit(model, pairs, masks, steps=2, batch=4, objective=lambda values: torch.tensor(1.0), progress=False)
    assert (trained.loss == 1).all()
    assert all(torch.equal(logits_of(mask), one) for mask, one in zip(masks, before, strict=True))


@pytest.mark.parametrize(("steps", "epochs"), [(3, 2), (4, 2), (1, 1)])
def test_steps_are_the_first_of_so_many_epochs(steps: int, epochs: int, seed: int) -> None:
    losses = []
    for asked in ({"steps": steps}, {"epochs": epochs}):
        model, pairs, _, masks = setting("gpt2", seed)
        losses.append(fit(model, pairs, masks, batch=2, lr=0.1, progress=False, **asked).loss.values)
    assert losses[0].shape == (2, steps)
    np.testing.assert_array_equal(losses[0], losses[1][:, :steps])


def test_tuples_are_in_one_step_and_in_their_order(seed: int) -> None:
    """The objective says by the values which examples it was given: those of a tuple, behind each other."""
    model, pairs, heads, masks = setting("gpt2", seed)
    pairs = pairs + sweeps.random_pairs(seed + 1, [5, 4, 6, 7])
    plain = patch(model, pairs, [heads.gates(drawn(len(heads), 1, 2.0))], "logprob", progress=False)["value"].values[0, 0]
    seen: list[list[int]] = []

    def objective(values: Tensor) -> Tensor:
        seen.append([int(np.abs(plain - float(value)).argmin()) for value in values.detach()])
        return values.sum() * 0

    fit(model, pairs, masks[0], epochs=2, batch=4, tuples=2, objective=objective, seed=seed % 100, progress=False)
    assert len(seen) == 4
    for step in seen:
        assert all(b == a + 1 and a % 2 == 0 for a, b in zip(step[::2], step[1::2], strict=True)), step
    assert sorted(seen[0] + seen[1]) == sorted(seen[2] + seen[3]) == list(range(8))


def test_numbers_that_make_no_sense(seed: int) -> None:
    model, pairs, _, masks = setting("gpt2", seed)
    for asked, said in (
        ({"steps": 0}, "steps=0; expected at least 1, or None for so many epochs"),
        ({"tuples": 3}, "tuples=3 with batch=8 of 4 pairs; expected a divisor of both"),
        ({"tuples": 0}, "tuples=0 with batch=8 of 4 pairs; expected a divisor of both"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            fit(model, pairs, masks, progress=False, **asked)
