"""Circuits of several sizes and how faithful they are: what the faithfulness curve and the Pareto plot read of a result.

A result is one of

- **effects** with an axis ``cell``, a circuit a cell: ``value`` is the metric of the circuit, ``clean`` that of the full model,
  ``corrupt`` that of the empty circuit, all of it ablated. Faithfulness (m(C) − m(∅)) / (m(full) − m(∅)) is then its recovery,
  a ratio of means over examples.
- an **array** of faithfulness itself, along ``cell`` or ``size``, with ``example`` or without.

The coordinate ``size`` says how much each circuit keeps: a number of edges or nodes, or a share of them from 0 to 1. A
coordinate ``method`` along ``cell``, and any other axis, tell lines apart; other coordinates (a threshold, a name) are in the
hover. ``seed`` is an axis of repeats, such as random circuits of one size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp import axes as names
from interp import effects as fx
from interp.effects import curves
from interp.effects.quantities import fraction
from interp.errors import InputError, ShapeMismatchError
from interp.stats import Interval
from interp.views import bands, labels
from interp.views.lines import MOST, Line
from interp.views.prompts import cut

SIZE, METHOD = "size", "method"
_MOST_SAID = 70
"""Characters: an intervention on everything outside a small circuit is a long one."""
_UNSAID = {SIZE, METHOD, names.CELL, names.METRIC, "share"}


@dataclass(frozen=True, slots=True)
class Circuits:
    """The circuits of one line, the smallest first."""

    line: Line
    """Faithfulness; its places are sizes."""
    share: NDArray[np.float64]
    """Of the edges or nodes kept; NaN where nobody says how many there are."""
    areas: tuple[Interval, Interval] | None
    """CPR and CMD with intervals over examples, or their range over seeds; None where shares or a second size lack."""


@dataclass(frozen=True, slots=True)
class Reading:
    """All lines of a figure and what is said of them."""

    circuits: list[Circuits]
    under: str
    band: str
    metric: str
    """Escaped; "" of arrays."""
    total: int | None
    shares: bool
    """Whether sizes are known as shares."""


def read(results: Any, *, metric: str | None, total: int | None, level: float, seed: int) -> Reading:
    """The circuits of one result or of several by name.

    Raises:
        InputError: a result without sizes.
        ShapeMismatchError: more lines than can be told apart.
    """
    every = bands.named(results)
    found, said, measured, bands_said, totals = [], [], [], [], []
    for name, result in every.items():
        one = fx.choose_metric(result, metric) if fx.is_effects(result) else result
        known = total or one.attrs.get("total")
        totals.append(known)
        for place, part in _parts(_array_of(one, name)):
            circuits, band = _circuits(part, " ".join(filter(None, (name, place))), known, level, seed)
            found.append(circuits)
            bands_said.append(band)
        if isinstance(one, xr.Dataset):
            said.append(labels.provenance(one, fx.summary(one, "effect", method="t").isel({names.METRIC: 0})))
            measured.append(labels.escape(one[names.METRIC].item()))
    if len(found) > MOST:
        raise ShapeMismatchError(f"{len(found)} lines of circuits: at most {MOST} can be told apart; select, or draw fewer")
    under = bands.provenance(list(every.values()), said if len(said) == len(every) else [])
    shares = all(np.isfinite(one.share).all() for one in found)
    only = totals[0] if len(set(totals)) == 1 else None
    return Reading(found, under, bands.words(bands_said), ", ".join(dict.fromkeys(measured)), only, shares)


def _array_of(result: xr.Dataset | xr.DataArray, name: str) -> xr.Dataset | xr.DataArray:
    """The result with its circuits along ``cell``, whose sizes are known."""
    whose = f" of {name}" if name else ""
    if isinstance(result, xr.Dataset) and not fx.is_effects(result):
        raise InputError(
            f"the result{whose} is a Dataset of {', '.join(map(str, result.data_vars))}; expected effects (value, clean, "
            "corrupt) or an array of faithfulness, such as result['faithfulness']"
        )
    if SIZE in result.dims:
        result = result.assign_coords({SIZE: result[SIZE]}).rename({SIZE: names.CELL})
        result = result.assign_coords({SIZE: (names.CELL, result[names.CELL].values)})
    if names.CELL not in result.dims or SIZE not in result.coords or result[SIZE].dims != (names.CELL,):
        raise InputError(
            f"circuits{whose} need their sizes, a coordinate 'size' along 'cell': how many edges or nodes each keeps, or which "
            "share; give it as results.assign_coords(size=('cell', […])); this result has the axes "
            f"{', '.join(map(str, result.dims))}"
        )
    return result


def _parts(result: xr.Dataset | xr.DataArray) -> Iterator[tuple[str, Any]]:
    """One line's name and result after the other: a method, and a place of the axes that are left."""
    if METHOD in result.coords and result[METHOD].dims == (names.CELL,):
        methods = result[METHOD].values
        for method in dict.fromkeys(methods.tolist()):
            own = result.isel({names.CELL: np.flatnonzero(methods == method)}).drop_vars(METHOD)
            yield from ((" ".join(filter(None, (str(method), name))), part) for name, part in _parts(own))
        return
    array = result["value"] if isinstance(result, xr.Dataset) else result
    rest = [str(d) for d in array.dims if d not in (names.CELL, names.SEED, names.EXAMPLE)]
    places = product(*(range(array.sizes[a]) for a in rest))
    for name, place in zip(bands.line_names(array, names.CELL, rest), places, strict=True):
        yield name, result.isel(dict(zip(rest, place, strict=True)))


def _circuits(part: xr.Dataset | xr.DataArray, name: str, total: int | None, level: float, seed: int) -> tuple[Circuits, str]:
    part = part.isel({names.CELL: np.argsort(part[SIZE].values, kind="stable")})
    sizes = part[SIZE].values
    is_share = sizes.dtype.kind == "f" and sizes.size and sizes.max() <= 1
    if not is_share and total is not None and sizes.max(initial=0) > total:
        raise InputError(
            f"a circuit keeps {sizes.max()} of total={total}; give the number of edges or nodes of the whole graph"
        )
    share = sizes.astype(float) if is_share else sizes / total if total else np.full(len(sizes), np.nan)
    if isinstance(part, xr.Dataset):
        drawn = bands.of_effects(part, names.CELL, "recovery", level=level, seed=seed)
    else:
        drawn = bands.of_array(part, names.CELL, level=level)
    (line,) = drawn.lines
    known = _known(part)
    more = tuple("<br>".join(filter(None, (*line.more[i : i + 1], known[i]))) for i in range(len(sizes)))
    line = replace(line, name=name, at=sizes.tolist(), more=more)
    if not np.isfinite(share).all() or len(share) < 2:
        return Circuits(line, share, None), drawn.band
    return Circuits(line, share, _areas(part, share, line, level)), drawn.band


def _known(part: xr.Dataset | xr.DataArray) -> list[str]:
    """What else is known of each circuit, for the hover."""
    columns = {str(n): c.values for n, c in part.coords.items() if c.dims == (names.CELL,) and n not in _UNSAID}
    each = range(part.sizes[names.CELL])
    written = [[cut(f"{n} {labels.number(values[i])}", _MOST_SAID) for n, values in columns.items()] for i in each]
    return [", ".join(labels.escape(word) for word in words) for words in written]


def _areas(part: xr.Dataset | xr.DataArray, share: NDArray[np.float64], line: Line, level: float) -> tuple[Interval, Interval]:
    array = part["value"] if isinstance(part, xr.Dataset) else part
    seeds = array.sizes.get(names.SEED, 1)
    if seeds > 1:
        f = fx.recovery(part) if isinstance(part, xr.Dataset) else part
        f = f.mean(names.EXAMPLE, skipna=False) if names.EXAMPLE in f.dims else f
        found = np.array([curves.areas(share, row) for row in f.transpose(names.SEED, names.CELL).values])
        low, high = found.min(0), found.max(0)
        return Interval(found[:, 0].mean(), low[0], high[0], seeds), Interval(found[:, 1].mean(), low[1], high[1], seeds)
    if names.EXAMPLE not in array.dims or not np.isfinite(line.mean).all():
        nothing, (cpr, cmd) = np.array(np.nan), map(np.array, curves.areas(share, line.mean))
        return Interval(cpr, nothing, nothing, 0), Interval(cmd, nothing, nothing, 0)
    if isinstance(part, xr.Dataset):
        numerator, denominator = fraction(part, "recovery")
    else:
        numerator, denominator = part, xr.ones_like(part.isel({names.CELL: 0}), dtype=float)
    top, bottom = (x.isel({names.SEED: 0}) if names.SEED in x.dims else x for x in (numerator, denominator))
    top = top.transpose(names.CELL, names.EXAMPLE)
    return curves.area_intervals(share, top.values, bottom.values, bands.templates(part), level=level)


def size_name(size: Any, share: float, total: int | None, unit: str) -> str:
    """``120 of 32,491 edges (0.37%)``."""
    whole = isinstance(size, int | np.integer)
    count = f"{size:,}" + (f" of {total:,}" if total else "") + f" {unit}" if whole else ""
    part = f"{100 * share:.3g}%" if np.isfinite(share) else ""
    if count and part:
        return f"{count} ({part})"
    return count or (f"{part} of the {unit}" if part else f"{size} {unit}")
