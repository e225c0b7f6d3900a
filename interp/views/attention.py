"""One head's attention pattern at a time, tokens on both axes, with a menu of layers and a slider of heads.

>>> views.attention(interp.attention(model, "one two three one two"))           # doctest: +SKIP
>>> views.attention(ds, layer=9, head=6)                                     # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp import axes as names
from interp.errors import HeadOutOfRangeError
from interp.views import prompts as of
from interp.views.colours import SEQUENTIAL
from interp.views.labels import escape
from interp.views.layout import PAGE, dress, make_room

_MOST = 4_000_000
"""Numbers in one figure: about 20 MB of HTML."""
_WORDS = 160
"""Tokens up to which the hover of every cell has both of them."""
_FEW = 5
"""Rows beside which a long name has no room."""
_MENU, _SLIDER = 34, 82
"""Pixels that they take."""


def attention(
    results: xr.Dataset,
    *,
    example: int = 0,
    layer: int | None = None,
    head: int | None = None,
    title: str | None = None,
    width: int = PAGE,
    template: str = "plotly_white",
) -> go.Figure:
    """Rows are what attends, columns what is attended to; colours from 0 to 1.

    Args:
        results: with ``pattern``, from :func:`interp.attention` or :func:`interp.cache`.
        example: its number.
        layer: one alone; by default a menu selects it.
        head: one alone; by default a slider selects it.
        title: in place of the one made here.
        width: in pixels.
        template: a plotly template, e.g. ``"plotly_dark"``.

    Raises:
        UnknownNameError: a result without patterns.
        PositionError: an example that there is not.
        HeadOutOfRangeError: a layer or head that is not in the result, or more of them than one figure can hold.
    """
    of.require(results, "views.attention", "pattern")
    table = of.real(of.one(results, example), "pattern")
    table = table.isel({names.SOURCE_POSITION: np.flatnonzero(table["pattern"].notnull().any(_others(table)).values)})
    table = _picked(_picked(table, names.LAYER, layer), names.HEAD, head)
    pattern = table["pattern"].transpose(names.LAYER, names.HEAD, names.POSITION, names.SOURCE_POSITION).values
    if pattern.size > _MOST:
        raise HeadOutOfRangeError(
            f"{pattern.shape[0]} layers × {pattern.shape[1]} heads over {pattern.shape[2]} tokens are {pattern.size / 1e6:.0f} "
            f"million numbers, too many for one figure; select with layer={int(table[names.LAYER][0])}"
            + (f", head={int(table[names.HEAD][0])}" if pattern[0].size > _MOST else "")
        )
    attends = "position that attends" if table.sizes[names.POSITION] > _FEW else "attends"
    rows = of.ticks(table[names.POSITION].values.tolist(), _words(table, "token"), attends)
    columns = of.ticks(
        table[names.SOURCE_POSITION].values.tolist(), _words(table, "source_token"), "position that is attended to"
    )
    z = np.round(pattern.astype(float), 4)
    words = len(rows.full) <= _WORDS
    figure = go.Figure(
        go.Heatmap(
            z=z[0, 0],
            x=np.arange(len(columns.full)),
            y=np.arange(len(rows.full)),
            zmin=0,
            zmax=1,
            colorscale=SEQUENTIAL,
            colorbar={"title": {"text": "attention", "side": "right"}},
            customdata=[[f"{r} → {c}" for c in columns.full] for r in rows.full] if words else None,
            hovertemplate=("%{customdata}" if words else "%{y} → %{x}") + "<br>%{z:.4f}<extra></extra>",
        )
    )
    layers, heads = (table[axis].values.tolist() for axis in (names.LAYER, names.HEAD))
    alone = f" of L{layers[0]}H{heads[0]}" if len(layers) == len(heads) == 1 else ""
    named = title or f"attention pattern{alone}"
    dress(figure, named, of.under(results, of.said(table)), columns, rows, width=width, template=template, square=True)
    figure.update_yaxes(autorange="reversed")
    return _selecting(figure, z, layers, heads, template)


def _others(table: xr.Dataset) -> list[Any]:
    return [dim for dim in table["pattern"].dims if dim != names.SOURCE_POSITION]


def _words(table: xr.Dataset, name: str) -> list[str] | None:
    return table[name].values.tolist() if name in table.coords else None


def _picked(table: xr.Dataset, axis: str, number: int | None) -> xr.Dataset:
    """One layer or head of a result, along an axis of length 1; or all of them."""
    if axis not in table.dims:
        table = table.expand_dims(axis) if axis in table.coords else table.expand_dims({axis: [0]})
    if number is None:
        return table
    there = table[axis].values.tolist()
    if number not in there:
        raise HeadOutOfRangeError(f"{axis}={number} is not in this result, which has {axis}s {escape(there)}")
    return table.isel({axis: [there.index(number)]})


def _selecting(figure: go.Figure, z: np.ndarray[Any, Any], layers: list[int], heads: list[int], template: str) -> go.Figure:
    """A menu of layers and a slider of heads, where there are several; the menu brings the slider of its layer."""
    if len(layers) == len(heads) == 1:
        return figure
    menu, slider = len(layers) > 1, len(heads) > 1
    below = figure.layout.margin.b
    make_room(figure, above=_MENU if menu else 0, below=_SLIDER if slider else 0)
    layout = figure.layout
    inner = layout.height - layout.margin.t - layout.margin.b
    size, ground = layout.font.size, "#444" if "dark" in template else "#eee"
    font = {"size": size}

    def sliding(number: int) -> dict[str, Any]:
        steps = [
            {"label": str(head), "method": "restyle", "args": [{"z": [z[number, i].tolist()]}, [0]]}
            for i, head in enumerate(heads)
        ]
        shown = {"prefix": f"L{layers[number]}H", "font": {"size": size + 1}, "xanchor": "left"}
        return {
            "active": 0,
            "steps": steps,
            "currentvalue": shown,
            "font": font,
            "len": 1,
            "x": 0,
            "xanchor": "left",
            "y": -below / inner,
            "yanchor": "top",
            "pad": {"t": 0, "b": 0, "l": 0, "r": 0},
            "tickcolor": ground,
        }

    if slider:
        figure.update_layout(sliders=[sliding(0)])
    if menu:
        buttons = [
            {
                "label": f"layer {layer}" if slider else f"L{layer}H{heads[0]}",
                "method": "update",
                "args": [{"z": [z[i, 0].tolist()]}, {"sliders": [sliding(i)]} if slider else {}],
            }
            for i, layer in enumerate(layers)
        ]
        place = {"x": 0, "xanchor": "left", "y": 1 + 6 / inner, "yanchor": "bottom", "pad": {"t": 0, "b": 0, "l": 0, "r": 0}}
        figure.update_layout(updatemenus=[{"type": "dropdown", "active": 0, "buttons": buttons, "font": font, **place}])
    return figure
