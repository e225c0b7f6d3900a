"""The wavefront strategy: rows grouped by the column at which they start, and run in passes that only do what they need."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.batches import in_batches
from interp.engine.behind import behind
from interp.engine.budget import Budget
from interp.engine.cells import Cell
from interp.engine.edits import Rows
from interp.engine.joins import begun, moved, resumes
from interp.engine.prompts import Columns, all_of
from interp.engine.readout import Reader
from interp.engine.shard import Shard
from interp.engine.strategies import Measured, Progress, Work
from interp.engine.wave import Pass
from interp.models import Model
from interp.models.taps import Write
from interp.sites import Site

_OVERHEAD = {"cpu": 24, "cuda": 4096}
"""A pass costs about as much as this many tokens more: neighbouring starts are merged where that wastes fewer."""


class Start(NamedTuple):
    """Rows that are carried from one column on."""

    column: int
    rows: Int[Tensor, " row"]
    """Which rows, sorted by the depth at which they join."""


def grouped(model: Model, first: Int[Tensor, " row"], read: Int[Tensor, " row"], depths: Int[Tensor, " row"]) -> list[Start]:
    """Rows by the column from which they are carried.

    Neighbouring starts are merged where the positions that this wastes cost less than a pass.

    Args:
        first: column at which a row's changes begin to matter.
        read: first column that is read of a row.
        depths: where a row joins.
    """
    starts = torch.minimum(first, read) if resumes(model) else torch.zeros_like(read)
    overhead = _OVERHEAD.get(model.device.type, _OVERHEAD["cuda"])
    merged: list[tuple[int, int]] = []
    values, counts = starts.unique(return_counts=True)
    for start, count in sorted(zip(values.tolist(), counts.tolist(), strict=True), reverse=True):
        if merged and (merged[-1][0] - start) * merged[-1][1] < overhead:
            count += merged.pop()[1]
        merged.append((start, count))
    edges = torch.tensor(sorted(start for start, _ in merged), device=starts.device)
    group_of = torch.searchsorted(edges, starts, right=True) - 1
    found = []
    for i, start in enumerate(edges.tolist()):
        rows = (group_of == i).nonzero().flatten()
        found.append(Start(start, rows[depths[rows].argsort(stable=True)]))
    return found


def left(model: Model, cells: Sequence[Cell], begins: Iterable[int], carried: range) -> dict[Site, Columns]:
    """What rows take of the base run where they leave it: tensors that they carry on, and those that they move.

    Args:
        cells: that join the wave.
        begins: where each one joins.
        carried: columns that rows carry; those that they move are kept at their own.
    """
    every = torch.arange(carried.start, carried.stop, device=model.device) if carried.start else None
    found: dict[Site, Columns] = {}
    some: dict[Site, dict[int, Tensor]] = defaultdict(dict)
    for cell, start in zip(cells, begins, strict=True):
        found |= dict.fromkeys(begun(model, start), every)
        for place in cell.places:
            if not place.given and (site := moved(start, place.tensor)) is not None:
                some[site][id(place.columns)] = place.columns  # cells share theirs
    return {site: all_of([*columns.values()]) for site, columns in some.items()} | found


@dataclass(frozen=True, eq=False)
class Group:
    """Rows of one shard that start at one column, ready to be run in as many passes as memory asks for."""

    work: Work
    shard: Shard
    start: int
    rows: Rows
    """Neighbours share what they can: by where their first ancestor joins, then by where they do."""
    depths: Int[Tensor, " row"]
    order: Int[Tensor, " row"]
    """Which of the rows that were asked for each one is."""

    @property
    def columns(self) -> int:
        """Positions that are carried."""
        return self.shard.tokens.width - self.start

    def most(self, budget: Budget) -> int:
        """Most rows to ask for in one pass, so that they fit with those that they leave."""
        return budget.rows(self.columns, self.work.lines.share(self.rows))

    def measure(self, part: slice) -> Measured:
        """Every metric of some of the rows, in one pass. Gradients flow where they are asked for."""
        work, rows = self.work, self.rows[part]
        tail = int(work.reader.positions_of(self.shard.tokens)[self.shard.index(rows[:, 1])].min())
        run = work.lines.complete(rows)
        wave = Pass(self.shard, work.cells, run.rows, run.depths, self.start, tail, run.parents)
        hidden = wave.run()[run.read]
        at = work.reader.positions_of(self.shard.tokens)[self.shard.index(rows[:, 1])]
        with behind(work.model, wave.edits, len(run.rows), run.read, at):
            return readout(work.reader, self.shard, hidden, rows[:, 1], tail, work.reference)


def readout(
    reader: Reader,
    shard: Shard,
    hidden: Float[Tensor, "row column d_model"],
    examples: Int[Tensor, " row"],
    tail: int,
    reference: Float[Tensor, "example position vocab"] | None,
    logits: Write | None = None,
) -> Measured:
    """Every metric of rows that leave the last block.

    Args:
        hidden: columns ``tail`` and later.
        examples: the example of each row.
        logits: what changes their logits at the read positions.
    """
    read = reader.positions_of(shard.tokens)[shard.index(examples)]
    picked = hidden[torch.arange(len(hidden), device=hidden.device)[:, None], (read - tail).to(hidden.device)]
    if logits is None:
        return reader.read(picked, examples, reference)
    assert reader.model.stack is not None
    return reader.measure(logits(reader.model.stack.logits(picked)).to(reader.dtype), examples, reference)


def groups(work: Work, shard: Shard, rows: Rows, depths: Int[Tensor, " row"]) -> list[Group]:
    """Rows of a shard by where they start.

    Args:
        rows: cell by cell.
        depths: where each row joins, see :mod:`interp.engine.joins`.
    """
    first = torch.stack([cell.first for cell in work.cells])[rows[:, 0], rows[:, 1]]
    read = work.reader.positions_of(shard.tokens).amin(-1)[shard.index(rows[:, 1])]
    found = []
    for column, order in grouped(work.model, first, read, depths):
        order = order[work.lines.arranged(rows[order])]
        found.append(Group(work, shard, column, rows[order], depths[order], order))
    return found


def wavefront(
    work: Work, rows: Rows, depths: Int[Tensor, " row"], shards: Iterable[Shard], budget: Budget, progress: Progress
) -> Measured:
    """Run rows from where they join.

    Args:
        rows: cell by cell.
        depths: where each row joins, see :mod:`interp.engine.joins`.
        shards: the base run, example after example.
        budget: how many rows fit in a pass.
    """
    measured = torch.zeros(len(work.reader.metrics), len(rows), dtype=work.reader.dtype, device=rows.device)
    for shard in shards:
        mine = shard.has(rows[:, 1]).nonzero().flatten()
        for group in groups(work, shard, rows[mine], depths[mine]):

            def run(part: slice, group: Group = group) -> Measured:
                with budget.measured(part.stop - part.start, group.columns):
                    return group.measure(part)

            parts = in_batches(len(group.rows), partial(group.most, budget), run, progress)
            measured[:, mine[group.order]] = torch.cat(parts, dim=-1).to(measured)
    return measured
