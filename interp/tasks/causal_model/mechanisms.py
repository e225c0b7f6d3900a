"""What variables are made of, and what interventions make of that.

>>> from interp.tasks.causal_model import Boolean
>>> Mechanism.of(lambda w, x: w == x, "WX").parents
('w', 'x')
>>> changed("WX", Boolean(), Mechanism.of(lambda w, x: w == x, "WX"), Change(lambda own: ~own)).parents
('w', 'x')
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interp.tasks.causal_model.kinds import Array, CausalModelError, Kind


class Mechanism(NamedTuple):
    """What a variable is made of."""

    function: Callable[..., Any]
    """Of its parents' columns, in their order."""
    parents: tuple[str, ...]

    @classmethod
    def of(cls, given: Any, name: str) -> Mechanism:
        """A plain function, its arguments the parents."""
        if isinstance(given, Mechanism):
            return given
        if not callable(given):
            raise CausalModelError(f"the mechanism of {name} is {given!r}; expected a function whose arguments are its parents")
        return cls(given, tuple(inspect.signature(given).parameters))

    def called(self, name: str) -> str:
        """Its function's name, that of the variable where it has none, with its parents: ``equal(w, x)``."""
        own = getattr(self.function, "__name__", "<lambda>")
        return f"{name if own.startswith('<') else own}({', '.join(self.parents)})"


class Change(NamedTuple):
    """A functional of a mechanism: what a variable becomes, from what it would have been and other variables."""

    function: Callable[..., Any]
    """Of the mechanism's own value, then of the variables that its further arguments name: ``lambda own: 2 * own``."""


class Set(NamedTuple):
    """A value, in some of the rows."""

    value: Any
    """``[row, …]``, or one for all rows."""
    where: NDArray[np.bool_] | None = None


Do = Mapping[str, Any]
"""By variable: a value or ``[row, …]`` values, a function of other variables, :class:`Change` or :class:`Set`."""


def changed(name: str, kind: Kind, old: Mechanism | None, what: Any) -> Mechanism:
    """The mechanism that an intervention leaves."""
    if isinstance(what, Set):
        value, where = what
        if where is None:
            return changed(name, kind, old, value)
        own = old
        if own is None:
            raise CausalModelError(f"{name} is an input: where it is not set it has no mechanism; give its values as inputs")

        def partly(*parents: Array) -> Array:
            kept = np.asarray(own.function(*parents))
            given = np.broadcast_to(np.asarray(value), kept.shape) if np.ndim(value) < kept.ndim else np.asarray(value)
            return chosen(where, given, kept)

        return Mechanism(partly, own.parents)
    if isinstance(what, Change):
        if old is None:
            raise CausalModelError(f"{name} is an input: there is no mechanism to change; set its value")
        further, mine = tuple(inspect.signature(what.function).parameters)[1:], old
        count = len(mine.parents)
        return Mechanism(
            lambda *given: what.function(np.asarray(mine.function(*given[:count])), *given[count:]), (*mine.parents, *further)
        )
    if isinstance(what, Mechanism) or callable(what):
        return Mechanism.of(what, name)
    fixed = np.asarray(what)
    return Mechanism(lambda: fixed, ())


def of_input(name: str, what: Any, known: Mapping[str, Array]) -> Any:
    """Of an input that is set in some rows, its values in all of them; anything else as it is."""
    if not isinstance(what, Set) or what.where is None or name not in known:
        return what
    own, where = known[name], what.where
    return chosen(where, np.asarray(what.value), own)


def chosen(mask: NDArray[np.bool_], one: Array, other: Array) -> Array:
    """Rows of one, and where not, of the other."""
    return np.where(mask.reshape(-1, *(1 for _ in other.shape[1:])), one, other)


def wide(kind: Kind) -> int:
    """Axes of one value: none of a number or word, one of a vector."""
    return int(hasattr(kind, "width") or hasattr(kind, "kinds"))


def many_rows(what: Any, kind: Kind) -> int | None:
    """How many rows an intervention is given for; None where it is of all alike."""
    if isinstance(what, Set):
        return len(what.where) if what.where is not None else many_rows(what.value, kind)
    if isinstance(what, Mechanism | Change) or callable(what) or np.ndim(what) <= wide(kind):
        return None
    return len(what)
