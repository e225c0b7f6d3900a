"""Evaluation of circuits: what they do alone, of every size, against the full model and against random circuits.

>>> discovery, held_out = pairs.split()                    # no template is in both, else no entity  # doctest: +SKIP
>>> scores = interp.attribute_edges(model, discovery, along="embeddings")                    # doctest: +SKIP
>>> found = interp.evaluate_circuits(model, held_out, {"EAP-IG": scores})                    # doctest: +SKIP
>>> interp.views.faithfulness(found, log=True)                                               # doctest: +SKIP
>>> interp.effects.circuit_areas(found)                                                      # doctest: +SKIP

1. Take circuits C of several sizes: of scores, those of the k strongest edges, at MIB's ten shares of all edges. What is on no
   path from the embedding to the logits is dropped.
2. Run the model with the edges of each alone; all others are ablated: their readers see of them what the source says.
3. Faithfulness is f(C) = (m(C) − m(∅)) / (m(full) − m(∅)), where ∅ has every edge ablated.
4. Over the share k of edges, CPR = ∫ f dk and CMD = ∫ |1 − f| dk, by trapezoids over a linear axis, with no point at 0.
5. Do the same of random circuits of these sizes.

All of it is one sweep: every circuit, random or not, is a row, and equal circuits are one.

Whether the examples are those that made the circuits is known where scores, or a circuit's origin, say which these were. Every
line then has ``in_sample``, and figures say it.

Mueller et al., "MIB: A Mechanistic Interpretability Benchmark", arXiv 2504.13151; Miller, Chughtai and Saunders, "Transformer
Circuit Faithfulness Metrics are not Robust", arXiv 2407.08734; Wang et al., arXiv 2211.00593. CPR is MIB's of signed scores
(``by="lowers"``: what helps comes first), CMD of their sizes (``by="size"``): ``by=["lowers", "size"]`` gives both, as two
lines, each with both areas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from interp import axes, effects
from interp.circuits import BY, SELECTED, By, Circuit, Graph, Scores, random_circuits, strongest
from interp.effects.faithfulness import RANDOM, SIZE
from interp.engine.graph.circuits import patch_circuits
from interp.engine.graph.edges import as_asked
from interp.engine.precision import Precision
from interp.engine.stored import StoreLike
from interp.errors import InputError, UnknownNameError, require_whole
from interp.interventions import Source
from interp.methods.registry import Method
from interp.metrics import MetricLike
from interp.models import Encoded, Model
from interp.prompts import Pair, Pairs

METHOD = Method(
    id="circuit_evaluation",
    name="faithfulness of circuits, CPR and CMD",
    paper="Mueller et al. 2025, MIB: A Mechanistic Interpretability Benchmark, arXiv 2504.13151; Miller et al. 2024, "
    "Transformer Circuit Faithfulness Metrics are not Robust, arXiv 2407.08734",
    mediator="circuits of edges",
    search="exhaustive",
    cost="two forward passes, and a row a circuit, random ones included",
    function="interp.evaluate_circuits",
)
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The shares of all edges at which MIB evaluates."""
Size: TypeAlias = int | float
Circuits: TypeAlias = Circuit | Sequence[Circuit] | Scores


def evaluate_circuits(
    model: Model,
    pairs: Pairs | Sequence[Pair] | Encoded,
    circuits: Circuits | Mapping[str, Circuits],
    metric: MetricLike | Sequence[MetricLike] = "logit_diff",
    *,
    sizes: Sequence[Size] = SHARES,
    by: By | Sequence[By] = "size",
    connected: bool = False,
    scored: str | None = None,
    graph: Graph | None = None,
    random: int = 20,
    by_layer: int = 0,
    prune: bool = True,
    seed: int = 0,
    source: Source | None = None,
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> xr.DataTree:
    """How faithful circuits are, with random ones of their sizes beside them.

    Args:
        model: as for :func:`interp.patch_circuits`.
        pairs: what to evaluate on: others than made the circuits, see :meth:`interp.prompts.Pairs.split`.
        circuits: scores of all edges, from which circuits of every size are made; or one circuit, or several. Or any of these
            by name, a line each.
        metric: one or several; ``"logit_diff"`` for MIB's numbers, ``"kl"`` for the divergence from the full model,
            ``"same_top1"`` for exact match with it.
        sizes: of circuits that are made of scores: shares of all edges, 0 to 1, rounded down as MIB does, or numbers of them.
        by: which scores are high, see :func:`interp.circuits.strongest`; or several, a line each.
        connected: take edges from the logits backwards (MIB's greedy search, off there too).
        scored: the metric of the scores, where they are of several.
        graph: that scores are of, as for :func:`interp.patch_edges`; circuits say it themselves.
        random: random circuits of every size, drawn evenly; 0 for none.
        by_layer: the same with as many edges between each two layers.
        prune: drop what is on no path from the embedding to the logits. Where the source is a run this changes no number, but
            in models that norm what heads say together (Gemma 2), through which a head counts that nothing reads; where it is
            a constant, what a node says that reads nothing is lost too.
        seed: of the draws.
        source: what is seen in the place of an edge that is left out, see :func:`interp.patch_circuits`.
        rows, precision, progress, store, name, tags: likewise. In the store is the sweep of all circuits.

    Returns:
        Effects by line, ``(metric, cell, example)``, a circuit a cell, of which ``clean`` is the full model, ``corrupt`` the
        empty circuit, and recovery the faithfulness. Random circuits have an axis ``seed``, a draw a place. Along ``cell``
        there is ``size``, as it was asked for, ``selected``, how many edges that was, and ``edges``, how many were left to run,
        without the dangling ones (MIB's weighted size, as long as nodes are whole ones). The attribute ``in_sample`` says
        whether examples also made the circuits (None where that is not known), ``in_sample_examples`` how many, and
        ``in_sample_templates`` of how many of the templates.
        :func:`interp.effects.faithfulness`, :func:`interp.effects.circuit_areas` and :func:`interp.effects.against_random`
        make tables of it.

    Raises:
        InputError: no circuit, no size, or something else; a size that is neither a share nor a number of edges.
        UnknownNameError, EdgesError, UnequalLengthsError, AnswerError, ShapeMismatchError: see :func:`interp.patch_circuits`
            and :func:`interp.circuits.strongest`.
    """
    shape = as_asked(model, _of_one(circuits) if graph is None else graph)
    for argument, value in (("random", random), ("by_layer", by_layer)):
        require_whole(argument, value, "how many random circuits of every size are drawn", least=0)
    lines = _asked(circuits, shape, sizes, by, connected, scored)
    lines += _controls(lines, random, by_layer, seed)
    every, known = [Circuit.empty(shape)], {Circuit.empty(shape): 0}
    numbers = []
    for line in lines:
        run = [[one.pruned() if prune else one for one in several] for several in line.draws]
        for one in (one for several in run for one in several if one not in known):
            known[one] = len(every)
            every.append(one)
        numbers.append(np.array([[known[one] for one in several] for several in run]))
    swept = patch_circuits(
        model,
        pairs,
        every,
        metric,
        source=source,
        rows=rows,
        precision=precision,
        progress=progress,
        store=store,
        name=name,
        tags=tags,
    )
    found = {line.name: _measured(swept, line, at) for line, at in zip(lines, numbers, strict=True)}
    return xr.DataTree.from_dict(found)


def _of_one(circuits: Any) -> Graph | None:
    """The graph of a circuit among what is given, if there is one."""
    several = circuits.values() if isinstance(circuits, Mapping) and not isinstance(circuits, xr.Dataset) else [circuits]
    flat = (one for given in several for one in (given if isinstance(given, Sequence) else [given]))
    return next((one.graph for one in flat if isinstance(one, Circuit)), None)


@dataclass(frozen=True, eq=False)
class _Line:
    """Circuits of several sizes."""

    name: str
    sizes: Sequence[Size]
    draws: Sequence[Sequence[Circuit]]
    """``[draw][size]``; of circuits that are not random there is one draw."""
    by: str | None = None
    random: str | None = None
    like: Sequence[str] | None = None
    """Of random circuits, the lines whose sizes they have."""
    selected: Sequence[Mapping[str, Any]] | None = None
    """Which examples made the circuits; None where that is not known."""


def _asked(circuits: Any, shape: Graph, sizes: Any, by: Any, connected: bool, scored: str | None) -> list[_Line]:
    """A line for each name, and of scores for each ranking."""
    rankings = [by] if isinstance(by, str) else list(by)
    if strange := [one for one in rankings if one not in BY] or ([""] if not rankings else []):
        raise UnknownNameError("by", strange[0], list(BY))
    named = circuits if isinstance(circuits, Mapping) and not isinstance(circuits, xr.Dataset) else {"circuits": circuits}
    if not named:
        raise InputError("circuits is empty; give scores of edges or circuits, by name: {'EAP': scores}")
    found = []
    for called, given in named.items():
        if "/" in str(called):
            raise InputError(f"circuits has the name {called!r}; '/' parts families of a result, choose a name without it")
        if isinstance(given, Circuit) or (isinstance(given, Sequence) and given and isinstance(given[0], Circuit)):
            several = [given] if isinstance(given, Circuit) else sorted(given, key=len)
            found.append(_Line(str(called), [len(one) for one in several], [several], selected=_origins(several)))
        elif isinstance(given, xr.Dataset | xr.DataArray | np.ndarray):
            for one in rankings:
                made = [_strongest(given, shape, size, one, connected, scored) for size in _sizes(sizes, len(shape))]
                title = f"{called}, {one}" if len(rankings) > 1 else str(called)
                found.append(_Line(title, list(sizes), [made], by=one, selected=_origins(made)))
        else:
            raise InputError(
                f"circuits has a {type(given).__name__} for {called!r}; expected scores of all edges, or one or several "
                "interp.circuits.Circuit"
            )
    return found


def _sizes(sizes: Any, total: int) -> list[int]:
    """Numbers of edges."""
    given = list(sizes) if isinstance(sizes, Sequence | np.ndarray) and not isinstance(sizes, str) else [sizes]
    shares = all(isinstance(one, float | np.floating) and 0 <= one <= 1 for one in given)
    counts = all(isinstance(one, int | np.integer) and 0 <= one <= total for one in given)
    if not given or not (shares or counts):
        raise InputError(
            f"sizes={given}; expected shares of all edges, such as 0.01, or numbers of them, such as 100, up to {total:,}"
        )
    return [floor(one * total + 1e-9) if shares else int(one) for one in given]


def _strongest(scores: Scores, shape: Graph, count: int, by: Any, connected: bool, scored: str | None) -> Circuit:
    """The strongest edges, of which there may be none."""
    found = strongest(scores, shape, max(count, 1), by=by, connected=connected, metric=scored)
    return found if count else Circuit(shape, np.zeros(len(shape), dtype=bool), found.name, found.origin)


def _origins(circuits: Sequence[Circuit]) -> list[Mapping[str, Any]] | None:
    """Which examples made circuits; None where one does not say."""
    found = [one.origin.get(SELECTED) for one in circuits]
    return None if any(one is None for one in found) else [one for one in found if one is not None]


def _controls(lines: Sequence[_Line], random: int, by_layer: int, seed: int) -> list[_Line]:
    """Random circuits of the sizes of every line; of lines of the same sizes they are the same."""
    alike: dict[tuple[int, ...], list[_Line]] = {}
    for line in lines:
        alike.setdefault(tuple(map(len, line.draws[0])), []).append(line)
    found = [_random("random", several, len(alike) > 1, random, seed) for several in alike.values() if random]
    return found + [_random("random by layer", [line], len(lines) > 1, by_layer, seed) for line in lines if by_layer]


def _random(title: str, lines: Sequence[_Line], several: bool, draws: int, seed: int) -> _Line:
    """Random circuits like those of lines of one size; of several such, they are called by whom they are like."""
    first, by_layer = lines[0], title != "random"
    drawn = [random_circuits(one, draws, seed=seed, by_layer=by_layer) for one in first.draws[0]]
    return _Line(
        f"{title}, like {first.name}" if several else title,
        first.sizes,
        [[of_size[draw] for of_size in drawn] for draw in range(draws)],
        random="layers" if by_layer else "size",
        like=[line.name for line in lines],
        selected=first.selected if by_layer else [],
    )


def _measured(swept: xr.Dataset, line: _Line, at: np.ndarray[Any, Any]) -> xr.Dataset:
    """The effects of a line, taken from those of all circuits, of which the first is empty."""
    of_cells = [str(name) for name, one in swept.coords.items() if axes.CELL in one.dims]
    empty = swept["value"].isel({axes.CELL: 0}, drop=True)
    bare = swept.drop_vars(of_cells).assign(corrupt=empty)
    dims = (axes.SEED, axes.CELL) if line.random else (axes.CELL,)
    numbers = xr.Variable(dims, at if line.random else at[0])
    total = len(line.draws[0][0].graph)
    found = bare.isel({axes.CELL: numbers}).assign_coords(
        {
            axes.CELL: range(len(line.sizes)),
            SIZE: (axes.CELL, list(line.sizes)),
            "selected": (axes.CELL, [len(one) for one in line.draws[0]]),
            "edges": (dims, swept["edges"].values[numbers.values]),
        }
    )
    if line.random:
        found = found.assign_coords({axes.SEED: range(len(line.draws))})
    facts = {"by": line.by, RANDOM: line.random, "like": line.like}
    found = found.assign_attrs({key: one for key, one in facts.items() if one is not None})
    found = found.assign_attrs(method="evaluate_circuits", spec=None, total=total, in_sample=None)
    return effects.stamped(_marked(found, line.selected))


def _marked(found: xr.Dataset, selected: Sequence[Mapping[str, Any]] | None) -> xr.Dataset:
    """The same, saying whether its examples made the circuits."""
    if selected is None:
        return found
    here = effects.examples_of(found)
    if any(one.get("examples") is None and one.get("pairs_digest") != here["pairs_digest"] for one in selected):
        return found  # of other pairs as a whole, among which some may be the same
    if any(one.get("examples") is None for one in selected):
        return effects.mark_in_sample(found, {"pairs_digest": here["pairs_digest"]})
    union = {key: sorted({one for of in selected for one in of.get(key) or ()}) for key in ("examples", "templates")}
    return effects.mark_in_sample(found, union)
