"""AtP*: attribution patching without its two systematic blind spots.

>>> found = interp.atp_star(model, pairs, interp.grid("q", head=...), patching="noising")      # doctest: +SKIP
>>> interp.views.heatmap(found, "score")                                                       # doctest: +SKIP
>>> found["score"].sel(metric="logit_diff").mean("example").to_series().nlargest(10)           # doctest: +SKIP

1. *Query and key fix.* A gradient through a softmax that sits at 0 or 1 is zero, whatever another query would do. Queries and
   keys are therefore followed through the softmax exactly, and to first order from the attention pattern on: score =
   ⟨p' − p, ∂M/∂p⟩ (:mod:`interp.engine.estimates.query_key`).
2. *GradDrop.* A direct effect that a later layer takes back cancels in the gradient. For every layer ℓ one more backward pass,
   in which the gradient does not lead through what layer ℓ adds to the stream, only past it, gives AtP_ℓ(n).
3. Score of a node = Σ_ℓ |AtP_ℓ(n)| / (L − 1) on each pair, then the mean over pairs: of L layers one is the node's own, which
   leaves nothing of it. A node of the stream is in no layer and has L drops that leave it, so it is divided by L.
4. Verify the nodes of largest score by patching them (:func:`interp.verify`); :func:`interp.subset_bound` bounds what is left.

Kramár, Lieberum, Shah and Nanda, "AtP*: An efficient and scalable method for localizing LLM behaviour to components", arXiv
2403.00745.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
import xarray as xr
from torch import Tensor

from interp.engine.background import Given, Hold
from interp.engine.estimates.attribution import warn_of_least
from interp.engine.estimates.cells import Cells
from interp.engine.estimates.estimated import Estimating, Moved, Part, estimated, reached
from interp.engine.estimates.query_key import QueryKey, needed
from interp.engine.estimates.slopes import Slopes
from interp.engine.families import Where
from interp.engine.precision import Precision
from interp.engine.prepared import Patching, Prepared
from interp.engine.stored import StoreLike
from interp.errors import InputError, UnknownNameError
from interp.interventions import EditLike, Featurizer, Source
from interp.interventions.source import Unequal
from interp.methods.registry import Method
from interp.metrics import MetricLike
from interp.models import Model
from interp.models.taps import Write
from interp.sites import Site

METHOD = Method(
    id="atp_star",
    name="AtP*",
    paper="Kramár et al. 2024, AtP*: An efficient and scalable method for localizing LLM behaviour to components, "
    "arXiv 2403.00745",
    mediator="queries, keys, streams, heads, MLPs, units, by position",
    search="gradient",
    cost="four forward passes, and a backward pass for every layer and metric, for all cells together",
    function="interp.atp_star",
)
How = Literal["atp", "atp+qk", "atp+gd", "atp*"]
ADDED = ("attn_out", "cross_out", "mixer_out", "mlp_out")
"""What a layer adds to the stream."""


def atp_star(
    model: Model,
    pairs: Any,
    where: Where,
    metric: MetricLike | Sequence[MetricLike] = "logit_diff",
    *,
    method: How = "atp*",
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
    """Score every intervention on every pair.

    One forward pass, one with all queries and one with all keys replaced, and a backward pass for every layer and metric.

    Args:
        model, pairs, where, metric, patching, source, edit, featurizer, keep_error, unequal, corruption, given, hold, rows,
            skip_inert, precision, progress, store, name, tags: as for :func:`interp.attribute`. The paper patches by noising.
        method: ``"atp*"``, or with the fix of queries and keys alone (``"atp+qk"``), with GradDrop alone (``"atp+gd"``), or
            with neither (``"atp"``).

    Returns:
        Effects as those of :func:`interp.attribute`, in which ``value`` is the signed estimate without GradDrop, with the
        further variable ``score`` of the same dims: what the method ranks by, 0 or more on every example. It is no effect: with
        GradDrop it is a mean over networks of a layer less, without it the size of the signed estimate. Its mean over examples
        ranks.

    Raises:
        UnknownNameError: an unknown method.
        InputError: the model has too few layers whose parts are known.
        UnknownSiteError: queries without a known pattern. And what :func:`interp.attribute` raises.
    """
    said = locals()
    if method not in get_args(How):
        raise UnknownNameError("method", method, get_args(How))
    fixed, dropping = method in ("atp+qk", "atp*"), method in ("atp+gd", "atp*")

    def needs(prepared: Prepared) -> list[Site]:
        layers = _layers(prepared) if dropping else []
        return [*(needed(prepared) if fixed else ()), *(site for layer in layers for site in layer)]

    begin = partial(_begin, fixed, dropping)
    return estimated("atp_star", said, begin, {"estimate": method}, needs=needs, check=warn_of_least)


def _begin(fixed: bool, dropping: bool, sweep: Estimating) -> Callable[[Part], Moved]:
    cells, layers = sweep.cells, _layers(sweep.prepared) if dropping else []
    attention = QueryKey.of_sweep(sweep) if fixed else None
    through = [] if attention is None else attention.sites
    sites = list(dict.fromkeys([*cells.sites, *(attention.patterns if attention is not None else ())]))
    drops = _drops_that_leave(cells, layers) if layers else torch.ones(())

    def of(part: Part) -> Moved:
        attended = attention.of(part) if attention is not None else None

        def estimate(found: Slopes) -> Tensor:
            moved = cells.moved(part.examples, found, but=through)
            return moved if attended is None else moved + attended(found)

        gates = [_Gate() for _ in layers]
        behind = {site: gate.write for gate, layer in zip(gates, layers, strict=True) for site in layer}
        graph = part.graph(sites, behind=behind)
        whole = graph.slopes(keep=bool(layers))
        signed = estimate(whole)
        if not layers:
            return Moved(whole.value, signed, signed.abs())
        score = torch.zeros_like(signed)
        for number, gate in enumerate(gates):
            gate.shut = True
            score += estimate(graph.slopes(keep=number < len(gates) - 1)).abs()
            gate.shut = False
        return Moved(whole.value, signed, score / drops.to(score)[:, None])

    return of


class _Gate:
    """What a layer adds to the stream: gradients lead through it unless it is shut."""

    def __init__(self) -> None:
        self.shut = False

    @property
    def write(self) -> Write:
        return lambda h: _Through.apply(h, self)


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, gate: _Gate) -> Tensor:
        ctx.gate = gate
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return (torch.zeros_like(gradient) if ctx.gate.shut else gradient), None


def _layers(prepared: Prepared) -> list[list[Site]]:
    """For every layer of every stream that the prompts enter what it adds.

    Raises:
        InputError: fewer than two layers, of which none could be dropped and leave the others' nodes.
    """
    model, streams = prepared.model, reached(prepared)
    found: dict[tuple[str, int | None], list[Site]] = defaultdict(list)
    for site in model.sites():
        if site.name in ADDED and site.stream in streams:
            found[site.stream, site.layer].append(site)
    if len(found) < 2:
        raise InputError(
            f"method='atp*' and 'atp+gd' drop one layer and keep the others, but what a layer of {model.name} adds to the "
            f"stream is known of {len(found)} layer{'s' * (len(found) != 1)}, and two are needed; pass method='atp' or 'atp+qk'"
        )
    return list(found.values())


def _drops_that_leave(cells: Cells, layers: Sequence[Collection[Site]]) -> Tensor:
    """How many drops leave something of each cell: all, but that of the layer which all of its changes are in."""
    number = {(site.stream, site.layer) for layer in layers for site in layer}
    found = torch.full((len(cells.by_rule),), len(layers), device=cells.by_rule.device)
    for cell, own in cells.each.items():
        at = {(p.tensor.stream, None if p.tensor.name.startswith("resid_") else p.tensor.layer) for p in own.places}
        found[cell] -= int(len(at) == 1 and at <= number)
    return found
