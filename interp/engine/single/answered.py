"""Prompts with one answer each, and the tensors of their one run at one position.

>>> asked = answered(model, "The capital of France is", " Paris", " Rome", given=None)       # doctest: +SKIP
>>> asked.want([Site("z", layer=3)])                                                     # doctest: +SKIP
>>> asked.read(Site("z", layer=3)).shape                            # example, head, d_head      # doctest: +SKIP
torch.Size([1, 9, 64])
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.background import Given
from interp.engine.runs import Runs
from interp.engine.single.asked import Asked, ask, require_one_token
from interp.errors import AnswerError, InputError, PositionError
from interp.interventions import Activation
from interp.models import Model
from interp.models.encoding import Bos
from interp.prompts import Answers, Pairs
from interp.prompts.pairs import listed
from interp.sites import Positions, PositionsLike, Site

Words = Answers | None
"""One token for all prompts, or one for each: a text as it follows the prompt, or an id."""
_BASE = Activation("base")


@dataclass(frozen=True, eq=False)
class Answered(Asked):
    """Prompts with one answer each, and the runs of them."""

    runs: Runs
    columns: Int[Tensor, "example 1"]
    where: Positions
    _wanted: dict[Site, Int[Tensor, "example 1"] | None] = field(default_factory=dict)
    _read: dict[Site, Tensor] = field(default_factory=dict)

    def want(self, sites: Iterable[Site]) -> None:
        """Announce what will be read, so that one run gives it all: at the position, values of attention at every one."""
        self._wanted.update({site: None if site.name == "v" else self.columns for site in sites})
        for site, columns in self._wanted.items():
            self.runs.want(_BASE, site, columns)
        self.runs.want_logits("base")

    def read(self, site: Site) -> Tensor:
        """A tensor that was announced, in the engine's order of axes: ``[example, …]``, or ``[example, column, …]``."""
        if site not in self._read:
            columns = self._wanted[site]
            kept = self.runs.read(_BASE, site, columns)
            examples = torch.arange(len(self.encoded), device=self.columns.device)
            self._read[site] = kept.tensor if columns is None else kept.at(examples, columns)[:, 0]
        return self._read[site]

    @property
    def logits(self) -> Float[Tensor, "example vocab"]:
        """What the model says at the position."""
        return self.runs.logits("base")[:, 0]

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
    answer: Words = None,
    wrong: Words = None,
    *,
    position: PositionsLike = -1,
    given: Given = None,
    bos: Bos | None = None,
) -> Answered:
    """Prompts and answers as tensors, with runs in which what is given is in force.

    Args:
        prompts: texts, token ids, prompts or pairs, of which the clean ones are run.
        answer, wrong: by default those of the pairs.
        position: one token of every prompt.

    Raises:
        InputError: no prompts, logits that are given, or another prompt's values without one.
        AnswerError: no answer, several, or one that is not one token.
        PositionError: ``position`` does not name one token.
    """
    where = Positions.parse(position)
    asked = ask(model, prompts, given=given, bos=bos)
    n = len(asked.encoded)
    pairs = _answered(asked.encoded.pairs, _each(answer, "answer", n), _each(wrong, "wrong", n))
    encoded = model.encode(pairs, bos=asked.encoded.asked)
    for name, words in (("answer", encoded.answered.right_strings), ("wrong", encoded.answered.wrong_strings)):
        require_one_token(name, words)
    columns = encoded.clean.columns(where, what="position")
    if columns.shape[1] != 1 or bool((columns < 0).any()):
        many = (columns >= 0).sum(-1)
        example = int((many != 1).int().argmax())
        raise PositionError(
            f"position={where!r} names {int(many[example])} tokens in example {example}; logits are read at one, such as -1"
            + (f" or '{where.role}[-1]'" if where.role else "")
        )
    for change in asked.given.changes if asked.given is not None else ():
        if change.site.name == "logits":
            raise InputError(f"given: {change!r} changes logits, which is no part of what is written to the stream")
    asked = replace(asked, encoded=encoded)
    runs = asked.start(where)
    asked.give(runs)
    return Answered(model, encoded, asked.side, asked.paired, asked.given, runs, columns, where)


def _each(words: Words, name: str, n: int) -> list[str | int] | None:
    """One token for every prompt."""
    if words is None:
        return None
    plain = listed(words)
    many = [plain] * n if isinstance(plain, str | int) else list(plain)
    if len(many) != n:
        raise AnswerError(f"{name} holds {len(many)} tokens for {n} prompts; give one for all of them, or one for each")
    return many


def _answered(pairs: Pairs, answers: list[str | int] | None, wrong: list[str | int] | None) -> Pairs:
    """The same prompts with one answer each, and one contrast or none; by default their own."""
    if not len(pairs):
        raise InputError("prompts is empty")
    items = []
    for i, pair in enumerate(pairs):
        right = pair.answers if answers is None else (answers[i],)
        other = (wrong[i],) if wrong is not None else pair.wrong if answers is None else ()
        for argument, words in (("answer", right), ("wrong", other)):
            if len(words) > 1 or (argument == "answer" and not words):
                what = f"{len(words)} tokens to be {argument}: {', '.join(map(repr, words))}" if words else "no answer"
                raise AnswerError(
                    f"prompt {i} has {what}; one is attributed: pass {argument}=, a token as it follows the prompt"
                )
        items.append(replace(pair, answers=right, wrong=other))
    if len({len(pair.wrong) for pair in items}) > 1:
        raise AnswerError("some pairs have a wrong answer and some have none; pass wrong=")
    return replace(pairs, items=tuple(items))
