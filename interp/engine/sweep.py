"""Sweeps: a grid of interventions on every pair, to one labelled result.

>>> model = interp.load("zoo/language-4l")                                              # doctest: +SKIP
>>> pairs = interp.tasks.ioi(64, seed=0)                                                # doctest: +SKIP
>>> grid = interp.grid("resid_pre", layer=..., position=...)                            # doctest: +SKIP
>>> effects = interp.patch(model, pairs, grid, metric="logit_diff")                     # doctest: +SKIP
>>> effects.value.dims                                                                  # doctest: +SKIP
('metric', 'layer', 'position', 'example')
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from interp import axes, effects
from interp.engine import provenance, strategies
from interp.engine.budget import rows_a_pass
from interp.engine.cells import Cell, resolve
from interp.engine.readout import LOGITS, Reader
from interp.engine.values import Runs
from interp.errors import PositionError, UnknownNameError
from interp.interventions import Activation, Change, Edit, Featurizer, Identity, Intervention, Replace, Source
from interp.metrics import MetricLike
from interp.metrics import resolve as resolve_metrics
from interp.models import Encoded, Model, Tokens
from interp.pairs import Pairs
from interp.sites import Cell as GridCell
from interp.sites import Grid, Positions

Patching = Literal["denoising", "noising"]
STRATEGIES = ("auto", "batched", "serial")
Where = Grid | Intervention | Change | Sequence[Intervention | Change] | Mapping[str, Grid]


def patch(
    model: Model,
    pairs: Pairs | Encoded,
    where: Where,
    metric: MetricLike | Sequence[MetricLike] = "logit_diff",
    *,
    patching: Patching = "denoising",
    source: Source | None = None,
    edit: Edit | None = None,
    featurizer: Featurizer | None = None,
    keep_error: bool = True,
    strategy: Literal["auto", "batched", "serial"] = "auto",
    rows: int | None = None,
    skip_inert: bool = True,
    progress: bool | None = None,
) -> xr.Dataset | xr.DataTree:
    """Run every intervention on every pair and measure it.

    Args:
        model: from :func:`interp.load`.
        pairs: of a task, or already encoded by ``model.encode``.
        where: a grid; a mapping of names to grids, for several families; or interventions, one or several, which then say their
            own source, edit and featurizer.
        metric: one or several names, metric objects or functions of logits.
        patching: ``"denoising"`` runs on the corrupted prompt and takes values from the clean one; ``"noising"`` the reverse.
        source: what is written; by default the other prompt's activation at the same place.
        edit: what is done with it; by default it replaces the value.
        featurizer: the basis in which it is done; by default the site's own.
        keep_error: add back what a lossy featurizer does not encode.
        strategy: ``"batched"``, ``"serial"`` (the reference: one intervention a pass), or ``"auto"``.
        rows: most rows in one pass; by default what a memory budget allows.
        skip_inert: take cells that cannot have an effect as zero by rule; False runs them too.
        progress: show a bar; by default after the first second.

    Returns:
        Effects with dims ``(metric, *axes of the grid, example)``, ``("metric", "cell", "example")`` for interventions, or a
        ``DataTree`` of such for several families. See :mod:`interp.effects`.

    Raises:
        UnequalLengthsError: raw positions are matched between prompts of different length.
        AnswerError, UnknownSiteError, HeadOutOfRangeError, PositionError, ShapeMismatchError: see there.
    """
    if patching not in effects.PATCHING:
        raise UnknownNameError("patching", patching, effects.PATCHING)
    if strategy not in STRATEGIES:
        raise UnknownNameError("strategy", strategy, STRATEGIES)
    encoded = pairs if isinstance(pairs, Encoded) else model.encode(pairs)
    options: dict[str, Any] = {
        "patching": patching,
        "strategy": strategy,
        "rows": rows,
        "skip_inert": skip_inert,
        "progress": progress,
    }
    change = {"source": source, "edit": edit, "featurizer": featurizer or Identity(), "keep_error": keep_error}
    if isinstance(where, Mapping):
        if not where:
            raise ValueError("where is an empty mapping; name at least one grid")
        families = {name: _sweep_grid(model, encoded, grid, metric, change, options) for name, grid in where.items()}
        return xr.DataTree.from_dict(families)
    if isinstance(where, Grid):
        return _sweep_grid(model, encoded, where, metric, change, options)
    if source is not None or edit is not None or featurizer is not None:
        raise ValueError("interventions say their own source, edit and featurizer; leave these arguments out, or give a grid")
    return _sweep_list(model, encoded, _listed(where), metric, options)


def _listed(where: Any) -> list[Intervention]:
    """Interventions from one or several, changes being interventions of one change."""
    many = list(where) if isinstance(where, Sequence) and not isinstance(where, str) else [where]
    for one in many:
        if not isinstance(one, Intervention | Change):
            raise ValueError(
                f"where holds {one!r} of type {type(one).__name__}; expected a grid such as "
                "interp.grid('resid_pre', layer=...), a mapping of names to grids, or interventions such as "
                "Intervention.of('L9H6.z@-1')"
            )
    if not many:
        raise ValueError("where is an empty list; give at least one intervention")
    return [one if isinstance(one, Intervention) else Intervention((one,)) for one in many]


def _sweep_grid(
    model: Model, encoded: Encoded, grid: Grid, metric: Any, change: dict[str, Any], options: dict[str, Any]
) -> xr.Dataset:
    if axes.POSITION in grid.axes:
        raw = dict(grid.swept)[axes.POSITION]
        if raw is None or any(isinstance(p, int) and p >= 0 for p in raw):
            encoded.require_equal_lengths(f"{grid!r}")
        for index in raw or ():
            encoded.clean.columns(Positions.parse(index), what=f"position of {grid!r}")
    sizes = model.sizes_at(grid.site) | {axes.POSITION: _common_length(encoded, grid)}
    values = grid.values(sizes)
    cells = list(grid.cells(sizes))
    interventions = [Intervention((Change(cell.site, cell.positions, **change),)) for cell in cells]
    family = {
        "axes": values,
        "coords": provenance.token_coordinates(encoded, values.get(axes.POSITION)),
        "attrs": {"site": repr(grid.site), "positions": "swept" if axes.POSITION in grid.axes else repr(grid.positions)},
        "spec": {
            "grid": grid.spec(),
            "change": {k: v for k, v in interventions[0].changes[0].spec().items() if k not in ("site", "positions")},
        },
    }
    absent = np.array([not _exists(model, cell) for cell in cells]).reshape([len(v) for v in values.values()])
    return _sweep(model, encoded, interventions, metric, family, absent, **options)


def _sweep_list(
    model: Model, encoded: Encoded, interventions: list[Intervention], metric: Any, options: dict[str, Any]
) -> xr.Dataset:
    family = {
        "axes": {axes.CELL: list(range(len(interventions)))},
        "coords": {"intervention": (axes.CELL, [repr(i)[len("Intervention(") : -1] for i in interventions])},
        "attrs": {
            "site": ", ".join(dict.fromkeys(c.site.name for i in interventions for c in i.changes)),
            "positions": "listed",
        },
        "spec": {"interventions": [i.spec() for i in interventions]},
    }
    return _sweep(model, encoded, interventions, metric, family, None, **options)


def _sweep(
    model: Model,
    encoded: Encoded,
    interventions: list[Intervention],
    metric: Any,
    family: dict[str, Any],
    absent: np.ndarray[Any, Any] | None,
    *,
    patching: Patching,
    strategy: str,
    rows: int | None,
    skip_inert: bool,
    progress: bool | None,
) -> xr.Dataset:
    began = time.perf_counter()
    changes = [change for i in interventions for change in i.changes]
    sites = {change.site for change in changes}
    sites |= {c.source.site_for(c.site) for c in changes if isinstance(c.source, Activation)}
    reader = Reader.of(model, encoded, resolve_metrics(metric), whole=any(site.name == "logits" for site in sites))
    limit = rows_a_pass(model, encoded, reader) if rows is None else rows
    if limit < 1:
        raise ValueError(f"rows={rows}; a pass has at least one row")
    runs = Runs(model, encoded, base="corrupted" if patching == "denoising" else "clean", batch=min(limit, 256))
    with torch.no_grad(), model.prepared(sites), full_precision():
        own = _self_patch(interventions[len(interventions) // 2])
        cells = resolve([*interventions, own], runs)
        measured = {
            side: _baseline(model, tokens, reader, runs.batch)
            for side, tokens in (("clean", encoded.clean), ("corrupt", encoded.corrupted))
        }
        reference = measured["clean"] if reader.needs_reference else None
        everyone = torch.arange(len(encoded), device=model.device)
        clean, corrupt = (reader.measure(logits, everyone, reference) for logits in measured.values())
        base = corrupt if patching == "denoising" else clean
        work = strategies.Work(model, runs.base, cells, reader, reference)
        todo, by_rule = _rows(cells, skip_inert, everyone)
        value = base[:, None].repeat(1, len(cells), 1)
        with tqdm(total=len(todo), unit="row", disable=progress is False, delay=0 if progress else 1, leave=False) as bar:
            done = (
                strategies.serial(work, todo, bar.update)
                if strategy == "serial"
                else strategies.batched(work, todo, bar.update, limit)
            )
        value[:, todo[:, 0], todo[:, 1]] = done
    floor = (value[:, -1] - base).abs().amax(-1).tolist()
    attrs = provenance.attributes(model, encoded, patching, reader.metrics) | family["attrs"] | {
        "source": _source(interventions, patching),
        "edit": repr(interventions[0].changes[0].edit),
        "strategy": "serial" if strategy == "serial" else "batched",
        "rows": len(todo),
        "rows_by_rule": int(by_rule[:-1].sum()),
        "noise_floor": {m.name: f for m, f in zip(reader.metrics, floor, strict=True)},
        "wall_seconds": time.perf_counter() - began,
        "spec": provenance.spec(model, encoded, patching, reader.metrics, family["spec"]),
    }  # fmt: skip
    shape = [len(v) for v in family["axes"].values()]
    return effects.assemble(
        _numpy(value[:, :-1]).reshape(len(reader.metrics), *shape, len(encoded)),
        _numpy(clean),
        _numpy(corrupt),
        axes=family["axes"],
        metrics=[m.name for m in reader.metrics],
        by_rule=by_rule[:-1].cpu().numpy().reshape(*shape, len(encoded)),
        absent=absent if absent is not None and absent.any() else None,
        coords=provenance.example_coordinates(encoded) | family["coords"],
        attrs=attrs,
    )


def _source(interventions: list[Intervention], patching: Patching) -> str:
    """What was written, in words."""
    found = {change.source for i in interventions for change in i.changes if change.edit.reads_source}
    if not found:
        return "none"
    if any(not (isinstance(source, Activation) and source.is_counterpart) for source in found):
        return ", ".join(sorted({repr(source) for source in found}))
    return "clean run" if patching == "denoising" else "corrupted run"


def _self_patch(intervention: Intervention) -> Intervention:
    """The same places with the base's own values: what it moves is rounding, the noise floor of the sweep."""
    own = Activation("base")
    changes = [Change(c.site, c.positions, own, Replace(), c.featurizer) for c in intervention.changes]
    return replace(intervention, changes=tuple(changes), ordered=True)


def _rows(cells: Sequence[Cell], skip_inert: bool, everyone: Tensor) -> tuple[Tensor, Tensor]:
    """Rows to run, and for every cell and example whether its value is known by rule. The last cell is the self-patch."""
    by_rule = (
        torch.stack([cell.inert for cell in cells])
        if skip_inert
        else torch.zeros(len(cells), len(everyone), dtype=torch.bool, device=everyone.device)
    )
    by_rule[-1] = False
    return (~by_rule).nonzero(), by_rule


def _baseline(model: Model, tokens: Tokens, reader: Reader, batch: int) -> Tensor:
    parts = []
    for start in range(0, len(tokens), batch):
        part = tokens.take(slice(start, start + batch))
        found = model.backend.run(model.inputs(part, reader.keep), reads=[LOGITS], writes={})
        parts.append(reader.logits(part, found[LOGITS]))
    return torch.cat(parts)


def _common_length(encoded: Encoded, grid: Grid) -> int:
    """Tokens of the shortest prompt; a sweep over every raw position needs all of them equally long."""
    lengths = torch.cat([encoded.clean.lengths, encoded.corrupted.lengths])
    if dict(grid.swept).get(axes.POSITION, ()) is None and bool((lengths != lengths[0]).any()):
        counts = ", ".join(f"{int((lengths == n).sum())} of {int(n)} tokens" for n in lengths.unique())
        raise PositionError(
            f"{grid!r} sweeps every raw position, but the prompts have different lengths ({counts}), so that one index would "
            f"mean different things; sweep roles ({', '.join(encoded.pairs.roles) or 'none here'}), or negative indices"
        )
    return int(lengths.min())


def _exists(model: Model, cell: GridCell) -> bool:
    return cell.site.path is not None or cell.site.tensor in model.anatomy.taps


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 products at full precision (no TF32) inside, the user's setting after."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().cpu().numpy()
