"""Rows in which every reader sees a sum of its own: of some writers what they say there, of others what the source says.

>>> mixed = Mixed(runs, graph, Activation(), budget, kept)                 # kept: [circuit, edge]   # doctest: +SKIP
>>> mixed.open()                                                                       # doctest: +SKIP
{'logit_diff': 0.0}
>>> mixed.values(range(50), range(64), print).shape              # metric, circuit, example  # doctest: +SKIP
torch.Size([1, 50, 64])

A reader's input is r_v = Σ_u w_uv·a_u + (1 − w_uv)·ã_u, with a_u what u says in this row, ã_u what the source says and w_uv 1
for an edge that is kept: the stream of the row, and for edges that are not kept the gaps ã_u − a_u. So any circuit is one row,
and readers that keep all their edges cost nothing more. Below the first block in which a row leaves something out it is the
base run, whose gaps all rows of an example share; in that block heads that leave out the same are seen once. Where a norm
stands between attention and the stream, a head's part of what attention adds is its own share of the norm's output, so that
the sum stays a sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeAlias

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from interp.circuits import LOGITS, Graph
from interp.engine.batches import in_batches
from interp.engine.budget import Budget
from interp.engine.graph.apart import Apart, Tokens
from interp.engine.graph.ends import Ends
from interp.engine.graph.said import Said
from interp.engine.graph.slots import projections, slots, spared
from interp.engine.graph.writers import Writers
from interp.engine.measure import noise_floor
from interp.engine.runs import Runs
from interp.engine.shard import Shard
from interp.engine.strategies import Measured, Progress
from interp.engine.wavefront import grouped, readout
from interp.errors import EdgesError
from interp.interventions import Constant, Source
from interp.models.hooks import Hooks, standing_in
from interp.models.stack import Arguments
from interp.sites import Site

Weights: TypeAlias = Float[Tensor, "circuit edge"]
"""1 where an edge is kept, 0 where it is left out, or between."""
Stream: TypeAlias = Float[Tensor, "circuit example position d_model"]
Later: TypeAlias = Float[Tensor, "circuit example carried d_model"]
"""At the columns of a stream from one on."""


class Mixed:
    """Circuits of one graph on the base run of a sweep.

    Args:
        runs: whose base all rows run on.
        source: what is seen in the place of an edge that is left out.
        budget: how much fits in a pass.
        kept: the circuits.

    Raises:
        EdgesError: what heads read of the stream is not known, or norms divide the stream itself.
    """

    def __init__(self, runs: Runs, graph: Graph, source: Source, budget: Budget, kept: Weights) -> None:
        assert runs.model.stack is not None
        if runs.model.anatomy.main.norms:
            raise EdgesError(
                f"the stream of {runs.model.name} is divided by norms between its blocks, and is no sum of its writers"
            )
        self.runs, self.graph, self.budget, self.model, self.stack = runs, graph.base, budget, runs.model, runs.model.stack
        self.kept, self.constant, self.tokens = kept, isinstance(source, Constant), Tokens(runs, graph)
        self._latest: Said | None = None
        self.passes = 0
        """How many passes of rows there were."""
        self.writers = Writers(runs, graph.written, source)
        self.apart = Apart(self.writers, self.graph)
        self.slots = slots(self.model, self.graph)
        self.ends = Ends(graph, self.model.device)

    def open(self) -> dict[str, float]:
        """Keep what rows begin from, and resolve what the source says; returns the noise floor.

        Raises:
            EdgesError: what heads read is not their norm and projection of the stream.
            ShapeMismatchError, UnequalLengthsError: the source does not fit.
        """
        runs, device = self.runs, self.model.device
        runs.keep(dict.fromkeys(self._sites()), self.budget, besides=self._bytes(1) * runs.base.width)
        self.writers.place()
        self._check()
        everyone = torch.arange(len(runs.base), device=device)
        every_edge = torch.ones(1, len(self.ends), device=device)
        again = self._values(every_edge, everyone, lambda n: None, begin=0)[:, 0]  # what it moves is rounding
        base = runs.reader.measure(runs.logits("base"), everyone, runs.reference)
        return noise_floor(again, base, self.model, runs.reader.metrics)

    def values(self, cells: range, examples: range, progress: Progress) -> Float[Tensor, "metric circuit example"]:
        """Every metric of some circuits on some examples."""
        wanted = torch.arange(examples.start, examples.stop, device=self.model.device)
        return self._values(self.kept[cells.start : cells.stop], wanted, progress)[:, :, wanted]

    def means(self, kept: Weights) -> Float[Tensor, "metric circuit"]:
        """Every metric of other circuits of the graph, on average over all examples."""
        everyone = torch.arange(len(self.runs.base), device=self.model.device)
        return self._values(kept, everyone, lambda n: None).double().mean(-1)

    def losses(self, kept: Weights, examples: Int[Tensor, " example"]) -> Float[Tensor, " circuit"]:
        """The first metric on average over some examples, with its gradient where one is wanted.

        Args:
            examples: ascending.
        """
        return self._values(kept, examples, lambda n: None)[0, :, examples].mean(-1)

    @property
    def most(self) -> int:
        """How many circuits fit in a pass with all examples."""
        return max(1, self._rows(self.runs.base.width) // len(self.runs.base))

    def _values(
        self, kept: Weights, wanted: Int[Tensor, " some"], progress: Progress, begin: int | None = None
    ) -> Float[Tensor, "metric circuit example"]:
        """The same, with examples that are not wanted left at 0.

        Args:
            begin: where rows begin, as :attr:`Ends.reached` says it; by default where something is left out first.
        """
        reader, width = self.runs.reader, self.runs.base.width
        value = torch.zeros(len(reader.metrics), len(kept), len(self.runs.base), dtype=reader.dtype, device=self.model.device)
        out = self.ends.left_out(kept, torch.promote_types(self.model.dtype, torch.float32))
        begins = self.ends.begins(out) if begin is None else torch.full((len(out),), begin, device=out.device)
        for shard in self.runs.shards(wanted):
            source = self._said(shard)
            mine = torch.isin(shard.examples, wanted).nonzero().flatten()
            read = reader.positions_of(shard.tokens).amin(-1)
            first = torch.minimum(self.writers.first[shard.examples], read)
            for column, some in grouped(self.model, first[mine], read[mine], torch.zeros_like(mine)):
                most = self._rows(width - column)
                for at in mine[some].split(most):
                    found = self._part(source, at, column, out, begins, most // len(at), progress)
                    value[:, :, shard.examples[at]] = found
        return value

    def _part(
        self,
        source: Said,
        at: Int[Tensor, " example"],
        column: int,
        out: Float[Tensor, "circuit receiver span sender"],
        begins: Int[Tensor, " circuit"],
        most: int,
        progress: Progress,
    ) -> Float[Tensor, "metric circuit example"]:
        """Circuits on some examples that start at one column, those next to each other that begin alike."""
        order = begins.argsort(stable=True)

        def run(chunk: slice) -> Tensor:
            which, self.passes = order[chunk], self.passes + 1
            return MixedRows(self, source, at, column, out[which], *divmod(int(begins[which].min()), 2)).measure()

        parts = in_batches(len(order), max(1, most), run, lambda done: progress(done * len(at)))
        return torch.cat(parts, dim=1)[:, order.argsort()]

    def _said(self, shard: Shard) -> Said:
        """What the source says on a shard; the last one is kept."""
        if self._latest is None or self._latest.shard is not shard:
            self._latest = Said(self.writers, self.graph, shard)
        return self._latest

    def _check(self) -> None:
        """Hold what heads read of the stream to the base run."""
        shard = next(self.runs.shards())
        real, every = shard.tokens.mask.bool(), range(shard.tokens.width)
        for site, slot in self.slots.items():
            stream, made = shard.base(Site("resid_pre", layer=site.layer), every), shard.base(site, every)
            slot.check(stream, made, real)

    def _sites(self) -> set[Site]:
        sites = self.writers.sites() | {Site("resid_post", layer=len(self.stack) - 1), *self.slots}
        for layer in range(len(self.stack)):
            sites |= {Site("resid_pre", layer=layer), Site("output", path=self.model.anatomy.attention[layer])}
        return sites

    def _bytes(self, columns: int) -> int:
        """What the gaps of one row take."""
        wide = max(self.ends.attending)
        return columns * (len(self.graph.senders) + 4 * wide) * self.model.sizes["d_model"] * max(4, self.model.dtype.itemsize)

    def _rows(self, columns: int) -> int:
        """Rows of a pass."""
        fits = self.budget.bytes // (self._bytes(columns) + self.budget.taken(columns))
        return max(1, min(fits, self.budget.rows(columns)))


@dataclass(eq=False)
class MixedRows:
    """Circuits on some examples of a shard, in one pass. Whatever has columns ends with the last one."""

    of: Mixed
    source: Said
    examples: Int[Tensor, " example"]
    """Where they are in the shard."""
    start: int
    """First column that is carried."""
    out: Float[Tensor, "circuit receiver span sender"]
    begin: int
    """First block in which something is left out."""
    standing: int
    """1 where it is of that block's MLP alone, so that what its attention adds is the base run's; else 0."""
    own: list[Tensor] = field(default_factory=list)
    """Gaps of the writers from there on, ``[circuit, sender, example, position, d_model]``."""

    def measure(self) -> Float[Tensor, "metric circuit example"]:
        """Every metric of the rows."""
        mixed, shard, last = self.of, self.source.shard, len(self.of.stack) - 1
        first = Site("resid_pre", layer=self.begin) if self.begin <= last else Site("resid_post", layer=last)
        stream = repeat(self._base(first), "e p d -> c e p d", c=len(self.out))
        for layer in range(self.begin, last + 1):
            stream = self._block(layer, stream)
        read = self._seen(LOGITS, stream, self.tail, self._out(LOGITS))[:, 0]
        numbers = repeat(shard.examples[self.examples], "e -> (c e)", c=len(self.out))
        found: Measured = readout(mixed.runs.reader, shard, read.flatten(0, 1), numbers, self.tail, mixed.runs.reference)
        return rearrange(found, "metric (c e) -> metric c e", c=len(self.out))

    def _block(self, layer: int, stream: Stream) -> Later:
        """What leaves a block, every reader of which sees its own sum; the last one gives the columns that are read alone."""
        of, block = self.of, self.of.graph.blocks[layer]
        column = self.tail if layer == len(of.stack) - 1 and of.stack.resumes else self.start
        after = self._from(column, stream)
        if block.heads and layer == self.begin and self.standing:
            after = after + self._from(column, of.writers.attended(layer, self._base(Site("z", layer=layer))))
        elif block.heads:
            after = after + self._attention(layer, stream, column)
        if not block.mlp:
            return after
        reader, out, call = Site("mlp_pre", layer=layer), Site("mlp_out", layer=layer), self._call(column)
        seen = self._seen(reader, stream if block.parallel else after, column, self._out(reader))[:, 0].flatten(0, 1)
        path = of.model.anatomy.attention.get(layer)
        nothing = of.writers.nothing(layer, seen) if path is not None else None
        if nothing is not None and not block.parallel and not of.writers.adds_itself(layer):
            seen = seen - of.writers.behind(layer, nothing)
        sites = [out, *of.apart.units(layer)]
        with Hooks(of.model.module, {site: of.model.taps(site) for site in sites}, sites, {}) as hooks:
            of.stack.run(layer, seen, call, self._rows, attention=nothing)
        made = {site: rearrange(hooks.found[site], "(c e) p d -> c e p d", c=len(self.out)) for site in sites}

        def theirs(site: Site) -> Tensor:
            return self._from(column, self._theirs(site), axis=1).expand_as(made[site])

        gaps = of.apart.of_mlp(layer, theirs, made.__getitem__)
        self.own.append(gaps.movedim(0, 1))
        return after + made[out]

    def _attention(self, layer: int, stream: Stream, column: int) -> Later:
        """What attention adds from a column on, whose heads' queries, keys and values see sums of their own."""
        of, z, whole, hidden = self.of, Site("z", layer=layer), None, stream.flatten(0, 1)
        output = of.model.module.get_submodule(of.model.anatomy.w_o[layer])
        queries, *others = projections(of.graph, layer)
        asked = self._written(queries, stream, column)
        attended = {site: write for other in others for site, write in self._written(other, stream, self.start).items()}
        if column > self.start:
            call = self._call(self.start)
            every = [of.slots[site] for site in (queries, *others)]  # queries are not used at all
            hooks = Hooks(of.model.module, {site: of.model.taps(site) for site in attended}, (), attended)
            with standing_in(spared(of.model, every)), hooks:
                whole = of.stack.keys_values(layer, hidden, call, self._rows)
            attended = {}
        call, writes = self._call(column), asked | attended
        hooks = Hooks(of.model.module, {site: of.model.taps(site) for site in (z, *writes)}, [z], writes)
        with standing_in(spared(of.model, [of.slots[site] for site in writes])):
            of.stack.heads(layer, self._from(column, hidden, axis=1), call, self._rows, hooks, output, whole=whole)
        found = rearrange(hooks.found[z], "(c e) p h d -> c e p h d", c=len(self.out))
        raw = of.writers.raw(layer, found)
        gaps = of.apart.of_heads(layer, self._from(column, self._theirs(z), axis=1).expand_as(found), found, raw)
        self.own.append(rearrange(gaps, "c e p h m -> c h e p m"))
        return of.writers.behind(layer, raw)

    def _written(self, site: Site, stream: Stream, column: int) -> dict[Site, Callable[[Tensor], Tensor]]:
        """Queries, keys or values, from a column on, of what each of the heads sees.

        In the first block circuits have one stream, and heads that leave out the same see the same: that is made once.
        """
        slot, out = self.of.slots[site], self._out(site)
        if site.layer != self.begin or out.requires_grad:
            each = rearrange(self._seen(site, stream, column, out), "c h e p d -> (c e) h p d")
            return {site: partial(_instead, slot.read(each))}
        distinct, heads, where = _distinct(out)
        each = rearrange(self._seen(site, stream[:1], column, distinct), "v 1 e p d -> e v p d")
        made = slot.read(each, heads)[:, :, where]
        return {site: partial(_instead, rearrange(made, "e p c h k -> (c e) p h k"))}

    def _out(self, tensor: Site) -> Float[Tensor, "circuit receiver span sender"]:
        """What every receiver of a tensor leaves out of what it reads."""
        readers = self.of.graph.readers[tensor]
        return self.out[:, readers.start : readers.stop, :, : self.of.graph.before[readers.start]]

    def _seen(
        self, tensor: Site, stream: Stream, column: int, out: Float[Tensor, "row receiver span sender"]
    ) -> Float[Tensor, "row receiver example carried d_model"]:
        """What receivers of a tensor see, from a column on; at the tokens of each span a sum of its own.

        Args:
            stream: of every row, or one that all of them have.
            out: what each leaves out.
        """
        masks = self.of.tokens.masks
        if masks is None:
            return self._sum(tensor, stream, column, out[:, :, 0])
        masks = self._from(column, masks[:, self.source.shard.examples[self.examples]], axis=-1)
        seen = torch.zeros((), dtype=stream.dtype, device=stream.device)
        for span, mask in enumerate(masks):
            seen = torch.where(mask[..., None], self._sum(tensor, stream, column, out[:, :, span]), seen)
        return seen

    def _sum(
        self, tensor: Site, stream: Stream, column: int, out: Float[Tensor, "row receiver sender"]
    ) -> Float[Tensor, "row receiver example carried d_model"]:
        """What receivers of a tensor see, by the edges between tokens of one span.

        Of readers that leave out most of what they read, or anything where the source is a constant, it is the source's stream
        with what is kept in its place: less of the sum cancels, which a norm of next to nothing would show.
        """
        mostly = (out.detach().sum(-1) > (0 if self.of.constant else out.shape[-1] / 2))[..., None]
        weights = torch.where(mostly, out - 1, out).to(stream)
        theirs = self._from(column, self._chosen(self.source.streams[tensor]), axis=1)
        seen = torch.where(mostly[..., None, None], theirs, self._from(column, stream)[:, None])
        first = 0
        for gaps in (self._known, *self.own):
            share = weights[:, :, first : first + gaps.shape[-4]]
            first += gaps.shape[-4]
            gaps = gaps.narrow(-4, 0, share.shape[-1])  # readers of a parallel block do not see the heads beside them
            used = share.detach().ne(0).flatten(0, 1).any(0)
            if not share.requires_grad and not bool(used.all()):
                at = used.nonzero().flatten()
                share, gaps = share[..., at], gaps.index_select(gaps.ndim - 4, at)
            if share.shape[-1]:
                each = "u e p d" if gaps.ndim == 4 else "c u e p d"
                seen = seen + einsum(share, self._from(column, gaps), f"c r u, {each} -> c r e p d")
        return seen

    @cached_property
    def tail(self) -> int:
        """First column that is read."""
        reader = self.of.runs.reader
        return int(reader.positions_of(self.source.shard.tokens)[self.examples].min())

    @cached_property
    def _known(self) -> Float[Tensor, "sender example position d_model"]:
        """Gaps of the writers in front, which are the base run's."""
        heads = self.of.ends.attending[self.begin] if self.standing else 0
        gaps = self.source.gaps[: self.of.ends.entering[self.begin] + heads]
        return self._from(self.start, gaps if self._everyone else gaps[:, self.examples])

    @cached_property
    def _rows(self) -> Tensor:
        return self.examples.repeat(len(self.out))

    @cached_property
    def _everyone(self) -> bool:
        examples = self.source.shard.examples
        return len(self.examples) == len(examples) and bool((self.examples.diff() == 1).all())

    def _call(self, column: int) -> Arguments:
        return self.source.shard.arguments(range(column, self.source.shard.tokens.width))

    def _chosen(self, tensor: Tensor) -> Tensor:
        return tensor if self._everyone else tensor[self.examples]

    def _base(self, site: Site) -> Tensor:
        """The base run's tensor at the columns that are carried."""
        return self._chosen(self.source.shard.base(site, range(self.start, self.source.shard.tokens.width)))

    def _theirs(self, site: Site) -> Tensor:
        """What the source says at a site."""
        return self._chosen(self.source.tensor(site))

    def _from(self, column: int, tensor: Tensor, axis: int = -2) -> Tensor:
        """The columns from one on, of something that ends with the last one."""
        return tensor.narrow(axis, tensor.shape[axis] - (width := self.source.shard.tokens.width - column), width)


def _distinct(
    out: Float[Tensor, "circuit receiver span sender"],
) -> tuple[Float[Tensor, "distinct 1 span sender"], Int[Tensor, " distinct"], Int[Tensor, "circuit receiver"]]:
    """What receivers leave out, each once; whose it is; and where among these each circuit has it."""
    circuits, receivers = out.shape[:2]
    whose = torch.arange(receivers, device=out.device).to(out).expand(circuits, -1)[..., None]
    rows = torch.cat([whose, out.flatten(2)], dim=-1).flatten(0, 1)
    once, where = torch.unique(rows, dim=0, return_inverse=True)
    return once[:, 1:].reshape(len(once), 1, *out.shape[2:]), once[:, 0].long(), where.reshape(circuits, receivers)


def _instead(tensor: Tensor, h: Tensor) -> Tensor:
    return tensor
