"""The figure of a choice: of one result, of two or more together, or of a difference.

>>> figure = draw(effects, choices.resolve([{"": effects}], {}).choice)                  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import xarray as xr

from interp import views
from interp.app import choices
from interp.app.choices import ALL, TABLE, Choice, across
from interp.errors import InputError, UnknownNameError
from interp.views import drawing, labels
from interp.views.kinds import LENS, MAP

DARK, LIGHT = "plotly_dark", "plotly_white"


def draw(ds: xr.Dataset, choice: Choice, *, template: str = LIGHT, width: int = views.PAGE) -> go.Figure:
    """What :mod:`interp.views` draws of the choice.

    Raises:
        InputError: the choice is the table of variables, which is no figure.
        UserError: whatever the view refuses.
    """
    if choice.view == TABLE:
        raise InputError("the variables of a result are a table and no figure; choose another drawing")
    dress: dict[str, Any] = {"template": template} | ({"width": width} if choice.view != LENS else {})  # as wide as its words
    return drawing.draw(ds, choice.view, **_shared(choice), y=choice.y, example=number(choice), at=choice.at, **dress)


def together(results: Mapping[str, xr.Dataset], choice: Choice, *, template: str = LIGHT, width: int = views.PAGE) -> go.Figure:
    """One figure of several results; axes that are not drawn stand at the same place in each.

    Raises:
        UnknownNameError: a result that has no such place.
        UserError: whatever the view refuses.
    """
    first = next(iter(results.values()))
    at = {name: across(first, ds, choice.at) for name, ds in results.items()}
    for name, places in at.items():
        if lacking := [axis for axis in choice.at if axis not in places and axis in results[name].dims]:
            axis, known = lacking[0], choices.labels(results[name], lacking[0])
            raise UnknownNameError(axis, choices.labels(first, axis)[choice.at[axis]], known, f"of {name}")
    return drawing.draw_several(results, choice.kind, **_shared(choice), at=at, template=template, width=width)


def number(choice: Choice) -> int | None:
    """The example that is drawn alone."""
    return None if choice.example == ALL else int(choice.example)


def _shared(choice: Choice) -> dict[str, Any]:
    return {"metric": choice.metric, "quantity": choice.quantity, "x": choice.x}


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
