"""Maps of arrays that are no sweep: scores of heads, contributions by head, norms by layer and position.

>>> views.heatmap(interp.weights.copying_score(model))                                    # doctest: +SKIP
>>> views.heatmap(interp.dla(model, pairs), "by_head")                                   # doctest: +SKIP
>>> views.heatmap(interp.attention(model, text).induction)                               # doctest: +SKIP

Of several examples the mean is drawn, with Student's interval in the hover.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from interp import axes as names
from interp import effects as fx
from interp import stats
from interp.errors import InputError, UnknownNameError
from interp.views import labels
from interp.views import prompts as of
from interp.views.colours import scale
from interp.views.layout import dress
from interp.views.slider import with_slider

Array = TypeVar("Array", xr.DataArray, xr.Dataset)


@dataclass(frozen=True, slots=True)
class _Map:
    """One map ``[y, x]`` with what its hover and its line under the title say."""

    array: xr.DataArray
    mean: NDArray[np.floating]
    low: NDArray[np.floating]
    high: NDArray[np.floating]
    n: int
    """Examples; 0 where there is no such axis."""


def of_array(
    results: xr.Dataset | xr.DataArray,
    variable: str | None,
    *,
    metric: str | None,
    x: str | None,
    y: str | None,
    slider: str | None,
    title: str | None,
    width: int,
    limit: float | None,
    template: str,
    level: float,
) -> go.Figure:
    """See :func:`interp.views.heatmap`."""
    array = _named(results, variable)
    if metric is not None:
        array = of_metric(array, metric)
    swept = [str(dim) for dim in array.dims if dim != names.EXAMPLE]
    x, y, array = choose_axes(array, swept, x, y, slider)
    parts = [array.isel({slider: i}) for i in range(array.sizes[slider])] if slider is not None else [array]
    maps = [_laid_out(part, x, y, level) for part in parts]
    colours = scale(np.stack([drawn.mean for drawn in maps]), limit)
    figures = [_drawn(drawn, x, y, colours, title, width, template) for drawn in maps]
    return figures[0] if slider is None else with_slider(figures, slider, array[slider].values.tolist())


def choose_axes(table: Array, swept: Iterable[str], x: str | None, y: str | None, slider: str | None) -> tuple[str, str, Array]:
    """The axes from left to right and from bottom to top; the table without any other but the slider's.

    Raises:
        EffectsError: there are fewer or more; the message says what to select.
        UnknownNameError: an axis that is not there.
    """
    swept = tuple(swept)
    for axis in (x, y, slider):
        if axis is not None and axis not in swept:
            raise UnknownNameError("swept axis", axis, swept)
    asked = {"x": x, "y": y, "slider": slider}
    for axis in swept:
        if len(twice := [word for word, given in asked.items() if given == axis]) > 1:
            raise fx.EffectsError(f"{' and '.join(twice)} are both {axis!r}; a heatmap needs different axes")
    swept = tuple(a for a in swept if a != slider)
    if len(swept) > 2:  # an axis of length 1 is no axis, unless it was asked for
        extra = [a for a in swept if table.sizes[a] == 1 and a not in (x, y)][: len(swept) - 2]
        table = table.isel(dict.fromkeys(extra, 0))
        swept = tuple(a for a in swept if a not in extra)
    if len(swept) != 2:
        sizes = ", ".join(f"{a} ({table.sizes[a]})" for a in swept) or "none"
        spare = [a for a in swept if a not in (x, y)]
        cure = (
            f"select one value of the others, e.g. results.isel({', '.join(f'{a}=0' for a in spare[: len(swept) - 2])})"
            + ("" if slider or len(swept) > 3 else f", or give slider={spare[0]!r}")
            if len(swept) > 2
            else f"sweep a second axis, or draw a line: interp.views.curve(results, x={swept[0]!r})"
            if swept
            else "sweep two axes"
        )
        beside = f" beside slider={slider!r}" if slider else ""
        raise fx.EffectsError(f"a heatmap needs exactly two swept axes{beside}, this result has {len(swept)}: {sizes}; {cure}")
    x = x or next(a for a in reversed(swept) if a != y)
    return x, y or next(a for a in swept if a != x), table


def _named(results: xr.Dataset | xr.DataArray, variable: str | None) -> xr.DataArray:
    """The array that is meant, with the attributes of its result."""
    if isinstance(results, xr.DataArray):
        if variable is not None:
            raise UnknownNameError("quantity", variable, (), "of an array", why="it is one already; leave quantity out")
        return results
    known = [str(name) for name, one in results.data_vars.items() if one.dtype.kind in "fiub"]
    if variable is None:
        maps = [name for name in known if len(set(results[name].dims) - {names.EXAMPLE}) == 2]
        if len(maps) != 1:
            few = ", ".join(map(repr, maps or known)) or "none"
            raise InputError(
                f"of this result {len(maps)} variables have two axes; name what to draw, as in heatmap(results, "
                f"{(maps or known or ['name'])[0]!r}): {few}"
            )
        variable = maps[0]
    if variable not in known:
        raise UnknownNameError("quantity", variable, known, "of this result")
    array = results[variable]
    return array.assign_attrs({**results.attrs, **array.attrs})


def of_metric(results: Array, metric: str) -> Array:
    """What there is of one metric."""
    known = results[names.METRIC].values.tolist() if names.METRIC in results.dims else []
    if metric not in known:
        raise UnknownNameError("metric", metric, known)
    found: Array = results.sel({names.METRIC: metric})
    return found


def _laid_out(array: xr.DataArray, x: str, y: str, level: float) -> _Map:
    if names.EXAMPLE not in array.dims:
        mean = array.transpose(y, x).values.astype(float)
        return _Map(array, mean, mean, mean, 0)
    there = array.dropna(names.EXAMPLE, how="all")  # some scores are not defined of every prompt
    there = there if there.sizes[names.EXAMPLE] else array
    templates = fx.clusters_of(there).labels
    found = stats.t_interval(there.transpose(y, x, names.EXAMPLE).values.astype(float), clusters=templates, level=level)
    return _Map(there, *found[:3], there.sizes[names.EXAMPLE])


def _drawn(drawn: _Map, x: str, y: str, colours: dict[str, object], title: str | None, width: int, template: str) -> go.Figure:
    array, name = drawn.array, labels.escape(labels.name_of(drawn.array))
    columns, rows = ticks_of(array, x), ticks_of(array, y)
    figure = go.Figure(
        go.Heatmap(
            z=drawn.mean,
            x=np.arange(len(columns.full)),
            y=np.arange(len(rows.full)),
            text=_hover(drawn, x, y),
            hoverinfo="text",
            hoverongaps=False,
            colorbar={"title": {"text": name, "side": "right"}},
            **colours,
        )
    )
    head = title or f"{name}, {labels.escape(y)} by {labels.escape(x)}"
    return dress(figure, head, _under(drawn, x, y), columns, rows, width=width, template=template)


def ticks_of(array: xr.DataArray | xr.Dataset, axis: str) -> labels.Ticks:
    """Labels of an axis; of positions with the tokens there, where they are known."""
    called = (f"{axis.removesuffix(names.POSITION)}token", f"input_{axis.removesuffix(names.POSITION)}token")
    words = next((one for one in called if one in array.coords and axis in array[one].dims), None)
    if axis.endswith(names.POSITION) and words is not None:
        return of.ticks_of_all(array, axis, words, f"{axis} and token")
    full = [labels.escape(value) for value in array[axis].values.tolist()]
    return labels.Ticks(labels.escape(axis), full, [""] * len(full))


def _hover(drawn: _Map, x: str, y: str) -> NDArray[np.object_]:
    """``L9H6 0.31 ± 0.02 (n=5)``: a cell, and its mean with the interval; four digits of one number."""
    array, found = drawn.array, np.empty(drawn.mean.shape, object)
    fixed = {str(a): array[a].item() for a in names.SWEPT if a in array.coords and array[a].ndim == 0}
    columns, n = array[x].values.tolist(), labels.of_examples(array) if drawn.n else ""
    for i, row in enumerate(array[y].values.tolist()):
        for j, column in enumerate(columns):
            mean, low, high = drawn.mean[i, j], drawn.low[i, j], drawn.high[i, j]
            number = f"{labels.interval(mean, low, high)} ({n})" if drawn.n > 1 else f"{mean:.4g}"
            cell = labels.escape(fx.cell_name(fixed | {y: row, x: column}))
            found[i, j] = "" if np.isnan(mean) else f"<b>{cell}</b> {number}"
    return found


def _under(drawn: _Map, x: str, y: str) -> str:
    """What stands under the title: the model, how many examples, the prompt of one, and what was selected."""
    array = drawn.array
    words = [labels.of_examples(array)] if drawn.n else []
    if drawn.n == 1:
        one = array.isel({names.EXAMPLE: 0})
        words += [of.said(one), of.compared(one)]
    elif not drawn.n:
        words += [of.said(array), of.compared(array)]
    words += labels.selected(array)
    attrs: dict[Hashable, Any] = array.attrs
    if "fold_norm" in attrs:
        words.append("norms folded in" if attrs["fold_norm"] else "norms left out")
    return of.under(array, *words)
