"""The wave: one pass through the blocks with a growing batch, in which a row does only the work that its changes cause.

A row joins where its first change is, from the kept base run, and carries the positions from that change on; what lies before
is attended to through the base run's keys and values. The last block runs at the positions that the metrics read, after the
keys and values of all of them; the unembedding, at the columns that they read. So a residual patch in layer 9 at the last token
costs the last layers at one position, not a forward pass.

Rows of one pass start at one column and are sorted by where they join, so that the rows in flight are always the first ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.cells import Cell
from interp.engine.edits import Edits, Rows
from interp.engine.joins import POINTS, Point, depth, inside
from interp.engine.shard import Shard
from interp.models.hooks import Hooks
from interp.models.maps import applied, per_head
from interp.models.stack import Stack
from interp.sites import Site


class Pass:
    """One pass of some rows.

    Args:
        rows: sorted by ``depths``, a cell's rows consecutive.
        depths: where each row joins, see :mod:`interp.engine.joins`.
        start: first column that is carried; no change matters before it.
        tail: first column that is read; not before ``start``.
        parents: the row that each one leaves where it joins, before a block; −1 for those that begin with the base run.
    """

    def __init__(
        self,
        shard: Shard,
        cells: Sequence[Cell],
        rows: Rows,
        depths: Int[Tensor, " row"],
        start: int,
        tail: int,
        parents: Int[Tensor, " row"],
    ) -> None:
        self.shard, self.model, self.start, self.tail = shard, shard.model, start, tail
        assert shard.model.stack is not None
        self.stack: Stack = shard.model.stack
        self.last = len(self.stack) - 1
        self.edits = Edits(cells, rows)
        self.examples = shard.index(rows[:, 1])
        self.parents = parents
        self._slices: dict[tuple[int, int], Tensor] = {}
        self.first_depth = int(depths[0])
        every = torch.arange(-1, POINTS * len(self.stack) + 1, device=depths.device)
        self.joined = dict(zip(every.tolist(), torch.searchsorted(depths, every, right=True).tolist(), strict=True))
        """Number of rows that have joined at each depth."""

    def run(self) -> Float[Tensor, "row position d_model"]:
        """What leaves the last block, at columns ``tail`` and later."""
        hidden: Tensor | None = None
        there = 0
        begin = max(0, self.first_depth) // POINTS
        for layer in range(begin, self.last + 1):
            counts = [self.joined[depth(layer, point)] for point in Point]
            hidden = self._enter(layer, hidden, there, counts[Point.PRE], self.start)
            parts = [self._block(layer, hidden)] if hidden is not None else []
            parts += [
                self._resume(layer, point, counts[point - 1], counts[point])
                for point in (Point.MID, Point.POST)
                if counts[point] > counts[point - 1]
            ]
            hidden = torch.cat(parts) if len(parts) > 1 else parts[0] if parts else None
            there = counts[Point.POST]
        hidden = self._enter(self.last + 1, hidden, there, len(self.examples), self.tail)
        assert hidden is not None
        return hidden

    def _rows(self, first: int, stop: int) -> Tensor:
        """Which example some rows are; the same tensor whenever they are asked for again."""
        return self._slices.setdefault((first, stop), self.examples[first:stop])

    # joining

    def _enter(self, layer: int, hidden: Tensor | None, there: int, joined: int, column: int) -> Tensor | None:
        """The rows before a block, those that join here behind those in flight, with the residual stream changed."""
        if hidden is not None:
            hidden = self._restreamed(layer, hidden, 0, there, column)
        if joined > there:
            embedded = layer == 0 and self.joined[-1] > 0
            stream = Site("resid_pre", layer=layer) if layer <= self.last else Site("resid_post", layer=self.last)
            new = self._embedded(there, joined) if embedded else self._base(stream, there, joined, column)
            forking = (self.parents[there:joined] >= 0).nonzero().flatten()
            if hidden is not None and len(forking):
                new = new.index_copy(0, forking, hidden[self.parents[there:joined][forking]])
            new = self._restreamed(layer, new, there, joined, column, own=not embedded)
            hidden = new if hidden is None else torch.cat([hidden, new])
        return hidden

    def _restreamed(self, layer: int, hidden: Tensor, first: int, stop: int, column: int, *, own: bool = False) -> Tensor:
        """The residual stream between two blocks as the changes there leave it."""
        changed = self.edits.sites(first, stop, own=own)
        for site in (Site("resid_post", layer=layer - 1), Site("resid_pre", layer=layer)):
            if site in changed:
                hidden = self.edits.write(site, first, stop, column, own=own)(hidden)
        return hidden

    def _embedded(self, first: int, stop: int) -> Tensor:
        """Rows that begin with a changed embedding, and those that join the first block beside them."""
        sites = [site for site in self.edits.sites(first, stop) if site.name in ("embed", "pos_embed")]
        writes = {site: self.edits.write(site, first, stop, self.start) for site in sites}
        tokens = self.shard.tokens.take(self.examples[first:stop])
        with Hooks(self.model.module, self.model.anatomy.taps, (), writes):
            return self.stack.arguments(tokens, self.start, None).hidden

    def _base(self, site: Site, first: int, stop: int, column: int) -> Tensor:
        """The base run's tensor for some rows, from a column on."""
        return self.shard.found[site][:, column:][self.examples[first:stop]]

    # through a block

    def _block(self, layer: int, hidden: Tensor) -> Tensor:
        """Rows in flight through a block; the last one gives the columns that are read alone."""
        n = len(hidden)
        rows, changed = self._rows(0, n), self._inside(layer, 0, n)
        if not changed:
            return through(self.shard, layer, hidden, rows, self.start, self.tail)
        call = self.shard.arguments(self.start)  # the first time it runs the model, which hooks would see
        with self._changing(changed, 0, n, self.start):
            left = self.stack.run(layer, hidden, call, rows)
        return left[:, self.tail - self.start :] if layer == self.last else left

    def _resume(self, layer: int, point: Point, first: int, stop: int) -> Tensor:
        """Rows that join inside a block: what attention gives is known, and after it what the MLP gives."""
        column = self.tail if layer == self.last and self.stack.resumes else self.start
        attention, mlp = self._known("attention", layer, first, stop, column), None
        standing = [self.model.anatomy.attention[layer]]
        if point == Point.POST and layer in self.stack.mlp:
            mlp = self._known("mlp", layer, first, stop, column)
            standing.append(self.model.anatomy.mlp[layer])
        hidden = self._base(Site("resid_pre", layer=layer), first, stop, column)
        rest = [site for site in self._inside(layer, first, stop) if not self._standing(site, standing)]
        call, rows = self.shard.arguments(column), self._rows(first, stop)
        with self._changing(rest, first, stop, column):
            left = self.stack.run(layer, hidden, call, rows, attention=attention, mlp=mlp)
        return left[:, self.tail - column :] if layer == self.last else left

    def _known(self, which: str, layer: int, first: int, stop: int, column: int) -> Tensor:
        """What attention or the MLP gives some rows: what it gave the base run, moved by what is changed inside it.

        What is changed before its output map moves the output by that map, which is linear.
        """
        anatomy = self.model.anatomy
        paths, linear = (anatomy.attention, anatomy.w_o) if which == "attention" else (anatomy.mlp, anatomy.w_out)
        inner, outer = ("z", "attn_out") if which == "attention" else ("mlp_post", "mlp_out")
        changed = self.edits.sites(first, stop)
        moved: Tensor | None = None
        site, result, out = (Site(name, layer=layer) for name in (inner, "result", outer))
        if site in changed or (which == "attention" and result in changed):
            output = self.model.module.get_submodule(linear[layer])
            base = self._base(site, first, stop, column)
            new = self.edits.write(site, first, stop, column)(base) if site in changed else base
            difference = new - base
            moved = applied(output, difference.flatten(2) if difference.ndim > 3 else difference)
            if which == "attention" and result in changed:
                results = per_head(output, new)
                moved = moved + (self.edits.write(result, first, stop, column)(results) - results).sum(2)
        if out in changed and self._standing(out, [paths[layer]]):
            base = self._base(out, first, stop, column)
            now = base if moved is None else base + moved
            moved = self.edits.write(out, first, stop, column)(now) - base
        given = self._base(Site("output", path=paths[layer]), first, stop, column)
        return given if moved is None else given + moved

    def _inside(self, layer: int, first: int, stop: int) -> list[Site]:
        """Sites of a block, its input and output excepted, at which some rows are changed."""
        return [site for site in self.edits.sites(first, stop) if inside(self.model, site, layer)]

    def _standing(self, site: Site, modules: Sequence[str]) -> bool:
        """Whether a site is inside modules that are not run; what is changed there is settled by :meth:`_known`."""
        tap = self.model.taps(site)
        before = tap.event != "output" or site.name == "result"  # results are what a module's output is made of
        return any(tap.path.startswith(f"{path}.") or (tap.path == path and before) for path in modules)

    def _changing(self, sites: Sequence[Site], first: int, stop: int, column: int) -> Hooks:
        writes = {site: self.edits.write(site, first, stop, column) for site in sites}
        return Hooks(self.model.module, {site: self.model.taps(site) for site in sites}, (), writes)


def through(
    shard: Shard,
    layer: int,
    hidden: Float[Tensor, "row position d_model"],
    rows: Int[Tensor, " row"],
    start: int,
    tail: int,
) -> Float[Tensor, "row carried d_model"]:
    """Unchanged rows through one block, from column ``start`` on; the last block gives columns ``tail`` and later alone.

    Args:
        rows: where each row's example is in the shard.
    """
    stack = shard.model.stack
    assert stack is not None
    call = shard.arguments(start)
    if layer < len(stack) - 1 or tail == start:
        return stack.run(layer, hidden, call, rows)
    if not stack.resumes:
        return stack.run(layer, hidden, call, rows)[:, tail - start :]
    whole = stack.keys_values(layer, hidden, call, rows)
    return stack.run(layer, hidden[:, tail - start :], shard.arguments(tail), rows, whole=whole)
