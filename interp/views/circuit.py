"""A circuit as a graph: heads and MLPs at their layers, the embedding below, the logits above, and edges between them.

    >>> views.circuit(interp.patch_edges(model, pairs))                                     # doctest: +SKIP
    >>> views.circuit(effects, threshold=0.05, width=views.COLUMN)                         # doctest: +SKIP
    >>> views.circuit(interp.acdc(model, pairs, [0.1, 0.01]).isel(cell=1))                    # doctest: +SKIP

An edge is as wide as its number is large, blue above 0 and red below. The slider says how large a number must be to be drawn;
it works in a page without a server.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from interp.effects.schema import require
from interp.views import edges as graph
from interp.views import labels
from interp.views.edges import NEGATIVE, POSITIVE, Edges
from interp.views.layout import PAGE, Heading

_LADDER = (7.0, 5.0, 3.0, 2.0, 1.5, 1.0)
"""Thresholds in each power of ten."""
_RANGE = 1e-3
"""Of the strongest edge; weaker ones have no thresholds of their own."""
_COUNTS = (10, 30, 100, 300, 1000, 3000, 10_000)
"""Numbers of edges that some threshold comes near."""
_MOST, _LEAST = 100, 0.01
"""A figure opens with no more edges than this, and none weaker than this share of the strongest."""
_CURVE = np.linspace(0, 1, 9)
_HOVERED = [2, 4, 6]
"""Points of the curve that have its hover."""
_WIDEST, _NARROWEST, _NODE, _FADED = 7.0, 0.6, "#7f7f7f", 0.25
_SIGNS = ((1, POSITIVE, "positive"), (-1, NEGATIVE, "negative"))
_SIDE = {"q": -1.0, "k": 0.0, "v": 1.0}
"""Where edges end at a head, so that those of one sender stay apart."""
_SYMBOLS = {graph.KV: "diamond", graph.HEAD: "circle", graph.MLP: "square"}
_ROW, _LOWEST, _SLIDER = 46, 200, 82

Array = NDArray[np.float64]


class _Places(NamedTuple):
    """Where nodes are, in columns and layers, and how many pixels one of these is."""

    x: Array
    y: Array
    heads: int
    across: float
    up: float

    @property
    def size(self) -> float:
        """Of a node, in pixels."""
        return float(np.clip(0.55 * min(self.across, self.up), 3, 14))


def circuit(
    results: xr.Dataset | xr.DataArray,
    quantity: str | None = None,
    *,
    metric: str | None = None,
    threshold: float | None = None,
    top: int = 2000,
    title: str | None = None,
    width: int = PAGE,
    template: str = "plotly_white",
    level: float = 0.95,
    seed: int = 0,
) -> go.Figure:
    """A graph of edges, with a slider for how strong an edge must be to be drawn.

    Args:
        results: from :func:`interp.patch_edges`; or scores of edges, an array or a dataset, with the coordinates
            ``sender_layer``, ``sender_head``, ``receiver_layer`` and ``receiver_head`` along ``cell``. Where ``in_circuit`` is
            there too, only edges for which it is true are drawn. Or one circuit of a search, such as
            ``interp.acdc(…).isel(cell=0)``.
        quantity: of effects: recovery, damage, effect or value, by default as in :func:`heatmap`; of scores, the variable.
        metric: by default the first.
        threshold: draw the edges that are at least this strong, and no slider, as print wants it.
        top: how many edges the figure holds at most, the strongest of them.
        title: in place of the one made from provenance.
        width: in pixels.
        template: a plotly template, e.g. ``"plotly_dark"``.
        level: of the intervals.
        seed: of the bootstrap.

    Raises:
        InputError: a result without edges, or with more axes than theirs.
        UnknownNameError: a metric or quantity that is not there.
        ValueError: ``top`` or ``threshold`` is none.
    """
    if not isinstance(results, xr.DataArray):
        require(results)
    if not isinstance(top, int) or top < 1:
        raise ValueError(f"top={top!r}; expected how many edges to hold, 1 at least")
    if threshold is not None and not threshold >= 0:
        raise ValueError(f"threshold={threshold!r}; expected how strong an edge must be, a number from 0 on")
    found = graph.read(results, quantity, metric, "views.circuit", level=level, seed=seed)
    many = len(found)
    found = found if threshold is None else found.at(np.abs(found.mean) >= threshold)
    shown = found.strongest(top)
    widest = [f"the widest {abs(shown.mean[0]):.2g}"] if len(shown) else []
    held = [f"the strongest {len(shown):,} of them"] if len(shown) < len(found) else []
    steps = _steps(np.abs(shown.mean))
    strong = [int((np.abs(shown.mean) >= step).sum()) for step in steps]
    if threshold is None and len(shown):
        cuts = [(n, f" with {shown.size} ≥ {step:.2g}" if n < many else "") for n, step in zip(strong, steps, strict=True)]
        held = [f"the figure holds {word}" for word in held]
    else:
        cuts = [(len(found), f" with {shown.size} ≥ {threshold:g}" if threshold is not None else "")]
    unders = [" · ".join([f"{n:,} of {many:,} edges{cut}", *widest, *held, shown.provenance]) for n, cut in cuts]
    heading = max((Heading(title or f"edges: {shown.called}", under, width) for under in unders), key=lambda one: one.height)
    figure, places = _canvas(shown, heading, template, slider=len(cuts) > 1)
    traces = _traces(shown, steps, places)
    for _, trace in traces:
        figure.add_trace(trace)
    if len(cuts) > 1:
        titles = [heading.text(under) for under in unders]
        seen = [i for i, n in enumerate(strong) if n <= _MOST and steps[i] >= _LEAST * steps[0]]
        opening = max(seen, default=0)
        stops = [f"{n:,} (≥ {step:.2g})" if n < many else f"all {n:,}" for n, step in zip(strong, steps, strict=True)]
        _slide(figure, shown.size, stops, titles, [step for step, _ in traces], opening)
    return figure


def _steps(sizes: Array) -> list[float]:
    """Thresholds from the largest on, round ones, and others where too many edges lie between them; the last shows all."""
    if not len(sizes):
        return []
    ordered = np.sort(sizes)[::-1]
    largest, least = float(ordered[0]), float(ordered[-1])
    power = math.floor(math.log10(largest)) if largest else 0
    round_ones = [number * 10.0**p for p in range(power, power - 5, -1) for number in _LADDER]
    steps = [step for step in round_ones if max(least, largest * _RANGE) <= step <= largest]
    shown = [int((ordered >= step).sum()) for step in steps]
    lacking = [n for n in _COUNTS if n < len(ordered) and not any(n / 3 <= many <= n for many in shown)]
    steps = sorted({*steps, *(_cut(float(ordered[n - 1])) for n in lacking), _cut(least)}, reverse=True)
    shown = [int((ordered >= step).sum()) for step in steps]
    return [step for step, many, before in zip(steps, shown, [0, *shown], strict=False) if many > before]


def _cut(number: float) -> float:
    """The number, cut to two digits."""
    if not number:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(number)) - 1)
    return math.floor(number / unit * (1 + 1e-12)) * unit


def _canvas(shown: Edges, heading: Heading, template: str, *, slider: bool) -> tuple[go.Figure, _Places]:
    """An empty figure with layers upwards and heads from left to right, and where its nodes are."""
    nodes, size, glyph, width = shown.nodes, heading.size, heading.glyph, heading.width
    left, right, above = int(2.6 * size + 6 * glyph), int(2.4 * size), heading.height + 6
    lines = 3 if shown.unsure.any() and width < 480 else 1
    below = int((4.2 + 2 * lines) * size) + (_SLIDER if slider else 0)
    served = np.where(nodes.kind == graph.KV, (nodes.index + 1) * nodes.serves, nodes.index + 1)
    inside = (nodes.layer >= 0) & (nodes.layer < nodes.depth)
    heads = int(served[inside & (nodes.kind != graph.MLP)].max(initial=0))
    mlps = bool((nodes.kind == graph.MLP).any())
    rows, columns = nodes.depth + 2, heads + (1.6 if mlps else 0.4)
    inner = int(np.clip(_ROW * rows, _LOWEST, max(460, 1.1 * width)))
    x = np.where(nodes.kind == graph.MLP, heads + 0.4, nodes.index + 0.0)
    x = np.where(nodes.kind == graph.KV, (nodes.index + 0.5) * nodes.serves - 0.5, x)
    apart = np.where((nodes.layer < 0) & (nodes.index[nodes.layer < 0].max(initial=0) > 0), 1.2 * (nodes.index - 0.5), 0.0)
    x = np.where(inside, x, (heads - 1) / 2 + apart)
    y = nodes.layer + np.where(nodes.kind == graph.MLP, 0.42, np.where(nodes.kind == graph.KV, -0.36, 0.0))
    places = _Places(x, np.asarray(y, float), heads, (width - left - right) / columns, inner / (rows + 0.2))
    figure = go.Figure()
    legend = {"orientation": "h", "x": 0, "xanchor": "left", "y": -3.8 * size / inner, "yanchor": "top", "font": {"size": size}}
    figure.update_layout(
        **heading.layout(above + inner + below, template, left=left, right=right, above=above, below=below),
        legend=legend | {"itemsizing": "constant", "itemclick": False, "itemdoubleclick": False},
        hovermode="closest",
        hoverdistance=14,
    )
    shared = {"showgrid": False, "zeroline": False, "ticks": "", "tickmode": "array", "automargin": False, "tickangle": 0}
    at, text = _ticks([*range(heads)], ["MLP"] * mlps, heads + 0.4, places.across, 2.2 * size)
    title = {"text": "head", "standoff": 4}
    figure.update_xaxes(tickvals=at, ticktext=text, range=[-0.7, columns - 0.7], title=title, **shared)
    at, text = _ticks([*range(nodes.depth)], ["logits"], nodes.depth, places.up, 1.3 * size)
    there = at[0] * places.up + places.up >= 1.3 * size
    at, text = [-1, *at[0 if there else 1 :]], ["embed", *text[0 if there else 1 :]]
    title = {"text": "layer", "standoff": 2}
    figure.update_yaxes(tickvals=at, ticktext=text, range=[-1.6, nodes.depth + 0.6], title=title, **shared)
    return figure, places


def _ticks(
    numbers: Sequence[int], last: Sequence[str], end: float, pixels: float, room: float
) -> tuple[list[float], list[str]]:
    """Numbers with room for each, and the word at the end."""
    places, text = labels.Ticks("", [str(n) for n in numbers], []).thinned(max(1, int(len(numbers) * pixels / room)))
    kept = [i for i in range(len(places)) if not last or (end - places[i]) * pixels >= 1.3 * room]
    return [*(float(places[i]) for i in kept), *([end] if last else [])], [*(text[i] for i in kept), *last]


def _traces(shown: Edges, steps: Sequence[float], places: _Places) -> list[tuple[int, go.Scatter]]:
    """What is drawn, each with the step from which on it is; −1 always."""
    there = {-1 if mean < 0 else 1 for mean in shown.mean.tolist()}
    keys: dict[str, dict[str, Any]] = {name: {"color": colour, "width": 4} for sign, colour, name in _SIGNS if sign in there}
    if shown.unsure.any():
        keys["interval covers 0"] = {"color": _NODE, "width": 2, "dash": "dot"}
    traces = [(-1, go.Scatter(x=[None], y=[None], mode="lines", line=line, name=name)) for name, line in keys.items()]
    sizes, hover = np.abs(shown.mean), shown.hover()
    step = np.searchsorted(-np.asarray(steps), -sizes, side="left") if len(steps) else np.zeros(0, int)
    curves = _curves(shown, places)
    largest = float(sizes.max(initial=0.0)) or 1.0
    born = np.full(len(shown.nodes), len(steps))
    for end in (shown.sender, shown.receiver):
        np.minimum.at(born, end, step)
    for i in reversed(range(len(steps))):
        here = np.flatnonzero(step == i)
        thick = max(_NARROWEST, _WIDEST * float(sizes[here].mean()) / largest)
        for sign, colour, _ in _SIGNS:
            for unsure in (True, False):
                of = here[(np.where(shown.mean[here] < 0, -1, 1) == sign) & (shown.unsure[here] == unsure)]
                if len(of):
                    line = {"color": colour, "width": thick, "dash": "dot" if unsure else "solid"}
                    traces.append((i, _lines(curves[of], line=line, hoverinfo="skip")))
    for i in reversed(range(len(steps))):
        here = np.flatnonzero(step == i)
        text = [hover[edge] for edge in here for _ in _HOVERED]
        points = curves[here][:, _HOVERED].reshape(-1, 2).astype(np.float32)
        blank = {"mode": "lines", "line": {"width": 0}, "showlegend": False}
        traces.append((i, go.Scatter(x=points[:, 0], y=points[:, 1], text=text, hoverinfo="text", **blank)))
    traces.append((-1, _nodes(np.arange(len(born)), shown, places, opacity=_FADED, text=_told(shown, hover), hoverinfo="text")))
    bright = [(i, np.flatnonzero(born == i)) for i in range(len(steps))]
    return traces + [(i, _nodes(here, shown, places, opacity=1, hoverinfo="skip")) for i, here in bright if len(here)]


def _curves(shown: Edges, places: _Places) -> Array:
    """``[edge, point, (x, y)]``: bent towards the middle where they pass other layers, and apart by slot."""
    side = np.array([_SIDE.get(slot, 0.0) for slot in shown.slots])
    x0, x1 = places.x[shown.sender], places.x[shown.receiver] + side * 0.32 * places.size / places.across
    y0, y1 = places.y[shown.sender], places.y[shown.receiver]
    span = y1 - y0
    bow = np.where(span > 1.2, np.minimum(34, 0.2 * span * places.up), 0) * np.where(x0 + x1 > places.heads - 1, -1, 1)
    xc = (x0 + x1) / 2 + (bow + 12 * side) / places.across
    t, u = _CURVE, 1 - _CURVE
    xs = x0[:, None] * u**2 + xc[:, None] * 2 * t * u + x1[:, None] * t**2
    return np.stack([xs, y0[:, None] * u + y1[:, None] * t], -1)


def _lines(curves: Array, **style: Any) -> go.Scatter:
    gaps = np.concatenate([curves, np.full((len(curves), 1, 2), np.nan)], 1).reshape(-1, 2).astype(np.float32)
    return go.Scatter(x=gaps[:, 0], y=gaps[:, 1], mode="lines", connectgaps=False, showlegend=False, **style)


def _nodes(which: NDArray[np.integer], shown: Edges, places: _Places, *, opacity: float, **more: Any) -> go.Scatter:
    symbols = [_SYMBOLS[int(kind)] for kind in shown.nodes.kind[which]]
    size = np.where(shown.nodes.kind[which] == graph.KV, 0.6, 1.0) * places.size
    marker = {"symbol": symbols, "size": size, "color": _NODE, "opacity": opacity, "line": {"width": 0}}
    return go.Scatter(x=places.x[which], y=places.y[which], mode="markers", marker=marker, showlegend=False, **more)


def _told(shown: Edges, hover: Sequence[str]) -> list[str]:
    """Each node's name, and its strongest edges."""
    lines = [[f"<b>{labels.escape(shown.nodes.told(i))}</b>"] for i in range(len(shown.nodes))]
    for ends, word in ((shown.receiver, "in"), (shown.sender, "out")):
        many = np.bincount(ends, minlength=len(lines))
        strongest = dict(zip(ends[::-1].tolist(), range(len(ends) - 1, -1, -1), strict=True))  # the first is the strongest
        for node, edge in strongest.items():
            lines[node].append(f"{many[node]:,} {word}, strongest {hover[edge].split('<br>')[0]}")
    return ["<br>".join(line if len(line) > 1 else [*line, "no edge is drawn"]) for line in lines]


def _slide(
    figure: go.Figure, size: str, called: Sequence[str], titles: Sequence[str], since: Sequence[int], opening: int
) -> None:
    """The slider: a step shows the edges that are strong enough, and the nodes that they have."""
    layout = figure.layout
    inner, font = layout.height - layout.margin.t - layout.margin.b, layout.font.size
    stops = [
        {
            "label": stop,
            "method": "update",
            "args": [{"visible": [first <= i for first in since]}, {"title.text": titles[i]}],
        }
        for i, stop in enumerate(called)
    ]
    slider = {
        "active": opening,
        "steps": stops,
        "currentvalue": {"prefix": f"edges by {size}: ", "xanchor": "left", "font": {"size": font}},
        "font": {"size": font - 1},
        "x": 0,
        "len": 1,
        "y": -(layout.margin.b - _SLIDER) / inner,
        "yanchor": "top",
        "pad": {"t": 4, "b": 4},
    }
    figure.update_layout(sliders=[slider], title={"text": titles[opening]})
    for trace, first in zip(figure.data, since, strict=True):
        trace.visible = first <= opening
