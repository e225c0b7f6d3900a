"""What an interchange intervention accuracy says beside its controls: the one that was chosen, and the verdict in words.

An accuracy means little alone: a map that is expressive enough reaches a high one in a random network (Sutter et al., arXiv
2507.08802), and the largest of many is larger than each. So the accuracy of the place, rank and seed that *validation* chose is
held against the *largest* of every control over the same sweep.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from interp import axes as names
from interp import stats
from interp.effects import curves
from interp.errors import InputError, UnknownNameError

CONTROLS = {
    "chance": "chance",
    "no_op": "no-op",
    "random_subspace": "random subspace",
    "random_network": "random network",
    "shuffled_weights": "shuffled weights",
    "shuffled_labels": "shuffled labels",
    "false_hypothesis": "false hypothesis",
    "held_out": "held-out vocabulary",
    "full_vector": "full vector",
    "read_part": "what is read of it",
}
"""Variables that are known as controls, with what figures and verdicts call them; others are called by their names."""

NOT_BEATEN = ("full_vector", "held_out", "read_part")
"""A ceiling, the claim itself on other words, and what of it can have an effect."""
WITHIN = 0.02
"""The smallest rank whose validation accuracy is so near the best one is chosen."""


class Claim(NamedTuple):
    """An accuracy with its interval."""

    at: dict[str, Any]
    """Where: coordinates along the axes of the sweep."""
    iia: float
    low: float
    high: float
    n: int
    """Examples."""


def control_name(variable: str) -> str:
    """What a control is called."""
    return CONTROLS.get(variable, variable.replace("_", " "))


def chosen(result: xr.Dataset, *, within: float = WITHIN) -> dict[str, Any]:
    """Where the accuracy on validation pairs is highest, at the smallest rank that is within ``within`` of that.

    Where no pairs were kept for validation, the test pairs choose, and the claim is the largest of many.

    Raises:
        UnknownNameError: the result has no variable ``iia``.
    """
    _require(result)
    by = result["validation"] if "validation" in result and bool(result["validation"].notnull().any()) else result["iia"]
    by = by.mean(names.EXAMPLE) if names.EXAMPLE in by.dims else by
    order = [dim for dim in (names.RANK, *by.dims) if dim in by.dims]
    by = by.transpose(*dict.fromkeys(order))
    found = by.values
    near = np.argwhere(found >= np.nanmax(found) - within)
    if names.RANK in by.dims:
        near = near[near[:, 0] == near[0, 0]]
    best = max(near.tolist(), key=lambda index: found[tuple(index)])
    return {str(dim): _at(result, str(dim), index) for dim, index in zip(by.dims, best, strict=True)}


def claimed(result: xr.Dataset, at: Mapping[str, Any] | None = None, *, level: float = 0.95) -> Claim:
    """The accuracy of one place, rank and seed on the test pairs, by default the chosen one, with Wilson's interval.

    Args:
        at: coordinates along the axes of the sweep.
        level: of the interval.
    """
    at = chosen(result) if at is None else dict(at)
    one = result["iia"].sel(at)
    share = curves.proportion(one.values, level=level)
    return Claim(at, float(share.mean), float(share.low), float(share.high), int(one.notnull().sum()))


def largest(result: xr.Dataset) -> dict[str, float]:
    """The largest of every control over the sweep, means over examples."""
    _require(result)
    found = {}
    for key, array in result.data_vars.items():
        if str(key) in CONTROLS or str(key) in result.attrs.get("controls", ()):
            share = array.mean(names.EXAMPLE) if names.EXAMPLE in array.dims else array
            if bool(share.notnull().any()):
                found[str(key)] = float(share.max())
    return found


def verdict(result: xr.Dataset) -> str:
    """In words: the claim, the largest of its controls, and whether it beats them all.

    A control is beaten where it lies below the claim's 95% interval.
    """
    claim, controls = claimed(result), largest(result)
    where = ", ".join(f"{dim} {value}" for dim, value in claim.at.items() if result.sizes.get(str(dim), 1) > 1)
    how = "chosen on validation pairs" if "validation" in result else "the largest of all"
    words = f"IIA {claim.iia:.2f} [{claim.low:.2f}, {claim.high:.2f}]" + (f" at {where} ({how})" if where else "")
    if not controls:
        return f"{words}; no controls are given, so it says nothing yet"
    words += "; largest of controls: " + ", ".join(f"{control_name(key)} {value:.2f}" for key, value in controls.items())
    dormant = ""
    if "read_part" in controls:
        own = result["read_part"].sel({dim: value for dim, value in claim.at.items() if dim in result["read_part"].dims})
        if float(own) < claim.low:
            dormant = f"; NOT carried by what is read of it ({float(own):.2f}): a dormant pathway was woken"
    unbeaten = [key for key, value in controls.items() if key not in NOT_BEATEN and value >= claim.low]
    if not unbeaten:
        missing = [control_name(key) for key in CONTROLS if key not in controls and key not in NOT_BEATEN]
        return f"{words}; above all of them" + (f" (not held against: {', '.join(missing)})" if missing else "") + dormant
    words += f"; NOT above {', '.join(map(control_name, unbeaten))}{dormant}"
    if {"random_network", "shuffled_weights"} & {*unbeaten}:
        words += ": the map finds as much in a network that computes nothing, so this is no evidence of the variable"
    return words


def told_apart(result: xr.Dataset, *, level: float = 0.95) -> pd.DataFrame:
    """Which of rival hypotheses has the higher accuracy: paired differences over the same rows, with Student's intervals.

    Args:
        result: of :func:`interp.interchange` with several hypotheses.
        level: of each interval.

    Returns:
        A line for every two hypotheses at every place: both accuracies, their difference with its interval, how many rows ask
        for different labels, and ``told_apart``, whether the interval leaves out 0.

    Raises:
        UnknownNameError: a result without hypotheses.
    """
    _require(result)
    if "hypothesis" not in result.dims:
        raise UnknownNameError("axis", "hypothesis", map(str, result["iia"].dims), "of this result")
    cells = [str(dim) for dim in result["iia"].dims if dim not in ("hypothesis", names.EXAMPLE)]
    stacked = result["iia"].stack(at=cells) if cells else result["iia"].expand_dims("at")
    found = []
    for one, other in combinations(result["hypothesis"].values.tolist(), 2):
        for number in range(stacked.sizes["at"]):
            a, b = (stacked.isel(at=number).sel(hypothesis=name).values for name in (one, other))
            interval = stats.t_interval(a - b, level=level)
            at = {cell: stacked[cell].values[number] for cell in cells}
            found.append(
                {
                    **at,
                    "hypothesis": one,
                    "rival": other,
                    "iia": float(a.mean()),
                    "rival_iia": float(b.mean()),
                    "difference": float(interval.mean),
                    "low": float(interval.low),
                    "high": float(interval.high),
                    "rows": len(a),
                    "told_apart": bool(interval.low > 0 or interval.high < 0),
                }
            )
    return pd.DataFrame(found)


def disentangled(result: xr.Dataset, *, level: float = 0.95) -> xr.Dataset:
    """Whether a place carries one variable and none of the others: RAVEL's scores (Huang et al., arXiv 2402.17700).

    Of rows that swap the variable's value, some ask for it and others for something else. ``cause`` is the accuracy where the
    label is another than the base's, ``isolate`` where it is the base's: the output has to follow in the one and to stay in the
    other; ``disentangle`` is the mean of the two. To do nothing, or to swap everything, has about 0.5, and so the no-op is
    beside them. Of several variables take the mean over their results; of two it is the score of four ways.

    Args:
        result: of :func:`interp.das` or another search, or of :func:`interp.interchange`, on rows of a causal model such as
            :func:`interp.tasks.attributes`.
        level: of the intervals.

    Returns:
        ``cause``, ``isolate`` and ``disentangle`` along the axes of the sweep, ``low`` and ``high`` of ``cause`` and of
        ``isolate`` with Wilson's intervals as ``cause_low`` and so on, the same of the no-op as ``no_op_cause`` and
        ``no_op_isolate`` where it was measured; ``attrs`` hold how many ``rows`` each is of.

    Raises:
        UnknownNameError: a result without ``flip`` and ``moved``, which rows of a causal model leave along examples.
        InputError: rows of one kind alone.
    """
    _require(result)
    for name in ("flip", "moved"):
        if name not in result.variables:
            raise UnknownNameError("variable", name, map(str, result.variables), "of this result: give rows of a causal model")
        if result[name].dims != (names.EXAMPLE,):
            raise InputError(
                f"{name} is by {', '.join(map(str, result[name].dims))}; choose one hypothesis first, with .sel(…)"
            )
    flip, moved = (result[name].values.astype(bool) for name in ("flip", "moved"))
    rows = {"cause": flip & moved, "isolate": ~flip & moved}
    for name, there in rows.items():
        if not there.any():
            kind = "another label than" if name == "cause" else "the label of"
            raise InputError(f"no row that moves the variable has {kind} its base, so there is nothing to call {name}")
    data: dict[str, xr.DataArray] = {}
    for name, there in rows.items():
        own = result["iia"].transpose(..., names.EXAMPLE).isel({names.EXAMPLE: there})
        share = curves.proportion(own.values, level=level)
        like = own.isel({names.EXAMPLE: 0}, drop=True)
        data |= {
            key: like.copy(data=np.asarray(part))
            for key, part in ((name, share.mean), (f"{name}_low", share.low), (f"{name}_high", share.high))
        }
        if "no_op" in result:
            data[f"no_op_{name}"] = result["no_op"].isel({names.EXAMPLE: there}).mean(names.EXAMPLE)
    data["disentangle"] = (data["cause"] + data["isolate"]) / 2
    kept = {name: array.reset_coords(drop=True) for name, array in data.items()}
    attrs = {name: result.attrs[name] for name in ("method", "model", "digest", "variables") if name in result.attrs}
    return xr.Dataset(kept, attrs={**attrs, "rows": {name: int(there.sum()) for name, there in rows.items()}})


def _require(result: xr.Dataset) -> None:
    if "iia" not in result:
        raise UnknownNameError("variable", "iia", map(str, result.data_vars), "of this result")


def _at(result: xr.Dataset, dim: str, index: int) -> Any:
    return result[dim].values[index].item() if dim in result.coords else index
