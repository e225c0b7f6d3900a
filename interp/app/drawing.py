"""The figure of a choice, and which cell of the result a click on it means.

>>> figure = draw(effects, choices.resolve([{"": effects}], {}).choice)                  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from interp import effects as fx
from interp import views
from interp.app.choices import (
    ALL,
    ATTENTION,
    CIRCUIT,
    CURVE,
    DLA,
    EDGES,
    LENS,
    MAP,
    PATHS,
    TOKENS,
    Choice,
    array,
    is_sweep,
    of_one,
)
from interp.errors import InputError
from interp.views import labels

DARK, LIGHT = "plotly_dark", "plotly_white"


def draw(ds: xr.Dataset, choice: Choice, *, template: str = LIGHT, width: int = views.PAGE) -> go.Figure:
    """What :mod:`interp.views` draws of the choice.

    Raises:
        InputError: the choice is the table of variables, which is no figure.
        UserError: whatever the view refuses.
    """
    dress: dict[str, Any] = {"template": template, "width": width}
    number = 0 if choice.example == ALL else int(choice.example)
    if choice.view == MAP:
        if is_sweep(ds):
            one = of_one(ds, choice)
            return views.heatmap(one, choice.quantity, x=choice.x, y=choice.y, **dress)
        return views.heatmap(array(ds, choice), x=choice.x, y=choice.y, **dress)
    if choice.view == CURVE:
        if is_sweep(ds):
            return views.curve(of_one(ds, choice), choice.quantity, x=choice.x, **dress)
        return views.curve(array(ds, choice), x=choice.x, **dress)
    if choice.view == EDGES:
        return views.head_to_head(senders_by_receivers(ds, choice), **dress)
    if choice.view in (CIRCUIT, PATHS):
        draw_graph = views.circuit if choice.view == CIRCUIT else views.paths
        return draw_graph(ds, choice.quantity, metric=choice.metric, **dress)
    if choice.view == TOKENS:
        one = of_one(ds, choice)
        return views.tokens(one, choice.quantity, example=None if choice.example == ALL else number, **dress)
    if choice.view == LENS:
        return views.lens(ds, choice.quantity or "prob", example=number, template=template)
    if choice.view == ATTENTION:
        layer, head = (ds[axis].values.tolist()[i] for axis, i in _layer_and_head(ds, choice).items())
        return views.attention(ds, example=number, layer=layer, head=head, **dress)
    if choice.view == DLA:
        return views.dla(ds, example=None if choice.example == ALL else number, **dress)
    raise InputError("the variables of a result are a table and no figure; choose another drawing")


def _layer_and_head(ds: xr.Dataset, choice: Choice) -> dict[str, int]:
    return {axis: choice.at.get(axis, 0) for axis in ("layer", "head")}


def senders_by_receivers(ds: xr.Dataset, choice: Choice) -> xr.DataArray:
    """The mean over examples of every edge, ``[sender, receiver]``, NaN where there is no edge."""
    one = of_one(ds, choice)
    mean = fx.value_of(one, choice.quantity or "effect")
    flat = pd.DataFrame({name: one[name].values for name in ("sender", "receiver")} | {"mean": mean.values})
    table = flat.pivot_table(index="sender", columns="receiver", values="mean", sort=False, dropna=False)
    table = table.reindex(index=list(dict.fromkeys(flat["sender"])), columns=list(dict.fromkeys(flat["receiver"])))
    coords = {"sender": table.index.tolist(), "receiver": table.columns.tolist()}
    name = f"{choice.quantity} of {choice.metric}"
    return xr.DataArray(table.to_numpy(), coords, ("sender", "receiver"), name, dict(ds.attrs))


def clicked(ds: xr.Dataset, choice: Choice, point: Mapping[str, Any], figure: Mapping[str, Any]) -> dict[str, int] | None:
    """The place of a click along every axis that is not an example; None where a click means no cell.

    Args:
        ds: what is drawn.
        choice: how.
        point: of plotly's click data.
        figure: as it is shown; of a curve, whose traces are lines and bands.
    """
    if choice.view == EDGES:
        pairs = list(zip(ds["sender"].values.tolist(), ds["receiver"].values.tolist(), strict=True))
        pair = (_unescaped(point.get("y")), _unescaped(point.get("x")))
        return {"cell": pairs.index(pair)} if pair in pairs else None
    if choice.view == LENS:
        return _within(ds, {"position": point.get("x"), "layer": point.get("y")})
    if choice.view == MAP and choice.x and choice.y:
        return _within(ds, {choice.x: point.get("x"), choice.y: point.get("y")} | choice.at)
    if choice.view == CURVE and choice.x:
        lines = [i for i, trace in enumerate(figure.get("data", ())) if "markers" in str(trace.get("mode", ""))]
        curve = point.get("curveNumber")
        if curve not in lines:
            return None
        line = {choice.y: lines.index(curve)} if choice.y else {}
        return _within(ds, {choice.x: point.get("pointNumber")} | line | choice.at)
    return None


def _within(ds: xr.Dataset, place: Mapping[str, Any]) -> dict[str, int] | None:
    """The place, unless the browser said what there is not."""
    inside = all(isinstance(i, int) and axis in ds.sizes and 0 <= i < ds.sizes[axis] for axis, i in place.items())
    return dict(place) if inside else None


def _unescaped(text: object) -> str:
    return str(text).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def share_colours(figures: Sequence[go.Figure]) -> None:
    """Give maps of the same kind one scale of colours, which reaches to the largest number in any of them."""
    maps = [figure.data[0] for figure in figures if figure.data and figure.data[0].type == "heatmap"]
    if 0 < len(maps) == len(figures) and all(drawn.zmin is not None for drawn in maps):
        ends = {"zmin": min(drawn.zmin for drawn in maps), "zmax": max(drawn.zmax for drawn in maps)}
        for drawn in maps:
            drawn.update(ends)


def of_difference(found: xr.DataArray, choice: Choice, template: str, width: int) -> go.Figure:
    """The map or curve of :func:`interp.app.comparing.difference`."""
    quantity = str(choice.quantity or "effect")
    title = f"A − B: {labels.quantity_name(quantity, choice.metric) if choice.metric else labels.escape(quantity)}"
    if choice.view == MAP:
        return views.heatmap(found, x=choice.x, y=choice.y, title=title, template=template, width=width)
    return views.curve(found, x=choice.x, title=title, template=template, width=width)
