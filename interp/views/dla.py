"""Direct logit attribution as bars: what each term of the stream adds to the logit difference.

    >>> views.dla(interp.dla(model, pairs))                                       # doctest: +SKIP
    >>> views.dla(interp.dla(model, pairs, by="source"), example=0)              # doctest: +SKIP

What is not shown by itself is in the bar "rest", so that the bars add up to the total. Heads by layer and head are
``views.heatmap(results, "by_head")``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp import axes as names
from interp import effects as fx
from interp import stats
from interp.errors import PositionError
from interp.views import labels
from interp.views import prompts as of
from interp.views.colours import DIVERGING
from interp.views.layout import PAGE, dress

TERM = "term"


def dla(
    results: xr.Dataset,
    *,
    example: int | None = None,
    top: int = 20,
    title: str | None = None,
    width: int = PAGE,
    template: str = "plotly_white",
    level: float = 0.95,
) -> go.Figure:
    """The terms that add most, the largest at the top, and the rest of them as one; with source positions, a map.

    Args:
        results: from :func:`interp.dla`, with ``contribution`` (example, term) or (example, term, source_position), and
            ``total``.
        example: one alone; by default the mean over all of them, with Student's interval, over templates if there are enough.
        top: how many terms are shown by themselves.
        title: in place of the one made here.
        width: in pixels.
        template: a plotly template, e.g. ``"plotly_dark"``.
        level: of the intervals.

    Raises:
        UnknownNameError: a result that has no contributions.
        PositionError: an example that there is not, or source positions of prompts that differ in length.
    """
    of.require(results, "views.dla", "contribution")
    if not isinstance(top, int) or top < 1:
        raise ValueError(f"top={top!r}; expected how many terms to show, 1 at least")
    alone = of.one(results, example) if example is not None else results
    some = alone if names.EXAMPLE in alone.dims else alone.expand_dims(names.EXAMPLE)
    head = title or f"direct logit attribution: what each {'term and token adds' if _by_source(results) else 'term adds'}"
    draw = _map if _by_source(results) else _bars
    return draw(some, top, head, _under(results, some, example), width, template, level)


def _by_source(ds: xr.Dataset) -> bool:
    return names.SOURCE_POSITION in ds["contribution"].dims


def _under(ds: xr.Dataset, some: xr.Dataset, example: int | None) -> str:
    n = some.sizes[names.EXAMPLE]
    total = float(some["total"].mean() if "total" in some else some["contribution"].sum() / n)
    words = [f"total {total:.3g}"]
    if "logit_diff" in some:
        words.append(f"logit difference {float(some['logit_diff'].mean()):.3g}")
    words.append(labels.of_examples(some) if example is None else f"example {example}")
    if n == 1:
        one = some.isel({names.EXAMPLE: 0})
        words += [of.said(one), of.compared(one)]
    return of.under(ds, *words)


def _strongest(each: xr.DataArray, top: int) -> tuple[list[str], np.ndarray[Any, Any]]:
    """Terms by the size of their mean, the largest first, and their numbers ``[term, …, example]``; the rest as one."""
    numbers, terms = each.values.astype(float), [str(term) for term in each[TERM].values]
    order = np.argsort(-np.abs(numbers.mean(-1)).reshape(len(terms), -1).sum(-1), kind="stable")
    top = len(order) if len(order) <= top + 1 else top  # a rest of one term is that term
    shown, rest = order[:top], order[top:]
    if not len(rest):
        return [terms[i] for i in shown], numbers[shown]
    others = numbers[rest].sum(0, keepdims=True)
    return [*(terms[i] for i in shown), f"rest ({len(rest)})"], np.concatenate([numbers[shown], others])


def _bars(some: xr.Dataset, top: int, head: str, under: str, width: int, template: str, level: float) -> go.Figure:
    terms, numbers = _strongest(some["contribution"].transpose(TERM, names.EXAMPLE), top)
    mean, low, high = stats.t_interval(numbers, clusters=fx.clusters_of(some).labels, level=level)[:3]
    n, over = some.sizes[names.EXAMPLE], labels.of_examples(some)
    end = float(np.abs(mean).max()) or 1.0
    hover = [
        f"<b>{labels.escape(term)}</b> {_said(m, a, b, over)}" for term, m, a, b in zip(terms, mean, low, high, strict=True)
    ]
    figure = go.Figure(
        go.Bar(
            x=mean,
            y=np.arange(len(terms)),
            orientation="h",
            marker={"color": mean, "colorscale": DIVERGING, "cmin": -end, "cmax": end, "line": {"width": 0.5, "color": "#888"}},
            error_x={"type": "data", "array": high - mean, "visible": n > 1, "thickness": 1, "width": 2, "color": "#888"},
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    rows = labels.Ticks(
        "", [labels.escape(labels.short(term) if len(term) > 24 else term) for term in terms], [""] * len(terms)
    )
    dress(figure, head, under, labels.Ticks("", ["0"], [""]), rows, width=width, template=template)
    size = figure.layout.font.size
    figure.update_layout(bargap=0.25, margin={"r": 24, "b": int(3.6 * size)})
    figure.update_yaxes(autorange="reversed")
    what = "adds to the logit difference" if "wrong" in some.coords or "logit_diff" in some else "adds to the logit"
    figure.update_xaxes(
        tickmode="auto",
        tickvals=None,
        ticktext=None,
        nticks=max(3, width // 90),
        showgrid=True,
        zeroline=True,
        title={"text": what},
    )
    return figure


def _said(mean: float, low: float, high: float, over: str) -> str:
    """``0.31 ± 0.02 (n=4)``, or one number with its sign."""
    return f"{f'{mean:+.3g}' if over == 'n=1' else labels.interval(mean, low, high)} ({over})"


def _map(some: xr.Dataset, top: int, head: str, under: str, width: int, template: str, level: float) -> go.Figure:
    each = some["contribution"].transpose(names.EXAMPLE, TERM, names.SOURCE_POSITION)
    there = each.notnull().any(TERM)
    if bool((there != there.isel({names.EXAMPLE: 0})).any()):
        raise PositionError(
            "these prompts differ in length, so that their tokens cannot be averaged; choose one with example=0"
        )
    each = each.isel({names.SOURCE_POSITION: np.flatnonzero(there.isel({names.EXAMPLE: 0}).values)})
    terms, numbers = _strongest(each.transpose(TERM, names.SOURCE_POSITION, names.EXAMPLE), top)
    mean, low, high = stats.t_interval(numbers, clusters=fx.clusters_of(some).labels, level=level)[:3]
    over = labels.of_examples(some)
    end = float(np.nanmax(np.abs(mean[:top]))) or 1.0  # the rest may be more than all that is shown
    columns = _columns(each)
    rows = labels.Ticks(
        "", [labels.escape(labels.short(term) if len(term) > 24 else term) for term in terms], [""] * len(terms)
    )
    hover = [
        [f"<b>{row}</b> from {column}<br>{_said(m, a, b, over)}" for column, (m, a, b) in zip(columns.full, line, strict=True)]
        for row, line in zip(rows.full, np.stack([mean, low, high], -1).tolist(), strict=True)
    ]
    figure = go.Figure(
        go.Heatmap(
            z=mean,
            x=np.arange(len(columns.full)),
            y=np.arange(len(terms)),
            zmin=-end,
            zmax=end,
            colorscale=DIVERGING,
            colorbar={"title": {"text": "contribution", "side": "right"}},
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    dress(figure, head, under, columns, rows, width=width, template=template)
    figure.update_yaxes(autorange="reversed")
    return figure


def _columns(each: xr.DataArray) -> labels.Ticks:
    """Positions with the token that all examples have there, or with what stands for theirs."""
    title, word = "position and token that is read", "source_token" if "source_token" in each.coords else "token"
    if word not in each.coords or names.SOURCE_POSITION not in each[word].dims:
        return of.ticks(each[names.SOURCE_POSITION].values.tolist(), None, title)
    return of.ticks_of_all(each, names.SOURCE_POSITION, word, title)
