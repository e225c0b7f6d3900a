"""How each view of :mod:`interp.views.kinds` is drawn of a result, or of several together.

>>> draw(effects, "curve", metric="prob", x="layer", at={"head": 3})                    # doctest: +SKIP
>>> draw_several({"estimated": first, "exact": second}, "compare")                      # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import plotly.graph_objects as go
import xarray as xr

from interp import axes as names
from interp import effects as fx
from interp.errors import InputError
from interp.views import kinds, known_circuit, together
from interp.views.attention import attention
from interp.views.circuit import circuit
from interp.views.compare import compare
from interp.views.curve import curve
from interp.views.dla import dla
from interp.views.edges import senders_by_receivers
from interp.views.faithfulness import faithfulness
from interp.views.gates import gates
from interp.views.head_to_head import head_to_head
from interp.views.heatmap import heatmap
from interp.views.iia import iia
from interp.views.kinds import ATTENTION, CURVE, DLA, EDGES, GATES, IIA, LENS, MAP, TOKENS
from interp.views.lens import VALUES, lens
from interp.views.pareto import pareto
from interp.views.paths import paths
from interp.views.roc import roc
from interp.views.tokens import tokens
from interp.views.tracing import tracing

_WHOLE: Mapping[str, Callable[..., go.Figure]] = {
    kinds.CIRCUIT: circuit,
    kinds.PATHS: paths,
    kinds.FAITHFULNESS: faithfulness,
    kinds.PARETO: pareto,
}
"""Views that are given nothing but a result."""


def draw(
    ds: xr.Dataset,
    view: str,
    *,
    metric: str | None = None,
    quantity: str | None = None,
    x: str | None = None,
    y: str | None = None,
    slider: str | None = None,
    example: int | None = None,
    at: Mapping[str, int] | None = None,
    **dress: Any,
) -> go.Figure:
    """The figure of one result.

    Args:
        ds: a result.
        view: one that fits it.
        metric: of a sweep, by default the first.
        quantity: of a sweep; of another result, the variable.
        x: of a map or curve, from left to right.
        y: of a map, from bottom to top.
        slider: of a map.
        example: alone; by default the mean, or the first where a view shows but one.
        at: places of axes that are not drawn.
        dress: width, template and title.

    Raises:
        InputError: a view that draws no result alone.
        UserError: whatever the view refuses.
    """
    at = at or {}
    if view == ATTENTION:
        place = {axis: ds[axis].values.tolist()[i] for axis, i in at.items()}
        return attention(ds, example=example or 0, **place, **dress)
    if view == LENS:
        return lens(ds, quantity or next(iter(VALUES)), example=example or 0, **dress)
    if view == DLA:
        return dla(ds, example=example, **dress)
    if view == GATES:
        return gates(ds, **dress)
    if view == IIA:
        return iia(ds, x=x or kinds.along(ds["iia"]), **dress)
    if view == kinds.ROC:
        return _roc({"": ds}, metric, dress)
    one, quantity = chosen(ds, view, metric, quantity, at)
    if view == MAP:
        return heatmap(one, quantity, x=x, y=y, slider=slider, **dress)
    if view == CURVE:
        return curve(one, quantity, x=x, **dress)
    if view == TOKENS:
        return tokens(one, quantity, example=example, **dress)
    if view == EDGES:
        return head_to_head(senders_by_receivers(one, quantity), **dress)
    if view in (kinds.CIRCUIT, kinds.PATHS):
        return _WHOLE[view](one, quantity, **dress)
    if view in _WHOLE:
        return _WHOLE[view](one, **dress)
    raise InputError(f"{view!r} draws no result alone; what fits this one: {', '.join(kinds.of_one(ds)) or 'nothing'}")


def draw_several(
    results: known_circuit.Results,
    view: str,
    *,
    metric: str | None = None,
    quantity: str | None = None,
    x: str | None = None,
    at: Mapping[str, Mapping[str, int]] | None = None,
    **dress: Any,
) -> go.Figure:
    """The figure of several results together.

    Args:
        results: by the name that the figure gives them.
        view: one that fits them.
        metric: of sweeps, by default the first.
        quantity: of sweeps; of other results, the variable.
        x: of curves, from left to right.
        at: places of axes that are not drawn, by result.
        dress: width, template and title.

    Raises:
        InputError: a view that draws no results together.
        UserError: whatever the view refuses.
    """
    if view == kinds.TRACING:
        return tracing(xr.DataTree.from_dict(dict(results)), metric=metric, **dress)
    if view == kinds.ROC:
        return _roc(results, metric, dress)
    if view == IIA:
        return iia(results, x=x or kinds.along(next(iter(results.values()))["iia"]), **dress)
    found = {name: chosen(ds, view, metric, quantity, (at or {}).get(name, {})) for name, ds in results.items()}
    every, quantity = {name: one for name, (one, _) in found.items()}, next(q for _, q in found.values())
    if view == kinds.COMPARE:
        (first, a), (second, b) = every.items()
        return compare(a, b, quantity or "effect", called=(first, second), **dress)
    if view == CURVE:
        return curve(every, quantity, x=x, **dress)
    if view in (kinds.FAITHFULNESS, kinds.PARETO):
        return _WHOLE[view](every, **dress)
    raise InputError(f"{view!r} draws no results together; what fits: {', '.join(together.of_several(results)) or 'nothing'}")


def select(ds: xr.Dataset, metric: str | None, at: Mapping[str, int]) -> xr.Dataset:
    """A sweep with one metric, at the places where its other axes stand."""
    return fx.choose_metric(ds, metric).isel({axis: i for axis, i in at.items() if axis in ds.dims})


def array(ds: xr.Dataset, variable: str, metric: str | None, at: Mapping[str, int]) -> xr.DataArray:
    """A variable of a result that is no sweep, with its attributes, at the places where its other axes stand."""
    found = ds[variable]
    if names.METRIC in found.dims:
        found = found.isel({names.METRIC: 0}) if metric is None else found.sel({names.METRIC: metric})
    found = found.assign_attrs({**ds.attrs, **found.attrs})
    return found.isel({axis: i for axis, i in at.items() if axis in found.dims})


def chosen(
    ds: xr.Dataset, view: str, metric: str | None, quantity: str | None, at: Mapping[str, int]
) -> tuple[xr.Dataset | xr.DataArray, str | None]:
    """What is drawn, and the quantity of a sweep; of another result the variable is chosen by then."""
    if kinds.measures(ds, view):
        return select(ds, metric, at), quantity
    fit = kinds.variables(ds, view)
    if kinds.shows_search(ds, view):
        return ds.isel({axis: i for axis, i in at.items() if axis in ds.dims}), quantity if quantity in fit else fit[0]
    return array(ds, quantity if quantity in fit else fit[0], metric, at), None


def _roc(results: known_circuit.Results, metric: str | None, dress: Mapping[str, Any]) -> go.Figure:
    found = known_circuit.truth_of(results)
    if found is None:
        raise InputError(
            f"no result says which edges are in the known circuit: a bool coordinate {known_circuit.TRUTH!r} along them"
        )
    return roc(found.scores, found.truth, metric=metric, **dress)
