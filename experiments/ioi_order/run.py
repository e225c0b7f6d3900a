"""Which of two people was named again: is that a variable of SmolLM2, on names and sentences that the search has not seen?

python experiments/ioi_order/run.py            # the claim with all its controls, then the other layers: two hours of one core
python experiments/ioi_order/run.py --quick    # a minute; writes nothing
python experiments/ioi_order/run.py figures    # of the table

`interp.tasks.ioi_algorithm` has two rivals: the network may hold *which* of the two was named again, the first or the second
(`order`), or *who* it was (`name`). DAS looks for the first at the last token, behind a block, on half of all names, places,
objects and templates; judged is on the other half. The same search is made where there is nothing to find: in random weights,
in shuffled ones, for labels by lot and for a variable that the task has no need of.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
import xarray as xr

import interp
from interp.effects.alignment import CONTROLS, claimed, largest

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "config.json").read_text())
SMOLLM2 = Path(os.environ.get("INTERP_CACHE", "~/.cache/interp")).expanduser() / "SmolLM2-135M-Instruct"


def searched(model: interp.Model, settings: dict[str, Any], controls: Any, seed: int = 1) -> interp.engine.alignment.Aligned:
    """An alignment of ``F`` at the last token, trained on one half of the words and templates, judged on the other."""
    task = interp.tasks.ioi_algorithm(model.tokenizer)
    train, test = task.counterfactuals(settings["train"], seed=seed), held_out(task, settings, seed)
    false = task.falsely(settings["train"], seed=seed), task.falsely(settings["test"], seed=seed + 1, part="test")
    words: dict[str, Any] = {name: settings[name] for name in ("rank", "seeds", "steps", "batch", "lr", "validation", "draws")}
    return interp.das(
        model,
        train,
        interp.grid("resid_post", layer=settings["layers"], position=["END"]),
        test=test,
        false=false,
        full=test.pairs(),  # the whole vector by F's own label: is anything else there?
        controls=controls,
        progress=False,
        **words,
    )


def held_out(task: interp.tasks.CausalTask, settings: dict[str, Any], seed: int) -> interp.tasks.Counterfactuals:
    return task.counterfactuals(settings["test"], seed=seed + 1, part="test")


def claim(model: interp.Model, settings: dict[str, Any]) -> dict[str, Any]:
    """The accuracy with its interval, by template, on rows of the words that were trained on, and every control."""
    task = interp.tasks.ioi_algorithm(model.tokenizer)
    controls = tuple(name for name in CONTROLS if name not in ("held_out", "read_part"))
    found = searched(model, settings, controls)
    own, test = claimed(found.effects), held_out(task, settings, 1)
    seen = task.counterfactuals(settings["test"], seed=3)
    same = interp.patch(model, seen.pairs(), found.best, metric="accuracy", progress=False)["value"]
    answered = interp.patch(model, test.with_label("base").pairs(), found.best, metric="accuracy", progress=False)["corrupt"]
    by = found.effects["iia"].sel(own.at)
    each = {str(name): float(by.values[by["template"].values == name].mean()) for name in sorted({*by["template"].values})}
    flip = found.effects["flip"].values
    return {
        **{name: float(getattr(own, name)) for name in ("iia", "low", "high")},
        "rows": own.n,
        "where rows flip": float(by.values[flip].mean()),
        "where they stay": float(by.values[~flip].mean()),
        "bases answered": float(answered.mean()),
        "words trained on": float(same.mean()),
        "validation": float(found.effects["validation"].sel(own.at)),
        "by template": each,
        "controls": largest(found.effects),
        "verdict": found.verdict,
    }


def by_layer(model: interp.Model, settings: dict[str, Any]) -> dict[str, Any]:
    """The same search behind other blocks, beside the controls that train nothing."""
    found = searched(model, settings, ("no_op", "random_subspace", "full_vector")).effects
    one = found.isel(rank=0, seed=0, position=0, drop=True)
    numbers = {
        "iia": one["iia"].mean("example"),
        "random subspace": one["random_subspace"].max("draw"),
        "full vector": one["full_vector"].mean("example"),
    }
    return {
        "layer": settings["layers"],
        "no-op": float(found["no_op"].mean()),
        **{name: [round(float(value), 4) for value in array.values] for name, array in numbers.items()},
    }


def draw(table: dict[str, Any]) -> None:
    """Accuracy by layer, that of the claim among them."""
    own, rest = table["claim"], table["layers"]
    order = sorted([*zip(rest["layer"], rest["iia"], rest["random subspace"], rest["full vector"], strict=True), _point(own)])
    layers, iia, random, full = (list(column) for column in zip(*order, strict=True))
    result = xr.Dataset(
        {
            "iia": ("layer", iia),
            "no_op": ("layer", [rest["no-op"]] * len(layers)),
            "random_subspace": ("layer", random),
            "full_vector": ("layer", full),
        },
        {"layer": layers},
        attrs={"controls": ["no_op", "random_subspace", "full_vector"]},
    )
    title = "SmolLM2: which of two people was named again, at the last token"
    interp.views.save(interp.views.iia(result, title=title), HERE / "layers.svg")


def _point(own: dict[str, Any]) -> tuple[float, ...]:
    controls = own["controls"]
    return CONFIG["claim"]["layers"][0], own["iia"], controls["random_subspace"], controls["full_vector"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", default="run", choices=("run", "figures"))
    parser.add_argument("--quick", action="store_true", help="a few steps; nothing is written")
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = HERE / "table.json"
    table = json.loads(path.read_text(encoding="utf-8")) if path.exists() and not given.quick else {}
    if given.what == "figures":
        return draw(table)
    model = interp.load(SMOLLM2, progress=False)
    for name, made in (("claim", claim), ("layers", by_layer)):
        if name in table:
            continue
        began = time.process_time()
        table[name] = made(model, CONFIG["quick" if given.quick else name])
        print(json.dumps(table[name], indent=1), f"{time.process_time() - began:.0f} s", flush=True)
        if not given.quick:
            path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
