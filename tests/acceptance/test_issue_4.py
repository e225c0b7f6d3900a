"""Issue 4, any model: what its "Done when" lines say, measured."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from suites import ROOT, require

NAMED = (
    *("gpt2", "gpt-neo", "gpt-j", "gpt-neox", "opt", "bloom", "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3-moe"),
    *("gemma", "gemma2", "gemma3", "phi", "phi3", "olmo2", "falcon", "stablelm", "smollm3", "deepseek-v3", "mamba", "bert"),
    *("roberta", "modernbert", "t5", "bart", "whisper", "vit", "dinov2", "clip", "siglip", "blip", "llava", "qwen2-vl"),
    *("resnet", "swin", "dcgan"),
)
OF_DIFFUSERS = ("unet", "dit")


def doctor(*arguments: str) -> tuple[list[dict[str, Any]], int]:
    """What ``interp doctor … --json`` prints, and its exit status."""
    command = [sys.executable, "-P", "-m", "interp.cli", "doctor", *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr[-2000:]
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found, done.returncode


def counted(report: dict[str, Any]) -> str:
    refused = f", refused {', '.join(report['refused'])}" if report["refused"] else ""
    return f"{len(report['passed'])} passed, {len(report['failed'])} failed{refused}"


@pytest.mark.done_when(
    4,
    "interp doctor --all prints the table of every architecture, built tiny from config, offline, and no law fails; --json is "
    "a list of objects with architecture, passed, failed, refused",
)
def test_doctor_all(figures: dict[str, Any]) -> None:
    began = time.monotonic()
    reports, status = doctor("--all")
    figures["seconds"] = round(time.monotonic() - began, 1)
    figures |= {report["architecture"]: counted(report) for report in reports}
    names = {report["architecture"] for report in reports}
    assert names >= set(NAMED)
    figures["left out"] = sorted(set(OF_DIFFUSERS) - names)
    assert [report["architecture"] for report in reports if report["failed"]] == []
    assert status == 0
    assert all({"architecture", "passed", "failed", "refused"} <= set(report) for report in reports)


@pytest.mark.done_when(
    4, "the conformance suite passes, and the README holds the table as generated text that a test keeps current"
)
def test_conformance(figures: dict[str, Any]) -> None:
    require(figures, "tests/conformance", "tests/doctor")


@pytest.mark.done_when(4, "SmolLM2-135M (GGUF) and the zoo pass interp doctor")
def test_doctor_of_real_models(figures: dict[str, Any], smollm2_gguf: Path) -> None:
    for model in (str(smollm2_gguf), "zoo/language-4l", "zoo/induction-2l"):
        (report,), status = doctor(model)
        figures[report["architecture"]] = counted(report)
        assert report["failed"] == []
        assert status == 0


@pytest.mark.done_when(4, "the parity tests against TransformerLens, nnsight and pyvene run in .ci/run")
def test_parity(figures: dict[str, Any]) -> None:
    """They are part of the plain test command, which .ci/run runs; none of them is skipped."""
    command = (ROOT / ".ci" / "run").read_text()
    assert "$(readme pytest)" in command
    require(figures, "tests/parity", "tests/models/backends", "tests/interop")


@pytest.mark.done_when(
    4,
    "loading says what is wrong in one line for an unreachable hub, a folder without config, attention without patterns, a "
    "pickle checkpoint, remote code",
)
def test_loading_in_one_line(figures: dict[str, Any]) -> None:
    require(figures, "tests/models/test_loading.py", "tests/models/test_sources.py")
