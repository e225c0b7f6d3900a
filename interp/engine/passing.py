"""Runs of the base with something in force, as rows of the wave of which sites are kept in passing.

    >>> wanted = Passing.of(runs, {key: cell})                # before the base is run           # doctest: +SKIP
    >>> wanted.run({key: filled})                                                               # doctest: +SKIP
    >>> runs.read(Activation("base", given=…), site)          # is there                         # doctest: +SKIP

A source may be what a site holds once something else was changed, of which paths are made. Such a run joins the wave where its
first change is, carries the positions from there on, and ends at the last site that is read: for a sender and receivers at one
token a few blocks at one position, in place of a forward pass. What cannot be resumed is left to whole forward passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from interp.engine.batches import in_batches
from interp.engine.behind import FINAL
from interp.engine.cells import Cell
from interp.engine.edits import Rows
from interp.engine.joins import EARLY, POINTS, Point, begin, depth, inside, join, refused, resumes, unresumed
from interp.engine.prompts import Columns, Kept, all_of
from interp.engine.runs import Key, Runs
from interp.engine.seen import Seen, end_of
from interp.engine.shard import Shard
from interp.engine.wave import Pass
from interp.engine.wavefront import grouped, left
from interp.interventions import Activation
from interp.models import Model
from interp.sites import Site

_BASE = Activation("base")


@dataclass(frozen=True, eq=False)
class Passing:
    """Runs that can be resumed, and what is read of them."""

    runs: Runs
    reads: Mapping[Key, Mapping[Site, Columns]]
    """What is wanted of each run."""
    begins: Mapping[Key, int]
    """Where each one joins."""

    @classmethod
    def of(cls, runs: Runs, cells: Mapping[Key, Cell]) -> Passing:
        """Those of some runs that can be resumed, once all that is read of them is announced; keeps of the base what they need.

        Args:
            cells: what is in force on each run; filled or not.
        """
        reads = {key: sites for key in cells if (sites := runs.wanted(key))}
        if runs.budget is None or torch.is_grad_enabled() or refused(runs.model) or unresumed(runs.encoded):
            return cls(runs, {}, {})
        found = {key: _begin(runs, cells[key], reads[key]) for key in reads}
        begins = {key: number for key, number in found.items() if number is not None}
        if begins:
            joined = [cells[key] for key in begins]
            first = int(torch.stack([cell.first for cell in joined]).min()) if resumes(runs.model) else 0
            first = min(first, runs.base.width - 1)  # that of an inert cell is behind its prompt
            runs.keep(left(runs.model, joined, begins.values(), range(first, runs.base.width)), runs.budget)
            for site, columns in ((site, columns) for key in begins for site, columns in reads[key].items()):
                runs.want(_BASE, site, columns)
        return cls(runs, {key: reads[key] for key in begins}, begins)

    def run(self, filled: Mapping[Key, Cell]) -> None:
        """Run them, and give the runs what was read.

        Args:
            filled: what is in force on some of them.
        """
        keys = [key for key in self.begins if key in filled]
        if not keys:
            return
        cells = [filled[key] for key in keys]
        seen = self._seen(keys)
        inert = torch.stack([cell.inert for cell in cells])
        depths = torch.tensor([self.begins[key] for key in keys], device=inert.device)
        stack = self.runs.model.stack
        assert stack is not None
        ends = [POINTS * max(end_of(stack, site) for site in self.reads[key]) for key in keys]
        rows = (~inert & (depths <= torch.tensor(ends, device=inert.device))[:, None]).nonzero()
        depths = depths[rows[:, 0]]
        first = torch.stack([cell.first for cell in cells])[rows[:, 0], rows[:, 1]]
        with self.runs.model.prepared():
            for shard in self.runs.shards(rows[:, 1].unique()):
                mine = shard.has(rows[:, 1]).nonzero().flatten()
                for column, order in grouped(self.runs.model, first[mine], first[mine], depths[mine]):
                    self._pass(shard, cells, rows[mine][order], depths[mine][order], column, seen)
        for slot, key in enumerate(keys):
            self.runs.serve(key, {site: Kept(seen[site].cell(slot), seen[site].columns) for site in self.reads[key]})

    def _pass(
        self, shard: Shard, cells: list[Cell], rows: Rows, depths: Int[Tensor, " row"], column: int, seen: Mapping[Site, Seen]
    ) -> None:
        """Rows that start at one column, in as many passes as memory asks for."""
        budget, columns = self.runs.budget, shard.tokens.width - column
        assert budget is not None

        def run(part: slice) -> None:
            alone = torch.full_like(depths[part], -1)
            with budget.measured(part.stop - part.start, columns):
                Pass(shard, cells, rows[part], depths[part], column, column, alone, seen).run()

        in_batches(len(rows), lambda: budget.rows(columns), run)

    def _seen(self, keys: list[Key]) -> dict[Site, Seen]:
        """Room for what is read, which holds the base's values: those of examples and sites that nothing reaches."""
        found: dict[Site, Seen] = {}
        for site in dict.fromkeys(site for key in keys for site in self.reads[key]):
            slots = [slot for slot, key in enumerate(keys) if site in self.reads[key]]
            columns = all_of([self.reads[keys[slot]][site] for slot in slots])
            kept = self.runs.read(_BASE, site, columns)
            at = slice(None) if columns is None else kept.where(columns)
            found[site] = Seen.of(kept.tensor[:, at], slots, len(keys), columns)
        return found


def _begin(runs: Runs, cell: Cell, reads: Mapping[Site, Columns]) -> int | None:
    """Where a run joins; None if it is a whole forward pass."""
    model, given = runs.model, runs.standing
    changed = [place.tensor for place in cell.places]
    if any(site.square for site in (*changed, *reads)):
        return None
    if not all(_is_passed(model, site) or (site.name in EARLY and site not in changed) for site in reads):
        return None
    found = join(model, cell.intervention, None if given is None else given.intervention)
    if isinstance(found, str):
        return None
    layer = found // POINTS
    within = found >= 0 and any(inside(model, site, layer) for site in reads)
    return depth(layer, Point.PRE) if within else found  # a block that is read is run


def _is_passed(model: Model, site: Site) -> bool:
    """Whether rows of the wave have a site's values at the positions that they carry."""
    if site.path is not None or not isinstance(begin(model, site), int):
        return False
    return site == FINAL or site.layer is not None
