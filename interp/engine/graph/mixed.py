"""Rows in which every reader sees a sum of its own: of some writers what they say there, of others what the source says.

>>> mixed = Mixed(runs, graph, Activation(), budget, kept)                 # kept: [circuit, edge]   # doctest: +SKIP
>>> mixed.open()                                                                       # doctest: +SKIP
{'logit_diff': 0.0}
>>> mixed.values(range(50), range(64), print).shape              # metric, circuit, example  # doctest: +SKIP
torch.Size([1, 50, 64])

A reader's input is r_v = Σ_u w_uv·a_u + (1 − w_uv)·ã_u, with a_u what u says in this row, ã_u what the source says and w_uv 1
for an edge that is kept: the stream of the row, and for edges that are not kept the gaps ã_u − a_u. So any circuit is one row,
and readers that keep all their edges cost nothing more. Below the first block in which a row leaves something out it is the
base run, whose gaps all rows of an example share. Where a norm stands between attention and the stream, a head's part of what
attention adds is its own share of the norm's output, so that the sum stays a sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeAlias

import numpy as np
import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from interp.circuits import LOGITS, Graph
from interp.engine.batches import in_batches
from interp.engine.budget import Budget
from interp.engine.graph.said import Said
from interp.engine.graph.slots import projections, slots
from interp.engine.graph.writers import Writers
from interp.engine.measure import noise_floor
from interp.engine.runs import Runs
from interp.engine.strategies import Measured, Progress
from interp.engine.wavefront import grouped, readout
from interp.errors import EdgesError
from interp.interventions import Constant, Source
from interp.models.hooks import Hooks
from interp.models.stack import Arguments
from interp.sites import Site

Weights: TypeAlias = Float[Tensor, "circuit edge"]
"""1 where an edge is kept, 0 where it is left out, or between."""
Stream: TypeAlias = Float[Tensor, "circuit example position d_model"]


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
        self.runs, self.graph, self.budget, self.model, self.stack = runs, graph, budget, runs.model, runs.model.stack
        self.kept, self.constant = kept, isinstance(source, Constant)
        self.writers = Writers(runs, graph.senders, source)
        self.slots = slots(self.model, graph)
        self.entering = np.searchsorted([-1 if s.layer is None else s.layer for s in graph.senders], range(len(self.stack) + 1))
        """How many senders there are in front of each block."""
        device = self.model.device
        self.sender, self.receiver = (torch.tensor(ends, device=device) for ends in (graph.sender, graph.receiver))

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
        every_edge = torch.ones(1, len(self.graph), device=device)
        again = self._values(every_edge, everyone, lambda n: None, begin=0)[:, 0]  # what it moves is rounding
        base = runs.reader.measure(runs.logits("base"), everyone, runs.reference)
        return noise_floor(again, base, self.model, runs.reader.metrics)

    def values(self, cells: range, examples: range, progress: Progress) -> Float[Tensor, "metric circuit example"]:
        """Every metric of some circuits on some examples."""
        wanted = torch.arange(examples.start, examples.stop, device=self.model.device)
        return self._values(self.kept[cells.start : cells.stop], wanted, progress)[:, :, wanted]

    def _values(
        self, kept: Weights, wanted: Int[Tensor, " example"], progress: Progress, begin: int | None = None
    ) -> Float[Tensor, "metric circuit example"]:
        """The same, with examples that are not wanted left at 0.

        Args:
            begin: the first block that is run; by default the first in which something is left out.
        """
        reader, width = self.runs.reader, self.runs.base.width
        value = torch.zeros(len(reader.metrics), len(kept), len(self.runs.base), dtype=reader.dtype, device=self.model.device)
        out, begins = self._out(kept)
        begins = begins if begin is None else torch.full_like(begins, begin)
        for shard in self.runs.shards(wanted):
            source = Said(self.writers, self.graph, shard)
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
        out: Float[Tensor, "circuit receiver sender"],
        begins: Int[Tensor, " circuit"],
        most: int,
        progress: Progress,
    ) -> Float[Tensor, "metric circuit example"]:
        """Circuits on some examples that start at one column, those next to each other that begin alike."""
        order = begins.argsort(stable=True)

        def run(chunk: slice) -> Tensor:
            which = order[chunk]
            return MixedRows(self, source, at, column, out[which], int(begins[which].min())).measure()

        parts = in_batches(len(order), max(1, most), run, lambda done: progress(done * len(at)))
        return torch.cat(parts, dim=1)[:, order.argsort()]

    def _check(self) -> None:
        """Hold what heads read of the stream to the base run."""
        shard = next(self.runs.shards())
        real, every = shard.tokens.mask.bool(), range(shard.tokens.width)
        for site, slot in self.slots.items():
            stream, made = shard.base(Site("resid_pre", layer=site.layer), every), shard.base(site, every)
            slot.check(stream, made, real)

    def _out(self, weights: Weights) -> tuple[Float[Tensor, "circuit receiver sender"], Int[Tensor, " circuit"]]:
        """How much of each edge is left out, and the first block in which something is."""
        out = torch.zeros(len(weights), len(self.graph.receivers), len(self.graph.senders), device=weights.device)
        out = out.to(torch.promote_types(self.model.dtype, torch.float32))
        out[:, self.receiver, self.sender] = 1 - weights.to(out)
        layers = torch.tensor(
            [len(self.stack) if s.layer is None else s.layer for s in self.graph.receivers], device=out.device
        )
        begins = torch.where(out.detach().ne(0).any(-1), layers, len(self.stack)).amin(-1)
        return out, begins

    def _sites(self) -> set[Site]:
        sites = self.writers.sites() | {Site("resid_post", layer=len(self.stack) - 1), *self.slots}
        for layer in range(len(self.stack)):
            sites |= {Site("resid_pre", layer=layer), Site("output", path=self.model.anatomy.attention[layer])}
        return sites

    def _bytes(self, columns: int) -> int:
        """What the gaps of one row take."""
        wide = max(len(self.graph.heads(layer)) for layer in range(len(self.stack)))
        return columns * (len(self.graph.senders) + 4 * wide) * self.model.sizes["d_model"] * max(4, self.model.dtype.itemsize)

    def _rows(self, columns: int) -> int:
        """Rows of a pass."""
        fits = self.budget.bytes // (self._bytes(columns) + self.budget.taken(columns))
        return max(1, min(fits, self.budget.rows(columns)))


@dataclass(eq=False)
class MixedRows:
    """Circuits on some examples of a shard, in one pass."""

    of: Mixed
    source: Said
    examples: Int[Tensor, " example"]
    """Where they are in the shard."""
    start: int
    """First column that is carried."""
    out: Float[Tensor, "circuit receiver sender"]
    begin: int
    """First block in which something is left out."""
    own: list[Tensor] = field(default_factory=list)
    """Gaps of the writers from the first block on, ``[circuit, sender, example, position, d_model]``."""

    def measure(self) -> Float[Tensor, "metric circuit example"]:
        """Every metric of the rows."""
        mixed, shard, last = self.of, self.source.shard, len(self.of.stack) - 1
        reader = mixed.runs.reader
        first = Site("resid_pre", layer=self.begin) if self.begin <= last else Site("resid_post", layer=last)
        stream = repeat(self._kept(first), "e p d -> c e p d", c=len(self.out))
        for layer in range(self.begin, last + 1):
            stream = self._block(layer, stream)
        tail = int(reader.positions_of(shard.tokens)[self.examples].min())
        read = self._seen(LOGITS, stream, tail)[:, 0]
        numbers = repeat(shard.examples[self.examples], "e -> (c e)", c=len(self.out))
        found: Measured = readout(reader, shard, read.flatten(0, 1), numbers, tail, mixed.runs.reference)
        return rearrange(found, "metric (c e) -> metric c e", c=len(self.out))

    def _block(self, layer: int, stream: Stream) -> Stream:
        """What leaves a block, every reader of which sees its own sum."""
        of, block = self.of, self.of.graph.blocks[layer]
        after = stream + self._attention(layer, stream) if block.heads else stream
        if not block.mlp:
            return after
        reader, out = Site("mlp_pre", layer=layer), Site("mlp_out", layer=layer)
        seen = self._seen(reader, stream if block.parallel else after)[:, 0].flatten(0, 1)
        path = of.model.anatomy.attention.get(layer)
        nothing = of.writers.nothing(layer, seen) if path is not None else None
        if nothing is not None and not block.parallel and not of.writers.adds_itself(layer):
            seen = seen - of.writers.behind(layer, nothing)
        with Hooks(of.model.module, {out: of.model.taps(out)}, [out], {}) as hooks:
            of.stack.run(layer, seen, self._call, self._rows, attention=nothing)
        made = rearrange(hooks.found[out], "(c e) p d -> c e p d", c=len(self.out))
        self.own.append((self._said(out) - made)[:, None])
        return after + made

    def _attention(self, layer: int, stream: Stream) -> Stream:
        """What attention adds whose heads' queries, keys and values see sums of their own."""
        of, z = self.of, Site("z", layer=layer)
        writes: dict[Site, Callable[[Tensor], Tensor]] = {}
        for site in projections(of.graph, layer):
            each = rearrange(self._seen(site, stream), "c h e p d -> (c e) h p d")
            writes[site] = partial(_instead, of.slots[site].read(each))
        hooks = Hooks(of.model.module, {site: of.model.taps(site) for site in (z, *writes)}, [z], writes)
        output = of.model.module.get_submodule(of.model.anatomy.w_o[layer])
        of.stack.heads(layer, stream.flatten(0, 1), self._call, self._rows, hooks, output)
        found = rearrange(hooks.found[z], "(c e) p h d -> c e p h d", c=len(self.out))
        raw = of.writers.raw(layer, found)
        gaps = of.writers.parted(layer, self._said(z).expand_as(found), found, raw)
        self.own.append(rearrange(gaps, "c e p h m -> c h e p m"))
        return of.writers.behind(layer, raw)

    @cached_property
    def _rows(self) -> Tensor:
        return self.examples.repeat(len(self.out))

    @property
    def _call(self) -> Arguments:
        return self.source.shard.arguments(range(self.start, self.source.shard.tokens.width))

    def _kept(self, site: Site) -> Tensor:
        """The base run's tensor at the columns that are carried."""
        return self.source.shard.base(site, range(self.start, self.source.shard.tokens.width))[self.examples]

    def _said(self, site: Site) -> Tensor:
        """What the source says at a site, at the columns that are carried."""
        return self.source.tensor(site)[self.examples, self.start :]

    def _seen(
        self, tensor: Site, stream: Stream, column: int | None = None
    ) -> Float[Tensor, "circuit receiver example carried d_model"]:
        """What every receiver of a tensor sees, from a column on.

        Of readers that leave out most of what they read, or anything where the source is a constant, it is the source's stream
        with what is kept in its place: less of the sum cancels, which a norm of next to nothing would show.
        """
        column, known = self.start if column is None else column, int(self.of.entering[self.begin])
        readers = self.of.graph.readers[tensor]
        out = self.out[:, readers.start : readers.stop, : self.of.graph.before[readers.start]]
        mostly = (out.detach().sum(-1) > (0 if self.of.constant else out.shape[-1] / 2))[..., None]
        weights = torch.where(mostly, out - 1, out).to(stream)
        ends = stream[:, None, :, column - self.start :], self.source.streams[tensor][self.examples, column:]
        seen = torch.where(mostly[..., None, None], ends[1], ends[0])
        gaps = [
            self.source.gaps[None, :known, self.examples, column:],
            *(own[..., column - self.start :, :] for own in self.own),
        ]
        first = 0
        for some in gaps:
            share = weights[:, :, first : first + some.shape[1]]
            first += some.shape[1]
            if share.requires_grad or bool(share.any()):
                seen = seen + einsum(share, some.expand(len(share), *some.shape[1:]), "c r u, c u e p d -> c r e p d")
        return seen


def _instead(tensor: Tensor, h: Tensor) -> Tensor:
    return tensor
