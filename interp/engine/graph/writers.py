"""What writers to the residual stream say in the base run, and what the source says in their place.

>>> writers = Writers(runs, graph.senders, Activation())                               # doctest: +SKIP
>>> writers.place()                                                                    # doctest: +SKIP
>>> writers.difference(Site("z", layer=3, head=1), shard).shape    # example, position, head, d_head   # doctest: +SKIP
torch.Size([64, 17, 12, 64])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from interp.engine.cells import Place, place
from interp.engine.edits import changed
from interp.engine.graph.edges import EMBED
from interp.engine.runs import Runs
from interp.engine.shard import Shard
from interp.engine.sources import Sources
from interp.interventions import Change, Intervention, Source
from interp.models.maps import matrix
from interp.sites import Site

EMBED_STREAM = Site("resid_pre", layer=0)
"""Where the embedding is seen as the stream has it, with positions and whatever scales it."""


class Writers:
    """Senders of edges, in the base run and by the source.

    Args:
        given: what is given on the base.
    """

    def __init__(self, runs: Runs, senders: Sequence[Site], source: Source, given: Intervention | None = None) -> None:
        self.runs, self.model, self.senders, self.given = runs, runs.model, tuple(senders), given
        self.changes = {site: Change(EMBED_STREAM if site == EMBED else site.tensor, source=source) for site in senders}
        self.sources = Sources(runs)

    def sites(self) -> set[Site]:
        """What of the base run differences are counted from."""
        return {change.site for change in self.changes.values()}

    def place(self) -> None:
        """Resolve what the source says; asked for once it is said what is kept of the base run.

        Raises:
            ShapeMismatchError, UnequalLengthsError: the source does not fit.
        """
        placed = place([Intervention((change,)) for change in dict.fromkeys(self.changes.values())], self.runs, self.given)
        self.places = {cell.places[-1].change: cell.places[-1] for cell in placed}
        for change in self.places:
            self.sources.want(change)
        self.first = torch.stack([cell.first for cell in placed]).amin(0)
        """``[example]``, the first column at which a source can say something else."""

    def difference(self, sender: Site, shard: Shard) -> Tensor:
        """Source less base at a sender's tensor, at every real token; 0 at padding. Of a head, that of all heads beside it."""
        found: Place = self.places[self.changes[sender]]
        values = self.sources.values(found.change, found.columns)
        assert values is not None
        own = found.columns[shard.examples]
        example, slot = (own >= 0).nonzero(as_tuple=True)
        base = shard.found[found.tensor].tensor
        difference = torch.zeros_like(base)
        column = own[example, slot]
        here = base[example, column]
        new = changed(replace(found, values=values), here, values.at(shard.examples[example], slot))
        difference[example, column] = (new - here).to(base)
        return difference

    def w_o(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """W_O of a layer, head by head."""
        head, anatomy = self.model.sizes["head"], self.model.anatomy
        linear = self.model.module.get_submodule(anatomy.w_o[layer])
        weight = matrix(linear, head * self.model.sizes["d_head"], self.model)
        return rearrange(weight, "(head d_head) d_model -> head d_head d_model", head=head)

    def normed_behind(self, layer: int) -> str | None:
        """The path of the norm through which attention reaches the stream; None where it reaches it as it is."""
        tap, path = self.model.anatomy.taps.get(Site("attn_out", layer=layer)), self.model.anatomy.attention[layer]
        return None if tap is None or f"{tap.path}.".startswith(f"{path}.") else tap.path

    def adds_itself(self, layer: int) -> bool:
        """Whether a layer's attention module adds to the stream itself, and gives the sum."""
        tap, path = self.model.anatomy.taps.get(Site("attn_out", layer=layer)), self.model.anatomy.attention[layer]
        return tap is not None and tap.path.startswith(f"{path}.")
