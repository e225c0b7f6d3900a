"""Masks over edges or nodes, learned by gradient: edge pruning to a size that is asked for, and subnetwork probing with a pull.

>>> found = interp.edge_pruning(model, pairs, sparsity=[0.9, 0.95, 0.98], seeds=3)           # doctest: +SKIP
>>> found = interp.subnetwork_probing(model, pairs, strength=[1, 10, 100])                 # doctest: +SKIP

1. Every edge has a hard concrete mask z = clamp(l + (r − l)·σ((logit u + φ)/T), 0, 1), u drawn anew in every step; its reader
   sees z·a + (1 − z)·ã of the writer.
2. Minimise the metric of the masked model, by default its divergence from the clean run, and a penalty on the size:

   edge pruning          λ₁·(s − t) + λ₂·(s − t)² of the sparsity s = 1 − E[L0]/n; t rises evenly to the one asked for, and
                         the multipliers ascend the gradient
   subnetwork probing    λ·E[L0]/n, what is expected to be open

3. Read the circuit off: of edge pruning the edges of highest φ, as many as were asked for (as many as are expected to be open
   where the sparsity asked for is 1 or more, which pushes harder); of subnetwork probing those that the median draw keeps.

Seeds, sizes and strengths are learned together, rows of the same passes, each with its own draws, optimiser and multipliers.
What is said of a circuit is measured with its edges whole or gone, not with the masks.

Bhaskar, Wettig, Friedman and Chen, "Finding Transformer Circuits with Edge Pruning", arXiv 2406.16778 (l = −0.1, r = 1.1,
T = 2/3, and the learning rates; without its further masks over writers); Cao, Sanh and Rush, "Low-Complexity Probing via
Finding Subnetworks", arXiv 2104.03514, over edges and nodes as in Conmy et al., arXiv 2304.14997.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, get_args

import numpy as np
import torch
import xarray as xr

from interp import axes, effects
from interp.circuits import By, Graph
from interp.engine.cells import Cell
from interp.engine.graph.edges import as_asked, spec_of_graph
from interp.engine.graph.found import circuits_found, what_counts
from interp.engine.graph.learning import Lagrangian, Masks, Objective, Over, Pull, Steps, learn
from interp.engine.graph.mixed import Mixed
from interp.engine.graph.sweeping import Asked, Cells, Words, require_edges
from interp.engine.measure import bar
from interp.engine.precision import Precision
from interp.engine.prepared import Patching
from interp.engine.recipe import others, recorded
from interp.engine.stored import Into, StoreLike, whole
from interp.errors import InputError, UnknownNameError, require_whole
from interp.interventions import Activation, Source
from interp.methods.registry import Method
from interp.metrics import MetricLike
from interp.models import Encoded, Model
from interp.prompts import Pair, Pairs

_MEDIATOR = "edges of the residual stream, or all edges out of a head or an MLP together"
METHODS = (
    Method(
        id="edge_pruning",
        name="edge pruning",
        paper="Bhaskar et al. 2024, Finding Transformer Circuits with Edge Pruning, arXiv 2406.16778",
        mediator=_MEDIATOR,
        search="learned mask",
        cost="a forward and backward pass a mask, example and step",
        function="interp.edge_pruning",
    ),
    Method(
        id="subnetwork_probing",
        name="subnetwork probing",
        paper="Cao et al. 2021, Low-Complexity Probing via Finding Subnetworks, arXiv 2104.03514; "
        "Conmy et al. 2023, Towards Automated Circuit Discovery for Mechanistic Interpretability, arXiv 2304.14997",
        mediator=_MEDIATOR,
        search="learned mask",
        cost="a forward and backward pass a mask, example and step",
        function="interp.subnetwork_probing",
    ),
)


def edge_pruning(
    model: Model,
    pairs: Pairs | Sequence[Pair] | Encoded,
    sparsity: float | Sequence[float],
    metric: MetricLike = "kl",
    *,
    by: By | None = None,
    over: Over = "edges",
    seeds: int | Sequence[int] = 1,
    steps: int = 3000,
    ramp: float = 5 / 6,
    batch: int = 32,
    lr: float = 0.8,
    multiplier_lr: float = 0.8,
    start: float = 10.0,
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
    """Learn which edges to keep, as many as are asked for.

    Args:
        model, pairs, patching, source, precision, progress, store, name, tags: as for :func:`interp.patch_circuits`.
        sparsity: which part of the edges is to go, t above; one or several. More than 1 pushes harder.
        metric: one, with a gradient; minimised where what helps raises it by being left out, else maximised.
        by: ``"raises"`` for a divergence or a loss, ``"lowers"`` for a logit difference; it has to be said, but of ``"kl"``.
        over: ``"edges"``, or ``"nodes"``: all edges out of a head or an MLP together.
        seeds: of the draws, a mask each; or how many.
        steps: how many.
        ramp: in which share of them t rises to its end.
        batch: pairs in a step.
        lr: of Adam on φ.
        multiplier_lr: of Adam on λ₁ and λ₂, which begin with 0.
        start: the first φ.
        graph: as for :func:`interp.patch_edges`.
        rows: most rows in one pass.

    Returns:
        What :func:`interp.patch_circuits` returns for the circuits that were read off, a seed and a sparsity a cell, with
        ``in_circuit`` and ``logit``, φ, ``[cell, edge]``; ``loss``, ``penalty`` and ``sparsity`` ``[cell, step]``, the last
        1 − E[L0]/n; along ``cell`` also ``seed`` and ``asked``, the sparsity that was asked for.
        :func:`interp.circuits.circuits_of` makes circuits of it.

    Raises:
        InputError: a number that makes no sense, or it has to be said what keeps an edge.
        TrainingError: the metric has no gradient, or a loss is no number.
        UnknownNameError: an unknown word.
        EdgesError, UnequalLengthsError, AnswerError, ShapeMismatchError: see :func:`interp.patch_circuits`.
    """
    said, into = locals() | {"sizes": "sparsity"}, Into.of(store, name, tags)
    require_whole("steps", steps, "how many steps are taken")
    _numbers("ramp", ramp, "in which share of the steps the sparsity rises, more than 0")
    _numbers("multiplier_lr", multiplier_lr, "more than 0")

    def objective(sizes: Sequence[float], device: torch.device) -> Objective:
        return Lagrangian(sizes, ramp, multiplier_lr, device)

    def read_off(size: float, logits: np.ndarray[Any, Any], expected: float) -> np.ndarray[Any, Any]:
        count = round((1 - size) * len(logits)) if size < 1 else round(expected)
        kept = np.zeros(len(logits), dtype=bool)
        kept[np.argsort(-logits, kind="stable")[:count]] = True
        return kept

    _numbers("sparsity", sparsity, "which part of the edges is to go, such as 0.95")
    return _learned("edge_pruning", said, into, sparsity, lambda n: steps, objective, read_off)


def subnetwork_probing(
    model: Model,
    pairs: Pairs | Sequence[Pair] | Encoded,
    strength: float | Sequence[float] = 10.0,
    metric: MetricLike = "kl",
    *,
    by: By | None = None,
    over: Over = "edges",
    seeds: int | Sequence[int] = 1,
    epochs: int = 20,
    batch: int = 32,
    lr: float = 0.1,
    start: float = math.log(9),
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
    """Learn which edges to keep, against a constant pull on how many.

    Args:
        strength: λ above; one or several. 0 pulls nothing.
        epochs: passes over the pairs.
        start: the first φ, by default the logit of 0.9.
        model, pairs, metric, by, over, seeds, batch, lr, graph, patching, source, rows, precision, progress, store, name,
            tags: as for :func:`edge_pruning`.

    Returns:
        What :func:`edge_pruning` returns, a seed and a strength (``asked``) a cell.

    Raises:
        Exception: as :func:`edge_pruning`.
    """
    said, into = locals() | {"sizes": "strength"}, Into.of(store, name, tags)
    require_whole("epochs", epochs, "how often all pairs are seen")
    _numbers("strength", strength, "how hard the size is pulled, 0 or more", least=True)

    def objective(sizes: Sequence[float], device: torch.device) -> Objective:
        return Pull(sizes)

    def read_off(size: float, logits: np.ndarray[Any, Any], expected: float) -> np.ndarray[Any, Any]:
        return logits > 0

    steps = lambda n: epochs * -(-n // min(batch, n))  # noqa: E731
    return _learned("subnetwork_probing", said, into, strength, steps, objective, read_off)


def _learned(
    call: str,
    said: Mapping[str, Any],
    into: Into | None,
    sizes: float | Sequence[float],
    steps: Callable[[int], int],
    objective: Callable[[Sequence[float], torch.device], Objective],
    read_off: Callable[[float, np.ndarray[Any, Any], float], np.ndarray[Any, Any]],
) -> xr.Dataset:
    """Learn masks, and measure the circuits that are read off.

    Args:
        call: the function that was called, and ``said``, its arguments; ``said["sizes"]`` names those that ``sizes`` are.
        steps: how many, of so many examples.
        read_off: which entries are kept, by what was asked for, their logits, and how many are expected to be open.
    """
    model, over, seeds = said["model"], said["over"], said["seeds"]
    require_edges(model, said["patching"], said["precision"])
    if over not in get_args(Over):
        raise UnknownNameError("over", over, get_args(Over))
    require_whole("batch", said["batch"], "how many pairs a step sees")
    _numbers("lr", said["lr"], "more than 0")
    counts, word, shape = what_counts(said["metric"], said["by"]), said["sizes"], as_asked(model, said["graph"])
    if counts == "size":
        raise InputError("by='size': a mask is learned in one direction; say by='lowers' or by='raises'")
    cells = list(product(range(seeds) if isinstance(seeds, int) else seeds, np.atleast_1d(sizes).tolist()))
    if not cells:
        raise InputError(f"seeds={seeds!r} and {word}={sizes!r} leave no mask to learn")
    along = {
        "circuit": [f"{call.replace('_', ' ')} {size:g}, seed {seed}" for seed, size in cells],
        "seed": [seed for seed, _ in cells],
        "asked": [size for _, size in cells],
    }
    source = Activation() if said["source"] is None else said["source"]
    words = Words(call, said["patching"], said["precision"], source, said["rows"])
    told = {
        key: said[key] for key in ("over", "steps", "epochs", "ramp", "batch", "lr", "multiplier_lr", "start") if key in said
    }
    spec = {"circuits": along["circuit"], **spec_of_graph(shape)}
    facts = {"by": counts, **told}
    asked = Asked.of(model, said["pairs"], said["metric"], words, Cells(len(cells), {}, spec, shape.whole, facts=facts))

    def rows_of(known: Sequence[Cell]) -> Mixed:
        return Mixed(asked.runs, shape, source, asked.budget, torch.zeros(0, len(shape), device=model.device))

    def make() -> xr.Dataset:
        began, n = time.perf_counter(), len(asked.encoded)
        with asked.begin(rows_of) as sweep, bar(said["progress"], steps(n), "step") as shown:
            mixed = sweep.made
            assert isinstance(mixed, Mixed)
            masks = Masks(shape, over, along["seed"], said["start"], model.device)
            how = Steps(_order(n, said["batch"], steps(n)), -1.0 if counts == "lowers" else 1.0, said["lr"])
            trace = learn(mixed, masks, objective(along["asked"], model.device), how, shown.update)
            expected = [float(mask.expected_l0) for mask in masks.each]
            logits = masks.logits.double().cpu()
            kept = [read_off(*one) for one in zip(along["asked"], logits.numpy(), expected, strict=True)]
            edges = masks.of_edges(torch.tensor(np.stack(kept)).double()).numpy() > 0
            of_edges = {"logit": masks.of_edges(logits).numpy()}
            result = circuits_found(asked, sweep, shape, edges, along, of_edges)
        curves = {name: ((axes.CELL, "step"), value.cpu().numpy()) for name, value in trace._asdict().items()}
        return effects.stamped(result.assign(curves).assign_attrs(wall_seconds=time.perf_counter() - began))

    if into is None:
        return make()
    given = {key: value for key, value in others(said).items() if key != "sizes"}
    found = whole(into, asked.bare(), make, beside=partial(recorded, call, model, asked.encoded, **given))
    assert isinstance(found, xr.Dataset)  # as it was made
    return found


def _order(n: int, batch: int, steps: int) -> list[torch.Tensor]:
    """Examples of every step, all of them once before any comes again."""
    draw, found = torch.Generator().manual_seed(0), list[torch.Tensor]()
    while len(found) < steps:
        found += torch.randperm(n, generator=draw).split(min(batch, n))
    return found[:steps]


def _numbers(argument: str, given: Any, what: str, *, least: bool = False) -> None:
    """Raise unless an argument is a number, or several, above 0, or from 0 on where ``least``."""
    for one in np.atleast_1d(given).tolist():
        if isinstance(one, bool) or not isinstance(one, int | float) or not (one >= 0 if least else one > 0):
            raise InputError(f"{argument}={given!r}; expected {what}")
