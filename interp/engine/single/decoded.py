"""What the parts of a run add to logits at one position, at the scale that the run's own last norm has there.

>>> run = Decoded.of(at_one(model, prompts), by="component")                             # doctest: +SKIP
>>> towards = run.towards(ids)                                                           # doctest: +SKIP
>>> sites, logits = by_site(towards.parts)                                               # doctest: +SKIP
>>> sites, logits.shape                             # example, layer, site, word         # doctest: +SKIP
(['attn_out', 'mlp_out'], torch.Size([16, 30, 2, 3]))
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from operator import index
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
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


class Towards(NamedTuple):
    """What makes some logits: Σ parts + constant = logit."""

    parts: Additive
    constant: Float[Tensor, "example ..."]
    """What is added once: the last norm's bias through the unembedding, and the unembedding's own."""
    logit: Float[Tensor, "example ..."]
    """The model's own, before a soft cap."""


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
        run.want(cls.sites(model, by, layers))
        final = run.read(Site("resid_post", layer=model.sizes[axes.LAYER] - 1))
        scale = run.read(FINAL).double() if model.has(FINAL) else decoder.scale(final).double()
        return cls(run, decoder, final, scale)

    @staticmethod
    def sites(model: Model, by: str, layers: Collection[int] = ()) -> list[Site]:
        """What is read of a run."""
        return [*Additive.sites(model, by, layers), *([FINAL] if model.has(FINAL) else [])]

    def parts(
        self, directions: Float[Tensor, "example *word d_model"], scale: Float[Tensor, " example"] | None = None
    ) -> Additive:
        """The parts of the stream along directions of a :class:`Decoder`, at the run's own scale unless told otherwise."""
        held = (self.scale if scale is None else scale).reshape(-1, *(1 for _ in directions.shape[1:]))
        return Additive(self.run.model, self.run.read, directions / held)

    def towards(
        self, ids: Int[Tensor, "example ..."], *, centred: bool = False, scale: Float[Tensor, " example"] | None = None
    ) -> Towards:
        """The parts of the stream along the logits of some tokens.

        Args:
            centred: less their mean over the vocabulary, which a softmax does not see.
            scale: σ at which parts are decoded, where it is not the run's own; they do not sum to its logits then.
        """
        ids = ids.to(self.final.device)
        directions, constant = self.decoder.directions(ids, None) if centred else self.decoder.towards(ids)
        logits = self.logits
        logit = logits.gather(-1, ids.to(logits.device)) - (logits.mean(-1, keepdim=True) if centred else 0.0)
        return Towards(self.parts(directions, scale), constant, logit)

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


def some_layers(model: Model, layers: Any) -> list[int]:
    """Layers that are divided, ascending: one, several, or None for all of them.

    Raises:
        HeadOutOfRangeError: one that there is not, or none at all.
    """
    n = model.sizes[axes.LAYER]
    try:
        chosen = list(range(n)) if layers is None else [layers] if isinstance(layers, int) else sorted(map(index, set(layers)))
    except TypeError:
        raise HeadOutOfRangeError(f"layers={layers!r}; expected None for all layers, a number, or several") from None
    outside = [layer for layer in chosen if not 0 <= layer < n]
    if outside or not chosen:
        said = f"layer {outside[0]} does not exist" if outside else "layers is empty"
        raise HeadOutOfRangeError(f"layers={layers!r}: {said}; {model.name} has {n} layers, 0 to {n - 1}")
    return chosen
