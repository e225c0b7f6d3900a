"""Integrated gradients: slopes along a path from the base to the source instead of at the base alone.

>>> where = interp.grid("z", layer=..., head=...)                                              # doctest: +SKIP
>>> estimated = interp.integrated_gradients(model, pairs, where, steps=5)                      # doctest: +SKIP
>>> estimated = interp.integrated_gradients(model, pairs, where, along="activations")          # doctest: +SKIP

1. Choose a path h(α), 0 ≤ α ≤ 1, from the base run to the source:

   ``embeddings``   token embeddings go from the base prompt's to the source prompt's, e + α(e' − e), and everything behind them
                    follows (EAP-IG's "inputs")
   ``activations``  the cells of one tensor go from what they hold to what they would write, tensor by tensor; cells that share
                    a coordinate, and those that change several tensors, each go alone (EAP-IG's "activations")

2. Take the gradient g(α) of the metric at every site, at the points of a quadrature of the interval from 0 to 1.
3. Weigh: estimate of a cell = Σ w · ⟨g(α), h' − h⟩, with h the base's activation and h' what the cell writes.

Along embeddings all cells share ``steps`` forward and backward passes; along activations every tensor has its own, and the
estimates of its cells add up to the exact effect of making all of them together, as the steps grow (completeness). Along
embeddings only those of the embeddings do: behind a nonlinearity h(α) is no straight line, and h' − h is its chord. With a
network that is linear one step is exact in both.

Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", arXiv 1703.01365; Hanna, Pezzelle and Belinkov, "Have
Faith in Faithfulness: Going Beyond Circuit Overlap When Finding Model Mechanisms", arXiv 2403.17806.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
import xarray as xr
from torch import Tensor

from interp.engine.asked import asked_pairs
from interp.engine.background import Given, Hold
from interp.engine.cells import Cell, place
from interp.engine.edits import Edits
from interp.engine.estimates.cells import apart, joint_writes
from interp.engine.estimates.estimated import Estimating, Moved, Part, estimated, reached
from interp.engine.estimates.quadrature import Nodes, Quadrature, nodes
from interp.engine.estimates.slopes import Slopes
from interp.engine.families import Where
from interp.engine.filling import fill
from interp.engine.precision import Precision
from interp.engine.prepared import Patching, Prepared
from interp.engine.stored import StoreLike
from interp.errors import InputError, UnknownNameError, require_whole
from interp.interventions import Activation, Change, EditLike, Featurizer, Intervention, Source
from interp.interventions.source import Unequal
from interp.methods.registry import Method
from interp.metrics import MetricLike
from interp.models import Model
from interp.models.taps import Write
from interp.sites import Site

METHOD = Method(
    id="integrated_gradients",
    name="integrated gradients",
    paper="Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks, arXiv 1703.01365; Hanna et al. 2024, Have Faith "
    "in Faithfulness: Going Beyond Circuit Overlap When Finding Model Mechanisms, arXiv 2403.17806",
    mediator="streams, heads, MLPs, units, attention patterns, by position",
    search="gradient",
    cost="a forward and a backward pass a step and metric for all cells; along activations, for every tensor",
    function="interp.integrated_gradients",
)
Along = Literal["embeddings", "activations"]


def integrated_gradients(
    model: Model,
    pairs: Any,
    where: Where,
    metric: MetricLike | Sequence[MetricLike] = "logit_diff",
    *,
    along: Along = "embeddings",
    steps: int = 5,
    quadrature: Quadrature = "gauss",
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
    """Estimate every intervention on every pair by slopes along a path.

    Args:
        model, pairs, where, metric, patching, source, edit, featurizer, keep_error, unequal, corruption, given, hold, rows,
            skip_inert, precision, progress, store, name, tags: as for :func:`interp.attribute`.
        along: which path, see above; that of embeddings needs pairs of equal length.
        steps: points at which gradients are taken.
        quadrature: ``"gauss"`` (Gauss and Legendre's, exact for a gradient that is a polynomial in α of a degree below twice
            the steps), ``"midpoint"``, ``"left"``, ``"right"`` (α = 1/m, 2/m … 1, as in EAP-IG's code) or ``"trapezoid"``.

    Returns:
        What :func:`interp.attribute` returns; attributes ``along``, ``steps`` and ``quadrature`` say how it was made.

    Raises:
        UnknownNameError: an unknown path or quadrature.
        InputError: no step; prompts without a counterfactual, or a model without token embeddings, have no path of embeddings.
        UnequalLengthsError: the prompts of a pair differ in length. And what :func:`interp.attribute` raises.
    """
    said = locals()
    for argument, value, known in (("along", along, Along), ("quadrature", quadrature, Quadrature)):
        if value not in get_args(known):
            raise UnknownNameError(argument, value, get_args(known))
    require_whole("steps", steps, "at how many points gradients are taken")
    facts = {"estimate": "integrated gradients", "along": along, "steps": steps, "quadrature": quadrature}
    points = nodes(quadrature, steps)
    if along == "activations":
        return estimated("integrated_gradients", said, partial(_along_activations, points), facts)
    said["pairs"], paired = asked_pairs(model, pairs)
    if not paired and corruption is None:
        raise InputError(
            "along='embeddings' goes from one prompt of a pair to the other, but these are no pairs: pass interp.Pair(clean, "
            "corrupted), or along='activations'"
        )
    return estimated("integrated_gradients", said, partial(_along_embeddings, points), facts, needs=_embeddings)


# ------------------------------------------------------------------------------------------------------- the two paths


def _along_embeddings(points: Nodes, sweep: Estimating) -> Callable[[Part], Moved]:
    p = sweep.prepared
    ends = Intervention(tuple(Change(site, source=Activation()) for site in _embeddings(p)), ordered=True)
    path = fill(place([ends], p.runs, p.given.intervention if p.given is not None else None), p.runs, sweep.known)[0]

    def of(part: Part) -> Moved:
        edits = Edits.of(path, part.examples)
        ends = {site: edits.write(site, own=True) for site in edits.sites(own=True)}
        base = part.read(sweep.cells.sites)
        moved = torch.zeros((), dtype=sweep.cells.dtype)
        for alpha, weight in zip(*points, strict=True):
            found = part.graph(sweep.cells.sites, _partly(ends, float(alpha))).slopes()
            step = Slopes(base.value, base.activation, found.gradient)
            moved = moved + float(weight) * sweep.cells.moved(part.examples, step)
        return Moved(base.value, moved)

    return of


def _along_activations(points: Nodes, sweep: Estimating) -> Callable[[Part], Moved]:
    groups = [group for family in sweep.prepared.families for group in _groups(sweep.cells.each, family[:-1])]

    def of(part: Part) -> Moved:
        base = part.read([]).value
        size = (len(base), len(sweep.prepared.by_rule), len(part.examples))
        moved = torch.zeros(size, dtype=sweep.cells.dtype, device=part.examples.device)
        for numbers in groups:
            if bool(sweep.prepared.by_rule[numbers][:, part.examples].all()):
                continue
            ends = joint_writes((sweep.cells.each[number] for number in numbers), part.examples)
            for alpha, weight in zip(*points, strict=True):
                before: dict[Site, Tensor] = {}
                found = part.graph(list(ends), _partly(ends, float(alpha), before)).slopes()
                step = Slopes(base, before, found.gradient)
                moved[:, numbers] += float(weight) * sweep.cells.moved(part.examples, step, numbers)[:, numbers]
        return Moved(base, moved)

    return of


def _groups(cells: Mapping[int, Cell], numbers: Collection[int]) -> list[list[int]]:
    """Cells that go along one path: those of one tensor that share no coordinate; those of several tensors alone."""
    alike: dict[Any, dict[int, Cell]] = defaultdict(dict)
    for number in numbers:
        tensors = {place.tensor for place in cells[number].places}
        alike[tensors.pop() if len(tensors) == 1 else number][number] = cells[number]
    return [group for own in alike.values() for group in apart(own)]


def _partly(ends: Mapping[Site, Write], alpha: float, before: dict[Site, Tensor] | None = None) -> dict[Site, Write]:
    """Writes that go a part of the way.

    Args:
        before: takes what the sites held.
    """

    def write(site: Site) -> Write:
        def part(h: Tensor) -> Tensor:
            if before is not None:
                before[site] = h.detach()
            end = ends[site](h)
            return torch.where(end == h, h, h + alpha * (end - h))  # −∞ stays where both are

        return part

    return {site: write(site) for site in ends}


def _embeddings(prepared: Prepared) -> list[Site]:
    """Where tokens enter, in every stream.

    Raises:
        InputError: nowhere.
    """
    streams, model = reached(prepared), prepared.model
    found = [site for site in model.sites() if site.name == "embed" and site.stream in streams]
    if not found:
        raise InputError(
            f"{model.name} has no token embeddings, so along='embeddings' has no path to go; pass along='activations'"
        )
    return found
