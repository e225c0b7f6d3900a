"""Attention knockout: which tokens a position has to read, in which layers, and what it no longer says without them.

    >>> effects = knockout(model, pairs, "END", ["IO", "S1", "S2"], window=3)                # doctest: +SKIP
    >>> effects.value.dims                                                                 # doctest: +SKIP
    ('metric', 'layer', 'position', 'source_position', 'example')
    >>> views.curve(effects, "effect", x="layer")                             # a line for each of them  # doctest: +SKIP

1. Cut the edges of attention from a query to the tokens that it attends to: probabilities × 0 behind the softmax, so that rows
   sum to less (Yan and Jia), or scores −∞ before it, so that they sum to 1 again (Geva et al.). These are different
   interventions: for one head the second is the first, divided by the probability that is left.
2. In all layers together, in each, or in windows of w layers: around layer l those of [l − ⌊w/2⌋, l + ⌈w/2⌉).
3. Measure what the model says. What attention and MLP of every layer then add is decoded by :func:`interp.knockout_readout`.

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
from typing import Any, SupportsIndex

from interp import axes
from interp.engine.asked import BASE, as_pairs
from interp.engine.background import Given, Hold, given_changes, held
from interp.engine.families import asked, check_words
from interp.engine.precision import Precision
from interp.engine.prepared import Options, Patching
from interp.engine.recipe import others, recorded
from interp.engine.stored import Into, Result, StoreLike
from interp.engine.swept import swept
from interp.errors import HeadOutOfRangeError
from interp.interventions import Arranged
from interp.interventions.knockout import cut_between, knockout_site, some_tokens
from interp.methods.registry import Method
from interp.metrics import MetricLike
from interp.models import Model, Places
from interp.sites import MAIN, grid
from interp.sites.positions import Numbers

METHOD = Method(
    id="attention_knockout",
    name="attention knockout",
    paper="Geva et al. 2023, Dissecting Recall of Factual Associations in Auto-Regressive Language Models, arXiv 2304.14767; "
    "Yan & Jia 2025, Promote, Suppress, Iterate: How Language Models Answer One-to-Many Factual Queries, arXiv 2502.20475",
    mediator="edges of attention from a query to tokens, by layer, window of layers, and head",
    search="exhaustive",
    cost="one forward pass, and for every cell what of one comes after it",
    function="interp.knockout",
)

Some = SupportsIndex | Numbers | EllipsisType | None
"""``...`` for each, several for each of those, one, or None for all together."""


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
    site = knockout_site(renormalise, cross, stream)
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
    who, what = some_tokens(queries, "queries"), some_tokens(attended, "attended")
    cut = partial(cut_between, renormalise=renormalise, cross=cross, stream=stream)
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
    site = next(iter(model.each(knockout_site(renormalise, cross, stream))))
    places = model.places(getattr(prepared.encoded, BASE[patching]), site, attended=True)
    read = _words(places, laid.axes[axes.SOURCE_POSITION])
    families = {key: replace(family, coords=family.coords | read) for key, family in families.items()}
    mode, edit = ("mask", "attention scores −∞") if renormalise else ("zero", "attention × 0")
    attrs: dict[str, Any] = {"method": "attention knockout", "mode": mode, "edit": edit}
    attrs |= {} if window is None else {"window": index(window)}
    recipe = partial(recorded, "knockout", model, prepared.encoded, **said)
    return swept(prepared, families, attrs, tree=False, into=into, beside=recipe)


def _words(places: Places, attended: Sequence[int | str]) -> dict[str, Any]:
    """The tokens at raw positions that are attended to, and the role that all prompts have there."""
    raw = [position for position in attended if isinstance(position, int)]
    if len(raw) < len(attended) or not places.strings:
        return {}
    roles = places.roles_at(raw)
    found = {"source_token": ((axes.SOURCE_POSITION, axes.EXAMPLE), [[row[p] for row in places.strings] for p in raw])}
    return found | ({"source_role": (axes.SOURCE_POSITION, roles)} if any(roles) else {})
