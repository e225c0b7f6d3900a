"""Prompts and pairs of prompts: what a task hands to a model, in words, before any tokenizer.

    >>> pair = Pair(
    ...     clean=Prompt("When Mary and John went home, John gave a book to", {"S2": (30, 34)}),
    ...     corrupted=Prompt("When Mary and John went home, Mary gave a book to", {"S2": (30, 34)}),
    ...     answers=(" Mary",), wrong=(" John",), template="demo", entities=("Mary", "John"))
    >>> Pairs((pair,), task="demo")
    Pairs(demo, 1 pair)

*clean* is the prompt with the behaviour, *corrupted* its contrast; a sweep runs on one of them, the base, and takes values
from the other, the source (in causal-abstraction work the counterfactual). The README's page "Words" has the whole mapping.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, SupportsInt, overload

import numpy as np

from interp.errors import AnswerError, InputError, PositionError

Text = str | Iterable[SupportsInt]
"""Words, or token ids: a list, an array or a tensor of one axis."""
Answer = str | int | tuple[int, ...]
"""A text of one token or several, a token's id, or the ids of several."""
Answers = str | int | Iterable[str | int | list[int] | tuple[int, ...]]
"""Alternatives of equal standing, or the only one."""
Span = tuple[int, int]
"""Start and stop (exclusive) of a role: in characters of a text, else in positions."""


@dataclass(frozen=True, slots=True, init=False)
class Prompt:
    """One prompt: a text, or token ids wherever a text is accepted, with the roles of its parts; and what else is shown.

    >>> Prompt("<image> What is this?", images=(picture,))                                 # doctest: +SKIP
    >>> Prompt("translate: good day", target="guten")           # what the decoder of an encoder–decoder has said so far
    Prompt(text='translate: good day', roles={}, target='guten', images=(), inputs={})
    >>> Prompt(inputs={"pixel_values": pixels}, roles={"beak": (30, 34)})                  # doctest: +SKIP

    A role in a stream of its own is written with the stream's name: ``{"vision:beak": (30, 34)}``.

    Raises:
        InputError: ``text`` is neither a text nor token ids along one axis.
        PositionError: a role is not inside the text.
    """

    text: str | tuple[int, ...]
    roles: Mapping[str, Span]
    target: str | tuple[int, ...] | Prompt | None
    """What an encoder–decoder's decoder begins with; None for the token that it always begins with."""
    images: tuple[Any, ...]
    """Pictures, which the model's own processor turns into numbers."""
    inputs: Mapping[str, Any]
    """Arguments of the model's forward as arrays of this one example: ``{"pixel_values": [channel, row, column]}``."""

    def __init__(
        self,
        text: Text = "",
        roles: Mapping[str, Span] | None = None,
        target: Text | Prompt | None = None,
        images: Iterable[Any] = (),
        inputs: Mapping[str, Any] | None = None,
    ) -> None:
        said = target if target is None or isinstance(target, Prompt) else _said(target)
        _set(self, text=_said(text), roles=roles or {}, target=said, images=tuple(images), inputs=inputs or {})
        for role, (start, stop) in self.roles.items():
            within = len(self.text) if self.text and ":" not in role else stop
            if not 0 <= start < stop <= within:
                raise PositionError(
                    f"role {role!r} spans [{start}, {stop}) of a prompt of length {len(self.text)}: {self.text!r}"
                )

    def spec(self) -> dict[str, Any]:
        text = self.text if isinstance(self.text, str) else list(self.text)
        found: dict[str, Any] = {"text": text, "roles": {k: list(v) for k, v in sorted(self.roles.items())}}
        if self.target is not None:
            found["target"] = (self.target if isinstance(self.target, Prompt) else Prompt(self.target)).spec()
        if self.images:
            found["images"] = [_digest(image) for image in self.images]
        if self.inputs:
            found["inputs"] = {name: _digest(array) for name, array in sorted(self.inputs.items())}
        return found


def _set(what: object, **fields: Any) -> None:
    """Fill in a frozen dataclass, which accepts more than it holds."""
    for name, value in fields.items():
        object.__setattr__(what, name, value)


def _said(given: Text) -> str | tuple[int, ...]:
    """A text as it is; token ids from a list, an array or a tensor of one axis."""
    if isinstance(given, str):
        return given
    shape = getattr(given, "shape", None)
    if not isinstance(given, Iterable) or (shape is not None and len(shape) != 1):
        what = f"a {type(given).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else "")
        raise InputError(f"the text of a prompt is {what}; expected a text, or the token ids of one prompt: [position]")
    return tuple(int(token) for token in given)


def _digest(array: Any) -> str:
    """sha256 of an array's shape, type and numbers, 16 hexadecimal digits."""
    numbers = np.ascontiguousarray(array)
    head = f"{numbers.shape} {numbers.dtype} ".encode()
    return hashlib.sha256(head + numbers.tobytes()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, init=False)
class Pair:
    """A clean prompt, its contrast, and what the model should say to each.

    >>> Pair("The capital of France is", "The capital of Italy is", " Paris", " Rome").answers
    (' Paris',)

    Answers are written exactly as they would follow the prompt, leading space included. An answer may be several tokens: those
    before its last are fed to the model behind both prompts. Several answers are alternatives of equal standing (greater-than:
    every later year), not a sequence, and are one token each.

    Args:
        clean: a prompt, or a text or token ids in its place.
        answers: one, or several; ids of one answer of several tokens are ``answers=[(5, 7)]``.
        wrong: as ``answers``.
    """

    clean: Prompt
    corrupted: Prompt
    answers: tuple[Answer, ...]
    """Right for the clean prompt."""
    wrong: tuple[Answer, ...]
    """The contrast: usually right for the corrupted prompt."""
    template: str
    """Id of the template; intervals cluster by it and splits keep it whole."""
    entities: tuple[str, ...]
    """Ids of what fills the template (names, nouns), for splits by entity."""

    def __init__(
        self,
        clean: Prompt | Text,
        corrupted: Prompt | Text,
        answers: Answers = (),
        wrong: Answers = (),
        template: str = "",
        entities: Iterable[str] = (),
    ) -> None:
        _set(self, clean=_prompt(clean), corrupted=_prompt(corrupted), answers=_several(answers), wrong=_several(wrong))
        _set(self, template=template, entities=tuple(entities))
        if both := set(self.answers) & set(self.wrong):
            raise AnswerError(f"an answer is both right and wrong: {sorted(map(str, both))}")

    def swap(self) -> Pair:
        """The same pair seen from the other side: the corrupted prompt becomes the clean one."""
        return replace(self, clean=self.corrupted, corrupted=self.clean, answers=self.wrong, wrong=self.answers)

    def spec(self) -> dict[str, Any]:
        return {
            "clean": self.clean.spec(),
            "corrupted": self.corrupted.spec(),
            "answers": list(self.answers),
            "wrong": list(self.wrong),
            "template": self.template,
            "entities": list(self.entities),
        }


def _prompt(given: Prompt | Text) -> Prompt:
    return given if isinstance(given, Prompt) else Prompt(given)


def _several(answers: Answers) -> tuple[Answer, ...]:
    many = (answers,) if isinstance(answers, str | int) else answers
    return tuple(tuple(map(int, one)) if isinstance(one, list | tuple) else one for one in many)


@dataclass(frozen=True, slots=True, repr=False)
class Pairs(Sequence[Pair]):
    """Pairs of one task, with what made them."""

    items: tuple[Pair, ...]
    task: str = "pairs"
    made_by: Mapping[str, Any] = field(default_factory=dict)
    """The generator's arguments (seed, corruption, templates …), JSON, kept with every result."""

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> Pairs: ...
    def __getitem__(self, index: int | slice) -> Pair | Pairs:
        return replace(self, items=self.items[index]) if isinstance(index, slice) else self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.items)

    def swap(self) -> Pairs:
        """Every pair seen from the other side."""
        return replace(self, items=tuple(pair.swap() for pair in self.items))

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles that every prompt has, in the order of the first clean prompt."""
        if not self.items:
            return ()
        return tuple(
            r for r in self.items[0].clean.roles if all(r in p.clean.roles and r in p.corrupted.roles for p in self.items)
        )

    @property
    def digest(self) -> str:
        """sha256 of the pairs' content, 16 hexadecimal digits; generator arguments do not enter."""
        canonical = json.dumps([pair.spec() for pair in self.items], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"Pairs({self.task}, {len(self)} pair{'' if len(self) == 1 else 's'})"
