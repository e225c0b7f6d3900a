"""Edge patching: every edge of the residual stream's graph, against one forward pass an edge.

    python experiments/benchmarks/edges.py [--json] [--only hooks,interp,interp-every-edge] [--repeats 3]

GPT-2 small's shape with random weights has 32,491 edges, queries, keys and values apart. A sample of 300 from a fixed seed,
stratified by the reader's layer and kind, is run by everybody, stratum by stratum, and compared edge by edge before it is
timed. ``seconds`` are those of all edges: what a call does once (base and source runs, caches) plus each stratum's seconds
times its edges over its sampled ones. Sampled edges share less than all edges do, attention runs above all, so ours are too
many; ``interp-every-edge`` sweeps all of them and measures that, by name, or where the sample foretells less than 5 minutes.

``hooks`` runs a whole forward pass of all pairs an edge; ``hooks-last-logits`` asks the model for the last logits alone.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import common
import floor
import torch
from contestants.edges_hooks import Edges
from contestants.edges_ours import InterpEdges, InterpEveryEdge
from contestants.edges_question import EMBED, LOGITS, Link, Links, every, random_links, strata
from contestants.edges_sample import Reweighted, weights
from contestants.hooks import source_run
from contestants.networks import GPT2_SMALL, TINY_GPT2
from torch import Tensor

NAMES = ("hooks", "hooks-last-logits", "interp", "interp-every-edge")
LONGEST = 300.0
"""All edges are swept where the sample foretells fewer seconds, unless that is asked for by name."""


def question(quick: bool, device: str) -> Links:
    if quick:
        return random_links(replace(TINY_GPT2, device=device), count=60, least=3, pairs=2, tokens=8, differ=(2, 5))
    return random_links(replace(GPT2_SMALL, device=device), count=300, least=3, pairs=2, tokens=15, differ=(3, 9))


def contestants(asked: Links, network: Any, names: tuple[str, ...]) -> dict[str, Reweighted]:
    shape = asked.shape
    made = {
        "hooks": lambda: Reweighted(Edges(shape, network), ()),
        "hooks-last-logits": lambda: Reweighted(Edges(shape, network, logits_to_keep=1), ()),
        "interp": lambda: Reweighted(InterpEdges(shape, network), (Link(EMBED, LOGITS),)),
    }
    return {name: made[name]() for name in NAMES if name in made and name in names}


@torch.no_grad()
def tolerance(network: Any, asked: Links, expected: Tensor) -> tuple[float, dict[str, float]]:
    """1e-4 × (1 + max |logit|), and no more than a fifth of the sample's median effect; and what the effects are.

    Most edges do little, so that a tolerance of the logits' size would let any answer pass.
    """
    (_, base), (_, source) = (
        source_run(asked.shape, network, replace(asked.question, source=getattr(asked.question, side)))
        for side in ("base", "source")
    )
    effects = (expected - asked.question.measure(base, source).cpu()).abs()
    known = {"median": float(effects.median()), "largest": float(effects.max())}
    return min(1e-4 * (1 + float(source.abs().max())), known["median"] / 5), known


def executed(contestant: Reweighted, name: str, asked: Links) -> int:
    """FLOPs of all edges as executed, counted apart from the timing; a forward pass is the same for every edge."""
    if name == "interp":
        return contestant.run(asked, True).flops or 0
    none, one = (contestant.inner.run(replace(asked, links=asked.links[:n]), True).flops or 0 for n in (0, 1))
    return none + (one - none) * len(every(asked.shape))


def measured(asked: Links, network: Any, made: dict[str, Reweighted], given: Any) -> dict[str, Any]:
    """The case, timed."""
    shape, pairs, tokens = asked.shape, asked.question, asked.question.tokens
    sizes = {name: len(part) for name, part in strata(every(shape)).items()}
    rate = common.MatmulRate(960, shape.width, shape.mlp, shape.dtype, shape.device)
    least = sum(
        floor.every_link(shape, pairs.differ_from(example), tokens, pairs.read_columns) for example in range(len(pairs.base))
    )
    common.say(f"{len(asked.links)} of {sum(sizes.values())} edges × {len(pairs.base)} pairs")
    expected = Edges(shape, network).run(asked).value
    allowed, effects = tolerance(network, asked, expected)
    name = f"edges, {len(asked.links)} of {sum(sizes.values())}, {shape.name}"
    case = common.Case(name, asked, asked, least, allowed)
    common.race(case, expected, made, rate, given.repeats or 3, lambda name: executed(made[name], name, asked))
    case.notes = notes(asked, made, sizes) | {"effects": effects} | everything(asked, network, expected, case, given)
    case.notes["about"] = (
        f"{len(asked.links)} edges of {sum(sizes.values())} × {len(pairs.base)} pairs of {tokens} tokens, seconds reweighted "
        f"to all edges; metric {pairs.metric}; {given.threads} CPU thread(s), {shape.dtype}, {shape.device}"
    )
    return common.report(case, rate, common.machine(given.threads, given.device))


def notes(asked: Links, made: dict[str, Reweighted], sizes: dict[str, int]) -> dict[str, Any]:
    """The strata: edges, sampled ones, and the median seconds of each contestant's runs of these, without what is shared.

    ``seconds_if_nothing_were_shared`` reweights the strata's calls as they are: as if caches were filled again for every few
    edges, which nobody would do, but without a difference of measured times.
    """
    taken = {name: len(part) for name, part in strata(asked.links).items()}
    timed = {
        name: {part: statistics.median(run[part] for run in one.seconds) for part in ("shared", *taken)}
        for name, one in made.items()
    }
    unshared = {
        name: sum(weight * (of[part] + of["shared"]) for part, weight in weights(asked).items()) for name, of in timed.items()
    }
    return {
        "seconds_are": f"those of {len(asked.links)} sampled edges, reweighted by stratum to all {sum(sizes.values())}; what a "
        "call does once counts once",
        "pairs": len(asked.question.base),
        "strata": {
            part: {"edges": sizes[part], "sampled": n, "seconds": {name: of[part] for name, of in timed.items()}}
            for part, n in taken.items()
        },
        "shared_seconds": {name: of["shared"] for name, of in timed.items()},
        "seconds_if_nothing_were_shared": unshared,
    }


def everything(asked: Links, network: Any, expected: Tensor, case: common.Case, given: Any) -> dict[str, Any]:
    """All edges swept once by interp, its answers to the sampled ones compared."""
    named = "interp-every-edge" in (given.only or ())
    foretold = statistics.median(run.seconds for run in case.runs["interp"]) if "interp" in case.runs else float("inf")
    if not named and (given.only or foretold > LONGEST):
        return {"all_edges_seconds": None}
    run = InterpEveryEdge(asked.shape, network).run(asked)
    common.say(f"  interp, all edges swept: {run.seconds:.2f} s")
    common.agree(case, expected, {"interp-every-edge": run.value})
    return {"all_edges_seconds": run.seconds}


def main() -> None:
    given = common.arguments(__doc__.splitlines()[0], NAMES)
    asked = question(given.quick, given.device)
    results = []
    with common.quiet():
        network = asked.shape.network()
        made = contestants(asked, network, given.only or NAMES)
        if given.case in "edges":
            results.append(measured(asked, network, made, given))
            common.say(common.table(results[-1]) + "\n")
        for contestant in made.values():
            contestant.close()
    common.conclude(results, given.json)


if __name__ == "__main__":
    main()
