"""What a result says of each token of a prompt: its number, why it has none, and its hover.

>>> of_array(scores, example=0, level=0.95).strips[0].words                             # doctest: +SKIP
['The', ' capital', ' of']
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp import axes as names
from interp import effects as fx
from interp import stats
from interp.errors import InputError, PositionError
from interp.views import labels
from interp.views import prompts as of
from interp.views.heatmap import WHY, default_quantity

_NOISE, _UNDEFINED, _MISSING, _ABSENT = WHY
DIFFER, NONE = "tokens differ", "no number"


class Strip(NamedTuple):
    """One prompt, or several that are drawn as one."""

    name: str
    words: list[str]
    """Without what is behind the end."""
    hover: list[str]
    numbers: NDArray[np.float64]
    """NaN where ``why`` says why."""
    why: NDArray[np.object_]


class Read(NamedTuple):
    """What a result says."""

    strips: list[Strip]
    head: str
    under: str
    bar: str
    signed: bool


def positions(array: xr.DataArray) -> list[str]:
    return [str(dim) for dim in array.dims if str(dim).endswith(names.POSITION)]


def _axis(array: xr.DataArray) -> str:
    """The axis of positions, where there is no other besides examples."""
    found = positions(array)
    others = [str(dim) for dim in array.dims if dim not in (names.EXAMPLE, *found[:1])]
    if not found:
        raise InputError(f"views.tokens draws one number a token; this result has the axes {tuple(array.dims)} and no position")
    if others:
        sizes = ", ".join(f"{dim} ({array.sizes[dim]})" for dim in others)
        raise InputError(
            f"views.tokens draws one number a token; besides {found[0]} this result has {sizes}; select, e.g. "
            f"results.isel({others[0]}=0)"
        )
    return found[0]


def _picked(example: int | Iterable[int] | None, many: int) -> tuple[list[list[int]], str]:
    """The examples of each strip, and a word about them."""
    if example is None:
        return [list(range(many))], f"mean over {many} examples" if many > 1 else ""
    asked = [example] if isinstance(example, int | np.integer) else list(example)
    for one in asked:
        if not -many <= one < many:
            raise PositionError(f"example={one}, but this result has {many} of them, 0 to {many - 1}")
    if not asked:
        raise PositionError("example is an empty list; give at least one, or None for the mean")
    chosen = [int(one) % many for one in asked]
    which = f"example {chosen[0]}" if len(chosen) == 1 else f"{len(chosen)} examples"
    return [[one] for one in chosen], f"{which} of {many}" if many > 1 else ""


def _words(ds: xr.Dataset | xr.DataArray, axis: str, name: str) -> NDArray[np.object_] | None:
    """Tokens ``[example, position]``; None where they are not known."""
    if name not in ds.coords or axis not in ds[name].dims:
        return None
    table = ds[name].transpose(..., axis).values.astype(object)
    return table if table.ndim == 2 else table[None]


def _shared(table: NDArray[np.object_]) -> list[str | None]:
    """The token of each position; None where examples differ."""
    return [str(column[0]) if all(token == column[0] for token in column) else None for column in table.T]


def _strip(
    name: str, tokens: Sequence[str | None], roles: Sequence[str], numbers: Any, why: Any, hover: Sequence[str]
) -> Strip:
    """Without what is behind the end, and without numbers where tokens differ and have no role in common."""
    tokens = [f"{{{role}}}" if token is None and role else token for token, role in zip(tokens, roles, strict=True)]
    kept = [i for i, token in enumerate(tokens) if token != ""]
    why = np.where([token is None for token in tokens], DIFFER, why).astype(object)
    told = [
        line if reason == "" else f"{line.split('<br>')[0]}<br>{reason}" if reason == DIFFER else f"{line}<br>{reason}"
        for line, reason in zip(hover, why, strict=True)
    ]
    words = [labels.DIFFER if token is None else token for token in tokens]
    numbers = np.where(why == "", numbers, np.nan)
    return Strip(name, [words[i] for i in kept], [told[i] for i in kept], numbers[kept], why[kept])


def of_effects(ds: xr.Dataset, quantity: str | None, example: int | Iterable[int] | None, level: float, seed: int) -> Read:
    axis, quantity = _axis(ds["value"]), quantity or default_quantity(ds)
    metric, places = str(ds[names.METRIC].item()), [str(p) for p in ds[axis].values]
    picked, which = _picked(example, ds.sizes[names.EXAMPLE])
    clean, corrupted = (_words(ds, axis, f"{side}_token") for side in ("clean", "corrupted"))
    strips, roles = [], labels.roles_of(ds, axis)
    for of_strip in picked:
        part = ds.isel({names.EXAMPLE: of_strip})
        table = fx.summary(part, quantity, level=level, seed=seed).isel({names.METRIC: 0})
        said = [_shared(rows[of_strip]) if rows is not None else places for rows in (clean, corrupted)]
        hover = [
            "<br>".join([_named(place, *both) if clean is not None else f"<b>{labels.escape(place)}</b>", *lines])
            for place, both, lines in zip(places, zip(*said, strict=True), _numbers(part, table, quantity, metric), strict=True)
        ]
        strips.append(_strip(str(of_strip[0]), said[0], roles, table["mean"].values, _reasons(part, table, quantity), hover))
    every = ds.isel({names.EXAMPLE: sorted({i for strip in picked for i in strip})})
    under = [labels.provenance(every, table), *([which] if example is not None and which else [])]
    bar = labels.bar_name(ds, quantity, metric)
    return Read(strips, labels.headline(ds, quantity, metric), " · ".join(under), bar, quantity != "value")


def _numbers(part: xr.Dataset, table: xr.Dataset, quantity: str, metric: str) -> list[list[str]]:
    """Lines of the hover of each position."""
    found, clusters, level = [], labels.clusters(table), f"{table.attrs['level']:.0%}"
    raw = [fx.value_of(part, name).values for name in ("value", "effect")]
    columns = (table[name].values for name in ("mean", "low", "high", "n"))
    for value, change, mean, low, high, n in zip(*raw, *columns, strict=True):
        if not np.isfinite(low):
            number = [f"{quantity} {mean:.4g}" if np.isfinite(mean) else f"{quantity} undefined"]
        else:
            interval = f"{level} interval {low:.3g} to {high:.3g}"
            number = [f"{quantity} {labels.interval(mean, low, high)} (n={n}{clusters})", interval]
        found.append([*number, f"{labels.escape(metric)} {value:.3g}, effect {change:+.3g}"])
    return found


def _named(place: str, token: str | None, other: str | None) -> str:
    both = ["differs" if word is None else of.quoted(word) for word in (token, other)]
    against = f", corrupted {both[1]}" if both[0] != both[1] else ""
    return f"<b>{labels.escape(place)}</b> token {both[0]}{against}"


def _reasons(part: xr.Dataset, table: xr.Dataset, quantity: str) -> NDArray[np.object_]:
    """Why a position has no colour of the scale; "" where it has one."""
    value, effect = (fx.value_of(part, name).values for name in ("value", "effect"))
    why = np.full(value.shape, "", object)
    if quantity != "value":
        by_rule = part["by_rule"].all(names.EXAMPLE).values
        why[(np.abs(effect) <= float(fx.noise_floor(part))) & ~by_rule] = _NOISE
    why[np.isnan(table["mean"].values)] = _UNDEFINED
    why[np.isnan(value)] = _MISSING
    if "absent" in part:
        why[part["absent"].values] = _ABSENT
    return why


def of_array(array: xr.DataArray, example: int | Iterable[int] | None, level: float) -> Read:
    axis, bar = _axis(array), labels.escape(labels.name_of(array))
    array = array if names.EXAMPLE in array.dims else array.expand_dims(names.EXAMPLE)
    array = array.transpose(names.EXAMPLE, axis)
    picked, which = _picked(example, array.sizes[names.EXAMPLE])
    prefix = axis.removesuffix(names.POSITION)
    known = (_words(array, axis, f"{prefix}{word}") for word in ("token", "input_token", "clean_token"))
    table = next((words for words in known if words is not None), None)
    places = array[axis].values.tolist() if axis in array.coords else list(range(array.sizes[axis]))
    strips, roles = [], labels.roles_of(array, axis)
    for of_strip in picked:
        values = array.values[of_strip].astype(float)
        rows = table if table is None or len(table) == 1 else table[of_strip]
        said: Sequence[str | None] = _shared(rows) if rows is not None else [str(place) for place in places]
        some = array.isel({names.EXAMPLE: of_strip})
        mean, low, high = stats.t_interval(values.T, clusters=fx.clusters_of(some).labels, level=level)[:3]
        n = f"({labels.of_examples(some)})" if len(values) > 1 else ""
        number = [f"{labels.interval(m, a, b)} {n}" if n else f"{m:.4g}" for m, a, b in zip(mean, low, high, strict=True)]
        at = [_named(str(p), t, t) if rows is not None else f"<b>{p}</b>" for p, t in zip(places, said, strict=True)]
        hover = [f"{where}<br>{bar} {value}" for where, value in zip(at, number, strict=True)]
        strips.append(_strip(str(of_strip[0]), said, roles, mean, np.where(np.isnan(mean), NONE, "").astype(object), hover))
    return Read(strips, f"{bar} by token", of.under(array, which, *labels.selected(array)), bar, False)
