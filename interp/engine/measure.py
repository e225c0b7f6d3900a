"""Measuring: every intervention on every pair, with the two baselines and the noise floor. No labels yet.

The base run, the source runs and the rows share one model session: evaluation mode, one attention implementation, full
float32 precision. One more row an example writes the base's own values back; what it moves is rounding, the run's noise floor.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from interp.engine import provenance, strategies
from interp.engine.background import in_force
from interp.engine.batches import halvings
from interp.engine.cells import Cell
from interp.engine.edits import Rows
from interp.engine.filling import fill
from interp.engine.joins import NEVER
from interp.engine.plan import Plan
from interp.engine.precision import float32
from interp.engine.prepared import Patching, Prepared, start
from interp.engine.spans import recorded
from interp.engine.wavefront import wavefront
from interp.interventions import Activation, Intervention
from interp.metrics import Metric
from interp.models import Model

ROUNDING = 1e-3
"""What rounding may move a metric of size 1 by, at most."""


@dataclass(frozen=True, eq=False)
class Measured:
    """Numbers of one family of a sweep, cell by cell in the order of its interventions."""

    value: Float[np.ndarray, "metric cell example"]
    clean: Float[np.ndarray, "metric example"]
    corrupt: Float[np.ndarray, "metric example"]
    given: Float[np.ndarray, "metric example"] | None
    """The base with what is given in force; None if nothing is."""
    by_rule: Bool[np.ndarray, "cell example"]
    facts: dict[str, Any]
    """Provenance: what was run, how, and how exactly."""
    score: Float[np.ndarray, "metric cell example"] | None = None
    """By what cells are ranked, where it is not their effect; None where it is."""


def measure(prepared: Prepared) -> list[Measured]:
    """Run a sweep; one result a family. Families share their base run, their source runs and their passes.

    Raises:
        PositionError, ShapeMismatchError, UnequalLengthsError: a source does not fit its target.
        ValueError: a metric is not a number on a prompt without intervention.
    """
    with measuring(prepared) as sweep:
        value = sweep.unmoved
        rows = prepared.rows
        with bar(prepared.options.progress, len(rows)) as progress:
            value[:, rows[:, 0], rows[:, 1]] = sweep.run(rows, progress.update)
        found = []
        for family in prepared.families:
            own = value[:, family.start : family.stop - 1]
            floor = sweep.floor(value[:, family[-1]])
            undefined = warn_of_nan(own, sweep.work.cells[family.start : family.stop - 1])
            found.append(sweep.measured(family, own, floor, undefined))
        return found


@contextmanager
def measuring(prepared: Prepared) -> Iterator[Measuring]:
    """A sweep under way: the base run, the source runs and the baselines are made, rows can be run."""
    began = time.perf_counter()
    model, encoded, runs, reader = prepared.model, prepared.encoded, prepared.runs, prepared.reader
    plan = Plan.of(prepared)
    with torch.no_grad(), prepared.session(), float32(prepared.options.precision), halvings() as halved:
        runs.want_logits("clean", "corrupted", "base")
        cells = fill(prepared.cells, runs, start(prepared))
        reference = runs.reference
        everyone = torch.arange(len(encoded), device=model.device)
        clean, corrupt, base = (
            reader.measure(runs.logits(side), everyone, reference) for side in ("clean", "corrupted", "base")
        )
        require_finite({"clean prompt": clean, "corrupted prompt": corrupt, "base prompt": base}, prepared.metrics)
        work = strategies.Work(model, runs.base, cells, reader, reference, prepared.lines)
        yield Measuring(prepared, plan, work, clean, corrupt, base, halved, began)


@dataclass(frozen=True, eq=False)
class Measuring:
    """What :func:`measuring` gives."""

    prepared: Prepared
    plan: Plan
    work: strategies.Work
    clean: Float[Tensor, "metric example"]
    corrupt: Float[Tensor, "metric example"]
    base: Float[Tensor, "metric example"]
    halved: list[int]
    """Sizes of batches that did not fit in memory."""
    began: float

    @property
    def unmoved(self) -> Float[Tensor, "metric cell example"]:
        """Every cell with the base's values."""
        return self.base[:, None].repeat(1, len(self.work.cells), 1)

    def run(self, rows: Rows, progress: strategies.Progress) -> Float[Tensor, "metric row"]:
        """Measure some rows."""
        options, work, budget = self.prepared.options, self.work, self.prepared.budget
        if options.strategy == "serial":
            return strategies.serial(work, rows, progress)
        depths = self.prepared.depths[rows[:, 0]]
        found = torch.zeros(len(self.prepared.metrics), len(rows), dtype=work.reader.dtype, device=rows.device)
        resumed, whole = ((depths != NEVER).nonzero().flatten(), (depths == NEVER).nonzero().flatten())
        if len(resumed):
            shards = self.prepared.runs.shards(rows[resumed, 1].unique())
            found[:, resumed] = wavefront(work, rows[resumed], depths[resumed], shards, budget, progress).to(found)
        if len(whole):
            found[:, whole] = strategies.batched(work, rows[whole], progress, budget.whole_rows()).to(found)
        return found

    def floor(self, written_back: Float[Tensor, "metric example"]) -> dict[str, float]:
        """The noise floor from a family's self-patch.

        Raises:
            ValueError: it is not a number.
        """
        require_finite({"base prompt, with its own values written back,": written_back}, self.prepared.metrics)
        return noise_floor(written_back, self.base, self.prepared.model, self.prepared.metrics)

    def measured(
        self, family: range, value: Float[Tensor, "metric cell example"], floor: dict[str, float], undefined: int
    ) -> Measured:
        """A family's values with all that is known of them."""
        prepared, plan, own = self.prepared, self.plan, slice(family.start, family.stop - 1)
        interventions = prepared.interventions[own]
        facts = {
            "source": sources(interventions, prepared.options.patching),
            "edit": repr(interventions[0].changes[0].edit),
            **in_force(prepared.model, prepared.options.given, prepared.options.hold, prepared.options.corruption),
            "strategy": plan.strategy(family[:-1]),
            "fallback": plan.fallback(family[:-1]),
            "rows": int((~prepared.by_rule[family.start : family.stop]).sum()),
            "rows_by_rule": int(prepared.by_rule[own].sum()),
            "passes": plan.passes,
            "fraction_of_naive_flops": plan.fraction,
            "kernels": plan.kernels,
            "attention": prepared.attention,
            "noise_floor": floor,
            "rows_not_a_number": undefined,
            "out_of_memory": len(self.halved),
            "wall_seconds": time.perf_counter() - self.began,
        }
        return Measured(
            value.cpu().numpy(),
            self.clean.cpu().numpy(),
            self.corrupt.cpu().numpy(),
            self.base.cpu().numpy() if prepared.options.given is not None else None,
            prepared.by_rule[own].cpu().numpy(),
            provenance.attributes(prepared.subject, prepared.options.patching, prepared.metrics)
            | facts
            | recorded(self.work.cells[own]),
        )


def bar(progress: bool | None, total: int, unit: str = "row") -> Any:
    """A bar of rows, or of steps; by default after the first second."""
    return tqdm(total=total, unit=unit, disable=progress is False, delay=0 if progress else 1, leave=False)


def sources(interventions: Sequence[Intervention], patching: Patching) -> str:
    """What was written, in words."""
    found = [change.source for i in interventions for change in i.changes if change.edit.reads_source]
    if not found:
        return "none"
    if any(not (isinstance(source, Activation) and source.is_counterpart) for source in found):
        return ", ".join(sorted({repr(source) for source in found}))
    return "clean run" if patching == "denoising" else "corrupted run"


def noise_floor(
    written_back: Float[Tensor, "metric example"],
    base: Float[Tensor, "metric example"],
    model: Model,
    metrics: Sequence[Metric],
) -> dict[str, float]:
    """The most that each metric moves when the base's own values are written back; warns where that is more than rounding."""
    floor = (written_back - base).abs().amax(-1)
    allowed = max(ROUNDING, torch.finfo(model.dtype).eps ** 0.5) * (1 + base.abs().amax(-1))
    for metric, moved, most in zip(metrics, floor.tolist(), allowed.tolist(), strict=True):
        if moved > most:
            warnings.warn(
                f"writing the base's own values back moves metric {metric.name!r} by {moved:.2g}, which is more than rounding: "
                "is the model deterministic? No effect below that number means anything",
                RuntimeWarning,
                stacklevel=5,
            )
    return dict(zip([metric.name for metric in metrics], floor.tolist(), strict=True))


def require_finite(runs: dict[str, Tensor], metrics: Sequence[Metric]) -> None:
    """What every effect is compared with is a number."""
    for what, values in runs.items():
        undefined = (~values.isfinite()).nonzero()
        if len(undefined):
            metric, example = undefined[0].tolist()
            raise ValueError(
                f"metric {metrics[metric].name!r} is {float(values[metric, example])} on the {what} of example {example}; "
                "nothing can be compared with that"
            )


def warn_of_nan(value: Tensor, cells: Sequence[Cell]) -> int:
    """How many values are not a number, which is not the same as not computed; says so once."""
    where = value.isnan().any(0).nonzero()
    if len(where):
        cell, example = where[0].tolist()
        warnings.warn(
            f"{len(where)} of {value[0].numel()} rows are not a number, the first {cells[cell].intervention!r} in example "
            f"{example}: the intervention overflows, or the metric is undefined there",
            RuntimeWarning,
            stacklevel=4,
        )
    return len(where)
