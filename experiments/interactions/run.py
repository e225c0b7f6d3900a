"""Which heads make up for each other, and which work through each other? Exact ablation of all pairs of heads.

python experiments/interactions/run.py zoo                            # four networks of the zoo, all pairs: a minute
python experiments/interactions/run.py smollm2 --model FOLDER          # the strongest heads; minutes of one core

Times are seconds of one core (of this process alone), so that what else the machine does is not in them.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import interp
from interp.interventions import Constant, Intervention, Source, mean
from interp.models.zoo import backup_construction, backup_prompts, induction_construction, induction_sequences

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "config.json").read_text())
METRIC = "logit_diff"
SHOWN = 5
"""Pairs of each sign in the table."""


def source(name: str) -> Source:
    return Constant(0.0) if CONFIG[name]["ablation"] == "zero" else mean("base")


def heads(model: interp.Model, name: str, some: Sequence[tuple[int, int]] | None = None) -> list[Intervention]:
    every = [(layer, head) for layer in range(model.sizes["layer"]) for head in range(model.sizes["head"])]
    return [Intervention.of(f"L{layer}H{head}.z", source=source(name)) for layer, head in (every if some is None else some)]


def zoo(name: str, examples: int | None = None) -> tuple[interp.Model, interp.Pairs]:
    """A network and its prompts."""
    count, seed = examples or CONFIG[name]["examples"], CONFIG["seed"]
    if name == "backup":
        net = backup_construction().double()
        prompts = backup_prompts(net).tolist()[:count]
        others = prompts[1:] + prompts[:1]
        rows = [(one, one[1], other[1]) for one, other in zip(prompts, others, strict=True)]
    elif name == "composition":
        net = induction_construction().double()
        tokens = induction_sequences(4 * count, seed=seed)
        with torch.no_grad():
            said = net(tokens).logits[:, -1]
        sure = (said.max(-1).values > 0.9).nonzero()[:count, 0]  # the same token followed each time
        rows = [(tokens[n].tolist(), best := int(said[n].argmax()), (best + 1) % said.shape[-1]) for n in sure.tolist()]
    else:
        model = interp.load(f"zoo/{name}")
        task = interp.tasks.induction if name == "induction-2l" else interp.tasks.ioi
        return model, task(count, seed=seed, tokenizer=model.tokenizer)
    return interp.load(net, name=name), interp.Pairs(tuple(interp.Pair(ids, ids, right, wrong) for ids, right, wrong in rows))


def block_rows(layers: Sequence[int], depth: int) -> dict[str, int]:
    """Blocks that the rows of one example run through: of every part alone, and of every pair."""
    pairs = list(combinations(layers, 2))
    return {
        "alone": sum(depth - layer for layer in layers),
        "pairs": sum(depth - max(both) for both in pairs),
        "pairs_from_the_first_part": sum(depth - min(both) for both in pairs),
        "pairs_as_whole_passes": depth * len(pairs),
    }


def told(found: xr.Dataset, layers: Sequence[int], depth: int) -> dict[str, Any]:
    """What the table holds of a sweep."""
    square = interp.effects.pairwise(found, flips=1000).sel(metric=METRIC)
    one = np.triu(np.ones((square.sizes["first"],) * 2, bool), 1)
    values = np.where(one, square["interaction"].values, np.nan)
    order = [divmod(int(n), len(values)) for n in np.argsort(values, axis=None)]
    below = [where for where in order if _number(values[where]) < 0][:SHOWN]
    above = [where for where in order[::-1] if _number(values[where]) > 0][:SHOWN]

    def pair(a: int, b: int) -> dict[str, Any]:
        at = {"first": a, "second": b}
        numbers = {name: _number(square[name].isel(at)) for name in ("interaction", "low", "high", "together")}
        single = {f"{name}_alone": _number(square["single"].isel(first=n)) for name, n in (("first", a), ("second", b))}
        return {"pair": " ".join(str(square["first"].values[n]) for n in (a, b)), **numbers, **single}

    told_apart = square["survives"].values & one
    helps = square["single"].values < 0
    both_help = told_apart & helps[:, None] & helps
    return {
        "model": found.attrs["model"],
        "parts": found.attrs["parts"],
        "pairs": int(one.sum()),
        "examples": found.sizes["example"],
        "clean": _number(found["clean"].sel(metric=METRIC).mean()),
        "block_rows_an_example": block_rows(layers, depth),
        "told_from_0": {"below": int((told_apart & (values < 0)).sum()), "above": int((told_apart & (values > 0)).sum())},
        "of_two_that_help": {"below": int((both_help & (values < 0)).sum()), "above": int((both_help & (values > 0)).sum())},
        "lowest": [pair(*where) for where in below],
        "lowest_of_two_that_help": [pair(*where) for where in order if both_help[where] and values[where] < 0][:SHOWN],
        "highest": [pair(*where) for where in above],
    }


def _number(value: Any) -> float:
    return round(float(value), 3) + 0.0  # no −0


def layers_of(parts: Sequence[Intervention]) -> list[int]:
    return [int(part.changes[0].site.layer or 0) for part in parts]


def measure(name: str, examples: int | None = None) -> tuple[xr.Dataset, dict[str, Any]]:
    """All pairs of heads of a network of the zoo."""
    model, pairs = zoo(name, examples)
    parts = heads(model, name)
    found = interp.interactions(model, pairs, parts, METRIC)
    return found, told(found, layers_of(parts), model.sizes["layer"])


def smollm2(
    model: interp.Model, examples: int, strongest: int, chosen_on: int, all_examples: int
) -> tuple[xr.Dataset, dict[str, Any]]:
    """Pairs of the heads that do most alone, chosen on other prompts; and what all pairs would take."""
    others = interp.tasks.ioi(chosen_on, seed=CONFIG["seed"] + 1, tokenizer=model.tokenizer)
    pairs = interp.tasks.ioi(examples, seed=CONFIG["seed"], tokenizer=model.tokenizer)
    every = heads(model, "smollm2")
    single: Any = interp.effect(interp.patch(model, others, every, METRIC, patching="noising"))  # type: ignore[arg-type]
    best = sorted(np.argsort(-abs(single.mean("example").values[0]))[:strongest].tolist())
    parts = [every[number] for number in best]
    asked = [*parts, *(a & b for a, b in combinations(parts, 2))]
    planned = interp.explain(model, pairs, asked, METRIC, patching="noising").flops
    began = time.process_time()
    found = interp.interactions(model, pairs, parts, METRIC)
    taken = time.process_time() - began
    whole = interp.explain(model, pairs, [*every, *(a & b for a, b in combinations(every, 2))], METRIC, patching="noising")
    rate, scale = planned / taken, all_examples / examples
    return found, told(found, layers_of(parts), model.sizes["layer"]) | {
        "chosen_on": chosen_on,
        "core_seconds": round(taken, 1),
        "operations_a_second": f"{rate:.2e}",
        "all": {
            "pairs": len(every) * (len(every) - 1) // 2,
            "examples": all_examples,
            "block_rows_an_example": block_rows(layers_of(every), model.sizes["layer"]),
            "operations": f"{whole.flops * scale:.2e}",
            "core_hours": round(whole.flops * scale / rate / 3600, 1),
        },
    }


def written(table: dict[str, Any]) -> str:
    """As JSON, a line for each innermost object or list."""
    return re.sub(r"[\[{][^][{}]*[\]}]", lambda found: " ".join(found[0].split()), json.dumps(table, indent=1)) + "\n"


def drawn(found: xr.Dataset, path: Path, title: str) -> None:
    square = interp.effects.pairwise(found).sel(metric=METRIC)
    interp.views.save(interp.views.heatmap(square["interaction"], title=title), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("zoo", "smollm2"))
    parser.add_argument("--model", help="of smollm2: a folder, or whatever interp.load takes")
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.what == "smollm2":
        if given.model is None:
            raise SystemExit("smollm2 needs --model FOLDER")
        own = {key: value for key, value in CONFIG["smollm2"].items() if key != "ablation"}
        model = interp.load(given.model, name=Path(given.model).name)
        runs = {"smollm2": smollm2(model, **own)}
    else:
        runs = {name: measure(name) for name in CONFIG if name not in ("seed", "smollm2")}
    for name, (found, row) in runs.items():
        drawn(found, given.out / f"{name}.svg", f"{row['model']}: interactions of heads, {CONFIG[name]['ablation']} ablation")
        print(name, row["told_from_0"], *row["lowest"][:1], *row["highest"][:1], sep="\n  ")
    (given.out / f"table-{given.what}.json").write_text(written({name: row for name, (_, row) in runs.items()}))


if __name__ == "__main__":
    main()
