"""The difference of two results, an example at a time where both are of the same examples.

>>> refused(first, second)                                                              # doctest: +SKIP
'layer runs over 12 values in A and over 24 in B'
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from interp import axes as names
from interp import effects as fx
from interp.app.choices import Choice
from interp.errors import InputError
from interp.views import drawing
from interp.views.kinds import CURVE, MAP

_PROMPTS = ("clean_prompt", "corrupted_prompt", "prompt")
_TEMPLATE = "template"
_RAW = ("effect", "value")


def refused(a: xr.Dataset, b: xr.Dataset, choice: Choice) -> str:
    """Why the two cannot be subtracted; "" where they can."""
    if choice.view not in (MAP, CURVE):
        return "only maps and curves are subtracted; choose one of them under “drawing”"
    if fx.is_effects(a) != fx.is_effects(b):
        return "one of the two is a sweep and the other is not"
    left, right = _axes(a, choice), _axes(b, choice)
    if set(left) != set(right):
        return f"A runs along {_listed(left)}, B along {_listed(right)}"
    for axis in left:
        first, second = (ds[axis].values.tolist() if axis in ds.coords else list(range(ds.sizes[axis])) for ds in (a, b))
        if len(first) != len(second):
            return f"{axis} has {len(first)} values in A and {len(second)} in B"
        if first != second:
            i = next(i for i, (one, other) in enumerate(zip(first, second, strict=True)) if one != other)
            return f"{axis} has other values: number {i} is {first[i]!r} in A and {second[i]!r} in B"
    return ""


def same_examples(a: xr.Dataset, b: xr.Dataset) -> bool:
    """Whether example i of one is example i of the other: the same prompts, or pairs of the same digest."""
    if a.sizes.get(names.EXAMPLE, 0) != b.sizes.get(names.EXAMPLE, 0) or names.EXAMPLE not in a.dims:
        return False
    named = [c for c in _PROMPTS if c in a.coords and c in b.coords]
    if named:
        return all(bool(np.array_equal(a[c].values, b[c].values)) for c in named)
    return a.attrs.get("pairs_digest") is not None and a.attrs["pairs_digest"] == b.attrs.get("pairs_digest")


def difference(a: xr.Dataset, b: xr.Dataset, choice: Choice) -> xr.DataArray:
    """A − B: of every example's effect where the examples are the same, else of the means, which have no interval here.

    The attribute ``difference`` says which.

    Raises:
        InputError: the axes do not agree; the message says which and how.
    """
    if why := refused(a, b, choice):
        raise InputError(f"A and B cannot be subtracted: {why}")
    paired = same_examples(a, b) and (not fx.is_effects(a) or choice.quantity in _RAW)
    left, right = (_quantity(ds, choice, paired) for ds in (a, b))
    right = right.transpose(*left.dims)
    data = left.values.astype(float) - right.values.astype(float)
    dims = left.dims
    kept = [c for c in left.coords if c in dims or (c in names.SWEPT and not left[c].ndim)]  # axes, and where others stand
    found = xr.DataArray(data, {c: left[c] for c in kept}, dims, "A − B")
    said = f"of each of {a.sizes[names.EXAMPLE]} examples" if paired else "of the means: the examples are not the same"
    if not paired and same_examples(a, b):
        said = f"of the {choice.quantity} over all examples"
    selected = (ds.isel({axis: i for axis, i in choice.at.items() if axis in ds.dims}) for ds in (a, b))
    models = dict.fromkeys(str(attrs["model"]) for attrs in map(fx.attrs_of, selected) if attrs.get("model"))
    found.attrs = {"quantity": "difference", "difference": said, "model": " − ".join(models)}
    if paired and _TEMPLATE in a.coords:  # what intervals are clustered by
        found = found.assign_coords({_TEMPLATE: (names.EXAMPLE, a[_TEMPLATE].values)})
    return _with_tokens(found, a, b)


def _axes(ds: xr.Dataset, choice: Choice) -> list[str]:
    dims = fx.swept_axes(ds) if fx.is_effects(ds) else ds[str(choice.quantity)].dims
    return [str(d) for d in dims if d not in (names.EXAMPLE, names.METRIC)]


def _quantity(ds: xr.Dataset, choice: Choice, each: bool) -> xr.DataArray:
    """What is subtracted, of every example or on average."""
    if not fx.is_effects(ds):
        found = drawing.array(ds, str(choice.quantity), choice.metric, choice.at)
        return found if each or names.EXAMPLE not in found.dims else found.mean(names.EXAMPLE)
    one = drawing.select(ds, choice.metric, choice.at)
    if not each:
        return fx.value_of(one, choice.quantity or "effect")
    return one["value"] if choice.quantity == "value" else fx.effect(one)


def _with_tokens(found: xr.DataArray, a: xr.Dataset, b: xr.Dataset) -> xr.DataArray:
    """With the tokens at each position, where both runs have the same."""
    word = "clean_token"
    if names.POSITION in found.dims and word in a.coords and word in b.coords:
        tokens = a[word].transpose(names.POSITION, names.EXAMPLE).values
        if np.array_equal(tokens, b[word].transpose(names.POSITION, names.EXAMPLE).values):
            dims = (names.POSITION, names.EXAMPLE) if names.EXAMPLE in found.dims else (names.POSITION,)
            same = np.array([row[0] if all(t == row[0] for t in row) else "·" for row in tokens], object)
            return found.assign_coords(token=(dims, tokens if len(dims) == 2 else same))
    return found


def _listed(axes: list[str]) -> str:
    return " × ".join(axes) or "no axis"
