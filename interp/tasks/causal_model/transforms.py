"""Coarser models out of finer ones: variables left out, variables taken together, values taken together.

    >>> from interp.tasks.causal_model import Boolean, CausalModel
    >>> bit = Boolean()
    >>> chain = CausalModel(
    ...     {"a": bit, "b": bit, "c": bit, "ab": bit, "abc": bit},
    ...     {"ab": lambda a, b: a & b, "abc": lambda ab, c: ab & c}, output="abc")
    >>> marginalise(chain, ["ab"])
    CausalModel(a, b, c → abc(c, a, b))

Every constructive abstraction is these three, in this order (Geiger et al., arXiv 2301.04709). What cannot be said of the
coarser model any more, such as setting one of two variables that were taken together, is no variable of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from interp.errors import UnknownNameError
from interp.tasks.causal_model.kinds import MOST, Array, CausalModelError, Kind, Several, as_array, column, packed
from interp.tasks.causal_model.mechanisms import Do, Mechanism
from interp.tasks.causal_model.model import CausalModel, Values

_KEPT = 100
"""Witnesses that are kept; all are counted."""


def marginalise(model: CausalModel, names: Iterable[str]) -> CausalModel:
    """The model without some variables, whose mechanisms go into those of their children.

    Raises:
        CausalModelError: an input or the output, which cannot be left out, or a variable that depends on itself.
    """
    variables, mechanisms = dict(model.variables), dict(model.mechanisms)
    for name in names:
        model.require(name)
        if name not in mechanisms or name == model.output:
            what = "the output" if name == model.output else "an input, whose values nothing else gives"
            raise CausalModelError(f"{name} is {what}; it cannot be left out")
        if name in model.looped:
            raise CausalModelError(f"{name} depends on itself, so it has no one value by the others; it cannot be left out")
        own = mechanisms.pop(name)
        del variables[name]
        for child, mechanism in mechanisms.items():
            if name in mechanism.parents:
                mechanisms[child] = _substituted(mechanism, name, own)
    initial = {name: value for name, value in model.initial.items() if name in variables}
    return CausalModel(variables, mechanisms, model.output, initial, model.name, model.most)


def _substituted(mechanism: Mechanism, name: str, own: Mechanism) -> Mechanism:
    """A mechanism with a parent's own in its place."""
    kept = tuple(parent for parent in mechanism.parents if parent != name)
    parents = (*kept, *(parent for parent in own.parents if parent not in kept))

    def function(*given: Array) -> Any:
        known = dict(zip(parents, given, strict=True))
        known[name] = np.asarray(own.function(*(known[parent] for parent in own.parents)))
        return mechanism.function(*(known[parent] for parent in mechanism.parents))

    return Mechanism(function, parents)


def merge_variables(model: CausalModel, cells: Mapping[str, Sequence[str]]) -> CausalModel:
    """The model with some variables taken as one, whose value is all of theirs.

    Args:
        cells: by the new variable's name, the old ones, either all of them inputs or none.

    Raises:
        CausalModelError: a variable in two cells, a cell of inputs and others, a model with cycles, or merging that makes one.
    """
    if model.order is None:
        raise CausalModelError(f"{model!r} has cycles; variables are merged in models without")
    home = {name: name for name in model.variables}
    for cell, names in cells.items():
        for name in names:
            model.require(name)
            if home[name] != name:
                raise CausalModelError(f"{name} is in two cells, {home[name]} and {cell}")
            home[name] = cell
        inner = [name for name in names if name in model.mechanisms]
        if inner and len(inner) < len(names):
            raise CausalModelError(f"cell {cell} holds inputs and variables with mechanisms; expected one or the other")
        if cell in model.variables and cell not in names:
            raise CausalModelError(f"{cell} is the name of another variable")
    content = {cell: tuple(names) for cell, names in cells.items()}

    def unpacked(known: Mapping[str, Array]) -> dict[str, Array]:
        found = dict(known)
        for cell, names in content.items():
            if cell in known:
                found |= {name: column(known[cell], index) for index, name in enumerate(names)}
        return found

    variables: dict[str, Kind] = {}
    mechanisms: dict[str, Mechanism] = {}
    for name in model.variables:
        cell = home[name]
        if cell in variables:
            continue
        names = content.get(cell, (name,))
        variables[cell] = Several(tuple(model.variables[one] for one in names)) if cell in content else model.variables[name]
        if name not in model.mechanisms:
            continue
        outside = [p for one in names for p in model.mechanisms[one].parents if home[p] != cell]
        parents = tuple(dict.fromkeys(home[p] for p in outside))
        mechanisms[cell] = Mechanism(_joint(model, names, parents, unpacked, cell in content), parents)
    output = home[model.output]
    try:
        merged = CausalModel(variables, mechanisms, output, name=model.name)
    except CausalModelError as error:
        raise CausalModelError(f"merging {dict(cells)} makes variables depend on themselves: {error}") from error
    return merged


def _joint(
    model: CausalModel,
    names: Sequence[str],
    parents: Sequence[str],
    unpacked: Callable[[Mapping[str, Array]], dict[str, Array]],
    several: bool,
) -> Callable[..., Array]:
    """The mechanism of a cell: its own variables one after the other."""
    inside = [one for one in model.order or () if one in names]

    def function(*given: Array) -> Array:
        known = unpacked(dict(zip(parents, given, strict=True)))
        for one in inside:
            own = model.mechanisms[one]
            known[one] = model.variables[one].check(one, own.function(*(known[p] for p in own.parents)))
        return packed([known[one] for one in names]) if several else known[names[0]]

    return function


class Quotient(NamedTuple):
    """Values of a variable taken together."""

    kind: Kind
    """Of what they are called afterwards."""
    down: Callable[[Array], Any]
    """Columns of old values to new ones."""


@dataclass(frozen=True, eq=False)
class Merged:
    """Whether values could be taken together."""

    model: CausalModel | None
    """None where they could not."""
    violations: int
    """Pairs of settings of a variable's parents that become the same, while the variable does not."""
    witnesses: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...]
    """The first of them: the variable, and its parents' values in both settings."""
    checked: str
    """What was looked at: ``"all"``, or how many settings drawn."""

    @property
    def viable(self) -> bool:
        return self.violations == 0


def merge_values(
    model: CausalModel,
    quotients: Mapping[str, Quotient],
    *,
    sample: Callable[[int, np.random.Generator], Mapping[str, Array]] | None = None,
    draws: int = 10**5,
    seed: int = 0,
) -> Merged:
    """The model with values of some variables taken together, where that can be: what becomes the same must act the same.

    Every setting of a variable's parents is tried where they can be listed and are no more than 10⁶; else the settings that
    come up in ``draws`` runs on drawn inputs, and the answer is no more than that nothing spoke against it.

    Args:
        quotients: by variable.
        sample: draws inputs, where settings cannot be listed.

    Raises:
        CausalModelError: settings cannot be listed, and nothing draws them.
    """
    for name in quotients:
        model.require(name)
    identity = {name: Quotient(kind, lambda values: values) for name, kind in model.variables.items()}
    every = identity | dict(quotients)
    tables: dict[str, dict[Any, Any]] = {}
    violations, checked = 0, "all"
    witnesses: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
    for name, mechanism in model.mechanisms.items():
        settings = _settings(model, mechanism.parents)
        if settings is None:
            if sample is None:
                raise CausalModelError(f"the values of {', '.join(mechanism.parents)} cannot be listed; give sample=")
            solved = model.run(sample(draws, np.random.default_rng(seed)))
            settings, checked = {p: solved[p] for p in mechanism.parents}, f"{draws:,} drawn"
        made = model.made(name, settings, len(next(iter(settings.values()), (None,))))
        below = [_listed(every[p].down(values)) for p, values in settings.items()]
        results, keys = _listed(every[name].down(made)), list(zip(*below, strict=True)) or [()] * len(made)
        groups: dict[Any, dict[Any, list[int]]] = {}
        for row, (key, result) in enumerate(zip(keys, results, strict=True)):
            groups.setdefault(key, {}).setdefault(result, []).append(row)
        for outcomes in groups.values():
            if len(outcomes) > 1:
                counts = [len(rows) for rows in outcomes.values()]
                violations += (sum(counts) ** 2 - sum(c * c for c in counts)) // 2
                one, other = ({p: v[rows[0]] for p, v in settings.items()} for rows in list(outcomes.values())[:2])
                if len(witnesses) < _KEPT:
                    witnesses.append((name, one, other))
        tables[name] = {key: next(iter(outcomes)) for key, outcomes in groups.items()}
    if violations:
        return Merged(None, violations, tuple(witnesses), checked)
    variables = {name: every[name].kind for name in model.variables}
    mechanisms = {name: Mechanism(_table(name, tables[name]), one.parents) for name, one in model.mechanisms.items()}
    return Merged(CausalModel(variables, mechanisms, model.output, name=model.name), 0, (), checked)


def _settings(model: CausalModel, parents: Sequence[str]) -> dict[str, Array] | None:
    """Every combination of some variables' values; None where they are not listed, or too many."""
    each = [model.variables[p].values for p in parents]
    if any(values is None for values in each) or math.prod(len(values or ()) for values in each) > MOST:
        return None
    return model.enumerated(parents)


def _table(name: str, table: Mapping[Any, Any]) -> Callable[..., Array]:
    def function(*given: Array) -> Array:
        if not given:
            return as_array([table[()]])[0]
        keys = zip(*map(_listed, given), strict=True)
        try:
            return as_array([table[key] for key in keys])
        except KeyError as error:
            raise CausalModelError(f"no drawn row had the parents of {name} at {error}; draw more") from error

    return function


def _listed(values: Any) -> list[Any]:
    array = np.asarray(values)
    return [tuple(one) if isinstance(one, list) else one for one in array.tolist()]


class Abstracted(NamedTuple):
    """Whether one model abstracts another, as far as was asked."""

    holds: bool
    asked: int
    """Interventions times inputs."""
    failed: int
    witness: tuple[Any, dict[str, Any]] | None
    """The first intervention and inputs of the low-level model for which it fails."""


def is_abstraction(
    low: CausalModel,
    high: CausalModel,
    translate: Callable[[Values], Mapping[str, Array]],
    interventions: Iterable[tuple[Do, Do]],
    inputs: Mapping[str, Array] | None = None,
) -> Abstracted:
    """Whether translating what the low-level model gives is what the high-level one gives, under every intervention asked for.

    Args:
        translate: values of the low-level model's variables to those of all the high-level one's.
        interventions: of the low-level model with what each is in the high-level one; ``({}, {})`` is none.
        inputs: of the low-level model; by default all of them, which must be listable.
    """
    rows = low.enumerated() if inputs is None else {name: np.asarray(array) for name, array in inputs.items()}
    plain = translate(low.run(rows))
    for name in plain:
        high.require(name)
    lacking = [name for name in high.variables if name not in plain]
    if lacking:  # what is not translated would hold whatever it is
        raise UnknownNameError("translated variable", lacking[0], plain)
    asked = failed = 0
    witness = None
    for own, theirs in interventions:
        found = translate(low.run(rows, own))
        expected = high.run({name: plain[name] for name in high.inputs}, theirs)
        same = [high.variables[name].same(np.asarray(found[name]), expected[name]) for name in found]
        right = np.logical_and.reduce(same)
        asked, failed = asked + len(right), failed + int((~right).sum())
        if witness is None and not right.all():
            at = int(np.argmin(right))
            witness = (own, {name: array[at] for name, array in rows.items()})
    return Abstracted(failed == 0, asked, failed, witness)
