"""Pieces of a page: chips, facts, tables, tokens, progress. Dash escapes every text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from dash import dcc, html

from interp.app.prompts import Shown, Token

_LONG = 40
"""Characters of a text that is cut in a table."""
GRAPH: Any = {"displaylogo": False, "modeBarButtons": [["zoom2d", "pan2d", "resetScale2d"]]}
"""For figures in a page: no button that sends data anywhere."""


def chip(text: str, kind: str = "") -> html.Span:
    """A word in a frame."""
    return html.Span(text, className=f"chip {kind}".strip(), title=text if len(text) > _LONG else "")


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
    """A prompt, token by token; of a long one, what is far from all that is marked is folded away."""
    return html.Div([html.Div(shown.title, className="soft"), html.Div(_folded(shown.tokens), className="tokens")])


_NEAR, _FEW = 24, 40
"""Tokens that are seen around one that is marked, and those that are not worth a fold."""


def _folded(tokens: Sequence[Token]) -> list[Any]:
    """Stretches of tokens that are seen, and of those that open on a click."""
    told = [i for i, token in enumerate(tokens) if token.marked or token.differs] or [0]
    near = np.zeros(len(tokens), bool)
    for i in [*told, len(tokens) - 1]:
        near[max(0, i - _NEAR) : i + _NEAR + 1] = True
    ends = [0, *(np.flatnonzero(np.diff(near)) + 1).tolist(), len(tokens)]
    found: list[Any] = []
    for start, end in pairwise(ends):
        spans = [_token(token) for token in tokens[start:end]]
        if not spans or near[start] or len(spans) <= _FEW:
            found += spans
        else:
            found.append(html.Details([html.Summary(f"… {len(spans)} tokens …"), *spans], className="folded"))
    return found


def called(label: str) -> dict[str, Any]:
    """What a screen reader calls an element whose text does not say it."""
    return {"aria-label": label}


def group(label: str) -> dict[str, Any]:
    """What a screen reader calls the control inside: Dash names a menu by its value alone."""
    return {"role": "group", **called(label)}


def menu(control: str, label: str) -> html.Div:
    """A menu of the page's controls, empty as yet."""
    choose = dcc.Dropdown(id=control, options=[], clearable=False, searchable=False)
    return html.Div(
        [html.Label(label, htmlFor=control), choose], id=f"{control}-field", className="field", hidden=True, **group(label)
    )


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
