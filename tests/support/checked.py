"""How annotations are checked in tests: jaxtyping calls ``beartype`` below on every function and dataclass of the package."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self, get_args

import beartype as _beartype
import numpy as np

_OVERRIDES = {
    Self: object,  # jaxtyping decorates methods one by one, where beartype cannot know which class Self is
    np.ndarray[Any, Any]: np.ndarray,  # valid, yet refused by beartype
}


def beartype(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype, which accepts an int for a float as type checkers do, and anything for a Protocol without run-time check."""
    unchecked = {protocol: object for hint in function.__annotations__.values() for protocol in _static_protocols(hint)}
    overrides = _beartype.FrozenDict(_OVERRIDES | unchecked)
    return _beartype.beartype(conf=_beartype.BeartypeConf(is_pep484_tower=True, hint_overrides=overrides))(function)


def _static_protocols(hint: object) -> Iterator[object]:
    protocol = isinstance(hint, type) and hint is not Protocol and getattr(hint, "_is_protocol", False)
    if protocol and not getattr(hint, "_is_runtime_protocol", False):
        yield hint
    for part in get_args(hint):
        yield from _static_protocols(part)
