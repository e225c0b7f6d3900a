"""Attention knockout: which tokens a position has to read, in which layers, and what it no longer says without them.

    >>> effects = knockout(model, pairs, "END", ["IO", "S1", "S2"], window=3)                # doctest: +SKIP
    >>> effects.value.dims                                                                 # doctest: +SKIP
    ('metric', 'layer', 'position', 'source_position', 'example')
    >>> views.curve(effects, "effect", x="layer")                             # a line for each of them  # doctest: +SKIP
    >>> said = knockout_readout(model, prompts, -1, ["subject", "earlier"], [" Paris", " Lyon"])          # doctest: +SKIP
    >>> views.curve(said.effect.sel(site="mlp_out", token=" Lyon"), x="layer")             # doctest: +SKIP

1. Cut the edges of attention from a query to the tokens that it attends to: probabilities × 0 behind the softmax, so that rows
   sum to less (Yan and Jia), or scores −∞ before it, so that they sum to 1 again (Geva et al.). These are different
   interventions: for one head the second is the first, divided by the probability that is left.
2. In all layers together, in each, or in windows of w layers: around layer l those of [l − ⌊w/2⌋, l + ⌈w/2⌉).
3. Measure what the model says (:func:`knockout`), or decode what attention and MLP of every layer add with and without the
   edges, each run at the scale of its own last norm, and subtract: ℓ_full − ℓ_knocked-out (:func:`knockout_readout`).

Mor Geva et al., "Dissecting Recall of Factual Associations in Auto-Regressive Language Models" (2023), arXiv 2304.14767; Tianyi
Lorena Yan and Robin Jia, "Promote, Suppress, Iterate: How Language Models Answer One-to-Many Factual Queries" (2025), arXiv
2502.20475.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from operator import index
from types import EllipsisType
from typing import Any, Literal, NamedTuple, SupportsIndex

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp import axes
from interp.engine.asked import BASE, as_pairs, listed
from interp.engine.background import Given, Hold, given_changes, held
from interp.engine.families import asked, check_words
from interp.engine.precision import Precision, float32
from interp.engine.prepared import Options, Patching
from interp.engine.recipe import others, recorded
from interp.engine.single.at_one import at_one
from interp.engine.single.decoded import Decoded, by_site
from interp.engine.single.targets import TOKEN, Targets
from interp.engine.stored import Into, Result, StoreLike
from interp.engine.swept import swept
from interp.errors import HeadOutOfRangeError, PositionError, UnknownNameError
from interp.interventions import Arranged, Intervention, attention_knockout
from interp.methods.registry import Method
from interp.metrics import MetricLike
from interp.models import Model, Places
from interp.models.decoding import Decoder
from interp.models.encoding import Bos
from interp.sites import MAIN, Positions, PositionsLike, Site, grid
from interp.sites.positions import Numbers, grouped

_PAPERS = (
    "Geva et al. 2023, Dissecting Recall of Factual Associations in Auto-Regressive Language Models, arXiv 2304.14767; "
    "Yan & Jia 2025, Promote, Suppress, Iterate: How Language Models Answer One-to-Many Factual Queries, arXiv 2502.20475"
)
METHODS = (
    Method(
        id="attention_knockout",
        name="attention knockout",
        paper=_PAPERS,
        mediator="edges of attention from a query to tokens, by layer, window of layers, and head",
        search="exhaustive",
        cost="one forward pass, and for every cell what of one comes after it",
        function="interp.knockout",
    ),
    Method(
        id="attention_knockout_readout",
        name="attention knockout, decoded from attention and MLP outputs",
        paper=_PAPERS,
        mediator="edges of attention; what is read are the outputs of attention and MLPs, by layer",
        search="exhaustive",
        cost="one forward pass, and one for every knockout",
        function="interp.knockout_readout",
    ),
)

Some = SupportsIndex | Numbers | EllipsisType | None
"""``...`` for each, several for each of those, one, or None for all together."""
Norm = Literal["own", "full"]
NORMS = ("own", "full")
Array = np.ndarray[Any, Any]
SITE = "site"


def knockouts(
    model: Model,
    queries: Any,
    attended: Any,
    *,
    layers: Some = None,
    window: SupportsIndex | None = None,
    heads: Some = None,
    renormalise: bool = False,
    cross: bool = False,
    stream: str = MAIN,
) -> Arranged:
    """The knockouts of a sweep, laid out along layers, heads, queries and what these attend to.

    >>> interp.explain(model, pairs, knockouts(model, "END", ["S1", "S2"], window=9))        # doctest: +SKIP

    Args:
        queries, attended, layers, window, heads, renormalise, cross, stream: as for :func:`knockout`.

    Raises:
        UnknownSiteError: the model has no attention whose rows can be changed; the reason is told.
        HeadOutOfRangeError, PositionError: no such layers or heads, a window of none, heads of no layer, or no tokens.
    """
    site = _site(renormalise, cross, stream)
    model.check(site)
    alone = layers is None and window is None
    if alone and heads is not None:
        raise HeadOutOfRangeError(
            f"heads={heads!r} of all layers together, whose heads have nothing in common; give layers=... or window= as well"
        )
    swept = {"layer": ... if layers is None else layers, "head": heads}
    each: dict[str, Any] = {axis: [one] if isinstance(one, SupportsIndex) else one for axis, one in swept.items()}
    laid, sizes = grid(site, **each, window=1 if window is None else window), model.sizes_at(site)
    values: dict[str, Sequence[Any]] = dict(laid.values(sizes))
    windows = [
        [one.layer for one in laid.sites(site.at(layer=centre), sizes) if model.has(one)] for centre in values[axes.LAYER]
    ]
    if alone:
        values, windows = {}, [[layer for some in windows for layer in some]]
    who, what = _tokens(queries, "queries"), _tokens(attended, "attended")
    cut = partial(_cut, renormalise=renormalise, cross=cross, stream=stream)
    found = [
        cut(query, tokens, some, head) if some else None
        for some, head, query, tokens in product(windows, values.get(axes.HEAD, (None,)), who.values(), what.values())
    ]
    along = values | {axes.POSITION: list(who), axes.SOURCE_POSITION: list(what)}
    widths = {} if window is None else {"window_layers": (axes.LAYER, [len(some) for some in windows])}
    return Arranged(found, along, site=site.name, coords=widths)


def knockout(
    model: Model,
    pairs: Any,
    queries: Any,
    attended: Any,
    metric: MetricLike | Sequence[MetricLike] | None = None,
    *,
    layers: Some = None,
    window: SupportsIndex | None = None,
    heads: Some = None,
    renormalise: bool = False,
    cross: bool = False,
    stream: str = MAIN,
    patching: Patching = "noising",
    given: Given = None,
    hold: Hold = (),
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> Result:
    """Cut every query off from everything that is attended to, in turn, and measure what the model says.

    Args:
        pairs: pairs, of which the clean prompts are run by default, or prompts.
        queries: what no longer attends: a role, an index, a list of such, each by itself, or a mapping of names to them, where
            a list is one group.
        attended: what is no longer attended to, likewise. ``range(n)`` is every token by itself.
        metric: by default ``"logit_diff"`` of pairs, and ``"kl"`` to the model as it is of plain prompts.
        layers: None for all of them together, ``...`` for each by itself, or those of a list.
        window: slide a window of so many layers along ``layers``, by default along all.
        heads: None for all heads together, ``...`` for each by itself, or those of a list.
        renormalise: False multiplies probabilities by 0; True sets scores to −∞. See
            :func:`interp.interventions.attention_knockout`.
        cross: cut cross-attention; ``attended`` are then positions of the stream that it attends to.
        stream: whose layers, where not the main stream's.
        patching: of pairs, ``"noising"`` runs the clean prompts, ``"denoising"`` the corrupted ones.
        given, hold, rows, precision, progress, store, name, tags: as for :func:`interp.patch`.

    Returns:
        Effects by layer (the centre of a window, with the coordinate ``window_layers`` for its true width) and head, where they
        are swept, by ``position``, the query, and ``source_position``, what is attended to.

    Raises:
        UnknownSiteError: the model has no attention whose rows can be changed; the reason is told.
        HeadOutOfRangeError: no such layers or heads, a window of none, or heads of all layers together.
        PositionError, UnknownNameError: no tokens, a role that the prompts do not have, or a row of which −∞ leaves nothing.
        And what :func:`interp.patch` raises.
    """
    said = others(locals())
    check_words(patching, precision=precision)
    into = Into.of(store, name, tags)
    cut: dict[str, Any] = {"renormalise": renormalise, "cross": cross, "stream": stream}
    laid = knockouts(model, queries, attended, layers=layers, window=window, heads=heads, **cut)
    options = Options(
        patching, "auto", given_changes(model, given), held(model, hold), rows, progress=progress, precision=precision
    )
    if metric is None:
        metric = "logit_diff" if as_pairs(pairs, "pairs")[1] else "kl"
    change = {"source": None, "edit": None, "featurizer": None, "keep_error": True}
    prepared, families = asked(model, pairs, laid, metric, change, options)
    site = next(iter(model.each(_site(renormalise, cross, stream))))
    places = model.places(getattr(prepared.encoded, BASE[patching]), site, attended=True)
    read = _words(places, laid.axes[axes.SOURCE_POSITION])
    families = {key: replace(family, coords=family.coords | read) for key, family in families.items()}
    attrs: dict[str, Any] = {"method": "attention knockout", "mode": "mask" if renormalise else "zero"}
    attrs |= {} if window is None else {"window": index(window)}
    recipe = partial(recorded, "knockout", model, prepared.encoded, **said)
    return swept(prepared, families, attrs, tree=False, into=into, beside=recipe)


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
        queries, attended, renormalise, cross, stream: as for :func:`knockout`.
        tokens: whose logits are read, as in :func:`token_lens`: words as they follow the prompts, ids, a mapping of names to
            such; by default the prompts' answers and wrong answers.
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
        The same as :func:`knockout`; and InputError: the model's logits are no sum of contributions (the reason is told).
    """
    if norm not in NORMS:
        raise UnknownNameError("norm", norm, NORMS)
    site = _site(renormalise, cross, stream)
    model.check(site)
    decoder, who, what = Decoder.of(model), _tokens(queries, "queries"), _tokens(attended, "attended")
    where = [one.layer for one in model.each(site)] if layers is None else layers
    cut = partial(_cut, layers=where, heads=heads, renormalise=renormalise, cross=cross, stream=stream)
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


# ------------------------------------------------------------------------------------------------------- steps


def _site(renormalise: bool, cross: bool, stream: str) -> Site:
    return Site(("cross_" if cross else "") + ("scores" if renormalise else "pattern"), stream=stream)


def _tokens(given: Any, argument: str) -> dict[int | str, list[Positions]]:
    """Queries, or what they attend to, by name."""
    found = grouped(given, argument)
    if empty := [name for name, some in found.items() if not some]:
        raise PositionError(f"{argument}[{empty[0]!r}] names no tokens: there is nothing to cut")
    return found


def _words(places: Places, attended: Sequence[int | str]) -> dict[str, Any]:
    """The tokens at raw positions that are attended to, and the role that all prompts have there."""
    raw = [position for position in attended if isinstance(position, int)]
    if len(raw) < len(attended) or not places.strings:
        return {}
    roles = places.roles_at(raw)
    found = {"source_token": ((axes.SOURCE_POSITION, axes.EXAMPLE), [[row[p] for row in places.strings] for p in raw])}
    return found | ({"source_role": (axes.SOURCE_POSITION, roles)} if any(roles) else {})


def _cut(query: Sequence[Positions], tokens: Sequence[Positions], layers: Any, heads: Any, **options: Any) -> Intervention:
    """All edges from one group of tokens to another."""
    parts = [attention_knockout(one, other, layers=layers, heads=heads, **options) for one, other in product(query, tokens)]
    return Intervention(tuple(change for part in parts for change in part.changes))


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
