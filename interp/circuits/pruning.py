"""Greedy pruning of a graph, an edge at a time from the logits backwards, with decisions that are foretold and read in order.

>>> graph = Graph.like(2, heads=2)
>>> needed = graph.numbers(["embed → L0H1.v", "L0H1 → m1", "m1 → logits"])
>>> def loss(kept):                                                     # of some circuits: how many of three edges they lack
...     return (~kept[:, needed]).sum(-1).astype(float)
>>> found = prune(Known(graph, loss), 0.5)
>>> [repr(graph.edges[i]) for i in np.flatnonzero(found.kept)]
['embed → L0H1.v', 'L0H1 → m1', 'm1 → logits']
>>> found.unasked, found.evaluated, found.misses
(30, 26, 3)

An edge stays where leaving it out, of what is left, changes a number by at least a threshold (Conmy et al., arXiv 2304.14997).
That is one evaluation after another: each asks about what the ones before have left. Here many are asked at once, each about
what the ones before it *would* leave if their decisions were as foretold; the answers are read in order, up to the first
decision that was foretold wrongly, and one begins anew behind it. So the decisions are those of asking one by one.

An edge into a reader from which nothing leads to the logits any more changes nothing; it goes by rule, without an evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from interp.circuits.graph import Bools, Graph, Ints
from interp.circuits.selecting import BY, By
from interp.errors import EdgesError, UnknownNameError

Floats: TypeAlias = NDArray[np.float64]
Evaluate: TypeAlias = Callable[[NDArray[np.bool_]], Floats]
"""``[circuit, edge]``, some circuits, to a number each."""
FEWEST = 8
"""Circuits that are asked about at once, where so many are left."""


@dataclass(frozen=True, eq=False)
class Pruned:
    """What is left of a graph at one threshold."""

    threshold: float
    kept: Bools
    """``[edge]``."""
    change: Floats
    """``[edge]``, what leaving it out changed when it was asked; NaN of those that went by rule."""
    value: float
    """The number of what is left."""
    rounds: int
    """How often circuits were asked about, some at a time."""
    evaluated: int
    """How many circuits were asked about."""
    misses: int
    """Decisions that were foretold wrongly."""
    closest: float
    """How near the threshold a change came."""

    @property
    def unasked(self) -> int:
        """Edges that went by rule, without an evaluation."""
        return int(np.isnan(self.change).sum())


class Step(NamedTuple):
    """An edge that is asked about, or that goes by rule."""

    edge: int
    trial: int | None
    """What it would leave, by its key; None by rule."""
    goes: bool
    """Whether it is foretold to go."""


@dataclass(eq=False)
class Known:
    """What is known of the circuits of a graph, which searches share.

    Args:
        evaluate: gives circuits their numbers.
        guess: ``[edge]``, what leaving out each is foretold to change, as far as it counts; by default nothing.
        shown: ``[receiver, sender]``, the writers in whose words a reader shows: those that it serves, by default, and others
            that are normed together with them.
    """

    graph: Graph
    evaluate: Evaluate
    guess: Floats | None = None
    shown: Bools | None = None
    values: dict[int, float] = field(default_factory=dict)
    """Numbers of circuits, by their keys."""

    def __post_init__(self) -> None:
        self.foretold: Floats = np.zeros(len(self.graph)) if self.guess is None else np.array(self.guess, dtype=np.float64)
        draw = np.random.default_rng(0)
        halves = draw.integers(0, 2**63, size=(2, len(self.graph)), dtype=np.int64).tolist()
        self.keys = [(first << 63) | second for first, second in zip(*halves, strict=True)]
        """A circuit's key is the sum, without carrying, of those of the edges that it lacks."""

    def ask(self, circuits: dict[int, Bools]) -> None:
        """Evaluate circuits, by their keys."""
        if circuits:
            found = np.asarray(self.evaluate(np.stack(list(circuits.values()))), dtype=np.float64)
            self.values.update(zip(circuits, found.tolist(), strict=True))


def prune(
    known: Known,
    threshold: float,
    *,
    by: By = "raises",
    order: Ints | None = None,
    most: int = 256,
    progress: Callable[[int], None] | None = None,
) -> Pruned:
    """What is left of a graph at a threshold.

    Args:
        known: of the graph and its numbers; what is learned at one threshold foretells the next.
        threshold: an edge goes whose change is less.
        by: which changes keep an edge: those that raise the number, lower it, or either.
        order: in which edges are asked about; by default :func:`backwards`.
        most: circuits that are asked about at once.
        progress: is told of edges that are decided.

    Raises:
        UnknownNameError: ``by`` is none of those words.
        EdgesError: ``order`` is not every edge once, readers behind first.
    """
    if by not in BY:
        raise UnknownNameError("by", by, list(BY))
    search = Search(known, threshold, backwards(known.graph) if order is None else _checked(known.graph, order), BY[by])
    while not search.done:
        before = search.at
        search.round(most)
        if progress is not None:
            progress(search.at - before)
    return search.result


def backwards(graph: Graph, seed: int | None = None) -> Ints:
    """Every edge, readers behind before readers in front, and of one reader writers behind first.

    Args:
        seed: shuffles readers that come together, such as the queries, keys and values of a layer, and the writers of each.
    """
    if seed is None:
        return np.arange(len(graph))[::-1].copy()
    draw, stages = np.random.default_rng(seed), _stages(graph)
    readers = np.lexsort((draw.permutation(len(stages)), -stages))
    into = np.split(np.arange(len(graph)), np.cumsum(graph.before)[:-1])
    return np.concatenate([draw.permutation(into[reader]) for reader in readers])


def _stages(graph: Graph) -> Ints:
    """``[receiver]``, a number that is higher where what a reader makes can be read in front of it no more."""
    last = 2 * len(graph.blocks)
    stages = [last if s.layer is None else 2 * s.layer + (s.name == "mlp_pre") for s in graph.reading]
    return np.repeat(stages, graph.ends)


def _checked(graph: Graph, order: Ints) -> Ints:
    order = np.asarray(order)
    if not np.array_equal(np.sort(order), np.arange(len(graph))):
        raise EdgesError(f"order is not every edge of {graph!r} once")
    stages = _stages(graph)[graph.receiver[order]]
    early = next((i for i, (a, b) in enumerate(pairwise(stages.tolist())) if b > a), None)
    if early is not None:
        first, second = (graph.edges[order[i]] for i in (early, early + 1))
        raise EdgesError(f"order has {first!r} before {second!r}; readers behind come first, see interp.circuits.backwards")
    return order


class Search:
    """Pruning at one threshold.

    Args:
        order: of the edges, readers behind before readers in front.
        sizes: how a change of the number counts: as it is, with its sign turned, or its size.
    """

    def __init__(self, known: Known, threshold: float, order: Ints, sizes: Callable[..., Any]) -> None:
        self.known, self.threshold, self.order, self.sizes = known, threshold, order.tolist(), sizes
        graph = known.graph
        self.graph, self.receiver, self.sender = graph, graph.receiver.tolist(), graph.sender.tolist()
        self.serves = [np.flatnonzero(row).tolist() for row in (graph.served if known.shown is None else known.shown)]
        self.kept = np.ones(len(graph), dtype=bool)
        self.change = np.full(len(graph), np.nan)
        self.heard = [False] * len(graph.senders)
        """``[sender]``, whether something leads from it to the logits."""
        self.at = self.key = 0
        known.ask({} if 0 in known.values else {0: self.kept.copy()})
        self.rounds = self.evaluated = self.misses = 0
        self.runs = 32.0
        """About how many decisions in a row are foretold rightly."""

    @property
    def done(self) -> bool:
        return self.at == len(self.order)

    def round(self, most: int) -> None:
        """Ask about some circuits at once, and read their decisions."""
        steps, circuits = self._foretold(max(1, min(most, max(FEWEST, int(1.5 * self.runs)))))
        self.known.ask(circuits)
        self.rounds, self.evaluated = self.rounds + bool(circuits), self.evaluated + len(circuits)
        before, right = self.at, self._read(steps)
        self.misses += not right
        read = sum(step.trial is not None for step in steps[: self.at - before])
        self.runs = max(self.runs, 1.5 * read) if right else (self.runs + read) / 2

    def _foretold(self, most: int) -> tuple[list[Step], dict[int, Bools]]:
        """The next edges with what is foretold of them, and the circuits that have to be asked about."""
        values, keys, guess = self.known.values, self.known.keys, self.known.foretold
        kept, heard, key, steps = self.kept.copy(), list(self.heard), self.key, list[Step]()
        circuits: dict[int, Bools] = {}
        for edge in self.order[self.at :]:
            if not self._leads(self.receiver[edge], heard):
                kept[edge], known = False, values.get(key)
                key ^= keys[edge]
                if known is not None:
                    values[key] = known
                steps.append(Step(edge, None, True))
                continue
            trial = key ^ keys[edge]
            if trial not in values:
                if len(circuits) == most:
                    break
                circuits[trial] = kept.copy()
                circuits[trial][edge] = False
            change = self.sizes(values[trial] - values[key]) if {trial, key} <= values.keys() else guess[edge]
            goes = bool(change < self.threshold)
            steps.append(Step(edge, trial, goes))
            if goes:
                kept[edge], key = False, trial
            else:
                heard[self.sender[edge]] = True
        return steps, circuits

    def _read(self, steps: Sequence[Step]) -> bool:
        """Decide about edges in order, up to the first that was foretold wrongly; returns whether there was none."""
        values, right = self.known.values, True
        foretold = values[self.key]
        for edge, trial, goes in steps:
            if trial is None:
                if right:
                    self._drop(edge, self.key ^ self.known.keys[edge], values[self.key])
                continue
            self.known.foretold[edge] = self.sizes(values[trial] - foretold)  # of wrong ones behind the first, a better guess
            if right:
                self.change[edge] = change = self.sizes(values[trial] - values[self.key])
                if change < self.threshold:
                    self._drop(edge, trial, values[trial])
                else:
                    self.heard[self.sender[edge]] = True
                    self.at += 1
                right = goes == bool(change < self.threshold)
            foretold = values[trial] if goes else foretold
        return right

    def _drop(self, edge: int, key: int, value: float) -> None:
        self.kept[edge], self.key, self.at = False, key, self.at + 1
        self.known.values[key] = value

    def _leads(self, receiver: int, heard: Sequence[bool]) -> bool:
        """Whether something leads from a reader to the logits."""
        return receiver >= len(self.serves) - self.graph.ends or any(heard[sender] for sender in self.serves[receiver])

    @property
    def result(self) -> Pruned:
        closest = np.nanmin(np.abs(self.change - self.threshold), initial=np.inf)
        value = self.known.values[self.key]
        return Pruned(self.threshold, self.kept, self.change, value, self.rounds, self.evaluated, self.misses, float(closest))
