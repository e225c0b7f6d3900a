"""The demonstration: where does a model keep the answer to "who was handed the drink", and which heads move it there?

    >>> from interp.demo import demo
    >>> demo("zoo/language-4l", "interp-demo")                                              # doctest: +SKIP

Indirect-object identification (Wang et al., arXiv 2211.00593): the corrupted prompt swaps the repeated name, so that the other
name becomes the answer. Each cell of a map restores one activation of the clean run in the corrupted one.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from interp import effects, report, tasks, views
from interp.engine import patch
from interp.models import Model, load
from interp.prompts import Pairs
from interp.sites import grid
from interp.store import Store

METRICS = ("logit_diff", "accuracy", "top1")
WORKS = 0.75
"""A map of a model that does the task less often than this says little about how the task is done."""


def demo(model: str | Model, out: str | os.PathLike[str], *, examples: int = 32, seed: int = 0) -> Path:
    """Check the task, make both maps, keep them, and write the report; says on standard output what it does.

    Args:
        model: anything that :func:`interp.load` takes by name, or a loaded model.
        out: folder for ``report.html``, the figures and the store ``runs``; made if need be.
        examples: pairs of prompts for the heads; the positions are shown on a quarter of them, of one template.
        seed: of the pairs.

    Returns:
        The path of the report.
    """
    began = time.perf_counter()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    model = load(model) if isinstance(model, str) else model
    print(model)
    pairs = tasks.ioi(examples, seed=seed, tokenizer=model.tokenizer)
    aligned = tasks.ioi(max(1, examples // 4), seed=seed, templates=[0], order="ABBA", tokenizer=model.tokenizer)
    print(f"patching {len(pairs)} pairs such as  {pairs[0].clean.text!r} →{pairs[0].answers[0]!r}")
    heads = _dataset(patch(model, pairs, grid("z", layer=..., head=...), METRICS))
    stream = _dataset(patch(model, aligned, grid("resid_pre", layer=..., position=...), METRICS))
    task = _task(heads)
    print(task.to_string(index=False))
    if _accuracy(heads) < WORKS:
        print(f"{model.name} does the task on fewer than {WORKS:.0%} of the prompts: read the maps with that in mind")

    store = Store(out / "runs")
    results = {"residual stream": stream, "heads": heads}
    runs = {name: store.save(result, name=f"{model.name.replace('/', '-')} {name}") for name, result in results.items()}
    figures = {name: views.heatmap(result, metric="logit_diff") for name, result in results.items()}
    named, why = name_heads(heads)
    print(f"\nstrongest heads: {why}")
    if len(named):
        print(named.to_string(index=False, float_format="{:.3f}".format))
    written = report.write(
        out / "report.html", f"Indirect objects in {model.name}", _sections(pairs, results, figures, task, named, why)
    )
    print(f"\nkept as {', '.join(run.id for run in runs.values())} in {store.address}")
    for name, figure in figures.items() if views.can_export() else ():
        print("wrote", views.save(figure, out / f"{name.replace(' ', '-')}.png"))
    print(f"wrote {written} ({time.perf_counter() - began:.0f} s)")
    return written


def name_heads(heads: xr.Dataset, most: int = 10) -> tuple[pd.DataFrame, str]:
    """The strongest of the heads whose effect is told from 0 with all heads looked at, and in words how they were found.

    Where no head has an effect, one is named in at most one run of twenty.
    """
    table = effects.top(heads, heads.sizes["layer"] * heads.sizes["head"], metric="logit_diff")
    test = table.attrs["sign_flips"]
    how = f"max-T sign flips of {test['units']} {test['flipped']}s, p ≤ 0.05 over {test['cells']['logit_diff']} heads"
    named = table[table.pop("survives")].head(most)
    if named.empty:
        return named, f"none has an effect that can be told from 0 ({how})."
    return named, (
        f"those whose effect can be told from 0 ({how}). The columns that end in adjusted allow for their having been chosen "
        "from all heads; effect, low and high do not."
    )


def _dataset(result: xr.Dataset | xr.DataTree) -> xr.Dataset:
    assert isinstance(result, xr.Dataset)  # one grid gives one family
    return result


def _accuracy(result: xr.Dataset) -> float:
    return float(result["clean"].sel(metric="accuracy").mean())


def _task(result: xr.Dataset) -> pd.DataFrame:
    """How well the model does the task, on clean and on corrupted prompts."""
    rows: list[dict[str, Any]] = []
    for name, side in (("clean", "clean"), ("corrupted", "corrupt")):
        mean = result[side].mean("example")
        rows.append({"prompts": name} | {m: float(mean.sel(metric=m)) for m in METRICS} | {"n": result.sizes["example"]})
    return pd.DataFrame(rows)


def _sections(
    pairs: Pairs, results: dict[str, xr.Dataset], figures: dict[str, Any], task: pd.DataFrame, named: pd.DataFrame, why: str
) -> dict[str, list[Any]]:
    pair = pairs[0]
    return {
        "The task": [
            "Which of two names is the indirect object? The clean prompt repeats one name; the corrupted prompt repeats the "
            "other, so that the answer changes and everything else stays.",
            {
                "clean": pair.clean.text,
                "answer": pair.answers[0],
                "corrupted": pair.corrupted.text,
                "its answer": pair.wrong[0],
            },
            "logit_diff is the logit of the clean prompt's answer minus that of the other name; accuracy is the share of "
            "prompts on which it is positive (chance 0.5); top1 the share on which the answer is the likeliest of all tokens.",
            task,
        ],
        "Where: residual stream, layer by position": [
            "Each cell puts the clean run's residual stream, at one layer and token, into the corrupted run. 0: "
            "nothing changes; 1: the clean logit difference is restored.",
            figures["residual stream"],
            report.provenance(results["residual stream"]),
        ],
        "Who: attention heads": [
            "Each cell puts one head's clean output (before W_O, at every position) into the corrupted run.",
            figures["heads"],
            f"Strongest heads: {why}",
            *([named] if len(named) else []),
            report.provenance(results["heads"]),
        ],
    }
