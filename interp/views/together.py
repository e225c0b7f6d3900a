"""Which views fit several results together, and what these have in common to be drawn: runs side by side, families of one.

>>> of_several({"estimated": first, "exact": second})                                  # doctest: +SKIP
['compare', 'curve']
"""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from interp import axes as names
from interp import effects as fx
from interp.views.kinds import COMPARE, CURVE, FAITHFULNESS, IIA, PARETO, ROC, TRACING, axes_of, of_one, told, variables
from interp.views.known_circuit import Results, truth_of


def of_several(results: Results) -> list[str]:
    """The views that draw several results together, best first: runs side by side, or the families of one."""
    every = list(results.values())
    if len(every) < 2:
        return []
    effects = [fx.is_effects(ds) for ds in every]
    alike, each = len(set(effects)) == 1, [of_one(ds) for ds in every]
    found = [
        (TRACING, all(effects) and _is_traced(every)),
        (COMPARE, len(every) == 2 and alike and bool(shared_variables(every, COMPARE))),
        (ROC, truth_of(results) is not None),
        *((view, all(view in own for own in each)) for view in (FAITHFULNESS, PARETO, IIA)),
        (CURVE, alike and bool(shared_axes(every))),
    ]
    return [view for view, fits in found if fits and (not all(effects) or metrics(every))]


def metrics(every: Sequence[xr.Dataset]) -> list[str]:
    """The metrics that all of them have."""
    return _common([[str(m) for m in ds[names.METRIC].values.ravel()] if names.METRIC in ds.coords else [] for ds in every])


def shared_axes(every: Sequence[xr.Dataset], variable: str | None = None) -> list[str]:
    """The axes along which results with the same axes can be drawn as lines in one figure."""
    if variable is None and not all(map(fx.is_effects, every)):
        found = [axis for name in shared_variables(every, CURVE) for axis in shared_axes(every, name)]
        return list(dict.fromkeys(found))
    each = [axes_of(ds["value" if fx.is_effects(ds) else str(variable)]) for ds in every]
    if len({frozenset(own) for own in each}) > 1 or any(not _meet(every, a) for a in each[0] if a != names.SEED):
        return []
    return [a for a in each[0] if a not in (names.CELL, names.SEED) and all(ds.sizes[a] > 1 for ds in every)]


def shared_variables(every: Sequence[xr.Dataset], view: str) -> list[str]:
    """The variables of results of which a view of several draws one at a time."""
    both = _common([variables(ds, view) for ds in every])
    if view == CURVE:
        return [name for name in both if all(map(fx.is_effects, every)) or shared_axes(every, name)]
    if view != COMPARE:
        return both
    if len({ds.attrs["patching"] for ds in every if fx.is_effects(ds)}) > 1:
        return []
    same = [name for name in both if len({frozenset(axes_of(ds[name])) for ds in every}) == 1]
    return [name for name in same if all(_meet(every, axis) for axis in axes_of(every[0][name]))]


def _meet(every: Sequence[xr.Dataset], axis: str) -> bool:
    """Whether some places along an axis are the same in all; cells of a list are known by what they are."""
    said = {told(ds, axis) for ds in every}
    by = said.pop() if len(said) == 1 else axis
    known = [set(ds[by].values.tolist()) if by in ds.coords else set(range(ds.sizes[axis])) for ds in every]
    return bool(set.intersection(*known))


def _is_traced(every: Sequence[xr.Dataset]) -> bool:
    """Whether they are families of one sweep over layers and positions."""
    if any(list(fx.swept_axes(ds)) != [names.LAYER, names.POSITION] for ds in every):
        return False
    first, same = every[0], (names.LAYER, names.POSITION, names.METRIC, "clean", "corrupt")
    return all(first[what].equals(ds[what]) for ds in every for what in same)


def _common(lists: Sequence[Sequence[str]]) -> list[str]:
    return [name for name in lists[0] if all(name in other for other in lists[1:])]
