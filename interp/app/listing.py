"""The list of runs: which of them match what is typed and chosen, and the page that shows them.

>>> filtered(store.runs(), text="heads", tags=["demo"])                                  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from dash import dcc, html

from interp.app import parts

MENUS = ("model", "task", "site", "method", "status")
"""Columns that a menu filters."""
PAGE = 50
"""Runs on a page."""
SORTS = {
    "newest": ("made_at", False),
    "oldest": ("made_at", True),
    "name": ("name", True),
    "model": ("model", True),
    "largest": ("size", False),
}
_SEARCHED = ("id", "name", "model", "task", "site", "method", "patching", "metrics", "tags", "reason")


def filtered(
    runs: pd.DataFrame,
    *,
    text: str = "",
    tags: Sequence[str] = (),
    since: str | None = None,
    until: str | None = None,
    sort: str = "newest",
    **chosen: Sequence[str],
) -> pd.DataFrame:
    """The runs that match all of it.

    Args:
        runs: the store's table.
        text: words, each of which is somewhere in the row.
        tags: all of them.
        since: first day, ``2026-01-31``.
        until: last day.
        sort: one of :data:`SORTS`.
        chosen: columns of :data:`MENUS`, each with the values that match; none matches all.
    """
    keep = pd.Series(True, index=runs.index)
    for column, values in chosen.items():
        if values:
            keep &= runs[column].isin(list(values))
    for tag in tags:
        keep &= runs["tags"].map(lambda own, tag=tag: tag in own).astype(bool)
    days = pd.to_datetime(runs["made_at"], utc=True)
    if since:
        keep &= days >= pd.Timestamp(since, tz="UTC")
    if until:
        keep &= days < pd.Timestamp(until, tz="UTC") + pd.Timedelta(days=1)
    if text.split():
        columns = [runs[column].map(_said) for column in _SEARCHED]
        rows = pd.Series([" ".join(row).lower() for row in zip(*columns, strict=True)], index=runs.index, dtype=object)
        for word in text.lower().split():
            keep &= rows.map(lambda row, word=word: word in row).astype(bool)
    column, ascending = SORTS.get(sort, SORTS["newest"])
    return runs[keep].sort_values(column, ascending=ascending, kind="stable", ignore_index=True)


def offered(runs: pd.DataFrame) -> dict[str, list[str]]:
    """What the menus offer, by column."""
    found = {column: sorted({str(v) for v in runs[column] if str(v)}) for column in MENUS}
    return found | {"tags": sorted({tag for own in runs["tags"] for tag in own})}


def page(runs: pd.DataFrame) -> html.Div:
    """The page, with all that the menus offer."""
    sorts = [{"value": word, "label": f"sort: {word}"} for word in SORTS]
    fields = [
        html.Div(
            dcc.Input(id="text", type="text", placeholder="Search name, id, model, site, tag …", debounce=0.25),
            className="field wide",
            **parts.group("search"),
        ),
        *(_menu(column, values) for column, values in offered(runs).items()),
        html.Div(
            dcc.DatePickerRange(id="days", display_format="YYYY-MM-DD", clearable=True),
            className="field days",
            **parts.group("made between"),
        ),
        html.Div(
            dcc.Dropdown(id="sort", options=sorts, value="newest", clearable=False, searchable=False),
            className="field",
            **parts.group("order"),
        ),
    ]
    return html.Div(
        [
            dcc.Store(id="page-number", data=0),
            html.Div(
                [html.H1("Runs"), html.Div(id="picked", className="picked")],
                className="head",
            ),
            html.Div(
                [
                    *fields,
                ],
                className="card filters",
            ),
            html.Div(id="runs", className="card"),
            dcc.Interval(id="list-tick", interval=3000),
        ]
    )


def rows(runs: pd.DataFrame, number: int, picked: Sequence[str], total: int) -> list[Any]:
    """One page of the table, how many there are, and the way to the next."""
    if not total:
        said = "This store holds no runs yet. A sweep with store=… keeps itself, store.save(result) any result. "
        return [parts.note(f"{said}A run is listed here as soon as it is begun.")]
    if not len(runs):
        return [parts.note(f"None of the {total} runs matches.")]
    last = (len(runs) - 1) // PAGE
    number = min(max(0, number), last)
    shown = runs.iloc[number * PAGE : (number + 1) * PAGE]
    columns = ["", "run", "status", "model", "task", "method and site", "made", "size", "tags"]
    head = html.Thead(html.Tr([html.Th(c) for c in columns]))
    body = html.Tbody([_row(row, picked) for row in shown.to_dict("records")])
    many = f"{len(runs)} of {total} runs" if len(runs) != total else f"{total} run{'s' * (total != 1)}"
    turn = [
        html.Button("‹ newer", id={"type": "turn", "by": -1}, n_clicks=0, disabled=number == 0),
        html.Span(f"page {number + 1} of {last + 1}", className="soft"),
        html.Button("older ›", id={"type": "turn", "by": 1}, n_clicks=0, disabled=number == last),
    ]
    foot = html.Div([html.Span(many, className="soft"), html.Div(turn if last else [], className="turn")], className="foot")
    return [html.Div(html.Table([head, body], className="runs"), className="table tall"), foot]


def picked(ids: Sequence[str]) -> list[Any]:
    """What can be done with the runs that are ticked."""
    if len(ids) == 2:
        return [dcc.Link("Compare the two", href=f"/compare/{ids[0]}/{ids[1]}", id="compare", className="button strong")]
    words = "Tick two runs to compare them." if len(ids) < 2 else f"{len(ids)} runs are ticked; two can be compared."
    return [html.Span(words, className="soft")]


def _said(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple | list) else str(value)


def _menu(column: str, values: Sequence[str]) -> html.Div:
    choose = dcc.Dropdown(id=f"by-{column}", options=list(values), multi=True, placeholder=column, searchable=len(values) > 8)
    return html.Div(choose, className="field", **parts.group(column))


def _row(row: dict[str, Any], picked: Sequence[str]) -> html.Tr:
    identity = row["id"]
    told = html.Span(f"tick {row['name'] or identity}", className="unseen")
    option = [{"label": told, "value": identity}]
    tick = dcc.Checklist(id={"type": "pick", "run": identity}, options=option, value=[identity] * (identity in picked))
    made = "" if pd.isna(row["made_at"]) else row["made_at"].strftime("%Y-%m-%d %H:%M")
    name: list[Any] = [dcc.Link(row["name"] or identity, href=f"/run/{identity}")]
    name += [html.Span(identity, className="id")] if row["name"] else []
    what: list[Any] = [" ".join(filter(None, (row["method"], row["site"]))), " ", html.Span(row["patching"], className="soft")]
    tags = [parts.chip(tag) for tag in row["tags"]]
    return html.Tr(
        [
            html.Td(tick),
            html.Td(name, className="name", title=row["name"] or identity),
            html.Td(parts.status(row["status"], row["reason"])),
            html.Td(row["model"], className="model", title=row["model"]),
            html.Td(row["task"]),
            html.Td(what, className="what"),
            *map(html.Td, (made, size(row["size"]))),
            html.Td(tags, className="tags"),
        ]
    )


def size(count: int) -> str:
    """``1.2 MB``."""
    number = float(count)
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 10 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
