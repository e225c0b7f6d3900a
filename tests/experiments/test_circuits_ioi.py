"""The script of experiments/circuits makes the table that it says, on halves that share nothing."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

import interp

FOLDER = Path(__file__).parents[2] / "experiments" / "circuits"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = spec_from_file_location("circuits_smollm2_ioi", FOLDER / "smollm2_ioi.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_makes_a_table_and_finds_its_sweeps_again(script: Any, tmp_path: Path) -> None:
    """On the zoo's model, whose circuit of a twentieth of the edges does better than random ones on what it never saw."""
    model = interp.load("zoo/language-4l")
    config = script.CONFIG | script.QUICK | {"discovery": 16, "by": ["size"], "random_by_layer": 0, "sizes": [0.05, 0.2, 1.0]}
    told = script.table(script.measure(model, config, tmp_path / "runs"), config)
    assert script.table(script.measure(model, config, tmp_path / "runs"), config) == told
    assert sorted(run.name for run in interp.Store(tmp_path / "runs")) == ["ioi swap, circuits", "ioi swap, scores"]
    assert json.loads(script.written(told)) == told
    assert (told["in_sample"], told["in_sample_examples"], told["in_sample_templates"]) == (False, 0, 0)
    assert told["held_out"] == {"pairs": 20, "digest": told["held_out"]["digest"]} != told["discovery"]
    rows = {(row["line"], row["share"]): row for row in told["faithfulness"]["logit_diff"]}
    assert rows["EAP-IG", 1.0]["f"] == pytest.approx(1, abs=1e-3)
    assert rows["EAP-IG", 0.05]["f"] > rows["random", 0.05]["high"] + 0.3
    assert told["smallest_share_with_the_aim"] in (0.05, 0.2)
    assert {row["line"] for row in told["areas"]["kl"]} == {"EAP-IG", "random"}
    assert len(told["stability"]["size"]["jaccard"]) == 2, "of every size but all edges"


def test_the_config_asks_for_what_the_issue_does(script: Any) -> None:
    """At least 100 pairs that were held out, 20 random circuits of each size and 100 resamples."""
    config = script.CONFIG
    assert config["held_out"] >= 100
    assert config["random"] >= 20
    assert config["resamples"] >= 100
    assert {0.05, 1.0} <= set(config["sizes"])
    assert config.keys() >= script.QUICK.keys()
