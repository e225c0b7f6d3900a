"""The README of experiments/head_gating says what its committed table holds; the script makes such a table."""

from __future__ import annotations

import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from interp.models import Model

FOLDER = Path(__file__).parents[2] / "experiments" / "head_gating"
TABLE = json.loads((FOLDER / "table-SmolLM2-135M-Instruct.json").read_text())
PAGE = (FOLDER / "README.md").read_text()


@pytest.fixture(scope="module")
def script() -> Any:
    spec = spec_from_file_location("head_gating_run", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_says_what_the_table_holds() -> None:
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \| ([-\d.]+) \| ([-\d.]+) to ([-\d.]+) \|$", PAGE, re.MULTILINE)
    assert [role for role, *_ in rows] == ["facilitating", "interfering", "irrelevant"]
    for role, always, some, mean, low, high in rows:
        assert [float(always), float(some)] == TABLE["percent of heads, always | any"][role]
        change = TABLE["change by ordered ablation"][role]
        assert (float(mean), [float(low), float(high)]) == (change["mean"], change["95% interval"])
    text = " ".join(PAGE.split())
    assert f"{TABLE['updates']} updates of {TABLE['batch']} prompts with {len(TABLE['seeds'])} seeds" in text
    assert f"on {TABLE['held_out']} prompts of other templates" in text
    known = TABLE["log-probability"]
    assert f"is {known['with G+'][0]} and {known['with G+'][1]}, against {known['plain']} of the model as it is" in text
    assert TABLE["in_sample"] is False


def test_the_committed_run_has_the_signs_that_the_paper_predicts() -> None:
    change = {role: of["mean"] for role, of in TABLE["change by ordered ablation"].items()}
    assert change["facilitating"] < 0 < change["interfering"]
    assert abs(change["irrelevant"]) < min(-change["facilitating"], change["interfering"])


def test_the_script_makes_such_a_table(script: Any, loaded_smollm2: Model, tmp_path: Path) -> None:
    """One update with one seed; a second call finds both runs in the store."""
    asked: dict[str, Any] = {"most": 1, "seeds": 1, "updates": 1, "batch": 2}
    first, again = (script.table(*script.measure(loaded_smollm2, 2, 2, tmp_path / "runs", **asked)) for _ in range(2))
    assert first == again
    assert first.keys() == TABLE.keys()
    assert first["heads"] == TABLE["heads"] == 270
    assert not first["in_sample"]
