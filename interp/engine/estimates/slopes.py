"""Gradients of a metric with respect to any set of sites, from one forward and one backward pass.

    >>> found = gradients(model, model.encode(pairs), ["L1.z", "L2.resid_post"], "logit_diff")      # doctest: +SKIP
    >>> found.gradient[Site("z", layer=1)].shape            # example, position, head, d_head       # doctest: +SKIP
    torch.Size([64, 17, 4, 16])

Every example has a metric of its own, so the gradient of their sum holds each example's. What is read at a site may be a view
or a copy of what the model goes on with (:meth:`interp.models.model.Backend.run`), so the gradient is taken with respect to an
offset of zero that a write adds there. The model's parameters are left out of the graph; their ``requires_grad`` and ``grad``
are as before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.background import Given, Hold, give
from interp.engine.batches import in_batches
from interp.engine.budget import Budget, check_rows
from interp.engine.edits import Edits
from interp.engine.filling import fill
from interp.engine.layout import LOGITS
from interp.engine.precision import Precision, float32
from interp.engine.prepared import beside, standing
from interp.engine.readout import Reader
from interp.engine.runs import Runs
from interp.errors import GradientError, UnknownNameError, UnknownSiteError
from interp.metrics import Metric, MetricLike
from interp.metrics import resolve as resolve_metrics
from interp.models import Encoded, Model, Tokens
from interp.models.hooks import frozen
from interp.models.taps import Write
from interp.sites import Site

SIDES = ("clean", "corrupted")


class Gradients(NamedTuple):
    """What one forward and one backward pass give of a metric, example by example."""

    value: Float[Tensor, " example"]
    """The metric itself."""
    gradient: dict[Site, Tensor]
    """Its gradient with respect to every site, in the axes that the site declares; zero at padding."""
    activation: dict[Site, Tensor]
    """The tensors at which it was taken."""


def gradients(
    model: Model,
    encoded: Encoded,
    sites: Collection[Site | str],
    metric: MetricLike = "logit_diff",
    side: Literal["clean", "corrupted"] = "clean",
    *,
    given: Given = None,
    hold: Hold = (),
    rows: int | None = None,
) -> Gradients:
    """The gradient of one metric with respect to the whole tensors of some sites.

    Args:
        encoded: pairs as ``model.encode`` gives them.
        sites: without head and unit; each layer by name.
        side: which prompts are run.
        given: interventions in force on these prompts, which are the base; the gradient is taken there, and behind what is
            given at the site itself.
        hold: as for :func:`interp.patch`; gradients do not lead through what is held.
        rows: most examples in one forward and backward pass; by default what a memory budget allows.

    Raises:
        GradientError: the metric has no gradient (it counts or compares), or a site does not lead to it.
        OrderError, ShapeMismatchError, UnequalLengthsError: what is given does not fit.
        UnknownSiteError, HeadOutOfRangeError, AnswerError, PositionError: see :func:`interp.engine.sweep.patch`.
    """
    if side not in SIDES:
        raise UnknownNameError("side", side, SIDES)
    metrics = resolve_metrics(metric)
    if len(metrics) != 1:
        raise ValueError(f"metric holds {len(metrics)} metrics ({', '.join(m.name for m in metrics)}); a gradient is of one")
    wanted = whole(model, sites)
    changes, frozen, together = beside(model, given, hold)
    touched = [*wanted, *(site for change in together.changes for site in change.sites)] if together is not None else wanted
    reader = Reader.of(model, encoded, metrics, whole=LOGITS in touched)
    limit = examples_a_pass(model, encoded, reader, rows)
    runs = Runs(model, encoded, side, batch=limit, reader=reader)
    everyone = torch.arange(len(encoded), device=model.device)
    known, every = standing(runs, changes, frozen)
    with differentiable(model, touched):
        with torch.no_grad():
            cells = [] if every is None else fill([every], runs, give(runs, known))
            reference = runs.reference

        def run(chunk: slice) -> Slopes:
            examples = everyone[chunk]
            writes = Edits.of(cells[0], examples).writes() if cells else None
            return slopes(model, reader, runs.base.take(chunk), examples, wanted, reference, writes)

        parts = in_batches(len(encoded), limit, run)
    return Gradients(
        value=torch.cat([part.value[0] for part in parts]),
        gradient={site: torch.cat([part.gradient[0][site] for part in parts]) for site in wanted},
        activation={site: torch.cat([part.activation[site] for part in parts]) for site in wanted},
    )


def whole(model: Model, sites: Collection[Site | str]) -> list[Site]:
    """Sites whose whole tensors the model has, each once.

    Raises:
        UnknownSiteError, HeadOutOfRangeError: it does not have one of them, or a site names no tensor or only a part of one.
    """
    found = [model.site(site) for site in ([sites] if isinstance(sites, Site | str) else sites)]
    if not found:
        raise ValueError("sites is empty; name at least one, such as 'L1.resid_post'")
    for site in found:
        if site.tensor != site:
            raise UnknownSiteError("tensor", repr(site), [repr(site.tensor)], why="a gradient is of the whole tensor; index it")
        if site.layer is None and site.path is None and site.component.per_layer:
            raise UnknownSiteError("site", repr(site), [f"L0.{site.name}"], why="it does not say which layer")
    return list(dict.fromkeys(found))


def examples_a_pass(model: Model, encoded: Encoded, reader: Reader, rows: int | None) -> int:
    """Examples whose activations, kept in every layer for the backward pass, take what the budget allows."""
    check_rows(rows)
    fits = Budget(model, reader, encoded.clean.width).backward_rows()
    return fits if rows is None else min(fits, rows)


# ------------------------------------------------------------------------------------------------------ one batch


class Slopes(NamedTuple):
    """What one forward pass of some examples and a backward pass of every metric give."""

    value: Float[Tensor, "metric example"]
    activation: dict[Site, Tensor]
    gradient: tuple[dict[Site, Tensor], ...]
    """For every metric, by site."""


@contextmanager
def differentiable(model: Model, sites: Collection[Site], precision: Precision = "full") -> Iterator[None]:
    """A model session with gradients: evaluation mode, one float32 precision, and no parameter in the graph."""
    with (
        model.prepared(sites),
        float32(precision),
        frozen(model.module),
        torch.inference_mode(mode=False),
        torch.enable_grad(),
    ):
        yield


@dataclass(frozen=True, eq=False)
class Graph:
    """A forward pass of some examples, from which gradients are taken as often as they are wanted."""

    model: Model
    metrics: tuple[Metric, ...]
    values: tuple[Float[Tensor, " row"], ...]
    """Every metric, with its graph."""
    activation: dict[Site, Tensor]
    offsets: dict[Site, Tensor]

    def slopes(self, *, keep: bool = False) -> Slopes:
        """A backward pass of every metric.

        Args:
            keep: others follow on the same graph.

        Raises:
            GradientError: a site does not lead to a metric.
        """
        last = len(self.metrics) - 1
        found = tuple(
            _backward(self.model, metric, value, self.offsets, keep=keep or number < last)
            for number, (metric, value) in enumerate(zip(self.metrics, self.values, strict=True))
        )
        return Slopes(torch.stack([value.detach() for value in self.values]), self.activation, found)


def slopes(
    model: Model,
    reader: Reader,
    tokens: Tokens,
    examples: Int[Tensor, " row"],
    sites: Sequence[Site],
    reference: Float[Tensor, "example position vocab"] | None,
    given: Mapping[Site, Write] | None = None,
) -> Slopes:
    """One forward pass and, for every metric of the reader, one backward pass; see :func:`graph`."""
    return graph(model, reader, tokens, examples, sites, reference, given).slopes()


def graph(
    model: Model,
    reader: Reader,
    tokens: Tokens,
    examples: Int[Tensor, " row"],
    sites: Sequence[Site],
    reference: Float[Tensor, "example position vocab"] | None,
    given: Mapping[Site, Write] | None = None,
    behind: Mapping[Site, Write] | None = None,
) -> Graph:
    """One forward pass. Called inside :func:`differentiable`.

    Args:
        tokens: prompts of ``examples``.
        reference: logits of all clean prompts, where a metric compares with them.
        given: changes in force on these prompts; gradients are taken after them.
        behind: changes that come after the place at which gradients are taken.

    Raises:
        GradientError: a metric has no gradient, or no site leads to it.
    """
    before, after = dict(given or {}), dict(behind or {})
    offsets: dict[Site, Tensor] = {}
    activation: dict[Site, Tensor] = {}

    def offset(site: Site) -> Write:
        def write(h: Tensor) -> Tensor:
            h = before[site](h) if site in before else h
            _require_rows(site, h, len(examples))
            activation[site] = h.detach()
            offsets[site] = torch.zeros_like(h, requires_grad=True)
            h = h + offsets[site]
            return after[site](h) if site in after else h

        return write

    writes = chained(before, after) | {site: offset(site) for site in sites}
    logits = reader.logits(tokens, model.backend.run(model.inputs(tokens, reader.keep), [LOGITS], writes)[LOGITS])
    # One by one: in a stack of several, a metric without gradient would look like one whose gradient is zero.
    values = tuple(replace(reader, metrics=(metric,)).measure(logits, examples, reference)[0] for metric in reader.metrics)
    for metric, value in zip(reader.metrics, values, strict=True):
        _require_graph(model, metric, logits, value, offsets)
    return Graph(model, reader.metrics, values, activation, offsets)


def chained(first: Mapping[Site, Write], then: Mapping[Site, Write]) -> dict[Site, Write]:
    """Writes of both, one after the other where they meet."""

    def both(one: Write, other: Write) -> Write:
        return lambda h: other(one(h))

    return {**first} | {site: both(first[site], write) if site in first else write for site, write in then.items()}


def _backward(
    model: Model, metric: Metric, value: Float[Tensor, " row"], offsets: dict[Site, Tensor], *, keep: bool
) -> dict[Site, Tensor]:
    """The gradient of the sum of a metric by site.

    Args:
        keep: another backward pass follows on the same graph.
    """
    try:
        found = torch.autograd.grad(value.sum(), list(offsets.values()), retain_graph=keep, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise GradientError(
            f"the backward pass from {metric.name!r} to {', '.join(map(repr, offsets))} failed: {error}"
        ) from error
    for site, gradient in zip(offsets, found, strict=True):
        if gradient is None:
            raise GradientError(
                f"{site!r}: no gradient, because no differentiable operation leads from there to the logits of {model.name}"
            )
    return dict(zip(offsets, found, strict=True))


def _require_rows(site: Site, h: Tensor, examples: int) -> None:
    if not h.is_floating_point():
        raise GradientError(f"{site!r}: no gradient, because its tensor holds {str(h.dtype).removeprefix('torch.')}")
    if h.ndim == 0 or h.shape[0] != examples:
        raise GradientError(
            f"{site!r}: no gradient of its own for each example, because its tensor has shape {tuple(h.shape)}, and {examples} "
            "examples were run; expected one row an example"
        )


def _require_graph(model: Model, metric: Metric, logits: Tensor, value: Tensor, sites: Collection[Site]) -> None:
    if not logits.requires_grad:
        raise GradientError(
            f"{', '.join(map(repr, sites))}: no gradient, because no differentiable operation leads from there to the logits "
            f"of {model.name}"
        )
    if not value.requires_grad:
        raise GradientError(
            f"metric {metric.name!r} has no gradient, because it counts or compares; take one that is a smooth function of "
            "logits, such as 'logit_diff' or 'logprob'"
        )
