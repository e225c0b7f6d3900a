"""Sweeps: a grid of interventions on every pair, to one labelled result.

>>> model = interp.load("zoo/language-4l")                                              # doctest: +SKIP
>>> pairs = interp.tasks.ioi(64, seed=0)                                                # doctest: +SKIP
>>> where = interp.grid("resid_pre", layer=..., position=["S1", "S2", "END"])           # doctest: +SKIP
>>> effects = interp.patch(model, pairs, where, metric="logit_diff")                    # doctest: +SKIP
>>> effects.value.dims                                                                  # doctest: +SKIP
('metric', 'layer', 'position', 'example')
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import xarray as xr

from interp.engine.asked import together
from interp.engine.background import Given, Hold, given_changes, held
from interp.engine.families import Where, asked, check_words, sourced
from interp.engine.plan import Plan
from interp.engine.precision import Precision
from interp.engine.prepared import Options, Patching, Strategy
from interp.engine.recipe import others, recorded
from interp.engine.stored import Into, StoreLike
from interp.engine.swept import swept
from interp.interventions import EditLike, Featurizer, Source
from interp.interventions.source import Unequal
from interp.metrics import MetricLike
from interp.models import Model


def patch(
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
    strategy: Strategy = "auto",
    rows: int | None = None,
    skip_inert: bool = True,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> xr.Dataset | xr.DataTree:
    """Run every intervention on every pair and measure it.

    Args:
        model: from :func:`interp.load`.
        pairs: of a task, your own, or already encoded by ``model.encode``; or prompts in any form that :func:`interp.run`
            takes, where nothing is taken from a counterfactual: recovery and damage of such results are not defined.
        where: a grid; a site such as ``"L3.z"``, or ``"z"`` for that of every layer; a mapping of names to such, for several
            families; or interventions, one or several, which then say their own source, edit and featurizer.
        metric: one or several names, metric objects or functions of logits.
        patching: ``"denoising"`` runs on the corrupted prompt and takes values from the clean one; ``"noising"`` the reverse.
        source: what is written; by default the other prompt's activation at the same place. Zero ablation of ``z`` depends on
            where value biases stand (see :func:`interp.interventions.zero`); results then have the attribute ``gauge``.
        edit: what is done with it, or any function ``(h, ctx) -> h``; by default it replaces the value.
        featurizer: the basis in which it is done; by default the site's own.
        keep_error: add back what a lossy featurizer does not encode.
        unequal: where a role's spans are not equally long in the two prompts of a pair: ``"last"`` writes the last token of the
            source's span at the last token of the base's, ``"mean"`` the mean over the source's span at every token of the
            base's, ``"refuse"`` raises. Equal spans are matched token by token. Where it mattered, results have the attribute
            ``unequal``. A source that you give says it itself (:class:`interp.Activation`).
        corruption: what makes the corrupted run, in place of other prompts: each pair's clean prompt with these interventions
            in force, such as noise on the subject, ``Change("embed", "subject", Noise(0.1), Add())``. Plain prompts do then.
            The clean run is without them; both directions of patching take it so.
        given: interventions in force on the base of every cell. The base that effects are counted from is then the changed one,
            and the source ``"base"`` means its activations.
        hold: parts of every row that are frozen at the base's values, so that an intervention moves what is left: sites,
            components (``"pattern"``, ``"mlp_out"``), ``"ln_scale"`` for what norms divide by. An intervention's own change of
            such a part is made all the same.
        strategy: ``"wavefront"`` (rows resume where they change something), ``"batched"`` (whole forward passes of many rows),
            ``"serial"`` (the reference: one intervention a pass), or ``"auto"``: the first where it can, else the second.
        rows: most rows in one pass; by default what a memory budget allows.
        skip_inert: take cells that cannot have an effect as zero by rule; False runs them too.
        precision: ``"full"`` computes float32 products in full; ``"fast"`` lets a GPU use TF32, which moves results by more
            than rounding. Half precision and float64 models are what they are.
        progress: show a bar; by default after the first second.
        store: where to keep the result: a store, its folder or its address. A run that is there already is loaded, not run
            again; one that was stopped goes on where it was; several processes asked for the same run share the work.
        name: of the run in the store.
        tags: likewise.

    Returns:
        Effects with dims ``(metric, *axes of the grid, example)``, ``("metric", "cell", "example")`` for interventions, or a
        ``DataTree`` of such for several families. See :mod:`interp.effects`.

    Raises:
        InputError: a value of the other prompt is asked for, but these are no pairs.
        UnequalLengthsError: raw positions are matched between prompts of different length.
        AnswerError, UnknownSiteError, HeadOutOfRangeError, PositionError, ShapeMismatchError: see there.
        StoreError: a store that cannot be had, or a run in it that is damaged or was begun by another model.
    """
    said = others(locals())
    check_words(patching, strategy, precision)
    into = Into.of(store, name, tags)
    options = Options(
        *(patching, strategy, given_changes(model, given), held(model, hold), rows, skip_inert, progress, precision),
        corruption=together(corruption, "corruption"),
    )
    change = {"source": sourced(source, unequal), "edit": edit, "featurizer": featurizer, "keep_error": keep_error}
    prepared, families = asked(model, pairs, where, metric, change, options)
    recipe = partial(recorded, "patch", model, prepared.encoded, **said)
    return swept(prepared, families, {"method": "patch"}, tree=isinstance(where, Mapping), into=into, beside=recipe)


def explain(
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
    strategy: Strategy = "auto",
    rows: int | None = None,
    skip_inert: bool = True,
    precision: Precision = "full",
) -> Plan:
    """What :func:`patch` would do with the same arguments: rows, passes, operations, time, memory. No prompt is run.

    Printed, it is a page to read; its attributes are the numbers.

    Raises:
        The same as :func:`patch`, as far as nothing has to be run to know it.
    """
    check_words(patching, strategy, precision)
    options = Options(
        *(patching, strategy, given_changes(model, given), held(model, hold), rows, skip_inert, None, precision),
        corruption=together(corruption, "corruption"),
    )
    change = {"source": sourced(source, unequal), "edit": edit, "featurizer": featurizer, "keep_error": keep_error}
    return Plan.of(asked(model, pairs, where, metric, change, options)[0])
