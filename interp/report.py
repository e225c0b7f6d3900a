"""Reports: figures, tables and provenance in one HTML file that opens without a network.

    >>> from interp import report
    >>> report.write("report.html", "IOI in gpt2", {                       # doctest: +SKIP
    ...     "Residual stream": ["Where the answer is held, by layer.", figure, effects.top(ds), report.provenance(ds)]})

    >>> store = Store("runs")                                              # doctest: +SKIP
    >>> report.write("report.html", "Two runs", report.of_runs([store.run("heads"), store.run("mlp")]))    # doctest: +SKIP

Plotly's script is in the file once, however many figures there are, and a content security policy in its head forbids the
browser to load anything from anywhere. All text is escaped.
"""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from plotly.offline import get_plotlyjs

from interp import axes as names
from interp import effects as fx
from interp import views
from interp.errors import StoreError, UserError
from interp.outputs import file_to_write, put
from interp.store import Run
from interp.store.run import RUNNING, UNFINISHED, require_run
from interp.views import labels
from interp.views.export import HTML_CONFIG

Item: TypeAlias = str | go.Figure | pd.DataFrame | Mapping[str, Any]
"""A paragraph, a figure, a table, or facts by name."""

Sections: TypeAlias = Mapping[str, Item | Iterable[Item]] | Iterable[tuple[str, Item | Iterable[Item]]]

_CIRCUITS = 8
"""How many circuits are named."""

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; worker-src blob:"
)

_STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c2330; --soft: #5b6575; --line: #dfe3ea; --page: #f6f7f9; --card: #ffffff; --link: #1f5fa8; }
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e9ef; --soft: #9aa5b5; --line: #333b48; --page: #14181f; --card: #1c222b; --link: #8ab8ee;
  } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font: 16px/1.55 system-ui, "DejaVu Sans", "Segoe UI", Helvetica, Arial, sans-serif; }
main { max-width: 67rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 0 0 .75rem; }
p { max-width: 44rem; margin: .5rem 0; white-space: pre-line; }
nav { margin: 1rem 0 0; } nav a { margin-right: 1.25rem; } a { color: var(--link); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 1.5rem; margin-top: 1.5rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
.figure { background: #fff; border-radius: 6px; width: fit-content; max-width: 100%; }
@media (prefers-color-scheme: dark) { .figure { padding: .5rem; } }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } th:first-child, td:first-child { text-align: left; padding-left: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.25rem; font-size: .875rem; margin: 1rem 0 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
footer { color: var(--soft); font-size: .8rem; margin-top: 1.5rem; }
@media print { body { background: #fff; } section { break-inside: avoid; border: 0; padding: 0; } nav { display: none; } }
"""


def write(path: str | os.PathLike[str], title: str, sections: Sections, *, intro: str = "") -> Path:
    """Write a report.

    Args:
        path: of the HTML file; its folder must exist.
        title: heading and name of the page.
        sections: the headings, each with an item or several: text is a paragraph, a figure stays interactive, a data frame
            is a table, a mapping is a list of facts.
        intro: a paragraph below the title.

    Returns:
        The path written.

    Raises:
        TypeError: an item that is none of those.
        PathError: no such folder, or nothing can be written there.
    """
    path = file_to_write(path)
    parts = [(name, _listed(items)) for name, items in (sections.items() if isinstance(sections, Mapping) else sections)]
    figures = 0
    body = []
    for number, (name, items) in enumerate(parts):
        cards = []
        for item in items:
            figures += isinstance(item, go.Figure)
            cards.append(_render(item, figures))
        body.append(f'<section id="part-{number}">\n<h2>{_text(name)}</h2>\n' + "\n".join(cards) + "\n</section>")
    links = "".join(f'<a href="#part-{number}">{_text(name)}</a> ' for number, (name, _) in enumerate(parts))
    script = f"<script>{get_plotlyjs()}</script>" if figures else ""
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<style>{_STYLE}</style>
{script}
</head>
<body>
<main>
<h1>{_text(title)}</h1>
{f"<p>{_text(intro)}</p>" if intro else ""}
{f"<nav>{links}</nav>" if len(parts) > 1 else ""}
{chr(10).join(body)}
<footer>Written {written} by interp. This file needs no network.</footer>
</main>
</body>
</html>
"""
    return put(path, page.encode())


def of_runs(runs: Iterable[Run]) -> list[tuple[str, list[Item]]]:
    """Sections about runs of a store, for :func:`write`: of each its figures, its strongest cells and its provenance.

    A run of several families has a section for each, and one for what draws them together, as several runs have. One that is
    not complete is shown as far as it is, and one that cannot be read says why.
    """
    sections: list[tuple[str, list[Item]]] = []
    alone: dict[str, xr.Dataset] = {}
    for run in runs:
        own, families = _of_run(require_run(run))
        sections += own
        if len(families) == 1:
            (alone[run.name or run.id],) = families.values()
    figures = _figures(alone)
    return [*sections, *([(f"Together: {', '.join(alone)}", figures)] if figures else [])]


def of_run(run: Run) -> list[tuple[str, list[Item]]]:
    """The sections about one run."""
    return _of_run(require_run(run))[0]


def _of_run(run: Run) -> tuple[list[tuple[str, list[Item]]], dict[str, xr.Dataset]]:
    """The sections about one run, and its families as far as they are shown."""
    title = run.name or run.id
    half = run.status in (RUNNING, UNFINISHED)
    done, total = run.progress
    about = {"run": _joined(run.id, run.name), "tags": ", ".join(run.tags)}
    try:
        families = fx.families(run.load(partial=half))
    except StoreError as error:
        return [(title, [f"This run cannot be shown: {error}", _known(about)])], {}
    sections: list[tuple[str, list[Item]]] = []
    for name, ds in families.items():
        said = [f"Half a run: {done} of {total} work units are done."] if half else []
        if half and (shown := fx.furthest(ds)).sizes != ds.sizes:
            said.append(f"Shown are the {shown.sizes['example']} of {ds.sizes['example']} examples that are furthest.")
            families[name] = ds = shown
        items = [*([" ".join(said)] if said else []), *of_result(ds), _known(about) | provenance(ds)]
        sections.append((" / ".join(filter(None, (title, name))), items))
    together = _figures(families)
    return [*([(f"{title} / together", together)] if together else []), *sections], families


def _figures(results: xr.Dataset | Mapping[str, xr.Dataset]) -> list[Item]:
    """What fits a result, or several together, or why it is not drawn."""
    items: list[Item] = []
    for shows, draw in views.fitting(results).items():
        try:
            items.append(draw())
        except UserError as error:
            items.append(f"{shows} is not drawn: {error}")
    return items


def of_result(ds: xr.Dataset, *, strongest: int = 10) -> list[Item]:
    """The figures that fit a result and a table of its strongest cells for every metric.

    Args:
        ds: a dataset; of a tree, one family.
        strongest: how many cells, or circuits.
    """
    return _figures(ds) + [item for said, table in tables(ds, strongest) for item in (f"The {said}:", table)]


def tables(ds: xr.Dataset, k: int) -> list[tuple[str, pd.DataFrame]]:
    """For every metric of a sweep the table of its strongest cells, or of the first of its circuits, with what it is of."""
    if not fx.is_effects(ds) or not fx.swept_axes(ds):
        return []
    metrics = list(map(str, ds["metric"].values.ravel()))
    if _are_circuits(ds):
        if fx.swept_axes(ds) != (names.CELL,):
            return []  # of random ones, drawn many times, the figure says more than a table
        return [(f"circuits by {metric}", _table_of_circuits(ds, k, metric)) for metric in metrics]
    found = []
    for metric in metrics:
        table = strongest_cells(ds, k, metric)
        many = "strongest cell" if len(table) == 1 else f"{len(table)} strongest cells"
        found.append((f"{many} by {metric}, chosen on these same examples", table))
    return found


def strongest_cells(ds: xr.Dataset, k: int, metric: str) -> pd.DataFrame:
    """:func:`interp.effects.top` to be read: cells by their names alone, effects with their intervals."""
    table = fx.top(ds, k, metric)
    ends = zip(table["effect"], table["low"], table["high"], strict=True)
    table["effect"] = [labels.interval(*one) for one in ends]
    spare = {"low", "high", *names.SWEPT} - {names.CELL}
    return table.drop(columns=[column for column in table if column in spare])


def provenance(ds: xr.Dataset) -> dict[str, Any]:
    """The facts about a result that a reader needs to judge and to repeat it, for a list in a report."""
    attrs, sizes = fx.attrs_of(ds), ds.sizes
    templates = len(set(ds["template"].values.tolist())) if "template" in ds.coords else 0
    swept = [str(d) for d in ds["value"].dims if d not in ("metric", "example")] if "value" in ds else []
    by_rule = float(ds["by_rule"].mean()) if "by_rule" in ds else None
    return _known(
        {
            "model": _joined(attrs.get("model"), _digests(attrs.get("model_digest"))),
            "task": _joined(attrs.get("task"), attrs.get("pairs_digest")),
            "examples": f"{sizes['example']}" + (f", {templates} template{'s' * (templates > 1)}" if templates else "")
            if "example" in sizes
            else None,
            "method": attrs.get("method"),
            "patching": attrs.get("patching"),
            "site": attrs.get("site"),
            "sweep": " × ".join(f"{sizes[d]} {d}s" for d in swept),
            "circuits": _circuits(ds),
            "source": attrs.get("source"),
            "edit": attrs.get("edit"),
            "depends on how the model is written": attrs.get("gauge"),
            "metrics": ", ".join(map(str, ds["metric"].values.ravel())) if "metric" in ds.coords else None,
            "noise floor": attrs.get("noise_floor"),
            "equal to the base by rule": None if by_rule is None else f"{by_rule:.0%} of the values, without a forward pass",
            "strategy": attrs.get("strategy"),
            "dtype": attrs.get("dtype"),
            "device": _joined(attrs.get("device"), attrs.get("device_name")),
            "seed": attrs.get("seed"),
            "made at": attrs.get("made_at"),
            "took": None if attrs.get("wall_seconds") is None else f"{attrs['wall_seconds']:.1f} s",
            "git revision": attrs.get("git_revision"),
            "versions": attrs.get("versions"),
        }
    )


def _are_circuits(ds: xr.Dataset) -> bool:
    """Whether each cell is a circuit, of which leaving out little changes little: the strongest is the emptiest."""
    return "edges" in ds.coords and names.CELL in ds["edges"].dims


def _table_of_circuits(ds: xr.Dataset, k: int, metric: str) -> pd.DataFrame:
    """The first circuits with what is left of the metric."""
    table = fx.summary(fx.choose_metric(ds, metric), "value").isel({names.METRIC: 0, names.CELL: slice(k)})
    columns = [name for name in ("circuit", "size", "edges", "mean", "low", "high", "n") if name in table.variables]
    return pd.DataFrame({name: table[name].values for name in columns}).rename(columns={"mean": metric})


def _circuits(ds: xr.Dataset) -> str | None:
    """The names of circuits along ``cell``, with how many edges they have."""
    if not _are_circuits(ds) or "circuit" not in ds.coords:
        return None
    every = [f"{name} ({edges:,} edges)" for name, edges in zip(ds["circuit"].values, ds["edges"].values, strict=True)]
    more = len(every) - _CIRCUITS
    return ", ".join(every[:_CIRCUITS]) + (f" and {more} more" if more > 0 else "")


def _known(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: known for name, known in facts.items() if known not in (None, "")}


def _digests(digest: object) -> object:
    """Of several models, stacked, how many: a list of sixty is no fact to read."""
    return f"{len(set(digest.values()))} digests" if isinstance(digest, Mapping) else digest


def _joined(*parts: object) -> str:
    return ", ".join(str(p) for p in parts if p is not None)


def _listed(items: Any) -> list[Item]:
    return [items] if isinstance(items, str | go.Figure | pd.DataFrame | Mapping) else list(items)


def _render(item: object, number: int) -> str:
    if isinstance(item, str):
        return f"<p>{_text(item)}</p>"
    if isinstance(item, go.Figure):
        page = {"full_html": False, "include_plotlyjs": False, "auto_play": False}
        drawn = item.to_html(div_id=f"figure-{number}", config=HTML_CONFIG, **page)
        return f'<div class="wide figure">{drawn}</div>'
    if isinstance(item, pd.DataFrame):
        table = item.to_html(index=False, border=0, escape=True, na_rep="–", float_format="{:.3g}".format)
        return f'<div class="wide">{table}</div>'
    if isinstance(item, Mapping):
        facts = "".join(f"<dt>{_text(name)}</dt><dd>{_text(fact(known))}</dd>" for name, known in item.items())
        return f"<dl>{facts}</dl>"
    raise TypeError(f"a report is made of text, plotly figures, data frames and mappings, got {type(item).__name__}")


def fact(known: object) -> str:
    """A fact as it is written in a report."""
    if isinstance(known, Mapping):
        return ", ".join(f"{name} {fact(value)}" for name, value in known.items())
    return f"{known:.3g}" if isinstance(known, float) else str(known)


def _text(text: object) -> str:
    return html.escape(str(text))
