"""How likely a network finds each of the answers that a pair names, under any intervention.

>>> found = option_logprobs(model, pairs, interp.grid("resid_post", layer=..., position=[-1]))           # doctest: +SKIP
>>> found["value"].dims, found["corrupt"].dims                                                          # doctest: +SKIP
(('option', 'layer', 'position', 'example'), ('option', 'example'))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr

from interp import axes
from interp.engine.asked import encoded_pairs
from interp.engine.sweep import patch
from interp.errors import InputError
from interp.interventions import Activation, Change
from interp.metrics import MetricLike
from interp.metrics.options import options
from interp.models import Encoded, Model
from interp.sites import Site

OPTION = "option"


def option_logprobs(model: Model, pairs: Any, where: Any, **words: Any) -> xr.Dataset:
    """Log-probabilities, in nats, of every answer of every pair: the right ones first, then the wrong ones in their order.

    Args:
        model, pairs, where, words: as for :func:`interp.patch`.

    Returns:
        Effects whose metrics are the axis ``option``; −inf where a pair has fewer answers than another.

    Raises:
        InputError: several families, or two answers of a pair that begin with the same token.
    """
    encoded = encoded_pairs(model, pairs)
    require_told_apart(encoded)
    many = max(len(pair.answers) + len(pair.wrong) for pair in encoded.pairs)
    found = patch(model, encoded, where, options(many), **words)
    if not isinstance(found, xr.Dataset):
        raise InputError("where holds several families; ask for one at a time")
    return found.drop_vars([name for name in found.coords if found[name].dims == (axes.METRIC,)]).rename({axes.METRIC: OPTION})


def require_told_apart(encoded: Encoded) -> None:
    """Raise ``InputError`` where two answers of a pair begin with the same token."""
    every = torch.cat([encoded.answers, encoded.wrong], dim=-1)
    alike = (
        (every[:, :, None] == every[:, None])
        & (every >= 0)[:, None]
        & ~torch.eye(every.shape[1], dtype=torch.bool).to(every.device)
    )
    if bool(alike.any()):
        row = int(alike.nonzero()[0, 0])
        pair = encoded.pairs[row]
        raise InputError(
            f"answers of pair {row} begin with the same token, so that they cannot be told apart: "
            f"{[*pair.answers, *pair.wrong]}; choose words of one token for this tokenizer (interp.tasks.lexicon.single_token)"
        )


def as_it_is(model: Model, pairs: Any, metrics: Sequence[MetricLike], **words: Any) -> xr.DataArray:
    """What metrics say of the base prompts without any intervention, ``[metric, example]``."""
    first = Site.parse("L0.resid_pre")
    here = Change(first if model.has(first) else next(iter(model.sites())), -1, Activation("base"))
    found = patch(model, encoded_pairs(model, pairs), here, list(metrics), **words)
    assert isinstance(found, xr.Dataset)
    return found["corrupt"]
