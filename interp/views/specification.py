"""The specification curve: what one component is worth in every analysis of a multiverse, and which choices each one made.

    >>> views.specification_curve(interp.multiverse(model, pairs, heads), layer=9, head=6)             # doctest: +SKIP

Simonsohn, Simmons and Nelson, "Specification curve analysis" (2020). Analyses stand from left to right in the order of the
component's number, in standard deviations from the mean over components; filled points are those in which it matters. Below,
a mark in the row of every choice that an analysis made, and in how many of the analyses with that choice the component matters.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.effects import attrs_of, unread
from interp.errors import InputError, UnknownNameError
from interp.views.colours import COLOURS, GREY, ink
from interp.views.labels import escape
from interp.views.layout import PAGE, Heading

ANALYSIS = "analysis"
_CURVE, _ROW, _GAP, _FOOT = 190, 15, 16, 46
_BAR = 44
"""Pixels beside the rows for how many of their analyses the component matters in."""


def specification_curve(
    found: xr.Dataset,
    *,
    title: str | None = None,
    width: int = PAGE,
    template: str = "plotly_white",
    **component: int | str,
) -> go.Figure:
    """The curve of one component.

    Args:
        found: what :func:`interp.multiverse` returns.
        title: in place of the one made here.
        width: in pixels; ``views.PAGE`` and ``views.COLUMN`` are the widths of print.
        template: a plotly template.
        **component: its place along every axis, ``layer=9, head=6``; by default the one that matters most often.

    Raises:
        InputError: no multiverse.
        UnknownNameError: an axis that it does not have, or a place that is none.
    """
    axes = _axes(found)
    place = _place(found, axes, component)
    one = found.sel(place)
    z, matters = one["z"].values, one["matters"].values
    order = np.argsort(z, kind="stable")
    rows = _rows(one)
    ranks = np.empty(len(z), dtype=int)
    ranks[order] = np.arange(1, len(z) + 1)
    share = float(matters.mean())
    attrs = attrs_of(found)
    name = ", ".join(f"{axis} {value}" for axis, value in place.items()) or "the only component"
    site = f" of {attrs['site']}" if attrs.get("site") else ""
    heading = Heading(
        title or f"{_called(place) or name}: matters in {matters.sum()} of {len(z)} analyses ({share:.0%})",
        escape(" · ".join(str(word) for word in (f"{name}{site}", attrs.get("model"), attrs.get("task")) if word)),
        width,
    )
    height = heading.height + _CURVE + _GAP + _ROW * len(rows) + _FOOT
    words = [f"{choice}: {level}" for choice, level, _ in rows]
    left = min(int(0.45 * width), int(heading.glyph * max(map(len, words))) + 12)
    drawn = height - heading.height - _FOOT
    below = _ROW * len(rows) / drawn
    colours = {True: COLOURS[0], False: COLOURS[1]}
    figure = go.Figure()
    hover = _hover(one)
    bound = float(attrs.get("deviations", 2.0))
    for positive in (True, False):
        for filled in (True, False):
            own = (z >= 0) == positive
            own &= matters == filled
            if own.any():
                symbol = "circle" if filled else "circle-open"
                figure.add_scatter(
                    x=ranks[own], y=z[own], mode="markers", marker={"size": 4, "symbol": symbol, "color": colours[positive]},
                    customdata=hover[own], hovertemplate="%{customdata}<extra></extra>", showlegend=False,
                )  # fmt: skip
    for level in {bound, -bound, 0.0}:
        figure.add_hline(y=level, line={"color": GREY, "width": 1, "dash": "solid" if level == 0 else "dot"}, layer="below")
    for number, (_, _, own) in enumerate(rows):
        for filled, shade in ((False, GREY), (True, ink(template))):
            marked = own & (matters == filled)
            figure.add_scatter(
                x=ranks[marked], y=np.full(int(marked.sum()), number), yaxis="y2", mode="markers", showlegend=False,
                marker={"size": 7, "symbol": "line-ns-open", "color": shade, "opacity": 1 if filled else 0.45},
                customdata=hover[marked], hovertemplate="%{customdata}<extra></extra>",
            )  # fmt: skip
    layout: dict[str, Any] = heading.layout(height, template, left=left, right=_BAR + 8, above=heading.height, below=_FOOT)
    figure.update_layout(
        layout,
        xaxis={
            "title": {"text": "analyses, by the component's number", "font": {"size": heading.size}},
            "range": [0, len(z) + 1], "anchor": "y2", "zeroline": False,
        },
        yaxis={"title": {"text": "SD from the mean", "font": {"size": heading.size}}, "domain": [below + _GAP / drawn, 1],
               "zeroline": False},
        yaxis2={
            "domain": [0, below], "range": [len(rows) - 0.5, -0.5], "tickmode": "array", "zeroline": False, "showgrid": False,
            "tickvals": list(range(len(rows))), "ticktext": [escape(word) for word in words],
        },
    )  # fmt: skip
    for number, (_, _, own) in enumerate(rows):
        figure.add_annotation(
            x=1, xref="paper", xanchor="left", y=number, yref="y2", yanchor="middle", showarrow=False, xshift=6,
            text=f"{matters[own].mean():.0%}", font={"size": heading.size - 1},
        )  # fmt: skip
    return figure


def _axes(found: Any) -> list[str]:
    """The axes of the components."""
    if not isinstance(found, xr.Dataset) or not {"z", "matters", "share"} <= set(found.data_vars) or ANALYSIS not in found.dims:
        raise InputError(
            f"found is a {type(found).__name__}; expected what interp.multiverse(…) returns, with z, matters and share by "
            f"analysis{unread(found)}"
        )
    return [str(dim) for dim in found["z"].dims if dim != ANALYSIS]


def _place(found: xr.Dataset, axes: list[str], component: dict[str, Any]) -> dict[Hashable, Any]:
    for axis, value in component.items():
        if axis not in axes:
            raise UnknownNameError("axis", axis, axes)
        if value not in found[axis].values.tolist():
            raise UnknownNameError(axis, value, map(str, found[axis].values.tolist()))
    left = found.sel(dict(component))
    rest = [axis for axis in axes if axis not in component]
    best = left["share"].argmax(rest) if rest else {}
    assert isinstance(best, dict)
    chosen = {axis: found[axis].values.tolist()[int(best[axis])] for axis in rest}
    return {axis: component.get(axis, chosen.get(axis)) for axis in axes}


def _rows(one: xr.Dataset) -> list[tuple[str, str, np.ndarray[Any, Any]]]:
    """Every choice that some analyses made and others did not, with the analyses that made it."""
    found = []
    for name, values in one.coords.items():
        if values.dims != (ANALYSIS,) or values.dtype.kind not in "OUT":
            continue
        levels = list(dict.fromkeys(values.values.tolist()))
        found += [(str(name), str(level), values.values == level) for level in levels if len(levels) > 1]
    return found


def _hover(one: xr.Dataset) -> np.ndarray[Any, Any]:
    """Each analysis in words."""
    choices = {str(name): values.values for name, values in one.coords.items() if values.dims == (ANALYSIS,)}
    lines = []
    for number, (score, z) in enumerate(zip(one["score"].values, one["z"].values, strict=True)):
        said = "<br>".join(
            f"{name}{'=' if name == 'n' else ': '}{escape(str(values[number]))}" for name, values in choices.items()
        )
        lines.append(f"{z:.2f} SD, {score:.3g}<br>{said}")
    return np.array(lines, dtype=object)


def _called(place: dict[Hashable, Any]) -> str:
    """``L9H6``."""
    short = "".join(f"{letter}{place[axis]}" for letter, axis in (("L", "layer"), ("H", "head")) if axis in place)
    others = [f"{axis} {value}" for axis, value in place.items() if axis not in ("layer", "head")]
    return ", ".join([part for part in (short, *others) if part])
