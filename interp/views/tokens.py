"""The tokens of a prompt, each in the colour of its number, as a text that wraps over lines.

    >>> views.tokens(effects.sel(layer=3))                                                  # doctest: +SKIP
    >>> views.tokens(scores, "logprob", example=[0, 1, 2])                                 # doctest: +SKIP
    >>> views.tokens(effects.sel(layer=3), example=None)                                   # doctest: +SKIP

Spaces are drawn as ␣ and ends of lines as ⏎. Numbers of both signs are red below 0 and blue above, others sequential.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from interp import axes as names
from interp import effects as fx
from interp import stats
from interp.effects.schema import require
from interp.errors import InputError, PositionError
from interp.views import labels
from interp.views import prompts as of
from interp.views.colours import of_text, scale
from interp.views.heatmap import WHY, default_quantity
from interp.views.layout import PAGE, Heading

_NOISE, _UNDEFINED, _MISSING, _ABSENT = WHY
_DIFFER, _NONE = "tokens differ", "no number"
_WHY = WHY | {_DIFFER: "#e8d9bd", _NONE: "#c8c8c8"}
_MONO, _GLYPH = "DejaVu Sans Mono, Consolas, Menlo, monospace", 0.602
"""Type of one width, so that lines break where they should, and that width by its size."""
_BAR = 0.5
"""Length of the colour bar as a share of the text's width."""
_FIXED = (*names.SWEPT, names.FEATURE, "term", "intervention")
"""Coordinates that say what was selected."""
_VISIBLE = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥"})


class _Strip(NamedTuple):
    """One prompt, or several that are drawn as one."""

    name: str
    words: list[str]
    """Without what is behind the end."""
    hover: list[str]
    numbers: NDArray[np.float64]
    """NaN where ``why`` says why."""
    why: NDArray[np.object_]


class _Read(NamedTuple):
    """What a result says."""

    strips: list[_Strip]
    head: str
    under: str
    bar: str
    signed: bool


def tokens(
    results: xr.Dataset | xr.DataArray,
    quantity: str | None = None,
    *,
    metric: str | None = None,
    example: int | Iterable[int] | None = 0,
    limit: float | None = None,
    title: str | None = None,
    width: int = PAGE,
    template: str = "plotly_white",
    level: float = 0.95,
    seed: int = 0,
) -> go.Figure:
    """A prompt whose tokens are coloured by one number each.

    Args:
        results: effects by position, or any array or other result with one number a token: an activation, a loss, an
            attribution. Select one layer, head or unit first.
        quantity: of effects: recovery, damage, effect or value, by default as in :func:`heatmap`; of another result the
            variable, by default the only one.
        metric: by default the first.
        example: which prompt; several are drawn one under the other; None draws the mean over all of them, with intervals,
            where all have the same token, or one role.
        limit: the value at the end of the colours, in place of the largest one.
        title: in place of the one made from provenance.
        width: in pixels.
        template: a plotly template, e.g. ``"plotly_dark"``.
        level: of the intervals.
        seed: of the bootstrap.

    Raises:
        InputError: a result without positions, or with more axes than theirs.
        PositionError: an example that there is not.
        UnknownNameError: a metric or quantity that is not there.
    """
    if not isinstance(results, xr.DataArray):
        require(results)
    if isinstance(results, xr.Dataset) and {"value", "by_rule"} <= set(map(str, results.data_vars)):
        read = _of_effects(fx.choose_metric(results, metric), quantity, example, level, seed)
    else:
        read = _of_array(of.chosen(results, quantity, metric, lambda v: bool(_positions(v)), "positions"), example, level)
    heading = Heading(title or read.head, read.under, width)
    return _drawn(read, heading, limit, template)


def _positions(array: xr.DataArray) -> list[str]:
    return [str(dim) for dim in array.dims if str(dim).endswith(names.POSITION)]


def _axis(array: xr.DataArray) -> str:
    """The axis of positions, where there is no other besides examples."""
    found = _positions(array)
    others = [str(dim) for dim in array.dims if dim not in (names.EXAMPLE, *found[:1])]
    if not found:
        raise InputError(f"views.tokens draws one number a token; this result has the axes {tuple(array.dims)} and no position")
    if others:
        sizes = ", ".join(f"{dim} ({array.sizes[dim]})" for dim in others)
        raise InputError(
            f"views.tokens draws one number a token; besides {found[0]} this result has {sizes}; select, e.g. "
            f"results.isel({others[0]}=0)"
        )
    return found[0]


def _picked(example: int | Iterable[int] | None, many: int) -> tuple[list[list[int]], str]:
    """The examples of each strip, and a word about them."""
    if example is None:
        return [list(range(many))], f"mean over {many} examples" if many > 1 else ""
    asked = [example] if isinstance(example, int | np.integer) else list(example)
    for one in asked:
        if not -many <= one < many:
            raise PositionError(f"example={one}, but this result has {many} of them, 0 to {many - 1}")
    if not asked:
        raise PositionError("example is an empty list; give at least one, or None for the mean")
    chosen = [int(one) % many for one in asked]
    which = f"example {chosen[0]}" if len(chosen) == 1 else f"{len(chosen)} examples"
    return [[one] for one in chosen], f"{which} of {many}" if many > 1 else ""


def _words(ds: xr.Dataset | xr.DataArray, axis: str, name: str) -> NDArray[np.object_] | None:
    """Tokens ``[example, position]``; None where they are not known."""
    if name not in ds.coords or axis not in ds[name].dims:
        return None
    table = ds[name].transpose(..., axis).values.astype(object)
    return table if table.ndim == 2 else table[None]


def _shared(table: NDArray[np.object_]) -> list[str | None]:
    """The token of each position; None where examples differ."""
    return [str(column[0]) if all(token == column[0] for token in column) else None for column in table.T]


def _strip(
    name: str, tokens: Sequence[str | None], roles: Sequence[str], numbers: Any, why: Any, hover: Sequence[str]
) -> _Strip:
    """Without what is behind the end, and without numbers where tokens differ and have no role in common."""
    tokens = [f"{{{role}}}" if token is None and role else token for token, role in zip(tokens, roles, strict=True)]
    kept = [i for i, token in enumerate(tokens) if token != ""]
    why = np.where([token is None for token in tokens], _DIFFER, why).astype(object)
    told = [
        line if reason == "" else f"{line.split('<br>')[0]}<br>{reason}" if reason == _DIFFER else f"{line}<br>{reason}"
        for line, reason in zip(hover, why, strict=True)
    ]
    words = [labels.DIFFER if token is None else token for token in tokens]
    numbers = np.where(why == "", numbers, np.nan)
    return _Strip(name, [words[i] for i in kept], [told[i] for i in kept], numbers[kept], why[kept])


def _of_effects(ds: xr.Dataset, quantity: str | None, example: int | Iterable[int] | None, level: float, seed: int) -> _Read:
    axis, quantity = _axis(ds["value"]), quantity or default_quantity(ds)
    metric, places = str(ds[names.METRIC].item()), [str(p) for p in ds[axis].values]
    picked, which = _picked(example, ds.sizes[names.EXAMPLE])
    clean, corrupted = (_words(ds, axis, f"{side}_token") for side in ("clean", "corrupted"))
    strips, roles = [], labels.roles_of(ds, axis)
    for of_strip in picked:
        part = ds.isel({names.EXAMPLE: of_strip})
        table = fx.summary(part, quantity, level=level, seed=seed).isel({names.METRIC: 0})
        said = [_shared(rows[of_strip]) if rows is not None else places for rows in (clean, corrupted)]
        hover = [
            "<br>".join([_named(place, *both) if clean is not None else f"<b>{labels.escape(place)}</b>", *lines])
            for place, both, lines in zip(places, zip(*said, strict=True), _numbers(part, table, quantity, metric), strict=True)
        ]
        strips.append(_strip(str(of_strip[0]), said[0], roles, table["mean"].values, _reasons(part, table, quantity), hover))
    every = ds.isel({names.EXAMPLE: sorted({i for strip in picked for i in strip})})
    under = [labels.provenance(every, table), *([which] if example is not None and which else [])]
    bar = labels.bar_name(ds, quantity, metric)
    return _Read(strips, labels.headline(ds, quantity, metric), " · ".join(under), bar, quantity != "value")


def _numbers(part: xr.Dataset, table: xr.Dataset, quantity: str, metric: str) -> list[list[str]]:
    """Lines of the hover of each position."""
    found, clusters, level = [], labels.clusters(table), f"{table.attrs['level']:.0%}"
    raw = [fx.value_of(part, name).values for name in ("value", "effect")]
    columns = (table[name].values for name in ("mean", "low", "high", "n"))
    for value, change, mean, low, high, n in zip(*raw, *columns, strict=True):
        if not np.isfinite(low):
            number = [f"{quantity} {mean:.4g}" if np.isfinite(mean) else f"{quantity} undefined"]
        else:
            interval = f"{level} interval {low:.3g} to {high:.3g}"
            number = [f"{quantity} {labels.interval(mean, low, high)} (n={n}{clusters})", interval]
        found.append([*number, f"{labels.escape(metric)} {value:.3g}, effect {change:+.3g}"])
    return found


def _named(place: str, token: str | None, other: str | None) -> str:
    both = ["differs" if word is None else of.quoted(word) for word in (token, other)]
    against = f", corrupted {both[1]}" if both[0] != both[1] else ""
    return f"<b>{labels.escape(place)}</b> token {both[0]}{against}"


def _reasons(part: xr.Dataset, table: xr.Dataset, quantity: str) -> NDArray[np.object_]:
    """Why a position has no colour of the scale; "" where it has one."""
    value, effect = (fx.value_of(part, name).values for name in ("value", "effect"))
    why = np.full(value.shape, "", object)
    if quantity != "value":
        by_rule = part["by_rule"].all(names.EXAMPLE).values
        why[(np.abs(effect) <= float(fx.noise_floor(part))) & ~by_rule] = _NOISE
    why[np.isnan(table["mean"].values)] = _UNDEFINED
    why[np.isnan(value)] = _MISSING
    if "absent" in part:
        why[part["absent"].values] = _ABSENT
    return why


def _of_array(array: xr.DataArray, example: int | Iterable[int] | None, level: float) -> _Read:
    axis, bar = _axis(array), labels.escape(labels.name_of(array))
    array = array if names.EXAMPLE in array.dims else array.expand_dims(names.EXAMPLE)
    array = array.transpose(names.EXAMPLE, axis)
    picked, which = _picked(example, array.sizes[names.EXAMPLE])
    prefix = axis.removesuffix(names.POSITION)
    known = (_words(array, axis, f"{prefix}{word}") for word in ("token", "input_token", "clean_token"))
    table = next((words for words in known if words is not None), None)
    places = array[axis].values.tolist() if axis in array.coords else list(range(array.sizes[axis]))
    strips, roles = [], labels.roles_of(array, axis)
    for of_strip in picked:
        values = array.values[of_strip].astype(float)
        rows = table if table is None or len(table) == 1 else table[of_strip]
        said: Sequence[str | None] = _shared(rows) if rows is not None else [str(place) for place in places]
        some = array.isel({names.EXAMPLE: of_strip})
        mean, low, high = stats.t_interval(values.T, clusters=fx.clusters_of(some).labels, level=level)[:3]
        n = f"({labels.of_examples(some)})" if len(values) > 1 else ""
        number = [f"{labels.interval(m, a, b)} {n}" if n else f"{m:.4g}" for m, a, b in zip(mean, low, high, strict=True)]
        at = [_named(str(p), t, t) if rows is not None else f"<b>{p}</b>" for p, t in zip(places, said, strict=True)]
        hover = [f"{where}<br>{bar} {value}" for where, value in zip(at, number, strict=True)]
        strips.append(_strip(str(of_strip[0]), said, roles, mean, np.where(np.isnan(mean), _NONE, "").astype(object), hover))
    fixed = [f"{a}={array[a].item()}" for a in _FIXED if a in array.coords and not array[a].ndim]
    return _Read(strips, f"{bar} by token", of.under(array, which, *fixed), bar, False)


def _drawn(read: _Read, heading: Heading, limit: float | None, template: str) -> go.Figure:
    several, size = len(read.strips) > 1, heading.size
    left = int(2.9 * size + heading.glyph * max(len(strip.name) for strip in read.strips)) if several else 12
    inner = heading.width - left - 16
    boxes = [_laid(strip.words, inner, size) for strip in read.strips]
    starts = np.cumsum([0, *(laid[-1].line + 1.5 if laid else 1.5 for laid in boxes)])
    flat = [box._replace(line=box.line + start) for laid, start in zip(boxes, starts, strict=False) for box in laid]
    numbers, why = (np.concatenate([getattr(strip, name) for strip in read.strips]) for name in ("numbers", "why"))
    hover = [line for strip in read.strips for line in strip.hover]
    lines = max((box.line for box in flat), default=0.0) + 1
    reasons = [reason for reason in _WHY if (why == reason).any()]
    in_a_row = 1 if heading.width < 480 else len(_WHY)
    tall, above = int(1.8 * size * lines), heading.height + 8
    below = int(2.4 * size + 26 + 2.2 * size * -(-len(reasons) // in_a_row))
    height = above + tall + below
    known, colours = why == "", scale(numbers, limit, signed=read.signed)
    marker = {"color": numbers[known]} | _marker(colours, size, (below - 10) / height)
    said = "<br>".join(labels.wrap(read.bar, int(inner * (1 - _BAR) / heading.glyph) - 2))
    text = of_text(numbers[known], colours)
    figure = go.Figure(_bars(flat, hover, known, size, marker=marker, insidetextfont_color=text))
    for reason in reasons:
        shown = {"marker": {"color": _WHY[reason]}, "name": reason, "showlegend": True, "insidetextfont_color": "#000000"}
        figure.add_trace(_bars(flat, hover, why == reason, size, **shown))
    legend = {"orientation": "h", "x": 0, "y": (below - 2.4 * size - 20) / height, "yref": "container", "yanchor": "top"}
    figure.update_layout(
        **heading.layout(height, template, left=left, right=16, above=above, below=below),
        barmode="overlay",
        legend=legend | {"font": {"size": size}},
    )
    beside = {"xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "top", "xshift": size, "yshift": -8}
    figure.add_annotation(text=said, x=_BAR, y=0, showarrow=False, align="left", font={"size": size}, **beside)
    blank = {"showgrid": False, "zeroline": False, "showline": False, "ticks": "", "fixedrange": True}
    figure.update_xaxes(range=[0, inner], showticklabels=False, **blank)
    marks = {"tickvals": starts[:-1].tolist(), "ticktext": [strip.name for strip in read.strips]} if several else {}
    marks |= {"ticklabelstandoff": int(0.5 * size)} if several else {}
    figure.update_yaxes(range=[lines - 0.5, -0.5], showticklabels=several, tickmode="array", **marks, **blank)
    return figure.update_yaxes(title={"text": names.EXAMPLE, "standoff": 4}) if several else figure


class _Box(NamedTuple):
    """A token in its place: pixels from the left, pixels wide, and its line."""

    text: str
    x: float
    wide: float
    line: float


def _laid(words: Sequence[str], inner: int, size: int) -> list[_Box]:
    """Tokens from left to right and line by line; a line ends where its text does."""
    found: list[_Box] = []
    x, line, room = 0.0, 0, int((inner - 6) / (_GLYPH * size))
    for word in words:
        text = "".join(c if c.isprintable() else "�" for c in word.translate(_VISIBLE))
        text = of.cut(text, room)
        wide = _GLYPH * size * of.cells(text) + 5
        if found and x + wide > inner:
            x, line = 0.0, line + 1
        found.append(_Box(text, x, wide, line))
        x += wide
        if word.endswith("\n"):
            x, line = 0.0, line + 1
    return found


def _bars(boxes: Sequence[_Box], hover: Sequence[str], which: NDArray[np.bool_], size: int, **more: Any) -> go.Bar:
    chosen = np.flatnonzero(which).tolist()
    fixed = {"orientation": "h", "width": 0.9, "textposition": "inside", "insidetextanchor": "middle", "textangle": 0}
    bar = go.Bar(
        base=[boxes[i].x for i in chosen],
        x=[boxes[i].wide - 1 for i in chosen],
        y=[boxes[i].line for i in chosen],
        text=[labels.escape(boxes[i].text) for i in chosen],
        insidetextfont={"family": _MONO, "size": size},
        hovertext=[hover[i] for i in chosen],
        hoverinfo="text",
        constraintext="none",
        **fixed,
    )
    return bar.update(marker_line_width=0).update({"showlegend": False} | more)


def _marker(colours: dict[str, object], size: int, top: float) -> dict[str, object]:
    """The scale, and its bar under the text."""
    where = {"orientation": "h", "x": 0, "xanchor": "left", "y": top, "yref": "container", "yanchor": "top", "len": _BAR}
    dress = {"thickness": 10, "outlinewidth": 0, "nticks": 5, "tickfont": {"size": size}, "xpad": 0, "ypad": 0}
    scaled = {"colorscale": colours["colorscale"], "cmin": colours["zmin"], "cmax": colours["zmax"]}
    return {**scaled, "showscale": True, "colorbar": {"exponentformat": "e", **where, **dress}}
