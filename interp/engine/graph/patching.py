"""Exact edge patching: the effect of every edge of the residual stream's graph, as rows of the wave.

    >>> effects = interp.patch_edges(model, pairs, metric="logit_diff")                      # doctest: +SKIP
    >>> effects.sizes["cell"]                                                              # doctest: +SKIP
    32491

An edge's row sees the base run, except that one reader sees one writer's contribution from the source (Conmy et al., arXiv
2304.14997). What the reader then gives is all that changes, so a row joins behind it. For heads, one run of a block's attention
with a writer changed serves every head's query, and one more their keys and values each: only the heads' outputs differ from
row to row, and W_O takes them to the stream.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np
import torch
import xarray as xr

from interp import axes, effects
from interp.circuits import Graph
from interp.engine import gauge, provenance
from interp.engine.asked import BASE, encoded_pairs
from interp.engine.background import Given, Hold, give, in_force
from interp.engine.batches import halvings
from interp.engine.budget import Budget
from interp.engine.cells import Cell
from interp.engine.costs import Costs, rate
from interp.engine.families import check_words
from interp.engine.graph.edges import LOGITS, Edge, check, graph
from interp.engine.graph.given import refuse
from interp.engine.graph.rows import EdgeRows
from interp.engine.joins import refused
from interp.engine.measure import bar, sources
from interp.engine.precision import Precision, float32
from interp.engine.prepared import Patching, beside, standing
from interp.engine.readout import Reader
from interp.engine.recipe import others, recorded
from interp.engine.runs import Runs
from interp.engine.stored import Index, Into, StoreLike, cut, keep
from interp.engine.strategies import Progress
from interp.errors import EdgesError
from interp.interventions import Activation, Change, Intervention, Source
from interp.metrics import MetricLike
from interp.metrics import resolve as resolve_metrics
from interp.models import Encoded, Model
from interp.prompts import Pair, Pairs
from interp.sites import Site

Array: TypeAlias = np.ndarray[Any, Any]


def patch_edges(
    model: Model,
    pairs: Pairs | Sequence[Pair] | Encoded,
    metric: MetricLike | Sequence[MetricLike] = "logit_diff",
    *,
    edges: Edge | Sequence[Edge] | None = None,
    patching: Patching = "noising",
    source: Source | None = None,
    given: Given = None,
    hold: Hold = (),
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> xr.Dataset:
    """The effect of edges, each alone.

    Args:
        model: one whose blocks can be resumed (:func:`interp.explain` says why not).
        pairs: prompts of equal length in each pair.
        metric: one or several.
        edges: some of :func:`interp.engine.edges`, or one; all of them where left out.
        patching: ``"noising"`` runs on the clean prompt and lets the reader see the corrupted one's contribution;
            ``"denoising"`` the reverse.
        source: what the reader sees of the writer: by default the other prompt's contribution; a mean, another example's, or
            ``Constant(0.0)``, which takes the contribution away (of a head, up to its value bias: attribute ``gauge``).
        given: interventions in force on the base and in every row, as for :func:`interp.patch`: effects are counted from the
            base that they leave, and a source run is as it is without them. What the source says of a writer comes after what
            is given of its own output; what is given behind it is in force, as a forward pass meets it. So a stream that is
            given between writer and reader passes on what its edit lets through, and nothing where it is overwritten; a
            reader's own queries, keys, values or MLP are made of what it sees, and then edited.
        hold: as for :func:`interp.patch`; what is held of a reader is not reached.
        rows: most rows in one pass; by default what a memory budget allows.
        precision: as for :func:`interp.patch`.
        progress: likewise.
        store: likewise, with ``name`` and ``tags``.
        name: of the run in the store.
        tags: likewise.

    Returns:
        Effects with dims ``(metric, cell, example)`` and, along ``cell``, the coordinates ``edge``, ``sender``, ``receiver``,
        ``slot``, the layers and heads of both ends (−1 where there is none), and ``receiver_heads``, how many heads read what
        the receiver makes: of keys and values that heads share more than one.

    Raises:
        EdgesError: the model's blocks cannot be resumed, or it is not causal; or something is given or held that rows of edges
            do not meet, such as another stream.
        UnknownSiteError: an edge that the model does not have.
        ValueError: ``edges`` is empty or holds something else, or ``rows`` is less than 1.
        UnequalLengthsError, AnswerError, ShapeMismatchError: see :func:`interp.patch`.
    """
    said = others(locals())
    check_words(patching, precision=precision)
    into = Into.of(store, name, tags)
    reason = refused(model) or ("" if model.causal else "it is not causal")
    if reason:
        raise EdgesError(f"the edges of {model.name} cannot be swept: {reason}")
    shape, wanted = _every(model) if edges is None else _checked(model, edges)
    changes, frozen, together = beside(model, given, hold)
    if together is not None:
        refuse(model, together)
    sites = [site for change in together.changes for site in change.sites] if together is not None else []
    encoded, metrics = encoded_pairs(model, pairs), resolve_metrics(metric)
    reader = Reader.of(model, encoded, metrics, whole=LOGITS in sites)
    budget = Budget(model, reader, encoded.clean.width, rows)
    runs = Runs(model, encoded, BASE[patching], budget.batch, reader)
    source = Activation() if source is None else source
    known, every = standing(runs, changes, frozen)
    asked = _Asked(
        runs, shape, wanted, source, budget, changes, frozen, known, every, sites, patching, precision, edges is None
    )
    if into is not None:
        recipe = partial(recorded, "patch_edges", model, encoded, **said)
        found = keep(into, asked.bare(), asked.begin, {"/": asked.units()}, beside=recipe, progress=progress)
        assert isinstance(found, xr.Dataset)  # as it was begun
        return found
    began = time.perf_counter()
    with asked.begin() as sweep, bar(progress, len(wanted) * len(encoded)) as shown:
        everything = {axes.CELL: slice(0, len(wanted)), axes.EXAMPLE: slice(0, len(encoded))}
        values, _ = sweep.values("/", everything, shown.update)
    assert isinstance(sweep.skeleton, xr.Dataset)
    result = sweep.skeleton.assign(value=(sweep.skeleton["value"].dims, values))
    return effects.stamped(result).assign_attrs(out_of_memory=len(sweep.halved), wall_seconds=time.perf_counter() - began)


@dataclass(frozen=True, eq=False)
class _Asked:
    """A sweep of edges before anything is run."""

    runs: Runs
    graph: Graph
    wanted: Sequence[Edge]
    source: Source
    budget: Budget
    changes: Intervention | None
    """What is given on the base."""
    frozen: Intervention | None
    """What is held."""
    known: Cell | None
    every: Cell | None
    sites: Sequence[Site]
    patching: Patching
    precision: Precision
    whole: bool
    """All edges are asked for."""

    @property
    def reader(self) -> Reader:
        return self.runs.reader

    @cached_property
    def subject(self) -> provenance.Subject:
        return provenance.Subject(self.runs.model, self.runs.encoded)

    def bare(self) -> xr.Dataset:
        """The result without any number."""
        nothing = np.full((len(self.reader.metrics), len(self.runs.encoded)), np.nan, str(self.reader.dtype).split(".")[-1])
        return self._labelled(nothing, nothing, nothing, {"noise_floor": dict.fromkeys(m.name for m in self.reader.metrics)})

    def units(self) -> dict[str, int]:
        """How long a unit is, from what half the blocks cost for every row."""
        model, sizes = self.runs.model, {axes.EXAMPLE: len(self.runs.encoded), axes.CELL: len(self.wanted)}
        operations = math.prod(sizes.values()) * Costs.of(model).whole(self.runs.base.width) / 2
        return cut(sizes, axes.CELL, operations / rate(str(model.device), model.dtype, model.sizes["d_model"]))

    @contextmanager
    def begin(self) -> Iterator[_Edges]:
        began, runs, model = time.perf_counter(), self.runs, self.runs.model
        with torch.no_grad(), model.prepared(self.sites), float32(self.precision), halvings() as halved:
            runs.want_logits("clean", "corrupted", "base")
            given = give(runs, self.known)
            sweep = EdgeRows(runs, self.wanted, self.source, self.budget, self.changes, given, self.every)
            floor = sweep.open()
            everyone = torch.arange(len(runs.encoded), device=model.device)
            clean, corrupt, base = (
                self.reader.measure(runs.logits(side), everyone, runs.reference).cpu().numpy()
                for side in ("clean", "corrupted", "base")
            )
            facts = {"noise_floor": floor, "out_of_memory": len(halved), "wall_seconds": time.perf_counter() - began}
            yield _Edges(self._labelled(clean, corrupt, base, facts), sweep, halved)

    def _labelled(self, clean: Array, corrupt: Array, base: Array, facts: dict[str, Any]) -> xr.Dataset:
        return effects.assemble(
            np.full((len(clean), len(self.wanted), clean.shape[-1]), np.nan, clean.dtype),
            clean,
            corrupt,
            given=base if self.changes is not None else None,
            axes={axes.CELL: list(range(len(self.wanted)))},
            metrics=[m.name for m in self.reader.metrics],
            coords=provenance.example_coordinates(self.runs.encoded) | self.graph.coords(self.graph.numbers(self.wanted)),
            attrs=provenance.attributes(self.subject, self.patching, self.reader.metrics) | self._asked | facts,
        )

    @cached_property  # of every edge, and asked for before and after the base is run
    def _asked(self) -> dict[str, Any]:
        """Attributes that say what was asked for."""
        model, encoded, wanted, source = self.runs.model, self.runs.encoded, self.wanted, self.source
        written = [Intervention((Change(edge.sender, source=source),)) for edge in wanted]
        spec = {"edges": "all" if self.whole else [repr(e) for e in wanted], "source": source.spec()}
        spec |= {"given": self.changes.spec()} if self.changes is not None else {}
        spec |= {"hold": [repr(change.site) for change in self.frozen.changes]} if self.frozen is not None else {}
        spec |= {"precision": self.precision} if self.precision != "full" else {}
        return {
            "method": "patch_edges",
            "site": "edges",
            "positions": "all",
            "source": sources(written, self.patching),
            **in_force(model, self.changes, self.frozen),
            "strategy": "wavefront",
            "rows": len(wanted) * len(encoded),
            **gauge.attribute(model, [*written, *([self.changes] if self.changes else [])]),
            "spec": provenance.spec(self.subject, self.patching, self.reader.metrics, spec),
        }


@dataclass(frozen=True, eq=False)
class _Edges:
    """A sweep of edges under way, to be measured part by part."""

    skeleton: xr.Dataset | xr.DataTree
    sweep: EdgeRows
    halved: list[int]

    def rows(self, family: str, index: Index) -> int:
        return math.prod(index[axis].stop - index[axis].start for axis in (axes.CELL, axes.EXAMPLE))

    def values(self, family: str, index: Index, progress: Progress) -> tuple[Array, dict[str, Any]]:
        before = len(self.halved)
        cells, examples = (range(index[axis].start, index[axis].stop) for axis in (axes.CELL, axes.EXAMPLE))
        value = self.sweep.values(cells, examples, progress)
        return value.cpu().numpy(), {"out_of_memory": len(self.halved) - before}


def _every(model: Model) -> tuple[Graph, Sequence[Edge]]:
    every = graph(model)
    return every, every.edges


def _checked(model: Model, edges: Any) -> tuple[Graph, Sequence[Edge]]:
    """Edges that were asked for, each of which the model has."""
    wanted: list[Any] = [edges] if isinstance(edges, Edge | str) else list(edges)
    for edge in wanted:
        if not isinstance(edge, Edge):
            raise ValueError(
                f"edges holds {edge!r} of type {type(edge).__name__}; expected edges as interp.engine.edges(model) lists them, "
                "such as Edge.of('L0H1.z', 'L2.mlp_pre')"
            )
    if not wanted:
        raise ValueError("edges is an empty list; leave it out for all of them")
    return check(model, wanted), wanted
