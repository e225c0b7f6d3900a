"""When does induction form? Every head patched at every checkpoint of three seeds.

python experiments/induction_forms/run.py                     # a minute: table.json, and figures in figures/
python experiments/induction_forms/run.py --check             # compare with table.json instead of writing it
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import xarray as xr

import interp
from interp.engine.over import over
from interp.models import Model, zoo
from interp.tasks.repeats import render_induction

HERE = Path(__file__).parent
TABLE = HERE / "table.json"
PAIRS, PERIOD = 64, 12


def swapped(pair: interp.Pair) -> interp.Pair:
    """``… A B … C D … A``: corrupted, A and C trade places where they occur first, so that D is what followed A.

    (The task's own pairs end in another word and are alike before it, so that no head behind the first layer's differs there.)
    """
    words = str(pair.clean.text).split()[:-1]
    a, c = (words.index(pair.entities[i]) for i in (0, 2))
    words[a], words[c] = words[c], words[a]
    return interp.Pair(
        pair.clean, render_induction(words, a, c, last=c), pair.answers, pair.wrong, pair.template, pair.entities
    )


def questions(tokenizer: Any) -> interp.Pairs:
    drawn = interp.tasks.induction(PAIRS, seed=0, length=PERIOD, tokenizer=tokenizer)
    return interp.Pairs(tuple(swapped(pair) for pair in drawn), task="induction, context swapped")


def repeated(model: Model, n: int = 64) -> torch.Tensor:
    """BOS and 12 different words twice, ``[example, position]``."""
    generator = torch.Generator().manual_seed(1)
    words = torch.rand(n, len(model.tokenizer) - 4, generator=generator).argsort(-1)[:, :PERIOD] + 4  # behind four special ones
    return torch.cat((torch.full((n, 1), model.tokenizer.bos_token_id), words, words), 1)


@torch.no_grad()
def scores(model: Model) -> xr.Dataset:
    """What the second copy shows: loss (nats), and each head's attention to the token after the first occurrence."""
    tokens, network = repeated(model), model.module
    network.set_attn_implementation("eager")
    out = network(tokens, output_attentions=True)
    at = torch.arange(PERIOD + 1, 2 * PERIOD)
    loss = torch.nn.functional.cross_entropy(out.logits[:, at].transpose(1, 2), tokens[:, at + 1], reduction="none").mean(1)
    attention = torch.stack(out.attentions)[..., at, at - PERIOD + 1].mean(-1)  # [layer, example, head]
    return xr.Dataset(
        {"loss": ("example", loss.numpy()), "induction score": (("layer", "example", "head"), attention.numpy())},
        {"layer": range(attention.shape[0]), "head": range(attention.shape[2])},
    )


def measure(table: pd.DataFrame, progress: bool | None = None) -> tuple[xr.Dataset, xr.Dataset]:
    """Effects ``[metric, seed, checkpoint, layer, head, example]`` of every head, and the scores."""
    pairs = questions(interp.load(table["name"].iloc[0]).tokenizer)
    heads = interp.grid("z", layer=..., head=...)
    effects = over(table, lambda model: interp.patch(model, pairs, heads, metric=["logit_diff", "logprob"]), progress=progress)
    return effects, over(table, scores, progress=progress)


def tabulated(effects: xr.Dataset, seen: xr.Dataset) -> dict[str, Any]:
    """By seed: loss, best induction score and logit difference by step; when it formed; the heads that carry it at the end."""
    loss, best = seen["loss"].mean("example"), seen["induction score"].mean("example").max(("layer", "head"))
    clean = effects["clean"].sel(metric="logit_diff").mean("example")
    moved = interp.recovery(effects).sel(metric="logit_diff").isel(checkpoint=-1)
    found: dict[str, Any] = {"steps": effects["checkpoint"].values.tolist()}
    for seed in effects["seed"].values.tolist():
        curves = {"loss": loss, "induction score": best, "logit difference": clean}
        rows = {name: curve.sel(seed=seed).values.astype(float).round(3).tolist() for name, curve in curves.items()}
        half = (loss[{"checkpoint": 0}].sel(seed=seed) / 2).item()
        formed = next((step for step, value in zip(found["steps"], rows["loss"], strict=True) if value < half), None)
        by_head = moved.sel(seed=seed).to_series().sort_values(ascending=False)
        rows["recovery at the end"] = {f"L{layer}H{head}": round(float(v), 3) for (layer, head), v in by_head.items()}
        found[f"seed{seed}"] = {"first step with half the loss": formed, **rows}
    return found


def draw(effects: xr.Dataset, seen: xr.Dataset, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    best = seen["induction score"].max(("layer", "head")).rename("best induction score")
    curves = xr.Dataset({"loss (nats)": seen["loss"], "best induction score": best}, attrs=seen.attrs)
    figures = {
        "curves": interp.views.curve(curves, log=True, title="When does induction form?"),
        "heads": interp.views.curve(effects.sel(seed=0), "effect", log=True),
        "slider": interp.views.heatmap(effects.sel(seed=0), "effect", slider="checkpoint"),
    }
    for name, figure in figures.items():
        interp.views.save(figure, folder / f"{name}.html")
        if interp.views.can_export():
            interp.views.save(figure, folder / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    effects, seen = measure(zoo.checkpoints("induction-forming"))
    table = tabulated(effects, seen)
    draw(effects, seen, args.out)
    if args.check:
        sys.exit("table.json says otherwise" if differences(table, json.loads(TABLE.read_text())) else 0)
    TABLE.write_text(json.dumps(table, indent=1) + "\n")
    for seed in ("seed0", "seed1", "seed2"):
        print(seed, table[seed]["first step with half the loss"], table[seed]["recovery at the end"])


def differences(found: Any, expected: Any, within: float = 5e-3) -> list[str]:
    """Where two tables differ: by more than rounding on another machine moves them, or in what they say."""
    if isinstance(expected, dict):
        if set(found) != set(expected):
            return [f"{sorted(found)} for {sorted(expected)}"]
        return [f"{key}: {line}" for key in expected for line in differences(found[key], expected[key], within)]
    if isinstance(expected, list):
        pairs = zip(found, expected, strict=True)
        return [f"[{i}] {line}" for i, pair in enumerate(pairs) for line in differences(*pair, within)]
    same = abs(found - expected) <= within if isinstance(expected, float) else found == expected
    return [] if same else [f"{found} for {expected}"]


if __name__ == "__main__":
    main()
