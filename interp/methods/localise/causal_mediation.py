"""Causal mediation analysis: how much of a change of the prompt goes through heads, neurons or layers, and how much past them.

    >>> heads = interp.grid("z", layer=..., head=..., position="END")                                     # doctest: +SKIP
    >>> found = interp.mediate(model, pairs, heads)                                                       # doctest: +SKIP
    >>> shares = interp.effects.mediation(found, "ratio")                     # total, direct, indirect  # doctest: +SKIP
    >>> interp.views.heatmap(shares.indirect.sel(metric="odds"))                                          # doctest: +SKIP

Vig et al., "Investigating Gender Bias in Language Models Using Causal Mediation Analysis" (arXiv 2004.12265); heads found so
were tuned by Chintam et al., "Identifying and Adapting Transformer-Components Responsible for Gender Bias" (arXiv 2310.12611).

1. Run both prompts of every pair: "The nurse said that", "The man said that"; u is the odds of the wrong answer, "he", against
   the right one, "she".
2. Natural indirect effect: the first prompt with a mediator from the second. It is noising activation patching.
3. Natural direct effect: the second prompt with the mediator as it is in the first. It is denoising activation patching.
4. Total, direct and indirect effects as differences or ratios: :func:`interp.effects.mediation`.
5. Concentration: the share of the total effect that the k strongest mediators reach together.

The published code takes heads at the last token alone, and the mean of ratios, which a few prompts decide: compare ranks, or
take the median. A mediator at all positions is another one than at the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from interp import axes, effects
from interp.engine import patch
from interp.engine.asked import asked_pairs
from interp.engine.background import Given
from interp.engine.families import Where, named
from interp.engine.precision import Precision
from interp.engine.stored import StoreLike
from interp.errors import InputError, UnknownNameError
from interp.interventions import Activation, Arranged, Intervention
from interp.interventions.source import Unequal
from interp.methods.registry import Method
from interp.metrics import MetricLike
from interp.models import Model

METHOD = Method(
    id="causal_mediation",
    name="causal mediation analysis",
    paper="Vig et al. 2020, Investigating Gender Bias in Language Models Using Causal Mediation Analysis, arXiv 2004.12265; "
    "Chintam et al. 2023, Identifying and Adapting Transformer-Components Responsible for Gender Bias in an English Language "
    "Model, arXiv 2310.12611",
    mediator="heads, neurons, layers, by position",
    search="exhaustive; top k or greedy for joint effects",
    cost="two forward passes, and for every mediator twice what of one comes after it",
    function="interp.mediate",
)
Search = Literal["top", "greedy"]


def mediate(
    model: Model,
    pairs: Any,
    where: Where,
    metric: MetricLike | Sequence[MetricLike] = "odds",
    *,
    corruption: Given = None,
    given: Given = None,
    unequal: Unequal = "last",
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> xr.DataTree:
    """Both sweeps of every mediator.

    Args:
        where: mediators: a grid, several by name, or interventions.
        metric: the response u, one or several; ratios need one above 0.
        others: as for :func:`interp.patch`; in a store the two sweeps are runs of their own, ``"NAME, indirect"`` and
            ``"NAME, direct"``.

    Returns:
        A ``DataTree`` of two effects, ``"indirect"`` (noising) and ``"direct"`` (denoising), or of both under each name.

    Raises:
        What :func:`interp.patch` raises.
    """
    options: dict[str, Any] = {"corruption": corruption, "given": given, "unequal": unequal, "rows": rows}
    options |= {"precision": precision, "progress": progress, "store": store, "tags": tags}
    found: dict[str, xr.Dataset] = {}
    directions: tuple[tuple[str, Any], ...] = (("indirect", "noising"), ("direct", "denoising"))
    for effect, patching in directions:
        called = None if name is None else f"{name}, {effect}"
        swept = patch(model, pairs, where, metric, patching=patching, name=called, **options)
        for family, one in effects.families(swept).items():
            found[f"{family}/{effect}" if family else effect] = one.assign_attrs(method="mediate")
    return xr.DataTree.from_dict(found)


def concentration(
    model: Model,
    pairs: Any,
    where: Where,
    k: int,
    metric: MetricLike = "odds",
    *,
    search: Search = "top",
    indirect: xr.Dataset | None = None,
    corruption: Given = None,
    given: Given = None,
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
) -> xr.Dataset:
    """Indirect effects of growing sets of mediators, which show whether few of them carry the effect.

    Args:
        where: one family of mediators.
        k: size of the largest set.
        search: ``"top"`` takes them in the order of their single indirect effects, in the direction of the total effect;
            ``"greedy"`` adds the one with which the set reaches most, a sweep of all others for every step.
        indirect: the single effects, where they were measured on other pairs (of which the sets are then no artefact).
        others: as for :func:`interp.patch`.

    Returns:
        Effects with an axis ``cell``, set by set; coordinates ``size`` and ``mediator``, the one that was added, by its site.
        ``interp.damage`` is the share of the total effect that is reached.

    Raises:
        UnknownNameError: another search.
        InputError: several families, or k out of range. And what :func:`interp.patch` raises.
    """
    if search not in ("top", "greedy"):
        raise UnknownNameError("search", search, ("top", "greedy"))
    encoded, _ = asked_pairs(model, pairs)
    families = named(model, encoded, where, {"source": Activation(), "edit": None, "featurizer": None, "keep_error": True})
    if isinstance(where, Mapping):
        raise InputError(f"where holds several families ({', '.join(families)}); give one of them")
    [family] = families.values()
    every = family.interventions
    if not 1 <= k <= len(every):
        raise InputError(f"k={k}; expected how many mediators the largest set has, 1 to {len(every)}")
    options: dict[str, Any] = {"corruption": corruption, "given": given, "rows": rows, "precision": precision}
    options |= {"progress": progress, "patching": "noising"}
    there = family.exists.ravel()

    def strengths(result: xr.Dataset) -> np.ndarray[Any, Any]:
        """Effects in the direction of the total one."""
        total = float((result["corrupt"] - result["clean"]).mean())
        means: np.ndarray[Any, Any] = effects.effect(result).isel({axes.METRIC: 0}).mean(axes.EXAMPLE).values.ravel()
        return np.sign(total) * means

    order: list[int] = []
    if search == "top":
        single = indirect if indirect is not None else patch(model, encoded, where, metric, **options)
        assert isinstance(single, xr.Dataset)
        found = strengths(single)
        found = found[there] if len(found) == len(there) else found
        order = np.argsort(-found, kind="stable")[:k].tolist()
    for _ in range(k - len(order)):
        rest = [n for n in range(len(every)) if n not in order]
        tried = patch(model, encoded, [_joint(every, [*order, n]) for n in rest], metric, **options)
        assert isinstance(tried, xr.Dataset)
        order.append(rest[int(np.argmax(strengths(tried)))])
    sets = [_joint(every, order[:size]) for size in range(1, k + 1)]
    said = {"size": (axes.CELL, range(1, k + 1)), "mediator": (axes.CELL, [every[n].in_words for n in order])}
    laid = Arranged(sets, {axes.CELL: range(k)}, site=str(family.attrs["site"]), coords=said)
    result = patch(model, encoded, laid, metric, **options)
    assert isinstance(result, xr.Dataset)
    result = result.assign_attrs(method="concentration", search=search)
    return effects.mark_in_sample(result, indirect if indirect is not None else result)


def _joint(every: Sequence[Intervention], numbers: Iterable[int]) -> Intervention:
    return Intervention(tuple(change for n in numbers for change in every[n].changes))
