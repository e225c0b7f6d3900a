"""The wavefront strategy: rows grouped by the column at which they start, and run in passes that only do what they need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from interp.engine.batches import in_batches
from interp.engine.edits import Rows
from interp.engine.shard import Shard
from interp.engine.strategies import Measured, Progress, Work
from interp.engine.wave import Pass

_OVERHEAD = {"cpu": 24, "cuda": 4096}
"""A pass costs about as much as this many tokens more: neighbouring starts are merged where that wastes fewer."""


@dataclass(frozen=True, eq=False)
class Group:
    """Rows that are carried from one column on."""

    start: int
    rows: Int[Tensor, " row"]
    """Which rows, sorted by the depth at which they join."""


def groups(starts: Int[Tensor, " row"], depths: Int[Tensor, " row"], overhead: int) -> list[Group]:
    """Rows by start, neighbours merged where the work that it wastes is below the cost of a pass."""
    merged: list[tuple[int, list[int]]] = []
    values, counts = starts.unique(return_counts=True)
    for start, count in sorted(zip(values.tolist(), counts.tolist(), strict=True), reverse=True):
        if merged and (merged[-1][0] - start) * sum(merged[-1][1]) < overhead:
            merged[-1] = (start, [*merged[-1][1], count])
        else:
            merged.append((start, [count]))
    edges = torch.tensor(sorted(start for start, _ in merged), device=starts.device)
    group_of = torch.searchsorted(edges, starts, right=True) - 1
    found = []
    for i, start in enumerate(edges.tolist()):
        rows = (group_of == i).nonzero().flatten()
        found.append(Group(start, rows[depths[rows].argsort(stable=True)]))
    return found


def wavefront(
    work: Work,
    rows: Rows,
    depths: Int[Tensor, " row"],
    shards: Iterable[Shard],
    limit: Callable[[int], int],
    progress: Progress,
) -> Measured:
    """Run rows from where they join.

    Args:
        rows: cell by cell.
        depths: where each row joins, see :mod:`interp.engine.joins`.
        shards: the base run, example after example.
        limit: most rows in a pass that carries so many columns.
    """
    measured: Tensor | None = None
    first = torch.stack([cell.first for cell in work.cells])[rows[:, 0], rows[:, 1]]
    for shard in shards:
        mine = ((rows[:, 1] >= shard.first) & (rows[:, 1] < shard.first + len(shard))).nonzero().flatten()
        if not len(mine):
            continue
        read = work.reader.positions_of(shard.tokens).amin(-1)[rows[mine, 1] - shard.first]
        causal = work.model.causal and shard.before is not None
        starts = torch.minimum(first[mine], read) if causal else torch.zeros_like(read)
        overhead = _OVERHEAD.get(work.model.device.type, _OVERHEAD["cuda"])
        for group in groups(starts, depths[mine], overhead):
            chosen = mine[group.rows]

            def run(chunk: slice, shard: Shard = shard, chosen: Tensor = chosen, start: int = group.start) -> Measured:
                return _run(work, shard, rows[chosen[chunk]], depths[chosen[chunk]], start)

            most = limit(shard.tokens.ids.shape[1] - group.start)
            parts = torch.cat(in_batches(len(chosen), most, run, progress), dim=-1)
            if measured is None:
                measured = parts.new_zeros(len(parts), len(rows))
            measured[:, chosen] = parts
    assert measured is not None
    return measured


def _run(work: Work, shard: Shard, rows: Rows, depths: Tensor, start: int) -> Measured:
    """One pass, and the metrics of its rows."""
    reader, model = work.reader, work.model
    assert model.stack is not None
    examples = rows[:, 1] - shard.first
    read = reader.positions_of(shard.tokens)[examples]
    tail = int(read.min())
    hidden = Pass(shard, work.cells, rows, depths, start, tail).run()
    picked = hidden[torch.arange(len(rows), device=hidden.device)[:, None], (read - tail).to(hidden.device)]
    columns = None if reader.columns is None else reader.columns[rows[:, 1]]
    logits = model.stack.logits(picked, columns)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return reader.measure(logits, rows[:, 1], work.reference, few=columns is not None)
