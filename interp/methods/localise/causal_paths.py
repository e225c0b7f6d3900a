"""Causal paths: which heads follow the form of cause and effect, and which react when the content is nonsense.

    >>> form = interp.tasks.causal_sentences(48, corruption="delimiter", tokenizer=model.tokenizer)     # doctest: +SKIP
    >>> content = interp.tasks.causal_sentences(48, corruption="nonsense", tokenizer=model.tokenizer)   # doctest: +SKIP
    >>> found = interp.causal_paths(model, form, content)                                              # doctest: +SKIP
    >>> interp.views.heatmap(found["heads"].score.sel(kind="syntax"))                                  # doctest: +SKIP
    >>> interp.views.curve(abs(found["heads"].score).mean("head"), x="layer")                          # doctest: +SKIP

Isabelle Lee, Joshua Lum, Ziyi Liu and Dani Yogatama, "Causal Interventions on Causal Paths: Mapping GPT-2's Reasoning From
Syntax to Semantics" (2024), arXiv 2410.21353. The paper says in words what is measured; the numbers here are our own reading.

1. Attention from span A to span B, of every head: S = mean over i in A of Σ over j in B of A_ij, beside what attention that is
   equal over all positions up to i would give. The first token, on which much attention rests, is a span of its own.
2. Syntax: S from the delimiter to cause and effect, and from what is later to the delimiter, on causal sentences less the
   same on sentences whose delimiter says of no cause.
3. Semantics: the effect of every head when it is patched between the sensible and the nonsensical sentence.
4. Both by head, with the p-value of swapping the labels of the two sentences of a pair (:func:`interp.stats.sign_flip`).

Attention is no effect: a head of the first score matters to an output only as far as patching says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from interp import axes, stats
from interp import effects as fx
from interp.effects.clusters import clusters_of
from interp.engine import patch
from interp.engine.background import Given, Hold
from interp.engine.precision import Precision
from interp.engine.prepared import Patching
from interp.engine.single.cache import ask_checked, cached
from interp.engine.stored import StoreLike
from interp.errors import InputError, PositionError, UnknownNameError
from interp.methods.registry import Method
from interp.metrics import MetricLike
from interp.models import Bos, Model, Places
from interp.sites import Positions, grid

METHOD = Method(
    id="causal_paths",
    name="causal paths: syntax and semantics of cause and effect",
    paper="Lee et al. 2024, Causal Interventions on Causal Paths, arXiv 2410.21353",
    mediator="heads; attention between spans is read",
    search="exhaustive",
    cost="two forward passes for attention, two more for patching, and for every head what of one comes after it",
    function="interp.causal_paths",
)

SPANS = ("cause", "effect", "delimiter")
FIRST, LATER, REST = "first", "later", "rest"
SPAN, SOURCE_SPAN, SPAN_PAIR, KIND, SENTENCE = "span", "source_span", "span_pair", "kind", "sentence"
SYNTAX = (("delimiter", "cause"), ("delimiter", "effect"), (LATER, "delimiter"))
"""From where to where attention is compared."""
_ROUNDING = 1e-6
"""Less attention than this is none."""

Attention = Float[np.ndarray[Any, Any], "example *heads position source_position"]
Real = Bool[np.ndarray[Any, Any], "example position"]
Queries = Bool[np.ndarray[Any, Any], "example span position"]
Sources = Bool[np.ndarray[Any, Any], "example source_span position"]
Masses = Float[np.ndarray[Any, Any], "example *heads span source_span"]


def causal_paths(
    model: Model,
    syntax: Any,
    semantics: Any,
    metric: MetricLike | Sequence[MetricLike] = "logit_diff",
    *,
    patching: Patching = "denoising",
    given: Given = None,
    hold: Hold = (),
    rows: int | None = None,
    precision: Precision = "full",
    clusters: str | None = None,
    flips: int = 1000,
    seed: int = 0,
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> xr.DataTree:
    """Heads by what they do in sentences of a cause and an effect.

    Args:
        syntax: pairs of a causal sentence and one without a causal delimiter, with the roles cause, effect and delimiter;
            ``interp.tasks.causal_sentences(corruption="delimiter")``.
        semantics: pairs of a sensible sentence and a nonsensical one, with answers; ``corruption="nonsense"``.
        metric, patching, hold, rows, precision, progress, store, name, tags: of step 3, as for :func:`interp.patch`; scores are
            of the first metric, and the store keeps the effects.
        given: interventions in force on everything that is run.
        clusters: what is swapped together: a coordinate of the examples, such as ``"template"``; None swaps every pair by
            itself, and what follows does so for these templates.
        flips, seed: see :func:`interp.stats.sign_flip`.

    Returns:
        A tree of three datasets. ``heads``: ``score`` by (kind, layer, head), the mean over examples of the mean difference of
        attention over ``SYNTAX``, and of the effect of patching; ``p_perm`` of each head alone and ``p_adjusted`` for all heads
        of a kind. ``attention``: :func:`span_attention` of both sentences, and ``contrast`` by (example, layer, head,
        span_pair), NaN where the one span is wholly behind the other. ``patching``: the Effects of :func:`interp.patch`.

    Raises:
        UnknownNameError: clusters by what the examples have not.
        InputError, PositionError, UnknownNameError: as :func:`span_attention`. And what :func:`interp.patch` raises.
    """
    sides = [span_attention(model, syntax, given=given, side=side) for side in ("clean", "corrupted")]
    attention = xr.concat(sides, xr.Variable(SENTENCE, ["causal", "other"]), coords="minimal", compat="override", join="outer")
    attention["contrast"] = _contrast(attention)
    known = [str(key) for key, coord in attention.coords.items() if coord.dims == (axes.EXAMPLE,) and key != axes.EXAMPLE]
    if clusters is not None and clusters not in known:
        raise UnknownNameError("clusters", clusters, known)
    where = grid("z", layer=..., head=...)
    effects = patch(
        model, semantics, where, metric, patching=patching, given=given, hold=hold, rows=rows, precision=precision,
        progress=progress, store=store, name=name, tags=tags,
    )  # fmt: skip
    assert isinstance(effects, xr.Dataset)
    options: dict[str, Any] = {"flips": flips, "seed": seed}
    kinds = {
        "syntax": _tested(attention["contrast"].mean(SPAN_PAIR), clusters, **options),
        "semantics": _of_effects(effects, clusters, **options),
    }
    heads = xr.concat(list(kinds.values()), xr.Variable(KIND, list(kinds)), join="outer", coords="minimal", compat="override")
    heads.attrs = sides[0].attrs | {"method": METHOD.id, "metric": fx.choose_metric(effects)[axes.METRIC].item()}
    heads["score"].attrs = {key: heads.attrs[key] for key in ("model", "task", "given", "metric")}
    heads.attrs |= {"side": None, "spans": [" → ".join(pair) for pair in SYNTAX], "patching": patching}
    return xr.DataTree.from_dict({"heads": heads, "attention": attention, "patching": effects})


def span_attention(
    model: Model,
    prompts: Any,
    spans: Sequence[str] = SPANS,
    *,
    given: Given = None,
    bos: Bos | None = None,
    side: str = "clean",
) -> xr.Dataset:
    """How much of a head's attention goes from one span of a prompt to another.

    Args:
        prompts: as in :func:`interp.cache`.
        spans: roles of the prompts that share no token.
        given, bos, side: as in :func:`interp.cache`.

    Returns:
        ``mass`` by (example, layer, head, span, source_span), ``uniform`` by (example, span, source_span), which attention
        equal over all positions up to its own would give, and ``ratio`` of the two. What is attended to is a partition: the
        first token (BOS, where there is one), the spans without it, and the rest, so that masses sum to 1, or to less where a
        head has a sink that is no token (gpt-oss). What attends is each of the spans, and with a delimiter all tokens later
        than it. A span without a token has NaN, and so has a ratio to what lies wholly behind.

    Raises:
        InputError: the model attends to later positions.
        PositionError: spans that share a token, or none.
        UnknownNameError: a role that the prompts do not have.
        UnknownSiteError: the model has no patterns, with the reason.
    """
    if not spans:
        raise PositionError(f"spans is empty; name roles of the prompts, such as {SPANS}")
    asked = ask_checked(model, prompts, "pattern", given=given, bos=bos, side=side)
    found = cached(asked, "pattern")
    real = np.arange(found.sizes[axes.POSITION]) < asked.tokens.said.cpu().numpy()[:, None]
    pattern = np.where((real[:, :, None] & real[:, None])[:, None, None], found["pattern"].values, 0.0)
    if pattern.size and np.triu(pattern, 1).max() > _ROUNDING:
        raise InputError(f"{asked.model.name} attends to later positions, and spans are compared with causal attention")
    sources = _members(asked.tokens, spans, real)
    queries = _attending(sources, spans, real)
    mass = _mass(pattern, queries, sources)
    lower = np.tril(np.ones(pattern.shape[-2:]))
    equal = np.broadcast_to(lower / lower.sum(-1, keepdims=True), (len(pattern), *lower.shape))
    uniform = _mass(equal, queries, sources)
    compared = uniform[:, None, None]
    ratio = np.divide(mass, compared, where=compared > 0, out=np.full_like(mass, np.nan))
    by_head = (axes.EXAMPLE, axes.LAYER, axes.HEAD, SPAN, SOURCE_SPAN)
    later = [LATER] if "delimiter" in spans else []
    coords: dict[str, Any] = {key: found.coords[key] for key in (axes.EXAMPLE, axes.LAYER, axes.HEAD, "prompt")}
    coords |= {SPAN: [*spans, *later], SOURCE_SPAN: [FIRST, *spans, REST]}
    coords["template"] = (axes.EXAMPLE, [pair.template for pair in asked.encoded.pairs])
    data = {"mass": (by_head, mass), "ratio": (by_head, ratio), "uniform": ((axes.EXAMPLE, SPAN, SOURCE_SPAN), uniform)}
    return xr.Dataset(data, coords, asked.attrs() | {"method": "span attention"})


def _members(tokens: Places, spans: Sequence[str], real: Real) -> Sources:
    """Which position is in which part of the prompt: the first one, the spans, the rest."""
    members = np.zeros((len(tokens), len(spans) + 2, real.shape[-1]), bool)
    first = tokens.first.cpu()
    for number, span in enumerate(spans, 1):
        columns = tokens.columns(Positions.parse(span), what="spans").cpu()
        for example, at in enumerate(columns.tolist()):
            members[example, number, [column - int(first[example]) for column in at if column >= 0]] = True
    shared = np.argwhere(members.sum(1) > 1)
    if len(shared):
        example, position = shared[0].tolist()
        both = [span for span, there in zip(spans, members[example, 1:-1, position], strict=True) if there]
        raise PositionError(
            f"spans {both[0]!r} and {both[1]!r} share token {position} of example {example}; give spans without a token in "
            "common, so that attention to them adds up"
        )
    members[..., 0] = False
    members[:, 0, 0] = True
    members[:, -1] = real & ~members.any(1)
    return members


def _attending(sources: Sources, spans: Sequence[str], real: Real) -> Queries:
    """Which positions attend: the spans, and what is later than the delimiter."""
    queries = sources[:, 1:-1]
    if "delimiter" not in spans:
        return queries
    delimiter = queries[:, list(spans).index("delimiter")]
    passed = np.cumsum(delimiter, -1) == delimiter.sum(-1, keepdims=True)
    later = passed & ~delimiter & real & delimiter.any(-1, keepdims=True)
    return np.concatenate([queries, later[:, None]], 1)


def _mass(pattern: Attention, queries: Queries, sources: Sources) -> Masses:
    """The mean over attending positions of what goes to each part; NaN where none attends."""
    weights = queries / np.where(queries.any(-1, keepdims=True), queries.sum(-1, keepdims=True), np.nan)
    return np.einsum("e...pq,esp,etq->e...st", pattern, weights, sources.astype(float))


def _contrast(attention: xr.Dataset) -> xr.DataArray:
    """Causal less other sentences between the spans of ``SYNTAX``."""
    pairs = []
    for span, source in SYNTAX:
        at = {SPAN: span, SOURCE_SPAN: source}
        difference = attention["mass"].sel(at).diff(SENTENCE).isel({SENTENCE: 0}, drop=True)
        pairs.append(-difference.where((attention["uniform"].sel(at) > 0).all(SENTENCE)).drop_vars([SPAN, SOURCE_SPAN]))
    labels = xr.Variable(SPAN_PAIR, [" → ".join(pair) for pair in SYNTAX])
    return xr.concat(pairs, labels).transpose(axes.EXAMPLE, axes.LAYER, axes.HEAD, SPAN_PAIR)


def _tested(each: xr.DataArray, clusters: str | None, *, flips: int, seed: int) -> xr.Dataset:
    """Mean over examples, and the p-values of swapping the two sentences of a pair."""
    each = each.transpose(axes.LAYER, axes.HEAD, axes.EXAMPLE)
    among = np.abs(each.values).max(-1) > _ROUNDING
    found = stats.sign_flip(each.values, clusters_of(each, clusters).labels, among=among, flips=flips, seed=seed)
    dims = (axes.LAYER, axes.HEAD)
    numbers = {"score": each.mean(axes.EXAMPLE).values, "p_perm": found.p_alone, "p_adjusted": found.p_adjusted}
    return xr.Dataset({key: (dims, values) for key, values in numbers.items()}, {dim: each[dim] for dim in dims})


def _of_effects(effects: xr.Dataset, clusters: str | None, *, flips: int, seed: int) -> xr.Dataset:
    """The same of effects: the mean, and the p-values of its sign."""
    chosen = fx.choose_metric(effects)
    found = fx.sign_flip(chosen, clusters=clusters, flips=flips, seed=seed).isel({axes.METRIC: 0}, drop=True)
    mean = fx.effect(chosen).mean(axes.EXAMPLE).drop_vars(axes.METRIC)
    return xr.Dataset({"score": mean, "p_perm": found["p_alone"], "p_adjusted": found["p_adjusted"]}).drop_attrs()
