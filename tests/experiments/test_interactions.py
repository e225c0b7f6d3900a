"""The README of experiments/interactions says what its committed tables hold; the script makes such tables."""

from __future__ import annotations

import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from interp.models import Model

FOLDER = Path(__file__).parents[2] / "experiments" / "interactions"
ZOO = json.loads((FOLDER / "table-zoo.json").read_text())
SMOLLM2 = json.loads((FOLDER / "table-smollm2.json").read_text())["smollm2"]
PAGE = (FOLDER / "README.md").read_text()
TEXT = " ".join(PAGE.split())


@pytest.fixture(scope="module")
def script() -> Any:
    spec = spec_from_file_location("interactions_run", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def most(rows: list[dict[str, Any]]) -> str:
    return f"{rows[0]['pair']} {rows[0]['interaction']:.2f}" if rows else "none"


def test_the_page_says_what_the_tables_hold() -> None:
    rows = re.findall(
        r"^\| `([^`]+)` \| (\w+) \| ([\d,]+) × (\d+) \| (\d+) / (\d+) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE
    )
    config = json.loads((FOLDER / "config.json").read_text())
    tables = ZOO | {"smollm2": SMOLLM2}
    assert [row[0] for row in rows] == list(tables)
    for name, ablation, pairs, examples, below, above, lowest, highest in rows:
        table = tables[name]
        assert ablation == config[name]["ablation"]
        assert (int(pairs.replace(",", "")), int(examples)) == (table["pairs"], table["examples"])
        assert {"below": int(below), "above": int(above)} == table["told_from_0"]
        assert (lowest, highest) == (most(table["lowest"]), most(table["highest"]))
    every = SMOLLM2["all"]
    blocks = every["block_rows_an_example"]
    assert every["pairs"] == 36315
    assert f"{every['pairs']:,} pairs × {every['examples']} examples would take {every['core_hours']:.1f} hours" in TEXT
    numbers = [f"{blocks[name]:,}" for name in ("pairs", "pairs_from_the_first_part", "pairs_as_whole_passes")]
    assert re.search(rf"{numbers[0]} blocks .*{numbers[1]} .*{numbers[2]} ", TEXT)
    assert f"{SMOLLM2['core_seconds']:.0f} seconds of one core" in TEXT
    both = SMOLLM2["of_two_that_help"]
    assert f"{both['below']} are told to be below 0 and {both['above']} above" in TEXT
    assert f"the lowest is {SMOLLM2['lowest_of_two_that_help'][0]['pair']}, " in TEXT


def test_signs_of_the_constructions() -> None:
    """Backup heads below 0, heads in a row above: the formulas of both networks."""
    assert ZOO["backup"]["lowest"] == [
        {
            "pair": "L0H0 L1H0", "interaction": -0.75, "low": -0.75, "high": -0.75, "together": -1.0, "first_alone": -0.25,
            "second_alone": 0.0,
        }
    ]  # fmt: skip
    assert ZOO["backup"]["highest"] == []
    [row] = ZOO["composition"]["highest"]
    assert row["pair"] == "L0H1 L1H0"
    assert row["interaction"] == pytest.approx(-row["first_alone"], abs=1e-9)
    assert (row["together"], row["second_alone"]) == (-1.0, -1.0)
    assert ZOO["composition"]["lowest"] == []


@pytest.mark.parametrize("name", ["backup", "composition", "induction-2l"])
def test_the_script_makes_the_table(name: str, script: Any) -> None:
    found, row = script.measure(name)
    assert found.sizes["cell"] == row["pairs"] + row["parts"]
    assert json.loads(script.written(row))["told_from_0"] == ZOO[name]["told_from_0"]
    for side in ("lowest", "highest"):
        assert [one["pair"] for one in row[side]][:1] == [one["pair"] for one in ZOO[name][side]][:1]
        for a, b in zip(row[side][:1], ZOO[name][side][:1], strict=True):
            assert a["interaction"] == pytest.approx(b["interaction"], abs=0.01)


def test_the_script_extrapolates_from_a_few_pairs(script: Any, loaded_smollm2: Model) -> None:
    found, row = script.smollm2(loaded_smollm2, 1, 3, 2, 64)
    assert (found.sizes["cell"], row["pairs"], row["all"]["pairs"]) == (6, 3, 36315)
    assert row["all"]["block_rows_an_example"] == SMOLLM2["all"]["block_rows_an_example"]
    assert row["all"]["core_hours"] > 0
