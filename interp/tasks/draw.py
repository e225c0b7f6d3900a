"""Random choices that are the same on every Python, one independent stream an example.

    >>> Draw("ioi", 0, 5).distinct(["a", "b", "c"], 2) == Draw("ioi", 0, 5).distinct(["a", "b", "c"], 2)
    True

The standard library promises that ``random.Random(...).random()`` stays what it is, and not so for ``choice``, ``sample`` and
``shuffle``; these are therefore written out. A stream belongs to one example and not to a whole data set, so the first
examples do not depend on how many follow.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """Choices for one example, from the task's name, the seed and the example's number."""

    def __init__(self, task: str, seed: int, index: int) -> None:
        self._random = random.Random(f"{task}/{seed}/{index}")

    def below(self, n: int) -> int:
        """A whole number from 0 to n − 1. (The bias of scaling a 53-bit float is below n · 2⁻⁵³.)"""
        return int(self._random.random() * n)

    def pick(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def distinct(self, items: Sequence[T], k: int, without: Sequence[T] = ()) -> list[T]:
        """``k`` different items, none of them in ``without``; the caller has made sure that there are enough."""
        taken: list[T] = []
        while len(taken) < k:
            item = self.pick(items)
            if item not in taken and item not in without:
                taken.append(item)
        return taken

    def separate(self, start: int, stop: int, gap: int) -> tuple[int, int]:
        """Two numbers of ``range(start, stop)``, the smaller first, at least ``gap`` apart; every such pair equally likely."""
        first, second = sorted(self.distinct(range(start, stop - gap + 1), 2))
        return first, second + gap - 1

    def order(self, items: Sequence[T]) -> list[T]:
        """All items, shuffled (Fisher and Yates)."""
        shuffled = list(items)
        for last in range(len(shuffled) - 1, 0, -1):
            other = self.below(last + 1)
            shuffled[last], shuffled[other] = shuffled[other], shuffled[last]
        return shuffled


def balanced(task: str, seed: int, n: int, items: Sequence[T]) -> list[T]:
    """``n`` items in random order of which no one occurs more than once oftener than another; a prefix of any longer list."""
    found: list[T] = []
    block = 0
    while len(found) < n:
        found += Draw(f"{task}/block", seed, block).order(items)
        block += 1
    return found[:n]
