"""What stands under a figure: the examples behind a cell, the edges of a node, the prompts of an example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import xarray as xr
from dash import dcc, html

from interp.app import cells, parts, prompts
from interp.app.choices import Choice
from interp.app.data import numbers
from interp.app.strip import strip
from interp.views.prompts import cut

_APART = "The two runs are not of the same examples: a row of the table is no pair."
_NONE = "This result keeps no values per example here."


class Sided(NamedTuple):
    """A result beside others."""

    side: str
    """What it is called; "" of one alone."""
    ds: xr.Dataset
    cell: Mapping[str, int] | None


def empty() -> html.Div:
    """What stands where the details of a cell will be."""
    return parts.note("Click a point of the figure to see the examples behind it.")


def detail(
    sided: Sequence[Sided],
    choice: Choice,
    template: str,
    *,
    width: int = 520,
    pairs: bool = False,
    lacking: Sequence[str] = (),
) -> html.Div:
    """The examples behind a cell, or its seeds, of one result or of several.

    Args:
        sided: the results that have the cell.
        choice: what is drawn.
        template: of plotly.
        width: of the strip of examples.
        pairs: whether two results are of the same examples.
        lacking: what the results are called that have no such cell.
    """
    first, tables = sided[0], [cells.examples(one.ds, choice, one.cell or {}) for one in sided]
    column = cells.drawn_column(tables[0], choice)
    lines = [" ".join(filter(None, (one.side, cells.said(one.ds, choice, one.cell or {})))) for one in sided]
    merged = _merged([one.side for one in sided], tables, column, pairs)
    row = str(merged.columns[0])
    content: list[Any] = []
    if column is not None and len(merged) > 1:
        both = zip(sided, tables, strict=True)
        drawn = [(one.side, table.set_index(row)[column]) for one, table in both if column in table]
        name = {"effect": f"effect on {choice.metric}", "changed": str(choice.metric)}.get(column, column)
        graph = {"id": {"type": "strip", "of": "cell"}, "figure": strip(drawn, name, template, width=width)}
        content.append(dcc.Graph(**graph, config=parts.GRAPH))
    if len(merged) == 1:
        content.append(parts.facts({str(c): v for c, v in merged.iloc[0].items() if c != row}))
    elif len(merged):
        ids = [{"type": "example", "index": i} for i in range(len(merged))] if row == "example" else None
        content.append(html.Div(parts.table(merged, ids), id="examples"))
    notes = [f"{side} has no such cell." for side in lacking]
    notes += [_APART] if len(sided) == 2 and not pairs and "example" in first.ds.dims else []
    notes += [_NONE] if merged.empty or not any(row in v.dims for v in first.ds.data_vars.values()) else []
    cell = first.cell or {}
    called = cells.name(first.ds, cell)
    return html.Div(
        [
            html.H2([html.B(cut(called, 100), title=called), html.Span(prompts.where(first.ds, cell), className="soft")]),
            *(html.Div(line, className="said") for line in lines if line),
            *map(parts.note, notes),
            html.Div(content, className="two" if len(content) == 2 else ""),
        ]
    )


def node(name: str, table: pd.DataFrame, ids: Sequence[Mapping[str, Any]]) -> html.Div:
    """The edges of a node of a circuit, which has no number of its own."""
    said = "A node has no values per example of its own; its edges have. A click on one shows them."
    return html.Div([html.H2(html.B(name)), parts.note(said), parts.table(table, ids)], className="nodes")


def prompt(sided: Sequence[Sided], recipes: Sequence[Any], example: int) -> html.Div:
    """The prompts of one example of each result, with its recipe; those of another only where they are others."""
    found: list[Any] = []
    seen: list[list[prompts.Shown]] = []
    for one, recipe in zip(sided, recipes, strict=True):
        if example >= one.ds.sizes.get("example", 1):
            continue
        both = prompts.prompts(one.ds, example, one.cell, recipe)
        if both and both not in seen:
            seen.append(both)
            head = f"{one.side} example" if one.side else "Example"
            found += [html.H3(f"{head} {numbers(one.ds)[example]}"), *(parts.tokens(prompt) for prompt in both)]
            found += [html.Div(line, className="soft")] if (line := prompts.answers(one.ds, example)) else []
    each = [token for both in seen for one in both for token in one.tokens]
    words = {"differs": any(t.differs for t in each), "marked": any(t.marked for t in each)}
    says = {"differs": "differs between the two", "marked": "where the cell is"}
    legend = [html.Span(says[kind], className=f"token {kind}") for kind, is_so in words.items() if is_so]
    return html.Div([*found, html.Div(legend, className="legend")])


def _merged(sides: Sequence[str], tables: Sequence[pd.DataFrame], column: str | None, pairs: bool) -> pd.DataFrame:
    """The only table; of several, the column that is drawn side by side, and subtracted where rows are pairs."""
    alike = len({table.columns[0] for table in tables}) == 1 and all(column in table for table in tables)
    if len(tables) == 1 or column is None or not alike:
        return tables[0]
    merged = max(tables, key=len).iloc[:, :1].reset_index(drop=True)
    for side, table in zip(sides, tables, strict=True):
        merged[f"{column} {side}"] = table[column].reindex(range(len(merged)))
    if pairs:
        merged[" − ".join(sides)] = merged[f"{column} {sides[0]}"] - merged[f"{column} {sides[1]}"]
    return merged
