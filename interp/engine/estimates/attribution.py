"""Attribution patching: the effect of every intervention to first order, from one forward and one backward pass.

>>> where = interp.grid("z", layer=..., head=...)                                       # doctest: +SKIP
>>> estimated = interp.attribute(model, pairs, where, metric="logit_diff")              # doctest: +SKIP
>>> exact = interp.patch(model, pairs, where, metric="logit_diff")                      # doctest: +SKIP

Where a sweep runs the network once more for every cell, this takes its slope on the base run: the value is estimated as the
base's plus Σ g · (h' − h), with h the base's activation, h' what the intervention would write in its place, and g the gradient
of the metric there (Nanda, "Attribution patching", 2023; Syed et al., arXiv 2310.10348). It is exact where the metric is linear
in the site, and far off where attention saturates or a norm rescales: confirm what matters with :func:`interp.patch`.

Cells of one change that differ in the head or unit alone are estimated together (:mod:`interp.engine.estimates.bundles`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import xarray as xr

from interp.engine.asked import contrasted
from interp.engine.background import Given, Hold
from interp.engine.estimates.estimated import Estimating, Found, Moved, Part, estimated
from interp.engine.families import Where
from interp.engine.precision import Precision
from interp.engine.prepared import Patching, Prepared
from interp.engine.stored import StoreLike
from interp.interventions import EditLike, Featurizer, Source
from interp.interventions.source import Unequal
from interp.metrics import MetricLike
from interp.models import Model

ESTIMATE = "first order"


def attribute(
    model: Model,
    pairs: Any,
    where: Where,
    metric: MetricLike | Sequence[MetricLike] = "logit_diff",
    *,
    patching: Patching = "denoising",
    source: Source | None = None,
    edit: EditLike | None = None,
    featurizer: Featurizer | None = None,
    keep_error: bool = True,
    unequal: Unequal = "last",
    corruption: Given = None,
    given: Given = None,
    hold: Hold = (),
    rows: int | None = None,
    skip_inert: bool = True,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> xr.Dataset | xr.DataTree:
    """Estimate every intervention on every pair to first order.

    All cells, also those of several grids, share one forward pass and one backward pass a metric on the base, and one forward
    pass of whatever else is read as a source. The changes of one intervention add up; those that meet in one tensor are made in
    their order.

    Args:
        model, pairs, where, metric, patching, source, edit, featurizer, keep_error, unequal: as for :func:`interp.patch`. The
            metric has a gradient: it does not count or compare.
        corruption: as for :func:`interp.patch`.
        given: interventions in force on the base; slopes are taken there.
        hold: as for :func:`interp.patch`; slopes do not lead through what is held.
        rows: most examples in one forward and backward pass; by default what a memory budget allows.
        skip_inert: take cells that cannot have an effect as zero by rule; False estimates them too.
        precision: as for :func:`interp.patch`.
        progress: show a bar; by default after the first second.
        store: where to keep the result, which is one unit: a run that is there already is loaded, not estimated again.
        name: of the run in the store.
        tags: likewise.

    Returns:
        What :func:`interp.patch` returns for the same arguments, ``value`` being an estimate: the attribute ``strategy`` is
        ``"attribution"``, ``estimate`` is ``"first order"``. The noise floor is 0: writing back a site's value moves nothing.

    Raises:
        GradientError: the metric has no gradient, or a site does not lead to it.
        InputError: a value of the other prompt is asked for, but these are no pairs.
        UnequalLengthsError, AnswerError, UnknownSiteError, HeadOutOfRangeError, PositionError, ShapeMismatchError, OrderError:
            as for :func:`interp.patch`.
        StoreError: a store that cannot be had.
    """
    return estimated("attribute", locals(), _first_order, {"estimate": ESTIMATE}, check=warn_of_least)


def _first_order(sweep: Estimating) -> Callable[[Part], Moved]:
    def of(part: Part) -> Moved:
        found = part.graph(sweep.cells.sites).slopes()
        return Moved(found.value, sweep.cells.moved(part.examples, found))

    return of


def warn_of_least(prepared: Prepared, found: Found) -> None:
    """A metric that compares with the clean run is at its least there, and has no slope: no cell would seem to matter."""
    alone = not contrasted(prepared.encoded)
    if (prepared.runs.side["base"] != "clean" and not alone) or prepared.given is not None or bool(prepared.by_rule.all()):
        return
    instead = "another metric" if alone else "patching='denoising', or another metric"
    for number, metric in enumerate(prepared.metrics):
        contrast = float((found.clean[number] - found.corrupt[number]).abs().max())
        if metric.reads.reference and (alone or float(found.moved[number].abs().max()) <= 1e-4 * contrast):
            warnings.warn(
                f"metric {metric.name!r} compares with the clean run, which is the base here: it has no slope there, and every "
                f"estimate is 0 to first order; use {instead}",
                RuntimeWarning,
                stacklevel=5,
            )
