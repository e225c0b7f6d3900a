"""ACDC over five thresholds: decisions foretold and read in order, against one batched forward pass an edge.

    python experiments/benchmarks/acdc.py [--json] [--only plain,interp-one-by-one,interp] [--repeats 3]

The zoo's language model (4 layers of 4 heads, 479 edges), 16 pairs of 16 tokens about indirect objects, KL divergence, float64,
thresholds at which about 20, 10, 5, 2 and 1% of the edges stay. All must find the same edges.

``plain`` runs a whole forward pass of all pairs an edge, every reader seeing a sum of its own; ``interp-one-by-one`` begins at
the reader's block and leaves out what goes by rule, as ``interp`` does, but asks about one edge at a time.
``forward_an_edge_seconds`` is what as many forward passes take with nothing patched, the least that anyone needs who runs one
an edge.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any

import common
import torch
from contestants.acdc_ours import Interp
from contestants.acdc_plain import Plain
from contestants.acdc_question import Search, edges

import interp
from interp.models.zoo import ZooConfig, ZooForCausalLM

NAMES = ("plain", "interp-one-by-one", "interp")
THRESHOLDS = (1.5e-7, 6e-6, 1e-4, 3e-3, 0.5)


def question(quick: bool) -> tuple[Search, Any]:
    if quick:
        return tiny()
    model = interp.load("zoo/language-4l", dtype=torch.float64)
    encoded = model.encode(interp.tasks.ioi(16, seed=0, templates=[2], tokenizer=model.tokenizer))
    graph = edges(model.sizes["layer"], model.sizes["head"])
    return Search(graph, encoded.clean.ids, encoded.corrupted.ids, THRESHOLDS), model.module


def tiny() -> tuple[Search, Any]:
    """Two blocks with random weights, 46 edges."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    network = ZooForCausalLM(ZooConfig(**sizes, positions="rotary", attention_scale=1.0)).double().eval()
    clean = torch.randint(1, 40, (2, 6))
    corrupted = clean.clone()
    corrupted[:, 2] = torch.randint(1, 40, (2,))
    return Search(edges(2, 2), clean, corrupted, (1e-5, 1e-3)), network


def least(asked: Search, network: Any, decided: list[int]) -> int:
    """FLOPs of matrix products behind the readers of so many edges, from the logits backwards, on all pairs and positions.

    Args:
        decided: how many edges have to be asked about at each threshold; the cheapest ones, those of late readers.
    """
    block = sum(weight.numel() for weight in network.model.layers[0].parameters() if weight.ndim == 2)
    config, tokens = network.config, asked.clean.numel()
    readers = 3 * config.num_attention_heads + 1
    behind = [
        2 * tokens * block * max(0, config.num_hidden_layers - 1 - reader // readers) for _, reader in reversed(asked.edges)
    ]
    return sum(sum(behind[:count]) for count in decided)


@torch.no_grad()
def forward_an_edge(asked: Search, network: Any) -> float:
    """Seconds of as many forward passes as there are edges and thresholds, from twenty of them."""
    taken = []
    for _ in range(20):
        began = time.perf_counter()
        network(input_ids=asked.clean)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * len(asked.edges) * len(asked.thresholds)


def executed(contestant: Any, asked: Search) -> int:
    """FLOPs as executed, counted apart from the timing; a whole forward pass is the same for every edge."""
    if isinstance(contestant, Plain):
        two = contestant.run(replace(asked, thresholds=()), True).flops or 0
        return two // 2 * (2 + (1 + len(asked.edges)) * len(asked.thresholds))
    return contestant.run(asked, True).flops or 0


def measured(asked: Search, network: Any, made: dict[str, Any], given: Any) -> dict[str, Any]:
    """The case, timed."""
    config = network.config
    rate = common.MatmulRate(asked.clean.numel() * 8, config.hidden_size, config.intermediate_size, "float64", "cpu")
    sample = Search(asked.edges, asked.clean[:1], asked.corrupted[:1], asked.thresholds[-1:])
    expected = Plain(network).run(sample).value
    name = f"ACDC, {len(asked.edges)} edges, {len(asked.thresholds)} thresholds, zoo/language-4l"
    case = common.Case(name, asked, sample, 1, 0.0)
    common.race(case, expected, made, rate, given.repeats, lambda name: executed(made[name], asked))
    ours = next((made[name] for name in ("interp", "interp-one-by-one") if name in made), None)
    if ours is not None:
        case.floor = least(asked, network, [len(asked.edges) - count for count in ours.took["unasked"]])
    alone = forward_an_edge(asked, network)
    case.notes = {
        "about": f"{len(asked.clean)} pairs of {asked.clean.shape[1]} tokens, KL, thresholds "
        f"{', '.join(map(str, asked.thresholds))}; {given.threads} CPU thread(s), float64; a bare forward pass an edge takes "
        f"{alone:.2f} s",
        "forward_an_edge_seconds": alone,
        "took": {name: contestant.took for name, contestant in made.items() if isinstance(contestant, Interp)},
    }
    return common.report(case, rate, common.machine(given.threads, given.device))


def main() -> None:
    given = common.arguments(__doc__.splitlines()[0], NAMES)
    results = []
    with common.quiet():
        asked, network = question(given.quick)
        ways = {
            "plain": lambda: Plain(network),
            "interp-one-by-one": lambda: Interp(network, ahead=False),
            "interp": lambda: Interp(network),
        }
        made = {name: ways[name]() for name in NAMES if name in (given.only or NAMES)}
        if given.case in "ACDC":
            results.append(measured(asked, network, made, given))
            common.say(common.table(results[-1]) + "\n")
    common.conclude(results, given.json)


if __name__ == "__main__":
    main()
