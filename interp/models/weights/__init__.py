"""Readings of weights that need no prompt: what heads write and attend to, as products of low rank that are never formed.

    >>> interp.weights.ov(model, "L3H2").singular_values()[:3]                                  # doctest: +SKIP
    >>> interp.weights.full_ov(model, "L3H2").table(3, [" John", " Mary"]).token                # doctest: +SKIP
    >>> interp.weights.composition(model, "k").sel(sender="L0H3")                              # doctest: +SKIP

After Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021.
"""

from __future__ import annotations

from interp.models.weights.composition import composition
from interp.models.weights.factored import SVD, Factored, Top
from interp.models.weights.heads import QKBias, ov, ov_bias, qk, qk_bias
from interp.models.weights.projections import OutputMap, Projection, output_map, projection
from interp.models.weights.vocabulary import (
    TokenCircuit,
    copying_score,
    embedding_matrix,
    full_ov,
    full_qk,
    positive_share,
    token_direction,
    unembedding_matrix,
)

__all__ = [
    "SVD",
    "Factored",
    "OutputMap",
    "Projection",
    "QKBias",
    "TokenCircuit",
    "Top",
    "composition",
    "copying_score",
    "embedding_matrix",
    "full_ov",
    "full_qk",
    "output_map",
    "ov",
    "ov_bias",
    "positive_share",
    "projection",
    "qk",
    "qk_bias",
    "token_direction",
    "unembedding_matrix",
]
