"""Comparison: which of two is more? The variable is the outcome, held apart from who is asked about.

    >>> task = comparison()
    >>> task.model
    comparison(first, second, one, other → F(one, other), O(F, first, second))
    >>> task.render({"first": "Mary", "second": "John", "one": 7, "other": 3}).text
    'Mary scored 7 points and John scored 3 points, so the winner is'

Names and sentences are in two parts, which have none in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from interp.prompts import Prompt
from interp.tasks.causal_model import Boolean, Categorical, CausalModel, CausalTask, Integer
from interp.tasks.causal_model.kinds import Array, Kind
from interp.tasks.causal_model.rows import Sampler
from interp.tasks.lexicon import NAMES
from interp.tasks.template import Template, last_word

TEMPLATES = {
    "train": (
        Template("comparison/0", "{first} has {one} apples. {second} has {other} apples. The one who has more apples is"),
        Template("comparison/1", "{first} scored {one} points and {second} scored {other} points, so the winner is"),
        Template("comparison/2", "{first} is {one} years old and {second} is {other} years old. The older of the two is"),
    ),
    "test": (
        Template("comparison/3", "{first} owns {one} books. {second} owns {other} books. The one who owns more books is"),
        Template("comparison/4", "{first} won {one} games and {second} won {other} games, so the better player is"),
    ),
}


def comparison(low: int = 1, high: int = 9) -> CausalTask:
    """Who of two has more: the name of the first or of the second.

    Args:
        low, high: the numbers, never equal in a row.
    """
    half = len(NAMES) // 2
    names = {"train": NAMES[:half], "test": NAMES[half:]}
    person, number = Categorical(NAMES), Integer(low, high)
    kinds: dict[str, Kind] = {"first": person, "second": person, "one": number, "other": number}
    model = CausalModel(
        {**kinds, "F": Boolean(), "O": person},
        {"F": lambda one, other: one > other, "O": lambda F, first, second: np.where(F, first, second)},
        output="O",
        name="comparison",
    )

    def sampler(part: str) -> Sampler:
        words = np.array(names[part])

        def sample(n: int, draw: np.random.Generator) -> Mapping[str, Array]:
            first = draw.integers(len(words), size=n)
            second = (first + draw.integers(1, len(words), size=n)) % len(words)
            one = draw.integers(low, high + 1, size=n)
            other = low + (one - low + draw.integers(1, high - low + 1, size=n)) % (high - low + 1)
            return {"first": words[first], "second": words[second], "one": one, "other": other}

        return sample

    return CausalTask(
        "comparison",
        {"comparison": model},
        {part: sampler(part) for part in names},
        _render,
        lambda value: f" {value}",
        variables={"comparison": ("F",)},
        choices=lambda base, source, label: (base["first"], base["second"]),
        named=lambda row: (row["first"], row["second"]),
        template=lambda row: _template(row).id,
    )


def _template(row: Mapping[str, Any]) -> Template:
    """Of a row: by its names' part, and which of these by the names themselves."""
    part = "train" if NAMES.index(row["first"]) < len(NAMES) // 2 else "test"
    return TEMPLATES[part][(NAMES.index(row["first"]) + NAMES.index(row["second"])) % len(TEMPLATES[part])]


def _render(row: Mapping[str, Any]) -> Prompt:
    words = {name: str(row[name]) for name in ("first", "second", "one", "other")}
    said = _template(row).render(**words)
    return Prompt(said.text, {**said.roles, "END": last_word(str(said.text))})
