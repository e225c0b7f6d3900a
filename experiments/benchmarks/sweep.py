"""Activation patching sweeps: serial hooks, batched hooks, TransformerLens, nnsight, pyvene and interp.

    python experiments/benchmarks/sweep.py [--json] [--only serial,transformer-lens,interp] [--case "tokens 3 and 9"]

GPT-2 small's shape with random weights: residual stream layer × position, and z layer × head; then Llama-3.2-1B's shape (two
layers of it on a CPU) against the number of tokens, which is bound by arithmetic. Denoising, logit difference or KL after the
last token. Every contestant's numbers are compared with those of plain hooks, one patch a pass, before they are timed. Models
are built and loaded outside the clock; runs that fill caches are inside. Attention is as transformers loads it (sdpa), except
TransformerLens', which sets its own (eager).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import common
import floor
import torch
from contestants.hooks import Batched, Serial, source_run
from contestants.lens import Lens
from contestants.networks import GPT2_SMALL, LLAMA_1B, TINY_GPT2, TINY_LLAMA, Shape
from contestants.ours import Interp
from contestants.question import Question, random_question
from contestants.worker import Worker
from torch import Tensor

NAMES = ("serial", "batched-hooks", "transformer-lens", "nnsight", "nnsight-batched", "pyvene", "interp")
FEW = ("serial", "transformer-lens", "interp")
"""Who takes part where a case is there for one comparison."""


@dataclass(frozen=True)
class Entry:
    """A case to run: a question, its name, and who takes part."""

    name: str
    question: Question
    names: tuple[str, ...] = NAMES


def latency(shape: Shape, pairs: int, tokens: int, differ: tuple[int, ...]) -> list[Entry]:
    """Residual layer × position and z layer × head, for pairs that share a beginning and for pairs that share nothing."""
    found = []
    kinds = {f"tokens {' and '.join(map(str, differ))} of {tokens} differ": differ, "every token differs": None}
    for kind, positions in kinds.items():
        for site, what in (("resid_pre", "residual layer × position"), ("z", "z layer × head")):
            question = random_question(shape, site, pairs=pairs, tokens=tokens, differ=positions)
            found.append(Entry(f"{what}, {kind}, {shape.name}", question))
    kind, positions = next(iter(kinds.items()))
    divergence = random_question(shape, "resid_pre", pairs=pairs, tokens=tokens, differ=positions, metric="kl")
    return [*found, Entry(f"residual layer × position, KL, {kind}, {shape.name}", divergence, FEW)]


def throughput(shape: Shape, pairs: int, lengths: tuple[int, ...], places: int) -> list[Entry]:
    """The residual stream in every layer at a few positions, evenly spread, against the number of tokens."""
    found = []
    for tokens in lengths:
        where = tuple(tokens * i // places for i in range(places))
        question = random_question(shape, "resid_pre", pairs=pairs, tokens=tokens, differ=None, where=where)
        name = f"compute-bound, {tokens} tokens × {pairs} pairs, {shape.layers} layers of {shape.name}, {shape.dtype}"
        found.append(Entry(name, question, FEW))
    return found


def entries(quick: bool, device: str) -> list[list[Entry]]:
    """Cases by shape: one shape's models are let go before the next one's are built."""
    if quick:
        tiny = replace(TINY_GPT2, device=device), replace(TINY_LLAMA, device=device)
        return [latency(tiny[0], 3, 8, (2, 5)), throughput(tiny[1], 2, (4, 8), 2)]
    if torch.device(device).type == "cuda":
        large = throughput(replace(LLAMA_1B, device=device, dtype="bfloat16"), 32, (16, 32, 64, 128), 8)
    else:
        large = throughput(replace(LLAMA_1B, layers=2), 2, (16, 32, 64, 128), 4)
    return [latency(replace(GPT2_SMALL, device=device), 8, 15, (3, 9)), large]


def contestants(shape: Shape, network: Any, names: tuple[str, ...]) -> common.Contestants:
    """Those named, in the order of :data:`NAMES`. Who leaves the network as it is shares it; the others have their own."""
    made = {
        "serial": lambda: Serial(shape, network),
        "batched-hooks": lambda: Batched(shape, network),
        "transformer-lens": lambda: Lens(shape, network),
        "nnsight": lambda: Worker("nnsight_traces", "Traces", shape),
        "nnsight-batched": lambda: Worker("nnsight_traces", "Invokes", shape),
        "pyvene": lambda: Worker("pyvene_interchanges", "Interchanges", shape),
        "interp": lambda: Interp(shape, network),
    }
    return {name: made[name]() for name in NAMES if name in names}


def matmul_rate(shape: Shape) -> common.MatmulRate:
    """An MLP's product: of 960 rows, or of 4096 for the compute-bound shape on a GPU, which 960 would not fill."""
    rows = 4096 if torch.device(shape.device).type == "cuda" and shape.family == "llama" else 960
    return common.MatmulRate(rows, shape.width, shape.mlp, shape.dtype, shape.device)


@torch.no_grad()
def tolerance(network: Any, question: Question, expected: Tensor) -> float:
    """How far answers to ``question`` may be from ``expected``, plain hooks'.

    float32: 1e-4 × (1 + max |logit|), and no more than a hundredth of what the answers range over, so that no difference hides
    an effect. Lower precision: three times what rounding itself moves, that is, plain hooks' distance from float32 (changing
    the batch size alone may move nothing, and says little of another program).
    """
    shape = question.shape
    if shape.dtype == "float32":
        _, last = source_run(shape, network, question)
        return min(1e-4 * (1 + float(last.abs().max())), 0.01 * float(expected.max() - expected.min()))
    exact = Serial(shape, copy.deepcopy(network).float()).run(question).value
    return 3 * float((exact - expected).abs().max())


def executed(contestant: Any, name: str, question: Question) -> int:
    """FLOPs of the whole question as executed, counted apart from the timing.

    Ours are counted over the whole question. The others do the same work for every cell, so that one cell and a few cells
    tell the rest; counting all would take as long as the run.
    """
    if name == "interp":
        return contestant.run(question, True).flops
    few = question.sample()
    one = replace(few, layers=few.layers[:1], where=few.where[:1])
    first, some = (contestant.run(part, True).flops for part in (one, few))
    return first + (some - first) * (question.cells - 1) // (few.cells - 1)


def measured(entry: Entry, network: Any, made: common.Contestants, given: Any) -> dict[str, Any]:
    """One case, timed."""
    question, shape = entry.question, entry.question.shape
    common.say(f"{entry.name}: {question.cells} cells × {len(question.base)} pairs")
    rate, inert = matmul_rate(shape), floor.inert(question)
    notes = {
        "cells": question.cells,
        "no_op_cells": inert,
        "naive_flops": floor.naive(question),
        "about": f"{question.cells} cells × {len(question.base)} pairs of {question.tokens} tokens; metric {question.metric}; "
        f"attention {network.config._attn_implementation}, TransformerLens eager; {given.threads} CPU thread(s), "
        f"{shape.dtype}, {shape.device}",
    }
    few = question.sample()
    expected = Serial(shape, network).run(few).value
    allowed = tolerance(network, few, expected)
    case = common.Case(entry.name, question, few, floor.sweep(question), allowed, notes)
    present = {name: one for name, one in made.items() if name in entry.names}
    common.race(case, expected, present, rate, given.repeats, lambda name: executed(present[name], name, question))
    return common.report(case, rate, common.machine(given.threads, given.device))


def main() -> None:
    given = common.arguments(__doc__.splitlines()[0], NAMES)
    results = []
    with common.quiet():
        for group in entries(given.quick, given.device):
            chosen = [entry for entry in group if given.case in entry.name]
            if not chosen:
                continue
            shape = chosen[0].question.shape
            names = {name for entry in chosen for name in entry.names if name in (given.only or NAMES)}
            network = shape.network()
            made = contestants(shape, network, tuple(names))
            for entry in chosen:
                results.append(measured(entry, network, made, given))
                common.say(common.table(results[-1]) + "\n")
            for contestant in made.values():
                contestant.close()
    common.conclude(results, given.json)


if __name__ == "__main__":
    main()
