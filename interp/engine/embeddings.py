"""What token embeddings are like at some tokens, by which noise on them is measured.

>>> embedding_std(model, facts, "subject")                                                           # doctest: +SKIP
0.0446
"""

from __future__ import annotations

from typing import Any

import torch

from interp.engine.asked import encoded_pairs
from interp.engine.single.run import run
from interp.errors import UnknownNameError, UnknownSiteError
from interp.models import Model
from interp.sites import MAIN, Positions, PositionsLike, Site


def embedding_std(model: Model, pairs: Any, subject: PositionsLike = "subject", stream: str = MAIN) -> float:
    """The standard deviation of all entries of the token embeddings at some tokens of all clean prompts.

    It is the σ of causal tracing's noise (Meng et al. 2022, arXiv 2202.05262), which adds thrice as much to the subject.

    Args:
        pairs: whose clean prompts are read.
        subject: which tokens: a role, an index or several.
        stream: whose tokens, where not the main stream's.

    Raises:
        UnknownSiteError: the model embeds no tokens.
        PositionError: no such tokens.
        UnknownNameError: no such role.
    """
    site = Site("embed", stream=stream)
    if not model.has(site):
        raise UnknownSiteError("site", repr(site), [], why=f"{model.name} embeds no tokens, so their deviation is not known")
    encoded = encoded_pairs(model, pairs)
    places = model.places(encoded.clean, site)
    try:
        columns = places.columns(Positions.parse(subject), what="subject")
    except UnknownNameError as unknown:
        if not unknown.known:
            raise
        said = f"subject= says which tokens are noised, such as subject={unknown.known[0]!r}"
        raise UnknownNameError(unknown.kind, unknown.name, unknown.known, listing=said) from None
    found = run(model, encoded, capture=site, logits="none", patching="noising")[site]
    own = torch.where(columns >= 0, columns - places.first[:, None], -1)
    rows, slots = (own >= 0).nonzero(as_tuple=True)
    entries = found[rows.to(found.device), own[rows, slots].to(found.device)]
    return float(entries.to(torch.promote_types(entries.dtype, torch.float32)).std())
