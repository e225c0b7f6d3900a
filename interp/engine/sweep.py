"""Sweeps: a grid of interventions on every pair, to one labelled result.

>>> model = interp.load("zoo/language-4l")                                              # doctest: +SKIP
>>> pairs = interp.tasks.ioi(64, seed=0)                                                # doctest: +SKIP
>>> where = interp.grid("resid_pre", layer=..., position=["S1", "S2", "END"])           # doctest: +SKIP
>>> effects = interp.patch(model, pairs, where, metric="logit_diff")                    # doctest: +SKIP
>>> effects.value.dims                                                                  # doctest: +SKIP
('metric', 'layer', 'position', 'example')
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr

from interp import axes, effects
from interp.engine import provenance
from interp.engine.measure import Measured, measure
from interp.engine.plan import Plan
from interp.engine.prepared import Options, Patching, Prepared, Strategy, prepare
from interp.errors import PositionError, UnknownNameError
from interp.interventions import Change, Edit, Featurizer, Identity, Intervention, Source
from interp.metrics import MetricLike
from interp.metrics import resolve as resolve_metrics
from interp.models import Encoded, Model
from interp.pairs import Pair, Pairs
from interp.sites import Grid, Positions

STRATEGIES = ("auto", "wavefront", "batched", "serial")
Given = Intervention | Change | Sequence[Intervention | Change] | None
Where = Grid | Intervention | Change | Sequence[Intervention | Change] | Mapping[str, Grid]


def patch(
    model: Model,
    pairs: Pairs | Sequence[Pair] | Encoded,
    where: Where,
    metric: MetricLike | Sequence[MetricLike] = "logit_diff",
    *,
    patching: Patching = "denoising",
    source: Source | None = None,
    edit: Edit | None = None,
    featurizer: Featurizer | None = None,
    keep_error: bool = True,
    given: Given = None,
    strategy: Strategy = "auto",
    rows: int | None = None,
    skip_inert: bool = True,
    progress: bool | None = None,
) -> xr.Dataset | xr.DataTree:
    """Run every intervention on every pair and measure it.

    Args:
        model: from :func:`interp.load`.
        pairs: of a task, your own, or already encoded by ``model.encode``.
        where: a grid; a mapping of names to grids, for several families; or interventions, one or several, which then say their
            own source, edit and featurizer.
        metric: one or several names, metric objects or functions of logits.
        patching: ``"denoising"`` runs on the corrupted prompt and takes values from the clean one; ``"noising"`` the reverse.
        source: what is written; by default the other prompt's activation at the same place.
        edit: what is done with it; by default it replaces the value.
        featurizer: the basis in which it is done; by default the site's own.
        keep_error: add back what a lossy featurizer does not encode.
        given: interventions in force on the base of every cell. The base that effects are counted from is then the changed one,
            and the source ``"base"`` means its activations.
        strategy: ``"wavefront"`` (rows resume where they change something), ``"batched"`` (whole forward passes of many rows),
            ``"serial"`` (the reference: one intervention a pass), or ``"auto"``: the first where it can, else the second.
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
    check_words(patching, strategy)
    options = Options(patching, strategy, given_changes(given), rows, skip_inert, progress)
    change = {"source": source, "edit": edit, "featurizer": featurizer, "keep_error": keep_error}
    prepared, families = _prepared(model, pairs, where, metric, change, options)
    found = [
        _labelled(prepared, measured, family) for measured, family in zip(measure(prepared), families.values(), strict=True)
    ]
    return xr.DataTree.from_dict(dict(zip(families, found, strict=True))) if isinstance(where, Mapping) else found[0]


def explain(
    model: Model,
    pairs: Pairs | Sequence[Pair] | Encoded,
    where: Where,
    metric: MetricLike | Sequence[MetricLike] = "logit_diff",
    *,
    patching: Patching = "denoising",
    source: Source | None = None,
    edit: Edit | None = None,
    featurizer: Featurizer | None = None,
    keep_error: bool = True,
    given: Given = None,
    strategy: Strategy = "auto",
    rows: int | None = None,
    skip_inert: bool = True,
) -> Plan:
    """What :func:`patch` would do with the same arguments: rows, passes, operations, time, memory. No prompt is run.

    Printed, it is a page to read; its attributes are the numbers.

    Raises:
        The same as :func:`patch`, as far as nothing has to be run to know it.
    """
    check_words(patching, strategy)
    options = Options(patching, strategy, given_changes(given), rows, skip_inert)
    change = {"source": source, "edit": edit, "featurizer": featurizer, "keep_error": keep_error}
    return Plan.of(_prepared(model, pairs, where, metric, change, options)[0])


def _prepared(
    model: Model, pairs: Any, where: Where, metric: Any, change: dict[str, Any], options: Options
) -> tuple[Prepared, dict[str, _Family]]:
    """Everything that is asked for, checked and resolved."""
    encoded = encoded_pairs(model, pairs)
    metrics = resolve_metrics(metric)
    if isinstance(where, Grid | Mapping):
        grids = {"": where} if isinstance(where, Grid) else dict(where)
        if not grids:
            raise ValueError("where is an empty mapping; name at least one grid")
        change |= {"featurizer": change["featurizer"] or Identity()}
        families = {name: _of_grid(model, encoded, grid, change) for name, grid in grids.items()}
    else:
        if any(change[word] is not None for word in ("source", "edit", "featurizer")):
            raise ValueError(
                "interventions say their own source, edit and featurizer; leave these arguments out, or give a grid"
            )
        families = {"": _of_list(listed(where))}
    return prepare(model, encoded, [f.interventions for f in families.values()], metrics, options), families


def _of_grid(model: Model, encoded: Encoded, grid: Grid, change: dict[str, Any]) -> _Family:
    _check_positions(encoded, grid)
    shortest = min(int(encoded.clean.lengths.min()), int(encoded.corrupted.lengths.min()))
    sizes = model.sizes_at(grid.site) | {axes.POSITION: shortest}
    values = grid.values(sizes)
    cells = list(grid.cells(sizes))
    exists = np.array([model.has(cell.site) for cell in cells], dtype=bool)
    interventions = [
        Intervention((Change(cell.site, cell.positions, **change),)) for cell, there in zip(cells, exists, strict=True) if there
    ]
    of_change = interventions[0].changes[0].spec()
    return _Family(
        interventions,
        axes=values,
        exists=exists,
        coords=provenance.token_coordinates(encoded, values.get(axes.POSITION)),
        attrs={"site": repr(grid.site), "positions": "swept" if axes.POSITION in grid.axes else repr(grid.positions)},
        spec={"grid": grid.spec(), "change": {k: v for k, v in of_change.items() if k not in ("site", "positions")}},
    )


def _of_list(interventions: list[Intervention]) -> _Family:
    sites = dict.fromkeys(change.site.name for i in interventions for change in i.changes)
    return _Family(
        interventions,
        axes={axes.CELL: list(range(len(interventions)))},
        exists=np.ones(len(interventions), dtype=bool),
        coords={"intervention": (axes.CELL, [repr(i)[len("Intervention(") : -1] for i in interventions])},
        attrs={"site": ", ".join(sites), "positions": "listed"},
        spec={"interventions": [i.spec() for i in interventions]},
    )


@dataclass(frozen=True, eq=False)
class _Family:
    """The cells of one result, and what labels them."""

    interventions: list[Intervention]
    axes: Mapping[str, Sequence[Any]]
    exists: np.ndarray[Any, Any]
    """``[cell]``: whether the cell's site exists; only those are measured."""
    coords: dict[str, Any]
    attrs: dict[str, Any]
    spec: dict[str, Any]


def _labelled(prepared: Prepared, measured: Measured, family: _Family) -> xr.Dataset:
    """What was measured of a family, with its names."""
    exists, encoded, options = family.exists, prepared.encoded, prepared.options
    spec = family.spec | ({"given": options.given.spec()} if options.given is not None else {})
    return effects.assemble(
        _spread(measured.value, exists, family.axes, np.nan),
        measured.clean,
        measured.corrupt,
        given=measured.given,
        axes=family.axes,
        metrics=[metric.name for metric in prepared.metrics],
        by_rule=_spread(measured.by_rule, exists, family.axes, False),
        absent=None if exists.all() else ~exists.reshape([len(v) for v in family.axes.values()]),
        coords=provenance.example_coordinates(encoded) | family.coords,
        attrs=measured.facts
        | family.attrs
        | {"spec": provenance.spec(prepared.model, encoded, options.patching, prepared.metrics, spec)},
    )


def _spread(
    found: np.ndarray[Any, Any], exists: np.ndarray[Any, Any], values: Mapping[str, Sequence[Any]], filler: Any
) -> np.ndarray[Any, Any]:
    """``[…, existing cell, example]`` laid out over the axes of a grid, with ``filler`` where a site does not exist."""
    full = np.full((*found.shape[:-2], len(exists), found.shape[-1]), filler, dtype=found.dtype)
    full[..., exists, :] = found
    return full.reshape(*found.shape[:-2], *(len(v) for v in values.values()), found.shape[-1])


def encoded_pairs(model: Model, pairs: Any) -> Encoded:
    """Pairs in whatever form they were given, as tensors."""
    return pairs if isinstance(pairs, Encoded) else model.encode(_pairs(pairs))


def _pairs(pairs: Any) -> Pairs:
    if isinstance(pairs, Pairs):
        return pairs
    many = list(pairs) if isinstance(pairs, Sequence) and not isinstance(pairs, str) else [pairs]
    if not many or not all(isinstance(pair, Pair) for pair in many):
        raise ValueError(
            f"pairs is {type(pairs).__name__}; expected interp.Pairs from a task such as interp.tasks.ioi(64), a list of "
            "interp.Pair(clean=interp.Prompt(…), corrupted=interp.Prompt(…), answers=(…,), wrong=(…,)), or model.encode(pairs)"
        )
    return Pairs(tuple(many))


def listed(where: Any) -> list[Intervention]:
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


def check_words(patching: Any, strategy: Any) -> None:
    if patching not in effects.PATCHING:
        raise UnknownNameError("patching", patching, effects.PATCHING)
    if strategy not in STRATEGIES:
        raise UnknownNameError("strategy", strategy, STRATEGIES)


def given_changes(given: Any) -> Intervention | None:
    """Several given interventions as one, in their order."""
    if given is None or (isinstance(given, Sequence) and not given):
        return None
    many = listed(given)
    return Intervention(tuple(change for one in many for change in one.changes), ordered=len(many) > 1 or many[0].ordered)


def _check_positions(encoded: Encoded, grid: Grid) -> None:
    """A grid over raw positions needs pairs of equal length; one over all of them, prompts of one length."""
    if axes.POSITION not in grid.axes:
        return
    given = dict(grid.swept)[axes.POSITION]
    if given is None or any(isinstance(p, int) and p >= 0 for p in given):
        encoded.require_equal_lengths(repr(grid))
    for index in given or ():
        encoded.clean.columns(Positions.parse(index), what=f"position of {grid!r}")
    lengths = torch.cat([encoded.clean.lengths, encoded.corrupted.lengths])
    if given is None and bool((lengths != lengths[0]).any()):
        counts = ", ".join(f"{int((lengths == n).sum())} of {int(n)} tokens" for n in lengths.unique())
        raise PositionError(
            f"{grid!r} sweeps every raw position, but the prompts have different lengths ({counts}), so that one index would "
            f"mean different things; sweep roles ({', '.join(encoded.pairs.roles) or 'none here'}), or negative indices"
        )
