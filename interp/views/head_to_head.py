"""A map of heads by heads: how much each receiver reads of what each sender writes.

    >>> from interp import views
    >>> views.head_to_head(interp.weights.composition(model, "k"))                             # doctest: +SKIP

Senders run from bottom to top, receivers from left to right, both in the order of the network, so that what is before what is
below the diagonal of layers. Pairs without a number (a sender that is not before the receiver) are grey. Colours are sequential
where no number is negative, and otherwise red below 0 and blue above.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from interp import effects as fx
from interp.errors import ShapeMismatchError
from interp.views import labels
from interp.views import prompts as of
from interp.views.colours import DIVERGING, SEQUENTIAL
from interp.views.layout import PAGE, dress

NONE = "#e2e2e2"
"""Of pairs without a number; no colour of the scales."""
_WHY = "not before the receiver"
_PAIR = "<b>%{y} → %{x}</b>"


def head_to_head(
    scores: xr.DataArray,
    *,
    title: str | None = None,
    width: int = PAGE,
    limit: float | None = None,
    floor: float | None = None,
    template: str = "plotly_white",
) -> go.Figure:
    """A map of one number for every pair of heads.

    Args:
        scores: of two axes with the names of heads, the sender's first; NaN where there is no number.
        title: in place of the one made from provenance.
        width: in pixels; ``views.PAGE`` and ``views.COLUMN`` are the widths of print.
        limit: the value at the end of the colours, in place of the largest one; beyond it colours saturate.
        floor: the value at the beginning of a sequential scale, in place of 0, which leaves the colours to what stands out from
            a background that all pairs have.
        template: a plotly template, e.g. ``"plotly_dark"``.

    Raises:
        ShapeMismatchError: another number of axes, or no pair.
    """
    of.check(scores, "scores", xr.DataArray)
    if scores.ndim != 2 or not scores.size:
        sizes = ", ".join(f"{axis} ({n})" for axis, n in scores.sizes.items()) or "none"
        raise ShapeMismatchError(f"a map of heads by heads has two axes, senders and receivers; this array has {sizes}")
    rows, columns = (_ticks(scores, str(axis)) for axis in scores.dims)
    values = scores.values.astype(np.float32)
    missing, name = np.isnan(values), labels.escape(labels.name_of(scores))
    grid = {"x": columns.full, "y": rows.full, "xgap": 0, "ygap": 0, "hoverongaps": False}
    figure = go.Figure(
        go.Heatmap(
            z=values,
            customdata=_ranks(values),
            hovertemplate=f"{_PAIR} %{{z:.3g}}<br>{name}, rank %{{customdata:,}} of {(~missing).sum():,} pairs<extra></extra>",
            colorbar={"title": {"text": name, "side": "right"}},
            **grid,
            **_colours(values, limit, floor),
        )
    )
    if missing.any():
        flat = {"colorscale": [[0, NONE], [1, NONE]], "zmin": 0, "zmax": 1, "showscale": False}
        shown = {"name": _WHY, "showlegend": True, "hovertemplate": f"{_PAIR} {_WHY}<extra></extra>"}
        figure.add_trace(go.Heatmap(z=np.where(missing, np.float32(1), np.float32(np.nan)), **shown, **flat, **grid))
    dress(figure, title or _headline(scores), _provenance(scores), columns, rows, width=width, template=template)
    for axis, ticks in ((figure.layout.xaxis, columns), (figure.layout.yaxis, rows)):
        axis.update(type="category", tickvals=[ticks.full[i] for i in axis.tickvals])  # so that the hover has every name
    return figure


def _ticks(scores: xr.DataArray, axis: str) -> labels.Ticks:
    names = scores[axis].values.tolist() if axis in scores.coords else range(scores.sizes[axis])
    full = [labels.escape(name) for name in names]
    return labels.Ticks(labels.escape(axis), full, [""] * len(full), _heads(scores, f"{axis}_layer"))


def _heads(scores: xr.DataArray, layer: str) -> int:
    """How many heads a layer has; 1 where that is not known, or layers differ."""
    if layer not in scores.coords:
        return 1
    _, counts = np.unique(scores[layer].values, return_counts=True)
    return int(counts[0]) if len(set(counts.tolist())) == 1 else 1


def _ranks(values: NDArray[np.float32]) -> NDArray[np.unsignedinteger]:
    """How many numbers are as large, from 1 for the largest; 0 where there is none."""
    known = np.sort(values[np.isfinite(values)])
    ranks = len(known) - np.searchsorted(known, values, side="right") + 1
    return np.where(np.isnan(values), 0, ranks).astype(np.uint16 if len(known) < 1 << 16 else np.uint32)


def _colours(values: NDArray[np.float32], limit: float | None, floor: float | None) -> dict[str, object]:
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() < 0:
        end = limit or float(np.abs(finite).max())
        return {"colorscale": DIVERGING, "zmin": -end, "zmax": end}
    end = limit or (float(finite.max()) if finite.size else 0.0) or 1.0
    return {"colorscale": SEQUENTIAL, "zmin": floor or 0.0, "zmax": end}


def _headline(scores: xr.DataArray) -> str:
    sender, receiver = (str(axis) for axis in scores.dims)
    return labels.escape(f"{labels.name_of(scores)}, {sender} by {receiver}")


def _provenance(scores: xr.DataArray) -> str:
    attrs = fx.attrs_of(scores)
    words = [str(attrs["model"])] if attrs.get("model") else []
    words += [f"stream {attrs['stream']}"] if attrs.get("stream") not in (None, "main") else []
    if "fold_norm" in attrs:
        words.append("norms folded in" if attrs["fold_norm"] else "norms left out")
    words.append(f"{int(np.isfinite(scores.values).sum()):,} pairs")
    return labels.escape(" · ".join(words))
