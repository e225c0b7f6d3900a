"""Attention knockout, decoded: what attention and MLPs of every layer no longer say when a position cannot read some tokens.

    >>> said = knockout_readout(model, prompts, -1, ["subject", "earlier"], [" Paris", " Lyon"])          # doctest: +SKIP
    >>> views.curve(said.effect.sel(site="mlp_out", token=" Lyon"), x="layer")             # doctest: +SKIP

1. Cut the edges of attention from a query to the tokens that it attends to, as :func:`interp.knockout` does.
2. Decode what attention and MLP of every layer add with and without the edges, each run at the scale of its own last norm.
3. Subtract: ℓ_full − ℓ_knocked-out.

Tianyi Lorena Yan and Robin Jia, "Promote, Suppress, Iterate: How Language Models Answer One-to-Many Factual Queries" (2025),
arXiv 2502.20475; Mor Geva et al., "Dissecting Recall of Factual Associations in Auto-Regressive Language Models" (2023), arXiv
2304.14767, for the knockout.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any, Literal, NamedTuple, SupportsIndex

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp import axes
from interp.engine.asked import listed
from interp.engine.background import Given
from interp.engine.precision import float32
from interp.engine.single.at_one import at_one
from interp.engine.single.decoded import Decoded, by_site
from interp.engine.single.targets import TOKEN, Targets
from interp.errors import UnknownNameError
from interp.interventions.knockout import cut_between, knockout_site, some_tokens
from interp.methods.registry import Method
from interp.models import Model
from interp.models.decoding import Decoder
from interp.models.encoding import Bos
from interp.sites import MAIN, PositionsLike
from interp.sites.positions import Numbers

METHOD = Method(
    id="attention_knockout_readout",
    name="attention knockout, decoded from attention and MLP outputs",
    paper="Geva et al. 2023, Dissecting Recall of Factual Associations in Auto-Regressive Language Models, arXiv 2304.14767; "
    "Yan & Jia 2025, Promote, Suppress, Iterate: How Language Models Answer One-to-Many Factual Queries, arXiv 2502.20475",
    mediator="edges of attention; what is read are the outputs of attention and MLPs, by layer",
    search="exhaustive",
    cost="one forward pass, and one for every knockout",
    function="interp.knockout_readout",
)

Norm = Literal["own", "full"]
NORMS = ("own", "full")
Array = np.ndarray[Any, Any]
SITE = "site"


def knockout_readout(
    model: Model,
    prompts: Any,
    queries: Any,
    attended: Any,
    tokens: Any = None,
    *,
    layers: SupportsIndex | Numbers | None = None,
    heads: SupportsIndex | Numbers | None = None,
    renormalise: bool = False,
    cross: bool = False,
    stream: str = MAIN,
    norm: Norm = "own",
    centred: bool = False,
    position: PositionsLike = -1,
    given: Given = None,
    bos: Bos | None = None,
) -> xr.Dataset:
    """What attention and MLPs add to some logits at one position, less what they add when edges are cut.

    Args:
        prompts: a text, token ids, a :class:`interp.Prompt`, a list of such, or pairs, whose clean prompts are run.
        queries, attended, renormalise, cross, stream: as for :func:`interp.knockout`.
        tokens: whose logits are read, as in :func:`interp.token_lens`: words as they follow the prompts, ids, a mapping of
            names to such; by default the prompts' answers and wrong answers.
        layers: those in which edges are cut, together; by default all.
        heads: those whose edges are cut, the same in each of these layers; by default all.
        norm: at whose scale of the last norm the run without the edges is decoded: its ``"own"``, or the ``"full"`` run's.
        centred: read logits less their mean over the vocabulary.
        position: where logits are read: an index, or a role that names one token.
        given: interventions in force in both runs.
        bos: how texts begin; by default as the model was loaded.

    Returns:
        ``effect`` by (example, layer, site, position, source_position, token), and ``full`` (example, layer, site, token), what
        the run as it is adds; what is added without the edges is ``full − effect``. ``logit`` and ``logit_effect``, the same of
        the model's own logits before a soft cap. ``scale`` and ``scale_knocked_out``, σ of both. ``position`` names the
        query, ``source_position`` what it attends to.

    Raises:
        InputError: the model's logits are no sum of contributions; the reason is told. And what :func:`interp.knockout` raises.
    """
    if norm not in NORMS:
        raise UnknownNameError("norm", norm, NORMS)
    site = knockout_site(renormalise, cross, stream)
    model.check(site)
    decoder, who, what = Decoder.of(model), some_tokens(queries, "queries"), some_tokens(attended, "attended")
    where = [one.layer for one in model.each(site)] if layers is None else layers
    cut = partial(cut_between, layers=where, heads=heads, renormalise=renormalise, cross=cross, stream=stream)
    before = [] if given is None or (isinstance(given, Sequence) and not given) else listed(given, "given")
    with float32():
        targets = Targets.of(model, prompts, tokens, bos=bos)
    read = partial(_read, model, prompts, decoder, targets, centred, position, bos)
    full = read(before)
    scale = full.decoded.scale if norm == "full" else None
    without = [read([*before, cut(one, other)], scale) for one, other in product(who.values(), what.values())]

    def each(values: Sequence[Array]) -> Array:
        """Of every pair of a query and what it attends to, ``[example, …, query, attended]``."""
        stacked = np.stack(values, -1)
        return stacked.reshape(*stacked.shape[:-1], len(who), len(what))

    pair = (axes.POSITION, axes.SOURCE_POSITION)
    added, said = (axes.EXAMPLE, axes.LAYER, SITE), (axes.EXAMPLE,)
    data = {
        "effect": ((*added, TOKEN, *pair), each([full.added - one.added for one in without])),
        "full": ((*added, TOKEN), full.added),
        "logit": ((*said, TOKEN), full.logit),
        "logit_effect": ((*said, TOKEN, *pair), each([full.logit - one.logit for one in without])),
        "scale": (said, full.scale),
        "scale_knocked_out": ((*said, *pair), each([one.scale for one in without])),
    }
    run = full.decoded.run
    coords = {axes.LAYER: list(range(full.added.shape[1])), SITE: full.sites, axes.POSITION: list(who)}
    coords |= {axes.SOURCE_POSITION: list(what)} | targets.coords() | run.coords()
    attrs = run.attrs() | {
        "method": "attention knockout, decoded",
        "mode": "mask" if renormalise else "zero",
        "norm": norm,
        "centred": centred,
        "layers": "all" if layers is None else repr(layers),
        "heads": "all" if heads is None else repr(heads),
        "read_at": repr(run.where),
        "units": "logits",
        "softcap": decoder.softcap,
    }
    called = {"full": "contribution to the logit", "effect": "contribution lost", "logit_effect": "logit lost"}
    return run.signed(xr.Dataset(data, coords, attrs).transpose(*added, *pair, TOKEN), called)


class _Read(NamedTuple):
    """What a run adds to the logits that are read."""

    decoded: Decoded
    sites: list[str]
    added: Array
    """``[example, layer, site, token]``"""
    logit: Array
    """``[example, token]``: the model's own, before a soft cap."""
    scale: Array
    """``[example]``: its own, whatever it was decoded at."""


def _read(
    model: Model,
    prompts: Any,
    decoder: Decoder,
    targets: Targets,
    centred: bool,
    position: PositionsLike,
    bos: Bos | None,
    given: Given,
    scale: Tensor | None = None,
) -> _Read:
    """One run.

    Args:
        scale: by which it is decoded; by default its own.
    """
    with float32():
        run = at_one(model, prompts, position=position, given=given, bos=bos)
    with torch.no_grad(), float32(), model.prepared(run.changed):
        decoded = Decoded.of(run, decoder, "component")
        towards = decoded.towards(targets.columns, centred=centred, scale=scale)
        sites, added = by_site(towards.parts)
    of_tokens = [targets.numbers(run.numbers(one)) for one in (added, towards.logit)]
    return _Read(decoded, sites, of_tokens[0], of_tokens[1], run.numbers(decoded.scale))
