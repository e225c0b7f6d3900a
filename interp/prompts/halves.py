"""Two sets of pairs that share no template, no entity or no pair.

>>> from interp.prompts import Pair
>>> pairs = [Pair("a", "b", template="x"), Pair("c", "d", template="y"), Pair("e", "f", template="x")]
>>> halves(pairs, "template", 0.5, seed=0)
([0, 2], [1], 0)
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from interp.errors import UnknownNameError

By = Literal["auto", "template", "entity"] | None


class Tagged(Protocol):
    """What is asked of a pair here (:class:`interp.prompts.Pair`)."""

    @property
    def template(self) -> str: ...
    @property
    def entities(self) -> tuple[str, ...]: ...
    def spec(self) -> dict[str, Any]: ...


def halves(pairs: Sequence[Tagged], by: By, fraction: float, seed: int) -> tuple[list[int], list[int], int]:
    """Numbers of the pairs of one set and of the other, and how many are in neither; see :meth:`interp.prompts.Pairs.split`."""
    if by not in ("template", "entity", None):
        raise UnknownNameError("by", by, ("auto", "template", "entity"))
    if not 0 < fraction < 1:
        raise ValueError(f"fraction={fraction}; expected a number between 0 and 1, such as 0.5")
    tags = [_tags(pair, by) for pair in pairs]
    if nameless := [i for i, own in enumerate(tags) if not own]:
        what = "no template" if by == "template" else "no entities"
        argument = "template=" if by == "template" else "entities="
        raise ValueError(f"split(by={by!r}): {len(nameless)} of {len(pairs)} pairs have {what}; give Pair({argument}…)")
    order = _order(tags, np.random.default_rng(seed))
    if len(order) < 2:
        what = {"template": "templates", "entity": "entities", None: "different pairs"}[by]
        raise ValueError(f"split(by={by!r}) needs two {what} at least, one for each set; the pairs have {len(order)}")
    one, other = _cut(tags, order, fraction)
    lost = len(pairs) - len(one) - len(other)
    if not one or not other:
        raise ValueError(
            f"split(by={by!r}, fraction={fraction}, seed={seed}) leaves a set empty: of {len(pairs)} pairs {len(one)} are in "
            f"the first, {len(other)} in the second, and {lost} mix entities of both; try another seed or fraction"
        )
    if lost:
        warnings.warn(
            f"{lost} of {len(pairs)} pairs mix entities of both sets and are in neither; {len(one)} and {len(other)} are left",
            RuntimeWarning,
            stacklevel=3,
        )
    return one, other, lost


def furthest(pairs: Sequence[Tagged], fraction: float, seed: int) -> By:
    """By what the two sets differ most: templates where there are several, entities where that loses no pair, else pairs."""
    templates, entities = ([_tags(pair, by) for pair in pairs] for by in ("template", "entity"))
    if all(templates) and len(set(templates)) > 1:
        return "template"
    if all(entities):
        sides = _cut(entities, _order(entities, np.random.default_rng(seed)), fraction)
        if all(sides) and sum(map(len, sides)) == len(pairs):
            return "entity"
    return None


def _cut(tags: Sequence[frozenset[str]], order: Sequence[str], fraction: float) -> tuple[list[int], list[int]]:
    """Numbers of what has tags of the first part of an order alone, and of what has none of them."""
    first = set(order[: min(max(math.floor(fraction * len(order) + 0.5), 1), len(order) - 1)])
    return [i for i, own in enumerate(tags) if own <= first], [i for i, own in enumerate(tags) if not own & first]


def _tags(pair: Tagged, by: By) -> frozenset[str]:
    """What a pair may not share with pairs of the other set."""
    if by is None:
        return frozenset([json.dumps(pair.spec(), sort_keys=True)])
    return frozenset(pair.entities if by == "entity" else [pair.template] if pair.template else [])


def _order(tags: Sequence[frozenset[str]], random: np.random.Generator) -> list[str]:
    """All tags in a random order, those that pairs connect next to each other, so that a cut parts few pairs."""
    groups = _connected(tags)
    return [tag for group in _shuffled(groups, random) for tag in _shuffled(group, random)]


def _shuffled(items: Sequence[Any], random: np.random.Generator) -> list[Any]:
    return [items[i] for i in random.permutation(len(items)).tolist()]


def _connected(tags: Iterable[frozenset[str]]) -> list[list[str]]:
    """Tags that pairs have together, directly or by way of others; sorted, so that the order of the pairs does not matter."""
    parent: dict[str, str] = {}

    def root(tag: str) -> str:
        while parent[tag] != tag:
            parent[tag] = tag = parent[parent[tag]]
        return tag

    for own in tags:
        first, *rest = sorted(own)
        parent.setdefault(first, first)
        for tag in rest:
            parent.setdefault(tag, tag)
            parent[root(tag)] = root(first)
    groups: dict[str, list[str]] = {}
    for tag in sorted(parent):
        groups.setdefault(root(tag), []).append(tag)
    return list(groups.values())
