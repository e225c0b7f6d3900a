"""What leaving out edges would change to first order: gaps times the gradient at every reader, of one run or along a path.

>>> slopes = EdgeSlopes(runs, graph, numbers, Activation(), budget, at_base)                # doctest: +SKIP
>>> slopes.open()                                                                       # doctest: +SKIP
>>> slopes.values(range(32491), range(64), print).shape            # metric, edge, example   # doctest: +SKIP
torch.Size([1, 32491, 64])

An edge's estimate is ⟨ã_u − a_u, ∂m/∂r_v⟩, with r_v what the reader sees in front of its norm. One backward pass gives the
gradient at all queries, keys and values, and at the stream in front of and behind each MLP; what a head sees of the stream is
reached from its queries through the head's own rows of the projection and the norm. What an MLP sees is what the stream in
front of it is worth beyond the stream behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from interp.circuits import LOGITS, Graph
from interp.engine.batches import in_batches
from interp.engine.budget import Budget
from interp.engine.estimates.slopes import Slopes, differentiable, slopes
from interp.engine.graph.along import Path, Point
from interp.engine.graph.apart import Tokens
from interp.engine.graph.ends import Ends
from interp.engine.graph.said import Said
from interp.engine.graph.slots import projections, slots
from interp.engine.graph.writers import Writers
from interp.engine.runs import Runs
from interp.engine.shard import Shard
from interp.engine.strategies import Progress
from interp.interventions import Source
from interp.models.taps import Write
from interp.sites import Site


class EdgeSlopes:
    """Edges of one graph, estimated on the base run of a sweep.

    Args:
        numbers: of the edges that are wanted.
        source: what is seen in the place of an edge that is left out.
        path: the runs at which gradients are taken.

    Raises:
        EdgesError: what heads read of the stream is not known.
    """

    def __init__(
        self, runs: Runs, graph: Graph, numbers: Int[Tensor, " edge"], source: Source, budget: Budget, path: Path
    ) -> None:
        self.runs, self.graph, self.budget, self.model = runs, graph.base, budget, runs.model
        self.writers, self.tokens = Writers(runs, graph.written, source), Tokens(runs, graph)
        self.slots = slots(self.model, self.graph)
        self.points, self.checked = list(path(self.graph)), set[Site]()
        ends = Ends(graph, self.model.device)
        self.span, self.receiver, self.sender = ends.span[numbers], ends.receiver[numbers], ends.sender[numbers]

    def open(self) -> dict[str, float]:
        """Keep what gaps are counted from, and resolve what the source says."""
        attention = {Site("output", path=path) for path in self.model.anatomy.attention.values()}
        self.runs.keep(dict.fromkeys(self.writers.sites() | attention), self.budget)
        self.writers.place()
        return {metric.name: 0.0 for metric in self.runs.reader.metrics}

    def values(self, cells: range, examples: range, progress: Progress) -> Float[Tensor, "metric edge example"]:
        """What metrics would be without some edges, on some examples."""
        wanted = torch.arange(examples.start, examples.stop, device=self.model.device)
        found = []
        for shard in self.runs.shards(wanted):
            said, mine = Said(self.writers, self.graph, shard), wanted[torch.isin(wanted, shard.examples)]

            def run(chunk: slice, said: Said = said, mine: Tensor = mine) -> Tensor:
                return self._estimated(said, mine[chunk], slice(cells.start, cells.stop))

            found += in_batches(len(mine), self.budget.backward_rows(), run, lambda done: progress(done * len(cells)))
        return torch.cat(found, dim=-1)

    def _estimated(self, said: Said, examples: Int[Tensor, " example"], cells: slice) -> Float[Tensor, "metric edge example"]:
        at = said.shard.index(examples)
        gradients: dict[Site, Tensor] = {}
        for point in self.points:
            for site, gradient in self._gradients(said, at, point).items():
                gradients[site] = gradients.get(site, 0.0) + point.weight * gradient
        gaps, masks = said.gaps[:, at], self.tokens.masks
        spans = iter([gaps]) if masks is None else (gaps * mask[examples][..., None] for mask in masks)
        dense = torch.stack([self._dense(own, gradients) for own in spans], dim=2)
        base = self.runs.reader.measure(self.runs.logits("base")[examples], examples, self.runs.reference)
        estimated = dense[:, :, self.span[cells], self.receiver[cells], self.sender[cells]]
        return base[:, None] + rearrange(estimated, "metric e edge -> metric edge e").to(base)

    def _dense(
        self, gaps: Float[Tensor, "u e p d"], gradients: dict[Site, Tensor]
    ) -> Float[Tensor, "metric e receiver sender"]:
        """Every gap times the gradient at every reader."""
        moved = []
        for tensor, receivers in self.graph.readers.items():
            before = int(self.graph.before[receivers.start])
            own = einsum(gaps[:before], gradients[tensor], "u e p d, metric e p r d -> metric e r u")
            moved.append(torch.nn.functional.pad(own, (0, len(gaps) - before)))
        return torch.cat(moved, dim=2)

    def _gradients(self, said: Said, at: Tensor, point: Point) -> dict[Site, Float[Tensor, "metric e p receiver d"]]:
        """The gradient at what every receiver sees, by tensor."""
        found = self._slopes(said.shard, at, self._writes(said, at, point))
        gradients: dict[Site, Tensor] = {}

        def of(name: str, layer: int) -> Tensor:
            return torch.stack([each[Site(name, layer=layer)] for each in found.gradient])

        for layer, block in enumerate(self.graph.blocks):
            stream = found.activation[Site("resid_pre", layer=layer)]
            for site in projections(self.graph, layer):
                self._check(said.shard, at, site, stream, found.activation[site])
                behind = torch.stack([each[site] for each in found.gradient])
                gradients[site] = torch.stack([self.slots[site].back(stream, gradient) for gradient in behind])
            if block.mlp:
                reader, after = Site("mlp_pre", layer=layer), of("resid_post", layer)
                if block.parallel:
                    own = sum((gradients[site].sum(-2) for site in projections(self.graph, layer)), torch.zeros_like(after))
                    gradients[reader] = (of("resid_pre", layer) - after - own).unsqueeze(-2)
                else:
                    gradients[reader] = (of("resid_mid", layer) - after).unsqueeze(-2)
        return gradients | {LOGITS: of("resid_post", len(self.graph.blocks) - 1).unsqueeze(-2)}

    def _slopes(self, shard: Shard, at: Tensor, writes: dict[Site, Write]) -> Slopes:
        sites, examples = self._sites(), shard.examples[at]
        reader, tokens = self.runs.reader, self.runs.base.take(examples)
        with differentiable(self.model, sites):
            return slopes(self.model, reader, tokens, examples, sites, self.runs.reference, writes)

    def _check(self, shard: Shard, at: Tensor, site: Site, stream: Tensor, made: Tensor) -> None:
        """Hold what heads read of the stream to the first run."""
        if site not in self.checked:
            self.slots[site].check(stream, made, shard.tokens.mask[at].bool())
            self.checked.add(site)

    def _sites(self) -> Sequence[Site]:
        found: list[Site] = []
        for layer, block in enumerate(self.graph.blocks):
            found += [Site("resid_pre", layer=layer), *projections(self.graph, layer), Site("resid_post", layer=layer)]
            found += [Site("resid_mid", layer=layer)] if block.mlp and not block.parallel else []
        return found

    def _writes(self, said: Said, at: Tensor, point: Point) -> dict[Site, Write]:
        if point.site is None:
            return {}
        step = point.way * (said.tensor(point.site) - said.shard.found[point.site].tensor)[at]
        return {point.site: lambda h: h + step.to(h)}
