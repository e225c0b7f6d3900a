"""How annotations are checked in tests: jaxtyping calls ``beartype`` below on every function and dataclass of the package."""

from collections.abc import Callable
from typing import Any, Protocol, Self

import beartype as _beartype
import numpy as np

_OVERRIDES = {
    Self: object,  # jaxtyping decorates methods one by one, where beartype cannot know which class Self is
    np.ndarray[Any, Any]: np.ndarray,  # valid, yet refused by beartype
}


def beartype(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype, which accepts an int for a float as type checkers do, and anything for a Protocol that has no run-time check."""
    unchecked = {value: object for value in function.__globals__.values() if _is_static_protocol(value)}
    overrides = _beartype.FrozenDict(_OVERRIDES | unchecked)
    return _beartype.beartype(conf=_beartype.BeartypeConf(is_pep484_tower=True, hint_overrides=overrides))(function)


def _is_static_protocol(value: object) -> bool:
    if not isinstance(value, type) or value is Protocol:
        return False
    return getattr(value, "_is_protocol", False) and not getattr(value, "_is_runtime_protocol", False)
