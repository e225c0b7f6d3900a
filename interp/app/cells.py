"""What stands behind one cell: its name, its interval, and the value of every example.

>>> examples(effects, choice, {"layer": 3, "head": 1})                                  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from interp import axes as names
from interp import effects as fx
from interp.app.choices import Choice
from interp.app.data import numbers
from interp.views import drawing, kinds, labels
from interp.views.circuits import SIZE
from interp.views.kinds import FAITHFULNESS, PARETO

_NORMALISED = ("recovery", "damage")
_OF_CIRCUITS = (FAITHFULNESS, PARETO)
_RANKS = "rank"
_ENDS = ("term", "sender", "receiver")
"""Axes whose places say what they are."""


def valid(ds: xr.Dataset, cell: object) -> bool:
    """Whether it is a place along the axes of a result: it comes from a browser and may be of another result."""
    if not isinstance(cell, Mapping):
        return False
    there = all(axis in ds.sizes and isinstance(i, int) and 0 <= i < ds.sizes[axis] for axis, i in cell.items())
    return there and (not fx.is_effects(ds) or set(cell) == set(fx.swept_axes(ds)))


def name(ds: xr.Dataset, cell: Mapping[str, int]) -> str:
    """``L3H1``; of an edge, what it joins, of a circuit, its size first, and of a pattern, the two positions."""
    if names.CELL in cell and (told := kinds.told(ds, names.CELL)) != names.CELL:
        i, sized = cell[names.CELL], SIZE in ds.coords and ds[SIZE].dims == (names.CELL,)
        return (f"size {ds[SIZE].values[i]}: " if sized else "") + str(ds[told].values[i])
    coords = {axis: ds[axis].values.tolist()[i] if axis in ds.coords else i for axis, i in cell.items()}
    words = [str(coords.pop(axis)) for axis in _ENDS if axis in coords]
    words = [" → ".join(words)] if words else []
    return " ".join(words + ([fx.cell_name(coords)] if coords else []))


def by_name(ds: xr.Dataset, axes: Sequence[str], called: str) -> dict[str, int] | None:
    """The place of a cell that is called so; None where there is none.

    Args:
        ds: a result.
        axes: that its cells have.
        called: ``L3H1``, or the edge or intervention that it is.
    """
    told = kinds.told(ds, names.CELL)
    if told != names.CELL and list(axes) == [names.CELL]:
        same = np.flatnonzero(ds[told].values == called)
        return {names.CELL: int(same[0])} if len(same) else None
    known = [ds[axis].values.tolist() if axis in ds.coords else list(range(ds.sizes[axis])) for axis in axes]
    for place in product(*(range(len(values)) for values in known)):
        if fx.cell_name({axis: values[i] for axis, values, i in zip(axes, known, place, strict=True)}) == called:
            return dict(zip(axes, place, strict=True))
    return None


def said(ds: xr.Dataset, choice: Choice, cell: Mapping[str, int]) -> str:
    """``recovery of logit_diff 0.31 ± 0.02 (n=100)``: the number that the map shows."""
    if not fx.is_effects(ds):
        return ""
    one = fx.choose_metric(ds, choice.metric).isel(cell)
    metric = str(one[names.METRIC].values)
    usual = "recovery" if choice.kind in _OF_CIRCUITS else "effect"
    quantity = (choice.quantity or usual) if kinds.measures(ds, choice.kind) else "value"
    if bool(one["absent"]) if "absent" in one else False:
        return "there is no such site"
    if bool(one["value"].isnull().all()):
        return "not computed yet"
    table = fx.summary(one, quantity).isel({names.METRIC: 0})
    number = labels.interval(*(float(table[column]) for column in ("mean", "low", "high")))
    rule = ", equal to the base by rule" if bool(one["by_rule"].all()) else ""
    n = f"n={int(table['n'])}{labels.clusters(table)}"
    return f"{labels.quantity_name(quantity, metric)} {number} ({n}){rule}"


def examples(ds: xr.Dataset, choice: Choice, cell: Mapping[str, int]) -> pd.DataFrame:
    """A row an example: of a sweep its runs and its effect, of any other result each of its variables there."""
    if not fx.is_effects(ds):
        return _variables(ds, cell)
    one = fx.choose_metric(ds, choice.metric).isel(cell)
    columns: dict[str, Any] = {"example": numbers(one)}
    if "template" in one.coords:
        columns["template"] = one["template"].values
    sides = {"clean": "clean", "corrupted": "corrupt"} if fx.paired(one) else {"unchanged": "clean"}
    columns |= {word: one[side].values for word, side in (*sides.items(), ("changed", "value"))}
    columns["effect"] = fx.effect(one).values
    if choice.quantity in _NORMALISED:
        ratio = fx.recovery if choice.quantity == "recovery" else fx.damage
        columns[choice.quantity] = ratio(one, None).values
    return pd.DataFrame(columns)


def drawn_column(table: pd.DataFrame, choice: Choice) -> str | None:
    """What the strip shows: the effect in the metric's own units, or the value where that is what the map shows."""
    wanted = "changed" if choice.quantity == "value" else "effect"
    if wanted in table:
        return wanted
    if len(table) < 2:
        return None
    numbers = [str(column) for column in table.columns[1:] if table[column].dtype.kind in "fiub"]
    return choice.quantity if choice.quantity in numbers else next(iter(numbers), None)


def _variables(ds: xr.Dataset, cell: Mapping[str, int]) -> pd.DataFrame:
    """Every variable that has the axes of the cell, there; lists such as the likeliest tokens as text.

    A row an example, or a seed where there are seeds and no examples; of examples with seeds the mean over these.
    """
    there = {str(name): values.isel(cell) for name, values in ds.data_vars.items() if set(cell) <= set(values.dims)}
    rows = names.EXAMPLE if not any(names.SEED in v.dims for v in there.values()) else names.SEED
    rows = names.EXAMPLE if any(names.EXAMPLE in v.dims for v in there.values()) else rows
    found: dict[str, Any] = {}
    for variable, values in there.items():
        if rows == names.EXAMPLE and names.SEED in values.dims:
            variable, values = f"{variable}, mean of {values.sizes[names.SEED]} seeds", values.mean(names.SEED)
        if not set(values.dims) <= {rows, _RANKS}:
            continue
        each = values.transpose(rows, ...).values if rows in values.dims else values.values[None]
        found[variable] = each if each.ndim == 1 else [", ".join(map(_short, row)) for row in each]
    length = max((len(column) for column in found.values()), default=0)
    at = ds[rows].values.tolist() if rows == names.SEED and rows in ds.coords and length == ds.sizes[rows] else range(length)
    return pd.DataFrame({rows: at} | {k: v for k, v in found.items() if len(v) == length})


def _short(value: object) -> str:
    return repr(value) if isinstance(value, str) else f"{value:.3g}" if isinstance(value, float | np.floating) else str(value)


def strongest(ds: xr.Dataset, choice: Choice, k: int = 12) -> tuple[pd.DataFrame, list[dict[str, int] | None]]:
    """The table of the strongest cells of a sweep, and where in the result each of them is."""
    table = fx.top(ds, k, choice.metric)
    places = [_place(ds, row) for row in table.to_dict("records")]
    axes = [column for column in table if column in names.ALL and column != names.CELL]
    return table.drop(columns=axes), places


def edges(ds: xr.Dataset, choice: Choice, chosen: Sequence[int], k: int = 20) -> tuple[pd.DataFrame, list[dict[str, int]]]:
    """The first of some edges with the number that is drawn, and where in the result each of them is."""
    places = [{names.CELL: i} | choice.at for i in chosen[:k]]
    one, quantity = drawing.chosen(ds, choice.view, choice.metric, choice.quantity, choice.at)
    if isinstance(one, xr.Dataset):
        one = fx.value_of(one, quantity or "effect")
    mean = one.mean(names.EXAMPLE) if names.EXAMPLE in one.dims else one
    columns = {"edge": [name(ds, place) for place in places], str(choice.quantity): mean.values[list(chosen[:k])]}
    return pd.DataFrame(columns), places


def _place(ds: xr.Dataset, row: Mapping[Any, Any]) -> dict[str, int] | None:
    """The cell of a row of :func:`interp.effects.top`: by its axes, and in a list of cells by all that it says of itself."""
    place: dict[str, int] = {}
    for axis in fx.swept_axes(ds):
        if axis != names.CELL and axis in row:  # the column "cell" is the name of the cell
            place[axis] = ds[axis].values.tolist().index(row[axis])
        elif axis == names.CELL:
            own = [str(c) for c in ds.coords if c != axis and ds[c].dims == (axis,) and c in row]
            same = np.ones(ds.sizes[axis], bool)
            for coordinate in own:
                same &= ds[coordinate].values == row[coordinate]
            told = kinds.told(ds, axis)
            if told != axis:
                same &= np.array([str(row["cell"]).startswith(str(word)) for word in ds[told].values])
            elif not own:
                same &= np.array([fx.cell_name({axis: value}) == row["cell"] for value in ds[axis].values.tolist()])
            if same.sum() != 1:
                return None
            place[axis] = int(same.argmax())
    return place
