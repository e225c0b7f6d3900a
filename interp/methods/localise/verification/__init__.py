"""Verification: the strongest of an estimate and a random sample of the others, patched exactly.

>>> estimated = interp.attribute(model, pairs, where)                                              # doctest: +SKIP
>>> interp.verify(model, pairs, where, estimated, top=10, sample=20)                               # doctest: +SKIP
30 of 270 cells verified exactly (11%): the 10 of largest estimate, and 20 of the other 260 at random
  the others    Pearson 0.81 [0.58, 0.92]   Spearman 0.74 [0.41, 0.90]   same sign 18 of 20
  all of them   Pearson 0.97 [0.93, 0.98]   Spearman 0.85 [0.68, 0.93]   same sign 28 of 30
  missed        1 of the 20, so 5% [1, 24] of the 260: L4H2 (exact 0.31, estimated 0.02)
>>> interp.views.compare(estimated, interp.verify(model, pairs, where, estimated, top="all").exact)  # doctest: +SKIP

1. Rank the cells by the size of the estimate, or by its score where it has one.
2. Patch the K first, and R of the others drawn at random, in one sweep.
3. The sample says without bias how good the estimate is where nobody looks, and what it misses: a sampled cell that is among
   the K largest exact effects of all that were verified. The K first are chosen by the estimate, so what holds of them and of
   all verified cells together is not what holds of all cells.

The verification step of Kramár et al., "AtP*: An efficient and scalable method for localizing LLM behaviour to components",
arXiv 2403.00745, with a random sample beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp import axes as names
from interp import effects as fx
from interp.engine import patch
from interp.engine.asked import together
from interp.engine.background import Given, Hold, given_changes, held
from interp.engine.families import Family, Where, asked, check_words, sourced
from interp.engine.precision import Precision
from interp.engine.prepared import Options, Patching, Strategy
from interp.engine.stored import StoreLike
from interp.errors import InputError, ShapeMismatchError, require_whole
from interp.interventions import Arranged, EditLike, Featurizer, Source
from interp.interventions.source import Unequal
from interp.methods.localise.verification.compared import Correlated, Estimated, Verification, compared
from interp.methods.registry import Method
from interp.metrics import MetricLike
from interp.metrics import resolve as resolve_metrics
from interp.models import Model

__all__ = ["METHOD", "Correlated", "Verification", "verify"]

METHOD = Method(
    id="verification",
    name="verification of an estimate",
    paper="Kramár et al. 2024, AtP*: An efficient and scalable method for localizing LLM behaviour to components, "
    "arXiv 2403.00745",
    mediator="what was estimated",
    search="estimate, then exhaustive",
    cost="what activation patching takes for the first cells of an estimate and a random sample of the others",
    function="interp.verify",
)
Estimate = xr.Dataset | xr.DataArray


def verify(
    model: Model,
    pairs: Any,
    where: Where,
    estimate: Estimate,
    metric: MetricLike | None = None,
    *,
    top: int | Literal["all"] = 20,
    sample: int = 30,
    seed: int = 0,
    level: float = 0.95,
    patching: Patching | None = None,
    source: Source | None = None,
    edit: EditLike | None = None,
    featurizer: Featurizer | None = None,
    keep_error: bool = True,
    unequal: Unequal = "last",
    corruption: Given = None,
    given: Given = None,
    hold: Hold = (),
    strategy: Strategy = "auto",
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> Verification:
    """Patch the cells that an estimate ranks first and a random sample of the others, and compare.

    Args:
        model, pairs, where, source, edit, featurizer, keep_error, unequal, corruption, given, hold, strategy,
            rows, precision, progress: as
            for :func:`interp.patch`, and as for the estimate; ``where`` is one grid or one list.
        estimate: effects with the axes of ``where``, as :func:`interp.attribute` and its relatives give them, or any array with
            these axes, with or without ``example``. One with a variable ``score``, or an array of that name, is ranked by its
            mean over examples and compared with the mean size of the exact effects.
        metric: by default the estimate's first.
        top: how many of the first; ``"all"`` verifies every cell.
        sample: how many of the others.
        seed: of the sample.
        level: of the intervals.
        patching: by default the estimate's.
        store, name, tags: where to keep the exact sweep, as for :func:`interp.patch`.

    Raises:
        ShapeMismatchError: the estimate has other axes than ``where``.
        InputError: several families, no cell to verify, a direction or metric that the estimate is not of, or fewer than 1 of
            the first or no others. And what :func:`interp.patch` raises.
    """
    if top != "all":
        require_whole("top", top, "'all', or how many cells to verify")
    require_whole("sample", sample, "how many of the other cells to verify", 0)
    if isinstance(where, Mapping):
        raise InputError(
            f"where has the families {', '.join(map(repr, where))}; verify one at a time: verify(model, pairs, where[…], "
            "estimate[…].to_dataset())"
        )
    direction = _direction(estimate, patching)
    measured = resolve_metrics(_metric(estimate, metric))[0]
    check_words(direction, strategy, precision)
    options = Options(
        *(direction, strategy, given_changes(model, given), held(model, hold), rows, True, progress, precision),
        corruption=together(corruption, "corruption"),
    )
    change = {"source": sourced(source, unequal), "edit": edit, "featurizer": featurizer, "keep_error": keep_error}
    prepared, families = asked(model, pairs, where, measured, change, options)
    family = next(iter(families.values()))
    own = _numbers(estimate, measured.name, family)
    known = ~prepared.by_rule[list(prepared.families[0][:-1])].all(-1).cpu().numpy()  # not equal to the base by rule
    candidates = np.flatnonzero(family.exists)[known]
    if not candidates.size:
        raise InputError("every cell is equal to the base by rule: there is nothing to verify")
    order = candidates[np.argsort(-np.nan_to_num(np.abs(own.number[candidates]), nan=-1.0), kind="stable")]
    first = order if top == "all" else order[:top]
    rest = order[len(first) :]
    drawn = np.random.default_rng(seed).choice(rest, min(sample, len(rest)), replace=False) if len(rest) else rest
    exact = patch(
        model, prepared.encoded, _only(family, {*first.tolist(), *drawn.tolist()}, candidates), measured,
        patching=direction, corruption=corruption, given=given, hold=hold, strategy=strategy, rows=rows,
        precision=precision, progress=progress,
        store=store, name=name, tags=tags,
    )  # fmt: skip
    assert isinstance(exact, xr.Dataset)
    return compared(_with_absent(exact, family), own, first, drawn, len(candidates), level)


def _direction(estimate: Any, patching: Patching | None) -> Patching:
    told = getattr(estimate, "attrs", {}).get("patching")
    if told is not None and patching is not None and told != patching:
        raise InputError(f"patching={patching!r}, but the estimate is of {told}; verify the same direction")
    return patching or told or "denoising"


def _metric(estimate: Any, metric: MetricLike | None) -> MetricLike:
    """The metric that is verified: the one given, or the estimate's first."""
    if metric is not None:
        return metric
    if isinstance(estimate, xr.Dataset | xr.DataArray) and names.METRIC in estimate.coords:
        return str(np.atleast_1d(estimate[names.METRIC].values)[0])
    return "logit_diff"


def _numbers(estimate: Any, metric: str, family: Family) -> Estimated:
    """The mean estimate of every cell, or its score.

    Raises:
        InputError: it is no estimate, or lacks the metric.
        ShapeMismatchError: it has other axes.
    """
    if not isinstance(estimate, xr.Dataset | xr.DataArray):
        raise InputError(
            f"estimate is a {type(estimate).__name__}; expected effects, such as interp.attribute gives, or an array with the "
            f"axes of where{fx.unread(estimate)}"
        )
    scored = "score" in estimate if isinstance(estimate, xr.Dataset) else estimate.name == "score"
    if isinstance(estimate, xr.Dataset):
        estimate = estimate["score"] if scored else fx.effect(fx.validate(estimate))
    return Estimated(_laid(estimate, metric, family), not scored)


def _laid(array: xr.DataArray, metric: str, family: Family) -> NDArray[np.float64]:
    """The mean over examples, flat, in the order of the family's cells."""
    if names.METRIC in array.coords:
        known = [str(m) for m in np.atleast_1d(array[names.METRIC].values)]
        if metric not in known:
            raise InputError(f"the estimate is of {', '.join(known)}, not of metric {metric!r}; verify one of these")
        array = array.isel({names.METRIC: known.index(metric)}) if names.METRIC in array.dims else array
    mean = array.mean(names.EXAMPLE, skipna=False) if names.EXAMPLE in array.dims else array
    sizes = {axis: list(values) for axis, values in family.axes.items()}
    own = {str(d): mean[d].values.tolist() if d in mean.coords else list(range(mean.sizes[d])) for d in mean.dims}
    if set(own) != set(sizes) or any(list(map(str, own[axis])) != list(map(str, sizes[axis])) for axis in sizes):
        listed = [", ".join(f"{axis} ({len(values)})" for axis, values in one.items()) or "none" for one in (own, sizes)]
        raise ShapeMismatchError(f"the estimate has the axes {listed[0]}, where has {listed[1]}; expected the same cells")
    return mean.transpose(*sizes).values.astype(float).ravel()


def _only(family: Family, chosen: set[int], candidates: NDArray[np.intp]) -> Arranged:
    """The chosen cells where they are, with those that are known by rule, which cost nothing."""
    left = set(candidates.tolist()) - chosen
    numbers = np.flatnonzero(family.exists).tolist()
    there = dict(zip(numbers, family.interventions, strict=True))
    coords = {
        key: value
        for key, value in family.coords.items()
        if isinstance(value, tuple) and isinstance(value[0], str) and value[0] in family.axes
    }
    laid: Sequence[Any] = [None if number in left else there.get(number) for number in range(len(family.exists))]
    return Arranged(laid, family.axes, site=str(family.attrs["site"]), coords=coords)


def _with_absent(exact: xr.Dataset, family: Family) -> xr.Dataset:
    """Cells that were not verified are not computed; absent are those alone whose site does not exist."""
    found = exact.drop_vars("absent", errors="ignore")
    if not family.exists.all():
        sizes = [len(values) for values in family.axes.values()]
        found = found.assign(absent=(tuple(family.axes), ~family.exists.reshape(sizes)))
    return fx.stamped(found)
