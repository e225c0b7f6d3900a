"""All that fits a result, ready to be drawn: what a report shows of it when nobody says more.

>>> drawn = {shows: draw() for shows, draw in fitting(effects).items()}                # doctest: +SKIP
>>> list(drawn)                                                                        # doctest: +SKIP
['logit_diff: layer by position', 'logit_diff: tokens']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any

import plotly.graph_objects as go
import xarray as xr

from interp import axes as names
from interp import effects as fx
from interp.views import bands, kinds, together
from interp.views.drawing import draw, draw_several
from interp.views.kinds import ATTENTION, COMPARE, CURVE, DLA, GATES, IIA, LENS, MAP, PLAIN, SAYS, TOKENS
from interp.views.lines import MOST

Draw = Callable[..., go.Figure]


def fitting(results: xr.Dataset | xr.DataTree | Mapping[str, xr.Dataset]) -> dict[str, Draw]:
    """The views of a result, best first, by what each shows; one is drawn by calling it, with ``width`` and ``template``.

    Which they are, :mod:`interp.views.kinds` says. Those made for a kind of result show it whole; of any other every metric or
    variable is drawn as a map where it has two axes, with a slider for a third and the last place of further ones, as a curve
    where there is a line for every place, and as tokens at the cell of largest effect.

    Args:
        results: a dataset; of a tree or of several results by name, what draws them together is meant.
    """
    if isinstance(results, xr.Dataset):
        return _of_effects(results) if fx.is_effects(results) else _of_arrays(results)
    if not isinstance(results, xr.DataTree):
        bands.named(results)
    return _of_several(fx.families(results) if isinstance(results, xr.DataTree) else results)


def _of_effects(ds: xr.Dataset) -> dict[str, Draw]:
    found: dict[str, Draw] = {}
    for metric in together.metrics([ds]):
        for view in kinds.of_one(ds):
            if view not in PLAIN:
                found[f"{metric}: {SAYS[view]}"] = partial(draw, ds, view, metric=metric)
            else:
                found |= _plain(ds, view, metric, metric=metric)
    return found


def _of_arrays(ds: xr.Dataset) -> dict[str, Draw]:
    found: dict[str, Draw] = {}
    for view in kinds.of_one(ds):
        if view in (LENS, ATTENTION, DLA, GATES, IIA):
            found[SAYS[view]] = partial(draw, ds, view)
        elif view not in PLAIN:
            found |= {f"{v}: {SAYS[view]}": partial(draw, ds, view, quantity=v) for v in kinds.variables(ds, view)}
    if "by_head" in ds:
        found["contribution of heads"] = partial(draw, ds, MAP, quantity="by_head")
    if found:
        return found
    each = {variable: None for view in PLAIN for variable in kinds.variables(ds, view)}
    for variable in each:
        for view in (view for view in PLAIN if variable in kinds.variables(ds, view)):
            found |= _plain(ds, view, variable, quantity=variable)
    return found


def _plain(ds: xr.Dataset, view: str, called: str, **options: Any) -> dict[str, Draw]:
    """A map, a curve or tokens of a metric or a variable; nothing where a curve would have more lines than can be read."""
    variable = options.get("quantity")
    along = kinds.swept(ds, view, variable)
    long = [axis for axis in along if ds.sizes[axis] > 1]
    if view == TOKENS:
        at = kinds.opening(ds, along, options.get("metric"))
        return {f"{called}: tokens": partial(draw, ds, view, at=at, example=kinds.opening_example(ds), **options)}
    if not long or (view == MAP and len(along) < 2) or long == [names.CELL]:
        return {}
    x, y = kinds.usual(ds, view, along)
    if view == CURVE:
        if prod(ds.sizes[axis] for axis in long if axis not in (x, names.SEED)) > kinds.LINES:
            return {}
        at = {axis: 0 for axis in along if axis != x and axis not in long}
        return {f"{called}: by {x}": partial(draw, ds, view, x=x, at=at, **options)}
    spare = [axis for axis in long if axis not in (x, y)]
    at = {axis: ds.sizes[axis] - 1 for axis in spare[1:]}
    slider = spare[0] if spare else None
    return {f"{called}: {y} by {x}": partial(draw, ds, view, x=x, y=y, slider=slider, at=at, **options)}


def _of_several(results: Mapping[str, xr.Dataset]) -> dict[str, Draw]:
    every = list(results.values())
    found: dict[str, Draw] = {}
    for view in together.of_several(results):
        each: list[dict[str, Any]] = [{}]
        if all(map(fx.is_effects, every)):
            each = [{"metric": metric} for metric in together.metrics(every)]
        elif view in (COMPARE, CURVE):
            each = [{"quantity": variable} for variable in together.shared_variables(every, view)]
        for options in each:
            called = "".join(f"{word}: " for word in options.values())
            found |= (
                _lines(results, called, options)
                if view == CURVE
                else {f"{called}{SAYS[view]}": partial(draw_several, results, view, **options)}
            )
    return found


def _lines(results: Mapping[str, xr.Dataset], called: str, options: Mapping[str, Any]) -> dict[str, Draw]:
    """A line for every place of each result; nothing where these are more than can be told apart."""
    variable = options.get("quantity")
    x = together.shared_axes(list(results.values()), variable)[0]
    many, at = 0, {}
    for name, ds in results.items():
        rest = [axis for axis in kinds.swept(ds, CURVE, variable) if axis != x]
        many += prod(ds.sizes[axis] for axis in rest if axis != names.SEED)
        at[name] = {axis: 0 for axis in rest if ds.sizes[axis] == 1}
    return {f"{called}by {x}": partial(draw_several, results, CURVE, x=x, at=at, **options)} if many <= MOST else {}
