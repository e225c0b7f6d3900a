"""Which algorithm does a network that tags prices run? Four causal models, each with its own alignment, on the same pairs.

python experiments/boundless_price_tagging/run.py            # trained networks, and one of a known algorithm: minutes
python experiments/boundless_price_tagging/run.py --quick    # half a minute; writes nothing
python experiments/boundless_price_tagging/run.py figures    # of the table

A network of three hidden layers learns whether an amount lies between two bounds. For each causal model an alignment is
searched for in every layer (Boundless DAS, and DAS at a fixed rank) on rows of that model, and validation rows choose the
layer. Then all are judged on the same pairs of base and source, each by the labels of its own causal model, and held against
each other pair by pair. Beside them: a network trained to hold both bounds as one (`interp.interchange_training`), where the
bracket is right.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import interp
from interp import tasks
from interp.effects.alignment import claimed, told_apart
from interp.interventions import Arranged, Change, Subspace
from interp.models.zoo import MLP
from interp.tasks import Counterfactuals
from interp.training.toys import trained_on, vector_interchanges

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "config.json").read_text())
MODELS = ("left", "left and right", "midpoint", "bracket")
LAYERS = (1, 2, 3)
METHODS = ("boundless_das", "das")
CONTROLS = ("no_op", "random_subspace", "random_network")


def known(seed: int = 0, progress: bool | None = None) -> interp.Model:
    """A network whose first half of the second layer holds both bounds, and the other one the amount."""
    task, settings = tasks.price_tagging(), CONFIG["bracket"]
    net = interp.load(MLP(settings["widths"], seed=seed), example={"x": torch.zeros(3, 3)})
    half = torch.eye(settings["widths"][2])[:, : settings["half"]]

    def draw(step: int, generator: torch.Generator) -> Any:
        own = int(torch.randint(2**62, (), generator=generator))
        rows = task.counterfactuals(settings["batch"], ("B",), seed=own, model="bracket", balance="natural")
        return vector_interchanges(task, rows)

    test = vector_interchanges(task, task.counterfactuals(2048, ("B",), seed=1, model="bracket"))
    words: dict[str, Any] = {"steps": settings["steps"], "lr": settings["lr"], "seed": seed, "progress": progress}
    places = {"B": Change("act2:output", featurizer=Subspace(half))}
    found = interp.interchange_training(net, draw, places, test=test, name="trained to hold the bracket", **words)
    reached = {name: float(found.effects[name].mean()) for name in ("task_accuracy", "iia")}
    print(f"{found.model.name}: {reached}", flush=True)
    return found.model


def pairs_of(task: tasks.CausalTask, n: int, seed: int) -> Counterfactuals:
    """Pairs of base and source that all causal models share: as many balanced for each of four variables."""
    each = [task.counterfactuals(n // 4, task.variables[one], seed=seed, model=one) for one in ("left", "midpoint", "bracket")]
    right = task.counterfactuals(n // 4, ("R",), seed=seed, model="left and right")
    every = [(next(iter(one.sources.values())), one.base) for one in (*each, right)]
    source, base = ({k: np.concatenate([side[which][k] for side in every]) for k in every[0][1]} for which in (0, 1))
    return Counterfactuals(task.models["left"], ("L",), base, {"L": source}, np.ones((len(base["lo"]), 1), bool), task)


def scores(model: interp.Model, rows: Counterfactuals, name: str, aligned: Any) -> xr.Dataset:
    """Right or wrong on every pair, and the base left as it is; of two variables the mean over each alone and both."""
    task = rows.task
    if name != "left and right":
        found = interp.interchange(model, rows, aligned, hypotheses=[name], progress=False).isel(hypothesis=0, cell=0)
        return found[["iia", "no_op"]]
    source, n = rows.sources["L"], len(rows)
    every = []
    for swap in ((True, False), (False, True), (True, True)):
        sources = {v: source if there else dict(rows.base) for v, there in zip(("L", "R"), swap, strict=True)}
        sources = {v: dict(one) for v, one in sources.items()}
        own = replace(rows, model=task.models[name], variables=("L", "R"), sources=sources, swap=np.tile(swap, (n, 1)))
        every.append(interp.interchange(model, own, aligned, progress=False).isel(hypothesis=0, cell=0)[["iia", "no_op"]])
    return sum(one.reset_coords(drop=True) for one in every) / 3


def searched(model: interp.Model, name: str, method: str, settings: dict[str, Any]) -> Any:
    """An alignment of one causal model in every layer, on rows of its own."""
    task = tasks.price_tagging()
    where = Arranged([Change(f"act{layer}:output") for layer in LAYERS], {"layer": LAYERS}, site="act")
    parts = [(seed, settings[part]) for seed, part in enumerate(("train", "test"))]
    train, test = (task.counterfactuals(n, task.variables[name], seed=seed, model=name) for seed, n in parts)
    words = {key: settings[key] for key in ("steps", "batch", "lr", "validation")} | {
        "test": test,
        "seeds": 1,
        "progress": False,
    }
    if method == "das":
        return interp.das(model, train, where, rank=settings["rank"], controls=CONTROLS[:2], **words)
    return interp.boundless_das(model, train, where, most=1.0, strength=settings["strength"], controls=CONTROLS, **words)


def told(aligned: Any, same: xr.Dataset) -> dict[str, Any]:
    """What the table holds of it: the layer that validation chose with its interval, all layers, and the largest controls."""
    claim, ds = claimed(aligned.effects), aligned.effects
    found: dict[str, Any] = {key: rounded(getattr(claim, key)) for key in ("iia", "low", "high")}
    found |= {"layer": int(claim.at["layer"]), "by layer": [rounded(x) for x in ds["iia"].mean("example").values.ravel()]}
    if "boundary" in ds:
        found["coordinates"] = [rounded(x) for x in ds["boundary"].values.ravel()]
    each = {key: ds[key].mean("example") if "example" in ds[key].dims else ds[key] for key in CONTROLS if key in ds}
    found |= {key.replace("_", " "): rounded(array.max()) for key, array in each.items()}
    return found | {"same pairs": rounded(same["iia"].mean()), "same pairs, no-op": rounded(same["no_op"].mean())}


def rounded(number: Any) -> float:
    return round(float(number), 4)


def compared(model: interp.Model, settings: dict[str, Any]) -> dict[str, Any]:
    """Alignments of every causal model with their intervals and controls, and what tells them apart."""
    same = pairs_of(tasks.price_tagging(), settings["pairs"], seed=7)
    found: dict[str, Any] = {"network": model.name}
    for method in METHODS:
        iia, each = {}, {}
        for name in MODELS:
            began = time.process_time()
            aligned = searched(model, name, method, settings)
            own = scores(model, same, name, aligned.best)
            iia[name], each[name] = own["iia"].reset_coords(drop=True), told(aligned, own)
            print(f"  {method}, {name}: {aligned.verdict}; {time.process_time() - began:.0f} s", flush=True)
        together = xr.Dataset({"iia": xr.concat(list(iia.values()), "hypothesis").assign_coords(hypothesis=list(iia))})
        apart = told_apart(together)
        lines = apart[["hypothesis", "rival", "difference", "low", "high", "told_apart"]].round(4).to_dict("records")
        found[method] = {"alignments": each, "pairs": int(together.sizes["example"]), "told apart": lines}
        print(apart.round(3).to_string(), flush=True)
    return found


def draw(table: list[dict[str, Any]]) -> None:
    """Accuracies by layer of every causal model, the range over the trained networks."""
    trained = [one for one in table if "hold" not in one["network"]]
    for method in METHODS:
        results = {
            name: xr.DataArray(
                np.array([one[method]["alignments"][name]["by layer"] for one in trained]).T,
                {"layer": list(LAYERS), "seed": range(len(trained))},
                ("layer", "seed"),
                name="iia",
            )
            for name in MODELS
        }
        title = f"price tagging: causal models by layer of {len(trained)} networks, {method.replace('_', ' ')}"
        interp.views.save(interp.views.iia(results, title=title), HERE / f"{method}.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", default="networks", choices=("networks", "figures"))
    parser.add_argument("--quick", action="store_true", help="fewer rows and steps; nothing is written")
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = HERE / "table.json"
    table = json.loads(path.read_text(encoding="utf-8")) if path.exists() and not given.quick else []
    settings = CONFIG["quick" if given.quick else "full"]
    if given.what == "figures":
        return draw(table)
    done = {one["network"] for one in table}
    for seed in (*range(settings["seeds"]), -1):
        if (f"price tagging (seed {seed})" if seed >= 0 else "trained to hold the bracket") in done:
            continue
        model = known(progress=False) if seed < 0 else trained_on("price tagging", seed, progress=False)
        print(model.name, flush=True)
        table.append(compared(model, settings))
        if not given.quick:
            path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
