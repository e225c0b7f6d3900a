"""Automatic circuit discovery: edges are left out one after the other, from the logits backwards, as long as little changes.

>>> found = interp.acdc(model, pairs, threshold=[0.01, 0.03, 0.1])                          # doctest: +SKIP
>>> interp.circuits.circuits_of(found)                                                    # doctest: +SKIP
[acdc 0.01: 412 of 32,491 edges, acdc 0.03: 207 of 32,491 edges, acdc 0.1: 64 of 32,491 edges]

1. Begin with all edges.
2. For every reader, from the logits backwards, and for every writer that it reads, those behind first: leave the edge out of
   what is left, so that the reader sees of that writer what the source says. Where the metric then changes by less than the
   threshold τ, the edge goes for good.
3. What is left is the circuit.

The decisions are those of asking one edge after the other; what is asked, many at once
(:mod:`interp.circuits.pruning`), from estimates of the edges and from the last threshold's trace. Everything in front of the
reader in question is the base run's, so that every row begins at that reader's block; an edge into a reader from which nothing
leads to the logits any more goes without a row.

Conmy, Mavor-Parker, Lynch, Heimersheim and Garriga-Alonso, "Towards Automated Circuit Discovery for Mechanistic
Interpretability", arXiv 2304.14997. Theirs has one more edge into each query, key and value, which no row can tell from leaving
out all edges into it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from interp import axes, effects
from interp.circuits import BY, By, Graph, Known, Scores, backwards, prune, ranking
from interp.engine.cells import Cell
from interp.engine.graph.along import along_embeddings
from interp.engine.graph.edges import as_asked, spec_of_graph
from interp.engine.graph.found import circuits_found, what_counts
from interp.engine.graph.mixed import Mixed
from interp.engine.graph.slopes import EdgeSlopes
from interp.engine.graph.sweeping import Asked, Begun, Cells, Words, require_edges
from interp.engine.measure import bar
from interp.engine.precision import Precision
from interp.engine.prepared import Patching
from interp.engine.recipe import others, recorded
from interp.engine.stored import Into, StoreLike, whole
from interp.errors import GradientError, InputError
from interp.interventions import Activation, Source
from interp.methods.registry import Method
from interp.metrics import MetricLike
from interp.models import Encoded, Model
from interp.prompts import Pair, Pairs

METHOD = Method(
    id="acdc",
    name="automatic circuit discovery (ACDC)",
    paper="Conmy et al. 2023, Towards Automated Circuit Discovery for Mechanistic Interpretability, arXiv 2304.14997",
    mediator="edges from heads, MLPs and embeddings to the queries, keys, values, MLPs and logits that read them",
    search="greedy, exact",
    cost="a row an edge into a reader that still leads to the logits, from that reader's block on, and those behind a decision "
    "that was foretold wrongly",
    function="interp.acdc",
)


def acdc(
    model: Model,
    pairs: Pairs | Sequence[Pair] | Encoded,
    threshold: float | Sequence[float],
    metric: MetricLike = "kl",
    *,
    by: By | None = None,
    order: int | None = None,
    foretold: Scores | None = None,
    graph: Graph | None = None,
    patching: Patching = "noising",
    source: Source | None = None,
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> xr.Dataset:
    """Find circuits by leaving out one edge after the other, each where the metric then changes by less than a threshold.

    Args:
        model, pairs, patching, source, rows, precision, progress: as for :func:`interp.patch_circuits`.
        threshold: τ, in the metric's units, of its mean over examples; or several.
        metric: one.
        by: what keeps an edge: that leaving it out ``"raises"`` the metric, as of a divergence or a loss, ``"lowers"`` it, as
            of a logit difference, or changes it either way (``"size"``). It has to be said, but of ``"kl"``, which is raised.
        order: a seed that shuffles the edges of a layer's readers, as far as any order is from the logits backwards; None for
            the order of the network, backwards. Of two edges that stand in for each other the one that is asked about first
            goes.
        foretold: estimates of all edges from which decisions are foretold, as :func:`interp.attribute_edges` gives them. By
            default they are made, along embeddings. They are not seen in the result, but in how long it takes.
        graph: as for :func:`interp.patch_edges`.
        store, name, tags: where to keep the circuits, each threshold's as soon as it is found, a run of its own; those that are
            there are not looked for again.

    Returns:
        What :func:`interp.patch_circuits` returns for the circuits that were found, one a threshold along ``cell``, and
        ``in_circuit`` and ``change``, ``[cell, edge]``: what leaving out an edge changed when it was asked about, as far as it
        counts; NaN where an edge went by rule. Along ``cell`` also ``threshold``; ``rounds``, ``evaluated``, ``unasked`` and
        ``misses``, what it took (see :class:`interp.circuits.Pruned`), in ``passes`` of rows through the blocks; and
        ``closest``, how near the threshold a change came.
        :func:`interp.circuits.circuits_of` makes circuits of it.

    Raises:
        InputError: no threshold, or one that is no number above 0; several metrics, or one of which it has to be said what
            keeps an edge.
        UnknownNameError: ``by`` is none of those words.
        EdgesError, UnequalLengthsError, AnswerError, ShapeMismatchError: see :func:`interp.patch_circuits`.
    """
    said, into = others(locals()), Into.of(store, name, tags)
    require_edges(model, patching, precision)
    thresholds, counts = _thresholds(threshold), what_counts(metric, by)
    shape = as_asked(model, graph)
    guess = None if foretold is None else ranking(foretold, shape, counts)
    words = Words("acdc", patching, precision, Activation() if source is None else source, rows)
    cells = Cells(count=1, coords={}, spec=spec_of_graph(shape), senders=shape.whole)
    asked = Asked.of(model, pairs, metric, words, cells)
    facts: dict[str, Any] = {"by": counts, "order": order}
    each = {tau: replace(asked, cells=replace(cells, facts=facts | {"threshold": tau})) for tau in sorted(thresholds)}
    found = {}
    with ExitStack() as stack, bar(progress, len(each) * len(shape)) as shown:
        search = _Search(asked, shape, counts, guess, backwards(shape, order), stack, shown.update)
        for tau, one in each.items():
            make = partial(search.found, one, tau)
            if into is None:
                found[tau] = make()
                continue
            own = replace(into, name=f"{into.name}, {tau:g}" if into.name and len(each) > 1 else into.name)
            written = partial(recorded, "acdc", model, asked.encoded, **said | {"threshold": tau, "foretold": None})
            result = whole(own, one.bare(), make, beside=written)
            assert isinstance(result, xr.Dataset)  # as it was made
            found[tau] = result
    return _joined([found[tau] for tau in thresholds])


@dataclass(eq=False)
class _Search:
    """Searches at one threshold after the other; nothing is run before the first."""

    asked: Asked
    graph: Graph
    by: By
    guess: NDArray[np.float64] | None
    order: NDArray[np.int64]
    stack: ExitStack
    progress: Callable[[int], None]

    def found(self, one: Asked, threshold: float) -> xr.Dataset:
        """The circuit at a threshold, as effects."""
        began, (sweep, rows, known) = time.perf_counter(), self._begun
        floor = max(*sweep.skeleton.attrs["noise_floor"].values(), torch.finfo(one.runs.model.dtype).eps)
        if threshold <= floor:
            warnings.warn(
                f"threshold={threshold:g} is within rounding, {floor:.1e}: which edges stay is chance; raise it, or load the "
                "model in float64",
                UserWarning,
                stacklevel=4,
            )
        pruned = prune(known, threshold, by=self.by, order=self.order, most=rows.most, progress=self.progress)
        passes, rows.passes = rows.passes, 0
        told = {name: [getattr(pruned, name)] for name in ("threshold", "rounds", "evaluated", "unasked", "misses", "closest")}
        along = {"circuit": [f"acdc {threshold:g}"], **told, "passes": [passes]}
        result = circuits_found(one, sweep, self.graph, pruned.kept[None], along, {"change": pruned.change[None]})
        return result.assign_attrs(wall_seconds=time.perf_counter() - began)

    @cached_property
    def _begun(self) -> tuple[Begun, Mixed, Known]:
        asked = self.asked
        sweep = self.stack.enter_context(asked.begin(self._rows))
        rows = sweep.made
        assert isinstance(rows, Mixed)

        def evaluate(kept: NDArray[np.bool_]) -> NDArray[np.float64]:
            return rows.means(torch.from_numpy(kept).float().to(asked.runs.model.device))[0].cpu().numpy()

        guess = self._foretold() if self.guess is None else self.guess
        return sweep, rows, Known(self.graph, evaluate, guess, self._shown(rows))

    def _shown(self, rows: Mixed) -> NDArray[np.bool_]:
        """In whose words readers show: where a norm follows attention, what one head says changes what the others are worth."""
        shown = self.graph.served.copy()
        of = [-1 if one.layer is None or one.head is None else one.layer for one in self.graph.senders]
        for layer in range(len(self.graph.blocks)):
            if self.graph.blocks[layer].heads and rows.writers.normed_behind(layer) is not None:
                together = np.array([one == layer for one in of])
                shown |= np.outer(shown[:, together].any(-1), together)
        return shown

    def _rows(self, given: Sequence[Cell]) -> Mixed:
        none = torch.zeros(0, len(self.graph), device=self.asked.runs.model.device)
        return Mixed(self.asked.runs, self.graph, self.asked.words.source, self.asked.budget, none)

    def _foretold(self) -> NDArray[np.float64]:
        """Estimates of all edges; of a metric without a gradient there are none, and all edges are foretold to go."""
        asked, everyone = self.asked, range(len(self.asked.encoded))
        path = partial(along_embeddings, quadrature="midpoint", steps=2)
        numbers = torch.arange(len(self.graph), device=asked.runs.model.device)
        slopes = EdgeSlopes(asked.runs, self.graph, numbers, asked.words.source, asked.budget, path)
        slopes.open()
        try:
            estimated = slopes.values(range(len(self.graph)), everyone, lambda done: None)[0]
        except GradientError:
            return np.zeros(len(self.graph))
        base = asked.reader.measure(asked.runs.logits("base"), torch.arange(len(everyone)), asked.runs.reference)[0]
        return BY[self.by]((estimated - base).double().mean(-1).cpu().numpy())


def _thresholds(given: Any) -> list[float]:
    """Thresholds, at least one."""
    found = np.atleast_1d(given).tolist() if isinstance(given, Sequence | np.ndarray) else [given]
    if not found:
        raise InputError("threshold is empty; give a number above 0, in the metric's units, or several")
    for one in found:
        if isinstance(one, bool) or not isinstance(one, float | int) or not one > 0:
            raise InputError(f"threshold={one!r}; expected a number above 0, in the metric's units, or several")
    return list(dict.fromkeys(float(one) for one in found))


def _joined(found: Sequence[xr.Dataset]) -> xr.Dataset:
    """Circuits of several thresholds along one axis."""
    if len(found) == 1:
        return found[0]
    along = [name for name in found[0].variables if axes.CELL in found[0][name].dims]
    first = found[0].drop_vars(along)
    parts = xr.concat([one[along] for one in found], dim=axes.CELL)
    joined = first.assign_coords(parts.coords).assign(parts.data_vars).assign_coords({axes.CELL: range(len(found))})
    joined = joined[list(found[0].data_vars)]
    joined.attrs = {key: value for key, value in found[0].attrs.items() if key != "threshold"}
    took = sum(one.attrs["wall_seconds"] for one in found)
    return effects.stamped(joined.assign_attrs(spec=None, wall_seconds=took))
