"""In how many analyses does a head matter? All heads of a model on indirect-object identification, under some 400 analyses.

python experiments/multiverse/run.py --model FOLDER          # SmolLM2-135M-Instruct, or any model that load() takes
python experiments/multiverse/run.py --model zoo/language-4l --out somewhere        # half a minute

Every sweep is kept in a store, unit by unit: stopped at any moment, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import xarray as xr

import interp
from interp.engine.embeddings import embedding_std

HERE = Path(__file__).parent
METRICS = ("logit_diff", "logprob", "prob", "kl")
EXAMPLES, TEMPLATES = 32, 3


def questions(tokenizer: Any, examples: int) -> tuple[interp.Pairs, interp.Pairs]:
    """Pairs of a few templates, and the same clean prompts against three names that are others."""
    words: Any = {"seed": 0, "tokenizer": tokenizer, "templates": range(TEMPLATES), "order": "ABBA"}
    return interp.tasks.ioi(examples, corruption="swap", **words), interp.tasks.ioi(examples, corruption="abc", **words)


def measure(model: interp.Model, store: Path, examples: int, progress: bool | None = None) -> xr.Dataset:
    """The multiverse of all heads at the last token."""
    pairs, abc = questions(model.tokenizer, examples)
    sigma = embedding_std(model, pairs, "S2")
    corruptions = {
        "names swapped": None,
        "three other names": abc,
        "noise on S2": interp.Change("embed", "S2", interp.Noise(3 * sigma), interp.Add()),
        "mean": "mean",
        "resample": "resample",
        "zero": "zero",
    }
    heads = interp.grid("z", layer=..., head=..., position=["END"])
    found = interp.multiverse(model, pairs, heads, corruptions, METRICS, store=store, name="ioi heads", progress=progress)
    return found.isel(position=0, drop=True).assign_attrs(sigma=sigma)


def table(found: xr.Dataset, count: int = 15) -> dict[str, Any]:
    """What the committed table holds."""
    shares = found["share"].to_series().dropna().sort_values(ascending=False, kind="stable")
    rows = {}
    for layer, head in shares.index[:count]:
        one = found.sel(layer=layer, head=head)
        each = {
            choice: {
                str(level): round(float(one["matters"].values[one[choice].values == level].mean()), 3)
                for level in dict.fromkeys(one[choice].values.tolist())
            }
            for choice in ("patching", "corruption", "metric", "normalisation")
        }
        rows[f"L{layer}H{head}"] = {
            "share": round(float(shares[layer, head]), 3),
            "median_z": round(float(one["z"].median()), 2),
            **each,
        }
    half = int((shares >= 0.5).sum())
    return {
        "model": found.attrs["model"],
        "analyses": found.sizes["analysis"],
        "left_out": found.attrs["left_out"],
        "examples": int(found["n"].max()),
        "heads": len(shares),
        "matter_in_some": int((shares > 0).sum()),
        "matter_in_half": half,
        "matter_in_all": int((shares == 1).sum()),
        "strongest": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="zoo/language-4l")
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--store", type=Path, default=Path("runs"))
    parser.add_argument("--figures", action="store_true", help="PNG and HTML of the specification curve and the map of shares")
    given = parser.parse_args()
    model = interp.load(given.model, name=Path(given.model).name)
    began = time.perf_counter()
    found = measure(model, given.store, given.examples)
    told = table(found)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"table-{Path(given.model).name}.json").write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps({key: value for key, value in told.items() if key != "strongest"}, indent=1))
    print(f"{time.perf_counter() - began:.0f} s")
    for head, row in told["strongest"].items():
        print(f"{head}: matters in {row['share']:.0%}, median {row['median_z']} SD")
    if given.figures:
        figures = {
            "curve": interp.views.specification_curve(found),
            "shares": interp.views.heatmap(found["share"], title="Share of analyses in which a head matters"),
        }
        for name, figure in figures.items():
            interp.views.save(figure, given.out / f"{name}-{Path(given.model).name}.svg")


if __name__ == "__main__":
    main()
