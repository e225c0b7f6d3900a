"""The pages: the frame around all of them, and one run or two side by side.

Ids of what callbacks fill: ``controls`` and ``sliders``, the panels ``a``, ``b`` and ``difference``, ``strongest``, ``detail``
and ``prompts``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import xarray as xr
from dash import dcc, html

from interp import effects as fx
from interp import report
from interp.app import details, parts
from interp.app.choices import CONTROLS
from interp.app.data import Opened
from interp.store.marker import DATA
from interp.store.run import COMPLETE, DAMAGED, UNFINISHED

_LABELS = {
    "family": "family",
    "view": "drawing",
    "metric": "metric",
    "quantity": "quantity",
    "x": "left to right",
    "y": "bottom to top, or lines",
    "example": "example",
}
_CALLS = ("patch", "attribute", "patch_edges", "ablate")
_LEFT_OUT = ("spec", "versions")
SIDES = ("A", "B")


def frame(name: str) -> html.Div:
    """What is around every page."""
    return html.Div(
        [
            dcc.Location(id="url"),
            dcc.Store(id="theme", storage_type="local"),
            dcc.Store(id="room"),
            dcc.Store(id="picks", storage_type="session", data=[]),
            html.Header(
                [
                    dcc.Link([html.B("interp"), html.Span(name, className="soft")], href="/", className="home"),
                    html.Button("◐", id="toggle", n_clicks=0, title="light or dark", **parts.called("light or dark")),
                ]
            ),
            html.Main(id="page"),
        ]
    )


def missing(what: str) -> html.Div:
    """In place of a page that there is not."""
    return html.Div([html.H1("Not found"), parts.note(what), dcc.Link("All runs", href="/", className="button")])


def explorer(runs: Sequence[Opened], others: Sequence[tuple[str, str]], figures: Sequence[str], why: str) -> html.Div:
    """One run, or two beside each other with their difference.

    Args:
        runs: one or two.
        others: ids and labels of runs to compare the only one with.
        figures: endings of files that the figure can be written to here.
        why: what the other endings need; "" where nothing is missing.
    """
    ids = [opened.run.id for opened in runs]
    panels = ["a", "b", "difference", "both"] if len(runs) == 2 else ["a"]
    readable = all(opened.result is not None for opened in runs)
    titles = {"a": "A", "b": "B", "difference": "A − B", "both": "A and B"}
    drawn = [
        html.Section(
            [
                *([html.H2(titles[of])] if len(runs) == 2 else []),
                html.Div(id={"type": "panel", "of": of}, className="drawn"),
                html.Div(_downloads(of, figures, why) if readable else [], className="downloads"),
            ],
            className=f"card panel {of}",
        )
        for of in panels
    ]
    compare = dcc.Dropdown(
        id="other", options=[{"value": i, "label": label} for i, label in others], placeholder="compare with …", searchable=True
    )
    strongest = [
        html.H2(["Strongest cells", html.Span("a row shows its examples", className="soft")]),
        html.Div(id="strongest"),
    ]
    beside = html.Section(strongest, className="card", id="strongest-card", hidden=True)
    behind = [html.Div(id="detail", children=details.empty()), html.Div(id="prompts")]
    return html.Div(
        [
            dcc.Store(id="ids", data=ids),
            dcc.Store(id="stamp", data=[opened.stamp for opened in runs]),
            dcc.Store(id="choice"),
            dcc.Store(id="cell"),
            dcc.Store(id="example-number", data=0),
            dcc.Download(id="download"),
            dcc.Interval(id="tick", interval=2000, disabled=not any(opened.grows for opened in runs)),
            html.Div(
                [
                    html.Div(id="banner", className="banner", children=banner(runs)),
                    html.Div(compare, className="field compare", hidden=len(runs) == 2, **parts.group("compare with")),
                ],
                className="head",
            ),
            html.Div(
                [html.Div([parts.menu(c, _LABELS[c]) for c in CONTROLS], id="controls"), html.Div(id="sliders")],
                className="card controls",
            ),
            html.Div([*drawn, beside], className="panels" if len(runs) == 2 else "panels one"),
            html.Section(behind, className="card detail", id="detail-card"),
            html.Details(
                [html.Summary("Provenance"), html.Div([provenance(o, s) for o, s in _sided(runs)], className="facts")],
                className="card",
            ),
        ]
    )


def banner(runs: Sequence[Opened]) -> list[Any]:
    """The names of the runs and how they stand."""
    found = []
    for opened, side in _sided(runs):
        run, summary = opened.run, (opened.run.marker or {}).get("summary", {})
        words = [str(summary[k]) for k in ("model", "task", "site", "patching") if summary.get(k)]
        words += [str(summary["made_at"])[:16].replace("T", " ")] if summary.get("made_at") else []
        line = [
            html.H1([*([html.Span(side, className="side")] if side else []), run.name or run.id]),
            parts.status(DAMAGED if opened.problem and run.status == COMPLETE else run.status, run.reason or opened.problem),
        ]
        under = html.Div([html.Span(" · ".join([run.id, *words]), className="soft"), *(parts.chip(t) for t in run.tags)])
        bar = [parts.progress(opened.done, opened.total, _so_far(opened))] if opened.total else []
        problem = [parts.note(opened.problem, "note bad")] if opened.problem else []
        found.append(html.Div([html.Div(line, className="title"), under, *bar, *problem, *_next(opened)]))
    return found


def _next(opened: Opened) -> list[Any]:
    """What can be done about a run that is not complete, and that nobody is at work on."""
    run, summary = opened.run, (opened.run.marker or {}).get("summary", {})
    if run.status == UNFINISHED and opened.total:
        how = f"Call interp.{summary['method']}" if summary.get("method") in _CALLS else "Make it"
        said = f"{how} again as before, with this store: only what is missing is computed, and this page goes on."
        return [parts.note(f"Interrupted: nobody is at work on this run, and what is done is kept. {said}", "note wait")]
    if run.status in (DAMAGED, UNFINISHED) or opened.problem:
        said = f"Nothing of it can be shown. Make it again, or remove it: interp rm {run.id}"
        return [parts.note(said)]
    return []


def _so_far(opened: Opened) -> str:
    """Of how many examples there is something to see, where it is not all of them."""
    shown, every = opened.examples()
    return f"shown: the {shown} of {every} examples that are furthest" if shown < every else ""


def provenance(opened: Opened, side: str) -> html.Div:
    """All that a run says of itself, family by family, and what is saved beside it."""
    blocks = []
    for name, ds in opened.families().items():
        said = report.provenance(ds) if fx.is_effects(ds) else _attrs(ds)
        heading = " ".join(word for word in (side, name) if word)
        blocks += [*([html.H2(heading)] if heading else []), parts.facts(said)]
    beside = [name for name in (opened.run.marker or {}).get("files", {}) if name != DATA]
    return html.Div([*blocks, *([parts.facts({"beside the data": ", ".join(beside)})] if beside else [])])


def slider(axis: str, labels: Sequence[str], value: int) -> html.Div:
    """A slider along an axis that is not drawn."""
    last = len(labels) - 1
    marks = {i: labels[i] for i in range(0, last + 1, max(1, -(-last // 10)))}
    run = dcc.Slider(
        0, last, step=1, value=value, marks=marks, id={"type": "at", "axis": axis}, included=False, allow_direct_input=False
    )
    kind = "field slider long" if len(labels) > 40 else "field slider"
    return html.Div([html.Label(axis), run], className=kind, **parts.group(axis))


def variables(ds: xr.Dataset) -> html.Div:
    """A result as a table of its variables."""
    rows = []
    for name, array in ds.data_vars.items():
        numbers = array.dtype.kind in "fiub" and array.size
        ends = [f"{float(number):.4g}" for number in (array.min(), array.max(), array.mean())] if numbers else [""] * 3
        axes = " × ".join(f"{dim} {size}" for dim, size in array.sizes.items())
        rows.append((str(name), axes, str(array.dtype), *ends, int(array.isnull().sum()) if numbers else 0))
    return parts.table(pd.DataFrame(rows, columns=["variable", "axes", "type", "least", "largest", "mean", "missing"]))


def _downloads(of: str, figures: Sequence[str], why: str) -> list[Any]:
    endings = [(ending, "figure") for ending in ("html", "png", "svg")]
    data = {"difference": ("csv",), "both": ()}.get(of, ("csv", "nc"))
    endings += [(ending, "data") for ending in data]
    return [
        html.Button(
            {"nc": "netCDF"}.get(ending, ending.upper()),
            id={"type": "save", "of": of, "as": ending},
            n_clicks=0,
            className=f"small {kind}",
            disabled=kind == "figure" and ending not in figures,
            title=why if kind == "figure" and ending not in figures else f"download the {kind}",
        )
        for ending, kind in endings
    ]


def _sided(runs: Sequence[Opened]) -> list[tuple[Opened, str]]:
    return [(opened, SIDES[i] if len(runs) > 1 else "") for i, opened in enumerate(runs)]


def _attrs(ds: xr.Dataset) -> dict[str, Any]:
    axes = " × ".join(f"{dim} {size}" for dim, size in ds.sizes.items())
    return {"axes": axes} | {str(k): v for k, v in ds.attrs.items() if k not in _LEFT_OUT and v not in (None, "", [], {})}
