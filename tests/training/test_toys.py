"""Small classifiers trained on the spot: the rows that they see are those of the tasks, and they learn them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.errors import TrainingError, UnknownNameError
from interp.training.toys import TASKS, trained_on, vector_interchanges, vector_rows


@pytest.mark.parametrize("name", TASKS)
def test_vectors_are_those_of_the_prompts(name: str, seed: int) -> None:
    """Drawn at once, and rendered one by one."""
    task = TASKS[name]()
    rows = task.counterfactuals(40, seed=seed)
    found = vector_interchanges(task, rows)
    sides = [(found.base, rows.base), *((found.sources[v], rows.sources[v]) for v in rows.variables)]
    for tokens, inputs in sides:
        each = [{key: array[i] for key, array in inputs.items()} for i in range(40)]
        prompts = np.stack([task.render(row).inputs["x"] for row in each])
        np.testing.assert_allclose(tokens.others["x"].numpy(), prompts, rtol=1e-6)
    assert found.label.tolist() == rows.label.astype(int).tolist()
    assert found.base_label.tolist() == rows.base_label.astype(int).tolist()
    assert found.swapped == rows.swapped
    drawn = vector_rows(task, 30, seed=seed)
    inputs = task.sample["train"](30, np.random.default_rng(seed))
    assert drawn.labels.tolist() == task.model.run(inputs)[task.model.output].astype(int).tolist()


def test_a_task_is_learned_the_same_way_again() -> None:
    """Half the rows are right by chance; the full training ends above .998."""
    model, again = (trained_on("price tagging", 0, steps=400, least=0.9, progress=False) for _ in range(2))
    assert model.digest == again.digest
    assert model.name == "price tagging (seed 0)"
    rows = vector_rows(TASKS["price tagging"](), 5000, seed=5)
    with torch.no_grad():
        assert (model.module(rows.inputs).argmax(-1) == rows.labels).double().mean() > 0.9


def test_what_was_not_learned_is_refused() -> None:
    with pytest.raises(
        TrainingError, match=r"and-or \(seed 0\) is right in 0\.\d+ of 8,192 rows after 1 steps, less than 0.998"
    ):
        trained_on("and-or", 0, steps=1)
    with pytest.raises(UnknownNameError, match="and-or"):
        trained_on("and_or", 0)
