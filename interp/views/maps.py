"""Several maps of the same cells, small and in the same colours: what another choice changes.

    >>> found = interp.compare_choices(model, pairs, subject="S2")                                       # doctest: +SKIP
    >>> views.maps(found.maps(metrics=["logit_diff", "prob"]))                                           # doctest: +SKIP

Colours are symmetric about 0 as in :func:`interp.views.heatmap`. A ring is around the cells that are flagged: 2 standard
deviations or more from the mean of their own map.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp import effects as fx
from interp.effects.flagging import flagged
from interp.errors import InputError, ShapeMismatchError
from interp.views import labels
from interp.views.colours import of_text, scale
from interp.views.layout import PAGE, dress, make_room

_LEAST = 140
"""Pixels of width that a map has at least."""


def maps(
    results: Mapping[str, xr.DataArray],
    *,
    x: str | None = None,
    y: str | None = None,
    deviations: float = 2.0,
    across: int | None = None,
    limit: float | None = None,
    title: str | None = None,
    width: int = PAGE,
    template: str = "plotly_white",
) -> go.Figure:
    """A map for each of several arrays of two axes, side by side and one under the other.

    Args:
        results: arrays with the same two axes, by the names that stand over them.
        x: the axis from left to right; by default the last one.
        y: the axis from bottom to top; by default the other one.
        deviations: from how many standard deviations on a cell is ringed.
        across: how many stand side by side; by default as many as have room, four at most.
        limit: the value at the end of the colours, in place of the largest one.
        title: in place of the one made here.
        width: in pixels; ``views.PAGE`` and ``views.COLUMN`` are the widths of print.
        template: a plotly template, e.g. ``"plotly_dark"``.

    Raises:
        InputError: no maps, or something else than arrays.
        ShapeMismatchError: an array without two axes, or of other cells than the first.
    """
    first, x, y = _checked(results, x, y)
    what = " or ".join(dict.fromkeys(labels.name_of(one) for one in results.values()))
    drawn = {name: array.transpose(y, x) for name, array in results.items()}
    colours = scale(np.stack([array.values for array in drawn.values()]), limit, signed=True)
    across = across or max(1, min(4, len(drawn), int(width / _LEAST)))
    down = -(-len(drawn) // across)
    figure = go.Figure()
    for number, (name, array) in enumerate(drawn.items(), 1):
        axes = {"xaxis": f"x{number}", "yaxis": f"y{number}"}
        flags = flagged(array, deviations).values
        figure.add_heatmap(
            z=array.values, text=_hover(array, flags), hovertemplate=f"{labels.escape(name)}<br>%{{text}}<extra></extra>",
            showscale=number == 1, colorbar={"title": {"text": what, "side": "right"}}, **colours, **axes,
        )  # fmt: skip
        rows, columns = np.nonzero(flags)
        rings = of_text(array.values[rows, columns], colours)
        figure.add_scatter(
            x=columns, y=rows, mode="markers", showlegend=False, hoverinfo="skip", **axes,
            marker={"symbol": "circle-open", "size": 7, "line": {"width": 1}} | {"color": rings},
        )  # fmt: skip
    head = title or f"{what} by {y} and {x}, under {len(drawn)} choices"
    told = [str(first.attrs[key]) for key in ("model", "task") if key in first.attrs]
    under = " · ".join([*map(labels.escape, told), f"○ {deviations:g} SD or more from the mean of its map"])
    dress(
        figure, head, under, labels.ticks(first.to_dataset(name="value"), x),
        labels.ticks(first.to_dataset(name="value"), y), width=width, template=template, across=across, down=down,
    )  # fmt: skip
    figure.update_xaxes(range=[-0.5, first.sizes[x] - 0.5]).update_yaxes(range=[-0.5, first.sizes[y] - 0.5])
    return _named(figure, list(drawn), across, down, width)


def _checked(results: object, x: str | None, y: str | None) -> tuple[xr.DataArray, str, str]:
    """The first array and the two axes."""
    if not isinstance(results, Mapping) or not results or not all(isinstance(one, xr.DataArray) for one in results.values()):
        raise InputError(
            "results are arrays by name, such as interp.compare_choices(…).maps(), or {'str': interp.recovery(one), …}; got "
            f"{'none' if isinstance(results, Mapping) and not results else type(results).__name__}{fx.unread(results)}"
        )
    first = next(iter(results.values()))
    if first.ndim != 2:
        raise ShapeMismatchError(f"a map has two axes; {next(iter(results))!r} has {first.dims}: select, or take one metric")
    for name, one in results.items():
        if set(one.dims) != set(first.dims) or any(not np.array_equal(one[d].values, first[d].values) for d in first.dims):
            raise ShapeMismatchError(
                f"maps are of the same cells; {name!r} has {dict(one.sizes)}, the first {dict(first.sizes)}"
            )
    down, along = (str(dim) for dim in first.dims)
    if x is None:
        x = along if y != along else down
    if y is None:
        y = down if x != down else along
    if {x, y} != {down, along}:
        raise ShapeMismatchError(f"x={x!r} and y={y!r}; these maps have the axes {down!r} and {along!r}")
    return first, x, y


def _hover(array: xr.DataArray, flags: np.ndarray) -> np.ndarray:
    rows, columns = array.dims
    told = [
        [
            f"{fx.cell_name({rows: array[rows].values[i], columns: array[columns].values[j]})} {array.values[i, j]:.3g}"
            + (", flagged" if flags[i, j] else "")
            for j in range(array.shape[1])
        ]
        for i in range(array.shape[0])
    ]
    return np.array(told, dtype=object)


def _named(figure: go.Figure, says: list[str], across: int, down: int, width: int) -> go.Figure:
    """A name over every map, and no axes where there is none."""
    size = min(figure.layout.font.size, max(7, int(1.6 * (width - 120) / across / max(map(len, says)))))
    make_room(figure, above=int(1.6 * size))
    for number, name in enumerate(says, 1):
        over = {"xref": f"x{number} domain".replace("x1 ", "x "), "yref": f"y{number} domain".replace("y1 ", "y ")}
        figure.add_annotation(
            text=labels.escape(name), x=0, y=1, xanchor="left", yanchor="bottom", showarrow=False, font={"size": size}, **over
        )
    for number in range(len(says) + 1, across * down + 1):
        figure.update_layout({f"xaxis{number}": {"visible": False}, f"yaxis{number}": {"visible": False}})
    return figure
