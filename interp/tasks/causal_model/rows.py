"""Rows of interchange experiments: a base, a source for every swapped variable, and what the causal model then says.

    >>> task = interp.tasks.price_tagging()                                                      # doctest: +SKIP
    >>> rows = task.counterfactuals(1024, ("L",), seed=0)                                        # doctest: +SKIP
    >>> rows.flip.mean(), rows.relabelled(task.models["bracket"], ("bounds",)).label[:4]         # doctest: +SKIP
    >>> train, test = rows.pairs(), task.counterfactuals(512, ("L",), seed=1, part="test").pairs()  # doctest: +SKIP

1. Draw a base, which variables are swapped, and a source for each of these.
2. y* is the model's output on the base once the swapped variables have the values that they have on their sources.
3. Balance: as many rows whose output changes as rows whose output stays (an unbalanced set makes it look good to do nothing),
   and within that as many of every swapped set and, where the outputs are few, of every y*.

A variable that a row does not swap has the base itself as its source: to write its value changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from interp.errors import InputError, UnknownNameError
from interp.prompts import Pair, Pairs, Prompt
from interp.tasks.causal_model.kinds import Array, CausalModelError, Kind
from interp.tasks.causal_model.model import CausalModel

Inputs = Mapping[str, Array]
Sampler = Callable[[int, np.random.Generator], Inputs]
"""So many rows of inputs, drawn with a generator."""
Counterpart = Callable[[Inputs, np.random.Generator], Inputs]
"""A row of inputs for each that is given, to be its source."""
Balance = Literal["flip", "natural"]
Which = Literal["interchange", "base", "source"]

_FEW = 8
"""Outputs of more values than this are not balanced one by one."""
_FEWEST = 64
"""Rows drawn at a time, at least."""
_TRIES = 40
"""Draws for every row that is asked for, after which a stratum counts as impossible."""


class Rendered:
    """How rows become prompts: what a task knows (:class:`interp.tasks.causal_model.CausalTask`)."""

    name: str
    render: Callable[[Mapping[str, Any]], Prompt]
    answer: Callable[[Any], Any]
    choices: Callable[[Mapping[str, Any], Mapping[str, Any], Any], Sequence[Any]] | None
    named: Callable[[Mapping[str, Any]], Sequence[str]] | None
    template: Callable[[Mapping[str, Any]], str] | None


@dataclass(frozen=True, eq=False, repr=False)
class Counterfactuals:
    """Rows with their labels."""

    model: CausalModel
    variables: tuple[str, ...]
    """Those that are swapped, in some rows at least."""
    base: Inputs
    sources: Mapping[str, Inputs]
    """By variable; of one source for all variables, the same inputs."""
    swap: NDArray[np.bool_]
    """``[row, variable]``."""
    task: Any = None
    made_by: Mapping[str, Any] | None = None
    which: Which = "interchange"
    """Whose output the label is."""

    @cached_property
    def label(self) -> Array:
        """y*, or what else was asked for (:meth:`with_label`)."""
        if self.which == "base":
            return self.base_label
        if self.which == "source":
            return self.source_label
        return self.model.interchange(self.base, self.sources, self.swap)[self.model.output]

    @cached_property
    def base_label(self) -> Array:
        return self.model.run(self.base)[self.model.output]

    @cached_property
    def source_label(self) -> Array:
        """Of the source of the first variable that a row swaps."""
        each = [self.model.run(self.sources[name])[self.model.output] for name in self.variables]
        return np.stack(each)[self.swap.argmax(-1), np.arange(len(self))]

    @property
    def kind(self) -> Kind:
        """Of the labels."""
        return self.model.variables[self.model.output]

    @cached_property
    def flip(self) -> NDArray[np.bool_]:
        """Whether the label differs from the base's."""
        return ~self.kind.same(self.label, self.base_label)

    @cached_property
    def moved(self) -> NDArray[np.bool_]:
        """Whether any swapped variable has another value than in the base."""
        own = self.model.run(self.base)
        found = np.zeros(len(self), dtype=bool)
        for index, name in enumerate(self.variables):
            other = self.model.run(self.sources[name])[name]
            found |= self.swap[:, index] & ~self.model.variables[name].same(own[name], other)
        return found

    @property
    def swapped(self) -> list[str]:
        """Names of the variables that each row swaps: ``"WX+YZ"``."""
        return ["+".join(name for name, there in zip(self.variables, row, strict=True) if there) for row in self.swap]

    def __len__(self) -> int:
        return len(self.swap)

    def __repr__(self) -> str:
        of = f" of {self.task.name}" if self.task is not None else ""
        return f"Counterfactuals({len(self)} rows{of}, {', '.join(self.variables)} in {self.model!r})"

    # other rows, other labels

    def take(self, rows: Any) -> Counterfactuals:
        """Some of the rows, by number or as a mask."""
        pick = np.arange(len(self))[rows]
        base = {name: array[pick] for name, array in self.base.items()}
        each = {id(one): {name: array[pick] for name, array in one.items()} for one in self.sources.values()}
        sources = {variable: each[id(one)] for variable, one in self.sources.items()}  # one source of several stays one
        return replace(self, base=base, sources=sources, swap=self.swap[pick])

    def with_label(self, which: Which) -> Counterfactuals:
        """The same rows, labelled by what the model says to the base, or to the source, as they are."""
        if which not in ("interchange", "base", "source"):
            raise UnknownNameError("label", which, ("interchange", "base", "source"))
        return replace(self, which=which)

    def relabelled(self, model: CausalModel | str | None = None, variables: Sequence[str] | None = None) -> Counterfactuals:
        """The same bases and sources with the labels of another hypothesis.

        Args:
            model: a rival, which takes the same inputs; by default this one. A task's rivals go by name.
            variables: of it, that are swapped in place of this one's; one for each of these, or, where all rows have one source
                alone, any number of them.

        Raises:
            CausalModelError: sources do not fit.
        """
        rival = self.task.models[model] if isinstance(model, str) else self.model if model is None else model
        names = self.variables if variables is None else tuple(variables)
        for name in names:
            rival.require(name)
        if len(names) == len(self.variables):
            sources, swap = dict(zip(names, self.sources.values(), strict=True)), self.swap
        elif len(self.variables) == 1:
            [only] = self.sources.values()
            sources, swap = dict.fromkeys(names, only), self.swap.repeat(len(names), axis=1)
        else:
            raise CausalModelError(
                f"{', '.join(self.variables)} have sources of their own, so that {', '.join(names)} cannot be told which is "
                "theirs; name one variable for each"
            )
        return replace(self, model=rival, variables=names, sources=sources, swap=swap, which="interchange")

    # prompts

    def pairs(self, task: Any = None) -> Pairs:
        """The rows as pairs of prompts: the base ``corrupted``, the source ``clean``, the label the answer.

        With several variables that have sources of their own each pair has a further prompt of every variable's name, and
        ``clean`` is that of the first one that it swaps.

        Args:
            task: how rows become prompts; by default the task that the rows were made by.

        Raises:
            InputError: there is none.
        """
        task = self.task if task is None else task
        if task is None:
            raise InputError("these rows were made by no task that says how they become prompts; give pairs(task)")
        one_source = len({id(one) for one in self.sources.values()}) == 1
        bases = [task.render(row) for row in _each(self.base)]
        sources = {v: [task.render(row) for row in _each(one)] for v, one in self._distinct(one_source).items()}
        first = [next(iter(sources)) if one_source else self.variables[i] for i in self.swap.argmax(-1)]
        labels, rows = self.label.tolist(), zip(_each(self.base), *(_each(self.sources[v]) for v in sources), strict=True)
        items = []
        for number, (own, *others) in enumerate(rows):
            source = others[list(sources).index(first[number])]
            every = [task.answer(value) for value in self._choices(task, own, source, labels[number])]
            right = task.answer(labels[number])
            items.append(
                Pair(
                    sources[first[number]][number],
                    bases[number],
                    (right,),
                    tuple(one for one in dict.fromkeys(every) if one != right),
                    task.template(own) if task.template is not None else "",
                    _entities(task, own, *others),
                    None if one_source else {v: prompts[number] for v, prompts in sources.items()},
                )
            )
        made_by = {**(self.made_by or {}), "variables": list(self.variables), "hypothesis": self.model.name or repr(self.model)}
        return Pairs(tuple(items), task.name, made_by | {"label": self.which})

    def _distinct(self, one_source: bool) -> dict[str, Inputs]:
        return dict(list(self.sources.items())[:1]) if one_source else dict(self.sources)

    def _choices(self, task: Any, base: Mapping[str, Any], source: Mapping[str, Any], label: Any) -> Sequence[Any]:
        if task.choices is not None:
            found = [*task.choices(base, source, label)]
            return [*found, *task.choices(source, source, label)] if self.which == "source" else found
        if self.kind.values is None:
            raise InputError(f"{self.model.output} has no list of values: the task must say among which answers one chooses")
        return self.kind.values


def counterfactuals(
    model: CausalModel,
    n: int,
    variables: Sequence[str],
    *,
    sample: Sampler,
    seed: int,
    source: Counterpart | None = None,
    balance: Balance = "flip",
    swapped: Literal["alone", "all", "alone+all"] | Sequence[Sequence[str]] = "alone+all",
    task: Any = None,
    made_by: Mapping[str, Any] | None = None,
) -> Counterfactuals:
    """Rows of interchange experiments.

    Args:
        n: how many.
        variables: that are swapped.
        sample: draws inputs.
        seed: of all draws.
        source: draws sources for bases, where these have to fit; by default they are drawn as bases are.
        balance: ``"flip"``, half of the rows change their output, of every swapped set and every label alike; ``"natural"``
            takes rows as they come.
        swapped: each variable alone, all together, both, or sets of names.
        task: how rows become prompts.
        made_by: what made them, JSON.

    Raises:
        CausalModelError: rows of one kind, changed or unchanged, cannot be had.
        UnknownNameError: no such variable.
    """
    for name in variables:
        model.require(name)
    if not variables or n < 1:
        raise CausalModelError(f"variables={list(variables)}, n={n}; expected a variable and a row at least")
    if balance not in ("flip", "natural"):
        raise UnknownNameError("balance", balance, ("flip", "natural"))
    sets = _sets(tuple(variables), swapped)
    draw = np.random.default_rng(seed)
    facts = {"seed": seed, "n": n, "balance": balance, **(made_by or {})}

    def drawn(count: int) -> Counterfactuals:
        swap = sets[draw.integers(len(sets), size=count)]
        base = _own(sample(count, draw))
        sources = {}
        for index, name in enumerate(variables):
            other = _own(sample(count, draw) if source is None else source(base, draw))
            sources[name] = {key: _where(swap[:, index], array, base[key]) for key, array in other.items()}
        return Counterfactuals(model, tuple(variables), base, sources, swap, task, facts)

    if balance == "natural":
        return drawn(n)
    many = max(4 * n, _FEWEST)
    found = drawn(many)
    chosen = _balanced(found, sets, n)
    for _ in range(_TRIES // 4):
        if len(chosen) == n and not _lacking(found, sets):
            break
        found = _together([found, drawn(many)])
        chosen = _balanced(found, sets, n)
    for flips, names in _lacking(found, sets):  # the set alone would tell whether a row flips
        word = "another output than" if flips else "the same output as"
        swapping = f"{', '.join(names)} {'are' if len(names) > 1 else 'is'} swapped"
        raise CausalModelError(
            f"of {len(found):,} rows drawn none has {word} its base when {swapping}; leave "
            "that out (variables=, swapped=), or take rows as they come: balance='natural'"
        )
    if len(chosen) < n:
        raise CausalModelError(
            f"of {len(found):,} rows drawn only {len(chosen)} of {n} are left in balance; draw fewer, or balance='natural'"
        )
    return found.take(draw.permutation(chosen))


def _balanced(rows: Counterfactuals, sets: NDArray[np.bool_], n: int) -> NDArray[np.intp]:
    """Numbers of rows, at most n: half of them flips, and of each half alike in swapped set and label as far as there are."""
    which = (rows.swap[:, None] == sets[None]).all(-1).argmax(-1)
    labels = np.unique(rows.label, return_inverse=True)[1] if rows.label.ndim == 1 and rows.label.dtype != object else None
    few = labels is not None and labels.max() < _FEW
    strata = which * _FEW + labels if few and labels is not None else which * _FEW
    chosen: list[NDArray[np.intp]] = []
    for flips, quota in ((True, n // 2), (False, n - n // 2)):
        side = np.flatnonzero(rows.flip == flips)
        groups = [side[strata[side] == stratum] for stratum in np.unique(strata[side])]
        chosen += _shared(groups, quota)
    return np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.intp)


def _lacking(rows: Counterfactuals, sets: NDArray[np.bool_]) -> list[tuple[bool, list[str]]]:
    """Whether flips, or rows that are none, lack where some variables are swapped, and which variables these are."""
    found = []
    for one in sets:
        flips = rows.flip[(rows.swap == one).all(-1)]
        names = [name for name, there in zip(rows.variables, one, strict=True) if there]
        found += [(wanted, names) for wanted in (True, False) if not (flips == wanted).any()]
    return found


def _shared(groups: Sequence[NDArray[np.intp]], quota: int) -> list[NDArray[np.intp]]:
    """As many of every group as of any other, where a small one leaves its share to the rest."""
    found, left = [], quota
    for number, group in enumerate(sorted(groups, key=len)):
        share = left // (len(groups) - number)
        found.append(group[:share])
        left -= len(found[-1])
    return found


def _sets(variables: tuple[str, ...], swapped: Any) -> NDArray[np.bool_]:
    """``[set, variable]``."""
    alone = [(name,) for name in variables]
    named: dict[str, list[Any]] = {"alone": [*alone], "all": [variables], "alone+all": [*alone, variables]}
    if isinstance(swapped, str):
        if swapped not in named:
            raise UnknownNameError("swapped", swapped, named)
        asked = named[swapped]
    else:
        asked = [(one,) if isinstance(one, str) else tuple(one) for one in swapped]
    for name in chain(*asked):
        if name not in variables:
            raise UnknownNameError("swapped variable", name, variables)
    every = [[name in one for name in variables] for one in dict.fromkeys(map(frozenset, asked))]
    return np.array(every, dtype=bool)


def _own(inputs: Inputs) -> dict[str, Array]:
    return {name: np.asarray(array) for name, array in inputs.items()}


def _where(mask: NDArray[np.bool_], one: Array, other: Array) -> Array:
    return np.where(mask.reshape(-1, *(1 for _ in one.shape[1:])), one, other)


def _together(parts: Sequence[Counterfactuals]) -> Counterfactuals:
    first = parts[0]
    base = {name: np.concatenate([part.base[name] for part in parts]) for name in first.base}
    sources = {
        v: {name: np.concatenate([part.sources[v][name] for part in parts]) for name in one} for v, one in first.sources.items()
    }
    return replace(first, base=base, sources=sources, swap=np.concatenate([part.swap for part in parts]))


def _each(inputs: Inputs) -> list[dict[str, Any]]:
    """Rows as mappings; vectors stay arrays."""
    columns: dict[str, list[Any]] = {name: list(array) if array.ndim > 1 else array.tolist() for name, array in inputs.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _entities(task: Any, *rows: Mapping[str, Any]) -> tuple[str, ...]:
    if task.named is None:
        return ()
    return tuple(dict.fromkeys(str(name) for row in rows for name in task.named(row)))
