"""What contestants of circuit discovery are asked: which edges stay, at several thresholds.

An edge stays where leaving it out of what is left raises the mean KL divergence from the clean run, at the last token, by at
least a threshold. Edges are asked about from the logits backwards, in the reverse of their order here. An answer is
``[threshold, edge]``, 1 where an edge stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Search:
    """Thresholds for one graph and one batch of pairs."""

    edges: tuple[tuple[int, int], ...]
    """Writer and reader of each, by the reader: of every block queries, keys, values by head, then the MLP; the logits last."""
    clean: Tensor
    corrupted: Tensor
    """``[pair, position]``, token ids."""
    thresholds: tuple[float, ...]

    def by_reader(self, chosen: Tensor) -> Iterator[list[int]]:
        """For each reader, in order, the writers of the edges that are chosen."""
        found: list[list[int]] = [[] for _ in range(self.edges[-1][1] + 1)]
        for edge in chosen.nonzero().flatten().tolist():
            writer, reader = self.edges[edge]
            found[reader].append(writer)
        return iter(found)


def edges(layers: int, heads: int) -> tuple[tuple[int, int], ...]:
    """Those of so many blocks of heads, then an MLP."""
    found, reader, writers = list[tuple[int, int]](), 0, 1
    for _ in range(layers):
        for _ in range(3 * heads):
            found += [(writer, reader) for writer in range(writers)]
            reader += 1
        writers += heads
        found += [(writer, reader) for writer in range(writers)]
        reader, writers = reader + 1, writers + 1
    return tuple(found + [(writer, reader) for writer in range(writers)])
