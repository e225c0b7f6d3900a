"""Causal models: variables, what each is made of, and what they are once some of them are set.

    >>> from interp.tasks.causal_model import Boolean, CausalModel, Integer
    >>> model = CausalModel(
    ...     {"w": Integer(0, 9), "x": Integer(0, 9), "y": Integer(0, 9), "z": Integer(0, 9),
    ...      "WX": Boolean(), "YZ": Boolean(), "O": Boolean()},
    ...     {"WX": lambda w, x: w == x, "YZ": lambda y, z: y == z, "O": lambda WX, YZ: WX == YZ}, output="O")
    >>> model
    CausalModel(w, x, y, z → WX(w, x), YZ(y, z), O(WX, YZ))
    >>> base, source = ({"w": [1], "x": [2], "y": [3], "z": [4]}, {"w": [1], "x": [1], "y": [3], "z": [4]})
    >>> model.run(base)["O"], model.interchange(base, {"WX": source})["O"]
    (array([ True]), array([False]))

A mechanism is a function of whole columns, ``[row, …]`` to ``[row, …]``, and its arguments' names are its parents, so that it
cannot read what it does not name. Variables without a mechanism are inputs.

Geiger et al., "Causal Abstraction: A Theoretical Foundation for Mechanistic Interpretability", arXiv 2301.04709: a model is its
variables, their values and one mechanism each; a solution is a fixed point of all mechanisms together. Without cycles there is
one, reached in one pass. With cycles (``initial=`` says where from) the mechanisms are applied to all variables at once until
nothing changes, and rows that do not settle say so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from interp.errors import ShapeMismatchError, UnknownNameError
from interp.tasks.causal_model.kinds import MOST, Array, CausalModelError, Kind, as_array
from interp.tasks.causal_model.mechanisms import Do, Mechanism, Set, changed, chosen, many_rows, of_input, wide

CONVERGED = "converged"


@dataclass(frozen=True, eq=False)
class Values:
    """What every variable is, rows in front: ``values["WX"]``."""

    arrays: Mapping[str, Array]
    status: Array
    """``[row]``: ``"converged"``, ``"cycle(2)"`` with its period, or ``"diverged"``."""

    @cached_property
    def settled(self) -> NDArray[np.bool_]:
        return np.asarray(self.status == CONVERGED)

    def __getitem__(self, name: str) -> Array:
        if name not in self.arrays:
            raise UnknownNameError("variable", name, self.arrays)
        if not self.settled.all():
            row = int(np.argmin(self.settled))
            raise CausalModelError(
                f"{name} has no value in {int((~self.settled).sum())} of {len(self.status)} rows: the model does not settle "
                f"there (row {row}: {self.status[row]}); keep the others with take(values.settled)"
            )
        return self.arrays[name]

    def take(self, rows: Any) -> Values:
        return Values({name: array[rows] for name, array in self.arrays.items()}, self.status[rows])

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def keys(self) -> Iterable[str]:
        """Names of the variables."""
        return self.arrays.keys()


@dataclass(frozen=True, eq=False, repr=False)
class CausalModel:
    """A causal model.

    Args:
        variables: the kind of each, inputs among them.
        mechanisms: of those that are no inputs.
        output: which one is what the network says.
        initial: with cycles, the value from which each variable in one starts.
        name: what figures and tables call it.
        most: steps of a cyclic model.

    Raises:
        UnknownNameError: a mechanism of a variable, or with a parent, that is none.
        CausalModelError: a cycle without initial values.
    """

    variables: Mapping[str, Kind]
    mechanisms: Mapping[str, Any]
    """Plain functions when given, :class:`Mechanism` afterwards."""
    output: str
    initial: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    most: int = 200

    def __post_init__(self) -> None:
        object.__setattr__(self, "mechanisms", {name: Mechanism.of(one, name) for name, one in self.mechanisms.items()})
        for name, mechanism in self.mechanisms.items():
            self.require(name)
            for parent in mechanism.parents:
                if parent not in self.variables:
                    raise UnknownNameError("parent", parent, self.variables, f"of {name}")
        for name in (self.output, *self.initial):
            self.require(name)
        lacking = [name for name in self.looped if name not in self.initial]
        if lacking:
            raise CausalModelError(
                f"{', '.join(lacking)} depend on themselves; say from which values they start: initial={{{lacking[0]!r}: …}}"
            )

    def require(self, name: str) -> None:
        """Raise ``UnknownNameError`` unless there is a variable of that name."""
        if name not in self.variables:
            raise UnknownNameError("variable", name, self.variables, f"of {self!r}")

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(name for name in self.variables if name not in self.mechanisms)

    @cached_property
    def order(self) -> tuple[str, ...] | None:
        """Variables with mechanisms, each behind its parents; None where they run in a cycle."""
        sorter = TopologicalSorter({name: one.parents for name, one in self.mechanisms.items()})
        try:
            return tuple(name for name in sorter.static_order() if name in self.mechanisms)
        except CycleError:
            return None

    @cached_property
    def looped(self) -> tuple[str, ...]:
        """Variables that depend on themselves."""
        if self.order is not None:
            return ()
        return tuple(name for name in self.mechanisms if name in self.above(name))

    def above(self, name: str) -> set[str]:
        """Every variable that one depends on, itself where it does."""
        found: set[str] = set()
        front = list(self.mechanisms[name].parents) if name in self.mechanisms else []
        while front:
            one = front.pop()
            if one not in found:
                found.add(one)
                front += self.mechanisms[one].parents if one in self.mechanisms else ()
        return found

    # solutions

    def run(self, inputs: Mapping[str, ArrayLike], do: Do | None = None) -> Values:
        """What every variable is.

        Args:
            inputs: ``[row, …]`` each; those that ``do`` sets may be left out.
            do: interventions, by variable.

        Raises:
            CausalModelError: an input is missing or of another kind.
            ShapeMismatchError: columns with different numbers of rows.
            UnknownNameError: no such variable.
        """
        do = do or {}
        for name in (*inputs, *do):
            self.require(name)
            if name in inputs and name in self.mechanisms:
                raise CausalModelError(f"{name} is no input: {self!r} makes it; to set it write do={{{name!r}: …}}")
        known: dict[str, Array] = {}
        for name in self.inputs:
            if name in inputs:
                known[name] = self.variables[name].check(name, inputs[name])
            elif name not in do:
                raise CausalModelError(f"input {name} is missing; {self!r} takes {', '.join(self.inputs)}")
        sizes = {name: len(array) for name, array in known.items()}
        sizes |= {name: many for name, one in do.items() if (many := many_rows(one, self.variables[name])) is not None}
        if len(set(sizes.values())) > 1:
            raise ShapeMismatchError(
                "columns have different numbers of rows: " + ", ".join(f"{k} {n}" for k, n in sizes.items())
            )
        rows = next(iter(sizes.values()), 1)
        left = self.intervened({name: of_input(name, one, known) for name, one in do.items()}) if do else self
        return left._solved(known, rows)

    def intervened(self, do: Do) -> CausalModel:
        """The model with other mechanisms; each intervention is of one variable, and is applied in the order given."""
        mechanisms = dict(self.mechanisms)
        for name, what in do.items():
            self.require(name)
            mechanisms[name] = changed(name, self.variables[name], mechanisms.get(name), what)
        return CausalModel(self.variables, mechanisms, self.output, self.initial, self.name, self.most)

    def interchange(
        self,
        base: Mapping[str, ArrayLike],
        sources: Mapping[str, Mapping[str, ArrayLike] | Values],
        swap: ArrayLike | None = None,
    ) -> Values:
        """What every variable is on the base once some have the values that they have on sources of their own.

        Args:
            base: inputs.
            sources: by variable, inputs, or :class:`Values` of a run that was itself intervened upon.
            swap: ``[row, variable]``, where a variable is swapped; by default everywhere.
        """
        where = None if swap is None else np.asarray(swap, dtype=bool)
        if where is not None and where.shape[1:] != (len(sources),):
            raise ShapeMismatchError(f"swap has shape {where.shape}; expected [row, variable] of {', '.join(sources)}")
        do = {}
        for index, (name, source) in enumerate(sources.items()):
            self.require(name)
            values = source if isinstance(source, Values) else self.run(source)
            do[name] = Set(values[name], None if where is None else where[:, index])
        return self.run(base, do)

    def _solved(self, known: dict[str, Array], rows: int) -> Values:
        if self.order is not None:
            for name in self.order:
                known[name] = self.made(name, known, rows)
            return Values({name: known[name] for name in self.variables}, np.full(rows, CONVERGED, dtype=object))
        state = known | {name: _filled(self.initial.get(name), self.variables[name], rows, name) for name in self.mechanisms}
        history, settled = [state], np.zeros(rows, dtype=bool)
        finite = np.ones(rows, dtype=bool)
        for _ in range(self.most):
            with np.errstate(over="ignore", invalid="ignore"):
                made = {name: self._raw(name, state, rows) for name in self.mechanisms}
            for one in made.values():
                if one.dtype.kind == "f":
                    finite &= np.isfinite(one).reshape(rows, -1).all(-1)
            # a row that has left the numbers stays where it was, so that the others can go on
            new = state | {n: self.variables[n].check(n, chosen(finite, one, state[n])) for n, one in made.items()}
            settled = self._same(new, state)
            state = new
            history.append(state)
            if settled.all():
                break
        status = np.full(rows, "diverged", dtype=object)
        for period in range(len(history) - 1, 0, -1):
            again = self._same(history[-1], history[-1 - period])
            status[again] = f"cycle({period})"
        status[settled] = CONVERGED
        status[~finite] = "diverged"
        return Values({name: state[name] for name in self.variables}, status)

    def made(self, name: str, known: Mapping[str, Array], rows: int) -> Array:
        """One variable, ``[row, …]``, by its mechanism from its parents.

        Raises:
            ShapeMismatchError: the mechanism gave something else than one value a row.
            CausalModelError: a value of another kind.
        """
        return self.variables[name].check(name, self._raw(name, known, rows))

    def _raw(self, name: str, known: Mapping[str, Array], rows: int) -> Array:
        function, parents = self.mechanisms[name]
        made = np.asarray(function(*(known[parent] for parent in parents)))
        if not parents and made.ndim == wide(self.variables[name]):  # a constant
            made = np.broadcast_to(made, (rows, *made.shape))
        if made.ndim == 0:
            raise ShapeMismatchError(
                f"the mechanism of {name} returned one value for all rows together; expected one a row: of vectors "
                "(w == x).all(-1), not .all()"
            )
        if len(made) != rows:
            raise ShapeMismatchError(f"the mechanism of {name} returned {len(made)} rows for {rows}; expected one value a row")
        return made

    def _same(self, one: Mapping[str, Array], other: Mapping[str, Array]) -> NDArray[np.bool_]:
        each = [self.variables[name].same(one[name], other[name]) for name in self.mechanisms]
        return np.asarray(np.logical_and.reduce(each))

    # what it looks like

    def enumerated(self, names: Sequence[str] | None = None) -> dict[str, Array]:
        """Every combination of values, by default of the inputs.

        Raises:
            CausalModelError: a variable with no list of values, or more than 10⁶ combinations.
        """
        names = self.inputs if names is None else tuple(names)
        if not names:
            return {}
        each = [self.variables[name].values for name in names]
        for name, values in zip(names, each, strict=True):
            if values is None:
                raise CausalModelError(f"the values of {name} cannot be listed: it is {self.variables[name]}")
        counts = [len(values or ()) for values in each]
        if math.prod(counts) > MOST:
            raise CausalModelError(f"{' × '.join(map(str, counts))} combinations of {', '.join(names)} are more than {MOST:,}")
        index = np.indices(counts).reshape(len(counts), -1)
        return {name: as_array(values or ())[at] for name, values, at in zip(names, each, index, strict=True)}

    @property
    def parents(self) -> xr.DataArray:
        """``[variable, parent]``, boolean."""
        names = list(self.variables)
        found = [[p in self.mechanisms[n].parents if n in self.mechanisms else False for p in names] for n in names]
        return xr.DataArray(found, {"variable": names, "parent": names}, ("variable", "parent"))

    def to_xarray(
        self, values: Mapping[str, ArrayLike] | Values | None = None, row: int = 0, do: Iterable[str] = ()
    ) -> xr.Dataset:
        """What a figure of it needs: parents, depth, kind, role and mechanism of each variable, and the values of one row.

        Args:
            values: of variables, of all or of some.
            row: whose values.
            do: names of those that an intervention set.

        Raises:
            UnknownNameError: no such variable.
        """
        marked = set(do)
        for name in marked:
            self.require(name)
        depth: dict[str, int] = {}
        for name in (*self.inputs, *(self.order or self.mechanisms)):
            above = [depth[p] for p in (self.mechanisms[name].parents if name in self.mechanisms else ()) if p in depth]
            depth[name] = 1 + max(above) if above else 0
        names = list(self.variables)
        roles = ["output" if n == self.output else "input" if n in self.inputs else "inner" for n in names]
        along: dict[str, Any] = {
            "depth": ("variable", [depth[n] for n in names]),
            "kind": ("variable", [_short(repr(self.variables[n])) for n in names]),
            "role": ("variable", roles),
            "mechanism": ("variable", [self.mechanisms[n].called(n) if n in self.mechanisms else "" for n in names]),
            "set": ("variable", [n in marked for n in names]),
        }
        attrs: dict[str, Any] = {"name": self.name, "output": self.output}
        if values is not None:
            there = set(values.keys())
            along["value"] = ("variable", [_said(np.asarray(values[n])[row]) if n in there else "" for n in names])
            attrs["row"] = row
        return xr.Dataset({"parents": self.parents}, along, attrs)

    def __repr__(self) -> str:
        made = ", ".join(f"{name}({', '.join(one.parents)})" for name, one in self.mechanisms.items())
        return f"{self.name or 'CausalModel'}({', '.join(self.inputs)} → {made})"


def _said(value: Any) -> str:
    """``True``, ``0.25``, ``(1 −1 1)``, ``(150, 600)``."""
    if isinstance(value, np.ndarray):
        numbers = value.dtype != object
        return _short("(" + (" " if numbers else ", ").join(f"{one:.3g}" if numbers else str(one) for one in value) + ")")
    return _short(f"{value:.6g}" if isinstance(value, float) else str(value))


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _filled(value: Any, kind: Kind, rows: int, name: str) -> Array:
    """A starting value for every row; of variables outside cycles, whatever their kind has first."""
    if value is None:
        value = kind.values[0] if kind.values else np.zeros(getattr(kind, "width", ())) if hasattr(kind, "width") else 0.0
    array = np.asarray(value)
    return kind.check(name, np.broadcast_to(array, (rows, *array.shape)).copy())
