"""Where are facts recalled? Causal tracing over fifty facts that a model knows.

python experiments/causal_tracing/run.py --model FOLDER          # SmolLM2-135M-Instruct, or any language model of load()
python experiments/causal_tracing/run.py --model FOLDER --facts 4 --draws 1 --out somewhere --store ""     # a minute

Every sweep is kept in a store, unit by unit: stopped at any moment, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import xarray as xr

import interp

HERE = Path(__file__).parent
FACTS, DRAWS, DRAWN = 50, 4, 200


def measure(
    model: interp.Model, facts: int, draws: int, store: Path | None, drawn: int = DRAWN
) -> tuple[xr.DataTree, xr.DataTree]:
    """Traces of the first facts that the model knows (the answer is its most likely token), and those of single attentions."""
    asked = interp.tasks.facts(drawn, seed=0, tokenizer=model.tokenizer)
    known = asked.check(model, by="top1").kept
    if len(known) < facts:
        raise SystemExit(f"{model.name} knows {len(known)} of the {drawn} facts drawn, not {facts}")
    traced = interp.trace(model, known[:facts], draws=draws, store=store, name="facts")
    single = interp.trace(model, known[:facts], draws=draws, kinds=["attn_out"], window=1, store=store, name="facts, one layer")
    return traced, single


def effects(traced: xr.DataTree) -> dict[str, xr.DataArray]:
    """Average indirect effects on the answer's probability by (position, layer), one map a family."""
    found = {kind: interp.effect(node.to_dataset()).sel(metric="prob") for kind, node in traced.children.items()}
    return {kind: one.mean("example").transpose("position", "layer") for kind, one in found.items()}


def table(traced: xr.DataTree, single: xr.DataTree) -> dict[str, Any]:
    """What the committed table holds: average indirect effects by layer, in percent of probability, and in how many facts a
    restored state recovers half of the total effect.
    """
    state = traced["resid_post"].to_dataset().sel(metric="prob")
    maps = effects(traced) | {f"{kind}, one layer": one for kind, one in effects(single).items()}
    recovered = interp.effect(state) > (state["clean"] - state["corrupt"]) / 2
    return {
        "model": state.attrs["model"],
        "facts": state.sizes["example"],
        "draws": state.attrs["draws"],
        "clean": round(float(state["clean"].mean()), 4),
        "corrupted": round(float(state["corrupt"].mean()), 4),
        "AIE": {
            kind: {str(role): [round(100 * float(x), 1) for x in one.sel(position=role)] for role in one["position"].values}
            for kind, one in maps.items()
        },
        "half_recovered": {
            str(role): recovered.sel(position=role).sum("example").values.tolist() for role in state["position"].values
        },
    }


def written(told: dict[str, Any]) -> str:
    """As JSON, a line for each list."""
    rows = json.dumps(told, indent=1)
    return re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder, or whatever interp.load takes")
    parser.add_argument("--facts", type=int, default=FACTS)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--store", default="runs", help="where sweeps are kept; empty for nowhere")
    given = parser.parse_args()
    model = interp.load(given.model, name=Path(given.model).name)
    began = time.perf_counter()
    traced, single = measure(model, given.facts, given.draws, Path(given.store) if given.store else None)
    told = table(traced, single)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"table-{model.name}.json").write_text(written(told))
    interp.views.save(interp.views.tracing(traced), given.out / f"traced-{model.name}.svg")
    for kind, rows in told["AIE"].items():
        for role, values in rows.items():
            best = max(range(len(values)), key=values.__getitem__)
            print(f"{kind:12s} {role:14s} most at layer {best}: {values[best]:.1f} %")
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
