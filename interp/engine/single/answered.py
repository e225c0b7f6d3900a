"""Prompts with one answer each, and the tensors of their one run at one position.

>>> pairs = interp.pairs(["The capital of France is"], None, [" Paris"], [" Rome"])       # doctest: +SKIP
>>> answered(model, pairs).right                                                         # doctest: +SKIP
tensor([7042])
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from jaxtyping import Int
from torch import Tensor

from interp.engine.background import Given
from interp.engine.single.at_one import AtOne, at_one
from interp.errors import AnswerError
from interp.models import Model
from interp.models.encoding import Bos
from interp.prompts import Pairs
from interp.sites import PositionsLike


@dataclass(frozen=True, eq=False)
class Answered(AtOne):
    """Prompts with one answer each, and the runs of them."""

    @property
    def right(self) -> Int[Tensor, " example"]:
        return self.encoded.answers[:, 0]

    @property
    def wrong(self) -> Int[Tensor, " example"] | None:
        """None for the mean over the vocabulary."""
        return self.encoded.wrong[:, 0] if bool((self.encoded.wrong >= 0).any()) else None


def answered(
    model: Model,
    prompts: Any,
    with_answers: Pairs | None = None,
    *,
    position: PositionsLike = -1,
    given: Given = None,
    bos: Bos | None = None,
) -> Answered:
    """Prompts and answers as tensors, with runs in which what is given is in force.

    Args:
        prompts: texts, token ids, prompts or pairs, of which the clean ones are run.
        with_answers: the same prompts with answers of one token; None where they have their own.
        position: one token of every prompt.

    Raises:
        InputError: logits that are given, or another prompt's values without one.
        AnswerError: no answer, or several.
        PositionError: ``position`` does not name one token.
    """
    found = at_one(model, prompts, position=position, given=given, bos=bos, answered=with_answers)
    _require_one_each(found.encoded.pairs)
    return Answered(**{name.name: getattr(found, name.name) for name in fields(found)})


def _require_one_each(pairs: Pairs) -> None:
    """Raise ``AnswerError`` unless every prompt has one answer, and all or none something that it is compared with."""
    for i, pair in enumerate(pairs):
        for argument, words in (("answer", pair.answers), ("wrong", pair.wrong)):
            if len(words) > 1 or (argument == "answer" and not words):
                what = f"{len(words)} tokens to be {argument}: {', '.join(map(repr, words))}" if words else "no answer"
                raise AnswerError(
                    f"prompt {i} has {what}; one is attributed: pass {argument}=, a token as it follows the prompt"
                )
    if len({len(pair.wrong) for pair in pairs}) > 1:
        raise AnswerError("some pairs have a wrong answer and some have none; pass wrong=")
