"""Answers as token ids: one token, or several, of which all but the last are fed to the model behind its prompt.

    >>> told = model.encode(Pairs((Pair("A red", "A blue", " tree house", " tree frog"),))).answered          # doctest: +SKIP
    >>> told.right_strings, told.forced, told.differ                                                         # doctest: +SKIP
    ((((' tree', ' house'),),), [(5593,)], [1])

A right answer and a wrong one are told apart by the first token in which they differ, behind the tokens that they share.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import AnswerError, AnswerWarning
from interp.models.places import padded
from interp.prompts import Answer, Pair, Pairs
from interp.protocols import Tokenizer

Ids = tuple[int, ...]
Spelled = tuple[Ids, ...]
"""The answers of one pair, right or wrong."""
Texts = tuple[tuple[tuple[str, ...], ...], ...]
"""The tokens of every pair's answers, as text."""
NEAR = " (an answer is written as it follows the prompt, usually with a leading space)"


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers of every pair as token ids. Where one has several, they are one token each."""

    right: tuple[Spelled, ...]
    wrong: tuple[Spelled, ...]
    right_strings: Texts
    """The same as text."""
    wrong_strings: Texts

    @property
    def forced(self) -> list[Ids]:
        """What is fed behind both prompts of every pair: its right answer but for the last token."""
        return [right[0][:-1] if right else () for right in self.right]

    @property
    def differ(self) -> list[int]:
        """The step of every pair at which its right and wrong answers differ first: 0 is the token behind the prompt."""
        return [
            _shared(right[0], wrong[0]) if right and wrong else 0 for right, wrong in zip(self.right, self.wrong, strict=True)
        ]

    @property
    def later(self) -> list[Ids]:
        """Tokens of every right answer behind its first."""
        return [right[0][1:] if right else () for right in self.right]

    @property
    def later_wrong(self) -> list[Ids]:
        """Those of every wrong answer that stand behind the same tokens as in the right one."""
        differ = zip(self.wrong, self.differ, strict=True)
        return [wrong[0][1 : step + 1] if wrong else () for wrong, step in differ]

    @property
    def reached(self) -> list[bool]:
        """Whether all tokens of every wrong answer stand behind the same tokens as in the right one."""
        return [all(len(one) == step + 1 for one in wrong) for wrong, step in zip(self.wrong, self.differ, strict=True)]

    def tensors(self) -> dict[str, Int[Tensor, "example ..."]]:
        """What :class:`interp.models.encoding.Encoded` holds of them, padded with −1."""
        return {
            "answers": padded([[ids[0] for ids in right] for right in self.right]),
            "wrong": padded([[ids[0] for ids in wrong] for wrong in self.wrong]),
            "later": padded(self.later, 0),
            "later_wrong": padded(self.later_wrong, max(map(len, self.later))),
            "differ": torch.tensor(self.differ),
        }

    @property
    def span(self) -> tuple[int, int]:
        """The fewest and the most tokens of a right answer; (1, 1) where there are none."""
        counts = [len(one) for several in self.right for one in several] or [1]
        return min(counts), max(counts)


def answered(pairs: Pairs, spell: Callable[[Answer, Pair], Ids], tokenizer: Tokenizer | None = None) -> Answered:
    """Token ids of the answers of some pairs.

    Args:
        spell: the token ids of an answer in its place.
        tokenizer: says what tokens are, where something is wrong.

    Raises:
        AnswerError: alternatives of several tokens, or two answers of which one is the beginning of the other.
    """
    right = tuple(tuple(spell(answer, pair) for answer in pair.answers) for pair in pairs)
    wrong = tuple(tuple(spell(answer, pair) for answer in pair.wrong) for pair in pairs)
    texts = [tuple(tuple(strings(ids, tokenizer) for ids in several) for several in side) for side in (right, wrong)]
    found = Answered(right, wrong, *texts)
    for number, pair in enumerate(pairs):
        for kind, given, spelled in (
            ("answers", pair.answers, found.right[number]),
            ("wrong", pair.wrong, found.wrong[number]),
        ):
            _refuse_alternatives(number, kind, given, spelled, tokenizer)
        _refuse_beginnings(number, pair, found.right[number], found.wrong[number], tokenizer)
    return found


def in_place(answer: str, text: str, tokenizer: Tokenizer) -> Ids:
    """The tokens with which an answer continues a text, looked up in their place: a beginning may be spelled differently.

    Raises:
        AnswerError: it has no tokens, or several, which merge with the text's where the two meet.
    """
    alone = tuple(tokenizer(answer, add_special_tokens=False)["input_ids"])
    ids, merged = alone, False
    if text:
        before, after = (tuple(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in (text, text + answer))
        merged = after[: len(before)] != before
        ids = alone if merged else after[len(before) :]
    near = "" if answer.startswith(" ") else NEAR
    moved = f"; end the prompt before its space, and give {text[-1:] + answer!r}" if text[-1:].isspace() else ""
    if not ids:
        raise AnswerError(f"answer {answer!r} is no token in this tokenizer{near}")
    if len(ids) > 1 and merged:
        raise AnswerError(
            f"answer {answer!r} is {len(ids)} tokens in this tokenizer ({shown(ids, tokenizer)}), but behind …{text[-12:]!r} "
            f"they merge with the prompt's: … {shown(after[-len(ids) - 1 :], tokenizer)}{moved or near}"
        )
    if len(ids) > 1 and _cased(text[-1:]) and _cased(answer[:1]):
        warnings.warn(
            f"answer {answer!r} goes on with the word in which its prompt ends, …{(text[-12:] + answer)!r}, as "
            f"{shown(ids, tokenizer)}; a new word begins with a space, {' ' + answer!r}",
            AnswerWarning,
            stacklevel=2,
        )
    return ids


def shown(ids: Sequence[int], tokenizer: Tokenizer | None) -> str:
    """Token ids as text."""
    return " + ".join(map(repr, strings(ids, tokenizer)))


def strings(ids: Sequence[int], tokenizer: Tokenizer | None) -> tuple[str, ...]:
    """Every token as text, or its number."""
    return tuple(str(i) if tokenizer is None else tokenizer.decode([i]) for i in ids)


def _cased(letter: str) -> bool:
    """Whether words of its script are written with capitals, and so with spaces between them."""
    return letter.lower() != letter.upper()


def _shared(one: Ids, other: Ids) -> int:
    """How many tokens two answers begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _refuse_alternatives(
    number: int, kind: str, given: Sequence[Answer], spelled: Spelled, tokenizer: Tokenizer | None
) -> None:
    """Alternatives are compared and added up behind the prompt, where each of them is one token."""
    long = next((i for i, ids in enumerate(spelled) if len(ids) > 1), None)
    if len(spelled) > 1 and long is not None:
        raise AnswerError(
            f"example {number}: answer {given[long]!r} is {len(spelled[long])} tokens in this tokenizer "
            f"({shown(spelled[long], tokenizer)}), and alternatives are one token each; give {kind}={given[long]!r} alone"
        )


def _refuse_beginnings(number: int, pair: Pair, right: Spelled, wrong: Spelled, tokenizer: Tokenizer | None) -> None:
    """A right and a wrong answer differ in some token."""
    for one, ids in zip(pair.answers, right, strict=True):
        for other, theirs in zip(pair.wrong, wrong, strict=True):
            if _shared(ids, theirs) < min(len(ids), len(theirs)):
                continue
            if len(ids) == len(theirs) == 1:
                raise AnswerError(
                    f"example {number}: answers {pair.answers} and wrong {pair.wrong} share a token in this tokenizer"
                )
            raise AnswerError(
                f"example {number}: answer {one!r} ({shown(ids, tokenizer)}) and wrong {other!r} ({shown(theirs, tokenizer)}) "
                "begin alike, and no token tells them apart; give two that differ in a token"
            )
