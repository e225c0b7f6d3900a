"""What views of single prompts share: one example, its tokens on an axis, and what stands under the title.

>>> cut("internationalisation", 8), cells("日本")
('interna…', 4)
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from interp import axes as names
from interp import effects as fx
from interp.errors import InputError, PositionError, UnknownNameError
from interp.views.labels import Ticks, escape, in_sample, roles_of, short, standing, told


def require(ds: Any, what: str, *variables: str) -> None:
    """Raise unless a result is a dataset that has what a view draws."""
    check(ds, "results", xr.Dataset)
    for variable in variables:
        if variable not in ds:
            raise UnknownNameError("variable", variable, map(str, ds.data_vars), f"of this result, which {what} draws")


def check(given: object, argument: str, *kinds: type) -> None:
    """Raise ``InputError`` unless what is given is a result of one of these kinds; of a run it says how it is loaded."""
    if not isinstance(given, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(f"{argument} is a {type(given).__name__}; expected an xarray {expected}{fx.unread(given)}")


def chosen(
    results: xr.Dataset | xr.DataArray, name: str | None, metric: str | None, fits: Callable[[xr.DataArray], bool], along: str
) -> xr.DataArray:
    """One array of a result that is no sweep, with the attributes of all of it and one metric.

    Args:
        results: an array, or a dataset that holds it.
        name: of the variable; by default the only one that fits.
        metric: by default the first.
        fits: which variables can be meant.
        along: what they have, for the message.

    Raises:
        InputError: several variables fit, or none.
        UnknownNameError: a variable or metric that is not there.
    """
    if isinstance(results, xr.Dataset):
        known = [str(n) for n, v in results.data_vars.items() if v.dtype.kind in "fiu" and fits(v)]
        if name is None and len(known) != 1:
            raise InputError(
                f"quantity=None, but this result has {len(known)} variables along {along}; name one of them: "
                f"{', '.join(map(repr, known)) or 'none'}"
            )
        name = known[0] if name is None else name
        if name not in known:
            raise UnknownNameError("quantity", name, known, "of this result")
        array = results[name].assign_attrs({**results.attrs, **results[name].attrs})
    elif name is not None:
        raise UnknownNameError("quantity", name, (), "of an array", why="it is one already; leave quantity out")
    else:
        array = results
    if names.METRIC in array.dims:
        metrics = [str(m) for m in array[names.METRIC].values]
        metric = metrics[0] if metric is None else metric
        if metric not in metrics:
            raise UnknownNameError("metric", metric, metrics)
        return array.isel({names.METRIC: metrics.index(metric)})
    if metric is not None:
        raise UnknownNameError("metric", metric, (), "of an array without such an axis")
    return array


def one(ds: xr.Dataset, example: int) -> xr.Dataset:
    """One example of a result; a result without that axis is one example."""
    if names.EXAMPLE not in ds.dims:
        return ds
    n = ds.sizes[names.EXAMPLE]
    if not -n <= example < n:
        raise PositionError(f"example={example}, but this result has {n} of them, 0 to {n - 1}")
    return ds.isel({names.EXAMPLE: example})


def ticks(positions: Sequence[object], tokens: Sequence[str] | None, title: str = "position and token") -> Ticks:
    """Labels ``3 John``, the position first, so that equal tokens stay apart."""
    if tokens is None:
        return Ticks(title.split(" ")[0], [escape(p) for p in positions], [""] * len(positions))
    full = [escape(f"{p} {short(str(token))}") for p, token in zip(positions, tokens, strict=True)]
    return Ticks(title, full, [f"token {quoted(token)}" for token in tokens])


def ticks_of_all(results: xr.Dataset | xr.DataArray, axis: str, word: str, title: str) -> Ticks:
    """The same of several examples, whose tokens at each position are the coordinate ``word``."""
    positions, roles = results[axis].values.tolist(), roles_of(results, axis)
    rows = results[word].transpose(axis, ...).values.reshape(len(positions), -1)
    full = [escape(f"{p} {standing(row, role)}") for p, row, role in zip(positions, rows, roles, strict=True)]
    return Ticks(title, full, [escape(f"token {told(row)}") for row in rows])


def quoted(token: object) -> str:
    """A token with its spaces and line ends to be seen, for a hover."""
    return escape(repr(str(token)))


def compared(one: xr.Dataset | xr.DataArray) -> str:
    """``' Paris' against ' Rome'``: the answer of one example and what it is compared with; empty where there is none."""
    pair = [str(one[c].item()) for c in ("answer", "wrong") if c in one.coords and not one[c].ndim and str(one[c].item())]
    return " against ".join(map(repr, pair))


def under(ds: xr.Dataset | xr.DataArray, *more: str) -> str:
    """``SmolLM2 · ioi · …``: what stands under the title."""
    attrs = fx.attrs_of(ds)
    words = [str(attrs[k]) for k in ("model", "task") if attrs.get(k)]
    places = len(words)
    words += [f"given {attrs['given']}"] if attrs.get("given") else []
    words += in_sample(attrs)
    return escape(" · ".join([*words[:places], *(word for word in more if word), *words[places:]]))


def said(ds: xr.Dataset | xr.DataArray, longest: int = 60) -> str:
    """The prompt of one example, cut, in quotation marks; empty where it is not known or is no single one."""
    if "prompt" not in ds.coords or ds["prompt"].ndim:
        return ""
    text = " ".join(str(ds["prompt"].item()).split())
    return f"“{text}”" if len(text) <= longest else f"“{text[: longest - 1]}…”"


def cells(text: str) -> int:
    """How many characters' room a text takes: wide ones take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)


def cut(text: str, most: int) -> str:
    """A text in so much room."""
    if cells(text) <= most:
        return text
    while text and cells(text) > most - 1:
        text = text[:-1]
    return f"{text}…"


def real(ds: xr.Dataset, variable: str) -> xr.Dataset:
    """One example without the positions behind its end."""
    others = [dim for dim in ds[variable].dims if dim != names.POSITION]
    there = ds[variable].notnull().any(others).values
    return ds.isel({names.POSITION: np.flatnonzero(there)})
