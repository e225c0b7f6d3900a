"""The non-linear representation dilemma: what a rotation finds in trained nets, and an expressive map anywhere.

python experiments/dilemma/run.py                     # ten networks: table.json, and a figure in figures/
python experiments/dilemma/run.py --seeds 1 --quick   # a few minutes; writes nothing

Networks of three hidden layers are trained for (w = x) = (y = z). Aligned are both equalities at once, the first alone, and who
the first entity is, a variable that the task has no need of; with a rotation and with a reversible network of ten blocks, each
with half of a layer for every variable; in the trained network and, the same search, in one of random weights.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import interp
from interp import tasks
from interp.interventions import Arranged, Change
from interp.training.toys import trained_on

HERE = Path(__file__).parent
TABLE = HERE / "table.json"
LAYERS = (1, 2, 3)
HYPOTHESES = {"both equalities": ("WX", "YZ"), "first equality": ("WX",), "first entity": None}
CONTROLS = ("chance", "no_op", "random_subspace", "random_network")


def rows(task: tasks.CausalTask, hypothesis: str, n: int, seed: int) -> tasks.Counterfactuals:
    variables = HYPOTHESES[hypothesis]
    return task.falsely(n, seed=seed) if variables is None else task.counterfactuals(n, variables, seed=seed)


def searched(model: interp.Model, task: tasks.CausalTask, hypothesis: str, method: str, quick: bool) -> list[dict[str, Any]]:
    """IIA of every layer with its controls."""
    many = len(HYPOTHESES[hypothesis] or ("W",))
    where = Arranged([Change(f"act{layer}:output") for layer in LAYERS], {"layer": LAYERS}, site="act")
    train, test = (rows(task, hypothesis, n, seed) for seed, n in enumerate((2048 if quick else 8192, 1024 if quick else 4096)))
    words: dict[str, Any] = {
        "test": test, "seeds": 1, "batch": 256 if quick else 512, "controls": CONTROLS, "progress": False, "validation": 0.1,
        "steps": 300 if quick else 2000, "rank": 0.5 * many,
    }  # fmt: skip
    search = interp.das if method == "rotation" else interp.nonlinear_das
    found = search(model, train, where, lr=5e-3 if method == "rotation" else 2e-3, **words)
    ds = found.effects
    return [
        {
            "model": model.name,
            "hypothesis": hypothesis,
            "map": method,
            "layer": layer,
            "iia": float(ds["iia"].sel(layer=layer).mean()),
            "random network": float(ds["random_network"].sel(layer=layer).max()),
            "random subspace": float(ds["random_subspace"].sel(layer=layer).mean()),
            "no-op": float(ds["no_op"].mean()),
        }
        for layer in LAYERS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="networks")
    parser.add_argument("--quick", action="store_true", help="fewer rows and steps; nothing is written")
    given = parser.parse_args()
    torch.set_num_threads(1)
    task, lines = tasks.equality_of_vectors(), []
    for seed in range(given.seeds):
        began = time.perf_counter()
        model = trained_on("equality of vectors", seed, progress=False)
        print(f"{model.name}: trained in {time.perf_counter() - began:.0f} s", flush=True)
        for hypothesis in HYPOTHESES:
            for method in ("rotation", "reversible network"):
                began = time.perf_counter()
                lines += [{"seed": seed, **line} for line in searched(model, task, hypothesis, method, given.quick)]
                last = ", ".join(f"{line['iia']:.3f} ({line['random network']:.3f})" for line in lines[-len(LAYERS) :])
                print(f"  {hypothesis}, {method}: {last}; {time.perf_counter() - began:.0f} s", flush=True)
    table = pd.DataFrame(lines)
    summary = table.groupby(["hypothesis", "map", "layer"])[["iia", "random network", "random subspace", "no-op"]].agg(
        ["mean", "std"]
    )
    print(summary.round(3).to_string())
    if not given.quick:
        TABLE.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
