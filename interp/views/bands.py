"""From results to lines: the mean along one axis for every place of the others, and what its band is.

Where there are seeds, the line is their mean and the band their range, because seeds are what is independent, and three of
them have no interval worth the name. Without seeds the band is an interval over examples, and over templates where examples
carry enough of them. Of shares, such as accuracies, it is Wilson's, which has a width at 0 and 1 too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp import axes as names
from interp import effects as fx
from interp import stats
from interp.effects import curves
from interp.errors import InputError, ShapeMismatchError
from interp.views import labels
from interp.views.lines import MOST, Line

Numbers = NDArray[np.float64]
Result = xr.Dataset | xr.DataArray
Results = xr.Dataset | xr.DataArray | xr.DataTree | Mapping[str, xr.Dataset | xr.DataArray]


_RANGE = "band: their range"


class Lines(NamedTuple):
    """The lines of one result along one axis."""

    lines: list[Line]
    band: str
    """What the bands are, in words; "" without any."""


def named(results: Any) -> dict[str, Result]:
    """Results by their names; one result alone has the name "".

    Raises:
        InputError: what is given is no result, nor several.
    """
    if isinstance(results, xr.DataTree):
        return {node.path.strip("/"): node.to_dataset() for node in results.leaves}
    if isinstance(results, xr.Dataset | xr.DataArray):
        return {"": results}
    if isinstance(results, Mapping) and results and all(isinstance(v, xr.Dataset | xr.DataArray) for v in results.values()):
        return {str(name): one for name, one in results.items()}
    kind = type(results).__name__
    raise InputError(
        f"results is a {kind}; expected an xarray result, or several by name: {{'EAP': first, 'random': second}}"
        f"{fx.unread(results)}"
    )


def of_effects(ds: xr.Dataset, x: str, quantity: str, *, level: float = 0.95, seed: int = 0) -> Lines:
    """The lines of a quantity of effects with one metric."""
    table = fx.summary(ds, quantity, level=level, seed=seed).isel({names.METRIC: 0})
    rest = [a for a in fx.swept_axes(ds) if a not in (x, names.SEED)]
    if ds.sizes.get(names.SEED, 1) > 1 and names.SEED in ds["value"].dims and x != names.SEED:
        return over_seeds(fx.value_of(ds, quantity), x)  # a seed's own interval says nothing about the others
    if names.SEED in ds["value"].dims and x != names.SEED:
        ds, table = ds.isel({names.SEED: 0}), table.isel({names.SEED: 0})
    at = ds[x].values.tolist()
    columns = [flat(table[column], x, rest) for column in ("mean", "low", "high")]
    n = f"n={ds.sizes[names.EXAMPLE]}{labels.clusters(table)}"
    raw = flat(ds["value"].mean(names.EXAMPLE, skipna=False), x, rest) if quantity != "value" else None
    metric = labels.escape(ds[names.METRIC].item())
    more = [[] if raw is None else [f"{metric} {v:.3g}" for v in line] for line in (columns[0] if raw is None else raw)]
    known = np.isfinite(columns[1]).any()
    interval = f"{level:.0%} interval" if known else ""
    named = line_names(ds["value"], x, rest)
    lines = [
        Line(name, at, *row, n, interval, tuple(said)) for name, row, said in zip(named, _rows(columns), more, strict=True)
    ]
    return Lines(lines, f"band: {interval} over {table.attrs['resampled']}s" if known else "")


def of_array(array: xr.DataArray, x: str, *, level: float = 0.95, share: bool = False) -> Lines:
    """The lines of any array; ``share`` says that examples are 0 or 1."""
    rest = [str(d) for d in array.dims if d not in (x, names.SEED, names.EXAMPLE)]
    if names.SEED in array.dims and x != names.SEED:
        array = array.dropna(names.SEED, how="all")  # of two variables of a result one may have more seeds
        if array.sizes[names.SEED] > 1:
            return over_seeds(array.mean(names.EXAMPLE, skipna=False) if names.EXAMPLE in array.dims else array, x)
        array = array.isel({names.SEED: 0}, drop=True)
    at = array[x].values.tolist()
    if names.EXAMPLE not in array.dims or x == names.EXAMPLE:
        mean = flat(array, x, rest)
        return Lines([Line(n, at, m, m, m) for n, m in zip(line_names(array, x, rest), mean, strict=True)], "")
    groups = templates(array)
    numbers = array.transpose(*rest, x, names.EXAMPLE).values.astype(float)
    interval_of = curves.proportion if share else stats.t_interval
    found = interval_of(numbers, clusters=groups, level=level)
    shape = (-1, array.sizes[x])
    n = f"n={array.sizes[names.EXAMPLE]}" + (f", {found.n} templates" if groups is not None else "")
    over = f"{found.n} templates" if groups is not None else f"{array.sizes[names.EXAMPLE]} examples"
    known = bool(np.isfinite(found.low).any())
    interval = f"{level:.0%} interval" if known else ""
    rows = _rows([column.reshape(shape) for column in found[:3]])
    lines = [Line(name, at, *row, n, interval) for name, row in zip(line_names(array, x, rest), rows, strict=True)]
    return Lines(lines, f"band: {interval} over {over}" if known else "")


def over_seeds(array: xr.DataArray, x: str) -> Lines:
    """The mean over seeds and their range."""
    rest = [str(d) for d in array.dims if d not in (x, names.SEED)]
    ends = (array.mean(names.SEED, skipna=False), array.min(names.SEED, skipna=False), array.max(names.SEED, skipna=False))
    columns = [flat(column, x, rest) for column in ends]
    seeds, at = array.sizes[names.SEED], array[x].values.tolist()
    rows, words = _rows(columns), f"{seeds} seeds"
    lines = [Line(name, at, *row, words, "seeds from") for name, row in zip(line_names(array, x, rest), rows, strict=True)]
    return Lines(lines, f"line: mean of {seeds} seeds, {_RANGE}")


def _rows(columns: Sequence[NDArray[np.float64]]) -> list[tuple[Numbers, Numbers, Numbers]]:
    """Mean, low and high of one line after the other."""
    mean, low, high = columns
    return list(zip(mean, low, high, strict=True))


def flat(array: xr.DataArray, x: str, rest: Sequence[str]) -> NDArray[np.float64]:
    """``[line, x]``."""
    return array.transpose(*rest, x).values.reshape(-1, array.sizes[x]).astype(float)


def line_names(array: xr.DataArray, x: str, rest: Sequence[str]) -> list[str]:
    """What tells the lines apart, so no metric where there is but one; "" of an only one.

    Raises:
        ShapeMismatchError: there are more than can be told apart.
    """
    count = int(np.prod([array.sizes[a] for a in rest], dtype=int))
    if count > MOST:
        sizes = ", ".join(f"{a} ({array.sizes[a]})" for a in rest)
        raise ShapeMismatchError(
            f"{count} lines over {sizes}: at most {MOST} can be told apart; select, e.g. .isel({rest[-1]}=0), or average"
        )
    values = [array[a].values.tolist() if a in array.coords else range(array.sizes[a]) for a in rest]
    places = [dict(zip(rest, place, strict=True)) for place in product(*values)]
    only = {names.METRIC} if array.sizes.get(names.METRIC) == 1 else set()
    return [_line_name({axis: value for axis, value in place.items() if axis not in only}) for place in places]


def _line_name(place: Mapping[str, Any]) -> str:
    """``L9H6``; axes that are no cell's say their value alone, as the name of a method or of a model does."""
    own = {axis: value for axis, value in place.items() if axis in names.SWEPT and axis != names.MODEL}
    others = [str(value) for axis, value in place.items() if axis not in own]
    return " ".join([*others, *([fx.cell_name(own)] if own else [])])


def templates(array: xr.DataArray | xr.Dataset) -> NDArray[Any] | None:
    """The template of every example, where there are enough for an interval over them."""
    return fx.clusters_of(array).labels


def words(said: Sequence[str]) -> str:
    """What the bands of several results are, said once; of seeds, how many are in the hover."""
    different = list(dict.fromkeys(filter(None, said)))
    of_seeds = [one for one in different if one.endswith(_RANGE)]
    if len(of_seeds) > 1:
        different = [*(one for one in different if one not in of_seeds), f"lines of seeds: their mean, {_RANGE}"]
    return "; ".join(different)


def provenance(results: Sequence[Result], shared: Sequence[str]) -> str:
    """What is said of all results alike: of arrays model, task and what was selected; of effects what their own lines share.

    That some of them are in sample is said even where others are not.
    """
    every = [part.split(" · ") for part in shared] if shared else [_of_attrs(one) for one in results]
    words = [word for word in every[0] if all(word in other for other in every)]
    seen = sum(bool(one.attrs.get("in_sample")) for one in results)
    if seen and not any(word.startswith("in sample") for word in words):
        words.append(f"in sample: {seen} of {len(results)} results")
    return " · ".join(words)


def _of_attrs(result: Result) -> list[str]:
    attrs = fx.attrs_of(result)
    known = [labels.escape(attrs[k]) for k in ("model", "task") if isinstance(attrs.get(k), str) and attrs[k]]
    return [*known, *map(labels.escape, labels.selected(result)), *labels.in_sample(attrs)]
