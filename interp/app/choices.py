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
from interp.views.heatmap import default_quantity
from interp.views.lens import VALUES

Families = Mapping[str, xr.Dataset]

CONTROLS = ("family", "view", "metric", "quantity", "x", "y", "example")
"""What is chosen in a menu, in the order in which one depends on the other."""

MAP, CURVE, EDGES, CIRCUIT, PATHS, TOKENS = "map", "curve", "edges", "circuit", "paths", "tokens"
LENS, ATTENTION, DLA, TABLE = "lens", "attention", "dla", "table"
_SAYS = {
    MAP: "map",
    CURVE: "curve",
    EDGES: "senders × receivers",
    CIRCUIT: "circuit",
    PATHS: "paths",
    TOKENS: "tokens",
    LENS: "logit lens",
    ATTENTION: "attention pattern",
    DLA: "direct logit attribution",
    TABLE: "variables",
}
_OF_EFFECTS = (MAP, CURVE, EDGES, CIRCUIT, PATHS, TOKENS)
_GRAPH = {"sender_layer", "sender_head", "receiver_layer", "receiver_head"}
ALL = "all"
"""In place of an example's number: the mean over them."""
ONE_LINE = "one line"
"""In place of an axis with a line for each of its places."""
_LINES = 12
"""Lines that a curve shows unless more are asked for."""


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


def is_sweep(ds: xr.Dataset) -> bool:
    """Whether it is laid out as :mod:`interp.effects` says."""
    return fx.is_effects(ds)


def of_one(ds: xr.Dataset, choice: Choice) -> xr.Dataset:
    """A sweep with the chosen metric alone, at the places where its other axes stand."""
    return fx.choose_metric(ds, choice.metric).isel({a: i for a, i in choice.at.items() if a in ds.dims})


def array(ds: xr.Dataset, choice: Choice) -> xr.DataArray:
    """The chosen variable of a result that is no sweep, at the places where its other axes stand."""
    found = ds[str(choice.quantity)]
    if names.METRIC in found.dims:
        found = found.sel({names.METRIC: choice.metric})
    found = found.assign_attrs({**ds.attrs, **found.attrs})
    return found.isel({a: i for a, i in choice.at.items() if a in found.dims})


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

    family = pick("family", ((name, name or "the result") for name in _common(runs)))
    if family is None:
        return Offer(Choice(), dict.fromkeys(CONTROLS), {control: [] for control in CONTROLS}, {})
    sets = [run[family] for run in runs]
    ds = sets[0]
    views = [view for view in _views(ds) if all(view in _views(other) for other in sets[1:])]
    view = pick("view", ((v, _SAYS[v]) for v in views)) or TABLE
    pick("metric", ((m, m) for m in _metrics(sets)) if view in _OF_EFFECTS else ())
    pick("quantity", ((q, q) for q in _quantities(sets, view)), _usual(ds, chosen["metric"]))
    x, y, swept = _axes(pick, ds, view, chosen["quantity"])
    pick("example", _examples(ds, view))
    rest = [axis for axis in swept if axis not in (x, y)]
    places = wanted.get("at") if isinstance(wanted.get("at"), Mapping) else {}
    at = {axis: _place((places or {}).get(axis), ds.sizes[axis]) for axis in rest}
    sliders = {axis: labels(ds, axis) for axis in rest if ds.sizes[axis] > 1}
    choice = Choice(**{**chosen, "x": x, "y": y, "example": chosen["example"] or ALL, "at": at})
    return Offer(choice, chosen, options, sliders)


def labels(ds: xr.Dataset, axis: str) -> list[str]:
    """What the places along an axis are called."""
    values = ds[axis].values.tolist() if axis in ds.coords else range(ds.sizes[axis])
    return [str(value) for value in values]


def _common(runs: Sequence[Families]) -> list[str]:
    """Families of all runs; two results of one family each are compared whatever their names are."""
    return [name for name in runs[0] if all(name in other for other in runs[1:])]


def _views(ds: xr.Dataset) -> list[str]:
    if is_sweep(ds):
        axes = [a for a in fx.swept_axes(ds) if ds.sizes[a] > 1 or len(fx.swept_axes(ds)) <= 2]
        coords = set(map(str, ds.coords))
        found = [EDGES] if {"sender", "receiver"} <= coords else []
        found += [CIRCUIT, PATHS] if coords >= _GRAPH else []
        found += [MAP] if len(axes) >= 2 else []
        found += [CURVE] if axes and axes != [names.CELL] else []
        return [*found, *([TOKENS] if "clean_token" in coords else []), TABLE]
    found = [LENS] if {"token", "prob", "entropy"} <= set(ds) else []
    found += [ATTENTION] if "pattern" in ds else []
    found += [DLA] if "contribution" in ds else []
    found += [MAP] if _drawable(ds, 2) else []
    return [*found, *([CURVE] if _drawable(ds, 1) else []), TABLE]


def _drawable(ds: xr.Dataset, axes: int) -> list[str]:
    """Variables of numbers with so many axes besides their examples."""
    few = {names.EXAMPLE, names.METRIC}
    numbers = [(str(name), v) for name, v in ds.data_vars.items() if v.dtype.kind in "fiub"]
    return [name for name, v in numbers if len([d for d in v.dims if d not in few]) >= axes]


def _metrics(sets: Sequence[xr.Dataset]) -> list[str]:
    found = [[str(m) for m in ds[names.METRIC].values.ravel()] if names.METRIC in ds.coords else [] for ds in sets]
    return [metric for metric in found[0] if all(metric in other for other in found[1:])]


def _quantities(sets: Sequence[xr.Dataset], view: str) -> list[str]:
    ds = sets[0]
    if view == LENS:
        found = [[name for name in VALUES if name in one] for one in sets]
    elif view in _OF_EFFECTS and is_sweep(ds):
        pairs = all(fx.paired(one) for one in sets)
        found = [[q for q in QUANTITIES if pairs or q in ("effect", "value")]]
    elif view in (MAP, CURVE):
        found = [_drawable(one, 2 if view == MAP else 1) for one in sets]
    else:
        return []
    return [name for name in found[0] if all(name in other for other in found[1:])]


def _usual(ds: xr.Dataset, metric: str | None) -> str | None:
    return default_quantity(fx.choose_metric(ds, metric)) if is_sweep(ds) and metric is not None else None


def _axes(pick: Any, ds: xr.Dataset, view: str, quantity: str | None) -> tuple[str | None, str | None, list[str]]:
    """The axes that are drawn, and all that could be."""
    if view == ATTENTION:
        pick("x", ())
        pick("y", ())
        return None, None, [a for a in (names.LAYER, names.HEAD) if a in ds["pattern"].dims]
    if view == TOKENS:
        pick("x", ())
        pick("y", ())
        return None, None, [a for a in fx.swept_axes(ds) if a != names.POSITION]
    if view not in (MAP, CURVE) or (quantity is None and not is_sweep(ds)):
        pick("x", ())
        pick("y", ())
        return None, None, []
    few = {names.EXAMPLE, names.METRIC}
    swept = list(fx.swept_axes(ds)) if is_sweep(ds) else [str(d) for d in ds[quantity].dims if d not in few]
    long = [a for a in swept if ds.sizes[a] > 1] or swept
    long = long if len(long) > 1 or view == CURVE else swept
    if view == MAP:
        x = pick("x", ((a, a) for a in swept), long[-1])
        return x, pick("y", ((a, a) for a in swept if a != x), next(a for a in reversed(long) if a != x)), swept
    x = pick("x", ((a, a) for a in swept), long[0])
    lines = [a for a in swept if a != x and ds.sizes[a] <= _LINES]
    y = pick("y", [*((a, f"a line for each {a}") for a in lines), (ONE_LINE, ONE_LINE)] if lines else [])
    return x, None if y == ONE_LINE else y, swept


def _examples(ds: xr.Dataset, view: str) -> list[tuple[str, str]]:
    """Numbers of the examples of a drawing that shows one of them."""
    if view not in (LENS, ATTENTION, DLA, TOKENS) or names.EXAMPLE not in ds.dims:
        return []
    said = next((c for c in ("prompt", "clean_prompt") if c in ds.coords and ds[c].ndim), None)
    words = ds[said].values.tolist() if said is not None else [""] * ds.sizes[names.EXAMPLE]
    each = [(str(i), f"{i} {' '.join(str(text).split())[:60]}") for i, text in enumerate(words)]
    return [(ALL, "mean of all"), *each] if view in (DLA, TOKENS) else each


def _place(asked: object, size: int) -> int:
    return asked if isinstance(asked, int) and 0 <= asked < size else size - 1
