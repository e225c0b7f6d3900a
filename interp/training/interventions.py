"""Training of interventions: rotations, gates and masks, many of them together, on the frozen model.

    >>> das = [Intervention.of(Change("L6.resid_post", "END", featurizer=Rotation(768, 16, seed=seed))) for seed in range(5)]
    >>> trained = interp.training.fit(model, pairs, das, "logprob", epochs=10, lr=1e-3)                   # doctest: +SKIP
    >>> trained.loss.dims                                                                              # doctest: +SKIP
    ('cell', 'step')

The base run and the sources are run once. A step runs what follows the changes, at the positions that they reach, for all
interventions and the batch's examples together, as rows of the wave (:mod:`interp.engine.wave`); where blocks cannot be
resumed, as rows of whole passes. The interventions are
independent: each has the mean of its own rows as its loss, its own penalty, its own clipping and its own optimiser, so that
training them together gives what training them one by one gives, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from interp import effects
from interp.engine import gauge, provenance, strategies
from interp.engine.asked import encoded_pairs, listed
from interp.engine.background import Given, Hold, given_changes, held
from interp.engine.batches import halvings, in_batches
from interp.engine.edits import Rows
from interp.engine.families import check_words
from interp.engine.filling import fill
from interp.engine.joins import NEVER
from interp.engine.precision import Precision, float32
from interp.engine.prepared import Options, Patching, Prepared, prepare, start
from interp.engine.strategies import Whole
from interp.engine.wavefront import Group, groups
from interp.errors import TrainingError
from interp.interventions import Change, Intervention, learnable, once
from interp.metrics import MetricLike
from interp.metrics import resolve as resolve_metrics
from interp.models import Encoded, Model
from interp.models.hooks import frozen
from interp.prompts import Pair, Pairs

Penalty = Callable[[Intervention], Tensor]
"""A number that is added to an intervention's loss: its sparsity, for instance."""
Schedule = Callable[[float], float]
"""The share of the steps that is done, from 0 to 1, to a factor."""
Objective = Callable[[Float[Tensor, " example"]], Float[Tensor, ""]]
"""The metric's values on a step's examples, in the order of the pairs, to the loss of one intervention."""


@dataclass(frozen=True, eq=False)
class Trained:
    """Interventions after training; their modules are those that were given, changed in place."""

    interventions: tuple[Intervention, ...]
    loss: xr.DataArray
    """``[cell, step]``: mean of −metric over the step's examples, without the penalty. Its attributes say on which examples
    (``selected_on``), so that :func:`interp.effects.mark_in_sample` can tell what is measured on them."""
    penalty: xr.DataArray
    """``[cell, step]``."""

    @property
    def best(self) -> int:
        """The intervention whose loss was lowest over the last tenth of the steps."""
        last = max(1, self.loss.sizes["step"] // 10)
        return int(self.loss.isel(step=slice(-last, None)).mean("step").values.argmin())


def fit(
    model: Model,
    pairs: Pairs | Sequence[Pair] | Encoded,
    interventions: Intervention | Change | Sequence[Intervention | Change],
    metric: MetricLike = "logprob",
    *,
    patching: Patching = "denoising",
    given: Given = None,
    hold: Hold = (),
    epochs: int = 1,
    steps: int | None = None,
    batch: int = 8,
    lr: float | Sequence[float] = 1e-3,
    schedule: Schedule | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    objective: Objective | None = None,
    penalty: Penalty | Sequence[Penalty | None] | None = None,
    clip: float | None = None,
    before_step: Callable[[int, int], object] | None = None,
    shuffle: bool = True,
    tuples: int = 1,
    seed: int = 0,
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
) -> Trained:
    """Train interventions to raise a metric.

    Args:
        model: stays as it is, its parameters without gradients.
        pairs: the base of each is run with an intervention in force; the answers are those of the clean prompt.
        interventions: one or several, independent of each other; each has at least one learned part (``Rotation``, ``Gate``,
            ``Mask`` …), and no two share one.
        metric: what is raised; the loss is its negative, in the metric's own unit.
        patching: as for :func:`interp.patch`. ``"denoising"`` runs on the corrupted prompt and takes the clean one's values.
        given: interventions in force on the base.
        hold: as for :func:`interp.patch`.
        epochs: passes over the pairs.
        steps: in place of epochs, as many passes as so many steps take, the last of them broken off.
        batch: pairs in one step; the last step of an epoch may have fewer.
        lr: learning rate, of all or of each intervention.
        schedule: factor of the learning rate, by the share of steps done.
        optimizer: called with one list of parameters and ``lr=``, once for each intervention. Groups of parameters that it
            makes with a ``scale`` learn so much faster.
        objective: the loss of an intervention from the metric's values, in place of minus their mean, for one in which examples
            do not simply add up. It costs a further forward pass a step: its slopes in the values are known before the
            backward passes.
        penalty: added to the loss, one for all interventions or one for each.
        clip: largest norm of an intervention's gradient.
        before_step: called with the step and the number of steps, to anneal a temperature or draw a mask.
        shuffle: draw the order of the pairs anew in every epoch; otherwise it is theirs.
        tuples: how many neighbouring pairs belong together and are always in one step, in their order.
        seed: of the order.
        rows: most rows in one pass; by default what a memory budget allows.
        precision: as for :func:`interp.patch`.

    Raises:
        TrainingError: nothing to learn, a part shared between interventions, a metric without gradient.
        ValueError: numbers that make no sense, and what :func:`interp.patch` raises.
    """
    check_words(patching, precision=precision)
    many, encoded, metrics = listed(interventions, "interventions"), encoded_pairs(model, pairs), resolve_metrics(metric)
    if epochs < 1 or batch < 1:
        raise ValueError(f"epochs={epochs}, batch={batch}; expected at least 1 of each")
    if steps is not None and steps < 1:
        raise ValueError(f"steps={steps}; expected at least 1, or None for so many epochs")
    if tuples < 1 or batch % tuples or len(encoded) % tuples:
        raise ValueError(f"tuples={tuples} with batch={batch} of {len(encoded)} pairs; expected a divisor of both")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip={clip}; expected the largest norm of a gradient, more than 0, or None")
    if len(metrics) > 1:
        names = ", ".join(m.name for m in metrics)
        raise ValueError(f"metric names {names}; one is raised: make one of them, or train once for each")
    options = Options(patching, "auto", given_changes(model, given), held(model, hold), rows, skip_inert=False)
    prepared = prepare(model, encoded, [many], metrics, options)
    runs = [
        _Run(intervention, optimizer, rate, of_run, clip)
        for intervention, rate, of_run in zip(many, _each(lr, many, "lr"), _each(penalty, many, "penalty"), strict=True)
    ]
    _refuse(prepared, runs)
    passes = epochs if steps is None else math.ceil(steps / math.ceil(len(encoded) / batch))
    order = _order(len(encoded), batch, passes, shuffle, seed, tuples)[:steps]
    with torch.enable_grad(), model.prepared(prepared.sites), float32(precision), frozen(model.module), halvings() as halved:
        training = _Training(prepared, runs, objective)
        bar = {"disable": progress is False, "delay": 0 if progress else 1, "leave": False}
        try:
            for step, examples in enumerate(tqdm(order, unit="step", **bar)):
                if before_step is not None:
                    before_step(step, len(order))
                training.step(examples, 1.0 if schedule is None else schedule(step / len(order)))
        finally:
            for run in runs:
                run.optimizer.zero_grad()
        return training.trained(len(halved))


class _Run:
    """One intervention with its own optimiser."""

    def __init__(
        self,
        intervention: Intervention,
        optimizer: Callable[..., torch.optim.Optimizer],
        lr: float,
        penalty: Penalty | None,
        clip: float | None,
    ) -> None:
        self.intervention, self.penalty, self.clip, self.lr = intervention, penalty, clip, lr
        self.parameters = learnable(intervention)
        if not self.parameters:
            raise TrainingError(
                f"{intervention!r} has nothing to learn; give it a Rotation as featurizer, or a Gate or Mask as edit"
            )
        self.optimizer = optimizer(self.parameters, lr=lr)
        self.optimizer.zero_grad()
        self.losses: list[Tensor] = []
        self.penalties: list[float] = []

    def step(self, factor: float) -> None:
        """The penalty's gradient beside the loss's, then one step."""
        extra = torch.as_tensor(0.0 if self.penalty is None else self.penalty(self.intervention))
        if extra.requires_grad:
            extra.backward()
        self.penalties.append(float(extra.detach()))
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * factor * group.get("scale", 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


class _Training:
    def __init__(self, prepared: Prepared, runs: Sequence[_Run], objective: Objective | None) -> None:
        self.prepared, self.runs, self.objective = prepared, runs, objective
        with torch.no_grad():
            reader = prepared.reader
            cells = fill(prepared.cells, prepared.runs, start(prepared))
            reference = prepared.runs.reference
        self.work = strategies.Work(prepared.model, prepared.runs.base, cells, reader, reference, prepared.lines)
        self.depths = prepared.depths

    def step(self, examples: Int[Tensor, " example"], factor: float) -> None:
        """One step of every run on some examples."""
        n, device = len(self.runs), self.prepared.model.device
        chosen = examples.sort().values.to(device)
        every = torch.stack([torch.arange(n, device=device).repeat_interleave(len(chosen)), chosen.repeat(n)], dim=-1)
        losses, slopes = self._slopes(chosen, every)
        for group, limit in self._groups(chosen, every):
            for cells, loss in in_batches(len(group.rows), limit, partial(self._backward, group, chosen, slopes)):
                if self.objective is None:
                    losses.index_add_(0, cells, loss)
        for run, loss in zip(self.runs, losses, strict=True):
            run.losses.append(loss)
            run.step(factor)

    def _slopes(
        self, chosen: Int[Tensor, " example"], every: Rows
    ) -> tuple[Float[Tensor, " run"], Float[Tensor, "run example"]]:
        """The losses as far as they are known, and what a unit of the metric adds to them."""
        shape = (len(self.runs), len(chosen))
        plain = torch.zeros(shape, dtype=self.work.reader.dtype, device=chosen.device)
        if self.objective is None:
            return torch.zeros_like(plain[:, 0]), plain - 1 / len(chosen)
        with torch.no_grad():
            for group, limit in self._groups(chosen, every):
                for rows, found in in_batches(len(group.rows), limit, partial(_forward, group)):
                    plain[_located(rows, chosen)] = found
        values = plain.requires_grad_()
        losses = torch.stack([self.objective(own) for own in values])
        if not losses.requires_grad:
            return losses, torch.zeros_like(values)
        [slopes] = torch.autograd.grad(losses.sum(), [values])
        return losses.detach(), slopes

    def _groups(self, examples: Int[Tensor, " example"], rows: Rows) -> Iterator[tuple[Group | Whole, Callable[[], int]]]:
        """Rows that are run alike, and how many of them fit in a pass."""
        budget, depths = self.prepared.budget, self.depths[rows[:, 0]]
        resumed = depths != NEVER
        if bool(resumed.any()):
            with torch.no_grad():
                shard = self.prepared.runs.shard_of(examples)
            for group in groups(self.work, shard, rows[resumed], depths[resumed]):
                yield group, partial(group.most, budget)
        if not bool(resumed.all()):
            yield Whole(self.work, rows[~resumed]), budget.backward_rows

    def _backward(self, group: Group | Whole, chosen: Tensor, slopes: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Cells and losses of some rows, their gradients added to the parameters' once all of them are known."""
        cells, columns = _located(group.rows[part], chosen)
        runs = [self.runs[cell] for cell in cells.unique().tolist()]
        parameters = [parameter for run in runs for parameter in run.parameters]
        with ExitStack() as held:
            for run in runs:
                held.enter_context(once(run.intervention))
            loss = slopes[cells, columns] * group.measure(part)[0]
            if not loss.requires_grad:
                raise TrainingError(f"metric {self.work.reader.metrics[0].name!r} counts or compares, so it has no gradient")
            gradients = torch.autograd.grad(loss.sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return cells, loss.detach()

    def trained(self, halved: int) -> Trained:
        """The result, with its provenance.

        Args:
            halved: how often a pass did not fit in memory.
        """
        p, runs = self.prepared, self.runs
        texts = provenance.example_coordinates(p.encoded)
        seen = {
            "pairs_digest": p.encoded.pairs.digest,
            "examples": effects.digests(texts["clean_prompt"], texts["corrupted_prompt"]),
        }
        attrs = provenance.attributes(p.subject, p.options.patching, p.metrics) | {
            "method": "fit",
            "metric": p.metrics[0].name,
            "interventions": [repr(run.intervention) for run in runs],
            "out_of_memory": halved,
            "selected_on": seen,
            **gauge.attribute(p.model, [run.intervention for run in runs]),
        }
        loss = torch.stack([torch.stack(run.losses) for run in runs]).cpu().numpy()
        penalty = np.array([run.penalties for run in runs], dtype=loss.dtype)
        made = {
            name: xr.DataArray(array, dims=("cell", "step"), name=name, attrs=attrs)
            for name, array in (("loss", loss), ("penalty", penalty))
        }
        return Trained(tuple(run.intervention for run in runs), **made)


def _refuse(prepared: Prepared, runs: Sequence[_Run]) -> None:
    """Raise unless every intervention can be trained apart from the others."""
    given = prepared.options.given
    held = set(learnable(given)) if given is not None else set()
    if any(parameter in held for run in runs for parameter in run.parameters):
        raise TrainingError(
            "what is given shares a learned part with what is trained; the base run would be of its first values"
        )
    owner: dict[nn.Parameter, int] = {}
    for number, run in enumerate(runs):
        for parameter in run.parameters:
            if owner.setdefault(parameter, number) != number:
                raise TrainingError(
                    f"interventions {owner[parameter]} and {number} share a learned part, so they are not independent; give "
                    "each its own, or make one intervention of both with &"
                )


def _each(given: Any, many: Sequence[Intervention], what: str) -> list[Any]:
    """One value for each intervention."""
    if not isinstance(given, Sequence | np.ndarray | Tensor):
        return [given] * len(many)
    if len(given) != len(many):
        raise ValueError(f"{what} has {len(given)} entries for {len(many)} interventions; give one for each, or one for all")
    return list(given)


def _forward(group: Group | Whole, part: slice) -> tuple[Rows, Tensor]:
    """Some rows and the metric on each."""
    return group.rows[part], group.measure(part)[0]


def _located(rows: Rows, chosen: Int[Tensor, " example"]) -> tuple[Tensor, Tensor]:
    """The run of each row, and which of a step's examples it is."""
    return rows[:, 0], torch.searchsorted(chosen, rows[:, 1].contiguous())


def _order(n: int, batch: int, epochs: int, shuffle: bool, seed: int, tuples: int) -> list[Tensor]:
    """Examples of every step."""
    generator, count = torch.Generator().manual_seed(seed), n // tuples
    epoch = (torch.randperm(count, generator=generator) if shuffle else torch.arange(count) for _ in range(epochs))
    members = torch.arange(tuples)
    return [(part[:, None] * tuples + members).flatten() for order in epoch for part in order.split(batch // tuples)]
