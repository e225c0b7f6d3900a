"""Answers of which one token each is read: as they were given, what their tokens are, and where a space seems to be missing.

>>> told = Told.of(model, "The capital of France is", " Buenos Aires", " Rome")           # doctest: +SKIP
AnswerWarning: answer ' Buenos Aires' is 2 tokens, ' Buenos' (id 38081) + ' Aires' (id 37415); the first of them is read
>>> told.pairs[0].answers, told.pairs[0].wrong                                           # doctest: +SKIP
((38081,), (7268,))

Of an answer of several tokens the first is read, which is where it differs from the wrong one: as ``logit_diff`` compares them.
Where they begin with the same token, no token behind the prompt tells them apart, and they are refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from interp.engine.asked import as_pairs
from interp.errors import AnswerError, AnswerWarning
from interp.models import Encoded, Model
from interp.models.encoding import Bos
from interp.prompts import Pairs
from interp.prompts.pairs import listed
from interp.protocols import Tokenizer

Word = str | int
Words = Any
"""One token for all prompts, or one for each: a text as it follows the prompt, or an id, also as a tensor or of numpy."""


_MOST = 16
"""Words by which it is told whether spaces are missing."""


class _Bare(NamedTuple):
    """A word without a space in front, which would be another token with one."""

    example: int
    word: str
    id: int
    spaced: int
    """The first token of the word with its space."""


@dataclass(frozen=True, eq=False)
class Told:
    """One answer for each prompt, and what it is compared with."""

    pairs: Pairs | None
    """The prompts with them; None where they are the pairs' own, as they are."""
    bare: Sequence[_Bare]
    tokenizer: Tokenizer | None

    @classmethod
    def of(
        cls,
        model: Model,
        prompts: Any,
        answer: Words = None,
        wrong: Words = None,
        *,
        bos: Bos | None = None,
        compared: bool = True,
    ) -> Told | None:
        """Answers as they were given, or else those of the pairs; None where there are none.

        Args:
            compared: whether they are compared with wrong ones, which are left aside otherwise.

        Raises:
            AnswerError: not one for each prompt, no text and no id, no token, or an answer that begins as the wrong one does.

        Warns:
            AnswerWarning: an answer of several tokens.
        """
        given, _ = as_pairs(prompts)
        pairs, bos = (given.pairs, given.asked) if isinstance(given, Encoded) else (given, bos)
        right, other = (each(words, name, len(pairs)) for words, name in ((answer, "answer"), (wrong, "wrong")))
        items = [
            replace(
                pair,
                answers=pair.answers if right is None else (right[i],),
                wrong=(other[i],) if other is not None else pair.wrong if right is None and compared else (),
            )
            for i, pair in enumerate(pairs)
        ]
        if not any(pair.answers for pair in items):
            return None
        asked = replace(pairs, items=tuple(items))
        ids = model.encode(asked, bos=bos).answered
        several = any(len(words) > 1 for pair in items for words in (pair.answers, pair.wrong))
        bare = _without_space(asked, ids.right, model.tokenizer)[:_MOST]
        if several or not _long(asked, ids, model.tokenizer):
            return cls(None if right is None and other is None else asked, bare, model.tokenizer)
        firsts = ([tuple(spelled[0] for spelled in words) for words in side] for side in (ids.right, ids.wrong))
        items = [replace(pair, answers=one, wrong=against) for pair, one, against in zip(items, *firsts, strict=True)]
        return cls(replace(pairs, items=tuple(items)), bare, model.tokenizer)

    @property
    def examples(self) -> list[int]:
        """Those whose logits decide whether a space is missing."""
        return [one.example for one in self.bare]

    def warn_of_spaces(self, logits: Float[Tensor, "example vocab"]) -> None:
        """Warn where the model says words with a space in front of them rather than as they were given.

        Args:
            logits: of the model in :attr:`examples`, at the last position that is read. They are compared on average.
        """
        given, spaced = ([one.id for one in self.bare], [one.spaced for one in self.bare])
        rows = range(len(self.bare))
        if self.tokenizer is None or not float((logits[rows, spaced] - logits[rows, given]).sum()) > 0:
            return
        one = self.bare[0]
        warnings.warn(
            f"answer {one.word!r} is read as given, {self.tokenizer.decode([one.id])!r} (id {one.id}), but the model prefers "
            f"{self.tokenizer.decode([one.spaced])!r} (id {one.spaced}) there: an answer is written as it follows the "
            f"prompt, usually with a leading space, {' ' + one.word!r}",
            AnswerWarning,
            stacklevel=3,
        )


def each(words: Words, name: str, n: int) -> list[Word] | None:
    """One word for every prompt.

    Args:
        name: of the argument.

    Raises:
        AnswerError: one for each prompt, but not as many as there are prompts; or what is neither a text nor an id.
    """
    if words is None:
        return None
    plain = listed(words)
    many = list(plain) if isinstance(plain, list | tuple) else [plain] * n
    if len(many) != n:
        raise AnswerError(f"{name} holds {len(many)} tokens for {n} prompts; give one for all of them, or one for each")
    return [_word(one, name) for one in many]


def _word(one: Any, name: str) -> Word:
    plain = one.item() if hasattr(one, "item") else one
    if isinstance(plain, str | int) and not isinstance(plain, bool):
        return plain
    raise AnswerError(f"{name} is {one!r}; expected a text as it follows the prompt, such as ' Paris', or a token id")


def _long(pairs: Pairs, ids: Any, tokenizer: Tokenizer | None) -> bool:
    """Whether some answers have several tokens, of which the first is read."""
    named = ("answer", ids.right, [pair.answers for pair in pairs]), ("wrong", ids.wrong, [pair.wrong for pair in pairs])
    for number, (right, wrong) in enumerate(zip(ids.right, ids.wrong, strict=True)):
        if right and wrong and right[0][0] == wrong[0][0]:
            one, other = pairs[number].answers[0], pairs[number].wrong[0]
            raise AnswerError(
                f"prompt {number}: answer {one!r} ({shown(right[0], tokenizer)}) and wrong {other!r} "
                f"({shown(wrong[0], tokenizer)}) begin alike, so that no token behind the prompt tells them apart; end the "
                "prompt with what they share, and give what follows it"
            )
    long = [
        (name, words[i][0], spelled[0])
        for name, side, words in named
        for i, spelled in enumerate(side)
        if spelled and len(spelled[0]) > 1
    ]
    if long:
        name, word, spelled = long[0]
        more = f", and so with {len(long) - 1} more" if len(long) > 1 else ""
        warnings.warn(
            f"{name} {word!r} is {len(spelled)} tokens, {shown(spelled, tokenizer)}; the first of them is read{more}",
            AnswerWarning,
            stacklevel=4,
        )
    return bool(long)


def shown(ids: Sequence[int], tokenizer: Tokenizer | None) -> str:
    """``' Buenos' (id 38081) + ' Aires' (id 37415)``."""
    return " + ".join(f"id {i}" if tokenizer is None else f"{tokenizer.decode([i])!r} (id {i})" for i in ids)


def _without_space(pairs: Pairs, right: Sequence[Any], tokenizer: Tokenizer | None) -> list[_Bare]:
    """Words that have a spelling with a space in front, of no more tokens and another first one."""
    found: list[_Bare] = []
    for i, (pair, spelled) in enumerate(zip(pairs, right, strict=True)):
        word = pair.answers[0] if pair.answers else ""
        if tokenizer is None or not isinstance(word, str) or not word[:1].isalnum():
            continue
        spaced = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        if spaced[0] != spelled[0][0] and len(spaced) <= len(spelled[0]) and tokenizer.decode(spaced[:1]).startswith(" "):
            found.append(_Bare(i, word, spelled[0][0], spaced[0]))
    return found
