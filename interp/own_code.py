"""What classes of the user's own do, as a digest: a name stays the same when the code behind it is changed.

    >>> first = own_code(MyMetric())                                       # doctest: +SKIP
    >>> own_code(MyMetric()) == first          # after its __call__ was edited and the cell was run again  # doctest: +SKIP
    False
    >>> own_code({})
    ''

In it are the methods, what they enclose, and the functions and constants of the user's own modules that they name. Code of
installed packages stands by its name. What has no written form, such as an array that a method names, leaves no digest.
"""

from __future__ import annotations

import dis
import enum
import hashlib
import inspect
import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import cached_property, partial
from types import CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType, SimpleNamespace
from typing import Any

_SPECIAL = ("__call__", "__init__", "__post_init__", "__getattr__", "__getitem__")
"""Methods with two underscores whose code counts; those of a dataclass are made of its fields."""
_PLAIN = (str, bytes, int, float, complex, bool, type(None), type(...))


class _UnwrittenError(Exception):
    """Something has no written form."""


def own_code(thing: object) -> str | None:
    """sha256 of the code of an object's class, 16 hexadecimal digits; empty of a class of an installed package.

    Returns:
        None where it cannot be told.
    """
    return "" if installed(type(thing)) else code_of(type(thing))


def code_of(kind: type) -> str | None:
    """sha256 of the code of a class of the user's own, 16 hexadecimal digits; None where it cannot be told."""
    try:
        written = json.dumps(list(_class(kind, [kind])))
    except (_UnwrittenError, RecursionError):
        return None
    return hashlib.sha256(written.encode()).hexdigest()[:16]


def in_writing(value: Any) -> str | None:
    """A value as text that is another one for another value; None where it has no written form."""
    try:
        return json.dumps(_written(value, []), ensure_ascii=False)
    except (_UnwrittenError, RecursionError):
        return None


def installed(thing: Any) -> bool:
    """Whether a class or a function is of this package, of Python, or of another package that is installed.

    A function is known by the module that it was written in: ``functools.wraps`` gives it the name of another's.
    """
    of = thing.__globals__.get("__name__") if isinstance(thing, FunctionType) else getattr(thing, "__module__", None)
    top = str(of or "builtins").partition(".")[0]
    if top == "__main__":  # a script, or a notebook, whatever runs it
        return False
    if top in (__name__.partition(".")[0], *sys.stdlib_module_names):
        return True
    file = getattr(sys.modules.get(top), "__file__", None)
    return file is not None and not {"site-packages", "dist-packages"}.isdisjoint(file.replace("\\", "/").split("/"))


def _class(kind: type, seen: list[Any]) -> Iterator[Any]:
    for one in kind.__mro__:
        if installed(one):
            yield [one.__module__, one.__qualname__]
            continue
        for name, value in sorted(vars(one).items()):
            counts = name in _SPECIAL and not (name == "__init__" and is_dataclass(one))
            if (counts or not name.startswith(("__", "_abc_", "_is_"))) and not isinstance(value, MemberDescriptorType):
                yield [name, _written(value, seen)]


def _written(value: Any, seen: list[Any]) -> Any:
    """As JSON; ``seen``: own classes and functions so far, which may name each other."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, ModuleType):
        return value.__name__
    if isinstance(value, tuple | list):
        return [_written(one, seen) for one in value]
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(_written(one, seen)) for one in value)
    if isinstance(value, dict):
        return [[_written(key, seen), _written(one, seen)] for key, one in value.items()]
    if isinstance(value, staticmethod | classmethod):
        return _written(value.__func__, seen)
    if isinstance(value, property):
        return [_written(one, seen) for one in (value.fget, value.fset)]
    if isinstance(value, cached_property):
        return _written(value.func, seen)
    if isinstance(value, partial):
        return [_written(one, seen) for one in (value.func, value.args, value.keywords)]
    if isinstance(value, enum.Enum):
        return [type(value).__qualname__, value.name]
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return _named(value, seen)
    if is_dataclass(value):
        return [_written(type(value), seen), *(_written(getattr(value, field.name), seen) for field in fields(value))]
    if isinstance(value, SimpleNamespace | Namespace) or not any(map(installed, type(value).__mro__[:-1])):
        return _object(value, seen)
    if type(value).__module__ == "torch" and type(value).__name__ in ("dtype", "device"):
        return repr(value)
    raise _UnwrittenError


def _object(value: Any, seen: list[Any]) -> Any:
    """A plain object of a class of the user's own, all of which is in its attributes."""
    if any(value is one for one in seen) or any("__slots__" in vars(kind) for kind in type(value).__mro__):
        raise _UnwrittenError
    return [_written(type(value), seen), _written(vars(value), [*seen, value])]


def _named(value: Callable[..., Any], seen: list[Any]) -> Any:
    """A class or a function."""
    if isinstance(value, MethodType):
        return [_written(value.__func__, seen), _written(value.__self__, seen)]
    inner = getattr(value, "__wrapped__", None)
    if installed(value):  # what a package's decorator wraps may be the user's own
        return [value.__module__, value.__qualname__, *([] if inner is None else [_written(inner, seen)])]
    if any(value is one for one in seen):
        return next(number for number, one in enumerate(seen) if value is one)
    seen.append(value)
    if isinstance(value, type):
        return list(_class(value, seen))
    function = value if inner is None or isinstance(value, FunctionType) else inspect.unwrap(value)
    if not isinstance(function, FunctionType):
        raise _UnwrittenError
    try:
        enclosed = [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:  # a cell that is not filled yet
        raise _UnwrittenError from None
    given = [function.__defaults__, function.__kwdefaults__, enclosed]
    inner = {name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__}
    return [_code(function.__code__), *(_written(one, seen) for one in given), _written(dict(sorted(inner.items())), seen)]


def _names(code: CodeType) -> set[str]:
    """Globals that code names, inner functions too."""
    own = {one.argval for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return own.union(*(_names(one) for one in code.co_consts if isinstance(one, CodeType)))


def _code(code: CodeType) -> Any:
    constants = [_code(one) if isinstance(one, CodeType) else _written(one, []) for one in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), list(code.co_varnames), constants]
