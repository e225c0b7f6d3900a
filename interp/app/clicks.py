"""What a click on a figure means: a cell of the result, a node of its graph, or a word on why nothing is behind it.

>>> clicked(effects, choice, {"x": 3, "y": 1}, {})                                       # doctest: +SKIP
Clicked(cell={'position': 3, 'layer': 1}, of=0, node='', why='')
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from interp import axes as names
from interp import effects as fx
from interp.app import cells
from interp.app.choices import Choice, across
from interp.app.drawing import number
from interp.views import drawing, edges, kinds
from interp.views.circuits import METHOD, SIZE
from interp.views.iia import arrays as accuracies
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
_OF_ENDS = "This line is the same all along, so there is no place on it with values of its own."


class Clicked(NamedTuple):
    """What was clicked: a cell, a node, or why it is neither."""

    cell: dict[str, int] | None = None
    """A place along every axis that is not an example."""
    of: int = 0
    """Of several results the one whose place it is."""
    node: str = ""
    """Of a graph, whose edges are its cells."""
    why: str = ""
    """Why there is nothing to show."""

    def __bool__(self) -> bool:
        return self.cell is not None or bool(self.node or self.why)


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
    if kinds.shows_search(ds, view):
        return Clicked(dict(choice.at))  # the circuit itself: none of its edges was run alone
    if view in (CIRCUIT, PATHS):
        return _of_graph(ds, choice, _bold(point))
    if view in _OF_LINES:
        return _of_line({"": ds}, [choice], _line(point, figure), point.get("pointNumber"))
    return Clicked(why=_OF_THRESHOLD if view == kinds.ROC else "")


def together(results: Mapping[str, xr.Dataset], choice: Choice, point: Point, figure: Mapping[str, Any]) -> Clicked:
    """What a point of the figure of several results means."""
    every = list(results.values())
    first, view = every[0], choice.kind
    if view == kinds.TRACING:
        return _within(first, {names.LAYER: point.get("x"), names.POSITION: point.get("y")})
    if view == COMPARE:
        return Clicked(cells.by_name(first, kinds.axes_of(_array(first, choice)), _bold(point)))
    if view in _OF_LINES:
        each = [replace(choice, at=across(first, ds, choice.at)) for ds in every]
        return _of_line(results, each, _line(point, figure), point.get("pointNumber"))
    return Clicked(why=_OF_THRESHOLD if view == kinds.ROC else "")


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
    return ds["value" if fx.is_effects(ds) else choice.quantity or kinds.variables(ds, choice.kind)[0]]


def _of_line(results: Mapping[str, xr.Dataset], each: Sequence[Choice], line: int | None, i: Any) -> Clicked:
    """Point ``i`` of a line: those of the first result come first."""
    if line is None or not isinstance(i, int):
        return Clicked()
    for of, (ds, choice) in enumerate(zip(results.values(), each, strict=True)):
        lines = _OF_LINES[choice.kind](ds, choice)
        if line < len(lines):
            return lines[line][i]._replace(of=of) if 0 <= i < len(lines[line]) else Clicked()
        line -= len(lines)
    return Clicked()


Lines = list[list[Clicked]]
"""What each point of each line means."""


def _along(ds: xr.Dataset, choice: Choice) -> Lines:
    """A curve: one line, or one for every place along an axis."""
    array, x = _array(ds, choice), str(choice.x)
    lines = [{choice.y: line} for line in range(ds.sizes[choice.y])] if choice.y else [{}]
    return [[_of_seed(array, {x: i} | line | choice.at) for i in range(array.sizes[x])] for line in lines]


def _of_sizes(ds: xr.Dataset, choice: Choice) -> Lines:
    """Circuits by size: the lines of one method after the other, one for every place of the axes that are left."""
    array = _array(ds, choice)
    axis = names.CELL if names.CELL in array.dims else SIZE
    methods = ds[METHOD].values if METHOD in ds.coords and ds[METHOD].dims == (axis,) else np.zeros(ds.sizes[axis])
    found: Lines = []
    for method in dict.fromkeys(methods.tolist()):
        own = np.flatnonzero(methods == method)
        order = own[np.argsort(ds[SIZE].values[own], kind="stable")].tolist()
        found += [[_of_seed(array, {axis: cell} | place) for cell in order] for place in _left(array, axis, names.METRIC)]
    return found


def _of_accuracies(ds: xr.Dataset, choice: Choice) -> Lines:
    """An accuracy and its controls, each with a line for every place of the axes that are left; seeds are behind a point."""
    x = kinds.along(ds["iia"])
    found: Lines = []
    for variable, drawn in accuracies(ds, "iia", x).items():
        has = x in ds[variable or "iia"].dims
        for place in _left(drawn, x):
            found.append([Clicked({x: i} | place) if has else Clicked(why=_OF_ENDS) for i in range(drawn.sizes[x])])
    return found


def _left(array: xr.DataArray, *drawn: str) -> list[dict[str, int]]:
    """Every place of the axes that have a line each."""
    rest = [str(d) for d in array.dims if d not in (*drawn, names.SEED, names.EXAMPLE)]
    return [dict(zip(rest, place, strict=True)) for place in product(*(range(array.sizes[axis]) for axis in rest))]


def _of_seed(array: xr.DataArray, place: dict[str, int]) -> Clicked:
    """The place of the only seed; over several seeds the mean is drawn."""
    if names.SEED not in array.dims or names.SEED in place:
        return Clicked(place)
    return Clicked(why=_OF_SEEDS) if array.sizes[names.SEED] > 1 else Clicked(place | {names.SEED: 0})


_OF_LINES: Mapping[str, Callable[[xr.Dataset, Choice], Lines]] = {
    CURVE: _along,
    FAITHFULNESS: _of_sizes,
    PARETO: _of_sizes,
    IIA: _of_accuracies,
}


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
