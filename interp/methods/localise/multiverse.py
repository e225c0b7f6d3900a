"""The multiverse of a localisation: every choice that an analyst makes, and in how many of them a component matters.

    >>> heads = interp.grid("z", layer=..., head=..., position=["END"])                                   # doctest: +SKIP
    >>> noise = Change("embed", "S2", Noise(3 * sigma), Add())                                            # doctest: +SKIP
    >>> found = interp.multiverse(model, pairs, heads, {"names": None, "noise": noise, "mean": "mean"})   # doctest: +SKIP
    >>> found["share"].to_series().nlargest(5)                                                            # doctest: +SKIP
    >>> interp.views.specification_curve(found, layer=9, head=6)                                          # doctest: +SKIP

Steegen et al., "Increasing Transparency Through a Multiverse Analysis" (2016); Simonsohn et al., "Specification curve analysis"
(2020). What differs between localisations is shown by Zhang and Nanda, "Towards Best Practices of Activation Patching in
Language Models" (arXiv 2309.16042), whose rule for what stands out is the one here.

1. For every corruption and direction of patching one sweep of all components, all metrics from one pass.
2. For every sweep, metric, normalisation and group of examples one analysis: a number for each component, positive where the
   component carries the behaviour (recovery when denoising, damage when noising).
3. A component matters in an analysis where its number is at least two standard deviations from the mean over all components.

Dividing the mean effect by the mean difference of the baselines changes no ranking, so it is no choice here. What does change
it is how examples are put together: ``"effect"`` is the mean of differences, ``"ratios"`` the mean of every example's own
ratio, ``"t"`` the mean over its standard error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from interp import axes, effects
from interp.engine import patch
from interp.engine.asked import one_or_more
from interp.engine.background import Given
from interp.engine.families import Where
from interp.engine.precision import Precision
from interp.engine.prepared import Patching
from interp.engine.stored import StoreLike
from interp.errors import InputError, UnknownNameError
from interp.interventions import Activation, Change, Constant, Intervention, Source
from interp.interventions.source import SPAN
from interp.methods.registry import Method
from interp.metrics import MetricLike
from interp.models import Model
from interp.prompts import Pairs

METHOD = Method(
    id="multiverse",
    name="multiverse and specification curve",
    paper="Steegen et al. 2016, Increasing Transparency Through a Multiverse Analysis, "
    "https://doi.org/10.1177/1745691616658637; "
    "Simonsohn et al. 2020, Specification Curve Analysis, https://doi.org/10.1038/s41562-020-0912-z; "
    "Zhang & Nanda 2023, Towards Best Practices of Activation Patching in Language Models, arXiv 2309.16042",
    mediator="whatever a grid names, under every direction, corruption, metric, normalisation and group of prompts",
    search="exhaustive",
    cost="an activation patching sweep for every corruption and direction",
    function="interp.multiverse",
)
Normalisation = Literal["effect", "ratios", "t"]
NORMALISATIONS = get_args(Normalisation)
CHOICES = ("patching", "corruption", "metric", "normalisation", "group")
"""Coordinates of an analysis."""
EVERYTHING = "all"
"""The group of all examples."""
_KEPT = ("model", "model_digest", "task", "seed", "site", "positions", "versions", "dtype", "device", "made_at")
"""Attributes of sweeps that all of them share."""
_FEWEST = 4
"""Examples without which a group is no analysis."""
Corruption = None | str | Pairs | Change | Intervention | Source
_BY_NAME: Mapping[str, Any] = {
    "counterfactual": None,
    "zero": Constant(0.0),
    "mean": Activation("base", pool="mean", over=(axes.EXAMPLE, SPAN)),
    "resample": Activation("base", pool="resample"),
}


def multiverse(
    model: Model,
    pairs: Pairs,
    where: Where,
    corruptions: Mapping[str, Corruption] | str | Sequence[str] = ("counterfactual", "mean", "resample", "zero"),
    metrics: MetricLike | Sequence[MetricLike] = ("logit_diff", "logprob", "prob", "kl"),
    *,
    patching: Patching | Sequence[Patching] = ("denoising", "noising"),
    normalisations: Normalisation | Sequence[Normalisation] = NORMALISATIONS,
    groups: str | None = "template",
    deviations: float = 2.0,
    given: Given = None,
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str = "multiverse",
    tags: Iterable[str] = (),
) -> xr.Dataset:
    """Analyse the same components in every way.

    Args:
        pairs: with counterfactuals.
        where: one family of components.
        corruptions: by name, or some of ``"counterfactual"``, ``"zero"``, ``"mean"``, ``"resample"``. None: the pairs' own
            other prompts. Pairs: other counterfactuals of the same clean prompts. Interventions: what makes the corrupted run
            of the clean prompts, such as noise. A source, or one of these words: what is written into the component itself,
            on clean prompts alone.
        metrics: one analysis each.
        patching: directions.
        normalisations: how examples are put together, see above.
        groups: a coordinate of the examples, ``"template"``, each of whose values is a group beside all examples; None for
            these alone. Groups of fewer than 4 examples are left out.
        deviations: from how many standard deviations on a component matters.
        given, rows, precision, progress: as for :func:`interp.patch`.
        store: where the sweeps are kept, each a run of its own, ``"NAME, CORRUPTION, DIRECTION"``; those that are there already
            are not run again.
        name, tags: likewise.

    Returns:
        By ``analysis``, which has the coordinates :data:`CHOICES` and ``n``, and the axes of the components: ``score``; ``z``,
        by how many standard deviations it is from the mean over components, and ``matters``; and ``share``, in how many of the
        analyses each component matters. Attribute ``left_out``: analyses without a number for every component.

    Raises:
        InputError: several families, so few components that none can stand out, no analysis at all, pairs without
            counterfactuals, or counterfactuals of other prompts.
        UnknownNameError: a word that is none. And what :func:`interp.patch` raises.
    """
    if isinstance(where, Mapping):
        raise InputError(f"where holds several families ({', '.join(where)}); a multiverse is of one")
    if isinstance(deviations, bool) or not isinstance(deviations, int | float) or not deviations > 0:
        raise InputError(f"deviations={deviations!r}; expected a number of standard deviations above 0, such as 2.0")
    directions = _words("patching", patching, effects.PATCHING)
    ways = _words("normalisations", normalisations, NORMALISATIONS)
    chosen = dict(corruptions) if isinstance(corruptions, Mapping) else {word: word for word in one_or_more(corruptions)}
    options: dict[str, Any] = {"given": given, "rows": rows, "precision": precision, "progress": progress}
    options |= {"store": store, "tags": tags}
    found: list[tuple[dict[str, Any], np.ndarray[Any, Any]]] = []
    result: xr.Dataset | None = None
    for (corruption, how), direction in product(chosen.items(), directions):
        prompts, words = _asked(pairs, corruption, how)
        if "source" in words and direction != "noising":
            continue
        called = f"{name}, {corruption}, {direction}" if store is not None else None
        swept = patch(model, prompts, where, one_or_more(metrics), patching=direction, name=called, **words, **options)
        assert isinstance(swept, xr.Dataset)
        if not effects.paired(swept):
            raise InputError("pairs are prompts without counterfactuals, whose effects cannot be normalised; give interp.Pairs")
        if result is None:
            _check_many(swept, deviations)
        result = swept
        for group, members in _groups(swept, groups).items():
            part = swept.isel({axes.EXAMPLE: members})
            for metric, normalisation in product(swept[axes.METRIC].values.tolist(), ways):
                choice = dict(zip(CHOICES, (direction, corruption, metric, normalisation, group), strict=True))
                found.append((choice | {"n": len(members)}, _score(part, metric, normalisation)))
    if result is None:
        raise InputError("corruptions and patching leave no sweep: zero, mean and resample are noised alone")
    return _together(found, result, deviations, {"name": name, "stored": store is not None})


def _words(argument: str, given: str | Sequence[str], known: Sequence[str]) -> list[str]:
    """Words that are known, at least one."""
    words = one_or_more(given)
    if not words:
        raise InputError(f"{argument} is empty; give some of {', '.join(map(repr, known))}")
    for word in words:
        if word not in known:
            raise UnknownNameError(argument.removesuffix("s"), word, known)
    return words


def _check_many(swept: xr.Dataset, deviations: float) -> None:
    """Of n numbers none is more than √(n − 1) standard deviations from their mean."""
    n = math.prod(swept.sizes[axis] for axis in effects.swept_axes(swept)) - int(
        swept["absent"].sum() if "absent" in swept else 0
    )
    if n - 1 < deviations**2:
        raise InputError(
            f"where holds {n} component{'s' * (n != 1)}, of which none can be {deviations:g} standard deviations from their "
            f"mean; give {math.ceil(deviations**2) + 1} at least, such as all heads of some layers"
        )


def _asked(pairs: Pairs, corruption: str, how: Any) -> tuple[Pairs, dict[str, Any]]:
    """Which pairs are swept, and with what."""
    if isinstance(how, str):
        if how not in _BY_NAME:
            raise UnknownNameError("corruption", how, _BY_NAME)
        how = _BY_NAME[how]
    if how is None:
        return pairs, {}
    if isinstance(how, Pairs):
        if [pair.clean for pair in how] != [pair.clean for pair in pairs]:
            raise InputError(f"corruptions[{corruption!r}] has other clean prompts than pairs; only counterfactuals may differ")
        return how, {}
    if isinstance(how, Change | Intervention):
        return pairs, {"corruption": how}
    if isinstance(how, Activation | Constant):
        return pairs, {"source": how}
    raise InputError(
        f"corruptions[{corruption!r}] is of type {type(how).__name__}; expected None, pairs, an intervention that makes the "
        f"corrupted run, a source, or one of {', '.join(map(repr, _BY_NAME))}"
    )


def _groups(result: xr.Dataset, by: str | None) -> dict[str, list[int]]:
    """Examples of every group."""
    found = {EVERYTHING: list(range(result.sizes[axes.EXAMPLE]))}
    if by is None:
        return found
    if by not in result.coords or result[by].dims != (axes.EXAMPLE,):
        along = [str(one) for one in result.coords if result[one].dims == (axes.EXAMPLE,)]
        raise UnknownNameError("groups", by, along)
    labels = result[by].values.astype(str)
    parts = {str(label): np.flatnonzero(labels == label).tolist() for label in dict.fromkeys(labels.tolist())}
    return found | ({label: own for label, own in parts.items() if len(own) >= _FEWEST} if len(parts) > 1 else {})


def _score(part: xr.Dataset, metric: str, normalisation: str) -> np.ndarray[Any, Any]:
    """One number for every component, positive where it carries the behaviour; NaN where there is none."""
    one = part.sel({axes.METRIC: metric})
    recovered = one.attrs["patching"] == effects.DENOISING
    if normalisation == "ratios":
        ratio = (effects.recovery if recovered else effects.damage)(part.sel({axes.METRIC: [metric]}), "examples")
        return np.asarray(ratio.isel({axes.METRIC: 0}).values, dtype=float)
    towards = np.sign(float((one["clean"] - one["corrupt"]).mean()))
    moved = one["value"] - one["corrupt"] if recovered else one["clean"] - one["value"]
    mean = towards * moved.mean(axes.EXAMPLE).values.astype(float)
    if normalisation == "effect":
        return np.asarray(mean)
    error = moved.std(axes.EXAMPLE, ddof=1).values / np.sqrt(moved.sizes[axes.EXAMPLE])
    return np.where(error > 0, mean / np.where(error > 0, error, 1.0), 0.0)


def _together(
    found: Sequence[tuple[dict[str, Any], np.ndarray[Any, Any]]], like: xr.Dataset, deviations: float, said: Mapping[str, Any]
) -> xr.Dataset:
    """All analyses with what they say of every component."""
    exists = ~like["absent"].values if "absent" in like else np.ones(found[0][1].shape, dtype=bool)
    whole = [(choice, score) for choice, score in found if np.isfinite(score[exists]).all()]
    if not whole:
        raise InputError(
            "no analysis has a number for every component: clean and corrupted runs do not differ in these metrics"
        )
    scores = np.stack([score for _, score in whole])
    own = np.where(exists, scores, np.nan)
    flat = own.reshape(len(own), -1)
    spread = np.nanstd(flat, axis=1, keepdims=True)
    z = np.where(spread > 0, (flat - np.nanmean(flat, axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0), 0.0)
    z = z.reshape(own.shape)
    swept = effects.swept_axes(like)
    dims = ("analysis", *swept)
    matters = np.nan_to_num(np.abs(z)) >= deviations
    coords: dict[str, Any] = {axis: like[axis].variable for axis in swept}
    described = {str(name): one.variable for name, one in like.coords.items() if one.dims and set(one.dims) <= set(swept)}
    coords |= described
    coords |= {key: ("analysis", [choice[key] for choice, _ in whole]) for key in (*CHOICES, "n")}
    kept = (
        "model",
        "model_digest",
        "task",
        "seed",
        "site",
        "positions",
        "versions",
        "dtype",
        "device",
        "made_at",
        "engine_semantics",
    )
    attrs = {key: like.attrs[key] for key in kept if key in like.attrs}
    attrs |= {"method": "multiverse", "deviations": deviations, "left_out": len(found) - len(whole), **said}
    return xr.Dataset(
        {
            "score": (dims, own),
            "z": (dims, z),
            "matters": (dims, matters),
            "share": (swept, np.where(exists, matters.mean(0), np.nan)),
        },
        coords=coords,
        attrs=attrs,
    )
