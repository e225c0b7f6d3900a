"""Binding in context: several groups are named, one is asked for by its key, and the answer is what is bound to that key.

    >>> task = binding(4)
    >>> list(task.models)
    ['positional', 'lexical', 'reflexive']
    >>> rows = task.counterfactuals(64, seed=0)
    >>> other = rows.relabelled("lexical", ("K",))

A network may hold which group is asked for by its place, ``P``; by its key, ``K``; or it may hold what is bound to it, ``I``
(Gur-Arieh, Geva and Geiger, arXiv 2510.06182). On one prompt all three say the same. They come apart where a value is taken
from a source with the base's keys and the base's bound words in other orders: the group at the source's place, the group of the
source's key, and the source's bound word are three.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interp.errors import UnknownNameError
from interp.prompts import Prompt
from interp.tasks import lexicon
from interp.tasks.causal_model import Categorical, CausalModel, CausalModelError, CausalTask, Integer, Mechanism
from interp.tasks.causal_model.kinds import Array, Kind
from interp.tasks.causal_model.rows import Inputs, Sampler
from interp.tasks.template import Template, last_word


class Schema(NamedTuple):
    """What is bound to what, and how that is said."""

    keys: str
    """A list of the lexicon."""
    bound: str
    group: str
    """With ``{key}`` and ``{bound}``."""
    query: str
    """With ``{key}``; the bound word follows."""


SCHEMAS: Mapping[str, Schema] = {
    "holds": Schema("names", "objects", "{key} holds the {bound}", "What {key} holds is the"),
    "visits": Schema("names", "places", "{key} is at the {bound}", "So {key} is at the"),
    "owner": Schema("objects", "names", "the {key} belongs to {bound}", "The owner of the {key} is"),
    "lies": Schema("objects", "places", "the {key} lies in the {bound}", "Now, the {key} lies in the"),
    "guest": Schema("places", "names", "the guest of the {key} is {bound}", "So whoever goes to the {key} meets"),
    "contains": Schema("places", "objects", "in the {key} there is a {bound}", "What one finds in the {key} is the"),
}


def binding(groups: int = 4, schema: str = "holds", *, apart: bool = False) -> CausalTask:
    """Which word is bound to the key that is asked for.

    Args:
        groups: how many there are, 2 at least, 4 where ``apart``.
        schema: one of :data:`SCHEMAS`.
        apart: sources that each mechanism reads another way: the group at the source's place, that of its key and that of its
            bound word are three, and none is the base's. Every output changes then: ``balance="natural"``.

    Inputs ``key0``, ``bound0``, ``key1``, … and ``asked``, the key; variables ``P`` of model ``positional``, ``K`` of
    ``lexical`` and ``I`` of ``reflexive``.

    Raises:
        UnknownNameError: no such schema.
        CausalModelError: too few groups, or more than there are words for.
    """
    if schema not in SCHEMAS:
        raise UnknownNameError("schema", schema, SCHEMAS)
    said = SCHEMAS[schema]
    halves = {
        kind: [some[: len(some) // 2], some[len(some) // 2 :]]
        for kind, some in lexicon.LISTS.items()
        if kind in (said.keys, said.bound)
    }
    least, most = 4 if apart else 2, min(len(part) for parts in halves.values() for part in parts)
    if not least <= groups <= most:
        raise CausalModelError(f"groups={groups}; expected {least} to {most} in schema {schema!r}")
    return CausalTask(
        f"binding: {schema}",
        _models(groups, Categorical(lexicon.LISTS[said.keys]), Categorical(lexicon.LISTS[said.bound])),
        {part: _sampler(groups, halves[said.keys][i], halves[said.bound][i]) for i, part in enumerate(("train", "test"))},
        lambda row: _render(row, groups, said),
        lambda value: f" {value}",
        variables={"positional": ("P",), "lexical": ("K",), "reflexive": ("I",)},
        choices=lambda base, source, label: [base[f"bound{i}"] for i in range(groups)],
        named=lambda row: [row[f"{kind}{i}"] for i in range(groups) for kind in ("key", "bound")],
        template=lambda row: f"binding/{schema}-{groups}",
        source=lambda base, draw: _source(base, draw, groups, apart),
    )


def _models(groups: int, key: Kind, word: Kind) -> dict[str, CausalModel]:
    keys, bound = [f"key{i}" for i in range(groups)], [f"bound{i}" for i in range(groups)]
    inputs: dict[str, Kind] = {
        name: kind for pair in zip(keys, bound, strict=True) for name, kind in zip(pair, (key, word), strict=True)
    }
    inputs["asked"] = key

    def place(*given: Array) -> Array:
        """Of the last of what is given among the others."""
        found = np.stack(given[:-1], -1) == given[-1][:, None]
        if not found.any(-1).all():
            row = int(np.argmin(found.any(-1)))
            raise CausalModelError(f"no group of row {row} has {given[-1][row]!s}; sources have the words of their base")
        return np.asarray(found.argmax(-1))

    def at(which: Array, words: tuple[Array, ...]) -> Array:
        return np.stack(words, -1)[np.arange(len(which)), which]

    position = Mechanism(place, (*keys, "asked"))
    named: dict[str, tuple[str, Kind, Mechanism, Mechanism]] = {
        "positional": ("P", Integer(0, groups - 1), position, Mechanism(lambda P, *words: at(P, words), ("P", *bound))),
        "lexical": (
            "K",
            key,
            Mechanism(lambda asked: asked, ("asked",)),
            Mechanism(lambda K, *both: at(place(*both[:groups], K), both[groups:]), ("K", *keys, *bound)),
        ),
        "reflexive": (
            "I",
            word,
            Mechanism(lambda *both: at(place(*both[:groups], both[-1]), both[groups:-1]), (*keys, *bound, "asked")),
            Mechanism(lambda I, *words: at(place(*words, I), words), ("I", *bound)),  # noqa: E741
        ),
    }
    return {
        name: CausalModel({**inputs, variable: kind, "O": word}, {variable: own, "O": out}, output="O", name=name)
        for name, (variable, kind, own, out) in named.items()
    }


def _sampler(groups: int, keys: tuple[str, ...], bound: tuple[str, ...]) -> Sampler:
    """Different keys and different words, each group asked for as often as any other (± 1)."""

    def sample(n: int, draw: np.random.Generator) -> Inputs:
        one, other = (np.array(words)[_orders(n, len(words), draw)[:, :groups]] for words in (keys, bound))
        asked = draw.permutation(np.arange(n) % groups)
        return _columns(one, other, asked)

    return sample


def _source(base: Inputs, draw: np.random.Generator, groups: int, apart: bool) -> Inputs:
    """The base's keys and its bound words, each in an order of its own, and another group that is asked for."""
    keys, bound = (np.stack([base[f"{kind}{i}"] for i in range(groups)], -1) for kind in ("key", "bound"))
    n, rows = len(keys), np.arange(len(keys))
    own = (keys == base["asked"][:, None]).argmax(-1)
    where = draw.integers(groups, size=(n, 3))  # of the source's place, its key and its bound word, in the base
    if apart:
        where = _orders(n, groups - 1, draw)[:, :3]
        where += where >= own[:, None]
    orders = []
    for at in where[:, 1:].T:
        order = _orders(n, groups, draw)
        there = (order == at[:, None]).argmax(-1)
        order[rows, there] = order[rows, where[:, 0]]
        order[rows, where[:, 0]] = at
        orders.append(order)
    one, other = (np.take_along_axis(words, order, -1) for words, order in zip((keys, bound), orders, strict=True))
    return _columns(one, other, where[:, 0])


def _orders(n: int, many: int, draw: np.random.Generator) -> NDArray[np.intp]:
    """``[row, place]``: orders of so many things."""
    return draw.random((n, many)).argsort(-1)


def _columns(keys: Array, bound: Array, asked: Array) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for i in range(keys.shape[1]):
        found |= {f"key{i}": keys[:, i], f"bound{i}": bound[:, i]}
    return found | {"asked": keys[np.arange(len(keys)), asked]}


def _render(row: Mapping[str, Any], groups: int, said: Schema) -> Prompt:
    """Groups with commas and an "and", a full stop, the query; every word a role of its variable's name."""
    parts = [said.group.format(key=f"{{key{i}}}", bound=f"{{bound{i}}}") for i in range(groups)]
    text = ", ".join(parts[:-1]) + " and " + parts[-1] + ". " + said.query.format(key="{asked}")
    text = text[0].upper() + text[1:] if text[0] != "{" else text
    prompt = Template("binding", text).render(**{name: str(word) for name, word in row.items()})
    return Prompt(prompt.text, {**prompt.roles, "END": last_word(str(prompt.text))})
