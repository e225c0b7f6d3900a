"""Which token is next, how probable the model found it, and where each row ended: what stands in transformers' own loop.

>>> choice = Choice(generators=None)                                                         # doctest: +SKIP
>>> module._sample(ids, [choice], choice.watching(criteria), config)                         # doctest: +SKIP
>>> torch.stack(choice.logprobs, dim=-1)             # of each new token, row by row          # doctest: +SKIP

Rows may be followed: by rows of another model – of the same without its edits – that are fed what they say, so that both can be
compared token by token. Nothing as large as the vocabulary is kept from step to step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import GenerationError
from interp.models.divergence import Divergences, divergences


class Choice:
    """A processor of logits.

    Args:
        generators: one a row, followers left out; None where the most probable token is taken.
        followed: which row each of the last rows follows, saying what it says; none by default.
    """

    def __init__(self, generators: Sequence[torch.Generator] | None, followed: Int[Tensor, " follower"] | None = None) -> None:
        self.generators = generators
        self.followed = torch.zeros(0, dtype=torch.long) if followed is None else followed
        self.processors: Any = None
        """Those of the config."""
        self.logprobs: list[Float[Tensor, " row"]] = []
        """Step by step, followers' behind the others'."""
        self.divergences: list[Divergences] = []
        """Step by step, of each followed row from its follower."""
        self.ended: Int[Tensor, " row"]
        self.reasons: list[str]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        own, leading = scores.log_softmax(-1), len(scores) - len(self.followed)  # before processors: some write in place
        if bool(own.isnan().any()):
            row = int(own.isnan().any(-1).nonzero()[0])
            row = row if row < leading else int(self.followed[row - leading])
            raise GenerationError(f"the logits of row {row} for new token {len(self.logprobs)} are not numbers")
        if len(self.followed):
            self.divergences.append(divergences(scores[self.followed], scores[leading:]))
        scores = self.processors(input_ids, scores)
        if self.generators is not None:
            scores = torch.cat([scores[:leading] + self._noise(scores[:leading]), scores[leading:]])
        scores = torch.cat([scores[:leading], scores[self.followed]])
        self.logprobs.append(own.gather(-1, scores.argmax(-1, keepdim=True))[:, 0])
        return scores

    def _noise(self, scores: Tensor) -> Tensor:
        """Gumbel noise; drawn on the CPU, where a seed means the same for every device."""
        assert self.generators is not None
        drawn: dict[int, Tensor] = {}
        for one in self.generators:
            if id(one) not in drawn:
                drawn[id(one)] = -torch.empty(scores.shape[-1]).exponential_(generator=one).log()
        return torch.stack([drawn[id(one)] for one in self.generators]).to(scores)

    def watching(self, criteria: Any) -> Any:
        """The same criteria, with the step at which each row ended and the one that said so written down."""
        choice = self

        class Watching(type(criteria)):  # type: ignore[misc]
            def __call__(self, input_ids: Tensor, scores: Any, **options: Any) -> Tensor:
                step = len(choice.logprobs)
                if step == 1:
                    choice.ended = torch.full((len(input_ids),), torch.iinfo(torch.long).max, device=input_ids.device)
                    choice.reasons = [""] * len(input_ids)
                done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
                for criterion in reversed(self):  # what depends on the text comes behind what depends on length and time
                    now = criterion(input_ids, scores, **options)
                    for row in (now & (choice.ended > step)).nonzero().flatten().tolist():
                        choice.reasons[row] = _reason(criterion)
                        choice.ended[row] = step
                    done = done | now
                return done

        return Watching(criteria)


def _reason(criterion: Any) -> str:
    """What a criterion for stopping is called here."""
    name = type(criterion).__name__.removesuffix("Criteria")
    return {"EosToken": "eos", "MaxLength": "length"}.get(name, name)
