"""The command line and the demonstration, run as a user would on the shipped model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import interp
from interp.cli import main
from interp.demo import demo, name_heads


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demonstration has run, small."""
    out = tmp_path_factory.mktemp("demo")
    demo("zoo/language-4l", out, examples=12, seed=0)
    return out


def test_the_demo_keeps_both_maps_and_reports_them(shown: Path) -> None:
    store = interp.Store(shown / "runs")
    runs = store.runs()
    assert sorted(runs["site"]) == ["resid_pre", "z"]
    assert set(runs["status"]) <= {"complete"}
    page = (shown / "report.html").read_text()
    assert len(re.findall(r"Plotly\.newPlot", page)) >= 2
    assert "strongest heads" in page.lower()


def test_the_demo_finds_the_last_token_at_the_end_and_the_changed_name_at_the_beginning(shown: Path) -> None:
    """Known without looking: before the first layer only the changed name differs, so restoring it restores everything."""
    store = interp.Store(shown / "runs")
    stream = next(
        result for result in (store.load(run_id) for run_id in store.runs()["id"]) if result.attrs["site"] == "resid_pre"
    )
    recovery = interp.recovery(stream).sel(metric="logit_diff")
    changed = int((stream["clean_token"] != stream["corrupted_token"]).all("example").values.argmax())
    assert float(recovery.sel(layer=0).isel(position=changed)) == pytest.approx(1, abs=1e-4)
    assert float(recovery.sel(layer=0).isel(position=-1)) == pytest.approx(0, abs=1e-4)


def test_the_demo_names_heads_that_are_told_from_nothing_and_no_others(shown: Path, seed: int) -> None:
    store = interp.Store(shown / "runs")
    heads = next(result for result in (store.load(run_id) for run_id in store.runs()["id"]) if result.attrs["site"] == "z")
    named, why = name_heads(heads, 3)
    assert 1 <= len(named) <= 3
    assert (named["p_adjusted"] <= 0.05).all()
    assert why.startswith("those whose effect can be told from 0 (max-T sign flips of ")
    assert why.split(". ")[0] in (shown / "report.html").read_text()
    # Effects whose sum over examples is 0, up to rounding: whatever is flipped, the sum is no smaller.
    noise = np.random.default_rng(seed).normal(size=heads["value"].shape)
    noise -= noise.mean(-1, keepdims=True)
    nothing = heads.assign(value=(heads["corrupt"] + xr.DataArray(noise, dims=heads["value"].dims)).astype("float32"))
    nothing["value"] = nothing["value"].where(~nothing["by_rule"], nothing["corrupt"]).transpose(*heads["value"].dims)
    named, why = name_heads(nothing)
    assert named.empty
    assert why.startswith("none has an effect that can be told from 0 (max-T sign flips of ")


def test_ls_and_show(shown: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "--store", str(shown / "runs")]) == 0
    listed = capsys.readouterr().out
    assert "zoo/language-4l" in listed
    run = interp.Store(shown / "runs").runs()["id"].iloc[0]
    assert main(["show", run[:6], "--store", str(shown / "runs"), "--top", "3"]) == 0
    printed = capsys.readouterr().out
    assert "patching                   denoising" in printed
    assert "noise floor" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ls", "--store", "nowhere"], "there is no store at "),
        (["demo", "--model", "zoo/langage-4l"], "unknown zoo model 'langage-4l'; did you mean 'language-4l'"),
        (["doctor"], "doctor needs a model to examine, or --all for every architecture, and not both"),
        (["doctor", "zoo/induction-2l", "--all"], "doctor needs a model to examine, or --all"),
        (["doctor", "./nothing-here"], "'./nothing-here': no such file or folder"),
        (["demo", "--model", "./nothing-here"], "'./nothing-here': no such file or folder"),
    ],
)
def test_a_mistake_is_one_message_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"interp: {message}")
    assert "Traceback" not in error


def test_doctor_prints_sites_and_laws(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "zoo/induction-2l"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("zoo/induction-2l\n\nsites\n  embed")
    assert "example, position, d_model 128" in printed
    assert re.search(r"z +L0–1 +example, position, head \d+, d_head \d+", printed)
    assert "✓ head_gate" in printed
    assert "– fold_value_bias" in printed
    assert printed.rstrip().endswith("14 passed, 0 failed, 2 refused")


def test_doctor_as_json_and_its_exit_status(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that adds to its stream at every call, so that no two runs are alike."""
    from interp.doctor import architectures, models

    model = architectures.loaded("llama")
    calls: list[int] = []

    def counting(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return output + 1e-2 * len(calls)

    model.module.get_submodule(model.anatomy.mlp[1]).register_forward_hook(counting)
    monkeypatch.setattr(models, "load", lambda name: model)
    assert main(["doctor", "mine", "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found["architecture"] == "llama"
    assert "repeat" in found["failed"]
    assert not set(found["passed"]) & {*found["failed"], *found["refused"]}


def test_doctor_of_every_architecture(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.doctor import architectures

    monkeypatch.setattr(architectures, "examinable", lambda: ["gpt2", "mamba"])
    monkeypatch.setattr(architectures, "NAMES", ("gpt2", "mamba"))
    assert main(["doctor", "--all"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^gpt2 +✓( ✓){4} –( ✓){10}$", printed, flags=re.MULTILINE)
    assert re.search(r"^mamba  .*–", printed, flags=re.MULTILINE)
    assert printed.rstrip().endswith("2 architectures, 0 with a law that failed (✓ passed, ✗ failed, – refused)")


def test_a_model_that_its_probe_run_refuses_is_examined_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.doctor import architectures, models
    from interp.errors import ProbeError

    def load(name: str, check: bool = True) -> object:
        if check:
            raise ProbeError("a site is not what its name says")
        return interp.load(architectures.build("llama"), name=name, check=False)

    monkeypatch.setattr(models, "load", load)
    report = models.examine_named("mine")
    assert report.failed == ()
    assert report["sweep"].status == "passed", "in whole passes"
