"""What values a variable of a causal model takes.

    >>> Integer(0, 3).values
    (0, 1, 2, 3)
    >>> Boolean().check("WX", [True, False])
    array([ True, False])

Values of many rows are one array, rows in front; two values are the same as their kind says, numbers within its tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interp.errors import ShapeMismatchError, UserError

Array = NDArray[Any]
MOST = 10**6
"""Values, or combinations of values, that are enumerated."""


class CausalModelError(UserError, ValueError):
    """A causal model that is none, or something that cannot be asked of it."""


class Kind(Protocol):
    """The kind of a variable."""

    @property
    def values(self) -> tuple[Any, ...] | None:
        """Every value, where they are few enough to be listed."""
        ...

    def check(self, name: str, given: ArrayLike) -> Array:
        """The values as an array with rows in front; refused where one is of another kind."""
        ...

    def same(self, a: Array, b: Array) -> NDArray[np.bool_]:
        """``[row]``: which values are the same."""
        ...


class _OneColumn:
    """Values that are one number or word each."""

    def same(self, a: Array, b: Array) -> NDArray[np.bool_]:
        return np.asarray(a == b, dtype=bool)


@dataclass(frozen=True, slots=True)
class Boolean(_OneColumn):
    """True or False."""

    @property
    def values(self) -> tuple[bool, ...]:
        return (False, True)

    def check(self, name: str, given: ArrayLike) -> Array:
        array = _rows(name, given)
        if not len(array):
            return array.astype(bool)
        if array.dtype != bool:
            raise CausalModelError(f"{name} is True or False, but was given {array.dtype} such as {array[0].tolist()!r}")
        return array


@dataclass(frozen=True, slots=True)
class Integer(_OneColumn):
    """Whole numbers from ``low`` to ``high``, both included; positions of tokens, prices in cents."""

    low: int
    high: int

    @property
    def values(self) -> tuple[int, ...] | None:
        return tuple(range(self.low, self.high + 1)) if self.high - self.low < MOST else None

    def check(self, name: str, given: ArrayLike) -> Array:
        array = _rows(name, given)
        if not len(array):
            return array.astype(int)
        if array.dtype.kind not in "iu":
            raise CausalModelError(f"{name} is a whole number, but was given {array.dtype} such as {array[0].tolist()!r}")
        _inside(name, array, (array >= self.low) & (array <= self.high), f"{self.low} to {self.high}")
        return array


@dataclass(frozen=True, slots=True)
class Categorical(_OneColumn):
    """One of some values, words or tokens for instance."""

    names: tuple[Any, ...]

    def __init__(self, names: Sequence[Any]) -> None:
        if len(set(names)) < len(names) or not names:
            raise CausalModelError(f"categories {list(names)[:8]}: expected one at least, each once")
        object.__setattr__(self, "names", tuple(names))

    @property
    def values(self) -> tuple[Any, ...]:
        return self.names

    def check(self, name: str, given: ArrayLike) -> Array:
        array = _rows(name, given)
        few = ", ".join(map(str, self.names[:6])) + (" …" if len(self.names) > 6 else "")
        _inside(name, array, np.isin(array, np.array(self.names)), few)
        return array


@dataclass(frozen=True, slots=True)
class Real:
    """Any number; two that differ by no more than ``tolerance`` are the same."""

    tolerance: float = 1e-9

    @property
    def values(self) -> None:
        return None

    def check(self, name: str, given: ArrayLike) -> Array:
        return _finite(name, _rows(name, np.asarray(given, dtype=float)))

    def same(self, a: Array, b: Array) -> NDArray[np.bool_]:
        return np.asarray(np.abs(a - b) <= self.tolerance)


@dataclass(frozen=True, slots=True)
class Vector:
    """``width`` numbers; two are the same where no entry differs by more than ``tolerance``. Identity is ``tolerance=0``."""

    width: int
    tolerance: float = 0.0

    @property
    def values(self) -> None:
        return None

    def check(self, name: str, given: ArrayLike) -> Array:
        array = np.asarray(given, dtype=float)
        if array.ndim != 2 or array.shape[1] != self.width:
            raise ShapeMismatchError(f"{name} has shape {array.shape}; expected [row, {self.width}]")
        return _finite(name, array)

    def same(self, a: Array, b: Array) -> NDArray[np.bool_]:
        return np.asarray((np.abs(a - b) <= self.tolerance).all(-1))


@dataclass(frozen=True, slots=True)
class Several:
    """Values of several variables taken as one: ``[row, variable]`` of objects."""

    kinds: tuple[Kind, ...]

    @property
    def values(self) -> tuple[tuple[Any, ...], ...] | None:
        each = [kind.values for kind in self.kinds]
        if any(values is None for values in each) or math.prod(len(values or ()) for values in each) > MOST:
            return None
        return tuple(product(*(values or () for values in each)))

    def check(self, name: str, given: ArrayLike) -> Array:
        array = np.asarray(given, dtype=object)
        if array.ndim != 2 or array.shape[1] != len(self.kinds):
            raise ShapeMismatchError(f"{name} has shape {array.shape}; expected [row, {len(self.kinds)}]")
        return array

    def same(self, a: Array, b: Array) -> NDArray[np.bool_]:
        each = [kind.same(column(a, i), column(b, i)) for i, kind in enumerate(self.kinds)]
        return np.asarray(np.logical_and.reduce(each))


def column(packed: Array, index: int) -> Array:
    """One variable's values out of those of several."""
    return np.array(packed[:, index].tolist())


def packed(columns: Sequence[Array]) -> Array:
    """Values of several variables as one array of objects."""
    found = np.empty((len(columns[0]), len(columns)), dtype=object)
    for index, one in enumerate(columns):
        found[:, index] = [tuple(value) if isinstance(value, list) else value for value in one.tolist()]
    return found


def as_array(values: Sequence[Any]) -> Array:
    """Listed values as the array that a variable has; tuples stay together."""
    if values and isinstance(values[0], tuple):
        return packed([np.array([one[i] for one in values]) for i in range(len(values[0]))])
    return np.array(values)


def _rows(name: str, given: ArrayLike) -> Array:
    array = np.asarray(given)
    if array.ndim != 1:
        raise ShapeMismatchError(f"{name} has shape {array.shape}; expected one value a row, [row]")
    return array


def _finite(name: str, array: Array) -> Array:
    _inside(name, array, np.isfinite(array), "finite numbers")
    return array


def _inside(name: str, array: Array, inside: NDArray[np.bool_], expected: str) -> None:
    if not inside.all():
        row = int(np.argwhere(~inside)[0][0])
        raise CausalModelError(f"{name} is {array[row].tolist()!r} in row {row}; expected {expected}")
