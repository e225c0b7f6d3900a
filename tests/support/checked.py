"""How annotations are checked in tests: beartype on every function and dataclass of the package, in a scope of shapes per call.

jaxtyping's import hook puts its own decorator there, which binds the arguments and checks them twice on every call. For a
package of small functions this takes several times as long as the work; the decorator below checks the same once.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self, TypeVar, get_args, get_type_hints

import beartype as _beartype
import jaxtyping
import numpy as np

_OVERRIDES = {
    Self: object,  # methods are decorated one by one, where beartype cannot know which class Self is
    np.ndarray[Any, Any]: np.ndarray,  # valid, yet refused by beartype
}
_jaxtyped = jaxtyping.jaxtyped
_shapes = _jaxtyped("context")


def install() -> None:
    """Every module of the package that is imported from here on is checked."""
    jaxtyping.jaxtyped = lambda typechecker: _decorated
    finder = jaxtyping.install_import_hook("interp", "checked.beartype").hook
    instruments = finder.should_instrument
    # transformers makes a dataclass of every config, whose __init__ takes more keywords than its signature says.
    finder.should_instrument = lambda module: module != "interp.models.zoo.modeling" and instruments(module)


def beartype(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype, which accepts an int for a float as type checkers do, and anything for a Protocol without run-time check."""
    unchecked = {protocol: object for hint in function.__annotations__.values() for protocol in _static_protocols(hint)}
    overrides = _beartype.FrozenDict(_OVERRIDES | unchecked)
    conf = _beartype.BeartypeConf(is_pep484_tower=True, hint_overrides=overrides, violation_type=jaxtyping.TypeCheckError)
    return _beartype.beartype(conf=conf)(function)


def _decorated(decorated: Any) -> Any:
    """Stands in place of ``jaxtyping.jaxtyped(typechecker=beartype)``."""
    if isinstance(decorated, type):
        if dataclasses.is_dataclass(decorated) and "__init__" in vars(decorated):
            decorated.__init__ = _decorated(decorated.__init__)  # type: ignore[misc]
        return decorated
    if isinstance(decorated, (classmethod, staticmethod)):
        return type(decorated)(_decorated(decorated.__func__))
    if isinstance(decorated, property) or not inspect.isfunction(decorated):
        return _jaxtyped(decorated, typechecker=beartype)
    if "<locals>" in decorated.__qualname__:  # made anew, and would be decorated anew, in every call of a checked function
        return decorated
    return _function(decorated)


def _function(function: Callable[..., Any]) -> Callable[..., Any]:
    function.__annotations__ = hints = _hints(function)
    if inspect.isgeneratorfunction(function):  # of which no item is checked
        hints.pop("return", None)
    if all(hint is Any for hint in hints.values()):
        return function
    checked = beartype(function)
    if not any(map(_has_shape, hints.values())):
        return checked

    @functools.wraps(function)
    def scoped(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        with _shapes:
            return checked(*args, **kwargs)

    return scoped


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations evaluated; ``Any`` where one names what is not there yet, or for type checkers only."""
    try:
        return get_type_hints(function, function.__globals__, include_extras=True)
    except Exception:
        return {name: _hint(hint, function.__globals__) for name, hint in function.__annotations__.items()}


def _hint(hint: object, names: dict[str, Any]) -> Any:
    def stub(value: Any) -> None: ...

    stub.__annotations__ = {"value": hint}
    try:
        return get_type_hints(stub, names, include_extras=True)["value"]
    except Exception:
        return Any


def _has_shape(hint: object) -> bool:
    if isinstance(hint, TypeVar):
        return any(map(_has_shape, (hint.__bound__, *hint.__constraints__)))
    shape = isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)
    return shape or any(map(_has_shape, get_args(hint)))


def _static_protocols(hint: object) -> Iterator[object]:
    protocol = isinstance(hint, type) and hint is not Protocol and getattr(hint, "_is_protocol", False)
    if protocol and not getattr(hint, "_is_runtime_protocol", False):
        yield hint
    for part in get_args(hint):
        yield from _static_protocols(part)
