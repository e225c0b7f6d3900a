"""What path contestants are asked: the effect of each head by way of the queries of a few later heads, patching noising.

The prompt is the base. A sender is one head's z at the last token, from the source; the other heads are frozen, and MLPs are
not, until the receivers' queries at the last token are known; with these and nothing else changed the base runs again. A
sender that is not before any receiver has no path, and the base's value. An answer is a tensor ``[layer, head, example]``.

    paths = random_paths(GPT2_SMALL, ((9, 9), (9, 6), (10, 0)), pairs=8, tokens=15, differ=(3, 9))
    paths.question.cells, len(paths.senders())             # 144 asked for, 120 of them before the last receiver
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from contestants.networks import Shape
from contestants.question import Question, random_question


@dataclass(frozen=True)
class Paths:
    question: Question
    """``layers`` and ``where`` are the layers and heads of the senders."""
    receivers: tuple[tuple[int, int], ...]
    """Layer and head."""

    @property
    def shape(self) -> Shape:
        return self.question.shape

    def senders(self) -> list[tuple[int, int]]:
        """Layer and head of those that have a path."""
        last = max(layer for layer, _ in self.receivers)
        return [(layer, head) for layer in self.question.layers if layer < last for head in self.question.where]

    def of(self, layers: tuple[int, ...], heads: tuple[int, ...]) -> Paths:
        """The same for other senders."""
        return replace(self, question=replace(self.question, layers=layers, where=heads))


def random_paths(
    shape: Shape, receivers: tuple[tuple[int, int], ...], *, pairs: int, tokens: int, differ: tuple[int, ...]
) -> Paths:
    """Every head as a sender, on random pairs that differ at the positions ``differ``."""
    return Paths(random_question(shape, "z", pairs=pairs, tokens=tokens, differ=differ), receivers)
