"""The README of experiments/causal_tracing says what its committed table holds; the script makes such a table."""

from __future__ import annotations

import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.models import Model

FOLDER = Path(__file__).parents[2] / "experiments" / "causal_tracing"
TABLE = json.loads((FOLDER / "table-SmolLM2-135M-Instruct.json").read_text())
PAGE = (FOLDER / "README.md").read_text()
KINDS = {
    "state": "resid_post",
    "MLP, ten layers": "mlp_out",
    "attention, ten layers": "attn_out",
    "attention, one layer": "attn_out, one layer",
}


@pytest.fixture(scope="module")
def script() -> Any:
    spec = spec_from_file_location("causal_tracing_run", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_says_what_the_table_holds() -> None:
    number = r" ([-\d.]+) \|"
    rows = re.findall(rf"^\| ([^|]+) \| the ([^|]+) token \|{5 * number}$", PAGE, re.MULTILINE)
    assert len(rows) == 7
    for kind, token, most, layer, *thirds in rows:
        values = np.array(TABLE["AIE"][KINDS[kind]]["subject last" if token == "subject's last" else token])
        assert (float(most), int(layer)) == (values.max(), values.argmax())
        means = [values[:10].mean(), values[10:23].mean(), values[23:].mean()]
        np.testing.assert_allclose(np.array(thirds, float), means, rtol=0, atol=0.051)
    half = TABLE["half_recovered"]
    assert f"in {half['last'][22]} of {TABLE['facts']} facts at layer 22 and in\n  {half['last'][23]} at layer 23" in PAGE
    assert f"in {half['subject last'][22]} at layer 22 and in none from" in PAGE
    assert max(half["subject last"][23:]) == 0
    assert f"{100 * TABLE['clean']:.1f}% of the probability" in PAGE
    assert f"{100 * TABLE['corrupted']:.1f}% in the noised one" in PAGE
    assert f"{TABLE['AIE']['attn_out']['last'][18]}% one step before" in PAGE
    single = sorted(TABLE["AIE"]["attn_out, one layer"]["last"])
    assert f"recovers {single[-1]}%, and that of no other layer more than {single[-2]}%" in PAGE


def test_the_script_makes_such_a_table(script: Any, loaded_smollm2: Model, tmp_path: Path) -> None:
    """One fact, one draw; a second call finds its sweeps in the store."""
    first = script.table(*script.measure(loaded_smollm2, 1, 1, tmp_path / "runs", 8))
    again = script.table(*script.measure(loaded_smollm2, 1, 1, tmp_path / "runs", 8))
    assert first == again == json.loads(script.written(first))
    assert first["AIE"].keys() == TABLE["AIE"].keys()
    states = first["AIE"]["resid_post"]
    assert max(states["subject last"][:10]) > max(states["subject last"][23:])
    assert max(states["last"][23:]) > max(states["last"][:10])
