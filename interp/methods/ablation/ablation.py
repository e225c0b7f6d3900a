"""Ablation: what is lost when a component's value is replaced by one that does not depend on the prompt.

    >>> where = interp.grid("z", layer=..., head=...)                                             # doctest: +SKIP
    >>> lost = interp.ablate(model, pairs, where, "mean")                                          # doctest: +SKIP
    >>> interp.ablate(model, ["The cat sat on the"], where, "zero").attrs["ablation"]              # doctest: +SKIP

=============  ====================================================================================================
``zero``       the zero vector
``mean``       the mean over examples and over the tokens that the cell changes
``resample``   the value in another example (Chan et al., "Causal scrubbing", 2022)
``optimal``    the constant that hurts least, found by gradient (Li & Janson, arXiv 2409.09951)
=============  ====================================================================================================

Of a linear read-out with weight w and squared loss to the full output, a component of mean μ and variance σ² loses
w²(σ² + μ²) by zero, w²σ² by its mean, which is optimal there, and 2w²σ² by an independent resample.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import axes
from interp.engine import patch
from interp.engine.asked import asked_prompts, listed
from interp.engine.background import Given, Hold, given_changes, held
from interp.engine.families import Family, Where, gridded, named
from interp.engine.filling import fill
from interp.engine.precision import Precision, float32
from interp.engine.prepared import Options, Patching, Prepared, prepare, start
from interp.engine.readout import Reader
from interp.engine.recipe import others, recorded
from interp.engine.stored import Into, StoreLike, loaded
from interp.engine.swept import bare, swept
from interp.errors import InputError, UnknownNameError, UnknownSiteError
from interp.interventions import Activation, Change, Constant, ConstantVector, Intervention, Replace, Source, to_safetensors
from interp.interventions.source import SPAN, UNEQUAL, Unequal
from interp.methods.registry import Method
from interp.metrics import Metric, MetricLike
from interp.metrics import resolve as resolve_metrics
from interp.metrics.protocol import Readout, Reads
from interp.models import Encoded, Model
from interp.prompts import Pair, Pairs, Prompt, Text
from interp.sites import Grid
from interp.training import fit

METHODS = (
    Method(
        id="ablation",
        name="zero, mean and resample ablation",
        paper="Chan et al. 2022, Causal Scrubbing: a method for rigorously testing interpretability hypotheses, "
        "https://www.alignmentforum.org/posts/JvZhhzycHu2Yd57RN",
        mediator="streams, heads, MLPs, units, by position",
        search="exhaustive",
        cost="a forward pass over the reference, and for every cell what of one comes after it",
        function="interp.ablate",
    ),
    Method(
        id="optimal_ablation",
        name="optimal ablation",
        paper="Li & Janson 2024, Optimal Ablation for Interpretability, arXiv 2409.09951",
        mediator="streams, heads, MLPs, units, by position",
        search="exhaustive, with constants by gradient",
        cost="for every cell and step a forward and a backward pass of what comes after it, cells together as rows",
        function="interp.optimal_constants",
    ),
)

Kind = Literal["zero", "mean", "resample", "optimal"]
Reference = Literal["base", "counterfactual"]
Asked = Pairs | Pair | Encoded | Prompt | Text | Sequence[Pair | Prompt | Text]
Numbers = Float[np.ndarray[Any, Any], " cell"]


def ablate(
    model: Model,
    pairs: Asked,
    where: Where,
    kind: Kind = "mean",
    metric: MetricLike | Sequence[MetricLike] | None = None,
    *,
    prompts: Literal["clean", "corrupted"] = "clean",
    reference: Reference = "base",
    over: tuple[str, ...] | None = None,
    by: str | None = None,
    seed: int = 0,
    unequal: Unequal = "last",
    given: Given = None,
    hold: Hold = (),
    loss: MetricLike = "kl",
    steps: int = 100,
    lr: float = 0.05,
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> xr.Dataset | xr.DataTree:
    """Ablate every cell and measure what is left.

    Args:
        pairs: pairs, or plain prompts.
        where: a grid or a site; a mapping of names to such; or interventions, whose sites and positions alone count: their
            changes are ablated together.
        kind: see the table above.
        metric: by default ``"logit_diff"`` of pairs, and ``"kl"`` to the model as it is of plain prompts.
        prompts: which prompts of the pairs the model runs on; :func:`interp.patch` runs on the corrupted ones by default.
        reference: whose values ``mean`` and ``resample`` take: those of the same prompts, or of the pairs' other ones.
        over: of a mean, see :class:`interp.Activation`; by default ``("example", "span")``, of attention rows ``("example",)``.
        by: a mean within groups, ``"template"`` or ``"entities"``.
        seed: of resampling.
        unequal: of resampling, what is done where a role's spans are not equally long in two prompts; see :func:`interp.patch`.
        given: interventions in force on the base, also while constants are trained.
        hold: parts that are frozen at the base's values in every row, also then; see :func:`interp.patch`.
        loss, steps, lr: of ``optimal``, see :func:`optimal_constants`.
        rows, precision, progress, store, name, tags: as for :func:`interp.patch`.

    Returns:
        What :func:`interp.patch` returns, with the attribute ``ablation``: the kind and what it was made from. Optimal
        constants are judged on the prompts that they were trained on (``in_sample``); measure them on others with
        :func:`optimal_constants` and :func:`interp.patch`.

    Raises:
        UnknownNameError, ValueError: an unknown kind, or options that do not go with it.
        InputError: plain prompts have no counterfactual.
        TrainingError, UnknownSiteError: constants that cannot be trained. And what :func:`interp.patch` raises.
    """
    said = others(locals())
    into = Into.of(store, name, tags)
    where = gridded(model, where)
    encoded, paired = asked_prompts(model, pairs)
    recipe = partial(recorded, "ablate", model, encoded, **said)
    _check(kind, prompts, reference, over, by, unequal, paired=paired)
    if kind == "resample" and reference == "base" and len(encoded) == 1:
        raise InputError("kind='resample' takes the values of other prompts, and this is one alone: give several")
    patching: Patching = "noising" if prompts == "clean" else "denoising"
    frozen = held(model, hold)
    options = Options(patching, "auto", given_changes(model, given), frozen, rows, progress=progress, precision=precision)
    made_of: dict[str, Any] = {"kind": kind}
    if kind == "zero":
        source: Source = Constant(0.0)
    elif kind == "resample":
        source = Activation("base" if reference == "base" else "source", pool="resample", seed=seed, unequal=unequal)
        made_of |= {"reference": reference, "seed": seed}
    else:
        over = (axes.EXAMPLE,) if over is None and _square(where) else over or (axes.EXAMPLE, SPAN)
        source = Activation("base" if reference == "base" else "source", pool="mean", over=over, by=by)
        made_of |= {"reference": reference, "over": list(over), "by": by} if kind == "mean" else {}
    metrics = resolve_metrics(metric or ("logit_diff" if paired else "kl"))
    tree = isinstance(where, Mapping)
    trained: list[Intervention] = []
    if kind == "optimal":
        Reader.of(model, encoded, metrics)  # what they need is missed before anything is trained
        made_of |= {"loss": loss if isinstance(loss, str) else None, "steps": steps, "lr": lr}
        families = _families(model, encoded, where, Activation("base"))
        families = _with(families, [one for family in families.values() for one in family.interventions], made_of)
        if into is not None:
            prepared = prepare(model, encoded, [f.interventions for f in families.values()], metrics, options)
            there = loaded(into, bare(prepared, families, {}, tree=tree))
            if there is not None:
                return there
        found, _ = _trained(model, encoded, where, metrics[0], options, given, hold, loss, steps, lr)
        families = _with(families, found.interventions, made_of)
        made_of |= dict(found.training)
        trained = list(found.interventions)
    else:
        families = _families(model, encoded, where, source)
    prepared = prepare(model, encoded, [f.interventions for f in families.values()], metrics, options)
    attrs = {"method": "ablate", "ablation": made_of}
    return swept(prepared, families, attrs, tree=tree, into=into, beside=lambda: recipe() | _kept(trained))


@dataclass(frozen=True, eq=False)
class Optimal:
    """Constants that hurt least, each in an intervention of its own, with the loss on the prompts they were trained on."""

    interventions: tuple[Intervention, ...]
    """One a cell, in the order of the grid; the edit of each change is a :class:`interp.interventions.ConstantVector`."""
    zero: Numbers
    mean: Numbers
    optimal: Numbers
    """At most the smaller of the other two."""
    training: Mapping[str, Any]
    """How they were trained, and the losses' means over cells."""


def optimal_constants(
    model: Model,
    pairs: Asked,
    where: Where,
    *,
    metric: MetricLike | Sequence[MetricLike] | None = None,
    prompts: Literal["clean", "corrupted"] = "clean",
    given: Given = None,
    hold: Hold = (),
    loss: MetricLike = "kl",
    steps: int = 100,
    lr: float = 0.05,
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
) -> Optimal:
    """Train one constant for every change of every cell, all cells together as rows of one pass.

    A grid over positions has a constant for each of them, one without has one for all its tokens. Every step sees all prompts,
    and the best values seen are kept, so that on these prompts the loss is never above that of zero and of the mean.

    Args:
        metric: of which ``loss="metric"`` is the negative; the first, if there are several.
        loss: what is made small: ``"kl"`` to the model as it is on the clean prompts, ``"metric"``, or a metric of your own.
        steps: of Adam, at a rate that falls to zero.
        lr: first learning rate, in units of the cell's root mean square.
        others: as for :func:`ablate`.
    """
    where = gridded(model, where)
    encoded, paired = asked_prompts(model, pairs)
    patching: Patching = "noising" if prompts == "clean" else "denoising"
    frozen = held(model, hold)
    options = Options(patching, "auto", given_changes(model, given), frozen, rows, progress=progress, precision=precision)
    own = resolve_metrics(metric or ("logit_diff" if paired else "kl"))[0]
    return _trained(model, encoded, where, own, options, given, hold, loss, steps, lr)[0]


# ------------------------------------------------------------------------------------------------------- steps


def _trained(
    model: Model,
    encoded: Encoded,
    where: Where,
    metric: Metric,
    options: Options,
    given: Given,
    hold: Hold,
    loss: MetricLike,
    steps: int,
    lr: float,
) -> tuple[Optimal, dict[str, Family]]:
    """See :func:`optimal_constants`; and the families of the cells, with the base's own values in place of constants."""
    if options.patching == "denoising" and loss == "kl":
        raise ValueError("loss='kl' compares with the clean prompts' run, but prompts='corrupted'; pass loss='metric'")
    raised = metric if loss == "metric" else _Lowered(resolve_metrics(loss)[0])
    shared: dict[str, Any] = {name: getattr(options, name) for name in ("patching", "rows", "precision", "progress")}
    shared |= {"given": given, "hold": hold}
    families = _families(model, encoded, where, Activation("base"))
    prepared = prepare(model, encoded, [f.interventions for f in families.values()], (raised,), options)
    moments = _moments(prepared)
    of_zero = [_constants(one, [torch.zeros_like(mean) for mean, _ in own]) for one, own in moments]
    of_mean = [_constants(one, [mean for mean, _ in own]) for one, own in moments]

    def losses(interventions: Sequence[Intervention]) -> Numbers:
        found = patch(model, encoded, list(interventions), raised, **shared)
        assert isinstance(found, xr.Dataset)
        return -found["value"].values[0].mean(-1)

    zero, mean = np.split(losses([*of_zero, *of_mean]), 2)
    begun = [m if better else z for z, m, better in zip(of_zero, of_mean, mean <= zero, strict=True)]
    before = [_values(one) for one in begun]
    seen: list[list[list[Tensor]]] = []
    trained = fit(
        model, encoded, begun, raised, epochs=steps, batch=len(encoded), shuffle=False, optimizer=torch.optim.Adam,
        lr=[lr * max(1e-8, float(np.mean([rms for _, rms in own]))) for _, own in moments],
        schedule=lambda share: 1.0 - share, before_step=lambda step, of: seen.append([_values(one) for one in begun]), **shared,
    )  # fmt: skip
    for cell, best in enumerate(trained.loss.values.argmin(-1).tolist()):
        _put(begun[cell], seen[best][cell])
    optimal = losses(begun)
    for cell in np.flatnonzero(~(optimal <= np.minimum(zero, mean))).tolist():  # by rounding, where nothing was gained
        _put(begun[cell], before[cell])
    optimal = np.fmin(optimal, np.minimum(zero, mean))
    training = {"loss": loss if isinstance(loss, str) else raised.name, "steps": steps, "lr": lr, "in_sample": True}
    training |= {f"loss_{name}": float(of.mean()) for name, of in (("zero", zero), ("mean", mean), ("optimal", optimal))}
    return Optimal(tuple(begun), zero, mean, optimal, training), families


@dataclass(frozen=True, slots=True)
class _Lowered:
    """The negative of a metric, which training raises."""

    metric: Metric

    @property
    def name(self) -> str:
        return f"−{self.metric.name}"

    @property
    def reads(self) -> Reads:
        return self.metric.reads

    def __call__(self, readout: Readout) -> Tensor:
        return -self.metric(readout)


def _families(model: Model, encoded: Encoded, where: Any, source: Source) -> dict[str, Family]:
    """The cells with a source: a grid's, or those of interventions, of which sites and positions alone count."""
    of_grid = isinstance(where, Grid | Mapping)
    change = {"source": source if of_grid else None, "edit": None, "featurizer": None, "keep_error": True}
    if not of_grid:
        where = [
            replace(one, changes=tuple(replace(c, source=source, edit=Replace()) for c in one.changes)) for one in listed(where)
        ]
    return named(model, encoded, where, change)


def _moments(prepared: Prepared) -> list[tuple[Intervention, list[tuple[Tensor, float]]]]:
    """For every change of every cell, the mean of the base's values there, and their root mean square."""
    found = []
    with torch.no_grad(), prepared.session(), float32(prepared.options.precision):
        cells = fill(prepared.cells, prepared.runs, start(prepared))
        for number in (number for family in prepared.families for number in family[:-1]):
            own = []
            for place in (place for place in cells[number].places if not place.given):
                if place.change.square:
                    why = "a row of attention has another length in every prompt"
                    raise UnknownSiteError("site for a constant", repr(place.change.site), ["z", "result"], why=why)
                assert place.values is not None
                example, slot = (place.columns >= 0).nonzero(as_tuple=True)
                values = place.values.at(example, slot)
                values = values.to(torch.promote_types(values.dtype, torch.float32))
                own.append((values.mean(0), float(values.square().mean().sqrt())))
            found.append((prepared.interventions[number], own))
    return found


def _constants(intervention: Intervention, values: Sequence[Tensor]) -> Intervention:
    """The same places with constants of their own."""
    changes = (
        Change(c.site, c.positions, None, ConstantVector(v.shape, start=v), c.featurizer, c.keep_error)
        for c, v in zip(intervention.changes, values, strict=True)
    )
    return replace(intervention, changes=tuple(changes))


def _edits(intervention: Intervention) -> list[ConstantVector]:
    return [change.edit for change in intervention.changes if isinstance(change.edit, ConstantVector)]


def _values(intervention: Intervention) -> list[Tensor]:
    return [edit.value.detach().clone() for edit in _edits(intervention)]


def _put(intervention: Intervention, values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for edit, value in zip(_edits(intervention), values, strict=True):
            edit.value.copy_(value)


def _with(families: dict[str, Family], interventions: Sequence[Intervention], said: Mapping[str, Any]) -> dict[str, Family]:
    """The families with trained interventions in place of their own, in their order."""
    found, first = {}, 0
    for name, family in families.items():
        own = list(interventions[first : first + len(family.interventions)])
        spec = {key: value for key, value in family.spec.items() if key != "change"} | {"ablation": dict(said)}
        spec |= {"function": None} if said["loss"] is None else {}  # a loss of one's own has no written form
        found[name], first = replace(family, interventions=own, spec=spec), first + len(own)
    return found


def _kept(trained: list[Intervention]) -> dict[str, bytes]:
    """Trained constants as a file beside a run; :func:`interp.interventions.from_safetensors` reads it."""
    return {"constants.safetensors": to_safetensors(trained)} if trained else {}


def _square(where: Any) -> bool:
    grids = where.values() if isinstance(where, Mapping) else [where]
    return any(isinstance(grid, Grid) and grid.site.square for grid in grids)


def _check(kind: Any, prompts: Any, reference: Any, over: Any, by: Any, unequal: Any, *, paired: bool) -> None:
    sides = ("prompts", prompts, ("clean", "corrupted"))
    known = (
        ("kind", kind, get_args(Kind)),
        sides,
        ("reference", reference, get_args(Reference)),
        ("unequal", unequal, UNEQUAL),
    )
    for name, value, names in known:
        if value not in names:
            raise UnknownNameError(name, value, names)
    if (over is not None or by is not None) and kind != "mean":
        raise ValueError(f"over={over!r} and by={by!r} are for kind='mean', but kind={kind!r}")
    if unequal != "last" and kind != "resample":
        raise ValueError(f"unequal={unequal!r} is for kind='resample', but kind={kind!r}")
    if reference == "counterfactual" and kind in ("zero", "optimal"):
        raise ValueError(f"reference='counterfactual' is for kind='mean' and 'resample', but kind={kind!r}")
    if reference == "counterfactual" and not paired:
        raise InputError("reference='counterfactual', but these are prompts without one; pass interp.Pair(clean, corrupted)")
