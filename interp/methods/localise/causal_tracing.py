"""Causal tracing: noise on the subject, one state restored, and how much of the answer's probability comes back.

    >>> facts = interp.tasks.facts(64, tokenizer=model.tokenizer).check(model).kept                       # doctest: +SKIP
    >>> traced = interp.trace(model, facts)                                                               # doctest: +SKIP
    >>> interp.views.tracing(traced)                                                                      # doctest: +SKIP
    >>> interp.effect(traced["mlp_out"].to_dataset()).mean("example")               # indirect effects    # doctest: +SKIP

Meng et al., "Locating and Editing Factual Associations in GPT" (arXiv 2202.05262).

1. σ is the standard deviation of all entries of the token embeddings of all subjects; noise of k·σ is added to the embeddings
   of the subject's tokens, in several draws, which all cells share.
2. The answer's probability: clean; corrupted, the mean over draws; and for every cell with one state restored, likewise.
3. Total effect = clean − corrupted; indirect effect of a cell = restored − corrupted (:func:`interp.effect`).
4. What an MLP or attention adds is restored in a window of layers, [l − ⌊w/2⌋, l + ⌈w/2⌉), which is less at both ends.
5. Severed: with a state restored at one token, the MLPs (or attention) of that token behind it stay at their corrupted values.
6. Over prompts of different length tokens are put together by what they are to the subject, see :data:`ROLES`.

The embedding is what the token embedding module gives, before positions are added; a model that scales it (Gemma) does so
inside that module or behind it, as it was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from interp import axes, effects
from interp.engine import patch
from interp.engine.asked import asked_pairs, one_or_more
from interp.engine.background import Given
from interp.engine.embeddings import embedding_std
from interp.engine.precision import Precision
from interp.engine.stacked_attrs import merged
from interp.engine.stored import StoreLike
from interp.errors import InputError, PositionError, UnknownNameError, UnknownSiteError, require_whole
from interp.interventions import Activation, Add, Arranged, Change, Intervention, Noise
from interp.methods.registry import Method
from interp.metrics import MetricLike
from interp.models import Model, Places
from interp.sites import MAIN, Positions, Site, grid

METHOD = Method(
    id="causal_tracing",
    name="causal tracing",
    paper="Meng et al. 2022, Locating and Editing Factual Associations in GPT, arXiv 2202.05262",
    mediator="streams, and what attention and MLPs add to them in windows of layers, by token",
    search="exhaustive",
    cost="two forward passes a draw, and for every cell and draw what of one comes after it",
    function="interp.trace",
)
ROLES = ("subject first", "subject middle", "subject last", "after", "further", "last")
"""Tokens by what they are to the subject: its first, those between, its last, the first behind it, further ones, and the last
of the prompt. Where a role has several tokens, each is a cell of its own, and their mean is taken in every prompt."""
Tokens = Literal["roles", "each"]
Severed = Literal["mlp_out", "attn_out", "mixer_out"]
_KINDS = ("resid_post", "mlp_out", "attn_out")


def trace(
    model: Model,
    pairs: Any,
    subject: str = "subject",
    metric: MetricLike | Sequence[MetricLike] = "prob",
    *,
    noise: float = 3.0,
    draws: int = 10,
    window: int = 10,
    kinds: str | Sequence[str] = _KINDS,
    severed: Severed | Sequence[Severed] = (),
    tokens: Tokens = "roles",
    roles: str | Sequence[str] | None = None,
    stream: str = MAIN,
    seed: int = 0,
    given: Given = None,
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> xr.DataTree:
    """Trace what prompts are answered with.

    Args:
        model: a language model.
        pairs: whose clean prompts are run; what they are answered with is the pairs' answer, which the model should give:
            ``pairs.check(model).kept``. Their other prompts are not run.
        subject: the role of the tokens that are noised, in every prompt.
        metric: one or several; the paper's is the probability of the answer.
        noise: k, in units of σ.
        draws: of the noise, each example's own; shared by all cells.
        window: layers that are restored together of what is no stream.
        kinds: families of the result, one or several: ``"resid_post"`` and what adds to the stream, as ``"mixer_out"`` does
            where there is no attention.
        severed: ``"mlp_out"``, ``"attn_out"``, ``"mixer_out"`` or several: for each a family ``"resid_post, mlp_out severed"``
            too.
        tokens: ``"roles"`` puts the tokens of different prompts together; ``"each"`` has every token of prompts that are
            equally long, such as of one prompt.
        roles: some of :data:`ROLES`; prompts without a token of each of them are left out, and counted in the attribute
            ``left_out``. By default those that every prompt has.
        stream: where the subject is noised and states are restored, where not in the main stream: ``"encoder"``.
        seed: of the noise.
        given, rows, precision, progress: as for :func:`interp.patch`.
        store: where the sweeps are kept, one for every length of prompts, each with all of its draws.
        name, tags: of these runs in the store.

    Returns:
        A ``DataTree`` of effects by (layer, position, example), means over draws: ``clean`` is the clean value, ``corrupt``
        that with the subject noised, ``value`` that with a state restored. ``interp.recovery`` is IE / TE.

    Raises:
        InputError: no answers where the metric needs them, or nothing to trace.
        PositionError: no tokens of the subject, prompts of different length with ``tokens="each"``, or roles that none has.
        UnknownNameError: a word that is none of those above.
        UnknownSiteError: a part to sever that the model does not have. And what :func:`interp.patch` raises.
    """
    kinds, severed = one_or_more(kinds), one_or_more(severed)
    roles = None if roles is None else one_or_more(roles)
    _check(tokens, roles, severed, draws)
    encoded, _ = asked_pairs(model, pairs)
    std = noise * embedding_std(model, encoded, subject, stream)
    embed = Site("embed", stream=stream)
    places = model.places(encoded.clean, embed)
    corruption = Change(embed, Positions(role=subject), Noise(std, seed), Add())
    options: dict[str, Any] = {"corruption": corruption, "given": given, "rows": rows, "precision": precision}
    options |= {"progress": progress, "store": store, "tags": tags}
    lengths = places.said.tolist()
    if tokens == "each" and len(set(lengths)) > 1:
        raise PositionError(
            f"tokens='each' needs prompts of one length, got {sorted(set(lengths))} tokens; tokens='roles' puts them together"
        )
    groups = {length: [n for n, other in enumerate(lengths) if other == length] for length in sorted(set(lengths))}
    found: dict[int, dict[str, xr.Dataset]] = {}
    for length, own in groups.items():
        repeated = replace(encoded.pairs, items=tuple(encoded.pairs[n] for n in own for _ in range(draws)))
        where = _families(model, stream, kinds, severed, window, length)
        called = name if name is None or len(groups) == 1 else f"{name}, {length} tokens"
        swept = patch(model, model.encode(repeated, bos=encoded.asked), where, metric, name=called, **options)
        found[length] = {key: _over_draws(one, draws) for key, one in effects.families(swept).items()}
    said = {"method": "trace", "draws": draws, "noise": {"std": std, "sigmas": noise, "seed": seed}, "subject": subject}
    if tokens == "roles":
        marks = [_marks(span, n) for span, n in zip(_spans(places, subject), lengths, strict=True)]
        wanted = [role for role in ROLES if (role in roles if roles else all(mark[role] for mark in marks))]
        said["left_out"] = sum(not all(mark[role] for role in wanted) for mark in marks)
        if said["left_out"] == len(marks):
            raise PositionError(f"roles={tuple(wanted)}: no prompt has a token of each")
        families = {key: _by_role({n: found[n][key] for n in found}, groups, marks, wanted) for key in found[lengths[0]]}
    else:
        families = found[lengths[0]]
    return xr.DataTree.from_dict({key: one.assign_attrs(said) for key, one in families.items()})


def _check(tokens: str, roles: Sequence[str] | None, severed: Sequence[str], draws: object) -> None:
    if tokens not in get_args(Tokens):
        raise UnknownNameError("tokens", tokens, get_args(Tokens))
    for word in severed:
        if word not in get_args(Severed):
            raise UnknownNameError("severed", word, get_args(Severed))
    for word in roles or ():
        if word not in ROLES:
            raise UnknownNameError("role", word, ROLES)
    require_whole("draws", draws, "how often noise is drawn")


def _families(
    model: Model, stream: str, kinds: Sequence[str], severed: Sequence[Severed], window: int, length: int
) -> dict[str, Any]:
    """What is restored, by family; of prompts of one length."""
    streams = [kind for kind in kinds if kind.startswith("resid")]
    found: dict[str, Any] = {
        kind: grid(Site(kind, stream=stream), layer=..., position=..., window=1 if kind in streams else window)
        for kind in kinds
    }
    if not found and not severed:
        raise InputError("kinds and severed are empty; name what is restored, such as kinds=('resid_post',)")
    state = Site("resid_post", stream=stream)
    layers = range(model.sizes_at(state)[axes.LAYER])
    for part in severed:
        if not model.each(Site(part, stream=stream)):
            why = f"{model.name} has none that could be severed"
            raise UnknownSiteError("site", repr(Site(part, stream=stream)), [], why=why)
        cells = [_severed(model, state.at(layer=layer), part, position) for layer in layers for position in range(length)]
        along = {axes.LAYER: layers, axes.POSITION: range(length)}
        found[f"resid_post, {part} severed"] = Arranged(cells, along, site=f"resid_post, {part} severed")
    return found


def _severed(model: Model, state: Site, part: str, position: int) -> Intervention:
    """A state restored, with what a part of the blocks behind it adds to the same token left at its corrupted value."""
    base = Activation("base")
    pins = [
        Change(site, position, base)
        for site in model.each(Site(part, stream=state.stream))
        if site.layer is not None and state.layer is not None and site.layer > state.layer
    ]
    return Intervention((Change(state, position), *pins))


def _over_draws(result: xr.Dataset, draws: int) -> xr.Dataset:
    """Means over the draws of each prompt, which stand next to each other."""
    kept = result.isel({axes.EXAMPLE: slice(None, None, draws)})
    found = {}
    for name in _NUMBERS & set(result.data_vars):
        values = result[name].values.reshape(*result[name].shape[:-1], -1, draws)
        found[name] = (result[name].dims, values.mean(-1) if values.dtype != bool else values.all(-1))
    return effects.stamped(kept.assign(found))


_NUMBERS = {"value", "clean", "corrupt", "given", "by_rule"}


def _spans(places: Places, subject: str) -> list[list[int]]:
    """The tokens of every subject, counted from each prompt's first."""
    columns = places.columns(Positions(role=subject), what="subject")
    return [
        [column - first for column in span if column >= 0]
        for span, first in zip(columns.tolist(), places.first.tolist(), strict=True)
    ]


def _marks(subject: Sequence[int], length: int) -> dict[str, list[int]]:
    """Which tokens of a prompt have each role."""
    first, last, end = subject[0], subject[-1], length - 1
    return {
        "subject first": [first],
        "subject middle": [n for n in subject if first < n < last],
        "subject last": [last],
        "after": [last + 1] if last < end else [],
        "further": list(range(last + 2, end)),
        "last": [end],
    }


def _by_role(
    found: Mapping[int, xr.Dataset],
    groups: Mapping[int, Sequence[int]],
    marks: Sequence[Mapping[str, list[int]]],
    wanted: Sequence[str],
) -> xr.Dataset:
    """Prompts of all lengths together in their order, the tokens of each role as their mean."""
    parts, numbers = [], []
    for length, result in found.items():
        own = [n for n in groups[length] if all(marks[n][role] for role in wanted)]
        if not own:
            continue
        result = result.isel({axes.EXAMPLE: [groups[length].index(n) for n in own]})
        share = np.array([[np.isin(range(length), marks[n][role]) for role in wanted] for n in own], dtype=float)
        share /= share.sum(-1, keepdims=True)
        by_rule = np.einsum("...pe,erp->...re", ~result["by_rule"].values, share) == 0
        value = np.einsum("...pe,erp->...re", result["value"].values, share).astype(result["value"].dtype)
        value = np.where(by_rule, effects.base(result).values[:, None, None], value)
        bare = result.drop_dims(axes.POSITION).assign_coords({axes.POSITION: list(wanted)})
        parts.append(bare.assign(value=(result["value"].dims, value), by_rule=(result["by_rule"].dims, by_rule)))
        numbers += own
    whole = xr.concat(parts, axes.EXAMPLE, combine_attrs="drop_conflicts", coords="minimal", compat="override")
    attrs = merged({(length,): result.attrs for length, result in found.items()}, ("length",))
    return effects.stamped(effects.validate(whole.isel({axes.EXAMPLE: np.argsort(numbers)}).assign_attrs(attrs)))
