"""Indirect objects as an algorithm: which of two people was named again, and so who is given something.

    >>> task = ioi_algorithm()
    >>> task.model
    order(first, second, again, place, object, template → F(again), O(F, first, second))

``order`` holds which of the two was named again, the first or the second, whoever they are; ``name`` holds who is given
something. Names, places, objects and sentences of the test part are none of the training part's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from interp.prompts import Prompt
from interp.protocols import Tokenizer
from interp.tasks import lexicon
from interp.tasks.causal_model import Boolean, Categorical, CausalModel, CausalTask, Integer
from interp.tasks.causal_model.kinds import Array, Kind
from interp.tasks.causal_model.rows import Sampler
from interp.tasks.indirect_object import IOI_TEMPLATES, render_ioi


def ioi_algorithm(tokenizer: Tokenizer | None = None) -> CausalTask:
    """Who is given something, in sentences of :func:`interp.tasks.ioi`.

    Args:
        tokenizer: if given, all names, places and objects are single tokens of it.

    Variables: ``F`` of ``order``, whether the person named again is the first; ``G`` of ``name``, who is given something. The
    false hypothesis has the place say whether first and second are exchanged, and exchange them back.
    """
    words = {kind: lexicon.choose(kind, None, kind, tokenizer, least=8) for kind in ("names", "places", "objects")}
    person, flag = Categorical(words["names"]), Boolean()
    inputs: dict[str, Kind] = {
        "first": person,
        "second": person,
        "again": flag,
        "place": Categorical(words["places"]),
        "object": Categorical(words["objects"]),
        "template": Integer(0, len(IOI_TEMPLATES) - 1),
    }
    other = lambda F, first, second: np.where(F, second, first)  # noqa: E731
    early = np.array(sorted(words["places"])[: len(words["places"]) // 2])
    exchanged = lambda place: np.isin(place, early)  # noqa: E731
    models = {
        "order": CausalModel(
            {**inputs, "F": flag, "O": person}, {"F": lambda again: again, "O": other}, output="O", name="order"
        ),
        "name": CausalModel(
            {**inputs, "G": person, "O": person},
            {"G": lambda again, first, second: np.where(again, second, first), "O": lambda G: G},
            output="O",
            name="name",
        ),
    }
    false = CausalModel(
        {**inputs, "V": flag, "O": person},
        {
            "V": exchanged,
            "O": lambda V, place, again, first, second: other(again ^ V ^ exchanged(place), first, second),
        },
        output="O",
        name="place",
    )
    return CausalTask(
        "indirect object",
        models,
        {part: _sampler(words, number) for number, part in enumerate(("train", "test"))},
        _render,
        lambda value: f" {value}",
        variables={"order": ("F",), "name": ("G",)},
        false=(false, "V"),
        choices=lambda base, source, label: [base["first"], base["second"], source["first"], source["second"]],
        named=lambda row: (row["first"], row["second"]),
        template=lambda row: IOI_TEMPLATES[row["template"]].id,
    )


def _sampler(words: Mapping[str, tuple[str, ...]], part: int) -> Sampler:
    """Of the first half of all words, or of the second; of templates every other one, as neighbours are built alike."""
    half = {kind: np.array(some[part * (len(some) // 2) :][: len(some) // 2]) for kind, some in words.items()}
    templates = np.arange(part, len(IOI_TEMPLATES), 2)

    def sample(n: int, draw: np.random.Generator) -> Mapping[str, Array]:
        people = len(half["names"])
        first = draw.integers(people, size=n)
        second = (first + draw.integers(1, people, size=n)) % people
        return {
            "first": half["names"][first],
            "second": half["names"][second],
            "again": draw.random(n) < 0.5,
            "place": draw.choice(half["places"], size=n),
            "object": draw.choice(half["objects"], size=n),
            "template": draw.choice(templates, size=n),
        }

    return sample


def _render(row: Mapping[str, Any]) -> Prompt:
    first, second = str(row["first"]), str(row["second"])
    io, s = (second, first) if row["again"] else (first, second)
    order = "BABA" if row["again"] else "ABBA"  # IO is named first in ABBA
    template = IOI_TEMPLATES[row["template"]]
    return render_ioi(template, order, io=io, s=s, place=str(row["place"]), object=str(row["object"]))
