"""What can be chosen of one result, or of two that are compared: family, drawing, metric, quantity, axes.

>>> resolve([{"": effects}], {"metric": "prob"}).choice                                 # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import xarray as xr

from interp import axes as names
from interp import effects as fx
from interp.effects.quantities import QUANTITIES
from interp.views import kinds, together
from interp.views.circuits import METHOD, SIZE
from interp.views.heatmap import default_quantity
from interp.views.kinds import ATTENTION, COMPARE, CURVE, DLA, IIA, LENS, MAP, SAYS, TOKENS

Families = Mapping[str, xr.Dataset]

CONTROLS = ("family", "view", "metric", "quantity", "x", "y", "example")
"""What is chosen in a menu, in the order in which one depends on the other."""

TABLE = "table"
"""In place of a view: the variables of a result."""
TOGETHER = "+"
"""Behind the name of a view that draws both runs, or all families, in one figure."""
FAMILIES = "*"
"""In place of one family: all of them."""
ALL = "all"
"""In place of an example's number: the mean over them."""
ONE_LINE = "one line"
"""In place of an axis with a line for each of its places."""
_OF_QUANTITY = (MAP, CURVE, TOKENS, kinds.EDGES, kinds.CIRCUIT, kinds.PATHS, COMPARE)


@dataclass(frozen=True, slots=True)
class Choice:
    """What is drawn; axes that are not drawn stand at one place each."""

    family: str = ""
    view: str = TABLE
    metric: str | None = None
    quantity: str | None = None
    x: str | None = None
    y: str | None = None
    example: str = ALL
    at: dict[str, int] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The view, whether it is of one result or of several."""
        return self.view.removesuffix(TOGETHER)

    @property
    def together(self) -> bool:
        """Whether all results are in one figure."""
        return self.view.endswith(TOGETHER)

    def spec(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Offer:
    """A choice, what else there is for each control, as value and label, and the axes that a slider runs along."""

    choice: Choice
    values: dict[str, str | None]
    """What stands in each menu."""
    options: dict[str, list[tuple[str, str]]]
    sliders: dict[str, list[str]]
    """The labels of the places along each."""


def resolve(runs: Sequence[Families], wanted: Mapping[str, Any]) -> Offer:
    """The choice nearest to what is wanted, with what every run has; what cannot be had is replaced by the usual.

    Args:
        runs: the families of the run, or of both runs that are compared.
        wanted: by control, anything: it comes from a browser. ``at`` gives places of axes.
    """
    options: dict[str, list[tuple[str, str]]] = {}
    chosen: dict[str, Any] = {}

    def pick(control: str, offered: Iterable[tuple[str, str]], usual: str | None = None) -> str | None:
        options[control] = list(offered)
        values = [value for value, _ in options[control]]
        asked = wanted.get(control)
        chosen[control] = asked if asked in values else usual if usual in values else next(iter(values), None)
        return chosen[control]

    family = pick("family", _families(runs))
    if family is None:
        return Offer(Choice(), dict.fromkeys(CONTROLS), {control: [] for control in CONTROLS}, {})
    sets = list(runs[0].values()) if family == FAMILIES else [run[family] for run in runs]
    ds = sets[0]
    pick("view", _views(sets, alone=family != FAMILIES, sides=len(runs) > 1))
    choice = Choice(view=chosen["view"] or TABLE)
    view = choice.kind
    metrics = together.metrics(sets) if view not in (LENS, ATTENTION, DLA, IIA, TABLE) else []
    pick("metric", ((m, m) for m in metrics), "prob" if view == kinds.TRACING else None)
    pick("quantity", ((q, q) for q in _quantities(sets, choice)), _usual(ds, view, chosen["metric"]))
    variable = None if kinds.measures(ds, view) else chosen["quantity"]
    x, y, rest = _axes(pick, sets, choice, variable)
    pick("example", _examples(ds, choice), _first(ds, choice))
    asked = wanted.get("at")
    at = _places(ds, rest, asked if isinstance(asked, Mapping) else {}, chosen["metric"])
    sliders = {axis: labels(ds, axis) for axis in rest if ds.sizes[axis] > 1}
    choice = Choice(**{**chosen, "x": x, "y": y, "view": choice.view, "example": chosen["example"] or ALL, "at": at})
    return Offer(choice, chosen, options, sliders)


def labels(ds: xr.Dataset, axis: str) -> list[str]:
    """What the places along an axis are called."""
    told = kinds.told(ds, axis)
    values = ds[told].values.tolist() if told in ds.coords else range(ds.sizes[axis])
    return [str(value) for value in values]


def across(first: xr.Dataset, other: xr.Dataset, place: Mapping[str, int]) -> dict[str, int]:
    """The place of another result that is called the same along each axis; without those where it has none of that name.

    Cells of a list are known by the edge or the intervention that each is, and circuits by method and size where that is all.
    """
    found = {}
    for axis, i in place.items():
        known = _called(other, axis) if axis in other.dims else []
        if axis in first.dims and (name := _called(first, axis)[i]) in known:
            found[axis] = known.index(name)
    return found


def _called(ds: xr.Dataset, axis: str) -> list[str]:
    if kinds.told(ds, axis) != axis:
        return labels(ds, axis)
    said = [ds[word].values.tolist() for word in (METHOD, SIZE) if word in ds.coords and ds[word].dims == (axis,)]
    return [" ".join(map(str, words)) for words in zip(*said, strict=True)] if said else labels(ds, axis)


def _families(runs: Sequence[Families]) -> list[tuple[str, str]]:
    """Families that all runs have, and of one run all of them, where a view draws them together."""
    common = [(name, name or "the result") for name in runs[0] if all(name in other for other in runs[1:])]
    return [*common, *([(FAMILIES, "all together")] if len(runs) == 1 and together.of_several(runs[0]) else [])]


def _views(sets: Sequence[xr.Dataset], *, alone: bool, sides: bool) -> list[tuple[str, str]]:
    """Views of each result by itself, those of all in one figure, and the table."""
    fit = [v for v in together.of_several({str(i): ds for i, ds in enumerate(sets)}) if sides or not alone]
    several = [(f"{v}{TOGETHER}", f"A and B: {SAYS[v]}" if sides else SAYS[v]) for v in fit]
    if not alone:
        return several
    first, *others = (kinds.of_one(ds) for ds in sets)
    own = [(v, SAYS[v]) for v in first if all(v in other for other in others)]
    return [*own, *several, (TABLE, "variables")]


def _quantities(sets: Sequence[xr.Dataset], choice: Choice) -> list[str]:
    view = choice.kind
    measure = [kinds.measures(ds, view) for ds in sets]
    if all(measure):
        known = QUANTITIES if all(map(fx.paired, sets)) else ("effect", "value")
        return list(known) if view in _OF_QUANTITY else []
    if any(measure):
        return []
    if choice.together:
        return together.shared_variables(sets, view) if view in (COMPARE, CURVE) else []
    found = [kinds.variables(ds, view) for ds in sets]
    return [name for name in found[0] if all(name in other for other in found[1:])]


def _usual(ds: xr.Dataset, view: str, metric: str | None) -> str | None:
    if not kinds.measures(ds, view) or metric is None:
        return None
    return "effect" if view == COMPARE else default_quantity(fx.choose_metric(ds, metric))


def _axes(
    pick: Any, sets: Sequence[xr.Dataset], choice: Choice, variable: str | None
) -> tuple[str | None, str | None, list[str]]:
    """The axes that are drawn, and those that stand at one place."""
    ds, view = sets[0], choice.kind
    if view == TABLE or (choice.together and view != CURVE):
        pick("x", ())
        pick("y", ())
        return None, None, []
    swept = kinds.swept(ds, view, variable)
    if view not in (MAP, CURVE):
        pick("x", ())
        pick("y", ())
        return None, None, swept
    usual, other = kinds.usual(ds, view, swept)
    if view == MAP:
        x = pick("x", ((a, a) for a in swept), usual)
        y = pick("y", ((a, a) for a in swept if a != x), other if other != x else usual)
        return x, y, [a for a in swept if a not in (x, y)]
    x = pick("x", ((a, a) for a in (together.shared_axes(sets, variable) if choice.together else swept)), usual)
    lines = [a for a in kinds.lines(ds, swept, str(x)) if all(a in kinds.swept(one, view, variable) for one in sets)]
    each = [(a, f"a line for each {a}") for a in lines]
    y = pick("y", [*each, (ONE_LINE, ONE_LINE)] if each else [], ONE_LINE if choice.together else other)
    y = None if y == ONE_LINE else y
    return x, y, [a for a in swept if a not in (x, y, names.SEED)]  # of seeds the mean and their range are drawn


def _examples(ds: xr.Dataset, choice: Choice) -> list[tuple[str, str]]:
    """Numbers of the examples of a drawing that shows one of them."""
    if choice.view not in (LENS, ATTENTION, DLA, TOKENS) or names.EXAMPLE not in ds.dims:
        return []
    said = next((c for c in ("prompt", "clean_prompt") if c in ds.coords and ds[c].ndim), None)
    words = ds[said].values.tolist() if said is not None else [""] * ds.sizes[names.EXAMPLE]
    each = [(str(i), f"{i} {' '.join(str(text).split())[:60]}") for i, text in enumerate(words)]
    return [(ALL, "mean of all"), *each] if choice.view in (DLA, TOKENS) else each


def _first(ds: xr.Dataset, choice: Choice) -> str | None:
    """The example that is shown first."""
    example = kinds.opening_example(ds) if choice.view == TOKENS else None
    return None if example is None else str(example)


def _places(ds: xr.Dataset, rest: Sequence[str], asked: Mapping[str, Any], metric: str | None) -> dict[str, int]:
    """Where the axes stand: where they are asked to, as far as there is such a place."""
    known = {a: asked[a] for a in rest if isinstance(asked.get(a), int) and 0 <= asked[a] < ds.sizes[a]}
    return known if len(known) == len(rest) else kinds.opening(ds, rest, metric) | known
