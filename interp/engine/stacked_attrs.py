"""What a result of several models says about itself: what they share as it was, what differs by label.

>>> merged({("a",): {"task": "ioi", "rows": 3}, ("b",): {"task": "ioi", "rows": 4}}, ("model",))
{'task': 'ioi', 'rows': {'a': 3, 'b': 4}}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from interp.effects.stacked import common_name, label_text

Attrs = Mapping[str, Any]


def merged(found: Mapping[tuple[Any, ...], Attrs], axes: Sequence[str]) -> dict[str, Any]:
    """The attributes of all results as one.

    ``noise_floor`` is the largest of each metric, ``wall_seconds`` the sum, ``made_at`` the latest, ``model`` what the names
    have in common. ``spec`` names the axes, what all specs share, and the rest of each in the order of the results: equal
    exactly where every spec and label is; None where one of them is.
    """
    keys = dict.fromkeys(key for attrs in found.values() for key in attrs)
    together: dict[str, Any] = {}
    for key in keys:
        values = {label_text(axes, labels): attrs.get(key) for labels, attrs in found.items()}
        if key == "spec":
            together[key] = _spec(list(values.values()), list(found), axes)
            continue
        first = next(iter(values.values()))
        if all(_same(first, value) for value in values.values()) and key != "wall_seconds":
            together[key] = first
        else:
            together[key] = _MERGED.get(key, dict)(values)
            if key == "model":
                together["models"] = values
    return together


def _spec(specs: list[Any], labels: Sequence[tuple[Any, ...]], axes: Sequence[str]) -> dict[str, Any] | None:
    if any(not isinstance(spec, Mapping) for spec in specs):
        return None
    shared = {key: value for key, value in specs[0].items() if all(key in s and _same(s[key], value) for s in specs)}
    each = [{key: value for key, value in spec.items() if key not in shared} for spec in specs]
    return {"over": {axis: [label[i] for label in labels] for i, axis in enumerate(axes)}, "shared": shared, "each": each}


def _largest(floors: Mapping[str, Any]) -> dict[str, Any]:
    metrics = dict.fromkeys(metric for floor in floors.values() for metric in floor or {})
    return {m: max((f[m] for f in floors.values() if f and f.get(m) is not None), default=None) for m in metrics}


def _latest(times: Mapping[str, Any]) -> Any:
    return max((t for t in times.values() if t is not None), default=None)


def _total(seconds: Mapping[str, Any]) -> float:
    return float(sum(s for s in seconds.values() if s is not None))


_MERGED: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "noise_floor": _largest,
    "wall_seconds": _total,
    "made_at": _latest,
    "model": lambda models: common_name(models.values()),
}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return bool(np.array_equal(a, b))
    return bool(a == b)
