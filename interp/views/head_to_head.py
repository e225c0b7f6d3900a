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

from interp.errors import ShapeMismatchError
from interp.views import labels
from interp.views.heatmap import DIVERGING, SEQUENTIAL
from interp.views.layout import PAGE, dress

NONE = "#e2e2e2"
"""Of pairs without a number; no colour of the scales."""
_WHY = "not before the receiver"


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
    if scores.ndim != 2 or not scores.size:
        sizes = ", ".join(f"{axis} ({n})" for axis, n in scores.sizes.items()) or "none"
        raise ShapeMismatchError(f"a map of heads by heads has two axes, senders and receivers; this array has {sizes}")
    rows, columns = (_ticks(scores, str(axis)) for axis in scores.dims)
    values = scores.values.astype(float)
    hover = _hover(values, rows, columns, _name(scores))
    grid = {"x": np.arange(len(columns.full)), "y": np.arange(len(rows.full)), "xgap": 0, "ygap": 0}
    missing = np.isnan(values)
    figure = go.Figure(
        go.Heatmap(
            z=values,
            text=np.where(missing, "", hover),
            hoverinfo="text",
            hoverongaps=False,
            colorbar={"title": {"text": labels.escape(_name(scores)), "side": "right"}},
            **grid,
            **_colours(values, limit, floor),
        )
    )
    if missing.any():
        flat = {"colorscale": [[0, NONE], [1, NONE]], "zmin": 0, "zmax": 1, "showscale": False}
        shown = {"name": _WHY, "showlegend": True, "hoverinfo": "text", "text": np.where(missing, hover, "")}
        figure.add_trace(go.Heatmap(z=np.where(missing, 1.0, np.nan), hoverongaps=False, **shown, **flat, **grid))
    return dress(figure, title or _headline(scores), _provenance(scores), columns, rows, width=width, template=template)


def _ticks(scores: xr.DataArray, axis: str) -> labels.Ticks:
    names = scores[axis].values.tolist() if axis in scores.coords else range(scores.sizes[axis])
    full = [labels.escape(name) for name in names]
    return labels.Ticks(labels.escape(axis), full, [""] * len(full))


def _hover(values: NDArray[np.float64], rows: labels.Ticks, columns: labels.Ticks, name: str) -> NDArray[np.object_]:
    """``L0H3 → L1H0 0.213``, and how that compares with all pairs."""
    known = np.sort(values[np.isfinite(values)])
    out = np.empty(values.shape, object)
    for i, sender in enumerate(rows.full):
        ranks = len(known) - np.searchsorted(known, values[i], side="right")
        for j, receiver in enumerate(columns.full):
            pair = f"<b>{sender} → {receiver}</b>"
            number = values[i, j]
            if np.isnan(number):
                out[i, j] = f"{pair} {_WHY}"
            else:
                out[i, j] = f"{pair} {number:.3g}<br>{labels.escape(name)}, {_ordinal(int(ranks[j]) + 1)} of {len(known)} pairs"
    return out


def _ordinal(n: int) -> str:
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


def _colours(values: NDArray[np.float64], limit: float | None, floor: float | None) -> dict[str, object]:
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() < 0:
        end = limit or float(np.abs(finite).max())
        return {"colorscale": DIVERGING, "zmin": -end, "zmax": end}
    end = limit or (float(finite.max()) if finite.size else 0.0) or 1.0
    return {"colorscale": SEQUENTIAL, "zmin": floor or 0.0, "zmax": end}


def _name(scores: xr.DataArray) -> str:
    return str(scores.attrs.get("quantity") or scores.name or "value")


def _headline(scores: xr.DataArray) -> str:
    sender, receiver = (str(axis) for axis in scores.dims)
    return labels.escape(f"{_name(scores)}, {sender} by {receiver}")


def _provenance(scores: xr.DataArray) -> str:
    attrs = scores.attrs
    words = [str(attrs["model"])] if attrs.get("model") else []
    words += [f"stream {attrs['stream']}"] if attrs.get("stream") not in (None, "main") else []
    if "fold_norm" in attrs:
        words.append("norms folded in" if attrs["fold_norm"] else "norms left out")
    words.append(f"{int(np.isfinite(scores.values).sum())} pairs")
    return labels.escape(" · ".join(words))
