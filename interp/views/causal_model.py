"""A causal model as a graph: inputs on the left, the output on the right, an arrow from every parent.

    >>> task = interp.tasks.price_tagging()                                                        # doctest: +SKIP
    >>> views.causal_model(task.models["bracket"].to_xarray())                                     # doctest: +SKIP
    >>> values = model.interchange(base, {"WX": source})                                           # doctest: +SKIP
    >>> views.causal_model(model.to_xarray(values, row=3, do=["WX"]))      # what they are in a row  # doctest: +SKIP

Variables stand behind all of their parents; within a column they are near these, so that few arrows cross. With values of a row
each variable has its own under it, and those that were set have a ring.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from interp.errors import InputError
from interp.views import labels
from interp.views import prompts as of
from interp.views.colours import COLOURS, GREY, ink
from interp.views.layout import PAGE, Heading

_NEEDED = ("depth", "kind", "role")
_ROLES = {"input": ("square", COLOURS[5]), "inner": ("circle", COLOURS[0]), "output": ("diamond", COLOURS[2])}
_SET = COLOURS[1]
_ROW, _VALUED, _LEAST, _MOST = 62, 82, 120, 620
_BEND = np.linspace(0, 1, 13)
_BENDS, _APART = (0.0, -0.7, 0.7, -1.3, 1.3, -2.0, 2.0), 0.3
"""Of arrows that pass other variables, in rows, and how far they pass them by."""
_SWEEPS = 4
"""Passes in which columns are ordered, each by the one before."""

Array = NDArray[np.float64]


class _Graph(NamedTuple):
    """What is drawn."""

    names: list[str]
    edges: list[tuple[int, int]]
    """From parent to child."""
    x: Array
    y: Array


def causal_model(
    graph: xr.Dataset,
    *,
    title: str | None = None,
    width: int = PAGE,
    template: str = "plotly_white",
) -> go.Figure:
    """The variables of a causal model and what each is made of.

    Args:
        graph: from :meth:`interp.tasks.CausalModel.to_xarray`, with the values of a row or without.
        title: in place of the model's name.
        width: in pixels; ``views.PAGE`` and ``views.COLUMN`` are the widths of print.
        template: a plotly template, e.g. ``"plotly_dark"``.

    Raises:
        InputError: no graph of a causal model.
    """
    of.check(graph, "graph", xr.Dataset)
    lacking = [name for name in ("parents", *_NEEDED) if name not in graph.variables]
    if lacking or graph["parents"].dims != ("variable", "parent"):
        raise InputError(f"graph has no {lacking[0] if lacking else 'parents[variable, parent]'}; give CausalModel.to_xarray()")
    drawn = _placed(graph)
    heading = Heading(title or _headline(graph), _under(graph), width)
    size, deep, tall = heading.size, float(drawn.x.max()), int(np.bincount(drawn.x.astype(int)).max())
    row = _VALUED if "value" in graph.variables else _ROW
    inner, below = int(np.clip(row * tall, _LEAST, _MOST)), int(2 * size + 26)
    side = int(4 * size)
    figure = go.Figure()
    figure.update_layout(
        **heading.layout(heading.height + inner + below, template, left=side, right=side, above=heading.height, below=below),
        legend={
            "orientation": "h",
            "x": 0,
            "y": -0.5 * size / inner,
            "yanchor": "top",
            "itemclick": False,
            "itemdoubleclick": False,
        },
        hovermode="closest",
    )
    bare = {"visible": False, "fixedrange": True}
    figure.update_xaxes(range=[-0.15, max(deep, 1) + 0.15], **bare)
    figure.update_yaxes(range=[-0.75, tall - 0.25], **bare)
    across, up = (width - 2 * side) / (max(deep, 1) + 0.3), inner / (tall + 0.5)
    node = float(np.clip(0.28 * min(across, up), 4, 16))
    figure.add_trace(_arrows(drawn, node))
    for trace in _variables(graph, drawn, node, ink(template)):
        figure.add_trace(trace)
    figure.add_traces(_words(graph, drawn, node, size, across / heading.glyph, up))
    return figure


def _placed(graph: xr.Dataset) -> _Graph:
    """Where variables stand: by depth from left to right, in a column by the mean place of what they are linked to."""
    names, parents = [str(name) for name in graph["variable"].values], graph["parents"].values.astype(bool)
    depth = graph["depth"].values.astype(int)
    depth = np.where(graph["role"].values == "output", depth.max(), depth)
    edges = [(int(parent), int(child)) for child, parent in np.argwhere(parents)]
    columns = [np.flatnonzero(depth == one) for one in range(depth.max() + 1)]
    y, tall = np.zeros(len(names)), max(map(len, columns))
    linked = parents | parents.T
    for sweep in range(_SWEEPS):
        for number, column in list(enumerate(columns))[:: 1 if sweep % 2 == 0 else -1]:
            if sweep:
                beside = linked[column] & ((depth < number) if sweep % 2 == 0 else (depth > number))
                wanted = [float(y[row].mean()) if row.any() else y[one] for one, row in zip(column, beside, strict=True)]
                columns[number] = column = column[np.argsort([-place for place in wanted], kind="stable")]
            y[column] = (tall - 1) / 2 + (len(column) - 1) / 2 - np.arange(len(column))
    return _Graph(names, edges, depth.astype(float), y)


def _arrows(drawn: _Graph, node: float) -> go.Scatter:
    """All arrows as one line, each bent a little where it passes a column or goes back."""
    points = [_way(drawn, parent, child) for parent, child in drawn.edges]
    gap = np.full((1, 2), np.nan)
    path = np.concatenate([part for one in points for part in (one, gap)]) if points else gap
    ends = np.zeros(len(path))
    ends[len(_BEND) - 1 :: len(_BEND) + 1] = 1
    head = max(6.0, 0.6 * node)
    return go.Scatter(
        x=path[:, 0],
        y=path[:, 1],
        mode="lines+markers",
        line={"color": GREY, "width": 1.2},
        marker={
            "symbol": "arrow",
            "size": head * ends,
            "standoff": node / 2 * ends,
            "angleref": "previous",
            "color": GREY,
            "opacity": 1,
        },
        hoverinfo="skip",
        showlegend=False,
    )


def _way(drawn: _Graph, parent: int, child: int) -> Array:
    """``[point, (x, y)]`` of one arrow, bent no more than it takes to pass other variables; a ring back to itself."""
    start, end = (np.array([drawn.x[one], drawn.y[one]]) for one in (parent, child))
    if parent == child:
        return np.stack([0.16 * np.sin(2 * np.pi * _BEND), 0.3 * (1 - np.cos(2 * np.pi * _BEND))], -1) + start
    others = np.delete(np.stack([drawn.x, drawn.y], -1), [parent, child], 0)
    t, best, most = _BEND[:, None], np.zeros((0, 2)), -1.0
    for bend in _BENDS if end[0] > start[0] else _BENDS[1:]:
        middle = (start + end) / 2 + [0, bend]
        way = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
        apart = float(np.abs(way[:, None] - others[None]).max(-1).min(initial=_APART))
        if apart > most + 1e-9:
            best, most = way, apart
        if most >= _APART:
            break
    return best


def _variables(graph: xr.Dataset, drawn: _Graph, node: float, rim: str) -> list[go.Scatter]:
    """A trace for each role, and a ring round what was set."""
    role, told = graph["role"].values.astype(str), _told(graph, drawn)
    here = {"mode": "markers", "hoverinfo": "text"}
    traces = []
    for name, (symbol, colour) in _ROLES.items():
        at = np.flatnonzero(role == name)
        marker = {"symbol": symbol, "size": node, "color": colour, "line": {"width": 1, "color": rim}}
        if len(at):
            text = [told[i] for i in at]
            traces.append(go.Scatter(x=drawn.x[at], y=drawn.y[at], text=text, name=name, marker=marker, **here))
    at = np.flatnonzero(_set(graph))
    if len(at):
        ring = {"symbol": "circle-open", "size": 1.7 * node, "color": _SET, "line": {"width": 2.5}}
        traces.append(go.Scatter(x=drawn.x[at], y=drawn.y[at], mode="markers", name="set", marker=ring, hoverinfo="skip"))
    return traces


def _words(graph: xr.Dataset, drawn: _Graph, node: float, size: int, letters: float, up: float) -> list[go.Scatter]:
    """Names over variables and values under them, cut to the letters that a column has room for; none where rows are close."""
    if letters < 2 or up < node + 1.6 * size:
        return []
    shared = {"x": drawn.x, "mode": "text", "hoverinfo": "skip", "showlegend": False, "cliponaxis": False}
    lift = (0.85 * node + 0.7 * size) / up
    name = go.Scatter(y=drawn.y + lift, text=[f"<b>{_cut(one, int(letters))}</b>" for one in drawn.names], **shared)
    if "value" not in graph.variables or up < node + 3 * size:
        return [name]
    return [name, go.Scatter(y=drawn.y - lift, text=[_cut(str(one), int(letters)) for one in graph["value"].values], **shared)]


def _cut(text: str, letters: int) -> str:
    return labels.escape(text if len(text) <= letters else text[: max(1, letters - 1)] + "…")


def _told(graph: xr.Dataset, drawn: _Graph) -> list[str]:
    """Of each variable its kind, its mechanism, its value, and whether it was set."""
    given: dict[str, list[Any]] = {
        name: graph[name].values.tolist() for name in ("kind", "mechanism", "value") if name in graph.variables
    }
    found = []
    for i, (name, there) in enumerate(zip(drawn.names, _set(graph), strict=True)):
        lines = [f"<b>{labels.escape(name)}</b> {labels.escape(given['kind'][i])}"]
        lines += [labels.escape(given["mechanism"][i])] if given.get("mechanism", [""] * (i + 1))[i] else []
        lines += [f"value {labels.escape(given['value'][i])}"] if "value" in given else []
        found.append("<br>".join([*lines, *(["set by an intervention"] if there else [])]))
    return found


def _set(graph: xr.Dataset) -> NDArray[np.bool_]:
    return graph["set"].values.astype(bool) if "set" in graph.variables else np.zeros(graph.sizes["variable"], dtype=bool)


def _headline(graph: xr.Dataset) -> str:
    name = str(graph.attrs.get("name") or "")
    return f"causal model: {labels.escape(name)}" if name else "causal model"


def _under(graph: xr.Dataset) -> str:
    role = graph["role"].values.tolist()
    words = [f"{role.count('input')} inputs, {len(role) - role.count('input')} variables made of others"]
    words += [f"output {name}" for name, one in zip(graph["variable"].values, role, strict=True) if one == "output"]
    words += [f"row {graph.attrs['row']}"] if "row" in graph.attrs else []
    words += [f"set: {', '.join(map(str, graph['variable'].values[_set(graph)]))}"] if _set(graph).any() else []
    return labels.escape(" · ".join([*words, *(str(graph.attrs[k]) for k in ("model", "task") if graph.attrs.get(k))]))
