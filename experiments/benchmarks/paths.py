"""Path patching: every head by way of three late heads' queries, against two forward passes a sender.

    python experiments/benchmarks/paths.py [--json] [--only hooks,hooks-last-logits,interp] [--repeats 3]

GPT-2 small's shape with random weights, 8 pairs of 15 tokens. Each of the 144 heads' z at the last token is a sender, the
queries of L9H9, L9H6 and L10H0 there receive together, MLPs are part of the paths, and patching is noising. The 24 heads of
the last two layers are not before any receiver and have no path: everybody answers the base's value for them without a run.

``hooks`` is path patching as it is commonly written (Wang et al. 2022): for every sender one pass of all pairs with all heads
frozen, which gives the receivers' queries, and one with these written; ``hooks-last-logits`` asks the second for the last
logits alone. A few senders are compared before anything is timed, all of them after.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import common
import floor
import torch
from contestants.hooks import source_run
from contestants.networks import GPT2_SMALL, TINY_GPT2
from contestants.paths_hooks import PathHooks
from contestants.paths_ours import InterpPaths
from contestants.paths_question import Paths, random_paths
from torch import Tensor

NAMES = ("hooks", "hooks-last-logits", "interp")
SPREAD = 0.08
"""Of the weights: at transformers' 0.02 the effect of a path through three queries is hardly more than float32's rounding."""


def question(quick: bool, device: str) -> Paths:
    if quick:
        receivers = ((1, 3), (1, 1), (2, 0))
        return random_paths(replace(TINY_GPT2, device=device), receivers, pairs=3, tokens=8, differ=(2, 5))
    receivers = ((9, 9), (9, 6), (10, 0))
    return random_paths(replace(GPT2_SMALL, device=device, spread=SPREAD), receivers, pairs=8, tokens=15, differ=(3, 9))


def sample(asked: Paths) -> Paths:
    """One head of every layer, and so also of the layers that have no path or reach some receivers only."""
    return asked.of(asked.question.layers, asked.question.where[-1:])


def contestants(asked: Paths, network: Any, names: tuple[str, ...]) -> common.Contestants:
    made = {
        "hooks": lambda: PathHooks(asked.shape, network),
        "hooks-last-logits": lambda: PathHooks(asked.shape, network, logits_to_keep=1),
        "interp": lambda: InterpPaths(asked.shape, network),
    }
    return {name: made[name]() for name in NAMES if name in names}


@torch.no_grad()
def tolerance(network: Any, few: Paths, expected: Tensor) -> tuple[float, dict[str, float]]:
    """1e-4 × (1 + max |logit|), and no more than a twentieth of the median effect of a path; and what the effects are.

    The sample holds one sender a layer, and those without a path come last.
    """
    _, base = source_run(few.shape, network, replace(few.question, source=few.question.base))
    effects = (expected[: len(few.senders())] - few.question.measure(base, base).cpu()).abs()
    known = {"median": float(effects.median()), "largest": float(effects.max())}
    return min(1e-4 * (1 + float(base.abs().max())), known["median"] / 20), known


def executed(contestant: Any, name: str, asked: Paths) -> int:
    """FLOPs of the whole question as executed, counted apart from the timing; passes are the same for every sender."""
    if name == "interp":
        return contestant.run(asked, True).flops
    layers = asked.question.layers
    none, one = (contestant.run(asked.of(part, asked.question.where[:1]), True).flops for part in (layers[-1:], layers[:1]))
    return none + (one - none) * len(asked.senders())


def measured(asked: Paths, network: Any, made: common.Contestants, given: Any) -> dict[str, Any]:
    """The case, timed."""
    shape, pairs, few = asked.shape, asked.question, sample(asked)
    rate = common.MatmulRate(960, shape.width, shape.mlp, shape.dtype, shape.device)
    at = {"receivers": asked.receivers, "tokens": pairs.tokens, "columns": pairs.read_columns}
    least = len(pairs.base) * sum(floor.path(shape, layer, **at) for layer, _ in asked.senders())
    into = ", ".join(f"L{layer}H{head}.q" for layer, head in asked.receivers)
    name = f"path patching, {pairs.cells} heads → {into}, {shape.name}"
    common.say(f"{name}: {len(asked.senders())} of them with a path × {len(pairs.base)} pairs")
    expected = PathHooks(shape, network).run(few).value
    allowed, effects = tolerance(network, few, expected)
    notes = {
        "senders": pairs.cells,
        "without_path": pairs.cells - len(asked.senders()),
        "pairs": len(pairs.base),
        "effects": effects,
        "about": f"{pairs.cells} senders, {len(asked.senders())} with a path, × {len(pairs.base)} pairs of {pairs.tokens} "
        f"tokens; metric {pairs.metric}; attention {network.config._attn_implementation}; {given.threads} CPU thread(s), "
        f"{shape.dtype}, {shape.device}",
    }
    case = common.Case(name, asked, few, least, allowed, notes)
    common.race(case, expected, made, rate, given.repeats, lambda name: executed(made[name], name, asked))
    return common.report(case, rate, common.machine(given.threads, given.device))


def main() -> None:
    given = common.arguments(__doc__.splitlines()[0], NAMES)
    asked = question(given.quick, given.device)
    results = []
    with common.quiet():
        network = asked.shape.network()
        made = contestants(asked, network, given.only or NAMES)
        if given.case in "path patching":
            results.append(measured(asked, network, made, given))
            common.say(common.table(results[-1]) + "\n")
        for contestant in made.values():
            contestant.close()
    common.conclude(results, given.json)


if __name__ == "__main__":
    main()
