"""Tokens whose logits are read: the prompts' own answers and wrong answers, or any words and ids, alike for all or one each.

>>> Targets.of(model, pairs).names                                                       # doctest: +SKIP
('answer', 'wrong')
>>> Targets.of(model, "The capital of France is", [" Paris", " Lyon", 7042]).ids         # doctest: +SKIP
tensor([[ 7042, 31038,  7042]])
>>> Targets.of(model, prompts, {"subject": [" France", " Italy"], "said": " the"}).names # doctest: +SKIP
('subject', 'said')
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp import axes
from interp.engine.asked import as_pairs
from interp.engine.single.told import Word, each, shown
from interp.errors import AnswerError, AnswerWarning
from interp.models import Encoded, Model
from interp.models.encoding import Bos
from interp.prompts import Pairs
from interp.prompts.pairs import listed

TOKEN = "token"


@dataclass(frozen=True, eq=False)
class Targets:
    """Tokens by name, one for each prompt."""

    model: Model
    names: tuple[str, ...]
    ids: Int[Tensor, "example token"]
    """−1 where a prompt has none of that name."""

    @classmethod
    def of(cls, model: Model, prompts: Any, tokens: Any = None, *, bos: Bos | None = None) -> Targets:
        """Tokens as they were given.

        Args:
            prompts: as in :func:`interp.cache`.
            tokens: a text as it follows the prompt, usually with a leading space, or an id; several, each for all prompts; or
                a mapping of names to such, one for all prompts or one for each. By default the answers of the prompts and
                their wrong answers, ``"answer"`` and ``"wrong"``, or ``"answer 1"``, ``"answer 2"``, … Of a text of several
                tokens the first is read.

        Raises:
            AnswerError: there is none, not one for each prompt, or one that is no token.

        Warns:
            AnswerWarning: a text of several tokens.
        """
        given, _ = as_pairs(prompts)
        pairs, bos = (given.pairs, given.asked) if isinstance(given, Encoded) else (given, bos)
        named = _own(pairs) if tokens is None else _named(model, tokens, len(pairs))
        if not named:
            raise AnswerError(
                "tokens=None, but these prompts have no answers; give tokens=, texts as they follow the prompts, such as "
                "[' Paris', ' Rome'], token ids, or a mapping of names to such"
            )
        ids = []
        for words in named.values():
            spelled = _spelled(model, pairs, words, bos)
            _warn_of_several(model, words, spelled)
            ids.append([one[0] if one else -1 for one in spelled])
        return cls(model, tuple(named), torch.tensor(ids).T.contiguous())

    @property
    def columns(self) -> Int[Tensor, "example token"]:
        """The ids, token 0 in place of none; see :meth:`numbers`."""
        return self.ids.clamp(min=0)

    def numbers(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """An array ``[example, …, token]`` of :attr:`columns`, NaN where a prompt has no such token."""
        none = (self.ids < 0).cpu().numpy()
        return np.where(none.reshape(len(none), *(1 for _ in array.shape[2:]), -1), array.dtype.type(np.nan), array)

    def coords(self) -> dict[str, Any]:
        """Names, ids and words."""
        words = [[self._said(i) for i in row] for row in self.ids.tolist()]
        both = (axes.EXAMPLE, TOKEN)
        return {
            TOKEN: list(self.names),
            "token_id": (both, self.ids.cpu().numpy()),
            "word": (both, np.array(words, object)),
        }

    def _said(self, number: int) -> str:
        return "" if number < 0 else in_words(self.model, number)


def in_words(model: Model, number: int) -> str:
    """A token as text, or its number where there is no tokenizer."""
    return str(number) if model.tokenizer is None else str(model.tokenizer.decode([number]))


def _own(pairs: Pairs) -> dict[str, list[Word | None]]:
    """The answers of pairs and what they are compared with; None where one has fewer than others."""
    found: dict[str, list[Any]] = {}
    for name, words in (("answer", [pair.answers for pair in pairs]), ("wrong", [pair.wrong for pair in pairs])):
        most = max((len(some) for some in words), default=0)
        for i in range(most):
            found[name if most == 1 else f"{name} {i + 1}"] = [some[i] if i < len(some) else None for some in words]
    return found


def _named(model: Model, tokens: Any, n: int) -> dict[str, list[Word | None]]:
    if isinstance(tokens, Mapping):
        return {str(name): _all(words, f"tokens[{name!r}]", n) for name, words in tokens.items()}
    plain = listed(tokens)
    several = [plain] if isinstance(plain, str) or not isinstance(plain, Iterable) else list(plain)
    found: dict[str, list[Word | None]] = {}
    for one in several:
        words = _all([one] * n, "tokens", n)
        name = in_words(model, words[0]) if isinstance(words[0], int) else str(words[0])
        if name in found:
            raise AnswerError(f"tokens names {name!r} twice")
        found[name] = words
    return found


def _all(words: Any, argument: str, n: int) -> list[Word | None]:
    if words is None:
        raise AnswerError(f"{argument} is None; expected a text as it follows the prompt, such as ' Paris', or a token id")
    return [*(each(words, argument, n) or ())]


def _spelled(model: Model, pairs: Pairs, words: Sequence[Word | None], bos: Bos | None) -> list[Sequence[int]]:
    """The tokens of each word in its place; of none, none."""
    items = (replace(pair, answers=() if word is None else (word,), wrong=()) for pair, word in zip(pairs, words, strict=True))
    right = model.encode(replace(pairs, items=tuple(items)), bos=bos).answered.right
    return [spelled[0] if spelled else () for spelled in right]


def _warn_of_several(model: Model, words: Sequence[Word | None], spelled: Sequence[Sequence[int]]) -> None:
    long = [i for i, ids in enumerate(spelled) if len(ids) > 1]
    if long:
        ids, more = spelled[long[0]], f", and so in {len(long) - 1} more prompts" if len(long) > 1 else ""
        warnings.warn(
            f"tokens: {words[long[0]]!r} is {len(ids)} tokens, {shown(ids, model.tokenizer)}; the first of them is read{more}",
            AnswerWarning,
            stacklevel=4,
        )
