"""What a click on a figure means: a cell of the result, a node of its graph, or a word on why nothing is behind it.

>>> clicked(effects, choice, {"x": 3, "y": 1}, {})                                       # doctest: +SKIP
Clicked(cell={'position': 3, 'layer': 1}, node='', why='')
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from interp import axes as names
from interp import effects as fx
from interp.app import cells
from interp.app.choices import Choice, across
from interp.app.drawing import number
from interp.views import drawing, edges, kinds
from interp.views.kinds import (
    ATTENTION,
    CIRCUIT,
    COMPARE,
    CURVE,
    DLA,
    EDGES,
    FAITHFULNESS,
    IIA,
    LENS,
    MAP,
    PARETO,
    PATHS,
    TOKENS,
)

Point = Mapping[str, Any]
_BOLD = re.compile(r"<b>(.*?)</b>")
_OF_SEEDS = "This point is a mean over seeds; a map has a slider for them, which chooses one and its examples."
_OF_THRESHOLD = "A point of this curve is a threshold over all edges, so there are no values per example behind it."
_OF_SEVERAL = "This point belongs to one of the runs; open that run alone to see the examples behind it."


class Clicked(NamedTuple):
    """What was clicked; of all three one at most."""

    cell: dict[str, int] | None = None
    """A place along every axis that is not an example."""
    node: str = ""
    """Of a graph, whose edges are its cells."""
    why: str = ""
    """Why there is nothing to show."""


def clicked(ds: xr.Dataset, choice: Choice, point: Point, figure: Mapping[str, Any]) -> Clicked:
    """What a point of the figure of one result means.

    Args:
        ds: what is drawn.
        choice: how.
        point: of plotly's click data; it comes from a browser.
        figure: as it is shown.
    """
    view = choice.view
    if view == MAP and choice.x and choice.y:
        return _within(ds, {choice.x: point.get("x"), choice.y: point.get("y")} | choice.at)
    if view == CURVE and choice.x:
        return _of_line(ds, choice, _line(point, figure), point.get("pointNumber"))
    if view == LENS:
        return _within(ds, {names.POSITION: point.get("x"), names.LAYER: point.get("y")})
    if view == ATTENTION:
        return _of_pattern(ds, choice, point)
    if view == DLA:
        return _of_term(ds, choice, point)
    if view == TOKENS:
        (axis,) = (a for a in _array(ds, choice).dims if str(a).endswith(names.POSITION))
        return _named(ds, {str(axis): _bold(point)}, choice.at)
    if view == EDGES:
        return _of_pair(ds, choice, *(html.unescape(str(point.get(end))) for end in "yx"))
    if view in (CIRCUIT, PATHS):
        return _of_graph(ds, choice, _bold(point))
    if view in (FAITHFULNESS, PARETO):
        return _of_circuit(ds, choice, _line(point, figure), point.get("pointNumber"))
    if view == IIA:
        return _within(ds, {kinds.along(ds["iia"]): point.get("pointNumber")})
    return Clicked(why=_OF_THRESHOLD if view == kinds.ROC else "")


def together(results: Mapping[str, xr.Dataset], choice: Choice, point: Point, figure: Mapping[str, Any]) -> Clicked:
    """What a point of the figure of several results means, as a place in the first one."""
    every = list(results.values())
    first, view = every[0], choice.kind
    if view == kinds.TRACING:
        return _within(first, {names.LAYER: point.get("x"), names.POSITION: point.get("y")})
    if view == COMPARE:
        return Clicked(cells.by_name(first, kinds.axes_of(_array(first, choice)), _bold(point)))
    if view == CURVE and choice.x:
        line = _line(point, figure)
        for ds in every:
            many = ds.sizes[choice.y] if choice.y else 1
            if line is not None and line < many:
                own = replace(choice, at=across(first, ds, choice.at))
                there = _of_line(ds, own, line, point.get("pointNumber"))
                place = across(ds, first, there.cell or {})
                return Clicked(place) if there.cell and len(place) == len(there.cell) else there._replace(cell=None)
            line = None if line is None else line - many
        return Clicked()
    return Clicked(why=_OF_THRESHOLD if view == kinds.ROC else _OF_SEVERAL)


def edges_of(ds: xr.Dataset, choice: Choice, node: str) -> list[int]:
    """The cells that are edges of a node, the largest first."""
    found = _graph(ds, choice)
    ends = [found.nodes.told(i) == node or found.nodes.name(i) == node for i in range(len(found.nodes))]
    at = np.flatnonzero(np.array(ends)[found.sender] | np.array(ends)[found.receiver])
    return _cells(ds, found)[at[np.argsort(-np.abs(found.mean[at]), kind="stable")]].tolist()


def _within(ds: xr.Dataset, place: Mapping[str, Any]) -> Clicked:
    """The place, unless the browser said what there is not."""
    inside = all(isinstance(i, int) and axis in ds.sizes and 0 <= i < ds.sizes[axis] for axis, i in place.items())
    return Clicked(dict(place)) if inside else Clicked()


def _named(ds: xr.Dataset, place: Mapping[str, str], at: Mapping[str, int]) -> Clicked:
    """The place whose names are given."""
    known = {axis: [str(v) for v in ds[axis].values.tolist()] if axis in ds.coords else [] for axis in place}
    if any(name not in known[axis] for axis, name in place.items()):
        return Clicked()
    return Clicked({axis: known[axis].index(name) for axis, name in place.items()} | dict(at))


def _bold(point: Point) -> str:
    """What the hover of a point calls it."""
    for key in ("customdata", "text", "hovertext"):
        if found := _BOLD.search(str(point.get(key, ""))):
            return html.unescape(found[1])
    return ""


def _line(point: Point, figure: Mapping[str, Any]) -> int | None:
    """Which of the lines was clicked: bands and what is written on lines have no text of their own."""
    lines = [i for i, trace in enumerate(figure.get("data", ())) if trace.get("text") is not None]
    return lines.index(point["curveNumber"]) if point.get("curveNumber") in lines else None


def _array(ds: xr.Dataset, choice: Choice) -> xr.DataArray:
    return ds["value" if fx.is_effects(ds) else str(choice.quantity)]


def _of_line(ds: xr.Dataset, choice: Choice, line: int | None, i: Any) -> Clicked:
    if line is None:
        return Clicked()
    array = _array(ds, choice)
    if names.SEED in array.dims and choice.x != names.SEED:
        if array.sizes[names.SEED] > 1:
            return Clicked(why=_OF_SEEDS)
        return _within(ds, {str(choice.x): i, names.SEED: 0} | ({choice.y: line} if choice.y else {}) | choice.at)
    return _within(ds, {str(choice.x): i} | ({choice.y: line} if choice.y else {}) | choice.at)


def _of_pattern(ds: xr.Dataset, choice: Choice, point: Point) -> Clicked:
    """Positions behind the end of a prompt are not drawn."""
    pattern = ds["pattern"]
    one = pattern.isel({names.EXAMPLE: number(choice) or 0}) if names.EXAMPLE in pattern.dims else pattern
    there = one.notnull()
    place = dict(choice.at)
    for axis, clicked_at in ((names.POSITION, point.get("y")), (names.SOURCE_POSITION, point.get("x"))):
        known = np.flatnonzero(there.any([d for d in there.dims if d != axis]).values)
        if not isinstance(clicked_at, int) or not 0 <= clicked_at < len(known):
            return Clicked()
        place[axis] = int(known[clicked_at])
    return _within(ds, place)


def _of_term(ds: xr.Dataset, choice: Choice, point: Point) -> Clicked:
    term, each = _bold(point), ds["contribution"]
    if term.startswith("rest ("):
        return Clicked(why="The rest is the sum of all terms that are not drawn; a map of the heads has each of them.")
    if names.SOURCE_POSITION not in each.dims:
        return _named(ds, {"term": term}, {})
    one = each.isel({names.EXAMPLE: number(choice) or 0}) if names.EXAMPLE in each.dims else each
    known = np.flatnonzero(one.notnull().any("term").values)
    x = point.get("x")
    return (
        _named(ds, {"term": term}, {names.SOURCE_POSITION: int(known[x])})
        if isinstance(x, int) and x < len(known)
        else Clicked()
    )


def _of_pair(ds: xr.Dataset, choice: Choice, sender: str, receiver: str) -> Clicked:
    if names.CELL not in _array(ds, choice).dims:
        return _named(ds, {"sender": sender, "receiver": receiver}, choice.at)
    same = np.flatnonzero((ds["sender"].values == sender) & (ds["receiver"].values == receiver))
    if len(same):
        return Clicked({names.CELL: int(same[0])} | choice.at)
    known = sender in ds["sender"].values and receiver in ds["receiver"].values
    return Clicked(why=f"There is no edge from {sender} to {receiver}." if known else "")


def _graph(ds: xr.Dataset, choice: Choice) -> edges.Edges:
    one, quantity = drawing.chosen(ds, choice.view, choice.metric, choice.quantity, choice.at)
    return edges.read(one, quantity, None, "the app", level=0.95, seed=0)


def _cells(ds: xr.Dataset, found: edges.Edges) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Where in the result each edge is."""
    known = {value: i for i, value in enumerate(ds[names.CELL].values.tolist())} if names.CELL in ds.coords else {}
    return np.array([known.get(value, value) for value in found.results[names.CELL].values.tolist()], int)


def _of_graph(ds: xr.Dataset, choice: Choice, name: str) -> Clicked:
    if not name:
        return Clicked()
    found = _graph(ds, choice)
    called = [html.unescape(one) for one in found.names]
    if name in called:
        return Clicked({names.CELL: int(_cells(ds, found)[called.index(name)])} | choice.at)
    return Clicked(node=name) if " → " not in name else Clicked()


def _of_circuit(ds: xr.Dataset, choice: Choice, line: int | None, i: Any) -> Clicked:
    """Circuits are drawn by size, one line a method."""
    array = _array(ds, choice)
    axis = names.CELL if names.CELL in array.dims else "size"
    if [d for d in array.dims if d not in (axis, names.EXAMPLE, names.METRIC)]:
        return Clicked(why=_OF_SEEDS if names.SEED in array.dims else _OF_SEVERAL)
    methods = ds["method"].values if "method" in ds.coords and ds["method"].dims == (axis,) else np.zeros(ds.sizes[axis])
    every = list(dict.fromkeys(methods.tolist()))
    if line is None or line >= len(every) or not isinstance(i, int):
        return Clicked()
    own = np.flatnonzero(methods == every[line])
    order = own[np.argsort(ds["size"].values[own], kind="stable")]
    return Clicked({axis: int(order[i])}) if 0 <= i < len(order) else Clicked()
