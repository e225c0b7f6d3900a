"""Small classifiers, trained on the spot for the tasks whose input is one vector.

>>> model = trained_on("equality of vectors", seed=0)                                            # doctest: +SKIP
>>> interp.das(model, task.counterfactuals(4096, seed=1), "act1:output", rank=8)                  # doctest: +SKIP
>>> rows = vector_rows(tasks.and_or(), 1024, seed=0)                # inputs and labels, all at once
>>> rows.inputs.shape, rows.labels.dtype
(torch.Size([1024, 24]), torch.int64)

Three hidden layers as wide as the input, as in Sutter et al., arXiv 2507.08802; trained for 5000 steps of 1024 rows by Adam
with a rate that falls from 4e-3 to 0, where the paper takes 20 × 1024 steps at 1e-3. Prices have layers of 32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from interp import tasks
from interp.errors import TrainingError, UnknownNameError
from interp.models import Model
from interp.models.zoo import MLP
from interp.tasks import CausalTask, Counterfactuals
from interp.training.interchanges import Interchanges
from interp.training.networks import train

TASKS: dict[str, Callable[[], CausalTask]] = {
    "equality of vectors": tasks.equality_of_vectors,
    "and-or": tasks.and_or,
    "price tagging": tasks.price_tagging,
}
"""Tasks that a small network learns, by name."""

_WIDTHS = {"equality of vectors": (16, 16, 16, 16, 2), "and-or": (24, 24, 24, 24, 2), "price tagging": (3, 32, 32, 32, 2)}
_SCALES = {"price tagging": 0.01}
"""By what a task's render multiplies the numbers that it draws."""
_SEEN = 8192
"""Rows on which it is judged."""


class VectorRows(NamedTuple):
    """What enters a network, and the number of the right output."""

    inputs: Float[Tensor, "row feature"]
    labels: Int[Tensor, " row"]


def vector_rows(task: CausalTask, n: int, *, seed: int, part: str = "train") -> VectorRows:
    """Rows of a task whose input is one vector, as its prompts hold it, drawn all at once."""
    drawn = task.sample[part](n, np.random.default_rng(seed))
    return VectorRows(_vectors(task, drawn), _labels(task.model.run(drawn)[task.model.output]))


def vector_interchanges(task: CausalTask, rows: Counterfactuals) -> Interchanges:
    """Rows of interchanges of such a task, without a prompt each."""
    each = {id(one): _vectors(task, one) for one in rows.sources.values()}
    sources = {name: each[id(one)] for name, one in rows.sources.items()}
    labels = (_labels(rows.label), _labels(rows.base_label))
    return Interchanges.of_tensors(_vectors(task, rows.base), sources, torch.from_numpy(rows.swap), *labels)


def _vectors(task: CausalTask, drawn: Mapping[str, NDArray[Any]]) -> Tensor:
    columns = [np.asarray(drawn[name], dtype=float).reshape(len(drawn[name]), -1) for name in task.model.inputs]
    return torch.from_numpy(np.concatenate(columns, axis=-1) * _SCALES.get(task.name, 1.0)).float()


def _labels(outputs: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.asarray(outputs).astype(np.int64))


def trained_on(
    name: str,
    seed: int,
    *,
    widths: tuple[int, ...] | None = None,
    steps: int = 5000,
    batch: int = 1024,
    lr: float = 4e-3,
    least: float = 0.998,
    progress: bool | None = None,
) -> Model:
    """A classifier that does one of :data:`TASKS`; the same for the same seed.

    Args:
        seed: of its first weights and of the rows that it sees.
        widths: from the input to the output.
        steps, batch: of training, on new rows in every step.
        lr: the first; it falls along a cosine.
        least: with which accuracy it has to end, on rows of their own.

    Raises:
        UnknownNameError: another task.
        TrainingError: it did not learn the task.
    """
    if name not in TASKS:
        raise UnknownNameError("task", name, TASKS)
    task = TASKS[name]()

    def draw(step: int, generator: torch.Generator) -> VectorRows:
        return vector_rows(task, batch, seed=int(torch.randint(2**62, (), generator=generator)))

    called = f"{name} (seed {seed})"
    net = MLP(widths or _WIDTHS[name], seed=seed)
    model = train(net, draw, steps=steps, lr=lr, schedule=_falling, seed=seed, name=called, progress=progress)
    held = vector_rows(task, _SEEN, seed=2**62 + seed)
    with torch.no_grad():
        reached = float((model.module(held.inputs).argmax(-1) == held.labels).double().mean())
    if reached < least:
        raise TrainingError(f"{called} is right in {reached:.4f} of {_SEEN:,} rows after {steps:,} steps, less than {least}")
    return model


def _falling(share: float) -> float:
    return (1 + math.cos(math.pi * share)) / 2
