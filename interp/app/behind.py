"""What stands behind a figure: what a click means, the examples of a cell, their prompts, the strongest cells.

>>> detail(Library(store), ["8d0f18e6fd71"], {}, {"cell": {"layer": 3, "head": 1}}, "plotly_white")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from interp import effects as fx
from interp.app import cells, clicks, comparing, details, pages, parts
from interp.app.answers import Seen, shown, within
from interp.app.choices import across
from interp.app.data import Library
from interp.views import labels
from interp.views.edges import of_search
from interp.views.kinds import CIRCUIT, FAITHFULNESS, PARETO, PATHS

STRIP = 520
"""Width of the examples of a cell, where there is room for it."""


def clicked(
    library: Library,
    ids: Sequence[str],
    wanted: Mapping[str, Any],
    of: str,
    point: Mapping[str, Any],
    figure: Mapping[str, Any],
) -> dict[str, Any] | None:
    """What a point of a panel's figure means, as JSON; None where it means nothing."""
    seen = shown(library, ids, wanted)
    if not seen.sets:
        return None
    if seen.choice.together:
        found = clicks.together(seen.results(), seen.choice, point, figure)
    else:
        i = int(of == "b")
        found = clicks.clicked(seen.sets[i], seen.each()[i], point, figure)._replace(of=i)
    return found._asdict() if found else None


def detail(
    library: Library, ids: Sequence[str], wanted: Mapping[str, Any], point: Any, template: str, window: Any = None
) -> Any:
    """The examples of a cell, of each run that has it; the edges of a node; what to do where nothing was clicked."""
    seen = shown(library, ids, wanted)
    why, node = (str(point.get(key) or "") for key in ("why", "node")) if isinstance(point, Mapping) else ("", "")
    if why:
        return parts.note(why)
    if node and seen.sets and seen.choice.kind in (CIRCUIT, PATHS):
        return _node(seen, node, _of(seen, point))
    sided = _with_cell(seen, point)
    if not sided:
        return details.empty()
    pairs = len(sided) == 2 and comparing.same_examples(sided[0].ds, sided[1].ds)
    lacking = [side for side in seen.sides if side not in {one.side for one in sided}]
    return details.detail(sided, seen.choice, template, width=within(STRIP, window), pairs=pairs, lacking=lacking)


def prompt(library: Library, ids: Sequence[str], wanted: Mapping[str, Any], point: Any, example: int) -> Any:
    """The prompts of one example, marked for a cell."""
    seen = shown(library, ids, wanted)
    run = dict(zip(pages.SIDES, ids, strict=False))
    each = zip(seen.sides, seen.sets, strict=False)
    found = _with_cell(seen, point) or [details.Sided(side, ds, None) for side, ds in each]
    recipes = [library.recipe(run.get(one.side, ids[0])) for one in found]
    return details.prompt(found, recipes, int(seen.choice.example) if seen.choice.example.isdigit() else example)


def _with_cell(seen: Seen, point: Any) -> list[details.Sided]:
    """The results that have the cell, which is a place of one of them."""
    cell: Any = point.get("cell") if isinstance(point, Mapping) else None
    of = _of(seen, point)
    if not seen.sets or not cells.valid(seen.sets[of], cell):
        return []
    places = [cell if i == of else across(seen.sets[of], ds, cell) for i, ds in enumerate(seen.sets)]
    each = zip(seen.sides, seen.sets, places, strict=True)
    return [details.Sided(*one) for one in each if len(one[2]) == len(cell) and cells.valid(one[1], one[2])]


def _of(seen: Seen, point: Any) -> int:
    """Of which result a point is: it comes from a browser."""
    of = point.get("of") if isinstance(point, Mapping) else 0
    return of if isinstance(of, int) and 0 <= of < len(seen.sets) else 0


def _node(seen: Seen, node: str, of: int) -> Any:
    """The edges of a node of one of the results, each of which leads to its examples."""
    ds, choice = seen.sets[of], seen.each()[of]
    table, places = cells.edges(ds, choice, clicks.edges_of(ds, choice, node))
    return details.node(node, table, [{"type": "strong", "place": _written(place), "of": of} for place in places])


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
    """The table of the strongest cells; None of a result that is no sweep, and of circuits: the smallest change most."""
    _, _, sets, choice = shown(library, ids, wanted)
    if len(sets) != 1 or not fx.is_effects(sets[0]) or not fx.swept_axes(sets[0]):
        return None
    if choice.kind in (FAITHFULNESS, PARETO) or of_search(sets[0]):
        return None
    table, places = cells.strongest(sets[0], choice)
    if table.empty:
        return parts.note("No cell is computed yet.")
    found = [{"type": "strong", "place": _written(place), "of": 0} if place else None for place in places]
    ends = zip(table["effect"], table["low"], table["high"], strict=True)
    digits = {c: 2 if c == "p_adjusted" else 3 for c in list(_STRONGEST)[2:] if c in table}
    rounded = {c: [float(f"{number:.{most}g}") for number in table[c]] for c, most in digits.items()}
    told = table.assign(**rounded, effect=[labels.interval(*numbers) for numbers in ends])
    return parts.table(told[[c for c in _STRONGEST if c in told]].rename(columns=_STRONGEST), found)


def _written(place: Mapping[str, int]) -> str:
    """``layer=3/head=1``."""
    return "/".join(f"{axis}={i}" for axis, i in place.items())


def place_of(written: str) -> dict[str, int]:
    """The place that a row of the table is of: ``layer=3/head=1``."""
    return {axis: int(i) for axis, _, i in (word.partition("=") for word in written.split("/"))}
