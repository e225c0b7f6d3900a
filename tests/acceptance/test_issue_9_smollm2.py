"""Issue 9, a causal variable of SmolLM2: the table of experiments/ioi_order, and its claim again."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from interp.effects.alignment import NOT_BEATEN, claimed, largest
from interp.models import Model

FOLDER = Path(__file__).parents[2] / "experiments" / "ioi_order"
ORDER = (
    "On SmolLM2, on held-out names and templates: a causal variable of IOI or of a comparison task aligned at ≥ 0.8 IIA with "
    "its controls below 0.6 in the same table, or the honest negative with the reason."
)


@pytest.fixture(scope="module")
def run() -> Any:
    spec = spec_from_file_location("ioi_order_run", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.done_when(9, ORDER)
def test_the_table_holds_the_claim_beside_its_controls(figures: dict[str, Any]) -> None:
    own = json.loads((FOLDER / "table.json").read_text(encoding="utf-8"))["claim"]
    figures |= {name: own[name] for name in ("iia", "low", "high", "controls", "by template")}
    controls = {name: value for name, value in own["controls"].items() if name not in NOT_BEATEN}
    assert own["iia"] >= 0.8
    assert {"random_subspace", "random_network", "shuffled_weights", "shuffled_labels", "false_hypothesis"} <= {*controls}
    assert max(controls.values()) < 0.6


@pytest.mark.done_when(9, ORDER)
def test_the_search_again(run: Any, loaded_smollm2: Model, figures: dict[str, Any]) -> None:
    """From the rows on, judged on names, places, objects and sentences that it has not seen."""
    found = run.searched(loaded_smollm2, run.CONFIG["claim"], ("no_op", "random_subspace"))
    own = claimed(found.effects)
    figures |= {"iia": own.iia, "low": own.low, "high": own.high, **largest(found.effects)}
    task = run.interp.tasks.ioi_algorithm(loaded_smollm2.tokenizer)
    parts = [{row for one in ("first", "second") for row in task.counterfactuals(200, seed=1, part=p).base[one]} for p in
             ("train", "test")]  # fmt: skip
    assert not parts[0] & parts[1]
    assert own.iia >= 0.8
    assert max(largest(found.effects).values()) < 0.6
