"""Which heads serve indirect objects? Causal head gating, and the ordered ablation that says whether its roles are right.

python experiments/head_gating/run.py --model FOLDER             # SmolLM2-135M-Instruct, or any language model of load()
python experiments/head_gating/run.py --model FOLDER --pairs 8 --held-out 4 --updates 5 --out somewhere --store ""

The published settings are 500 updates of 64 examples with 10 seeds; what is run here by default is what one core does in a
quarter of an hour. Of fewer updates stage A makes longer ones, so that its gates can go as far. Gates and ablation are kept in
a store: the same command a second time draws from there.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import interp
from interp.effects.gating import ROLES

HERE = Path(__file__).parent
PUBLISHED = 500
"""Updates in each stage."""


def measure(
    model: interp.Model, pairs: int, held_out: int, store: Path | None, *, most: int, **settings: Any
) -> tuple[xr.Dataset, xr.Dataset]:
    """Gates trained on prompts of some templates, and heads ablated in order on prompts of others."""
    drawn = interp.tasks.ioi(8 * (pairs + held_out), seed=0, tokenizer=model.tokenizer)
    first, second = drawn.split(by="template", fraction=0.6, seed=0)
    kept = {"store": store} if store else {}
    gates = interp.gate_heads(model, first[:pairs], name="gates" if store else None, **settings, **kept)
    tested = interp.ordered_ablation(
        model, second[:held_out], gates, most=most, name="ordered ablation" if store else None, **kept
    )
    return gates, tested


def table(gates: xr.Dataset, tested: xr.Dataset) -> dict[str, Any]:
    """What the committed table holds: shares of heads by role, and Δ log P of shutting those of each score in turn."""
    heads = int(gates["share"].isel(kind=0).count())
    settings = ("seeds", "weight", "updates", "batch", "lr", "clip")
    last = gates["nll"].isel(step=slice(-10, None)).mean("step")
    told: dict[str, Any] = {
        "model": gates.attrs["model"],
        **{key: gates.attrs[key] for key in settings},
        "held_out": tested.sizes["example"],
        "in_sample": tested.attrs["in_sample"],
        "heads": heads,
        "percent of heads, always | any": {
            role: [round(100 * float(gates[which].sel(kind=role).sum()) / heads, 1) for which in ("always", "any")]
            for role in ROLES
        },
        "training nll, last 10 updates": {
            str(stage): [round(float(x), 3) for x in last.sel(stage=stage)] for stage in last["stage"].values
        },
        "log-probability": {
            "plain": round(float(tested["plain"].mean()), 3),
            "with G+": [round(float(x), 3) for x in tested["gated"].mean("example")],
        },
    }
    told["change by ordered ablation"] = {str(score): _change(tested, str(score)) for score in tested["score"].values}
    return told


def _change(tested: xr.Dataset, score: str) -> dict[str, Any]:
    """Means over the heads of a role, with an interval over templates, and by rank over all heads."""
    of_role = tested["own"].sel(score=score)
    found = interp.stats.t_interval(of_role.values[None], clusters=interp.effects.clusters_of(of_role).labels)
    every = tested["change"].sel(score=score)
    return {
        "heads of the role": int((tested["role"].sel(score=score) == score).sum()),
        "mean": round(float(of_role.mean()), 3),
        "95% interval": [round(float(np.ravel(end)[0]), 3) for end in (found.low, found.high)],
        "by rank": [round(float(x), 3) for x in every.mean(("seed", "example"))],
    }


def written(told: dict[str, Any]) -> str:
    """As JSON, a line for each list."""
    return re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), json.dumps(told, indent=1)) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder, or whatever interp.load takes")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--held-out", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--most", type=int, default=8, help="heads ablated in the order of each score")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--store", default="runs", help="where runs are kept; empty for nowhere")
    given = parser.parse_args()
    model = interp.load(given.model, name=Path(given.model).name)
    began = time.perf_counter()
    store = Path(given.store) if given.store else None
    longer = PUBLISHED / given.updates
    rates = ((0.1 * longer, 0.01 * longer), (0.5, 0.1))
    settings = {"seeds": given.seeds, "updates": given.updates, "batch": given.batch, "lr": rates}
    gates, tested = measure(model, given.pairs, given.held_out, store, most=given.most, **settings)
    told = table(gates, tested)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"table-{model.name}.json").write_text(written(told))
    interp.views.save(interp.views.gates(gates), given.out / f"roles-{model.name}.svg")
    in_turn = tested["change"].mean("seed").assign_attrs(model=model.name, task="ioi", quantity="Δ log P of shutting a head")
    figure = interp.views.curve(in_turn, x="rank", title="Heads shut one after another, by score")
    interp.views.save(figure, given.out / f"ordered-{model.name}.svg")
    print(written(told))
    print(f"{time.perf_counter() - began:.0f} s; {gates.attrs['wall_seconds']:.0f} s for the gates")


if __name__ == "__main__":
    main()
