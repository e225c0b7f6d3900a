"""Distributed alignment search where the answer is known: a network of formulas, turned, and trained networks beside it.

python experiments/das_hierarchical_equality/run.py            # a minute or two of one core
python experiments/das_hierarchical_equality/run.py --quick    # seconds; writes nothing
python experiments/das_hierarchical_equality/run.py figures    # of the table

The variable is whether the first two entities are equal. In the network of formulas it is the sum of eight known units; turned
by a random rotation it is a direction, and no set of units. Of a basis that was found two errors are measured: what is lost of
the direction that carries the variable (keep), and what is swapped of the one that carries the other variable (leak).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import xarray as xr

import interp
from interp import tasks
from interp.interventions import Change, Subspace
from interp.models.zoo.handmade import hierarchical_equality
from interp.training.toys import trained_on

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "config.json").read_text())
RANKS = (1, 2, 8)
GOOD = 0.999


def known_units(settings: dict[str, Any]) -> dict[str, float]:
    """Accuracy of the eight units that are known to carry the variable, and of the eight others, for three causal models."""
    net, task, eye = hierarchical_equality(4), tasks.hierarchical_equality(), torch.eye(16)
    model = interp.load(net, example={"x": net.rows(4, 0).inputs[:3]})
    places = [Change("act1:output", featurizer=Subspace(eye[:, part])) for part in (slice(8), slice(8, 16))]
    rows = task.counterfactuals(settings["test"], ("WX",), seed=0)
    rivals = {"WX": (task.model, ("WX",)), "YZ": (task.model, ("YZ",)), "both": (task.model, ("WX", "YZ"))}
    found = interp.interchange(model, rows, places, hypotheses=rivals)["iia"].mean("example")
    names = [f"{units}, {name}" for name in rivals for units in ("first eight units", "last eight units")]
    return dict(zip(names, (round(float(x), 4) for x in found.values.ravel()), strict=True))


def turned(turn: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One random rotation: DAS at three ranks from several starts, masks of units, and the errors of what was found."""
    net, task, began = hierarchical_equality(4).rotated(turn), tasks.hierarchical_equality(), time.process_time()
    model = interp.load(net, example={"x": net.rows(4, 0).inputs[:3]})
    sizes = (settings["train"], settings["test"])
    train, test = (task.counterfactuals(n, ("WX",), seed=10 * turn + i) for i, n in enumerate(sizes))
    words: dict[str, Any] = {"test": test, "steps": settings["steps"], "batch": 256, "progress": False}
    starts = settings["starts"]
    found = interp.das(model, train, "hidden:output", rank=RANKS, seeds=starts, lr=2e-2, controls="free", **words)
    masks = interp.binary_masking(model, train, "hidden:output", lr=5e-2, controls=False, **words)
    keep, leak = (net.hidden.weight.detach().double() @ (u / u.norm()) for u in net.planted())
    iia, ds = found.effects["iia"].mean("example"), found.effects
    each: dict[str, Any] = {}
    for rank in RANKS:
        projections = []
        for seed in range(starts):
            basis: Any = found.at(rank=rank, seed=seed).changes[0].featurizer
            projections.append(basis.basis.double() @ basis.basis.double().mT)
        each[str(rank)] = {
            "iia": [round(float(x), 4) for x in iia.sel(rank=rank).values.ravel()],
            "keep": [round(float((p @ keep - keep).norm()), 4) for p in projections],
            "leak": [round(float((p @ leak).norm()), 4) for p in projections],
            "chosen": int(ds["validation"].sel(rank=rank).values.argmax()),
            "random subspace": round(float(ds["random_subspace"].sel(rank=rank).mean()), 4),
            "largest random subspace": round(float(ds["random_subspace"].sel(rank=rank).max()), 4),
        }
    return {
        "turn": turn,
        "ranks": each,
        "mask of units": round(float(masks.effects["iia"].mean()), 4),
        "full vector": round(float(whole(model, test)), 4),
        "no-op": round(float(ds["no_op"].mean()), 4),
        "seconds": round(time.process_time() - began, 1),
    }


def whole(model: interp.Model, rows: Any) -> Any:
    """The whole layer swapped, judged by the label of the one variable."""
    return interp.interchange(model, rows, [Change("hidden:output")])["iia"].mean()


def trained(seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """The same variable in a trained network, half of each layer."""
    model, task = trained_on("equality of vectors", seed, progress=False), tasks.equality_of_vectors()
    train, test = (task.counterfactuals(settings[part], ("WX",), seed=i) for i, part in enumerate(("train", "test")))
    found = {}
    for layer in (1, 2, 3):
        words: dict[str, Any] = {"test": test, "steps": settings["steps"], "batch": 256, "progress": False, "seeds": 1}
        das = interp.das(model, train, f"act{layer}:output", rank=8, controls=("random_subspace",), **words)
        masks = interp.binary_masking(model, train, f"act{layer}:output", lr=5e-2, controls=False, **words)
        found[str(layer)] = {
            "rotation": round(float(das.effects["iia"].mean()), 4),
            "mask of units": round(float(masks.effects["iia"].mean()), 4),
            "random subspace": round(float(das.effects["random_subspace"].mean()), 4),
        }
    return {"seed": seed, "layers": found}


def draw(table: dict[str, Any]) -> None:
    """Accuracy of every start by rank, over all rotations, beside random subspaces of the rank."""
    each = [one["ranks"] for one in table["turned"]]
    iia = [[x for one in each for x in one[str(rank)]["iia"]] for rank in RANKS]
    chance = [[one[str(rank)]["random subspace"] for one in each] for rank in RANKS]
    chance = [row + [float("nan")] * (len(iia[0]) - len(row)) for row in chance]
    dims = ("rank", "seed")
    data = {"iia": (dims, iia), "random_subspace": (dims, chance)}
    figure = interp.views.iia(
        xr.Dataset(data, {"rank": list(RANKS)}, {"controls": ["random_subspace"]}),
        x="rank",
        title="DAS in the rotated network of formulas, all starts",
    )
    interp.views.save(figure, HERE / "ranks.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", default="networks", choices=("networks", "figures"))
    parser.add_argument("--quick", action="store_true", help="fewer rows, steps and networks; nothing is written")
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = HERE / "table.json"
    if given.what == "figures":
        return draw(json.loads(path.read_text(encoding="utf-8")))
    settings = CONFIG["quick" if given.quick else "full"]
    table = {
        "known units": known_units(settings),
        "turned": [turned(turn, settings) for turn in range(settings["turns"])],
        "trained": [trained(seed, settings) for seed in range(settings["networks"])],
    }
    print(json.dumps(table, indent=1))
    if not given.quick:
        path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        draw(table)
    return None


if __name__ == "__main__":
    main()
