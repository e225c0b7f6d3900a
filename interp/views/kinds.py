"""Which views fit a result, and along which axes: what reports and the browser app both ask.

>>> of_one(effects)                                                                    # doctest: +SKIP
['map', 'curve', 'tokens']

Several results together: :mod:`interp.views.together`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr

from interp import axes as names
from interp import effects as fx
from interp.effects.cells import BY_NAME
from interp.effects.gating import is_gating
from interp.views.circuits import SIZE
from interp.views.edges import EDGE, ENDS, of_search
from interp.views.known_circuit import truth_of
from interp.views.lens import VALUES

MAP, CURVE, TOKENS = "map", "curve", "tokens"
EDGES, CIRCUIT, PATHS = "edges", "circuit", "paths"
FAITHFULNESS, PARETO, ROC = "faithfulness", "pareto", "roc"
LENS, ATTENTION, DLA, IIA = "lens", "attention", "dla", "iia"
TRACING, COMPARE, GATES = "tracing", "compare", "gates"

SAYS = {
    MAP: "map",
    CURVE: "curve",
    TOKENS: "tokens",
    EDGES: "senders × receivers",
    CIRCUIT: "circuit",
    PATHS: "paths",
    FAITHFULNESS: "faithfulness",
    PARETO: "size against faithfulness",
    ROC: "ROC",
    LENS: "logit lens",
    ATTENTION: "attention pattern",
    DLA: "direct logit attribution",
    IIA: "interchange intervention accuracy",
    TRACING: "causal tracing",
    COMPARE: "cell against cell",
    GATES: "roles of heads",
}
"""What a reader calls each of them."""

PLAIN = (MAP, CURVE, TOKENS)
"""Drawn of any variable with the axes for it; the others are made for one kind of result."""
LINES = 12
"""Lines that a curve has unless more are asked for."""

_SENDER, _RECEIVER = "sender", "receiver"


def of_one(ds: xr.Dataset) -> list[str]:
    """The views that fit a result, best first; none fits a list of cells, which is a table (:func:`interp.effects.top`).

    Args:
        ds: a dataset; of a tree, one family.
    """
    effects = fx.is_effects(ds)
    own = [
        (LENS, {"token", "prob", "entropy"} <= set(ds)),
        (ATTENTION, "pattern" in ds),
        (DLA, "contribution" in ds),
        (GATES, is_gating(ds)),
        (IIA, "iia" in ds and bool(axes_of(ds["iia"]))),
        *((view, bool(variables(ds, view))) for view in (EDGES, CIRCUIT, PATHS, FAITHFULNESS, PARETO)),
        (ROC, truth_of({"": ds}) is not None),
        *(_of_sweep(ds) if effects else [(view, bool(variables(ds, view))) for view in PLAIN]),
    ]
    return [view for view, fits in own if fits]


def _of_sweep(ds: xr.Dataset) -> list[tuple[str, bool]]:
    along = list(fx.swept_axes(ds))
    long = [axis for axis in along if ds.sizes[axis] > 1]
    return [
        (MAP, len(long) > 1),
        (CURVE, bool(long) and long != [names.CELL]),
        (MAP, len(long) == 1 and len(along) == 2),  # a row
        (TOKENS, names.POSITION in along and "clean_token" in ds.coords),
    ]


def measures(ds: xr.Dataset, view: str) -> bool:
    """Whether a view draws what a sweep measured; as a graph, a search for circuits shows what it says of edges."""
    return fx.is_effects(ds) and not shows_search(ds, view)


def shows_search(ds: xr.Dataset, view: str) -> bool:
    """Whether a view draws what a search for circuits says of edges, a circuit at a time."""
    return view == CIRCUIT and of_search(ds)


def variables(ds: xr.Dataset, view: str) -> list[str]:
    """The variables of which a view draws one at a time: of a lens its values, of a sweep the one that it measures."""
    if view == LENS:
        return [name for name in VALUES if name in ds]
    if view not in _DRAWS:
        return []
    known = ["value"] if measures(ds, view) else map(str, ds.data_vars)
    found = [name for name in known if ds[name].dtype.kind in "fiub" and _DRAWS[view](ds[name])]
    return sorted(found, key=lambda name: ds[name].dtype.kind != "f")  # ids and flags last


def axes_of(array: xr.DataArray) -> list[str]:
    """Its axes besides metric and examples."""
    return [str(dim) for dim in array.dims if dim not in (names.EXAMPLE, names.METRIC)]


def along(accuracy: xr.DataArray) -> str:
    """The axis along which accuracies are drawn: layers, where there are any."""
    rest = [axis for axis in axes_of(accuracy) if axis != names.SEED] or axes_of(accuracy)
    return names.LAYER if names.LAYER in rest else rest[0]


def swept(ds: xr.Dataset, view: str, variable: str | None = None) -> list[str]:
    """The axes that a view leaves to be chosen: those of a map or curve, and those that stand at one place.

    Args:
        ds: a result.
        view: one that fits it.
        variable: of a result that is no sweep.
    """
    if view == ATTENTION:
        return [axis for axis in (names.LAYER, names.HEAD) if axis in ds["pattern"].dims]
    if view not in _DRAWS or view in (FAITHFULNESS, PARETO, COMPARE):
        return []  # it has a place for all of them
    array = ds["value"] if measures(ds, view) else ds[variable or variables(ds, view)[0]]
    return [axis for axis in axes_of(array) if view in (MAP, CURVE) or axis not in _fixed(array, view)]


def _fixed(array: xr.DataArray, view: str) -> list[str]:
    """The axes that a view draws whatever is chosen."""
    if view == TOKENS:
        return [str(dim) for dim in array.dims if str(dim).endswith(names.POSITION)]
    return [EDGE] if EDGE in array.dims else [names.CELL, _SENDER, _RECEIVER]


def usual(ds: xr.Dataset, view: str, among: Sequence[str]) -> tuple[str, str | None]:
    """From left to right and from bottom to top (or a line each), unless other axes are asked for.

    Args:
        ds: a result.
        view: a map or a curve.
        among: the axes that there are.
    """
    long = [axis for axis in among if ds.sizes[axis] > 1] or list(among)
    if view == CURVE:
        x = next((axis for axis in long if axis not in (names.MODEL, names.SEED)), long[0])
        return x, next((axis for axis in lines(ds, among, x) if axis in long), None)
    long = long if len(long) > 1 else list(among)
    y = names.LAYER if names.LAYER in long[:-1] else long[-2]
    rest = [axis for axis in long if axis != y]
    return (rest[-1] if len(rest) == 1 else next((a for a in rest if a not in names.MODELS), rest[-1])), y


def lines(ds: xr.Dataset, among: Sequence[str], x: str) -> list[str]:
    """The axes of which a curve along ``x`` has a line for each place; of seeds it draws the mean and their range."""
    return [axis for axis in among if axis not in (x, names.SEED) and ds.sizes[axis] <= LINES]


def opening(ds: xr.Dataset, among: Sequence[str], metric: str | None = None) -> dict[str, int]:
    """Where axes that are not drawn stand at first: at the cell of largest effect; where that is not known, at the last place.

    Args:
        ds: a result.
        among: these axes.
        metric: of a sweep.
    """
    last = {axis: ds.sizes[axis] - 1 for axis in among}
    if not fx.is_effects(ds) or not any(last.values()):
        return last
    effect = fx.effect(fx.choose_metric(ds, metric)).mean(names.EXAMPLE)
    size = np.abs(effect.values)
    if not np.isfinite(size).any():
        return last
    strongest = dict(zip(effect.dims, np.unravel_index(np.nanargmax(size), size.shape), strict=True))
    return {axis: int(strongest[axis]) for axis in last}


def opening_example(ds: xr.Dataset) -> int | None:
    """Which prompt is shown first as tokens: the first one, or the mean over all where most of their tokens are the same."""
    words = ds.coords.get("clean_token")
    if words is None or names.EXAMPLE not in words.dims:
        return None
    return None if bool((words == words.isel({names.EXAMPLE: 0})).all(names.EXAMPLE).mean() > 0.5) else 0


def told(ds: xr.Dataset, axis: str) -> str:
    """The coordinate that says what is at each place of an axis: of cells the edge, circuit or intervention that each is."""
    return next((t for t in BY_NAME if t in ds.coords and ds[t].dims == (axis,)), axis)


def _joins(v: xr.DataArray) -> bool:
    """Whether it has a number for pairs of a sender and a receiver."""
    ends = {_SENDER, _RECEIVER}
    return ends <= set(v.dims) or (names.CELL in v.dims and ends <= set(v.coords))


def _are_edges(v: xr.DataArray) -> bool:
    """Whether it has a number an edge: of a search, whose edges have an axis of their own, what is no flag."""
    there = v.dtype.kind == "f" if EDGE in v.dims else names.CELL in v.dims
    return there and set(ENDS) <= set(v.coords)


def _says_words(v: xr.DataArray) -> bool:
    """Whether it has a number a token, and says which token."""
    places = _fixed(v, TOKENS)
    if len(places) != 1 or v.dtype == bool:
        return False
    words = (f"{places[0].removesuffix(names.POSITION)}{word}" for word in ("token", "input_token", "clean_token"))
    return any(word in v.coords and places[0] in v[word].dims for word in words)


def _is_sized(v: xr.DataArray) -> bool:
    return SIZE in v.dims or (names.CELL in v.dims and SIZE in v.coords and v[SIZE].dims == (names.CELL,))


_DRAWS: Mapping[str, Callable[[xr.DataArray], bool]] = {
    MAP: lambda v: len(axes_of(v)) > 1,
    CURVE: lambda v: bool(axes_of(v)) and axes_of(v) != [names.CELL],
    TOKENS: _says_words,
    EDGES: _joins,
    CIRCUIT: _are_edges,
    PATHS: lambda v: names.CELL in v.dims and set(ENDS) <= set(v.coords),
    FAITHFULNESS: _is_sized,
    PARETO: _is_sized,
    COMPARE: lambda v: bool(axes_of(v)),
}
"""Whether a view can draw a variable."""
