"""Pieces of a page: chips, facts, tables, tokens, progress. Dash escapes every text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from dash import dcc, html

from interp.app.prompts import Shown, Token

GRAPH: Any = {"displaylogo": False, "modeBarButtons": [["zoom2d", "pan2d", "resetScale2d"]]}
"""For figures in a page: no button that sends data anywhere."""


def chip(text: str, kind: str = "") -> html.Span:
    """A word in a frame."""
    return html.Span(text, className=f"chip {kind}".strip())


def status(word: str, reason: str = "") -> html.Span:
    """How a run stands; the reason is shown where the pointer rests."""
    return html.Span(word, className=f"chip status {word}", title=reason)


def progress(done: int, total: int, more: str = "") -> html.Div:
    """A bar, and the units in words."""
    share = done / total if total else 0.0
    bar = html.Div(html.Div(style={"width": f"{100 * share:.1f}%"}), className="bar")
    words = " · ".join(filter(None, (f"{done} of {total} units", more)))
    return html.Div([bar, html.Span(words, className="soft")], className="progress")


def facts(said: Mapping[str, Any]) -> html.Dl:
    """Names and what they are."""
    return html.Dl([part for name, fact in said.items() for part in (html.Dt(name), html.Dd(_fact(fact)))])


def note(text: str, kind: str = "note") -> html.Div:
    """A sentence in place of what cannot be shown, or beside what is."""
    return html.Div(text, className=kind)


def table(frame: pd.DataFrame, ids: Sequence[Mapping[str, Any] | None] | None = None) -> html.Div:
    """A table; rows with an id are pressed like buttons."""
    head = html.Thead(html.Tr([html.Th(str(c), className=_kind(frame[c])) for c in frame]))
    rows = []
    for i, values in enumerate(frame.itertuples(index=False)):
        cells = [html.Td(_number(v), className=_kind(frame.iloc[:, j]), title=_whole(v)) for j, v in enumerate(values)]
        identity = ids[i] if ids is not None else None
        press: dict[str, Any] = {"id": dict(identity), "n_clicks": 0, "tabIndex": 0} if identity is not None else {}
        rows.append(html.Tr(cells, className="press" if press else "", **press))
    return html.Div(html.Table([head, html.Tbody(rows)]), className="table")


def tokens(shown: Shown) -> html.Div:
    """A prompt, token by token."""
    return html.Div([html.Div(shown.title, className="soft"), html.Div([_token(t) for t in shown.tokens], className="tokens")])


def menu(control: str, label: str) -> html.Div:
    """A menu of the page's controls, empty as yet."""
    choose = dcc.Dropdown(id=control, options=[], clearable=False, searchable=False)
    return html.Div([html.Label(label, htmlFor=control), choose], id=f"{control}-field", className="field", hidden=True)


_LONG = 40


def _token(token: Token) -> html.Span:
    kind = " ".join(word for word, is_so in (("differs", token.differs), ("marked", token.marked)) if is_so)
    text = token.text.replace("\n", "⏎").replace("\t", "⇥")
    number = [html.Sub(token.position)] if token.position else []
    return html.Span([text, *number], className=f"token {kind}".strip(), title=f"{token.position} {token.text!r}".strip())


def _kind(column: pd.Series) -> str:
    return "number" if column.dtype.kind in "fiu" else ""


def _whole(value: Any) -> str:
    """What is cut, for where the pointer rests."""
    return value if isinstance(value, str) and len(value) > _LONG else ""


def _number(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        if math.isnan(value):
            return "–"
        return f"{value:.4g}"
    text = str(value)
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"


def _fact(fact: Any) -> str:
    if isinstance(fact, Mapping):
        return ", ".join(f"{name} {_fact(value)}" for name, value in fact.items())
    return f"{fact:.4g}" if isinstance(fact, float | np.floating) else str(fact)
