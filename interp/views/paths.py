"""Paths from the embedding to the logits as a Sankey diagram: which heads and MLPs what matters runs through.

    >>> views.paths(interp.patch_edges(model, pairs))                                       # doctest: +SKIP
    >>> views.paths(effects, top=12, width=views.COLUMN)                                   # doctest: +SKIP

The strongest edges are drawn, each with the strongest whole path through it; a path is as strong as its weakest edge. An edge
is as wide as its own number is large, alone: effects of single edges do not add up along a path, so what goes into a node is
not what comes out of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from interp.effects.schema import require
from interp.views import edges as graph
from interp.views.edges import HEAD, KV, NEGATIVE, POSITIVE, Edges, Ints
from interp.views.layout import PAGE, Heading

_NODE, _ALPHA = "#8c8c8c", "a6"
_SIDE = 16
_GLYPH, _SMALLEST = 0.62, 6.5
"""Mean width of a character by the size of its type, and the smallest type."""
_LEAST = 0.01
"""Of the strongest edge; weaker ones are drawn only where a stronger one's path has them."""
_WIDTH = "width = {} of that edge alone, which does not add up along a path · blue above 0, red below"
_NOWHERE = "no whole path leads through them"

Array = NDArray[np.float64]


class _Paths(NamedTuple):
    """What was chosen of some edges."""

    edges: Edges
    shared: list[tuple[int, int]]
    """Shared keys and values with a head that they lead to, places in the nodes."""
    strongest: int
    """How many edges the paths were chosen for."""


def paths(
    results: xr.Dataset | xr.DataArray,
    quantity: str | None = None,
    *,
    metric: str | None = None,
    top: int = 25,
    title: str | None = None,
    width: int = PAGE,
    template: str = "plotly_white",
    level: float = 0.95,
    seed: int = 0,
) -> go.Figure:
    """The strongest edges on whole paths, blue above 0 and red below.

    Args:
        results: as for :func:`circuit`. Paths lead from the embedding to the logits; in a result without these, from nodes that
            no edge enters to nodes that none leaves.
        quantity: of effects: recovery, damage, effect or value, by default as in :func:`heatmap`; of scores, the variable.
        metric: by default the first.
        top: how many edges are drawn at most, or the strongest path if that has more.
        title: in place of the one made from provenance.
        width: in pixels.
        template: a plotly template, e.g. ``"plotly_dark"``.
        level: of the intervals.
        seed: of the bootstrap.

    Raises:
        InputError: a result without edges, or with more axes than theirs.
        UnknownNameError: a metric or quantity that is not there.
        ValueError: ``top`` is none.
    """
    if not isinstance(results, xr.DataArray):
        require(results)
    if not isinstance(top, int) or top < 1:
        raise ValueError(f"top={top!r}; expected how many edges to draw, 1 at least")
    found = graph.read(results, quantity, metric, "views.paths", level=level, seed=seed)
    chosen = _chosen(found, top)
    many = f"{len(chosen.edges):,} of {len(found):,} edges: "
    many += f"the strongest {chosen.strongest} on whole paths, each with its strongest path" if chosen.strongest else _NOWHERE
    under = [many, _WIDTH.format(found.size), chosen.edges.provenance]
    heading = Heading(title or f"paths: {chosen.edges.called}", " · ".join(under), width)
    size, above = heading.size, heading.height + 12
    figure, tallest = _sankey(chosen, size, width - 2 * _SIDE)
    inner = int(np.clip(2.6 * size * tallest + 70, 110, 900))
    return figure.update_layout(**heading.layout(above + inner + 16, template, left=_SIDE, right=_SIDE, above=above, below=16))


def _chosen(found: Edges, top: int) -> _Paths:
    """Edges by size, each with its path, as long as there is room for the whole of it."""
    kv, head = _served(found)
    sender, receiver = np.concatenate([found.sender, kv]), np.concatenate([found.receiver, head])
    size = np.concatenate([np.abs(found.mean), np.full(len(kv), np.inf)])
    nodes = len(found.nodes)
    before = _widest(sender, receiver, size, found.nodes.layer == -1, nodes)
    last = nodes - 1 - np.arange(nodes)
    after = _widest(last[receiver], last[sender], size, (found.nodes.layer == found.nodes.depth)[::-1], nodes)[::-1]
    taken: dict[int, None] = {}
    strongest, least = 0, _LEAST * np.abs(found.mean).max(initial=0.0)
    for edge in np.argsort(-np.abs(found.mean), kind="stable").tolist():
        if abs(found.mean[edge]) < least:
            break
        if before[sender[edge]] == _NO or after[receiver[edge]] == _NO:
            continue
        path = [edge]
        while (step := before[sender[path[0]]]) >= 0:
            path.insert(0, int(step))
        while (step := after[receiver[path[-1]]]) >= 0:
            path.append(int(step))
        real = [e for e in path if e < len(found)]
        if taken and sum(e < len(found) for e in taken) + sum(e not in taken for e in real) > top:
            break
        taken.update(dict.fromkeys(path))
        strongest += 1
    real = sorted(e for e in taken if e < len(found))
    shared = [(int(sender[e]), int(receiver[e])) for e in taken if e >= len(found)]
    return _Paths(found.at(np.array(real, int)), shared, strongest)


_START, _NO = -1, -2


def _widest(sender: Ints, receiver: Ints, size: Array, start: NDArray[np.bool_], nodes: int) -> Ints:
    """Of each node the last edge of the strongest path to it, `_START` where paths begin, `_NO` where none leads to it.

    Nodes are in the order of the network, so one pass over them is enough.
    """
    if not start.any():
        start = ~np.isin(np.arange(nodes), receiver)
    wide, through = np.where(start, np.inf, -np.inf), np.where(start, _START, _NO)
    order = np.argsort(receiver, kind="stable")
    bounds = np.searchsorted(receiver[order], np.arange(nodes + 1))
    for node in range(nodes):
        into = order[bounds[node] : bounds[node + 1]]
        if start[node] or not len(into):
            continue
        reach = np.minimum(wide[sender[into]], size[into])
        best = np.lexsort((size[into], reach))[-1]  # of equally strong paths, by the larger edge
        if reach[best] > -np.inf:
            wide[node], through[node] = reach[best], into[best]
    return through


def _served(found: Edges) -> tuple[Ints, Ints]:
    """Shared keys and values, and the heads that read them."""
    nodes = found.nodes
    heads = {(int(nodes.layer[i]), int(nodes.index[i])): i for i in np.flatnonzero(nodes.kind == HEAD).tolist()}
    pairs = [
        (kv, heads[int(nodes.layer[kv]), head])
        for kv in np.flatnonzero(nodes.kind == KV).tolist()
        for head in nodes.heads(kv)
        if (int(nodes.layer[kv]), head) in heads
    ]
    ends = np.array(pairs, int).reshape(-1, 2)
    return ends[:, 0], ends[:, 1]


def _sankey(chosen: _Paths, size: int, inner: int) -> tuple[go.Figure, int]:
    """The diagram, and how many nodes its tallest column has."""
    edges, nodes = chosen.edges, chosen.edges.nodes
    readers: dict[int, list[int]] = {}
    for kv, head in chosen.shared:
        readers.setdefault(kv, []).append(head)
    drawn = [(edge, end) for edge, end in enumerate(edges.receiver.tolist()) for end in readers.get(end, [end])]
    which, ends = np.array(drawn, int).reshape(-1, 2).T
    used, where = np.unique(np.concatenate([edges.sender[which], ends]), return_inverse=True)
    source, target = where[: len(which)], where[len(which) :]
    colours = np.array([(NEGATIVE if m < 0 else POSITIVE) + _ALPHA for m in edges.mean], object)[which]
    through = [f"<br>{nodes.told(k)}" if nodes.kind[k] == KV else "" for k in edges.receiver[which].tolist()]
    link = {
        "source": source,
        "target": target,
        "value": np.abs(edges.mean)[which],
        "customdata": [edge + more for edge, more in zip(np.array(edges.hover(), object)[which], through, strict=True)],
        "color": colours,
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    column = _columns(source, target, len(used))
    called = [nodes.name(i) for i in used.tolist()]
    told = [f"<b>{name}</b><br>{(target == i).sum()} in, {(source == i).sum()} out" for i, name in enumerate(called)]
    written, text = _fitted(called, column, size, inner)
    node = {
        "label": written,
        "customdata": told,
        "color": _NODE,
        "line": {"width": 0},
        "pad": 1.6 * size,
        "thickness": 0.8 * size,
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    figure = go.Figure(go.Sankey(node=node, link=link, textfont={"size": text}, arrangement="snap"))
    return figure, int(np.bincount(column).max(initial=1))


def _columns(source: Ints, target: Ints, nodes: int) -> Ints:
    """Where plotly puts nodes: as far right as the longest path to them is long."""
    column = np.zeros(nodes, int)
    for node in range(nodes):
        into = source[target == node]
        column[node] = column[into].max() + 1 if len(into) else 0
    return column


def _fitted(names: list[str], column: Ints, size: int, inner: int) -> tuple[list[str], float]:
    """Labels with room for each, and the size of their type: smaller where columns are narrow, and then of fewer columns.

    Those of the last column stand to the left of it, so those beside it need room for both.
    """
    last, longest = int(column.max(initial=0)), max(map(len, names), default=1)
    pitch = max(1.0, inner / max(1, last) - 1.2 * size)
    text = float(np.clip(pitch / (_GLYPH * longest), _SMALLEST, size))
    step = int(np.ceil(_GLYPH * text * longest / pitch))
    ending = 1 + max((len(name) for name, at in zip(names, column, strict=True) if at == last), default=0)

    def fits(name: str, at: int) -> bool:
        return at == last or (at % step == 0 and (at < last - 1 or _GLYPH * text * (len(name) + ending) <= pitch))

    return [name if fits(name, at) else "" for name, at in zip(names, column.tolist(), strict=True)], text
