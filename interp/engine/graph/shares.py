"""How much of what readers see is each writer's, in one run: by how much nearer to nothing the sum is without it.

>>> shares = Shares(runs, graph, Constant(0.0), budget)                                    # doctest: +SKIP
>>> shares.open()                                                                       # doctest: +SKIP
>>> shares.values(range(32491), range(64), print).shape            # metric, edge, example   # doctest: +SKIP
torch.Size([1, 32491, 64])
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from interp.circuits import LOGITS, Graph
from interp.engine.budget import Budget
from interp.engine.graph.apart import Tokens
from interp.engine.graph.said import Said
from interp.engine.graph.slots import projections
from interp.engine.graph.writers import EMBED_STREAM, Writers
from interp.engine.runs import Runs
from interp.engine.shard import Shard
from interp.engine.strategies import Progress
from interp.interventions import Source
from interp.sites import Site


class Shares:
    """Edges of one graph in the base run of a sweep.

    Of a reader that sees r = Σ_u a_u, writer u has relu(‖r‖₁ − ‖r − (a_u − ã_u)‖₁), over the sum of these, on average over real
    tokens; of the logits over those that are read. Of nodes at some tokens alone, over those; 0 where there are none.

    Args:
        source: what is seen in the place of a writer.
    """

    def __init__(self, runs: Runs, graph: Graph, source: Source, budget: Budget) -> None:
        self.runs, self.graph, self.budget, self.model = runs, graph.base, budget, runs.model
        self.writers, self.tokens = Writers(runs, graph.written, source), Tokens(runs, graph)

    def open(self) -> dict[str, float]:
        """Keep the base run's streams, and resolve what the source says."""
        attention = {Site("output", path=path) for path in self.model.anatomy.attention.values()}
        self.runs.keep(dict.fromkeys(self.writers.sites() | attention | set(self._streams().values())), self.budget)
        self.writers.place()
        return {metric.name: 0.0 for metric in self.runs.reader.metrics}

    def values(self, cells: range, examples: range, progress: Progress) -> Float[Tensor, "metric edge example"]:
        """Shares of some edges on some examples."""
        wanted, found = torch.arange(examples.start, examples.stop, device=self.model.device), []
        for shard in self.runs.shards(wanted):
            mine = torch.isin(shard.examples, wanted).nonzero().flatten()
            found.append(self._of(shard, mine)[cells.start : cells.stop])
            progress(len(mine) * len(cells))
        return torch.cat(found, dim=-1)[None]

    def _of(self, shard: Shard, at: Int[Tensor, " example"]) -> Float[Tensor, "edge example"]:
        gaps = Said(self.writers, self.graph, shard).gaps[:, at]
        mask, read = shard.tokens.mask[at].bool(), self.runs.reader.positions_of(shard.tokens)[at]
        masks = self.tokens.masks
        last = torch.zeros_like(mask).scatter_(1, read.to(mask.device), True)
        found = []
        for tensor, stream in self._streams().items():
            receivers = self.graph.readers[tensor]
            seen, own = shard.found[stream].tensor[at], gaps[: int(self.graph.before[receivers.start])]
            nearer = torch.stack([(seen.abs().sum(-1) - (seen + gap).abs().sum(-1)).clamp(min=0) for gap in own])
            total = nearer.sum(0)
            share = torch.where(total > 0, nearer / torch.where(total > 0, total, 1), 0)
            where = last if tensor == LOGITS else mask
            spans = [where] if masks is None else [where & own for own in masks[:, shard.examples[at]]]
            means = torch.stack([(share * own).sum(-1) / own.sum(-1).clamp(min=1) for own in spans])
            found.append(rearrange(means, "span u e -> (span u) e").repeat(len(receivers), 1))
        return torch.cat(found)

    def _streams(self) -> dict[Site, Site]:
        """Where the stream is that each reader sees, in the order of the network."""
        found: dict[Site, Site] = {}
        for layer, block in enumerate(self.graph.blocks):
            before = Site("resid_pre", layer=layer) if layer else EMBED_STREAM
            found |= dict.fromkeys(projections(self.graph, layer), before)
            if block.mlp:
                found[Site("mlp_pre", layer=layer)] = before if block.parallel else Site("resid_mid", layer=layer)
        return found | {LOGITS: Site("resid_post", layer=len(self.graph.blocks) - 1)}
