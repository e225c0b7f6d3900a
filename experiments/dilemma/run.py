"""The non-linear representation dilemma: what a rotation finds in trained nets, and an expressive map anywhere.

python experiments/dilemma/run.py                     # ten networks, short searches: about half an hour of one core
python experiments/dilemma/run.py long --seeds 3      # longer ones with a wider map, in random weights: minutes a network
python experiments/dilemma/run.py figures             # of the tables
python experiments/dilemma/run.py --seeds 1 --quick   # a minute; writes nothing

Networks of three hidden layers are trained for (w = x) = (y = z). Aligned are both equalities at once, the first alone, and who
the first entity is, a variable that the task has no need of; with a rotation and with a reversible network of ten blocks, each
with half of a layer for every variable; in the trained network and, the same search, in one of random weights. Tables grow by a
network at a time, and those that they hold are left out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

import interp
from interp import tasks
from interp.interventions import Arranged, Change
from interp.training.networks import reinitialised
from interp.training.toys import trained_on

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "config.json").read_text())
LAYERS = (1, 2, 3)
HYPOTHESES = {"both equalities": ("WX", "YZ"), "first equality": ("WX",), "first entity": None}
MAPS = {"rotation": interp.das, "reversible network": interp.nonlinear_das}
FREE = ("no_op", "random_subspace")
MEASURED = ("iia", "random network", "random subspace", "no-op")


def rows(task: tasks.CausalTask, hypothesis: str, n: int, seed: int) -> tasks.Counterfactuals:
    variables = HYPOTHESES[hypothesis]
    return task.falsely(n, seed=seed) if variables is None else task.counterfactuals(n, variables, seed=seed)


def searched(
    model: interp.Model,
    task: tasks.CausalTask,
    hypothesis: str,
    method: str,
    settings: dict[str, Any],
    layers: tuple[int, ...] = LAYERS,
    random: bool = True,
) -> list[dict[str, Any]]:
    """IIA of every layer with its controls."""
    many = len(HYPOTHESES[hypothesis] or ("W",))
    where = Arranged([Change(f"act{layer}:output") for layer in layers], {"layer": layers}, site="act")
    train, test = (rows(task, hypothesis, settings[part], seed) for seed, part in enumerate(("train", "test")))
    controls = (*FREE, *(["random_network"] if random else []))
    words: dict[str, Any] = {"test": test, "seeds": 1, "controls": controls, "progress": False, "rank": 0.5 * many}
    words |= {name: settings[name] for name in ("batch", "validation")} | settings[method]
    ds = MAPS[method](model, train, where, **words).effects

    def at(name: str, layer: int) -> float:
        return round(float(ds[name].sel(layer=layer).mean()), 4) if name in ds else float("nan")

    each = [(at("iia", one), at("random_network", one), at("random_subspace", one)) for one in layers]
    no_op = round(float(ds["no_op"].mean()), 4)
    found = [dict(zip(MEASURED, (*three, no_op), strict=True)) for three in each]
    return [{"hypothesis": hypothesis, "map": method, "layer": layer} | own for layer, own in zip(layers, found, strict=True)]


def short(seeds: Sequence[int], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """All hypotheses, maps and layers of some networks; random weights, the same for all, once and for the first hypothesis."""
    task, lines = tasks.equality_of_vectors(), []
    for seed in seeds:
        began = time.process_time()
        model = trained_on("equality of vectors", seed, progress=False)
        print(f"{model.name}: trained in {time.process_time() - began:.0f} s", flush=True)
        for hypothesis in HYPOTHESES:
            for method in MAPS:
                began = time.process_time()
                own = searched(model, task, hypothesis, method, settings, random=hypothesis == "both equalities" and seed == 0)
                lines += [{"seed": seed, **line} for line in own]
                last = ", ".join(f"{line['iia']:.3f} ({line['random network']:.3f})" for line in own)
                print(f"  {hypothesis}, {method}: {last}; {time.process_time() - began:.0f} s", flush=True)
    return lines


def long(seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Both equalities with the reversible network, in a network of random weights."""
    task, method, began = tasks.equality_of_vectors(), "reversible network", time.process_time()
    model = reinitialised(trained_on("equality of vectors", seed, progress=False), seed)
    layers = tuple(settings["layers"])
    [own] = searched(model, task, "both equalities", method, settings, layers, random=False)
    line = {"seed": seed, "network": "random", **{name: value for name, value in own.items() if name != "random network"}}
    print(f"{model.name}, layer {layers[0]}: {line['iia']:.3f}; {time.process_time() - began:.0f} s", flush=True)
    return line


def summary(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """Mean and spread over networks."""
    return pd.DataFrame(lines).groupby(["hypothesis", "map", "layer"])[list(MEASURED)].agg(["mean", "std"])


def draw() -> None:
    """IIA by layer with the range over networks, a figure for each hypothesis."""
    lines = pd.DataFrame(read("table.json"))
    for hypothesis in HYPOTHESES:
        results = {}
        for method in MAPS:
            own = lines[(lines["hypothesis"] == hypothesis) & (lines["map"] == method)]
            square = {name: own.pivot(index="layer", columns="seed", values=name) for name in ("iia", "random network")}
            arrays = {
                key: xr.DataArray(square[name].values, {"layer": list(LAYERS), "seed": square[name].columns}, ("layer", "seed"))
                for key, name in (("iia", "iia"), ("random_network", "random network"))
                if np.isfinite(square[name].values).any()
            }
            results[method] = xr.Dataset(arrays, attrs={"controls": [key for key in arrays if key != "iia"]})
        title = f"{hypothesis} in ten trained networks, by layer"
        figure = interp.views.iia(results, title=title)
        interp.views.save(figure, HERE / f"{hypothesis.replace(' ', '-')}.svg")


def read(name: str) -> list[dict[str, Any]]:
    path = HERE / name
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return found


def write(name: str, lines: list[dict[str, Any]]) -> None:
    each = (json.dumps({key: None if value != value else value for key, value in line.items()}) for line in lines)
    (HERE / name).write_text("[\n" + ",\n".join(f" {line}" for line in each) + "\n]\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", default="short", choices=("short", "long", "figures"))
    parser.add_argument("--seeds", type=int, default=10, help="networks")
    parser.add_argument("--quick", action="store_true", help="fewer rows and steps; nothing is written")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "figures":
        draw()
    elif given.what == "long":
        for seed in range(given.seeds):
            there = read("table-long.json")
            if not any(line["seed"] == seed for line in there):
                write("table-long.json", [*there, long(seed, CONFIG["long"])])
    else:
        lines = [] if given.quick else read("table.json")
        for seed in range(given.seeds):
            if not any(line["seed"] == seed for line in lines):
                lines += short([seed], CONFIG["quick" if given.quick else "short"])
                if not given.quick:
                    write("table.json", lines)
        print(summary(lines).round(3).to_string())


if __name__ == "__main__":
    main()
