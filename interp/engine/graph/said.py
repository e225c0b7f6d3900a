"""What the source says of every writer of a graph, and what readers see that leave out everything.

>>> said = Said(writers, graph, shard)                                                    # doctest: +SKIP
>>> said.gaps.shape                                     # sender, example, position, d_model   # doctest: +SKIP
torch.Size([157, 64, 17, 768])
"""

from __future__ import annotations

from functools import cached_property

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from interp.circuits import EMBED, LOGITS, POS_EMBED, Graph
from interp.engine.graph.apart import Apart
from interp.engine.graph.slots import projections
from interp.engine.graph.writers import EMBED_STREAM, Writers
from interp.engine.shard import Shard
from interp.sites import Site


class Said:
    """What the source says of every writer, on the examples of a shard."""

    def __init__(self, writers: Writers, graph: Graph, shard: Shard) -> None:
        self.writers, self.graph, self.shard, self.apart = writers, graph, shard, Apart(writers, graph)
        self._tensors: dict[Site, Tensor] = {}

    def tensor(self, site: Site) -> Tensor:
        """The source's tensor at a site at which writers are seen, ``[example, position, …]``."""
        if site == EMBED_STREAM and self.writers.split:
            return self.tensor(EMBED) + self.tensor(POS_EMBED)
        if site not in self._tensors:
            sender = next(sender for sender, change in self.writers.changes.items() if change.site == site)
            self._tensors[site] = self.shard.found[site].tensor + self.writers.difference(sender, self.shard)
        return self._tensors[site]

    @cached_property
    def gaps(self) -> Float[Tensor, "sender example position d_model"]:
        """Source less base, of every writer, as the stream has it."""
        embedded = {EMBED: EMBED, POS_EMBED: POS_EMBED} if self.writers.split else {EMBED: EMBED_STREAM}
        found = [self.apart.of_root(root, self.tensor(site), self._here(site)) for root, site in embedded.items()]
        for layer, block in enumerate(self.graph.blocks):
            z = Site("z", layer=layer)
            if block.heads:
                raw = self._here(Site("output", path=self.writers.model.anatomy.attention[layer]))
                parts = self.apart.of_heads(layer, self.tensor(z), self._here(z), raw)
                found.append(rearrange(parts, "e p h m -> h e p m"))
            if block.mlp:
                found.append(self.apart.of_mlp(layer, self.tensor, self._here))
        return torch.cat(found)

    def _here(self, site: Site) -> Tensor:
        """The base run's tensor."""
        return self.shard.found[site].tensor

    @cached_property
    def streams(self) -> dict[Site, Float[Tensor, "example position d_model"]]:
        """What readers see that leave out everything."""
        stream = self.tensor(EMBED_STREAM)
        found: dict[Site, Tensor] = {}
        for layer, block in enumerate(self.graph.blocks):
            found |= dict.fromkeys(projections(self.graph, layer), stream)
            after = stream + self.writers.attended(layer, self.tensor(Site("z", layer=layer))) if block.heads else stream
            if block.mlp:
                reader = Site("mlp_pre", layer=layer)
                found[reader] = stream if block.parallel else after
                after = after + self.tensor(Site("mlp_out", layer=layer))
            stream = after
        return found | {LOGITS: stream}
