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
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from interp.circuits import EMBED, POS_EMBED
from interp.engine.cells import Place, place
from interp.engine.edits import changed
from interp.engine.runs import Runs
from interp.engine.shard import Shard
from interp.engine.sources import Sources
from interp.errors import EdgesError
from interp.interventions import Change, Intervention, Source
from interp.models.decoding import form_of
from interp.models.deviation import rounding
from interp.models.maps import matrix
from interp.models.norms import bias_of
from interp.sites import Site

EMBED_STREAM = Site("resid_pre", layer=0)
"""Where the embedding is seen as the stream has it, with positions and whatever scales it."""


class Writers:
    """Senders of edges, in the base run and by the source.

    Args:
        senders: with ``pos_embed`` among them, ``embed`` is the embedding of tokens alone.
        given: what is given on the base.
    """

    def __init__(self, runs: Runs, senders: Sequence[Site], source: Source, given: Intervention | None = None) -> None:
        self.runs, self.model, self.senders, self.given = runs, runs.model, tuple(senders), given
        self.split, self._checked = POS_EMBED in self.senders, False
        embedded = EMBED if self.split else EMBED_STREAM
        self.changes = {site: Change(embedded if site == EMBED else site.tensor, source=source) for site in senders}
        self.sources = Sources(runs)

    def sites(self) -> set[Site]:
        """What of the base run differences are counted from."""
        return {change.site for change in self.changes.values()} | ({EMBED, EMBED_STREAM} if self.split else set())

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
        if self.split and not self._checked:
            self._check(shard)
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

    def _check(self, shard: Shard) -> None:
        """Raise unless what enters the first block is the embedding of tokens and that of positions.

        Raises:
            EdgesError: something else is done to them.
        """
        real = shard.tokens.mask.bool()
        tokens, positions, stream = (shard.found[site].tensor[real] for site in (EMBED, POS_EMBED, EMBED_STREAM))
        missed, size = float((tokens + positions - stream).abs().max()), 1 + float(stream.abs().max())
        if not missed <= 10 * rounding(self.model.dtype) * size:
            raise EdgesError(
                f"the embedding of {self.model.name} cannot be split: what enters its first block is not the sum of {EMBED!r} "
                f"and {POS_EMBED!r}, off by {missed:.1e} (of {size:.1e}); take interp.graph(model) as it is"
            )
        self._checked = True

    def w_o(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """W_O of a layer, head by head."""
        head, anatomy = self.model.sizes["head"], self.model.anatomy
        linear = self.model.module.get_submodule(anatomy.w_o[layer])
        weight = matrix(linear, head * self.model.sizes["d_head"], self.model)
        return rearrange(weight, "(head d_head) d_model -> head d_head d_model", head=head)

    def parted(
        self,
        layer: int,
        said: Float[Tensor, "*row position head d_head"],
        here: Float[Tensor, "*row position head d_head"],
        given: Float[Tensor, "*row position d_model"],
        of: Sequence[int] | None = None,
    ) -> Float[Tensor, "*row position head d_model"]:
        """How much more each head adds to the stream with one z than with another, in a sum over heads.

        Where a norm follows attention, a head's part is its own share of what the norm makes of all heads together.

        Args:
            given: what the attention module gives with the second.
            of: where some of a head's z stands apart from the rest, the head of each.
        """
        w_o, path = self.w_o(layer), self.normed_behind(layer)
        w_o = w_o if of is None else w_o[list(of)]
        if path is None:
            return einsum(said - here, w_o, "... h d, h d m -> ... h m")
        form, norm = form_of(self.model, Site("ln1_post_scale", layer=layer))
        theirs = given + einsum(said - here, w_o, "... h d, h d m -> ... m")
        first, second = (
            form.centre(einsum(z, w_o, "... h d, h d m -> ... h m")) / form.scale(whole)[..., None, None]
            for z, whole in ((said, theirs), (here, given))
        )
        return ((first - second) * form.gain(norm)).to(given.dtype)

    def raw(self, layer: int, z: Float[Tensor, "*row position head d_head"]) -> Float[Tensor, "*row position d_model"]:
        """What the output map of attention gives."""
        bias = bias_of(self.model.module.get_submodule(self.model.anatomy.w_o[layer]))
        return einsum(z, self.w_o(layer), "... h d, h d m -> ... m") + bias

    def behind(self, layer: int, raw: Float[Tensor, "*row position d_model"]) -> Float[Tensor, "*row position d_model"]:
        """What attention adds to the stream of what its output map gives."""
        path = self.normed_behind(layer)
        return raw if path is None else self.model.module.get_submodule(path)(raw)

    def attended(self, layer: int, z: Float[Tensor, "*row position head d_head"]) -> Float[Tensor, "*row position d_model"]:
        """What attention adds to the stream of what its heads give."""
        return self.behind(layer, self.raw(layer, z))

    def nothing(self, layer: int, stream: Float[Tensor, "row position d_model"]) -> Float[Tensor, "row position d_model"]:
        """What an attention module gives that adds nothing: the stream where it adds to that itself."""
        return stream if self.adds_itself(layer) else torch.zeros_like(stream)

    def normed_behind(self, layer: int) -> str | None:
        """The path of the norm through which attention reaches the stream; None where it reaches it as it is."""
        tap, path = self.model.anatomy.taps.get(Site("attn_out", layer=layer)), self.model.anatomy.attention[layer]
        return None if tap is None or f"{tap.path}.".startswith(f"{path}.") else tap.path

    def adds_itself(self, layer: int) -> bool:
        """Whether a layer's attention module adds to the stream itself, and gives the sum."""
        tap, path = self.model.anatomy.taps.get(Site("attn_out", layer=layer)), self.model.anatomy.attention[layer]
        return tap is not None and tap.path.startswith(f"{path}.")
