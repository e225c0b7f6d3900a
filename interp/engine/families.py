"""What a sweep is asked for, in whatever form, as families of cells; and what was measured of them, with its names.

>>> prepared, families = asked(model, pairs, interp.grid("z", layer=..., head=...), "kl", {}, Options())   # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp import axes, effects
from interp.engine import gauge, provenance
from interp.engine.asked import alone, asked_pairs, contrasted, listed, refuse_circle, refuse_other_side
from interp.engine.measure import Measured
from interp.engine.precision import PRECISIONS
from interp.engine.prepared import Options, Prepared, prepare
from interp.errors import PositionError, UnknownNameError, UnknownSiteError
from interp.interventions import Activation, Arranged, Change, Identity, Intervention, Replace, Source
from interp.interventions.source import UNEQUAL
from interp.metrics import resolve as resolve_metrics
from interp.models import Encoded, Model
from interp.sites import Grid, Positions, Site, grid
from interp.sites.grids import Cell as GridCell

STRATEGIES = ("auto", "wavefront", "batched", "serial")
Where = (
    Grid
    | Arranged
    | str
    | Site
    | Intervention
    | Change
    | Sequence[Intervention | Change | str | Site]
    | Mapping[str, Grid | Arranged | str | Site]
)
"""Where a sweep acts; a site alone is the grid of it, and of a component without a layer every layer is a cell; of a list of
sites, such as ``["L9H6.z@END", "L10H0.z@END"]``, every one is a cell, and so is one alone, ``"L9H6.z@END"``."""


@dataclass(frozen=True, eq=False)
class Family:
    """The cells of one result, and what labels them."""

    interventions: list[Intervention]
    axes: Mapping[str, Sequence[Any]]
    exists: np.ndarray[Any, Any]
    """``[cell]``: whether the cell's site exists; only those are measured."""
    coords: dict[str, Any]
    attrs: dict[str, Any]
    spec: dict[str, Any]


def asked(
    model: Model, pairs: Any, where: Any, metric: Any, change: dict[str, Any], options: Options
) -> tuple[Prepared, dict[str, Family]]:
    """Everything that is asked for, checked and resolved."""
    encoded, paired = asked_pairs(model, pairs)
    if options.corruption is not None:
        refuse_circle(options.corruption)
        encoded, paired = alone(model, encoded), True
    metrics = resolve_metrics(metric)
    families = named(model, encoded, where, change)
    if options.corruption is not None:
        families = {key: replace(one, attrs=one.attrs | {"paired": True}) for key, one in families.items()}
    every = [one for family in families.values() for one in family.interventions]
    for one in [*every, *([options.given] if options.given is not None else [])]:
        for own in one.changes:
            refuse_other_side(own, paired)
    return prepare(model, encoded, [f.interventions for f in families.values()], metrics, options), families


def named(model: Model, encoded: Encoded, where: Any, change: dict[str, Any]) -> dict[str, Family]:
    """The families of cells that are asked for, by name; one alone has none.

    Args:
        change: source, edit, featurizer and ``keep_error`` of a grid's changes.
    """
    sites = _are_sites(where)
    where = gridded(model, where, {word: value for word, value in change.items() if value is not None})
    laid = {"": where} if isinstance(where, Grid | Arranged) else dict(where) if isinstance(where, Mapping) else None
    own = not sites and (laid is None or any(isinstance(one, Arranged) for one in laid.values()))
    if own and any(change[word] is not None for word in ("source", "edit", "featurizer")):
        raise ValueError("interventions say their own source, edit and featurizer; leave these arguments out, or give a grid")
    if laid is not None:
        if not laid:
            raise ValueError("where is an empty mapping; name at least one grid")
        for name, one in laid.items():
            if not isinstance(one, Grid | Arranged):
                raise ValueError(f"where[{name!r}] is a {type(one).__name__}; a mapping holds grids; interventions are a list")
        change |= {"featurizer": change["featurizer"] or Identity()}
        families = {
            name: _arranged(model, encoded, one) if isinstance(one, Arranged) else _of_grid(model, encoded, one, change)
            for name, one in laid.items()
        }
    else:
        families = {"": _of_list(listed(where))}
    if not contrasted(encoded):
        families = {name: replace(family, attrs=family.attrs | {"paired": False}) for name, family in families.items()}
    return families


def _are_sites(where: Any) -> bool:
    many = isinstance(where, Sequence) and not isinstance(where, str)
    return many and len(where) > 0 and all(isinstance(one, str | Site) for one in where)


def gridded(model: Model, where: Any, change: Mapping[str, Any] | None = None) -> Any:
    """Sites as their grids, alone or by name, a list of sites as interventions; anything else as it is.

    Args:
        change: source, edit and the like of each site of a list.
    """
    if isinstance(where, Mapping):
        return {name: grid(model.site(one)) if isinstance(one, str | Site) else one for name, one in where.items()}
    if isinstance(where, str) and "@" in where:  # a site at its positions is one cell
        where = [where]
    if _are_sites(where):
        for one in where:
            model.site(one.partition("@")[0] if isinstance(one, str) else one)
        return [Intervention.of(one, **(change or {})) for one in where]
    if not isinstance(where, str | Site):
        return where
    return grid(model.site(where))


def _of_grid(model: Model, encoded: Encoded, grid: Grid, change: dict[str, Any]) -> Family:
    shortest = _check_positions(model, encoded, grid)
    sizes = model.sizes_at(grid.site) | ({axes.POSITION: shortest} if shortest is not None else {})
    values = grid.values(sizes)
    cells = list(grid.cells(sizes))
    there = [tuple(site for site in cell.sites if model.has(site)) for cell in cells]
    exists = np.array([len(sites) > 0 for sites in there], dtype=bool)
    interventions = [
        Intervention(tuple(Change(site, cell.positions, attended=grid.attended, **change) for site in sites))
        for cell, sites in zip(cells, there, strict=True)
        if sites
    ]
    if not interventions:
        raise UnknownSiteError("site", repr(grid.site), [], why=f"{model.name} has it in none of the layers that are asked for")
    first = interventions[0].changes[0]
    clean, corrupted = (model.places(side, first.site) for side in (encoded.clean, encoded.corrupted))
    of_change = first.spec()
    return Family(
        interventions,
        axes=values,
        exists=exists,
        coords=provenance.token_coordinates(clean, corrupted, values.get(axes.POSITION)) | _windows(grid, cells, there),
        attrs={"site": repr(grid.site), "positions": "swept" if axes.POSITION in grid.axes else repr(grid.positions)}
        | ({} if isinstance(first.edit, Replace) else {"edit": repr(first.edit)})
        | ({} if grid.window == 1 else {"window": grid.window}),
        spec={
            "grid": grid.spec(),
            "change": {k: v for k, v in of_change.items() if k not in ("site", "positions", "attended")},
        },
    )


def _windows(grid: Grid, cells: Sequence[GridCell], there: Sequence[Sequence[Site]]) -> dict[str, Any]:
    """How many layers the cells of each layer change, where that is more than one."""
    if grid.window == 1:
        return {}
    widths = {cell.coords[axes.LAYER]: len(sites) for cell, sites in zip(cells, there, strict=True)}
    return {"window_layers": (axes.LAYER, list(widths.values()))}


def _arranged(model: Model, encoded: Encoded, laid: Arranged) -> Family:
    there = [one for one in laid.interventions if one is not None]
    sites = [change.site for one in there for change in one.changes]
    clean, corrupted = (model.places(side, model.site(sites[0])) for side in (encoded.clean, encoded.corrupted))
    return Family(
        there,
        axes=laid.axes,
        exists=np.array([one is not None for one in laid.interventions], dtype=bool),
        coords=provenance.token_coordinates(clean, corrupted, laid.axes.get(axes.POSITION)) | dict(laid.coords),
        attrs={"site": laid.site, "positions": "swept" if axes.POSITION in laid.axes else "listed"},
        spec=laid.spec(),
    )


def _of_list(interventions: list[Intervention]) -> Family:
    sites = dict.fromkeys(change.site.name for i in interventions for change in i.changes)
    return Family(
        interventions,
        axes={axes.CELL: list(range(len(interventions)))},
        exists=np.ones(len(interventions), dtype=bool),
        coords={"intervention": (axes.CELL, [i.in_words for i in interventions])},
        attrs={"site": ", ".join(sites), "positions": "listed"},
        spec={"interventions": [i.spec() for i in interventions]},
    )


def labelled(prepared: Prepared, measured: Measured, family: Family) -> xr.Dataset:
    """What was measured of a family, with its names."""
    exists, encoded, options = family.exists, prepared.encoded, prepared.options
    beside = [one for one in (options.corruption, options.given) if one is not None]
    spec = family.spec | ({"given": options.given.spec()} if options.given is not None else {})
    spec |= {"corruption": options.corruption.spec()} if options.corruption is not None else {}
    spec |= {"hold": [repr(change.site) for change in options.hold.changes]} if options.hold is not None else {}
    spec |= {"precision": options.precision} if options.precision != "full" else {}
    found = effects.assemble(
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
        | gauge.attribute(prepared.model, [*family.interventions, *beside])
        | {"spec": provenance.spec(prepared.subject, options.patching, prepared.metrics, spec)},
    )
    if measured.score is None:
        return found
    return effects.stamped(found.assign(score=(found["value"].dims, _spread(measured.score, exists, family.axes, np.nan))))


def _spread(
    found: np.ndarray[Any, Any], exists: np.ndarray[Any, Any], values: Mapping[str, Sequence[Any]], filler: Any
) -> np.ndarray[Any, Any]:
    """``[…, existing cell, example]`` laid out over the axes of a grid, with ``filler`` where a site does not exist."""
    full = np.full((*found.shape[:-2], len(exists), found.shape[-1]), filler, dtype=found.dtype)
    full[..., exists, :] = found
    return full.reshape(*found.shape[:-2], *(len(v) for v in values.values()), found.shape[-1])


def check_words(patching: Any, strategy: Any = "auto", precision: Any = "full") -> None:
    if patching not in effects.PATCHING:
        raise UnknownNameError("patching", patching, effects.PATCHING)
    if strategy not in STRATEGIES:
        raise UnknownNameError("strategy", strategy, STRATEGIES)
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)


def sourced(source: Source | None, unequal: Any) -> Source | None:
    """The source of a grid's changes with the rule for spans of different length, which another source says itself."""
    if unequal not in UNEQUAL:
        raise UnknownNameError("unequal", unequal, UNEQUAL)
    if unequal == "last":
        return source
    if source is not None:
        raise ValueError(
            f"unequal={unequal!r} is for the default source; this one says it itself, as in Activation(…, unequal={unequal!r})"
        )
    return Activation(unequal=unequal)


def _check_positions(model: Model, encoded: Encoded, grid: Grid) -> int | None:
    """How many positions the shortest prompt has, where a grid sweeps them.

    One over raw positions needs pairs of equal length; one over all of them, prompts of one length in every layer.
    """
    if axes.POSITION not in grid.axes:
        return None
    given = dict(grid.swept)[axes.POSITION]
    encodings = {
        site: (model.places(encoded.clean, site), model.places(encoded.corrupted, site))
        for site in _tensors(model, grid)
        if model.has(site)
    }
    if not encodings:
        return 0
    sides = {(id(clean), id(corrupted)): (clean, corrupted) for clean, corrupted in encodings.values()}
    for clean, corrupted in sides.values():
        if given is None or any(isinstance(p, int) and p >= 0 for p in given):
            encoded.require_equal_lengths(repr(grid), clean, corrupted)
        for index in given or ():
            clean.columns(Positions.parse(index), what=f"position of {grid!r}")
    lengths = {site: torch.cat([places.said for places in both]) for site, both in encodings.items()}
    if given is None:
        _require_one_length(grid, encoded, lengths)
    return min(int(some.min()) for some in lengths.values())


def _require_one_length(grid: Grid, encoded: Encoded, lengths: Mapping[Site, Tensor]) -> None:
    """Raise if the raw positions of a sweep are not the same in all prompts, or not in all layers."""
    roles = ", ".join(encoded.pairs.roles) or "none here"
    for some in lengths.values():
        if bool((some != some[0]).any()):
            counts = ", ".join(f"{int((some == n).sum())} of {int(n)} tokens" for n in some.unique())
            raise PositionError(
                f"{grid!r} sweeps every raw position, but the prompts have different lengths ({counts}), so that "
                f"one index would mean different things; sweep roles ({roles}), or negative indices"
            )
    if len({int(some[0]) for some in lengths.values()}) > 1:
        counts = ", ".join(f"{int(some[0])} in {site!r}" for site, some in lengths.items())
        raise PositionError(
            f"{grid!r} sweeps every raw position, but layers differ in how many they have ({counts}); sweep those that agree"
        )


def _tensors(model: Model, grid: Grid) -> list[Site]:
    """Every tensor that a grid has cells in."""
    site = grid.site.tensor
    layers = dict(grid.swept).get(axes.LAYER, ()) if axes.LAYER in grid.axes else (site.layer,)
    numbers = range(model.sizes_at(grid.site)[axes.LAYER]) if layers is None else layers
    return [site.at(layer=layer) for layer in numbers]
