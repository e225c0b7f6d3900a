"""What the app answers: pages, panels and files for ids of runs and choices, which come from a browser.

>>> draw(Library(store), ["8d0f18e6fd71"], {"metric": "prob"})["a"].figure               # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go
import xarray as xr
from dash import dcc

from interp.app import comparing, downloads, drawing, listing, pages, parts
from interp.app.choices import FAMILIES, ONE_LINE, TABLE, Choice, Offer, across, resolve
from interp.app.data import Library, Opened
from interp.app.strip import CLEAR
from interp.errors import StoreError, UserError
from interp.store import Run
from interp.store.run import DAMAGED

ONE, TWO = 760, 620
"""Width of a figure alone, and of one beside another, where there is room for it."""
_LEAST, _AROUND = 312, 92
"""Width of a figure that is never less, and of what is around it in a window."""
_COLUMNS, _BESIDE_TABLE, _WIDEST = 1200, 600, 1472
"""A window that is wider has columns; the table beside a figure and what is around both; the widest page."""
PANELS = ("a", "b", "difference", "both")
"""Of two runs; one alone has the first."""


class Panel(NamedTuple):
    """What stands in one panel: a figure, or what is said in its place or under it."""

    figure: go.Figure | None
    said: Any = None


class Seen(NamedTuple):
    """What is looked at: a family of each run, or all families of one."""

    sides: list[str]
    """What each is called beside the others; "" of one alone."""
    names: list[str]
    """What a figure of all of them calls each."""
    sets: list[xr.Dataset]
    choice: Choice

    def results(self) -> dict[str, xr.Dataset]:
        """By the names that a figure gives them."""
        return dict(zip(self.names, self.sets, strict=True))

    def each(self) -> list[Choice]:
        """The choice for each by itself, whose axes may be others than those of the first."""
        spec = self.choice.spec() | {"y": self.choice.y or ONE_LINE}
        at = [across(self.sets[0], ds, self.choice.at) for ds in self.sets]
        return [resolve([{self.choice.family: ds}], spec | {"at": own}).choice for ds, own in zip(self.sets, at, strict=True)]


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
    others = _others(library, runs[0].run) if len(runs) == 1 else []
    return pages.explorer(runs, others, *downloads.endings())


def _others(library: Library, run: Run) -> list[tuple[str, str]]:
    """Ids and labels of the runs to compare one with: first those of its model and task, the newest first."""
    table = library.table()
    own = table[table["id"] == run.id].to_dict("records")
    table = table[(table["id"] != run.id) & (table["status"] != DAMAGED)].sort_values("made_at", ascending=False, kind="stable")
    rows = table[["id", "name", "model", "task", "site"]].to_dict("records")
    rows.sort(key=lambda row: [row[word] != one[word] for one in own for word in ("model", "task")])
    return [(row["id"], f"{row['name'] or row['id']} · {row['model']} · {row['site']}") for row in rows]


def choose(library: Library, ids: Sequence[str], wanted: Mapping[str, Any]) -> Offer:
    """What can be chosen of one run, or of both."""
    return resolve([one.families() for one in opened(library, ids)], wanted)


def draw(
    library: Library, ids: Sequence[str], wanted: Mapping[str, Any], template: str = drawing.LIGHT, window: Any = None
) -> dict[str, Panel]:
    """The panels: ``a``, and where two runs are compared ``b`` and ``difference``, or ``both`` in one figure.

    Args:
        library: of the runs.
        ids: of one run, or of two.
        wanted: what is chosen.
        template: of plotly.
        window: its width in pixels, where that is known.
    """
    one, two = within(ONE, window, _BESIDE_TABLE), within(TWO, window)
    if isinstance(window, int) and window > _COLUMNS:
        two = min(two, (min(window, _WIDEST) - _AROUND) // 2 - 40)
    names = PANELS if len(ids) == 2 else PANELS[:1]
    nothing = Panel(None)
    seen = shown(library, ids, wanted)
    if not seen.sets:
        return dict.fromkeys(names, nothing) | _undrawn(opened(library, ids))
    if seen.choice.together:
        return dict.fromkeys(names, nothing) | {names[-1]: _together(seen, template, one)}
    panels = [
        _panel(ds, choice, template, two if len(ids) == 2 else one) for ds, choice in zip(seen.sets, seen.each(), strict=True)
    ]
    drawing.share_colours([panel.figure for panel in panels if panel.figure is not None])
    if len(ids) == 2:
        panels += [_difference(seen.sets[0], seen.sets[1], seen.choice, template, one), nothing]
    return dict(zip(names, panels, strict=True))


def _undrawn(runs: Sequence[Opened]) -> dict[str, Panel]:
    """Why nothing is drawn, in the panel of the run that it is about."""
    said = {of: f"Nothing to draw: {one.problem}." for of, one in zip(PANELS, runs, strict=False) if one.problem}
    if not said:
        said = {"a": "Nothing to draw: the two results have no family of the same name."}
    elif len(said) < len(runs):
        (other,) = {*PANELS[:2]} - {*said}
        said[other] = "Nothing is compared, as the other run cannot be read. Open this one alone to see it."
    return {of: Panel(None, parts.note(words)) for of, words in said.items()}


def within(width: int, window: Any, beside: int = _AROUND) -> int:
    """A width, or what a narrower window has room for; ``beside``: what stands in its row, where the window has columns."""
    if not isinstance(window, int):
        return width
    return max(_LEAST, min(width, window - (beside if window > _COLUMNS else _AROUND)))


def shown(library: Library, ids: Sequence[str], wanted: Mapping[str, Any]) -> Seen:
    """What is chosen of every run; nothing where there is nothing to see."""
    runs = opened(library, ids)
    families = [one.families() for one in runs]
    choice = resolve(families, wanted).choice
    if choice.family == FAMILIES:
        return Seen(list(families[0]), list(families[0]), list(families[0].values()), choice)
    called = [f"{side} {one.run.name or one.run.id}" for side, one in zip(pages.SIDES, runs, strict=False)]
    there = all(choice.family in own for own in families)
    sides = pages.SIDES if len(runs) == 2 else ("",)
    return Seen(list(sides), called, [own[choice.family] for own in families] if there else [], choice)


def save(library: Library, ids: Sequence[str], wanted: Mapping[str, Any], of: str, ending: str) -> tuple[bytes, str]:
    """A file to download and its name.

    Raises:
        UserError: the figure or the file cannot be made.
    """
    seen = shown(library, ids, wanted)
    if of not in (PANELS if len(ids) == 2 else PANELS[:1]) or ending not in downloads.MIMES or not seen.sets:
        raise StoreError(f"nothing to download as {ending!r} of {of!r}")
    words = list(ids) if of in PANELS[2:] else [ids["ab".index(of)]]
    family = "" if seen.choice.family == FAMILIES else seen.choice.family
    name = downloads.filename(*words, family, seen.choice.kind, str(seen.choice.quantity or ""), ending=ending)
    if ending in ("csv", "nc"):
        return _numbers(seen, ids, of, ending), name
    panel = draw(library, ids, wanted)[of]
    if panel.figure is None:
        raise StoreError("there is no figure in this panel")
    return downloads.figure(panel.figure, ending), name


def _numbers(seen: Seen, ids: Sequence[str], of: str, ending: str) -> bytes:
    if of == "both":
        raise StoreError("the numbers of a figure of both runs are those of each; download them one by one")
    if of == "difference":
        found = comparing.difference(seen.sets[0], seen.sets[1], seen.choice)
        return downloads.numbers(found.to_dataset(name="difference"), ending)
    if seen.choice.family == FAMILIES:
        return downloads.numbers(xr.DataTree.from_dict(seen.results()), ending)
    return downloads.numbers(seen.sets["ab".index(of)], ending)


def opened(library: Library, ids: Sequence[str]) -> list[Opened]:
    return [library.open(run_id) for run_id in ids]


def _together(seen: Seen, template: str, width: int) -> Panel:
    try:
        return Panel(drawing.together(seen.results(), seen.choice, template=template, width=width))
    except UserError as error:
        return Panel(None, parts.note(f"This cannot be drawn: {error}"))


def _panel(ds: xr.Dataset, choice: Choice, template: str, width: int) -> Panel:
    if choice.view == TABLE:
        return Panel(None, pages.variables(ds))
    try:
        return Panel(drawing.draw(ds, choice, template=template, width=width))
    except UserError as error:
        return Panel(None, parts.note(f"This cannot be drawn: {error}"))


def _difference(a: xr.Dataset, b: xr.Dataset, choice: Choice, template: str, width: int) -> Panel:
    try:
        found = comparing.difference(a, b, choice)
        return Panel(
            drawing.of_difference(found, choice, template, width), parts.note(f"Difference {found.attrs['difference']}.")
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
        figure.update_traces(arrangement="fixed", selector={"type": "sankey"})  # nodes that can be dragged hear no click
        graph = [dcc.Graph(id={"type": "map", "of": of, "as": kind}, figure=figure, config=parts.GRAPH)]
    return [*graph, *([panel.said] if panel.said is not None else [])]
