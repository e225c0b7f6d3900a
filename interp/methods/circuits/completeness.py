"""Completeness and minimality of a circuit: what is missing from it, and what of it is not needed.

>>> found = interp.completeness(model, pairs, circuit, {"movers": ["L9H6", "L9H9"]}, greedy=5)          # doctest: +SKIP
>>> found["gap"].max("cell")                                          # 0 where nothing is missing     # doctest: +SKIP
>>> needed = interp.minimality(model, pairs, circuit, {"movers": ["L9H6", "L9H9"]})                     # doctest: +SKIP
>>> needed["node"].values[needed["change"].values[0] < 0.01]           # not needed                     # doctest: +SKIP

F(C) is the metric's mean with the edges of C alone, N the whole model, and C ∖ K a circuit without the edges out of the nodes K
and into them.

1. Faithful: |F(N) − F(C)| is small. That is the row of completeness where nothing is knocked out.
2. Complete: |F(C ∖ K) − F(N ∖ K)| is small for every K ⊂ C. What stands in for a part of C, and is not in C, shows where that
   part is knocked out of both. Of all K these are tried: those that are given, such as the groups of heads of one role; some
   drawn by chance, every node in or out; and a greedy search, which takes into K one node after the other, each time the
   one with which the gap is largest.
3. Minimal: for every node v of C there is a K with |F(C ∖ (K ∪ {v})) − F(C ∖ K)| large. K = ∅ is tried always; a node that
   another stands in for is only seen to count once that one is in K.

What is found is a lower bound on the maximum over all K.

Wang, Variengien, Conmy, Shlegeris and Steinhardt, "Interpretability in the Wild: a Circuit for Indirect Object Identification
in GPT-2 Small", arXiv 2211.00593. Theirs is of nodes with mean ablation; here a circuit is of edges, and what is left out is
what the source says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from interp import axes, effects, stats
from interp.circuits import Circuit
from interp.engine.graph.circuits import patch_circuits
from interp.engine.precision import Precision
from interp.errors import InputError, require_whole
from interp.interventions import Source
from interp.methods.registry import Method
from interp.metrics import MetricLike
from interp.models import Encoded, Model
from interp.prompts import Pair, Pairs

_PAPER = (
    "Wang et al. 2022, Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 Small, "
    "arXiv 2211.00593"
)
METHODS = (
    Method(
        id="completeness",
        name="completeness of a circuit",
        paper=_PAPER,
        mediator="circuits of edges, without sets of heads and MLPs",
        search="greedy",
        cost="two forward passes, and two rows a set that is knocked out; greedily two a node and step",
        function="interp.completeness",
    ),
    Method(
        id="minimality",
        name="minimality of a circuit",
        paper=_PAPER,
        mediator="circuits of edges, without sets of heads and MLPs",
        search="greedy",
        cost="two forward passes, and a row for every node and set that is knocked out; greedily, one for two nodes and step",
        function="interp.minimality",
    ),
)
Nodes: TypeAlias = tuple[str, ...]
Knockouts: TypeAlias = Mapping[str, Sequence[str]] | Sequence[Sequence[str]]


def completeness(
    model: Model,
    pairs: Pairs | Sequence[Pair] | Encoded,
    circuit: Circuit,
    knockouts: Knockouts = (),
    metric: MetricLike | Sequence[MetricLike] = "logit_diff",
    *,
    draws: int = 10,
    greedy: int = 0,
    seed: int = 0,
    source: Source | None = None,
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
) -> xr.Dataset:
    """How far a circuit is from the model when the same is knocked out of both.

    Args:
        model, pairs, metric, source, rows, precision, progress: as for :func:`interp.patch_circuits`. Greedy steps follow the
            first metric.
        circuit: of the model's graph.
        knockouts: sets K of the circuit's heads and MLPs, ``"L9H6"`` or ``"m3"``, by name or not.
        draws: further sets, in which every node of the circuit is or is not, evenly.
        greedy: most nodes of the set that is searched for; 0 for no search.
        seed: of the draws.

    Returns:
        Along ``cell``, a set each, the empty one first: ``knocked_out``, its nodes, and ``how``, "", a given name, "drawn" or
        "greedy". ``circuit`` and ``model`` are F(C ∖ K) and F(N ∖ K) of every example, ``gap`` is the size of their mean
        difference, and ``difference``, ``low`` and ``high`` that difference with its 95% interval over examples or templates.

    Raises:
        InputError: a set has a node that the circuit does not.
        UnknownNameError, EdgesError, UnequalLengthsError, AnswerError: see :func:`interp.patch_circuits`.
    """
    nodes, asked = _nodes(circuit), _Asked(model, pairs, metric, source, rows, precision, progress)
    require_whole("greedy", greedy, "how many nodes are searched for at most", least=0)
    require_whole("draws", draws, "how many sets are drawn", least=0)
    whole = Circuit.whole(circuit.graph)
    sets = _sets(circuit, nodes, knockouts, draws, seed)
    said = list(sets.values())
    asked.ask([one.without(k) for k in sets for one in (circuit, whole)])
    chosen: Nodes = ()
    for _ in range(min(greedy, len(nodes))):
        further = [_with(chosen, node, nodes) for node in nodes if node not in chosen]
        asked.ask([one.without(k) for k in further for one in (circuit, whole)])
        gaps = [abs(asked.mean(circuit.without(k)) - asked.mean(whole.without(k))) for k in further]
        chosen = further[int(np.argmax(gaps))]
        if chosen not in sets:
            sets[chosen] = "greedy"
            said.append("greedy")
    values = {
        name: np.stack([asked.values[of.without(k)] for k in sets], 1) for name, of in (("circuit", circuit), ("model", whole))
    }
    gap = values["circuit"] - values["model"]
    around = stats.bootstrap_mean(gap.astype(float), effects.clusters_of(asked.like).labels, seed=seed)
    dims = (axes.METRIC, axes.CELL)
    found = {name: ((*dims, axes.EXAMPLE), array) for name, array in values.items()}
    numbers = {"gap": np.abs(around.mean), "difference": around.mean, "low": around.low, "high": around.high}
    coords = {axes.CELL: range(len(sets)), "knocked_out": (axes.CELL, list(map(_written, sets))), "how": (axes.CELL, said)}
    return asked.labelled(found | {name: (dims, array) for name, array in numbers.items()}, coords, circuit, "completeness")


def minimality(
    model: Model,
    pairs: Pairs | Sequence[Pair] | Encoded,
    circuit: Circuit,
    knockouts: Knockouts = (),
    metric: MetricLike | Sequence[MetricLike] = "logit_diff",
    *,
    draws: int = 0,
    greedy: int = 0,
    seed: int = 0,
    source: Source | None = None,
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
) -> xr.Dataset:
    """How much every node of a circuit counts, at most over sets that are knocked out beside it.

    Args:
        model, pairs, circuit, knockouts, metric, draws, seed, source, rows, precision, progress: as for
            :func:`interp.completeness`. A set is taken without the node in question.
        greedy: most nodes of a set that is searched for, for every node; the step that gains nothing is the last.

    Returns:
        Along ``cell``, a node each: ``node``; ``change``, the largest |F(C ∖ (K ∪ {v})) − F(C ∖ K)|, ``[metric, cell]``;
        ``difference``, the same with its sign; ``alone``, that of K = ∅; and ``knocked_out``, the K that it was largest with.

    Raises:
        InputError, UnknownNameError, EdgesError, UnequalLengthsError, AnswerError: see :func:`interp.completeness`.
    """
    nodes, asked = _nodes(circuit), _Asked(model, pairs, metric, source, rows, precision, progress)
    require_whole("greedy", greedy, "how many nodes are searched for at most, for every node", least=0)
    require_whole("draws", draws, "how many sets are drawn", least=0)
    sets = list(_sets(circuit, nodes, knockouts, draws, seed))
    tried: dict[str, list[Nodes]] = {v: list(dict.fromkeys(tuple(n for n in k if n != v) for k in sets)) for v in nodes}

    def ask(more: Mapping[str, Sequence[Nodes]]) -> None:
        asked.ask([circuit.without(k) for v, several in more.items() for one in several for k in (one, (*one, v))])

    def change(v: str, k: Nodes, metric: int = 0) -> float:
        return asked.mean(circuit.without((*k, v)), metric) - asked.mean(circuit.without(k), metric)

    ask(tried)
    growing: dict[str, Nodes] = dict.fromkeys(nodes, ())
    for _ in range(min(greedy, len(nodes) - 1)):
        further = {v: [_with(k, n, nodes) for n in nodes if n not in (*k, v)] for v, k in growing.items()}
        ask(further)
        best = {v: max(several, key=lambda k, v=v: abs(change(v, k))) for v, several in further.items()}  # type: ignore[misc]
        growing = {v: k for v, k in best.items() if abs(change(v, k)) > abs(change(v, growing[v]))}
        for v, k in growing.items():
            tried[v].append(k)
    many = range(len(asked.like[axes.METRIC]))
    most = [[max(tried[v], key=lambda k, v=v, m=m: abs(change(v, k, m))) for v in nodes] for m in many]  # type: ignore[misc]
    signed = np.array([[change(v, k, m) for v, k in zip(nodes, row, strict=True)] for m, row in enumerate(most)])
    dims = (axes.METRIC, axes.CELL)
    found = {
        "change": (dims, np.abs(signed)),
        "difference": (dims, signed),
        "alone": (dims, np.array([[change(v, (), m) for v in nodes] for m in many])),
        "knocked_out": (dims, np.array([[_written(k) for k in row] for row in most], dtype=object)),
    }
    coords = {axes.CELL: range(len(nodes)), "node": (axes.CELL, list(nodes))}
    return asked.labelled(found, coords, circuit, "minimality")


@dataclass(eq=False)
class _Asked:
    """Circuits that were run, none of them twice."""

    model: Model
    pairs: Any
    metric: Any
    source: Source | None
    rows: int | None
    precision: Precision
    progress: bool | None
    values: dict[Circuit, np.ndarray[Any, Any]] = field(default_factory=dict)
    """``[metric, example]``."""
    like: xr.Dataset = field(default_factory=xr.Dataset)
    """The effects that are known last."""

    def ask(self, circuits: Iterable[Circuit]) -> None:
        new = [one for one in dict.fromkeys(circuits) if one not in self.values]
        if not new:
            return
        how: dict[str, Any] = {"source": self.source, "rows": self.rows, "precision": self.precision, "progress": self.progress}
        self.like = patch_circuits(self.model, self.pairs, new, self.metric, **how)
        self.values |= {one: self.like["value"].values[:, i] for i, one in enumerate(new)}

    def mean(self, circuit: Circuit, metric: int = 0) -> float:
        return float(self.values[circuit][metric].astype(float).mean())

    def labelled(self, found: Any, coords: Any, circuit: Circuit, method: str) -> xr.Dataset:
        """The result, with examples and attributes of the sweep."""
        kept = {str(n): c for n, c in self.like.coords.items() if axes.CELL not in c.dims}
        attrs = dict(self.like.attrs) | {"method": method, "spec": None, "circuit": circuit.name, "edges": len(circuit)}
        named = [name for name, (dims, *_) in found.items() if axes.EXAMPLE in dims]
        kept = {n: c for n, c in kept.items() if named or axes.EXAMPLE not in c.dims}
        return effects.stamped(xr.Dataset(found, coords=kept | coords, attrs=attrs))


def _nodes(circuit: Any) -> Nodes:
    """The heads and MLPs of a circuit."""
    if not isinstance(circuit, Circuit):
        raise InputError(f"circuit is {circuit!r} of type {type(circuit).__name__}; expected one interp.circuits.Circuit")
    layers = [site.layer for site, inside in zip(circuit.graph.senders, circuit.inside, strict=True) if inside]
    found = tuple(name for name, layer in zip(circuit.nodes, layers, strict=True) if layer is not None)
    if not found:
        raise InputError(f"{circuit!r} has no head and no MLP that could be knocked out")
    return found


def _sets(circuit: Circuit, nodes: Nodes, knockouts: Any, draws: int, seed: int) -> dict[Nodes, str]:
    """What is knocked out, and how it was come by."""
    given = knockouts.items() if isinstance(knockouts, Mapping) else [(", ".join(k), k) for k in knockouts]
    found: dict[Nodes, str] = {(): ""}
    for name, some in given:
        if strange := [one for one in some if one not in nodes]:
            raise InputError(
                f"knockouts has {strange[0]!r}, which is no node of {circuit!r}; it has the heads and MLPs {', '.join(nodes)}"
            )
        found.setdefault(tuple(node for node in nodes if node in some), str(name))
    draw = np.random.default_rng(seed)
    for inside in draw.random((draws, len(nodes))) < 0.5:
        found.setdefault(tuple(node for node, one in zip(nodes, inside, strict=True) if one), "drawn")
    return found


def _with(some: Nodes, node: str, nodes: Nodes) -> Nodes:
    """A set with one node more, in the order of the network."""
    return tuple(one for one in nodes if one in some or one == node)


def _written(nodes: Nodes) -> str:
    return ", ".join(nodes)
