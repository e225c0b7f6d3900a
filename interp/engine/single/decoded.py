"""What the parts of a run add to logits at one position, at the scale that the run's own last norm has there.

>>> run = Decoded.of(at_one(model, prompts), by="component")                             # doctest: +SKIP
>>> directions, bias = run.decoder.towards(ids)                                          # doctest: +SKIP
>>> sites, logits = by_site(run.parts(directions))                                       # doctest: +SKIP
>>> sites, logits.shape                             # example, layer, site, word         # doctest: +SKIP
(['attn_out', 'mlp_out'], torch.Size([16, 30, 2, 3]))
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp import axes
from interp.engine.additive import KINDS, Additive
from interp.engine.single.at_one import AtOne
from interp.errors import HeadOutOfRangeError
from interp.models import Model
from interp.models.decoding import FINAL, Decoder
from interp.sites import Site

REST = "rest"
"""What a block does to the stream beside what its parts are known to add."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """One run at one position, with the scale of its last norm; made and used inside of a session of the model."""

    run: AtOne
    decoder: Decoder
    final: Float[Tensor, "example d_model"]
    """What leaves the last block."""
    scale: Float[Tensor, " example"]
    """σ of the last norm."""

    @classmethod
    def of(cls, run: AtOne, decoder: Decoder, by: str, layers: Collection[int] = ()) -> Decoded:
        """Run the prompts.

        Args:
            by: how far layers are divided, as :meth:`Additive.sites` has it.
            layers: those that are divided further than into attention and MLP.
        """
        model = run.model
        run.want([*Additive.sites(model, by, layers), *([FINAL] if model.has(FINAL) else [])])
        final = run.read(Site("resid_post", layer=model.sizes[axes.LAYER] - 1))
        scale = run.read(FINAL).double() if model.has(FINAL) else decoder.scale(final).double()
        return cls(run, decoder, final, scale)

    def parts(self, directions: Float[Tensor, "example *word d_model"]) -> Additive:
        """The parts of the stream along directions of a :class:`Decoder`.

        >>> run.parts(run.decoder.towards(ids)[0])                                           # doctest: +SKIP
        """
        scale = self.scale.reshape(-1, *(1 for _ in directions.shape[1:]))
        return Additive(self.run.model, self.run.read, directions / scale)

    @property
    def logits(self) -> Float[Tensor, "example vocab"]:
        """The model's logits, before a soft cap, which is left out by running its unembedding alone."""
        decoder = self.decoder
        if decoder.softcap is None:
            return self.run.logits.double()
        if decoder.norm is None or decoder.module is None:
            return decoder.logits(self.final)
        return decoder.logits(decoder.norm.apply(decoder.module, self.final, self.scale))


def by_site(parts: Additive) -> tuple[list[str], Float[Tensor, "example layer site *word"]]:
    """What every block's parts add, by the site where it stands, NaN where a layer has none; ``rest`` where there is some."""
    names = {kind: site for site, kind in KINDS.items()} | {REST: REST}
    found = [{names[term.kind]: value for term, value in parts.components(layer)} for layer in parts.layers]
    sites = [site for site in names.values() if any(site in layer for layer in found)]
    none = torch.full_like(next(iter(found[0].values())), torch.nan)
    return sites, torch.stack([torch.stack([layer.get(site, none) for site in sites], 1) for layer in found], 1)


def some_layers(model: Model, layers: int | Iterable[int] | None) -> list[int]:
    """Layers that are divided, ascending; None for all of them.

    Raises:
        HeadOutOfRangeError: one that there is not, or none at all.
    """
    n = model.sizes[axes.LAYER]
    chosen = list(range(n)) if layers is None else [layers] if isinstance(layers, int) else sorted(set(layers))
    outside = [layer for layer in chosen if not 0 <= layer < n]
    if outside or not chosen:
        said = f"layer {outside[0]} does not exist" if outside else "layers is empty"
        raise HeadOutOfRangeError(f"layers={layers!r}: {said}; {model.name} has {n} layers, 0 to {n - 1}")
    return chosen
