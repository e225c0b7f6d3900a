"""The wave: one pass through the blocks with a growing batch, in which a row does only the work that its changes cause.

A row joins where its first change is, from the kept base run, and carries the positions from that change on; what lies before
is attended to through the base run's keys and values. The last block runs at the positions that the metrics read, after the
keys and values of all of them; the unembedding, at the columns that they read. So a residual patch in layer 9 at the last token
costs the last layers at one position, not a forward pass.

Rows of one pass start at one column and are sorted by where they join, so that the rows in flight are always the first ones.
What sites of some rows hold can be kept in passing; a pass of which nothing else is wanted ends behind the last of them. Long
prompts are carried in pieces (:mod:`interp.engine.pieces`), each through all blocks before the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.behind import FINAL
from interp.engine.cells import Cell
from interp.engine.edits import Edits, Rows, SiteWrite
from interp.engine.joins import POINTS, Point, depth, inside
from interp.engine.layout import canonical
from interp.engine.pieces import divided
from interp.engine.seen import Seen, end_of
from interp.engine.shard import Shard
from interp.models.hooks import Hooks
from interp.models.keys_values import Carried
from interp.models.maps import applied, per_head
from interp.models.stack import Stack
from interp.sites import Site


class Pass:
    """One pass of some rows, in one piece or several.

    Args:
        rows: sorted by ``depths``, a cell's rows consecutive.
        depths: where each row joins, see :mod:`interp.engine.joins`.
        start: first column that is carried; no change matters before it.
        tail: first column that is read; not before ``start``.
        parents: the row that each one leaves where it joins, before a block; −1 for those that begin with the base run.
        seen: where sites are kept in passing. The pass then ends behind the last of them.
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
        seen: Mapping[Site, Seen] | None = None,
    ) -> None:
        self.shard, self.tail, self.parents, self.asked = shard, tail, parents, rows
        assert shard.model.stack is not None
        self.stack: Stack = shard.model.stack
        self.last = len(self.stack) - 1
        self.seen = {} if seen is None else seen
        self.end = len(self.stack) if seen is None else max(end_of(self.stack, site) for site in seen)
        """The block before which the pass ends."""
        self.edits = Edits(cells, rows)
        self.pieces = divided(shard.model, range(start, shard.tokens.width), self.edits.places)
        self.carried = Carried(start) if len(self.pieces) > 1 else None
        self.examples = shard.index(rows[:, 1])
        self._slices: dict[tuple[int, int], Tensor] = {}
        self.first = max(0, int(depths[0])) // POINTS
        """The first block that a row runs."""
        every = torch.arange(-1, POINTS * len(self.stack) + 1, device=depths.device)
        self.joined = dict(zip(every.tolist(), torch.searchsorted(depths, every, right=True).tolist(), strict=True))
        """Number of rows that have joined at each depth."""

    def run(self) -> Float[Tensor, "row position d_model"]:
        """What leaves the last block, at columns ``tail`` and later."""
        left = [Piece(self, columns).run() for columns in self.pieces]
        read = [hidden for hidden in left if hidden is not None]
        return torch.cat(read, dim=1) if len(read) > 1 else read[0]

    def rows(self, first: int, stop: int) -> Tensor:
        """Which example some rows are; the same tensor whenever they are asked for again."""
        return self._slices.setdefault((first, stop), self.examples[first:stop])


class Piece:
    """Some columns of a pass, with the keys and values of its earlier columns known."""

    def __init__(self, of: Pass, columns: range) -> None:
        self.of, self.columns = of, columns
        self.shard, self.model, self.stack, self.edits, self.last = of.shard, of.shard.model, of.stack, of.edits, of.last
        self.read = range(max(of.tail, columns.start), columns.stop)
        """Columns that are read, which leave the last block alone."""

    def run(self) -> Float[Tensor, "row position d_model"] | None:
        """What leaves the last block at the columns that are read; None if there are none."""
        hidden: Tensor | None = None
        there = 0
        for layer in range(self.of.first, self.of.end):
            counts = [self.of.joined[depth(layer, point)] for point in Point]
            hidden = self._enter(layer, hidden, there, counts[Point.PRE], self.columns)
            if layer == self.last and not self.read:
                self._remember(layer, hidden)
                return None
            parts = [self._block(layer, hidden)] if hidden is not None else []
            parts += [
                self._resume(layer, point, counts[point - 1], counts[point])
                for point in (Point.MID, Point.POST)
                if counts[point] > counts[point - 1]
            ]
            hidden = torch.cat(parts) if len(parts) > 1 else parts[0] if parts else None
            there = counts[Point.POST]
        if not self.read:
            return None
        columns = self.read if self.of.end > self.last else self.columns
        hidden = self._enter(self.of.end, hidden, there, self.of.joined[depth(self.of.end, Point.PRE)], columns)
        assert hidden is not None
        if FINAL in self.of.seen:
            self._normed(hidden, columns)
        return hidden

    def _normed(self, hidden: Tensor, columns: range) -> None:
        """Keep the scales of the last norm."""
        changed = {FINAL: self._write(FINAL, 0, len(hidden), columns)} if FINAL in self.edits.sites() else {}
        with Hooks(self.model.module, {FINAL: self.model.taps(FINAL)}, [FINAL], changed) as hooks:
            self.stack.leaving(hidden, _as_it_is)
        self.of.seen[FINAL].take(canonical(FINAL, hooks.found[FINAL]), self.of.asked[: len(hidden)], columns)

    # joining

    def _enter(self, layer: int, hidden: Tensor | None, there: int, joined: int, columns: range) -> Tensor | None:
        """The rows before a block, those that join here behind those in flight, with the residual stream changed."""
        if hidden is not None:
            hidden = self._restreamed(layer, hidden, 0, there, columns)
        if joined > there:
            embedded = layer == 0 and self.of.joined[-1] > 0
            stream = Site("resid_pre", layer=layer) if layer <= self.last else Site("resid_post", layer=self.last)
            new = self._embedded(there, joined) if embedded else self._base(stream, there, joined, columns)
            parents = self.of.parents[there:joined]
            forking = (parents >= 0).nonzero().flatten()
            if hidden is not None and len(forking):
                new = new.index_copy(0, forking, hidden[parents[forking]])
            new = self._restreamed(layer, new, there, joined, columns, own=not embedded)
            hidden = new if hidden is None else torch.cat([hidden, new])
        return hidden

    def _restreamed(self, layer: int, hidden: Tensor, first: int, stop: int, columns: range, *, own: bool = False) -> Tensor:
        """The residual stream between two blocks as the changes there leave it."""
        changed = self.edits.sites(first, stop, own=own)
        for site in (Site("resid_post", layer=layer - 1), Site("resid_pre", layer=layer)):
            if site in changed:
                hidden = self._write(site, first, stop, columns, own=own)(hidden)
            if site in self.of.seen:
                self.of.seen[site].take(hidden, self.of.asked[first:stop], columns)
        return hidden

    def _embedded(self, first: int, stop: int) -> Tensor:
        """Rows that begin with a changed embedding, and those that join the first block beside them."""
        sites = [site for site in self.edits.sites(first, stop) if site.name in ("embed", "pos_embed")]
        writes = {site: self._write(site, first, stop, self.columns) for site in sites}
        tokens = self.shard.tokens.take(self.of.examples[first:stop])
        with Hooks(self.model.module, self.model.anatomy.taps, (), writes):
            return self.stack.arguments(tokens, self.columns, None).hidden

    def _base(self, site: Site, first: int, stop: int, columns: range) -> Tensor:
        """The base run's tensor for some rows."""
        return self.shard.base(site, columns)[self.of.examples[first:stop]]

    def _write(self, site: Site, first: int, stop: int, columns: range, *, own: bool = False) -> SiteWrite:
        return self.edits.write(site, first, stop, columns.start, until=columns.stop, own=own)

    # through a block

    def _block(self, layer: int, hidden: Tensor) -> Tensor:
        """Rows in flight through a block; the last one gives the columns that are read alone."""
        n = len(hidden)
        rows, changed = self.of.rows(0, n), self._inside(layer, 0, n)
        seen = [site for site in self.of.seen if inside(self.model, site, layer)]
        if not changed and not seen:
            return through(self.shard, layer, hidden, rows, self.columns, self.of.tail, self.of.carried)
        call = self.shard.arguments(self.columns)  # the first time it runs the model, which hooks would see
        with self._changing(changed, 0, n, self.columns, seen) as hooks:
            left = self.stack.run(layer, hidden, call, rows, carried=self.of.carried)
        for site in seen:
            self.of.seen[site].take(canonical(site, hooks.found[site]), self.of.asked[:n], self.columns)
        return left[:, self.read.start - self.columns.start :] if layer == self.last else left

    def _remember(self, layer: int, hidden: Tensor | None) -> None:
        """Keys and values of the last block, at columns that are attended to alone."""
        if hidden is None:
            return
        if self._inside(layer, 0, len(hidden)):
            self._block(layer, hidden)
            return
        rows = self.of.rows(0, len(hidden))
        self.stack.keys_values(layer, hidden, self.shard.arguments(self.columns), rows, carried=self.of.carried)

    def _resume(self, layer: int, point: Point, first: int, stop: int) -> Tensor:
        """Rows that join inside a block: what attention gives is known, and after it what the MLP gives."""
        columns = self.read if layer == self.last and self.stack.resumes else self.columns
        attention, mlp = self._known("attention", layer, first, stop, columns), None
        standing = [self.model.anatomy.attention[layer]]
        if point == Point.POST and layer in self.stack.mlp:
            mlp = self._known("mlp", layer, first, stop, columns)
            standing.append(self.model.anatomy.mlp[layer])
        hidden = self._base(Site("resid_pre", layer=layer), first, stop, columns)
        rest = [site for site in self._inside(layer, first, stop) if not self._standing(site, standing)]
        call, rows = self.shard.arguments(columns), self.of.rows(first, stop)
        with self._changing(rest, first, stop, columns):
            left = self.stack.run(layer, hidden, call, rows, attention=attention, mlp=mlp)
        return left[:, self.read.start - columns.start :] if layer == self.last else left

    def _known(self, which: str, layer: int, first: int, stop: int, columns: range) -> Tensor:
        """What attention or the MLP gives some rows: what it gave the base run, moved by what is changed inside it.

        What is changed before its output map moves the output by that map, which is linear; at other columns nothing moves.
        """
        anatomy, heads = self.model.anatomy, which == "attention"
        paths, linear = (anatomy.attention, anatomy.w_o) if heads else (anatomy.mlp, anatomy.w_out)
        names = ("z", "result", "attn_out") if heads else ("mlp_post", "result", "mlp_out")
        inner, result, out = (Site(name, layer=layer) for name in names)
        given = self._base(Site("output", path=paths[layer]), first, stop, columns)
        changed = [site for site in self.edits.sites(first, stop) if site == inner or (heads and site == result)]
        if out in self.edits.sites(first, stop) and self._standing(out, [paths[layer]]):
            changed.append(out)
        if not changed:
            return given
        touched = self.edits.touched(changed, columns, first, stop)
        at, examples = touched - columns.start, self.of.examples[first:stop]

        def base(site: Site) -> Tensor:
            return self.shard.found[site].at(examples, touched)

        def written(site: Site, h: Tensor) -> Tensor:
            return self._write(site, first, stop, columns).at(h, at) if site in changed else h

        moved = torch.zeros((), dtype=given.dtype, device=given.device)
        if inner in changed or result in changed:
            output, was = self.model.module.get_submodule(linear[layer]), base(inner)
            new = written(inner, was)
            difference = new - was
            moved = applied(output, difference.flatten(2) if difference.ndim > 3 else difference)
            if result in changed:
                results = per_head(output, new)
                moved = moved + (written(result, results) - results).sum(2)
        if out in changed:
            was = base(out)
            moved = written(out, was + moved) - was
        return given.index_add_(1, at, moved.to(given))

    def _inside(self, layer: int, first: int, stop: int) -> list[Site]:
        """Sites of a block, its input and output excepted, at which some rows are changed."""
        return [site for site in self.edits.sites(first, stop) if inside(self.model, site, layer)]

    def _standing(self, site: Site, modules: Sequence[str]) -> bool:
        """Whether a site is inside modules that are not run; what is changed there is settled by :meth:`_known`."""
        tap = self.model.taps(site)
        before = tap.event != "output" or site.name == "result"  # results are what a module's output is made of
        return any(tap.path.startswith(f"{path}.") or (tap.path == path and before) for path in modules)

    def _changing(self, sites: Sequence[Site], first: int, stop: int, columns: range, seen: Sequence[Site] = ()) -> Hooks:
        writes = {site: self._write(site, first, stop, columns) for site in sites}
        return Hooks(self.model.module, {site: self.model.taps(site) for site in (*sites, *seen)}, seen, writes)


def _as_it_is(hidden: Tensor) -> Tensor:
    return hidden


def through(
    shard: Shard,
    layer: int,
    hidden: Float[Tensor, "row position d_model"],
    rows: Int[Tensor, " row"],
    columns: range,
    tail: int,
    carried: Carried | None = None,
) -> Float[Tensor, "row carried d_model"]:
    """Unchanged rows through one block, at some columns; the last block gives columns ``tail`` and later alone.

    Args:
        rows: where each row's example is in the shard.
        carried: keys and values of the rows' earlier columns, where they are not the base run's.
    """
    stack = shard.model.stack
    assert stack is not None
    call = shard.arguments(columns)
    if layer < len(stack) - 1 or tail <= columns.start:
        return stack.run(layer, hidden, call, rows, carried=carried)
    if not stack.resumes:
        return stack.run(layer, hidden, call, rows)[:, tail - columns.start :]
    whole = stack.keys_values(layer, hidden, call, rows, carried=carried)
    read = shard.arguments(range(tail, columns.stop))
    return stack.run(layer, hidden[:, tail - columns.start :], read, rows, whole=whole)
