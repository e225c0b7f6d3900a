"""What is derived from the raw numbers of a result: the effect, and the recovery and damage that normalise it."""

from __future__ import annotations

import numpy as np
import xarray as xr

from interp import axes as names
from interp.effects.origin import STAMP
from interp.effects.schema import EffectsError, base, paired
from interp.errors import UnknownNameError

QUANTITIES = ("recovery", "damage", "effect", "value")


def effect(ds: xr.Dataset) -> xr.DataArray:
    """``value − base``, of every example."""
    before = base(ds)
    return _named(ds["value"] - before, ds, "effect")


def value_of(ds: xr.Dataset, quantity: str) -> xr.DataArray:
    """A quantity by its name, over all examples: ratios of means for recovery and damage, means for effect and value.

    Raises:
        UnknownNameError: no such quantity.
    """
    if quantity not in QUANTITIES:
        raise UnknownNameError("quantity", quantity, QUANTITIES)
    if quantity in ("recovery", "damage"):
        return _normalised(ds, quantity, "ratio", None)
    found = effect(ds) if quantity == "effect" else ds["value"]
    return _named(found.mean(names.EXAMPLE, skipna=False), ds, quantity)


def recovery(ds: xr.Dataset, aggregate: str | None = "ratio", *, floor: float | None = None) -> xr.DataArray:
    """How much of the behaviour is back: (value − corrupt) / (clean − corrupt); 0 = corrupted, 1 = clean.

    Args:
        ds: a result.
        aggregate: ``"ratio"`` divides the mean over examples by the mean over examples; ``"examples"`` is the mean of the
            examples' own ratios, over those that are defined, whose number is the coordinate ``defined``; None leaves
            every example's ratio.
        floor: an |clean − corrupt| no larger than this makes the quotient NaN. By default the run's noise floor, and at
            least the rounding of the two baselines.
    """
    return _normalised(ds, "recovery", aggregate, floor)


def damage(ds: xr.Dataset, aggregate: str | None = "ratio", *, floor: float | None = None) -> xr.DataArray:
    """How much of the behaviour is lost: (clean − value) / (clean − corrupt); 0 = clean, 1 = corrupted. See `recovery`."""
    return _normalised(ds, "damage", aggregate, floor)


def _normalised(ds: xr.Dataset, quantity: str, aggregate: str | None, floor: float | None) -> xr.DataArray:
    numerator, denominator = fraction(ds, quantity)
    least = noise_floor(ds, rounding=True) if floor is None else floor
    if aggregate == "ratio":
        below = denominator.mean(names.EXAMPLE)
        ratio = numerator.mean(names.EXAMPLE, skipna=False) / below.where(abs(below) > least)
    elif aggregate in ("examples", None):
        defined = abs(denominator) > least
        ratio = numerator / denominator.where(defined)
        if aggregate == "examples":
            count = defined.sum(dim=names.EXAMPLE)
            total = ratio.where(defined, 0.0).sum(names.EXAMPLE, skipna=False)
            ratio = (total / count.where(count > 0)).assign_coords(defined=count)
    else:
        raise UnknownNameError("aggregate", aggregate, ("ratio", "examples"))
    return _named(ratio.transpose(*(d for d in ds["value"].dims if d in ratio.dims)), ds, quantity)


def fraction(ds: xr.Dataset, quantity: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Numerator and denominator of a normalised quantity, in float64."""
    if not paired(ds):
        raise EffectsError(
            f"{quantity} compares with a counterfactual, and these prompts have none; take the effect: interp.effect(effects), "
            "quantity='effect'"
        )
    value, clean, corrupt = (ds[v].astype("float64") for v in ("value", "clean", "corrupt"))
    return (value - corrupt if quantity == "recovery" else clean - value), clean - corrupt


def noise_floor(ds: xr.Dataset, *, rounding: bool = False) -> xr.DataArray:
    """The run's noise floor of each metric, in the metric's units: the effect of a self-patch.

    With ``rounding``, at least four units in the last place of the baselines.
    """
    floors = [float(ds.attrs["noise_floor"][m] or 0.0) for m in np.atleast_1d(ds[names.METRIC].values)]
    floor = xr.zeros_like(ds[names.METRIC], dtype=float) + np.reshape(floors, ds[names.METRIC].shape)
    if not rounding:
        return floor
    size = (abs(ds["clean"]) + abs(ds["corrupt"])).mean(names.EXAMPLE).astype("float64")
    return np.maximum(floor, 4 * np.finfo(ds["clean"].dtype).eps * size)


def quantity_of(array: xr.DataArray) -> str:
    """Which quantity an array is: ``recovery``, or ``from recovery`` where it was reckoned from one or more; "" of any other.

    Arithmetic hands attributes on as far as both sides agree (xarray 2025.11 and later), or none of them. So an array is the
    quantity of a run while it has the run's digest and, for each axis that it was made with, the axis or the place on it: a
    difference of two runs lacks the first, of two heads the second. One array times a number cannot be told from itself.
    """
    called = str(array.attrs.get("quantity") or array.name)
    if called not in QUANTITIES or ("quantity" not in array.attrs and called not in ("recovery", "damage")):
        return ""
    places = {*array.dims, *array.coords}
    whole = STAMP in array.attrs and places >= set(array.attrs.get(_AXES, ()))
    return called if whole else f"from {called}"


_AXES = "quantity_axes"
"""Attribute: the axes of a quantity when it was made, and the places where it was selected, but for examples."""


def _named(array: xr.DataArray, ds: xr.Dataset, quantity: str) -> xr.DataArray:
    named = array.rename(quantity)
    axes = [axis for axis in names.ALL if axis != names.EXAMPLE and (axis in array.dims or axis in array.coords)]
    named.attrs = dict(ds.attrs) | {"quantity": quantity, _AXES: axes}
    return named
