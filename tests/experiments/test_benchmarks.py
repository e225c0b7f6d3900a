"""The benchmarks themselves: the floor's formulas, agreement before timing, and a small run of each from the command line.

Nothing here asserts a speed. Contestants run in processes of their own, as the benchmarks start them: TransformerLens, nnsight
and pyvene change the process that they are imported into.
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
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).parents[2] / "experiments" / "benchmarks"


@pytest.fixture(scope="module")
def modules() -> Iterator[Any]:
    """Imports a module of the benchmarks by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield import_module


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run in the folder of the benchmarks."""
    done = subprocess.run([sys.executable, *arguments], cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def small(networks: Any) -> Any:
    """Two gated blocks: stream 4 wide, two query heads of 2 and one key/value head, 8 units, a vocabulary of 10."""
    return networks.Shape("by hand", "llama", layers=2, width=4, heads=2, kv_heads=1, mlp=8, vocab=10)


def test_floor_by_hand(modules: Any) -> None:
    """Worked out on paper, for prompts of 3 tokens that differ from token 1 on, two columns read.

    A token costs q 2·4·4 = 32, k and v 2·4·4 = 32, W_O 2·4·4 = 32 and MLP 3·2·4·8 = 192; a pair of query and key 4·4 = 16; two
    columns 2·4·2 = 16. From token 1 on there are 2 tokens that see 2 + 3 keys, so a whole block is 2·288 + 5·16 = 656, and the
    last one, needed at one token that sees 3 keys, 2·32 + 32 + 32 + 192 + 3·16 = 368.
    """
    floor, shape = modules("floor"), small(modules("contestants.networks"))
    at = {"differ_from": 1, "tokens": 3, "columns": 2}
    cell = {"differ": (1,), "tokens": 3, "columns": 2}
    assert floor.residual_cell(shape, 0, 1, **cell) == 656 + 368 + 16
    assert floor.residual_cell(shape, 1, 1, **cell) == 368 + 16
    assert floor.residual_cell(shape, 1, 2, **cell) == 368 - 32 + 16  # one token's keys and values less
    assert floor.residual_cell(shape, 1, 0, **cell) == 0  # nothing differs there
    assert floor.residual_cell(shape, 0, 2, **cell) == 0  # in front of the first block the same token is the same vector
    assert floor.z_cell(shape, 0, **at) == 2 * 192 + 368 + 16
    assert floor.z_cell(shape, 1, **at) == 192 + 16
    # Backward again as much in products with weights and twice in attention; rank 3, logits of all 10 columns.
    assert floor.das_step(shape, 0, 1, 3, 3) == 2 * (368 - 48) + 3 * 48 + 2 * (2 * 4 * 10) + 10 * 4 * 3


@pytest.mark.parametrize("name", ["TINY_GPT2", "TINY_LLAMA"])
def test_forward_is_what_transformers_executes(name: str, modules: Any) -> None:
    """Expected: torch's count of a forward pass of transformers' own model, attention by plain products."""
    shape = getattr(modules("contestants.networks"), name)
    network = shape.network()
    network.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(input_ids=torch.ones(1, 6, dtype=torch.long), use_cache=False, logits_to_keep=2)
    assert modules("floor").forward(shape, 6, logits=2) == counter.get_total_flops()


def test_sweep_sums_cells_and_names_those_without_effect(modules: Any) -> None:
    floor, question, shape = modules("floor"), modules("contestants.question"), small(modules("contestants.networks"))
    asked = question.random_question(shape, "resid_pre", pairs=3, tokens=3, differ=(1,))
    assert {asked.differ_from(example) for example in range(3)} == {1}
    assert floor.inert(asked) == ["L0.resid_pre@0", "L0.resid_pre@2", "L1.resid_pre@0"]
    assert floor.sweep(asked) == 3 * (1040 + 384 + 352)
    z = question.random_question(shape, "z", pairs=3, tokens=3, differ=(1,))
    assert floor.inert(z) == []
    assert floor.sweep(z) == 3 * 2 * (768 + 208)


SCRIPT = """
import json
import common, sweep, torch
from contestants import hooks, networks, question

right, found = torch.linspace(0, 1, 5), {}
case = common.Case("a case", None, None, floor=1, tolerance=1e-4)
for off in (5e-5, 2e-4, float("nan")):
    try:
        common.agree(case, right, {"serial": right, "other": right + off})
        found[off] = case.differences["other"]
    except SystemExit as refused:
        found[off] = str(refused)
shape = networks.TINY_GPT2
one = hooks.Serial(shape, shape.network())
asked = question.random_question(shape, "z", pairs=2, tokens=5, differ=None)
logits = shape.network()(input_ids=asked.ids("source")).logits[:, -1]
print(json.dumps({
    "agreed": list(found.values()),
    "largest": float(logits.abs().max()),
    "tolerance": [sweep.tolerance(shape.network(), asked, torch.linspace(0, width, 5)) for width in (10, 1e-3)],
    "followed": sweep.executed(one, "serial", asked),
    "counted": one.run(asked, count=True).flops,
}))
"""


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """What the parts of the sweep's benchmark say, in a process of their own."""
    return json.loads(python("-c", SCRIPT).stdout)


def test_a_wrong_answer_is_not_timed(shown: dict[str, Any]) -> None:
    right, wrong, none = shown["agreed"]
    assert 0 < right <= 1e-4
    assert "a case: other is off by 2.00e-04" in wrong
    assert "a case: other is off by nan" in none


def test_tolerance_leaves_effects_to_be_seen(shown: dict[str, Any]) -> None:
    """1e-4 × (1 + max |logit|) where effects are large, a hundredth of their range where they are small."""
    assert shown["tolerance"] == pytest.approx([1e-4 * (1 + shown["largest"]), 1e-5], abs=1e-9)


def test_flops_of_a_sweep_follow_from_a_few_cells(shown: dict[str, Any]) -> None:
    """What is printed for a contestant that runs every cell alike, against a count of the whole sweep."""
    assert shown["followed"] == shown["counted"] > 0


def test_sweep_runs() -> None:
    """Everybody who needs no process of their own; their answers have been compared with plain hooks' when this succeeds."""
    names = ["serial", "batched-hooks", "transformer-lens", "interp"]
    done = python("sweep.py", "--quick", "--json", "--repeats", "1", "--only", ",".join(names))
    cases = {case["case"]: case for case in json.loads(done.stdout)}
    assert len(cases) == 7
    for name, case in cases.items():
        assert list(case["seconds"]) == [
            n for n in names if n != "batched-hooks" or not {"KL", "compute-bound"} & set(words(name))
        ]
        assert case["ratio"]["interp"] == 1
        assert case["max_abs_diff"] <= case["tolerance"] < 1e-3
        assert case["percent_of_floor"] == pytest.approx(100 * case["floor_seconds"] / case["seconds"]["interp"])
        assert case["machine"]["threads"] == 1
        assert case["floor_flops"] < case["naive_flops"] < case["contestants"]["serial"]["flops_executed"]
    residual = cases["residual layer × position, tokens 2 and 5 of 8 differ, tiny GPT-2"]
    idle = {0: (0, 1, 3, 4, 6, 7), 1: (0, 1), 2: (0, 1)}  # in front of the first block, every token that is the same
    assert residual["no_op_cells"] == [f"L{layer}.resid_pre@{position}" for layer in range(3) for position in idle[layer]]


def words(name: str) -> list[str]:
    return name.replace(",", " ").split()


def test_das_trains(modules: Any) -> None:
    """Expected losses: the same training with a plain hook and torch's Adam, from the start that the benchmark hands out."""
    name = "DAS at layers 0, 1 × tokens 2, 7, k = 4, 3 epochs"
    done = python("das.py", "--quick", "--json", "--repeats", "1", "--only", "pyvene,pyvene-cached,interp", "--case", name)
    (case,) = json.loads(done.stdout)
    training, networks = modules("contestants.training"), modules("contestants.networks")
    sites = tuple((layer, position) for layer in (0, 1) for position in (2, 7))
    shape = replace(networks.TINY_GPT2, spread=0.1)
    asked = training.random_training(shape, sites, 4, pairs=16, tokens=8, batch=4, epochs=3)
    expected = torch.stack([plain_das(training, asked, place) for place in sites])
    by_epoch = expected.unflatten(-1, (3, 4)).mean((0, -1))
    assert case["mean_loss_by_epoch"] == pytest.approx(by_epoch.tolist(), abs=1e-5)
    assert float(by_epoch[0] - by_epoch[-1]) > 1e-2  # there was something to learn
    assert case["max_abs_diff"] <= 1e-4


def plain_das(training: Any, asked: Any, place: tuple[int, int]) -> torch.Tensor:
    network, layer = asked.shape.network().requires_grad_(False), training.rotation(asked, place)
    begin = training.start(asked, place)
    assert torch.equal(layer.weight, torch.from_numpy(begin.weight))
    assert torch.allclose(layer.weight.T @ layer.weight, torch.eye(asked.rank), atol=1e-5)
    block, position, held = network.transformer.h[place[0]], place[1], {}
    optimizer = torch.optim.Adam(layer.parameters(), lr=asked.lr)
    losses = []

    def read(module: Any, args: Any, output: torch.Tensor) -> None:
        held["source"] = output[:, position]

    def write(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[:, position] += (held["source"] - output[:, position]) @ layer.weight @ layer.weight.T
        return output

    for rows in asked.batches():
        for hook, side in ((read, "source"), (write, "base")):
            handle = block.register_forward_hook(hook)
            logits = network(input_ids=asked.ids(side)[rows], use_cache=False).logits[:, -1]
            handle.remove()
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(asked.labels)[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)
