"""What the app answers: pages, panels, details and files for ids of runs and choices, which come from a browser.

>>> draw(Library(store), ["8d0f18e6fd71"], {"metric": "prob"})["a"].figure               # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go
import xarray as xr
from dash import dcc

from interp import effects as fx
from interp.app import cells, comparing, downloads, drawing, listing, pages, parts
from interp.app.choices import ONE_LINE, TABLE, Choice, Offer, is_sweep, resolve
from interp.app.data import Library, Opened
from interp.app.strip import CLEAR
from interp.errors import StoreError, UserError
from interp.store.run import DAMAGED
from interp.views import labels

ONE, TWO = 760, 620
"""Width of a figure alone, and of one beside another."""


class Panel(NamedTuple):
    """What stands in one panel: a figure, or what is said in its place or under it."""

    figure: go.Figure | None
    said: Any = None


def route(library: Library, path: str | None) -> Any:
    """The page of an address."""
    parts_ = [part for part in (path or "/").split("/") if part]
    if not parts_:
        return listing.page(library.table())
    if (parts_[0], len(parts_)) not in (("run", 2), ("compare", 3)):
        return pages.missing(f"There is no page {path!r}.")
    try:
        runs = [library.open(run_id) for run_id in parts_[1:]]
    except StoreError as error:
        return pages.missing(str(error))
    others: list[tuple[str, str]] = []
    if len(runs) == 1:
        table = library.table()
        table = table[(table["id"] != runs[0].run.id) & (table["status"] != DAMAGED)]
        others = [
            (row["id"], f"{row['name'] or row['id']} · {row['model']} · {row['site']}") for row in table.to_dict("records")
        ]
    return pages.explorer(runs, others, *downloads.endings())


def choose(library: Library, ids: Sequence[str], wanted: Mapping[str, Any]) -> Offer:
    """What can be chosen of one run, or of both."""
    return resolve([one.families() for one in opened(library, ids)], wanted)


def draw(library: Library, ids: Sequence[str], wanted: Mapping[str, Any], template: str = drawing.LIGHT) -> dict[str, Panel]:
    """The panels: ``a``, and where two runs are compared ``b`` and ``difference``."""
    sets, choice = shown(library, ids, wanted)
    names = ["a", "b", "difference"][: 3 if len(ids) == 2 else 1]
    if not sets:
        runs = opened(library, ids)
        why = next((o.problem for o in runs if o.problem), "the two results have no family of the same name")
        return {name: Panel(None, parts.note(f"Nothing to draw: {why}.")) for name in names}
    width = TWO if len(ids) == 2 else ONE
    panels = [_panel(ds, _own(ds, choice), template, width) for ds in sets]
    drawing.share_colours([panel.figure for panel in panels if panel.figure is not None])
    if len(sets) == 2:
        panels.append(_difference(sets[0], sets[1], choice, template))
    return dict(zip(names, panels, strict=True))


def shown(library: Library, ids: Sequence[str], wanted: Mapping[str, Any]) -> tuple[list[xr.Dataset], Choice]:
    """The chosen family of every run, and the choice; no families where there is nothing to see."""
    families = [one.families() for one in opened(library, ids)]
    choice = resolve(families, wanted).choice
    return [own[choice.family] for own in families] if all(choice.family in own for own in families) else [], choice


def clicked(
    library: Library,
    ids: Sequence[str],
    wanted: Mapping[str, Any],
    of: str,
    point: Mapping[str, Any],
    figure: Mapping[str, Any],
) -> dict[str, int] | None:
    """The cell at a point of a panel's figure."""
    sets, choice = shown(library, ids, wanted)
    if not sets:
        return None
    ds = sets[of == "b"]
    return drawing.clicked(ds, _own(ds, choice), point, figure)


def detail(library: Library, ids: Sequence[str], wanted: Mapping[str, Any], cell: Any, template: str) -> Any:
    """The examples of a cell, of each run that has it; what to do where none was clicked."""
    sided, choice = _with_cell(library, ids, wanted, cell)
    if not sided:
        return pages.empty_detail()
    pairs = len(sided) == 2 and comparing.same_examples(sided[0][1], sided[1][1])
    return pages.detail(sided, choice, cell, template, pairs=pairs)


def prompt(library: Library, ids: Sequence[str], wanted: Mapping[str, Any], cell: Any, example: int) -> Any:
    """The prompts of one example, marked for a cell."""
    sided, choice = _with_cell(library, ids, wanted, cell)
    run = dict(zip(pages.SIDES, ids, strict=False))
    shown = [(side, ds, library.recipe(run[side or pages.SIDES[0]])) for side, ds in sided]
    return pages.prompt(shown, int(choice.example) if choice.example.isdigit() else example, cell)


def save(library: Library, ids: Sequence[str], wanted: Mapping[str, Any], of: str, ending: str) -> tuple[bytes, str]:
    """A file to download and its name.

    Raises:
        UserError: the figure or the file cannot be made.
    """
    sets, choice = shown(library, ids, wanted)
    if of not in ("a", "b", "difference")[: 3 if len(ids) == 2 else 1] or ending not in downloads.MIMES or not sets:
        raise StoreError(f"nothing to download as {ending!r} of {of!r}")
    words = list(ids) if of == "difference" else [ids["ab".index(of)]]
    name = downloads.filename(*words, choice.family, choice.view, str(choice.quantity or ""), ending=ending)
    if ending in ("csv", "nc"):
        if of == "difference":
            return downloads.numbers(comparing.difference(sets[0], sets[1], choice).to_dataset(name="difference"), ending), name
        return downloads.numbers(sets["ab".index(of)], ending), name
    panel = draw(library, ids, wanted)[of]
    if panel.figure is None:
        raise StoreError("there is no figure in this panel")
    return downloads.figure(panel.figure, ending), name


def opened(library: Library, ids: Sequence[str]) -> list[Opened]:
    return [library.open(run_id) for run_id in ids]


def _with_cell(
    library: Library, ids: Sequence[str], wanted: Mapping[str, Any], cell: Any
) -> tuple[list[tuple[str, xr.Dataset]], Choice]:
    """The runs that have the cell, with what they are called beside each other."""
    sets, choice = shown(library, ids, wanted)
    sides = pages.SIDES if len(sets) == 2 else ("",)
    return [(side, ds) for side, ds in zip(sides, sets, strict=False) if cells.valid(ds, cell)], choice


def _own(ds: xr.Dataset, choice: Choice) -> Choice:
    """The choice for one of the two, whose axes may be others than those of the other one."""
    return resolve([{choice.family: ds}], choice.spec() | {"y": choice.y or ONE_LINE}).choice


def _panel(ds: xr.Dataset, choice: Choice, template: str, width: int) -> Panel:
    if choice.view == TABLE:
        return Panel(None, pages.variables(ds))
    try:
        return Panel(drawing.draw(ds, choice, template=template, width=width))
    except UserError as error:
        return Panel(None, parts.note(f"This cannot be drawn: {error}"))


def _difference(a: xr.Dataset, b: xr.Dataset, choice: Choice, template: str) -> Panel:
    try:
        found = comparing.difference(a, b, choice)
        return Panel(
            drawing.of_difference(found, choice, template, ONE), parts.note(f"Difference {found.attrs['difference']}.")
        )
    except UserError as error:
        return Panel(None, parts.note(str(error)))


def on_screen(of: str, panel: Panel, kind: str) -> list[Any]:
    """What stands in a panel; the page's colour shows through its figure, and zooming survives a new drawing.

    A figure of another kind is another graph: plotly leaves ticks and titles of the old one behind when it changes it in place.
    """
    graph = []
    if panel.figure is not None:
        figure = panel.figure.update_layout(**CLEAR, uirevision=kind)
        graph = [dcc.Graph(id={"type": "map", "of": of, "as": kind}, figure=figure, config=parts.GRAPH)]
    return [*graph, *([panel.said] if panel.said is not None else [])]


_STRONGEST = {
    "cell": "cell",
    "effect": "effect",
    "effect_adjusted": "held out",
    "p_adjusted": "p",
    "recovery": "recovery",
    "damage": "damage",
}
"""What the table of the strongest cells shows: the effect, what it is worth without luck, whether it differs from 0."""


def strongest(library: Library, ids: Sequence[str], wanted: Mapping[str, Any]) -> Any:
    """The table of the strongest cells; None of a result that is no sweep."""
    sets, choice = shown(library, ids, wanted)
    if len(sets) != 1 or not is_sweep(sets[0]) or not fx.swept_axes(sets[0]):
        return None
    table, places = cells.strongest(sets[0], choice)
    if table.empty:
        return parts.note("No cell is computed yet.")
    found = [{"type": "strong", "place": "/".join(f"{a}={i}" for a, i in place.items())} if place else None for place in places]
    ends = zip(table["effect"], table["low"], table["high"], strict=True)
    told = table.assign(effect=[labels.interval(*numbers) for numbers in ends])
    return parts.table(told[[c for c in _STRONGEST if c in told]].rename(columns=_STRONGEST), found)


def place_of(written: str) -> dict[str, int]:
    """The place that a row of the table is of: ``layer=3/head=1``."""
    return {axis: int(i) for axis, _, i in (word.partition("=") for word in written.split("/"))}
