"""Sweeps over the graph of the residual stream, of edges or of circuits: from what is asked for to a labelled result.

>>> asked = Asked.of(model, pairs, "logit_diff", words, cells)                           # doctest: +SKIP
>>> asked.swept(rows_of, into=None, recipe=recipe, progress=None)                         # doctest: +SKIP
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp import axes, effects
from interp.circuits import LOGITS
from interp.engine import gauge, provenance
from interp.engine.asked import BASE, encoded_pairs
from interp.engine.background import Given, Hold, give, in_force
from interp.engine.batches import halvings
from interp.engine.budget import Budget
from interp.engine.cells import Cell
from interp.engine.costs import Costs, rate
from interp.engine.families import check_words
from interp.engine.graph.given import refuse
from interp.engine.joins import refused
from interp.engine.measure import bar, sources
from interp.engine.precision import Precision, float32
from interp.engine.prepared import Patching, beside, standing
from interp.engine.readout import Reader
from interp.engine.runs import Runs
from interp.engine.stored import Index, Into, cut, keep
from interp.engine.strategies import Progress
from interp.errors import EdgesError
from interp.interventions import Change, Intervention, Source
from interp.metrics import MetricLike
from interp.metrics import resolve as resolve_metrics
from interp.models import Encoded, Model
from interp.prompts import Pair, Pairs
from interp.sites import Site

Array: TypeAlias = np.ndarray[Any, Any]


class Rows(Protocol):
    """What measures the cells of a sweep."""

    def open(self) -> dict[str, float]:
        """Make the runs that are needed; returns the noise floor."""
        ...

    def values(self, cells: range, examples: range, progress: Progress) -> Tensor:
        """Some cells on some examples, ``[metric, cell, example]``."""
        ...


@dataclass(frozen=True, slots=True)
class Words:
    """How a sweep is run."""

    method: str
    patching: Patching
    precision: Precision
    source: Source
    rows: int | None


@dataclass(frozen=True, slots=True)
class Cells:
    """What is swept, as data."""

    count: int
    coords: Mapping[str, Any]
    """Along ``cell``."""
    spec: Mapping[str, Any]
    senders: Sequence[Site]
    """The writers that are seen from the source."""
    together: bool = False
    """Whether one is no less work than all of them."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Attributes of the result beside the usual ones, by which it is known in a store too."""


def require_edges(model: Model, patching: Any, precision: Any) -> None:
    """Raise unless the edges of a model can be swept, and by words that are known.

    Raises:
        EdgesError: the model's blocks cannot be resumed, or it is not causal.
        UnknownNameError: an unknown word.
    """
    check_words(patching, precision=precision)
    reason = refused(model) or ("" if model.causal else "it is not causal")
    if reason:
        raise EdgesError(f"the edges of {model.name} cannot be swept: {reason}")


@dataclass(frozen=True, eq=False)
class Asked:
    """A sweep before anything is run."""

    runs: Runs
    budget: Budget
    words: Words
    cells: Cells
    changes: Intervention | None
    """What is given on the base."""
    frozen: Intervention | None
    """What is held."""
    known: Cell | None
    every: Cell | None
    """What is given, and that with what is held, resolved."""
    sites: Sequence[Site]

    @classmethod
    def of(
        cls,
        model: Model,
        pairs: Pairs | Sequence[Pair] | Encoded,
        metric: MetricLike | Sequence[MetricLike],
        words: Words,
        cells: Cells,
        *,
        given: Given = None,
        hold: Hold = (),
    ) -> Asked:
        """Check and resolve what is asked for.

        Raises:
            EdgesError: something is given or held that rows of edges do not meet.
            UnequalLengthsError, AnswerError, ShapeMismatchError, ValueError: see :func:`interp.patch`.
        """
        changes, frozen, together = beside(model, given, hold)
        if together is not None:
            refuse(model, together)
        sites = [site for change in together.changes for site in change.sites] if together is not None else []
        encoded, metrics = encoded_pairs(model, pairs), resolve_metrics(metric)
        reader = Reader.of(model, encoded, metrics, whole=LOGITS in sites)
        budget = Budget(model, reader, encoded.clean.width, words.rows)
        runs = Runs(model, encoded, BASE[words.patching], budget.batch, reader)
        known, every = standing(runs, changes, frozen)
        return cls(runs, budget, words, cells, changes, frozen, known, every, sites)

    def swept(
        self,
        made: Callable[[Sequence[Cell]], Rows],
        into: Into | None,
        recipe: Callable[[], Mapping[str, bytes]],
        progress: bool | None,
    ) -> xr.Dataset:
        """Run it: at once, or into a store.

        Args:
            made: makes the rows, of what is given, filled.
        """
        if into is not None:
            found = keep(into, self.bare(), lambda: self.begin(made), {"/": self.units()}, beside=recipe, progress=progress)
            assert isinstance(found, xr.Dataset)  # as it was begun
            return found
        began, n = time.perf_counter(), len(self.encoded)
        with self.begin(made) as sweep, bar(progress, self.cells.count * n) as shown:
            everything = {axes.CELL: slice(0, self.cells.count), axes.EXAMPLE: slice(0, n)}
            values, _ = sweep.values("/", everything, shown.update)
        result = sweep.skeleton.assign(value=(sweep.skeleton["value"].dims, values))
        return effects.stamped(result).assign_attrs(out_of_memory=len(sweep.halved), wall_seconds=time.perf_counter() - began)

    @property
    def encoded(self) -> Encoded:
        return self.runs.encoded

    @property
    def reader(self) -> Reader:
        return self.runs.reader

    @cached_property
    def subject(self) -> provenance.Subject:
        return provenance.Subject(self.runs.model, self.encoded)

    def bare(self) -> xr.Dataset:
        """The result without any number."""
        nothing = np.full((len(self.reader.metrics), len(self.encoded)), np.nan, str(self.reader.dtype).split(".")[-1])
        return self._labelled(nothing, nothing, nothing, {"noise_floor": dict.fromkeys(m.name for m in self.reader.metrics)})

    def units(self) -> dict[str, int]:
        """How long a unit is, from what half the blocks cost for every row."""
        model, sizes = self.runs.model, {axes.EXAMPLE: len(self.encoded), axes.CELL: self.cells.count}
        if self.cells.together:
            return sizes | {axes.EXAMPLE: min(len(self.encoded), self.budget.backward_rows())}
        operations = math.prod(sizes.values()) * Costs.of(model).whole(self.runs.base.width) / 2
        return cut(sizes, axes.CELL, operations / rate(str(model.device), model.dtype, model.sizes["d_model"]))

    @contextmanager
    def begin(self, made: Callable[[Sequence[Cell]], Rows]) -> Iterator[Begun]:
        began, runs, model = time.perf_counter(), self.runs, self.runs.model
        with torch.no_grad(), model.prepared(self.sites), float32(self.words.precision), halvings() as halved:
            runs.want_logits("clean", "corrupted", "base")
            rows = made(give(runs, self.known))
            floor = rows.open()
            everyone = torch.arange(len(runs.encoded), device=model.device)
            clean, corrupt, base = (
                self.reader.measure(runs.logits(side), everyone, runs.reference).cpu().numpy()
                for side in ("clean", "corrupted", "base")
            )
            facts = {"noise_floor": floor, "out_of_memory": len(halved), "wall_seconds": time.perf_counter() - began}
            yield Begun(self._labelled(clean, corrupt, base, facts), rows, halved)

    def _labelled(self, clean: Array, corrupt: Array, base: Array, facts: dict[str, Any]) -> xr.Dataset:
        return effects.assemble(
            np.full((len(clean), self.cells.count, clean.shape[-1]), np.nan, clean.dtype),
            clean,
            corrupt,
            given=base if self.changes is not None else None,
            axes={axes.CELL: list(range(self.cells.count))},
            metrics=[m.name for m in self.reader.metrics],
            coords=provenance.example_coordinates(self.encoded) | dict(self.cells.coords),
            attrs=provenance.attributes(self.subject, self.words.patching, self.reader.metrics) | self.attributes | facts,
        )

    @cached_property  # asked for before and after the base is run
    def attributes(self) -> dict[str, Any]:
        """Attributes that say what was asked for."""
        model, words = self.runs.model, self.words
        written = [Intervention((Change(sender, source=words.source),)) for sender in self.cells.senders]
        spec = {**self.cells.spec, **self.cells.facts, "source": words.source.spec()}
        spec |= {"given": self.changes.spec()} if self.changes is not None else {}
        spec |= {"hold": [repr(change.site) for change in self.frozen.changes]} if self.frozen is not None else {}
        spec |= {"precision": words.precision} if words.precision != "full" else {}
        return {
            "method": words.method,
            "site": "edges",
            "positions": "all",
            "source": sources(written, words.patching),
            **in_force(model, self.changes, self.frozen),
            "strategy": "attribution" if self.cells.together else "wavefront",
            "rows": self.cells.count * len(self.encoded),
            **self.cells.facts,
            **gauge.attribute(model, [*written, *([self.changes] if self.changes else [])]),
            "spec": provenance.spec(self.subject, words.patching, self.reader.metrics, spec),
        }


@dataclass(frozen=True, eq=False)
class Begun:
    """A sweep under way, to be measured part by part."""

    skeleton: xr.Dataset
    made: Rows
    halved: list[int]

    def rows(self, family: str, index: Index) -> int:
        return math.prod(index[axis].stop - index[axis].start for axis in (axes.CELL, axes.EXAMPLE))

    def values(self, family: str, index: Index, progress: Progress) -> tuple[Array, dict[str, Any]]:
        before = len(self.halved)
        cells, examples = (range(index[axis].start, index[axis].stop) for axis in (axes.CELL, axes.EXAMPLE))
        value = self.made.values(cells, examples, progress)
        return value.cpu().numpy(), {"out_of_memory": len(self.halved) - before}
