"""Where attention alone joins tokens, so that a mask hides them from each other.

>>> require_hiding(model)                                                                   # doctest: +SKIP
"""

from __future__ import annotations

from interp import axes
from interp.errors import InputError, UnknownSiteError
from interp.models import Model
from interp.sites import Site


def require_hiding(model: Model) -> None:
    """Raise unless every block of a causal decoder has attention scores, and nothing but them joins tokens."""
    if not model.causal:
        raise InputError(
            f"{model.name} does not read from left to right: a token's state depends on those behind it too, so that no last "
            "token gathers what the others say; take a causal decoder"
        )
    layers = model.sizes[axes.LAYER]
    lacking = [layer for layer in range(layers) if not model.has(Site("scores", layer=layer))]
    if lacking:
        raise UnknownSiteError(
            "site",
            f"L{lacking[0]}.scores",
            [],
            why=f"{len(lacking)} of {layers} blocks of {model.name} have no attention scores, so that tokens cannot be hidden "
            "from each other there",
        )
    if model.has(Site("cross_scores", layer=0)):
        raise InputError(
            f"{model.name} has cross-attention, through which every token of the decoder sees the encoder's prompt in every "
            "block: hiding tokens of the decoder from each other restricts nothing; take a decoder alone"
        )
