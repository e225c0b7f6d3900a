"""What rows of the wave hold at a site, kept in passing.

>>> seen = Seen.of(base, which=[0, 1], cells=2, columns=None)                             # doctest: +SKIP
>>> Pass(shard, cells, rows, depths, start, start, parents, {site: seen}).run()          # doctest: +SKIP
>>> seen.cell(1).shape                                          # example, column, …      # doctest: +SKIP
torch.Size([8, 17, 576])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.behind import FINAL
from interp.engine.edits import Rows
from interp.engine.prompts import Columns
from interp.models.stack import Stack
from interp.sites import Site


@dataclass(frozen=True, eq=False)
class Seen:
    """What some cells' rows hold at a site, kept in passing."""

    tensor: Float[Tensor, "slot example column ..."]
    columns: Columns
    """Which are kept, ascending; None for all."""
    slots: Int[Tensor, " cell"]
    """Where each cell is in the tensor; −1 for those of which the site is not kept."""

    @classmethod
    def of(cls, base: Float[Tensor, "example column ..."], which: Sequence[int], cells: int, columns: Columns) -> Self:
        """Room for some of the cells, with what the base holds."""
        slots = torch.full((cells,), -1, device=base.device)
        slots[torch.tensor(which, device=base.device)] = torch.arange(len(which), device=base.device)
        return cls(base.repeat(len(which), *(1 for _ in base.shape)), columns, slots)

    def cell(self, number: int) -> Float[Tensor, "example column ..."]:
        """What one cell holds."""
        return self.tensor[int(self.slots[number])]

    def take(self, held: Float[Tensor, "row carried ..."], rows: Rows, columns: range) -> None:
        """Keep what some rows hold at some consecutive columns."""
        every = torch.arange(columns.start, columns.stop, device=held.device)
        mine = self.slots[rows[:, 0]] >= 0
        there = torch.isin(every, self.columns) if self.columns is not None else torch.ones_like(every, dtype=torch.bool)
        at = every[there] if self.columns is None else torch.searchsorted(self.columns, every[there])
        slots, examples = self.slots[rows[mine, 0]], rows[mine, 1]
        self.tensor[slots[:, None], examples[:, None], at] = held[mine][:, there].to(self.tensor)


def end_of(stack: Stack, site: Site) -> int:
    """The block before which a site has been seen."""
    if site.layer is None:
        return len(stack) if site == FINAL else 0
    return site.layer if site.name == "resid_pre" else site.layer + 1
