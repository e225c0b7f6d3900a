"""Rows of one pass and the rows that they leave: which belong together, and in which order they join.

Cells fork from cells (:mod:`interp.engine.forks`); their rows fork from those cells' rows of the same example.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from interp.engine.edits import Rows


class Lineage(NamedTuple):
    """Rows of one pass with those that they leave."""

    rows: Rows
    """Sorted by depth."""
    depths: Int[Tensor, " row"]
    parents: Int[Tensor, " row"]
    """The row that each one leaves; −1 for those that begin with the base run."""
    read: Int[Tensor, " asked"]
    """Where the rows are that were asked for."""


@dataclass(frozen=True, eq=False)
class Lines:
    """Which cells leave which, and where."""

    parents: Int[Tensor, " cell"]
    """The cell that each one leaves; −1 for those that begin with the base run."""
    joins: Int[Tensor, " cell"]
    """The depth at which it does."""

    @cached_property
    def generations(self) -> tuple[Int[Tensor, " cell"], Int[Tensor, " cell"]]:
        """The cell at the beginning of each cell's line, and how many there are before it."""
        roots = torch.arange(len(self.parents), device=self.parents.device)
        before = torch.zeros_like(roots)
        while bool((self.parents[roots] >= 0).any()):
            before += self.parents[roots] >= 0
            roots = torch.where(self.parents[roots] >= 0, self.parents[roots], roots)
        return roots, before

    def arranged(self, rows: Rows) -> Int[Tensor, " row"]:
        """An order in which neighbours share what they can: by where their line begins, by line, example, where they join."""
        roots = self.generations[0][rows[:, 0]]
        return _lexicographic(torch.stack([self.joins[roots], roots, rows[:, 1], self.joins[rows[:, 0]]], dim=-1))

    def share(self, rows: Rows) -> int:
        """How many rows one of these may bring into a pass, itself and those that it leaves."""
        return 1 + int(self.generations[1][rows[:, 0]].max()) if len(rows) else 1

    def complete(self, rows: Rows) -> Lineage:
        """The rows with those that they leave, in the order in which they join."""
        if bool((self.parents[rows[:, 0]] < 0).all()):
            order = self.joins[rows[:, 0]].argsort(stable=True)
            depths = self.joins[rows[order, 0]]
            return Lineage(rows[order], depths, torch.full_like(depths, -1), order.argsort())
        every, generation, examples = rows, rows, int(rows[:, 1].max()) + 1
        while len(generation):
            left = self.parents[generation[:, 0]]
            generation = torch.stack([left, generation[:, 1]], dim=-1)[left >= 0].unique(dim=0)
            every = torch.cat([every, generation])
        every = every.unique(dim=0)
        every = every[self.joins[every[:, 0]].argsort(stable=True)]

        def number(of: Tensor) -> Tensor:
            return of[:, 0] * examples + of[:, 1]

        keys, place = number(every).sort()
        left = self.parents[every[:, 0]]
        parent = place[torch.searchsorted(keys, left.clamp(min=0) * examples + every[:, 1]).clamp(max=len(keys) - 1)]
        read = place[torch.searchsorted(keys, number(rows))]
        return Lineage(every, self.joins[every[:, 0]], torch.where(left >= 0, parent, -1), read)


def _lexicographic(key: Int[Tensor, "row part"]) -> Int[Tensor, " row"]:
    """Order of rows by their first part, then the second, and so on."""
    order = torch.arange(len(key), device=key.device)
    for column in key.flip(-1).unbind(-1):
        order = order[column[order].argsort(stable=True)]
    return order
