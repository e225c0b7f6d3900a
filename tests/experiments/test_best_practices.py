"""The committed table of experiments/best_practices is what its script measures, and says what its README says."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from interp.models import load

FOLDER = Path(__file__).parents[2] / "experiments" / "best_practices"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
PAGE = (FOLDER / "README.md").read_text()


@pytest.fixture(scope="module")
def script() -> Any:
    spec = spec_from_file_location("best_practices_run", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_zoo_gives_the_table(script: Any) -> None:
    found = script.tabulated(script.measure("language-4l", load("zoo/language-4l"), None))
    assert script.differences(found, EXPECTED["language-4l"]) == []


def test_a_table_that_differs_is_told(script: Any) -> None:
    other = json.loads(json.dumps(EXPECTED["language-4l"]))
    other["flagged heads"]["denoising · str · logit_diff"]["above"] = ["L0H0"]
    (said,) = script.differences(other, EXPECTED["language-4l"])
    assert said.startswith("flagged heads: denoising · str · logit_diff: above: ['L0H0'] for ")


@pytest.mark.parametrize("name", ["smollm2", "language-4l"])
def test_the_readme_says_what_is_flagged(name: str) -> None:
    """Every row of its tables: direction, corruption and metric, and the heads above and below."""
    for choice, own in EXPECTED[name]["flagged heads"].items():
        heads = " ".join([*(f"+{head}" for head in own["above"]), *(f"−{head}" for head in own["below"])])
        assert f"| {' | '.join(choice.split(' · '))} | {own['peak']:.2f} | {heads} |" in PAGE
