"""What a network answers to prompts of a causal model, and which values of a variable its answers imply.

>>> said = Said.of(model, task.counterfactuals(64, seed=0), "L")                                      # doctest: +SKIP
>>> said.right.mean(), said.implied[:, 0]                                                           # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interp.engine.options import as_it_is
from interp.errors import InputError
from interp.metrics import Metric
from interp.metrics.options import options
from interp.models import Model
from interp.prompts import Pairs
from interp.tasks import Counterfactuals


@dataclass(frozen=True, eq=False)
class Said:
    """Prompts, the bases of some rows, and what the network answers to each."""

    rows: Counterfactuals
    variable: str
    offered: list[list[Any]]
    """By row the outputs that are chosen among, in the order of the pair's answers."""
    said: NDArray[Any]
    """By row the output that the network says."""
    right: NDArray[np.bool_]
    further: NDArray[np.float64]
    """``[metric, row]``, what else was asked for."""

    @classmethod
    def of(cls, model: Model, rows: Any, variable: str, further: Sequence[Metric] = (), **words: Any) -> Said:
        """Run the bases once.

        Args:
            rows: whose bases are the prompts; their sources play no part.
            variable: of their causal model.
            further: metrics of the same pass.
            words: as for :func:`interp.patch`.

        Raises:
            InputError: rows without a task, or a variable without a list of values.
            UnknownNameError: no such variable.
        """
        if not isinstance(rows, Counterfactuals) or rows.task is None:
            raise InputError(f"rows are {rows!r}; expected rows of a task, such as task.counterfactuals(512, seed=0)")
        rows.model.require(variable)
        if rows.model.variables[variable].values is None:
            raise InputError(f"{variable} of {rows.model!r} has no list of values, so that no answer says which one it had")
        pairs, task = alone(rows), rows.task
        offered = []
        for row, pair, label in zip(_each(rows.base), pairs, rows.base_label.tolist(), strict=True):
            choices = task.choices(row, row, label) if task.choices is not None else rows.kind.values or ()
            by = {task.answer(one): one for one in (label, *choices)}
            offered.append([by[answer] for answer in (*pair.answers, *pair.wrong)])
        every = options(max(map(len, offered)))
        found = as_it_is(model, pairs, (*every, *further), **words).values.astype(float)
        said = found[: len(every)].argmax(0)
        picked = np.array([own[at] for own, at in zip(offered, said, strict=True)])
        return cls(rows, variable, offered, picked, said == 0, found[len(every) :])

    def take(self, at: Any) -> Said:
        """Some of the rows, by number."""
        at = np.asarray(at, dtype=np.intp)
        offered = [self.offered[i] for i in at]
        return Said(self.rows.take(at), self.variable, offered, self.said[at], self.right[at], self.further[:, at])

    @cached_property
    def prompts(self) -> list[Any]:
        return [self.rows.task.render(row) for row in _each(self.rows.base)]

    @cached_property
    def value(self) -> NDArray[Any]:
        """Of the variable, by the causal model."""
        return np.asarray(self.rows.model.run(self.rows.base)[self.variable])

    @property
    def values(self) -> tuple[Any, ...]:
        found = self.rows.model.variables[self.variable].values
        assert found is not None
        return found

    @cached_property
    def outputs(self) -> NDArray[Any]:
        """``[value, row]``: what the causal model says with each value of the variable."""
        model = self.rows.model
        return np.stack([np.asarray(model.run(self.rows.base, {self.variable: one})[model.output]) for one in self.values])

    @cached_property
    def implied(self) -> NDArray[np.bool_]:
        """``[value, row]``: with which values the causal model says what the network said."""
        return np.asarray(self.outputs == self.said)


def alone(rows: Counterfactuals) -> Pairs:
    """Bases with their own answers: each is its own source."""
    return replace(rows, sources=dict.fromkeys(rows.variables, rows.base), which="base").pairs()


def _each(inputs: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    columns = [list(array) if array.ndim > 1 else array.tolist() for array in inputs.values()]
    return [dict(zip(inputs, row, strict=True)) for row in zip(*columns, strict=True)]
