"""The benchmarks of edges, paths and gating: formulas, the sample and its weights, and a small run of each from the shell.

Nothing here asserts a speed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

BENCHMARKS = Path(__file__).parents[2] / "experiments" / "benchmarks"


@pytest.fixture(scope="module")
def modules() -> Iterator[Any]:
    """Imports a module of the benchmarks by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield import_module


def ran(script: str) -> dict[str, Any]:
    """The one case of a quick run; contestants have been compared where it succeeds."""
    command = [sys.executable, script, "--quick", "--json", "--repeats", "1"]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (case,) = json.loads(done.stdout)
    assert case["ratio"]["interp"] == 1
    assert case["max_abs_diff"] <= case["tolerance"]
    assert case["percent_of_floor"] == pytest.approx(100 * case["floor_seconds"] / case["seconds"]["interp"])
    assert all(case["floor_flops"] < one["flops_executed"] for one in case["contestants"].values())
    return case


def small(modules: Any) -> Any:
    """Two plain blocks: stream 4 wide, two heads of 2, 8 units, a vocabulary of 10."""
    networks = modules("contestants.networks")
    return networks.Shape("by hand", "gpt2", layers=2, width=4, heads=2, kv_heads=2, mlp=8, vocab=10)


def test_floor_by_hand(modules: Any) -> None:
    """Worked out on paper, for prompts of 3 tokens that differ from token 1 on, two columns read.

    A token costs q 2·4·4 = 32, k and v 64, W_O 32, of which a head has 16, and MLP 2·2·4·8 = 128; a pair of query and key
    4·4 = 16; two columns 2·4·2 = 16. The last block from token 1 on, needed at one token that sees 3 keys, 2·64 + 32 + 32 +
    128 + 3·16 = 368; from token 0 on, 64 more.
    """
    floor, shape = modules("floor"), small(modules)
    at = {"differ_from": 1, "tokens": 3, "columns": 2}
    into = {
        ("attention", 0): 2 * (16 + 128) + 368 + 16,
        ("mlp", 0): 2 * 128 + 368 + 16,
        ("attention", 1): 16 + 128 + 16,
        ("mlp", 1): 128 + 16,
        ("logits", 2): 16,
    }
    assert {(kind, layer): floor.link(shape, kind, layer, **at) for kind, layer in into} == into
    # Six queries, keys and values a block read 1 and then 4 writers, MLPs 3 and 6, the unembedding 7.
    total = 6 * into["attention", 0] + 3 * into["mlp", 0] + 24 * into["attention", 1] + 6 * into["mlp", 1] + 7 * 16
    assert floor.every_link(shape, **at) == total
    # Backward again as much in products with weights, twice in attention; logits of all 10 columns.
    last = 2 * (3 * 64 + 32 + 32 + 128) + 3 * 3 * 16
    assert floor.gating_step(shape, 3) == 2 * 3 * 128 + last + 2 * (2 * 4 * 10)


def test_floor_of_a_path_by_hand(modules: Any) -> None:
    """Worked out on paper with the products above, three blocks, 3 tokens, receivers L1H0, L1H1 and L2H1.

    A head's part of W_O is 16, its query 16 and its attention to 3 keys 8·3 = 24. The last block at one token is 32 + 64 + 32 +
    128 + 3·16 = 304. From block 0: W_O and two MLPs, then two heads that join and the MLP beside them. From block 1 only L2H1
    is reached, from block 2 nothing.
    """
    floor, shape = modules("floor"), replace(small(modules), layers=3)
    at = {"receivers": ((2, 1), (1, 0), (1, 1)), "tokens": 3, "columns": 2}
    assert floor.path(shape, 0, **at) == 16 + 2 * 128 + 2 * (16 + 24 + 16) + 128 + 304 + 16
    assert floor.path(shape, 1, **at) == 16 + 128 + (16 + 24 + 16) + 128 + 16
    assert floor.path(shape, 2, **at) == 0


def test_the_links_are_the_edges_of_the_graph(modules: Any) -> None:
    """Counted as the paper does for GPT-2 small (arXiv 2304.14997), and one by one as interp lists them."""
    question, ours, networks = (modules(f"contestants.{name}") for name in ("edges_question", "edges_ours", "networks"))
    every = question.every(networks.GPT2_SMALL)
    assert len(every) == len(set(every)) == 32_491
    from interp import load
    from interp.engine.graph.edges import edges

    shape = networks.TINY_GPT2
    links = [ours.edge(link) for link in question.every(shape)]
    assert links == edges(load(shape.network()))


def test_the_sample_is_stratified(modules: Any) -> None:
    """Every stratum at least its three; the others in proportion, to within rounding; the same again from the same seed."""
    question, networks = modules("contestants.edges_question"), modules("contestants.networks")
    shape, options = networks.GPT2_SMALL, {"count": 300, "least": 3, "pairs": 2, "tokens": 15, "differ": (3, 9)}
    asked = question.random_links(shape, **options)
    sizes = {name: len(part) for name, part in question.strata(question.every(shape)).items()}
    taken = {name: len(part) for name, part in question.strata(asked.links).items()}
    assert len(asked.links) == len(set(asked.links)) == 300
    assert list(taken) == list(sizes)
    assert min(taken.values()) == 3
    large = {name for name, n in taken.items() if n > 3}
    rest, total = sum(taken[name] for name in large), sum(sizes[name] for name in large)
    assert all(abs(taken[name] - rest * sizes[name] / total) < 1 for name in large)
    assert question.random_links(shape, **options) == asked
    assert question.random_links(shape, **options, seed=2).links != asked.links
    assert question.shares({"a": 2, "b": 50, "c": 48}, 20, 3) == {"a": 2, "b": 9, "c": 9}


def test_a_sample_stands_for_all(modules: Any) -> None:
    """A contestant whose links cost known seconds and FLOPs by stratum: what all of them would, to rounding."""
    question, sample, timed = (modules(f"contestants.{name}") for name in ("edges_question", "edges_sample", "timed"))
    shape = small(modules)
    costs = {name: 0.5 + i for i, name in enumerate(question.strata(question.every(shape)))}

    class Known:
        device = "cpu"

        def run(self, asked: Any, count: bool = False) -> Any:
            seconds = 7.0 + sum(costs[link.stratum] for link in asked.links)
            flops = round(1000 * seconds) if count else None
            return timed.Run(seconds, torch.full((len(asked.links), 2), float(len(asked.links))), flops)

    asked = question.random_links(shape, count=17, least=2, pairs=2, tokens=3, differ=(1,))
    one = sample.Reweighted(Known(), ())
    everything = 7.0 + sum(costs[link.stratum] for link in question.every(shape))
    found = one.run(asked)
    assert found.seconds == pytest.approx(everything)
    assert one.run(asked, count=True).flops == pytest.approx(1000 * everything)
    parts = question.strata(asked.links)
    assert found.value[:, 0].tolist() == [len(parts[link.stratum]) for link in asked.links]
    assert one.seconds == [{"shared": 7.0} | {name: pytest.approx(len(part) * costs[name]) for name, part in parts.items()}]


def test_edges_run() -> None:
    case = ran("edges.py")
    assert list(case["seconds"]) == ["hooks", "hooks-last-logits", "interp"]
    assert sum(stratum["edges"] for stratum in case["strata"].values()) == 262
    assert sum(stratum["sampled"] for stratum in case["strata"].values()) == 60
    assert case["tolerance"] <= case["effects"]["median"] / 5
    assert case["all_edges_seconds"] > 0


def test_paths_run(modules: Any) -> None:
    """Expected of the hooks: base and source once, and for each of 8 senders a pass without logits and one with them.

    The floor is worked out on paper: a token of the tiny GPT-2 costs q and W_O 2048 each, k and v 4096, MLP 16384, its
    attention to 8 keys 1024, two columns 128; a head has a quarter.
    """
    case = ran("paths.py")
    assert list(case["seconds"]) == ["hooks", "hooks-last-logits", "interp"]
    assert (case["senders"], case["without_path"]) == (12, 4)
    assert case["tolerance"] <= case["effects"]["median"] / 20
    last = 2048 + 4096 + 2048 + 16384 + 1024
    ends = {0: 2 * (512 + 256 + 512) + 16384 + last + 128, 1: (512 + 256 + 512) + 16384 + 128}
    assert case["floor_flops"] == 3 * 4 * ((512 + 2 * 16384 + ends[0]) + (512 + 16384 + ends[1]))
    forward, tiny = modules("floor").forward, modules("contestants.networks").TINY_GPT2
    frozen, first = forward(tiny, 8, logits=0), 2 * forward(tiny, 8, logits=1)
    for name, logits in {"hooks": 8, "hooks-last-logits": 1}.items():
        assert case["contestants"][name]["flops_executed"] == 3 * (first + 8 * (frozen + forward(tiny, 8, logits=logits)))


def test_a_path_leads_to_later_receivers_only(modules: Any) -> None:
    """Of receivers in blocks 1 and 2, senders in block 1 reach the later one, those in block 2 none, those in block 0 all."""
    paths, networks = modules("contestants.paths_question"), modules("contestants.networks")
    shape = networks.TINY_GPT2
    both = paths.random_paths(shape, ((1, 0), (2, 3)), pairs=2, tokens=6, differ=(1,))
    assert both.senders() == [(layer, head) for layer in (0, 1) for head in range(4)]
    hooks = modules("contestants.paths_hooks").PathHooks(shape, shape.network())
    all_, later = (hooks.answer(asked) for asked in (both, replace(both, receivers=((2, 3),))))
    assert torch.equal(all_[1], later[1])
    assert float((all_[0] - later[0]).abs().min()) > 1e-5
    assert torch.equal(all_[2], all_[2][:1].expand(4, -1)), "the base's value"
    assert float((all_[1] - all_[2]).abs().min()) > 1e-5


def test_gates_train(modules: Any) -> None:
    """Expected first losses and penalties: the gated model by hand, the starts as the benchmark hands them out."""
    case = ran("gating.py")
    assert list(case["seconds"]) == ["plain-loop", "interp-one-by-one", "interp"]
    question, networks = modules("contestants.gating_question"), modules("contestants.networks")
    asked = question.random_gating(networks.TINY_GPT2, prompts=8, tokens=8, batch=4, epochs=3, seeds=2)
    assert case["runs"] == [{"seed": seed, "pull": pull} for seed in (0, 1) for pull in (0.0, 0.1, -0.1)]
    network = asked.shape.network()
    for i, run in enumerate(case["runs"]):
        start = asked.start(run["seed"])
        assert case["penalty"][i][0] == pytest.approx(-run["pull"] * float(start.clamp(-4, 4).mean()), abs=1e-6)
        assert case["loss"][i][0] == pytest.approx(gated(network, start, asked), abs=1e-5)
    assert len({round(losses[-1], 4) for losses in case["loss"]}) == 6, "every run goes its own way"
    assert all(sum(losses[-2:]) < sum(losses[:2]) for losses in case["loss"][::3]), "without a pull the loss falls"


def gated(network: Any, logits: Tensor, asked: Any) -> float:
    """Mean −log P(answer) over the first batch."""
    handles = []
    for layer, block in enumerate(network.transformer.h):

        def scale(module: Any, args: tuple[Tensor], layer: int = layer) -> tuple[Tensor]:
            return ((args[0].unflatten(-1, (logits.shape[1], -1)) * logits[layer].sigmoid()[:, None]).flatten(-2),)

        handles.append(block.attn.c_proj.register_forward_pre_hook(scale))
    with torch.no_grad():
        last = network(input_ids=torch.tensor(asked.prompts[: asked.batch])).logits[:, -1]
    for handle in handles:
        handle.remove()
    return torch.nn.functional.cross_entropy(last, torch.tensor(asked.answers[: asked.batch])).item()


def test_circuit_discovery_agrees_with_a_pass_an_edge() -> None:
    """The script compares the edges themselves; none may differ."""
    case = ran("acdc.py")
    took = case["took"]["interp"]
    assert case["max_abs_diff"] == 0
    assert len(took["edges"]) == 2
    assert took["edges"][0] > took["edges"][1]
    assert case["took"]["interp-one-by-one"]["edges"] == took["edges"]
    assert max(case["took"]["interp-one-by-one"]["rounds"]) > max(took["rounds"])
