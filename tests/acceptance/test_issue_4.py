"""Issue 4, any model: what its "Done when" lines say, measured."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import generation_by_hand as hand
import pytest
import torch
from suites import ROOT, require

from interp import generate
from interp.interventions import Add, Change, Constant

NAMED = (
    *("gpt2", "gpt-neo", "gpt-j", "gpt-neox", "opt", "bloom", "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3-moe"),
    *("gemma", "gemma2", "gemma3", "phi", "phi3", "olmo2", "falcon", "stablelm", "smollm3", "deepseek-v3", "mamba", "bert"),
    *("roberta", "modernbert", "t5", "bart", "whisper", "vit", "dinov2", "clip", "siglip", "blip", "llava", "qwen2-vl"),
    *("resnet", "swin", "dcgan"),
    *("gpt-oss", "jamba", "qwen3-next", "distilbert"),  # beyond the list
)
OF_DIFFUSERS = ("unet", "dit", "stable-diffusion")


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


@pytest.mark.done_when(
    4, "long contexts: masks and knockouts over spans without building T × T, the numbers those of eager attention"
)
def test_knockouts_over_spans(figures: dict[str, Any]) -> None:
    require(figures, "tests/engine/test_knockouts.py", "tests/models/test_beside.py", "tests/interventions/test_knockout.py")


GENERATING = (
    *("gpt2", "gpt-neo", "gpt-j", "gpt-neox", "opt", "bloom", "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3-moe"),
    *("gemma", "gemma2", "gemma3", "phi", "phi3", "olmo2", "falcon", "falcon-new", "stablelm", "smollm3", "deepseek-v3"),
    *("mamba", "gpt-oss", "jamba", "qwen3-next"),
    *("t5", "bart", "whisper", "llava", "qwen2-vl"),
)
"""Every architecture that writes text."""


@pytest.mark.done_when(
    4, "real-life conditions: generate() with absolute positions tracked through the cache, against a loop by hand without one"
)
def test_generation(figures: dict[str, Any]) -> None:
    """Tokens are the same, and log-probabilities and activations to rounding, under edits at a position of the prompt, at one
    of the new text, at all of them and at those that are new, in two prompts of unequal length, with the cache and without.
    """
    for kind in GENERATING:
        worst, rows, left_out = generated(kind, seed=1)
        assert worst < 1, (kind, worst)
        assert rows > left_out, kind
        figures[kind] = f"{rows} rows, {left_out} decided by rounding; worst deviation {worst:.2g} of what is allowed"
    require(figures, "tests/engine/test_generating.py", "tests/engine/test_generated.py", "tests/models/test_generation.py")


def generated(kind: str, seed: int, new: int = 12) -> tuple[float, int, int]:
    """The largest deviation from the loop by hand, as a fraction of what rounding explains; rows that were compared, and rows
    whose tokens were not because rounding decides them."""
    tested, given = hand.model(kind), hand.prompts(kind, seed)
    lengths = [len(hand.said(prompt)) for prompt in given]
    vector = 9 * torch.randn(tested.sizes["d_model"], generator=torch.Generator().manual_seed(seed), dtype=tested.dtype)
    later, site = min(lengths) + new - 2, "L1.resid_post"
    where: list[tuple[str, Any, Callable[[int, int], bool]]] = [
        ("all", 1, lambda p, n: p == 1),
        ("all", later, lambda p, n: p == later),
        ("all", None, lambda p, n: True),
        ("new", None, lambda p, n: p >= n),
    ]
    worst, rows, left_out = 0.0, 0, 0
    for (scope, positions, chosen), kept in product(where, (True, False)):
        change = Change(site, positions, Constant(vector), Add())
        options: dict[str, Any] = {"min_new_tokens": new, "forced_eos_token_id": None, "use_cache": kept, "capture": [site]}
        made = generate(tested, given, change, scope=scope, max_new_tokens=new, **options)
        for row, (prompt, n) in enumerate(zip(given, lengths, strict=True)):
            run, seen = hand.hooked(kind, f"{tested.anatomy.blocks}.1", hand.added(partial(_swapped, chosen, n), vector))
            tokens, logprobs = hand.greedy(prompt, run, new)
            rows, left_out = rows + 1, left_out + (not tokens)
            if not tokens:
                continue
            assert made.ids[0, row].tolist() == tokens, (kind, scope, positions, kept, row)
            found = made.activation(site)[0, row, int(made.first[row]) :]
            for got, expected in ((made.logprobs[0, row], logprobs), (found, seen[-1][0])):
                allowed = hand.share(kind, expected.dtype) * (1 + float(expected.abs().max()))
                assert bool(got.isfinite().all()), kind
                worst = max(worst, float((got - expected).abs().max()) / allowed)
    return worst, rows, left_out


def _swapped(chosen: Callable[[int, int], bool], length: int, position: int) -> bool:
    return chosen(position, length)
