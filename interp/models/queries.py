"""Rows of attention alone: which queries they are, and writes that change no others.

    >>> queries = Queries.of(torch.tensor([0, 2, 2]), torch.tensor([5, 3, 5]))
    >>> queries.rows.tolist(), queries.columns.tolist()
    ([0, 2], [[5, -1], [3, 5]])

Scores and patterns have a row for every query, as wide as what is attended to. A write that says which queries it changes is
handed their rows alone, so that no others need ever be formed (:mod:`interp.models.inside`); handed a whole tensor, it changes
the same rows there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Int, Shaped
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Queries:
    """Some queries of each of some rows of a batch."""

    rows: Int[Tensor, " n"]
    """Rows of the batch, ascending."""
    columns: Int[Tensor, "n slot"]
    """Positions of their queries, ascending, padded with −1."""

    @classmethod
    def of(cls, row: Int[Tensor, " pair"], column: Int[Tensor, " pair"]) -> Queries:
        """From pairs of row and position in any order, repeats allowed."""
        pairs = torch.stack([row, column], dim=-1).unique(dim=0)
        rows, which, counts = pairs[:, 0].unique_consecutive(return_inverse=True, return_counts=True)
        slot = torch.arange(len(pairs), device=pairs.device) - (counts.cumsum(0) - counts)[which]
        columns = pairs.new_full((len(rows), int(counts.max()) if len(counts) else 0), -1)
        columns[which, slot] = pairs[:, 1]
        return cls(rows, columns)

    @classmethod
    def every(cls, examples: int, positions: Int[Tensor, " position"]) -> Queries:
        """The same positions in every row."""
        return cls(torch.arange(examples, device=positions.device), positions.expand(examples, -1))

    def to(self, device: torch.device) -> Queries:
        return Queries(self.rows.to(device), self.columns.to(device))

    def find(self, row: Int[Tensor, " pair"], column: Int[Tensor, " pair"]) -> tuple[Tensor, Tensor]:
        """Where queries are among these: the number of the row and of the slot."""
        number = torch.searchsorted(self.rows, row.to(self.rows.device))
        return number, (self.columns[number] == column.to(self.rows.device)[:, None]).int().argmax(-1)

    def picked(self, tensor: Shaped[Tensor, "example head position ..."]) -> Shaped[Tensor, "n head slot ..."]:
        """What a tensor has at these queries; anything at the padding."""
        return tensor.transpose(1, 2)[self.rows[:, None], self.columns.clamp(min=0)].transpose(1, 2)


@runtime_checkable
class QueryWrite(Protocol):
    """A write of scores or patterns that knows which queries it changes."""

    def __call__(self, h: Tensor, /) -> Tensor:
        """The whole tensor, changed."""
        ...

    def pairs(self, examples: int, /) -> tuple[Tensor, Tensor]:
        """Row and position of every query that is changed."""
        ...

    def partly(self, part: Tensor, queries: Queries, /) -> Tensor:
        """The rows ``[n, head, slot, source_position]`` of some queries, those that are changed among them; maybe in place."""
        ...


@dataclass(frozen=True, eq=False)
class AtQueries:
    """A write at the same positions of every example.

    >>> write = AtQueries(torch.tensor([3]), lambda rows: 0 * rows)
    >>> write(torch.ones(1, 1, 5, 5))[0, 0].sum(-1).tolist()
    [5.0, 5.0, 5.0, 0.0, 5.0]
    """

    positions: Int[Tensor, " position"]
    change: Callable[[Tensor], Tensor]
    """A function of the rows, ``[example, head, position, source_position]``."""

    def __call__(self, h: Tensor, /) -> Tensor:
        every = torch.arange(h.shape[2], device=h.device)
        return self.partly(h.clone(), Queries.every(len(h), every))

    def pairs(self, examples: int, /) -> tuple[Tensor, Tensor]:
        rows = torch.arange(examples, device=self.positions.device)
        return rows.repeat_interleave(len(self.positions)), self.positions.repeat(examples)

    def partly(self, part: Tensor, queries: Queries, /) -> Tensor:
        at, seen = queries.find(*self.pairs(len(part))), part.transpose(1, 2)
        rows = rearrange(seen[at], "(example position) head source -> example head position source", example=len(part))
        new = self.change(rows).to(part)
        seen[at] = rearrange(new, "example head position source -> (example position) head source")
        return part
