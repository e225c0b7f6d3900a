"""Prompts and pairs of prompts: what a task hands to a model, in words, before any tokenizer.

    >>> pair = Pair(
    ...     clean=Prompt("When Mary and John went home, John gave a book to", {"S2": (30, 34)}),
    ...     corrupted=Prompt("When Mary and John went home, Mary gave a book to", {"S2": (30, 34)}),
    ...     answers=(" Mary",), wrong=(" John",), template="demo", entities=("Mary", "John"))
    >>> Pairs((pair,), task="demo")
    Pairs(demo, 1 pair)

A role is the span of a part, and may be given as the text of it: ``Prompt("Paris is in", {"city": "Paris"})``. A chat is a
list of messages wherever a prompt is a text; :func:`interp.pairs` makes pairs of lists and tables.

*clean* is the prompt with the behaviour, *corrupted* its contrast; a sweep runs on one of them, the base, and takes values
from the other, the source (in causal-abstraction work the counterfactual). The README's page "Words" has the whole mapping.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any, SupportsInt, overload

import numpy as np

from interp.errors import AnswerError, InputError, PositionError
from interp.prompts.chats import Message, checked, is_chat, pieces, speakers, transcript
from interp.prompts.halves import By, furthest, halves
from interp.prompts.spans import Said, Span, spanned
from interp.verbs import fulfil

NAMED = "source:"
"""In front of the name of a further prompt of the pairs, where an intervention says whose values it takes."""

Text = str | Iterable[SupportsInt] | Sequence[Message]
"""Words; token ids as a list, an array or a tensor of one axis; or the messages of a chat."""
Answer = str | int | tuple[int, ...]
"""A text of one token or several, a token's id, or the ids of several."""
Answers = str | SupportsInt | Iterable[str | SupportsInt | Iterable[SupportsInt]]
"""Alternatives of equal standing, or the only one; ids also as numbers of NumPy and tensors."""


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Prompt:
    """One prompt: a text, token ids or a chat, with the roles of its parts; and what else is shown.

    >>> Prompt("Paris is in", {"city": "Paris"})
    Prompt(text='Paris is in', roles={'city': (0, 5)})
    >>> Prompt([{"role": "user", "content": "Where is Paris?"}], {"city": "Paris"}).roles
    {'city': (15, 20), 'user': (6, 21)}
    >>> Prompt("<image> What is this?", images=(picture,))                                 # doctest: +SKIP
    >>> Prompt("translate: good day", target="guten")           # what the decoder of an encoder–decoder has said so far
    Prompt(text='translate: good day', roles={}, target='guten')
    >>> Prompt(inputs={"pixel_values": pixels}, roles={"beak": (30, 34)})                  # doctest: +SKIP

    A role in a stream of its own is written with the stream's name: ``{"vision:beak": (30, 34)}``.

    Of a chat every message's content is a role as well: the last one of each speaker as ``"system"``, ``"user"``,
    ``"assistant"``, those before it as ``"user 1"``, ``"user 2"``, … A role of the same name that is given comes first.

    Args:
        text: what is said, as a text, token ids, or messages such as ``{"role": "user", "content": "Where is Paris?"}``.
        roles: parts by name: the text that a part covers, where it occurs once; the text and which of its occurrences it is,
            ``("Paris", 1)`` for the second (of a chat, counted through all its messages); or a span of characters, of token
            ids one of positions. The spans are what is kept.
        messages: of a chat, where ``text`` does not hold them.
        templated: whether the text is what a chat template wrote, special tokens and all, to which none are added.

    Raises:
        InputError: ``text`` is neither a text nor token ids along one axis, nor a chat.
        PositionError: a role is not inside the text, or its text is not there once.
    """

    text: str | tuple[int, ...]
    """Of a chat, its transcript: a line for each message."""
    roles: Mapping[str, Span]
    target: str | tuple[int, ...] | Prompt | None
    """What an encoder–decoder's decoder begins with; None for the token that it always begins with."""
    images: tuple[Any, ...]
    """Pictures, which the model's own processor turns into numbers."""
    inputs: Mapping[str, Any]
    """Arguments of the model's forward as arrays of this one example: ``{"pixel_values": [channel, row, column]}``."""
    messages: tuple[Message, ...]
    """Of a chat, which the tokenizer's own template turns into text."""
    templated: bool

    def __init__(
        self,
        text: Text = "",
        roles: Mapping[str, Said] | None = None,
        target: Text | Prompt | None = None,
        images: Iterable[Any] = (),
        inputs: Mapping[str, Any] | None = None,
        messages: Sequence[Message] = (),
        templated: bool = False,
    ) -> None:
        told = checked(text) if is_chat(text) else checked(messages)  # type: ignore[arg-type]
        said = transcript(told) if told and (is_chat(text) or not text) else _said(text)
        if told and (said != transcript(told) or (is_chat(text) and messages)):
            raise InputError("a prompt has a text as well as messages; give one of them, a chat as Prompt([{…}, …])")
        decoder = target if target is None or isinstance(target, Prompt) else _said(target)
        _set(self, text=said, target=decoder, images=tuple(images), inputs=inputs or {}, messages=told, templated=templated)
        within = [(piece.start, piece.stop) for piece in pieces(told)] if told else [(0, len(said))]
        given = {role: spanned(role, span, said, within) for role, span in (roles or {}).items()}
        _set(self, roles={**given, **{who: span for who, span in speakers(told).items() if who not in given}})
        self._check_roles()

    def _check_roles(self) -> None:
        for role, (start, stop) in self.roles.items():
            within = len(self.text) if self.text and ":" not in role else stop
            if not 0 <= start < stop <= within:
                raise PositionError(
                    f"role {role!r} spans [{start}, {stop}) of a prompt of length {len(self.text)}: {self.text!r}"
                )
            if self.messages and ":" not in role and not any(a <= start and stop <= b for a, b in _contents(self.messages)):
                raise PositionError(f"role {role!r} spans {self.text[start:stop]!r} of a chat, which no one message says")

    def spec(self) -> dict[str, Any]:
        text = self.text if isinstance(self.text, str) else list(self.text)
        found: dict[str, Any] = {"text": text, "roles": {k: list(v) for k, v in sorted(self.roles.items())}}
        if self.target is not None:
            found["target"] = (self.target if isinstance(self.target, Prompt) else Prompt(self.target)).spec()
        if self.images:
            found["images"] = [_digest(image) for image in self.images]
        if self.inputs:
            found["inputs"] = {name: _digest(array) for name, array in sorted(self.inputs.items())}
        if self.messages:
            found["messages"] = [dict(message) for message in self.messages]
        return found | ({"templated": True} if self.templated else {})

    def record(self) -> Any:
        """What JSON lines hold of it besides its roles: a text, ids or messages; with more to it, an object.

        Raises:
            InputError: it has pictures or arrays, which are no JSON.
        """
        if self.images or self.inputs:
            raise InputError(f"a prompt with {'images' if self.images else 'inputs'} cannot be written as JSON lines")
        said: Any = self.text if isinstance(self.text, str) else list(self.text)
        said = [dict(message) for message in self.messages] or said
        if self.target is None and not self.templated:
            return said
        found: dict[str, Any] = {"text": said} | ({"templated": True} if self.templated else {})
        if isinstance(self.target, Prompt):
            spans = {role: list(span) for role, span in self.target.roles.items()}
            return found | {"target": {"text": self.target.record(), "roles": spans}}
        return found if self.target is None else found | {"target": Prompt(self.target).record()}

    def __repr__(self) -> str:
        shown = {"target": self.target, "images": self.images, "inputs": self.inputs, "messages": self.messages}
        rest = "".join(f", {name}={value!r}" for name, value in shown.items() if value is not None and value not in ((), {}))
        return f"Prompt(text={self.text!r}, roles={self.roles!r}{rest}{', templated=True' if self.templated else ''})"


def _contents(messages: Sequence[Message]) -> list[Span]:
    """What each message says, as spans of the transcript."""
    said = pieces(messages)
    own = [[piece for piece in said if piece.message == number] for number in range(len(messages))]
    return [(some[0].start, some[-1].stop) for some in own if some]


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
    tokens = [listed(token) for token in listed(given)]
    if strange := [token for token in tokens if not _is_id(token) or token < 0]:
        raise InputError(
            f"the text of a prompt is a list with {strange[0]!r} in it; expected a text, or the token ids of one prompt, whole "
            "numbers from 0 on; several prompts are a list of prompts"
        )
    return tuple(tokens)


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
        sources: further prompts by name, for interventions with a source of their own for each of several variables.
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
    sources: Mapping[str, Prompt]
    """Further prompts by name, whose values interventions take as ``Activation("source:NAME")``."""

    def __init__(
        self,
        clean: Prompt | Text,
        corrupted: Prompt | Text,
        answers: Answers = (),
        wrong: Answers = (),
        template: str = "",
        entities: Iterable[str] = (),
        sources: Mapping[str, Prompt | Text] | None = None,
    ) -> None:
        _set(self, clean=_prompt(clean), corrupted=_prompt(corrupted), answers=_several(answers), wrong=_several(wrong))
        further = {name: _prompt(prompt) for name, prompt in (sources or {}).items()}
        _set(self, template=template, entities=tuple(entities), sources=further)
        if both := set(self.answers) & set(self.wrong):
            raise AnswerError(f"an answer is both right and wrong: {sorted(map(str, both))}")

    def record(self) -> dict[str, Any]:
        """What one of JSON lines holds of it; :func:`interp.pairs` reads it back.

        Raises:
            InputError: a prompt has pictures or arrays, which are no JSON.
        """
        sides = {"clean": self.clean, "counterfactual": self.corrupted}
        found: dict[str, Any] = {name: prompt.record() for name, prompt in sides.items()}
        found |= {"answers": list(self.answers), "wrong": list(self.wrong)}
        found["roles"] = {name: {r: list(span) for r, span in prompt.roles.items()} for name, prompt in sides.items()}
        found |= {"template": self.template, "entities": list(self.entities)}
        if self.sources:
            found["sources"] = {name: _object(prompt) for name, prompt in self.sources.items()}
        return found

    def swap(self) -> Pair:
        """The same pair seen from the other side: the corrupted prompt becomes the clean one."""
        return replace(self, clean=self.corrupted, corrupted=self.clean, answers=self.wrong, wrong=self.answers)

    def spec(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "clean": self.clean.spec(),
            "corrupted": self.corrupted.spec(),
            "answers": list(self.answers),
            "wrong": list(self.wrong),
            "template": self.template,
            "entities": list(self.entities),
        }
        return found | ({"sources": {name: one.spec() for name, one in self.sources.items()}} if self.sources else {})


def _object(prompt: Prompt) -> dict[str, Any]:
    """A prompt with its roles as an object of JSON lines."""
    said = prompt.record()
    whole = said if isinstance(said, dict) else {"text": said}
    return whole | {"roles": {role: list(span) for role, span in prompt.roles.items()}}


def _prompt(given: Prompt | Text) -> Prompt:
    return given if isinstance(given, Prompt) else Prompt(given)


def _several(answers: Any) -> tuple[Answer, ...]:
    plain = listed(answers)
    return tuple(one_answer(one) for one in ((plain,) if isinstance(plain, str) or not isinstance(plain, Iterable) else plain))


def listed(given: Any) -> Any:
    """An array's or a tensor's numbers as Python's own, a list of them where it has axes; anything else as it is."""
    return given.tolist() if hasattr(given, "tolist") else given


def one_answer(given: Any) -> Answer:
    """One answer, its ids as Python's own numbers.

    Raises:
        AnswerError: it is neither a text nor token ids.
    """
    one = listed(given)
    if isinstance(one, str):
        return str(one)
    if _is_id(one):
        return int(one)
    if isinstance(one, list | tuple) and all(_is_id(listed(token)) for token in one):
        return tuple(int(token) for token in one)
    raise AnswerError(
        f"{given!r} is a {type(given).__name__}; expected a text such as ' Paris', as it follows the prompt, a token id, "
        "or the ids of one answer"
    )


def _is_id(one: Any) -> bool:
    return isinstance(one, Integral) and not isinstance(one, bool)


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

    def __add__(self, other: Pairs) -> Pairs:
        """The pairs of two tasks, one after the other; what made them is kept of both."""
        if not isinstance(other, Pairs):
            return NotImplemented
        if not (self.items and other.items):
            return self if self.items else other
        task = self.task if self.task == other.task else f"{self.task} + {other.task}"
        parts = [{"task": of.task, "pairs": len(of), **of.made_by} for of in (self, other)]
        return Pairs(self.items + other.items, task, self.made_by if self.made_by == other.made_by else {"parts": parts})

    def swap(self) -> Pairs:
        """Every pair seen from the other side."""
        return replace(self, items=tuple(pair.swap() for pair in self.items))

    def sample(self, n: int, seed: int = 0) -> Pairs:
        """Some of the pairs, drawn without replacement; all of them in another order if ``n`` is their number.

        Raises:
            ValueError: fewer than ``n`` pairs.
        """
        if not 0 < n <= len(self):
            raise ValueError(f"a sample of n={n} pairs; expected 1 to {len(self)}, the number of pairs")
        drawn = np.random.default_rng(seed).permutation(len(self))[:n].tolist()
        return self._some(drawn, sample={"n": n, "of": len(self), "seed": seed})

    def split(self, by: By = "auto", fraction: float = 0.5, seed: int = 0) -> tuple[Pairs, Pairs]:
        """Two sets of pairs that share nothing: no pair, no template or no entity.

        >>> train, test = pairs.split(by="template", fraction=0.8)                           # doctest: +SKIP

        What is found on one set is tested on the other, so that by default they are as different as they can be told to be.
        What is drawn does not depend on the order of the pairs, which stay in theirs.

        Args:
            by: ``"template"``, ``"entity"``, or None for the pairs themselves, equal ones together. ``"auto"`` is by template
                where pairs name several; else by entity where no pair has to be left out for it; else the pairs themselves.
                ``made_by`` says which.
            fraction: of the templates, entities or different pairs, that the first set has.
            seed: of the draw.

        Raises:
            ValueError: a set would be empty, or the pairs do not name their templates or entities.
            UnknownNameError: ``by`` is none of these.

        Warns:
            RuntimeWarning: pairs with entities of both sets are in neither; ``made_by`` holds their number.
        """
        by = furthest(self.items, fraction, seed) if by == "auto" else by
        *sides, lost = halves(self.items, by, fraction, seed)
        how = {"by": by or "pair", "fraction": fraction, "seed": seed, "left_out": lost}
        one, other = (
            self._some(side, split={**how, "set": name}) for side, name in zip(sides, ("first", "second"), strict=True)
        )
        return one, other

    def _some(self, numbers: Sequence[int], **how: Any) -> Pairs:
        return replace(self, items=tuple(self.items[i] for i in numbers), made_by={**self.made_by, **how})

    def check(self, model: Any, **options: Any) -> Any:
        """How well a model does this; see :func:`interp.check`."""
        return fulfil("check")(model, self, **options)

    def records(self) -> list[dict[str, Any]]:
        """One plain object a pair, which :func:`interp.pairs` reads back to the same digest.

        Raises:
            InputError: a prompt has pictures or arrays, which are no JSON.
        """
        return [pair.record() for pair in self.items]

    def to_jsonl(self, path: str | PathLike[str]) -> Path:
        """Write the pairs as JSON lines, one a pair; ``interp.pairs(path)`` reads them back."""
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in self.records())
        target = Path(path)
        target.write_text("".join(lines), encoding="utf-8")
        return target

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles that every prompt has, in the order of the first clean prompt."""
        if not self.items:
            return ()
        return tuple(
            r for r in self.items[0].clean.roles if all(r in p.clean.roles and r in p.corrupted.roles for p in self.items)
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the further prompts that every pair has."""
        return tuple(name for name in (self.items[0].sources if self.items else ()) if all(name in p.sources for p in self))

    @property
    def digest(self) -> str:
        """sha256 of the pairs' content, 16 hexadecimal digits; generator arguments do not enter."""
        canonical = json.dumps([pair.spec() for pair in self.items], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"Pairs({self.task}, {len(self)} pair{'' if len(self) == 1 else 's'})"
