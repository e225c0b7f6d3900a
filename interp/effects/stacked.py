"""What a result of several models (:func:`interp.over`) says of those that are still selected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product, takewhile
from typing import Any

import numpy as np
import xarray as xr

from interp import axes as names


def label_text(axes: Sequence[str], labels: Sequence[Any]) -> str:
    """``400`` along one axis, ``seed=0 checkpoint=400`` along several."""
    return str(labels[0]) if len(axes) == 1 else " ".join(f"{a}={v}" for a, v in zip(axes, labels, strict=True))


def common_name(models: Iterable[Any]) -> str:
    """``zoo/induction-forming, 60 models``; without a common folder ``gpt2 and 2 more``; of one its name."""
    listed = [str(name) for name in models]
    if len(listed) == 1:
        return listed[0]
    levels = zip(*(name.split("/") for name in listed), strict=False)
    common = "/".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))
    return f"{common}, {len(listed)} models" if common else f"{listed[0]} and {len(listed) - 1} more"


def attrs_of(result: xr.Dataset | xr.DataArray) -> dict[Any, Any]:
    """The attributes of a result; where models were selected from several, of these alone.

    ``sel`` leaves attributes as they were: what differs between models is kept by label, so it is looked up by the labels that
    are left.
    """
    attrs = dict(result.attrs)
    models = attrs.get("models")
    axes = [axis for axis in names.MODELS if axis in result.coords]
    if not isinstance(models, Mapping) or not axes:
        return attrs
    left = [label_text(axes, place) for place in product(*(np.ravel(result[axis].values).tolist() for axis in axes))]
    if not set(left) < models.keys():
        return attrs
    for key, each in attrs.items():
        if isinstance(each, Mapping) and each.keys() == models.keys():
            attrs[key] = each[left[0]] if len(left) == 1 else {label: each[label] for label in left}
    if len(left) == 1:
        del attrs["models"]
    return attrs | {"model": common_name(models[label] for label in left)}
