"""Measuring: every intervention on every pair, with the two baselines and the noise floor. No labels yet.

The base run, the source runs and the rows share one model session: evaluation mode, one attention implementation, full
float32 precision. One more row an example writes the base's own values back; what it moves is rounding, the run's noise floor.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from interp.engine import provenance, strategies
from interp.engine.budget import memory, rows_a_pass
from interp.engine.cells import Cell, check, resolve
from interp.engine.edits import Rows
from interp.engine.joins import NEVER, join, needed, refused
from interp.engine.readout import Reader
from interp.engine.values import Runs
from interp.engine.wavefront import wavefront
from interp.interventions import Activation, Change, Intervention, Replace
from interp.metrics import Metric
from interp.models import Encoded, Model

Patching = Literal["denoising", "noising"]
Strategy = Literal["auto", "wavefront", "batched", "serial"]


@dataclass(frozen=True, slots=True)
class Options:
    """How a sweep is run; see :func:`interp.engine.sweep.patch`."""

    patching: Patching = "denoising"
    strategy: Strategy = "auto"
    rows: int | None = None
    skip_inert: bool = True
    progress: bool | None = None


@dataclass(frozen=True, eq=False)
class Measured:
    """Numbers of a sweep, cell by cell in the order of its interventions."""

    value: Float[np.ndarray, "metric cell example"]
    clean: Float[np.ndarray, "metric example"]
    corrupt: Float[np.ndarray, "metric example"]
    by_rule: Bool[np.ndarray, "cell example"]
    facts: dict[str, Any]
    """Provenance: what was run, how, and how exactly."""


def measure(
    model: Model, encoded: Encoded, interventions: Sequence[Intervention], metrics: tuple[Metric, ...], options: Options
) -> Measured:
    """Run interventions on pairs.

    Raises:
        ValueError: fewer than one row a pass.
        AnswerError, UnknownSiteError, HeadOutOfRangeError, PositionError, ShapeMismatchError, OrderError: what does not fit.
    """
    began = time.perf_counter()
    check(interventions, model)
    sites = {site for i in interventions for change in i.changes for site in _sites(change)}
    reader = Reader.of(model, encoded, metrics, whole=any(site.name == "logits" for site in sites))
    limit = rows_a_pass(model, encoded, reader) if options.rows is None else options.rows
    if limit < 1:
        raise ValueError(f"rows={options.rows}; a pass has at least one row")
    patching: Patching = options.patching
    runs = Runs(model, encoded, base="corrupted" if patching == "denoising" else "clean", batch=min(limit, 256), reader=reader)
    everything = [*interventions, _self_patch(interventions[len(interventions) // 2])]
    with torch.no_grad(), model.prepared(sites), full_precision():
        begins = _begins(model, everything, options)
        resumed = needed(model, [(d, i) for d, i in zip(begins, everything, strict=True) if isinstance(d, int)])
        if resumed or any(isinstance(d, int) for d in begins):
            runs.keep(resumed, encoded.clean.ids.shape[1], memory(model) // 2)
        cells = resolve(everything, runs)
        reference = runs.logits("clean") if reader.needs_reference else None
        everyone = torch.arange(len(encoded), device=model.device)
        clean, corrupt = (reader.measure(runs.logits(side), everyone, reference) for side in ("clean", "corrupted"))
        _require_finite({"clean prompt": clean, "corrupted prompt": corrupt}, metrics)
        base = corrupt if patching == "denoising" else clean
        rows, by_rule = _rows(cells, options.skip_inert)
        value = base[:, None].repeat(1, len(cells), 1)
        work = strategies.Work(model, runs.base, cells, reader, reference)
        value[:, rows[:, 0], rows[:, 1]] = _run(work, runs, rows, begins, limit, options)
        _require_finite({"base prompt, with its own values written back,": value[:, -1]}, metrics)
    facts = provenance.attributes(model, encoded, options.patching, metrics) | {
        "source": _source(interventions, options.patching),
        "edit": repr(interventions[0].changes[0].edit),
        "strategy": _strategy(begins, options),
        "rows": len(rows),
        "rows_by_rule": int(by_rule[:-1].sum()),
        "rows_not_a_number": _warn_of_nan(value, cells),
        "noise_floor": dict(zip([m.name for m in metrics], (value[:, -1] - base).abs().amax(-1).tolist(), strict=True)),
        "wall_seconds": time.perf_counter() - began,
    }
    value, clean, corrupt, by_rule = (tensor.cpu() for tensor in (value[:, :-1], clean, corrupt, by_rule[:-1]))
    return Measured(value.numpy(), clean.numpy(), corrupt.numpy(), by_rule.numpy(), facts)


def _begins(model: Model, interventions: Sequence[Intervention], options: Options) -> list[int | str]:
    """Where the rows of each intervention join the wave, or why they run whole forward passes."""
    if options.strategy in ("serial", "batched"):
        return [f"strategy={options.strategy!r}"] * len(interventions)
    reason = refused(model)
    return [reason or join(model, intervention) for intervention in interventions]


def _strategy(begins: Sequence[int | str], options: Options) -> str:
    """Which strategies ran."""
    if options.strategy == "serial":
        return "serial"
    ran = {"wavefront" if isinstance(begin, int) else "batched" for begin in begins[:-1]}
    return "+".join(sorted(ran, reverse=True))


def _sites(change: Change) -> list[Any]:
    return [change.site, *([change.source.site_for(change.site)] if isinstance(change.source, Activation) else [])]


def _run(
    work: strategies.Work, runs: Runs, rows: Rows, begins: Sequence[int | str], limit: int, options: Options
) -> strategies.Measured:
    bar = {"disable": options.progress is False, "delay": 0 if options.progress else 1, "leave": False}
    with tqdm(total=len(rows), unit="row", **bar) as progress:
        if options.strategy == "serial":
            return strategies.serial(work, rows, progress.update)
        depths = torch.tensor([begin if isinstance(begin, int) else NEVER for begin in begins], device=rows.device)[rows[:, 0]]
        waved = (depths != NEVER).nonzero().flatten()
        whole = (depths == NEVER).nonzero().flatten()
        found = torch.zeros(len(work.reader.metrics), len(rows), dtype=torch.float64, device=rows.device)
        if len(waved):

            def most(columns: int) -> int:
                return limit

            found[:, waved] = wavefront(work, rows[waved], depths[waved], runs.shards(), most, progress.update).double()
        if len(whole):
            found[:, whole] = strategies.batched(work, rows[whole], progress.update, limit).double()
    return found.to(work.reader.dtype)


def _rows(cells: Sequence[Cell], skip_inert: bool) -> tuple[Tensor, Tensor]:
    """Rows to run, and for every cell and example whether its value is known by rule. The last cell is the self-patch."""
    by_rule = torch.stack([cell.inert for cell in cells]) & skip_inert
    by_rule[-1] = False
    return (~by_rule).nonzero(), by_rule


def _self_patch(intervention: Intervention) -> Intervention:
    """The same places with the base's own values: what it moves is rounding, the noise floor of the sweep."""
    own = Activation("base")
    changes = [Change(c.site, c.positions, own, Replace(), c.featurizer) for c in intervention.changes]
    return replace(intervention, changes=tuple(changes), ordered=True)


def _source(interventions: Sequence[Intervention], patching: Patching) -> str:
    """What was written, in words."""
    found = [change.source for i in interventions for change in i.changes if change.edit.reads_source]
    if not found:
        return "none"
    if any(not (isinstance(source, Activation) and source.is_counterpart) for source in found):
        return ", ".join(sorted({repr(source) for source in found}))
    return "clean run" if patching == "denoising" else "corrupted run"


def _require_finite(runs: dict[str, Tensor], metrics: Sequence[Metric]) -> None:
    """What every effect is compared with is a number."""
    for what, values in runs.items():
        undefined = (~values.isfinite()).nonzero()
        if len(undefined):
            metric, example = undefined[0].tolist()
            raise ValueError(
                f"metric {metrics[metric].name!r} is {float(values[metric, example])} on the {what} of example {example}; "
                "nothing can be compared with that"
            )


def _warn_of_nan(value: Tensor, cells: Sequence[Cell]) -> int:
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


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 products at full precision (no TF32) inside, the user's setting after."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
