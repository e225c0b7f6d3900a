"""Best practices of activation patching: what corruption, metric and windows change in the map of heads and MLPs.

python experiments/best_practices/run.py smollm2 --model FOLDER        # or language-4l; minutes on one core
python experiments/best_practices/run.py language-4l --check           # compare with expected.json instead of writing it

Sweeps are kept in ``--store`` and resumed there.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch

import interp
from interp.methods.localise.activation_patching import Choice, Choices

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "config.json").read_text())
EXPECTED = HERE / "expected.json"


def measure(name: str, model: Any, store: Path | None, pairs: int | None = None) -> Choices:
    """Heads over all positions, and MLPs at the roles in windows, under every choice of ``config.json``."""
    own = CONFIG[name]
    data = interp.tasks.ioi(pairs or own["pairs"], seed=CONFIG["seed"], tokenizer=model.tokenizer)
    return interp.compare_choices(
        model,
        data,
        {
            "heads": interp.grid("z", layer=..., head=...),
            "MLPs": interp.grid("mlp_out", layer=..., position=CONFIG["roles"]),
        },
        CONFIG["metrics"],
        patching=CONFIG["patching"],
        corruptions=CONFIG["corruptions"],
        subject=CONFIG["subject"],
        windows=own["windows"],
        seed=CONFIG["seed"],
        store=store,
        name=f"best practices, {name}" if store else None,
    )


def tabulated(found: Choices) -> dict[str, Any]:
    """What is flagged by each choice, how choices agree, and windows against the sum of their layers."""
    table, agreement, windows = found.table(), found.agreement(), found.windows()
    heads = table[(table.family == "heads")]
    flagged = {
        f"{row.patching} · {row.corruption} · {row.metric}": {
            "peak": _number(row.peak), "above": row.above, "below": row.below,
            "clean": _number(row.clean), "corrupted": _number(row.corrupt),
        }
        for row in heads.itertuples()
    }  # fmt: skip
    agree = agreement[(agreement.family == "heads")]
    return {
        "flagged heads": flagged,
        "agreement of heads": {
            f"{row.first} — {row.second}": {"ranks": _number(row.rank_correlation), "both": row.both, "either": row.either}
            for row in agree.itertuples()
        },
        "windows of MLPs": {
            f"{row.patching} · {row.corruption} · {row.metric} · {row.window} layers": {
                "peak": _number(row.peak), "at": row.peak_cell, "summed peak": _number(row.summed_peak),
                "ratio": _number(row.ratio),
            }
            for row in windows.itertuples()
        },
    }  # fmt: skip


def _number(value: float) -> float | None:
    return round(float(value), 3) if math.isfinite(value) else None


def draw(found: Choices, name: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    heads = found.maps("heads", metrics=["logit_diff", "prob"])
    mlps = {
        label: found.map(Choice("MLPs", "denoising", how, window), "logit_diff")
        for how in CONFIG["corruptions"]
        for window in CONFIG[name]["windows"]
        for label in [f"{how} · {window} layer{'s' if window > 1 else ''}"]
    }
    figures = {
        "heads": interp.views.maps(heads, title=f"{name}, IOI: every head, by direction, corruption and metric"),
        "windows": interp.views.maps(mlps, title=f"{name}, IOI: MLPs restored in windows of layers"),
    }
    for what, figure in figures.items():
        interp.views.save(figure, folder / f"{name}_{what}.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["smollm2", "language-4l"])
    parser.add_argument("--model", help="what interp.load takes; by default the zoo's network of that name")
    parser.add_argument("--pairs", type=int, help="in place of the number of config.json")
    parser.add_argument("--store", type=Path, default=HERE / "store")
    parser.add_argument("--out", type=Path, default=HERE, help="where figures go")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = interp.load(args.model or CONFIG[args.name]["model"])
    found = measure(args.name, model, args.store, args.pairs)
    print(found)
    print(found.windows().to_string())
    table = tabulated(found)
    if interp.views.can_export():
        draw(found, args.name, args.out)
    known = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
    if args.check:
        sys.exit("\n".join(differences(table, known[args.name])) or 0)
    if args.pairs is None:
        EXPECTED.write_text(json.dumps(known | {args.name: table}, indent=1, ensure_ascii=False) + "\n")


def differences(found: Any, expected: Any, within: float = 1e-2) -> list[str]:
    """Where two tables differ by more than rounding on another machine moves them, or in what they say."""
    if isinstance(expected, dict):
        if set(found) != set(expected):
            return [f"{sorted(found)} for {sorted(expected)}"]
        return [f"{key}: {line}" for key in expected for line in differences(found[key], expected[key], within)]
    near = isinstance(expected, float) and isinstance(found, float) and abs(found - expected) <= within * max(1, abs(expected))
    return [] if near or found == expected else [f"{found} for {expected}"]


if __name__ == "__main__":
    main()
