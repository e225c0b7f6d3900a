"""Attribution patching: the effect of every intervention to first order, from one forward and one backward pass.

>>> where = interp.grid("z", layer=..., head=...)                                       # doctest: +SKIP
>>> estimated = interp.attribute(model, pairs, where, metric="logit_diff")              # doctest: +SKIP
>>> exact = interp.patch(model, pairs, where, metric="logit_diff")                      # doctest: +SKIP

Where a sweep runs the network once more for every cell, this takes its slope on the base run: the value is estimated as the
base's plus Σ g · (h' − h), with h the base's activation, h' what the intervention would write in its place, and g the gradient
of the metric there (Nanda, "Attribution patching", 2023; Syed et al., arXiv 2310.10348). It is exact where the metric is linear
in the site, and far off where attention saturates or a norm rescales: confirm what matters with :func:`interp.patch`.

Cells of one change that differ in the head or unit alone are estimated together (:mod:`interp.engine.bundles`).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from interp.engine import provenance, recipe
from interp.engine.asked import contrasted, together
from interp.engine.background import Given, Hold, given_changes, held, in_force
from interp.engine.batches import halvings, in_batches
from interp.engine.bundles import bundled, difference
from interp.engine.cells import Cell
from interp.engine.edits import Edits
from interp.engine.families import Where, asked, check_words, labelled, sourced
from interp.engine.filling import fill
from interp.engine.layout import canonical
from interp.engine.measure import Measured, require_finite, sources, warn_of_nan
from interp.engine.precision import Precision
from interp.engine.prepared import Options, Patching, Prepared, start
from interp.engine.recipe import others
from interp.engine.slopes import Slopes, differentiable, examples_a_pass, slopes
from interp.engine.spans import recorded
from interp.engine.stored import Into, Result, StoreLike, whole
from interp.engine.swept import bare, joined
from interp.errors import GradientError
from interp.interventions import Cut, EditLike, Featurizer, Source
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
    said = others(locals())
    check_words(patching, precision=precision)
    into = Into.of(store, name, tags)
    options = Options(
        *(patching, "batched", given_changes(model, given), held(model, hold), rows, skip_inert, progress, precision),
        corruption=together(corruption, "corruption"),
    )
    change = {"source": sourced(source, unequal), "edit": edit, "featurizer": featurizer, "keep_error": keep_error}
    prepared, families = asked(model, pairs, where, metric, change, options)
    changes = [change for family in families.values() for i in family.interventions for change in i.changes]
    cut = next((change for change in changes if isinstance(change.edit, Cut)), None)
    if cut is not None:
        raise GradientError(
            f"{cut!r}: −∞ has no first-order estimate; set probabilities to 0 (Scale(0.0) of a pattern), or patch"
        )
    families = {key: replace(family, spec=family.spec | {"estimate": ESTIMATE}) for key, family in families.items()}
    tree = isinstance(where, Mapping)

    def make() -> Result:
        each = zip(_estimated(prepared), families.values(), strict=True)
        return joined([labelled(prepared, measured, family) for measured, family in each], families, {}, tree=tree)

    if into is None:
        return make()
    written = partial(recipe.recorded, "attribute", model, prepared.encoded, **said)
    return whole(into, bare(prepared, families, {}, tree=tree), make, beside=written)


class _Found(NamedTuple):
    """What the passes of a sweep gave."""

    clean: Float[Tensor, "metric example"]
    corrupt: Float[Tensor, "metric example"]
    base: Float[Tensor, "metric example"]
    """With what is given in force."""
    moved: Float[Tensor, "metric cell example"]
    """By how much each cell moves the base, to first order."""
    facts: dict[str, Any]
    """What is true of every family's result."""


def _estimated(prepared: Prepared) -> list[Measured]:
    """Every family of a sweep, estimated."""
    began = time.perf_counter()
    found = _passes(prepared)
    value = found.base[:, None] + found.moved
    require_finite(
        {"clean prompt": found.clean, "corrupted prompt": found.corrupt, "base prompt": found.base}, prepared.metrics
    )
    _warn_of_least(prepared, found)
    wall_seconds = time.perf_counter() - began
    measured = []
    for family in prepared.families:
        own = slice(family.start, family.stop - 1)
        facts = found.facts | _facts(prepared, own) | {"wall_seconds": wall_seconds}
        facts |= recorded(prepared.cells[own])
        facts["rows_not_a_number"] = warn_of_nan(value[:, own], prepared.cells[own])
        measured.append(
            Measured(
                value[:, own].cpu().numpy(),
                found.clean.cpu().numpy(),
                found.corrupt.cpu().numpy(),
                found.base.cpu().numpy() if prepared.options.given is not None else None,
                prepared.by_rule[own].cpu().numpy(),
                facts,
            )
        )
    return measured


def _facts(prepared: Prepared, own: slice) -> dict[str, Any]:
    """What a family's result says about how it was made."""
    options, interventions = prepared.options, prepared.interventions[own]
    return {
        "source": sources(interventions, options.patching),
        "edit": repr(interventions[0].changes[0].edit),
        **in_force(prepared.model, options.given, options.hold, options.corruption),
        "method": "attribute",
        "strategy": "attribution",
        "estimate": ESTIMATE,
        "rows": int((~prepared.by_rule[own]).sum()),
        "rows_by_rule": int(prepared.by_rule[own].sum()),
        "noise_floor": {metric.name: 0.0 for metric in prepared.metrics},
    }


def _passes(prepared: Prepared) -> _Found:
    """Source runs, then the base forward and backward, a batch of examples at a time."""
    model, encoded, runs, reader, options = (
        *(prepared.model, prepared.encoded, prepared.runs, prepared.reader, prepared.options),
    )
    everyone = torch.arange(len(encoded), device=model.device)
    limit = examples_a_pass(model, encoded, reader, options.rows)
    bar = {"disable": options.progress is False, "delay": 0 if options.progress else 1, "leave": False}
    with differentiable(model, prepared.sites, options.precision), halvings() as halved:
        with torch.no_grad():
            sides = [side for side in ("clean", "corrupted") if options.given is not None or side != runs.side["base"]]
            runs.want_logits(*sides)
            known = start(prepared)
            cells = _Cells(prepared, known)
            beside = fill([prepared.held], runs, known)[0] if prepared.held is not None else None
            reference = runs.reference
            alone = {side: reader.measure(runs.logits(side), everyone, reference) for side in sides}

        def run(chunk: slice) -> tuple[Tensor, Tensor]:
            examples = everyone[chunk]
            frozen = None if beside is None else Edits.of(beside, examples).writes()
            found = slopes(model, reader, runs.base.take(chunk), examples, cells.sites, reference, frozen)
            with torch.no_grad():
                return found.value, cells.moved(examples, found)

        with tqdm(total=len(encoded), unit="example", **bar) as progress:
            parts = in_batches(len(encoded), limit, run, progress.update)
        facts = provenance.attributes(prepared.subject, options.patching, prepared.metrics)
        facts |= {"passes": len(parts), "out_of_memory": len(halved)}
    base, moved = (torch.cat([part[which] for part in parts], dim=-1) for which in (0, 1))
    alone.setdefault(runs.side["base"], base)
    return _Found(alone["clean"], alone["corrupted"], base, moved, facts)


class _Cells:
    """The cells to estimate with what they write: those of one change in bundles, those of several changes one by one."""

    def __init__(self, prepared: Prepared, known: Sequence[Cell]) -> None:
        cells = {number: prepared.cells[number] for family in prepared.families for number in family[:-1]}
        single = {number: cell for number, cell in cells.items() if len(cell.intervention.changes) == 1}
        several = {number: cell for number, cell in cells.items() if number not in single}
        bundles = bundled(single)
        filled = fill([*(bundle.cell for bundle in bundles), *several.values()], prepared.runs, known)
        self.by_rule, self.dtype = prepared.by_rule, prepared.reader.dtype
        self.bundles = [bundle.filled(cell) for bundle, cell in zip(bundles, filled[: len(bundles)], strict=True)]
        self.several = dict(zip(several, filled[len(bundles) :], strict=True))
        changes = [change for cell in filled for change in cell.intervention.changes]
        self.sites = list(dict.fromkeys(change.site.tensor for change in changes))

    def moved(self, examples: Tensor, found: Slopes) -> Float[Tensor, "metric cell example"]:
        """By how much each cell moves each metric; 0 by rule where it cannot."""
        total = torch.zeros(len(found.gradient), len(self.by_rule), len(examples), dtype=self.dtype, device=examples.device)
        by_rule = self.by_rule[:, examples]
        for bundle in self.bundles:
            if not bool(by_rule[bundle.numbers[0]].all()):
                h = canonical(bundle.site, found.activation[bundle.site])
                gradients = [canonical(bundle.site, gradient[bundle.site]) for gradient in found.gradient]
                total[:, bundle.numbers] = bundle.moved(examples, h, gradients, self.dtype).to(total.device)
        for number, cell in self.several.items():
            if not bool(by_rule[number].all()):
                total[:, number] = self._together(cell, examples, found).to(total.device)
        return total.masked_fill(by_rule, 0.0)

    def _together(self, cell: Cell, examples: Tensor, found: Slopes) -> Float[Tensor, "metric example"]:
        """The sum over tensors of what several changes move."""
        edits = Edits.of(cell, examples)
        total = torch.zeros(len(found.gradient), len(examples), dtype=self.dtype, device=examples.device)
        for site in edits.sites(own=True):
            h = found.activation[site]
            step = difference(edits.write(site, own=True)(h), h, self.dtype)
            total += torch.stack([(g[site].to(step) * step).flatten(1).sum(1) for g in found.gradient]).to(total.device)
        return total


def _warn_of_least(prepared: Prepared, found: _Found) -> None:
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
                stacklevel=4,
            )
