"""The committed table of experiments/induction_forms is what its script measures, and says what its README says."""

from __future__ import annotations

import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from interp import effects as fx
from interp.models import load, zoo

FOLDER = Path(__file__).parents[2] / "experiments" / "induction_forms"
TABLE = json.loads((FOLDER / "table.json").read_text())
SOME = (0, 320, 500, 1000)


@pytest.fixture(scope="module")
def script() -> Any:
    spec = spec_from_file_location("induction_forms_run", FOLDER / "run.py")  # other experiments may have a run.py too
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def measured(script: Any) -> tuple[xr.Dataset, xr.Dataset]:
    table = zoo.checkpoints("induction-forming")
    return script.measure(table[table["step"].isin(SOME) & table["seed"].isin([0, 1])])


def expected(name: str, seed: int) -> list[float]:
    return [TABLE[f"seed{seed}"][name][TABLE["steps"].index(step)] for step in SOME]


def test_some_checkpoints_again(script: Any, measured: tuple[xr.Dataset, xr.Dataset]) -> None:
    """To 0.005: float32 on another machine moves them less, a wrong checkpoint moves them by more than 0.1."""
    found = script.tabulated(*measured)
    for seed in (0, 1):
        for name in ("loss", "induction score", "logit difference"):
            np.testing.assert_allclose(found[f"seed{seed}"][name], expected(name, seed), atol=5e-3)
        last = found[f"seed{seed}"]["recovery at the end"]
        assert not script.differences(last, TABLE[f"seed{seed}"]["recovery at the end"])


def test_pairs_trade_places(script: Any) -> None:
    """Clean … A B … C D … A, corrupted … C B … A D … A: B and D follow A, all else stays."""
    tokenizer = load("zoo/induction-forming/seed0/step0000", check=False).tokenizer
    for pair in script.questions(tokenizer):
        clean, corrupted = (str(prompt.text).split() for prompt in (pair.clean, pair.corrupted))
        a, b, c, d = pair.entities
        assert clean[-1] == corrupted[-1] == a
        assert clean[clean.index(a) + 1] == corrupted[corrupted.index(c) + 1] == b
        assert clean[clean.index(c) + 1] == corrupted[corrupted.index(a) + 1] == d
        assert sum(x != y for x, y in zip(clean, corrupted, strict=True)) == 2
        assert pair.answers == (f" {b}",)
        assert pair.wrong == (f" {d}",)


def test_what_forms(measured: tuple[xr.Dataset, xr.Dataset]) -> None:
    """No difference to restore at first; at the end one head of layer 0 restores nearly all, in another seed another one."""
    effects, seen = measured
    clean = effects["clean"].sel(metric="logit_diff").mean("example")
    assert (abs(clean.sel(checkpoint=0)) < 0.1).all()
    assert (clean.sel(checkpoint=1000) > 5).all()
    recovery = fx.recovery(effects).sel(metric="logit_diff", checkpoint=1000)
    assert recovery.sel(layer=0).argmax("head").values.tolist() == [0, 3]
    assert (recovery.sel(layer=0).max("head") > 0.98).all()
    assert (abs(recovery.sel(layer=0)).values < 0.02).sum() == 6
    assert (recovery.sel(layer=1) > 0.05).all()
    scores = seen["induction score"].mean("example").max(("layer", "head"))
    assert (scores.sel(checkpoint=0) < 0.06).all()
    assert (scores.sel(checkpoint=1000) > 0.7).all()


def test_differences_are_found(script: Any) -> None:
    other = json.loads(json.dumps(TABLE))
    assert script.differences(other, TABLE) == []
    other["seed1"]["loss"][3] += 0.01
    other["seed2"]["first step with half the loss"] = 400
    assert len(script.differences(other, TABLE)) == 2
    assert script.differences({"steps": []}, TABLE)


def test_readme_says_what_the_table_says() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for seed in range(3):
        line = re.search(rf"^\| {seed} \| (\d+) \| (.*)$", text, re.M)
        assert line is not None
        assert int(line[1]) == TABLE[f"seed{seed}"]["first step with half the loss"]
        heads = TABLE[f"seed{seed}"]["recovery at the end"]
        stated = re.findall(r"(L\dH\d) ([\d.]+)", line[2])
        assert len(stated) == 5
        assert all(heads[head] == pytest.approx(float(value), abs=5.1e-3) for head, value in stated)
        assert sum(heads[head] for head in heads if head.startswith("L1")) == pytest.approx(0.93, abs=0.025)


def test_figures(script: Any, measured: tuple[xr.Dataset, xr.Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.views.can_export", lambda: False)
    script.draw(*measured, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.html", "heads.html", "slider.html"]
    page = (tmp_path / "slider.html").read_text(encoding="utf-8")
    assert all(f"checkpoint={step}" in page for step in SOME)
