"""Interchange interventions: does swapping what is at a place do to the network what swapping a variable does to the algorithm?

>>> rows = interp.answered(model, task.counterfactuals(1024, ("L",), seed=0)).rows                     # doctest: +SKIP
>>> found = interp.interchange(model, rows, found_by_das.best)                                         # doctest: +SKIP
>>> found = interp.interchange(model, rows, places, hypotheses=["left", "midpoint", "bracket"])        # doctest: +SKIP
>>> interp.effects.alignment.told_apart(found)                                                         # doctest: +SKIP

1. The base runs with values of the sources written at the aligned places.
2. What the network then says, of the answers that a pair names, is compared with what the causal model says once the same
   variables have their values on the same sources. The share of rows on which both agree is the interchange intervention
   accuracy.
3. Rival causal models that take the same inputs are judged by the same forward passes: only their labels differ.

Rows on which the network is wrong to begin with say little of its algorithm: keep those whose base and sources it answers
(:func:`answered`), and see how many were dropped.

Geiger, Lu, Icard and Potts, "Causal Abstractions of Neural Networks", arXiv 2106.02997; Geiger et al., arXiv 2301.04709.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp import axes, effects
from interp.engine.asked import encoded_pairs
from interp.engine.options import as_it_is
from interp.engine.precision import Precision
from interp.engine.sweep import patch
from interp.errors import InputError
from interp.interventions import Source
from interp.methods.registry import Method
from interp.metrics.protocol import Readout, Reads
from interp.models import Model
from interp.prompts import Pairs
from interp.tasks import Counterfactuals

METHODS = (
    Method(
        id="interchange",
        name="interchange interventions",
        paper="Geiger et al. 2021, Causal Abstractions of Neural Networks, arXiv 2106.02997",
        mediator="whatever is aligned with a variable",
        search="none: alignments are given",
        cost="a forward pass of what follows the place, for every row",
        function="interp.interchange",
    ),
)
HYPOTHESIS = "hypothesis"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of a pair's answers has the highest logit: 0 for the right one, then the wrong ones in their order."""

    name: str = "choice"
    reads: Reads = Reads(columns="answers", needs=("answers", "wrong"))
    unit: str = ""

    def __call__(self, readout: Readout) -> Tensor:
        every = torch.cat([readout.at(readout.answers), readout.at(readout.wrong)], dim=-1)
        return every.argmax(-1).to(readout.logits.dtype)


class Answered(NamedTuple):
    """Rows that a network answers as the causal model does."""

    rows: Counterfactuals
    share: float
    """Of all rows, how many are kept."""
    by_swapped: dict[str, float]
    """The same of each set of swapped variables."""


def answered(model: Model, rows: Counterfactuals, *, precision: Precision = "full", progress: bool | None = None) -> Answered:
    """The rows whose base and sources the network answers as the causal model does, each by itself.

    Raises:
        InputError: none is left.
    """
    swapped = dict(zip(rows.variables, rows.swap.T, strict=True))
    parts: list[Mapping[str, Any]] = [rows.base]
    parts += [{key: array[swapped[name]] for key, array in source.items()} for name, source in rows.sources.items()]
    inputs = {key: np.concatenate([part[key] for part in parts]) for key in rows.base}
    everything = replace(
        rows,
        base=inputs,
        sources=dict.fromkeys(rows.variables, inputs),
        swap=np.ones((len(next(iter(inputs.values()))), len(rows.variables)), dtype=bool),
        which="base",
    )
    right = as_it_is(model, everything.pairs(), ("accuracy",), precision=precision, progress=progress).values[0] > 0
    kept, done = right[: len(rows)].copy(), len(rows)
    for name in rows.sources:
        there = swapped[name]
        kept[there] &= right[done : done + there.sum()]
        done += int(there.sum())
    if not kept.any():
        raise InputError(f"{model.name} answers base and sources of none of {len(rows)} rows as the causal model does")
    sets = np.array(rows.swapped)
    by = {str(one): float(kept[sets == one].mean()) for one in np.unique(sets)}
    return Answered(rows.take(kept), float(kept.mean()), by)


def interchange(
    model: Model,
    rows: Counterfactuals | Pairs,
    where: Any,
    *,
    hypotheses: Sequence[str] | Mapping[str, tuple[Any, Sequence[str]]] | None = None,
    source: Source | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
) -> xr.Dataset:
    """Interchange intervention accuracy of given alignments.

    Args:
        model: from :func:`interp.load`.
        rows: of a causal model, or pairs whose answers are its labels.
        where: interventions, such as :attr:`interp.engine.alignment.Aligned.best`; or a grid, where whole values are swapped.
        hypotheses: rivals of the rows' task by name, or causal models with the variables that each swaps; by default that of
            the rows alone. All must choose among the same answers.
        source: of a grid, as for :func:`interp.patch`.
        precision, progress: likewise.

    Returns:
        ``iia``, 0 or 1, by (hypothesis, …, example), and by (hypothesis, example) ``no_op``, the same of the base as it is;
        ``flip``, whether a hypothesis' label differs from the base's, and ``moved``, whether its variable does.

    Raises:
        InputError: hypotheses of pairs, which have one set of labels, or of rows that were made by no task.
        UnknownNameError: a rival that is none.
    """
    labelled = _labelled(rows, hypotheses)
    each = {name: own if isinstance(own, Pairs) else own.pairs() for name, own in labelled.items()}
    first = next(iter(each.values()))
    encoded = encoded_pairs(model, first)
    words: dict[str, Any] = {} if source is None else {"source": source}
    found = patch(model, encoded, where, Choice(), skip_inert=False, precision=precision, progress=progress, **words)
    if not isinstance(found, xr.Dataset):
        raise InputError("where holds several families; ask for one at a time")
    names, examples = list(each), range(len(first))
    options = [(*pair.answers, *pair.wrong) for pair in first]
    # Which option each hypothesis asks for.
    asked = np.array([[_position(options[i], pairs[i].answers[0], name, i) for i in examples] for name, pairs in each.items()])
    said, plain = found["value"].isel({axes.METRIC: 0}), found["corrupt"].isel({axes.METRIC: 0})
    right = xr.DataArray(asked, {HYPOTHESIS: names}, (HYPOTHESIS, axes.EXAMPLE))
    data = {"iia": (said == right).astype("float32"), "no_op": (plain == right).astype("float32")}
    known = [own for own in labelled.values() if isinstance(own, Counterfactuals)]
    if known:
        data |= {
            name: xr.DataArray(np.stack([getattr(own, name) for own in known]), {HYPOTHESIS: names}, (HYPOTHESIS, axes.EXAMPLE))
            for name in ("flip", "moved")
        }
    dims = (HYPOTHESIS, *(dim for dim in said.dims if dim != axes.EXAMPLE), axes.EXAMPLE)
    data = {"iia": data["iia"].transpose(*dims), "no_op": data["no_op"].transpose(HYPOTHESIS, axes.EXAMPLE)} | {
        name: data[name] for name in ("flip", "moved") if name in data
    }
    result = xr.Dataset(data).drop_vars(axes.METRIC, errors="ignore")
    result = result.assign_coords({name: found[name] for name in ("template",) if name in found.coords})
    if known:
        result = result.assign_coords(swapped=(axes.EXAMPLE, known[0].swapped))
    attrs = {**found.attrs, "method": "interchange", "controls": ["no_op"], "spec": None}
    return effects.stamped(result.assign_attrs(attrs))


def _labelled(rows: Any, hypotheses: Any) -> dict[str, Any]:
    """The rows with the labels of each hypothesis."""
    if hypotheses is None:
        name = (rows.model.name or "hypothesis") if isinstance(rows, Counterfactuals) else "hypothesis"
        return {name: rows}
    if not isinstance(rows, Counterfactuals):
        raise InputError("hypotheses are of rows of a causal model; pairs have the labels that they have")
    if not isinstance(hypotheses, Mapping):
        if rows.task is None:
            raise InputError("these rows were made by no task, whose rivals would go by name; give {name: (model, variables)}")
        for name in hypotheses:
            rows.task.require(name)
        hypotheses = {name: (rows.task.models[name], rows.task.variables[name]) for name in hypotheses}
    return {name: rows.relabelled(model, variables) for name, (model, variables) in hypotheses.items()}


def _position(options: Sequence[Any], answer: Any, hypothesis: str, example: int) -> int:
    if answer not in options:
        raise InputError(
            f"hypothesis {hypothesis!r} asks for {answer!r} in row {example}, where one chooses among {list(options)}: all "
            "hypotheses choose among the same answers"
        )
    return list(options).index(answer)
