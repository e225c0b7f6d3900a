"""Issue 6, results: what its "Done when" lines say of the store, at full size."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz import fuzz
from suites import ROOT, require

from interp import views
from interp.store import Store

CRASH = (
    "Crash test (200 in `.ci/acceptance`): several writers with SIGKILL at random moments, then resume: all values equal those "
    "of an undisturbed run, none lost, none torn. Two processes asked for the same run share the work and neither corrupts it."
)
FUZZ = (
    "Fuzz test (1,000): damaged stores (bytes flipped, files removed, truncated, renamed, huge attributes, path names with "
    "`..`) never crash the listing, never read outside the store, never return a wrong number silently."
)
VIEWS = (
    "Each view has a test on its data (what the figure contains, not how it looks) and its PNG was looked at; a gallery "
    "notebook shows all of them on real runs of the zoo and SmolLM2."
)
APP = (
    "The app is tested end to end in headless Chromium: filter, open, click a cell, compare two runs, download; screenshots "
    "were looked at."
)
COST = "Writing costs < 10 ms a unit and listing 10,000 runs < 1 s (`unit_ms`, `list_10k_s`)."

SWEEP = """
import sys, interp
from interp.engine import swept
swept.cut = lambda sizes, first, seconds: {"example": 4, first: 2}  # not by the machine's speed
model = interp.load(sys.argv[1], name="SmolLM2-135M-Instruct", progress=False)
pairs = interp.tasks.ioi(16, seed=0, tokenizer=model.tokenizer)
print("ready", flush=True)
where = interp.grid("z", layer=range(30), head=...)
sweep = interp.patch(model, pairs, where, store=sys.argv[2], name="heads", progress=False)
print(sweep.attrs["work_units"], flush=True)
"""


@pytest.mark.done_when(6, CRASH)
def test_killed_writers_leave_whole_units(tmp_path: Path, seed: int, figures: dict[str, Any]) -> None:
    script = ROOT / "tests" / "support" / "crash.py"
    ran = subprocess.run([sys.executable, script, tmp_path, "200", str(seed)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    figures |= json.loads(ran.stdout) | {"seed": seed}
    assert figures["killed"] > 300
    assert figures["begun"] > 50  # stopped midway


@pytest.mark.done_when(6, CRASH)
def test_a_killed_sweep_of_a_real_model_is_resumed(smollm2: Path, tmp_path: Path, seed: int, figures: dict[str, Any]) -> None:
    """Two processes at one sweep, killed midway, until it is whole; values as those of one undisturbed process."""
    rng = random.Random(seed)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])

    def started(store: str, count: int) -> list[subprocess.Popen[str]]:
        words = [sys.executable, "-c", SWEEP, str(smollm2), str(tmp_path / store)]
        environ = os.environ | {"PYTHONPATH": path}
        both = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environ) for _ in range(count)]
        assert [process.stdout.readline() for process in both if process.stdout] == ["ready\n"] * count
        return both

    def done() -> tuple[int, int]:
        runs = list(Store(tmp_path / "killed"))
        return runs[0].progress if runs and runs[0].status != "complete" else (0, 0)

    (alone,) = started("undisturbed", 1)
    units = int(alone.communicate()[0])
    assert units >= 20
    seen = [0]
    for _ in range(3):
        both = started("killed", 2)
        goal, deadline = seen[-1] + rng.randint(2, 12), time.monotonic() + 120
        while done()[0] < goal and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.5))
        for process in both:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        seen.append(done()[0])
        assert seen[-2] < goal <= seen[-1] < units == done()[1]  # killed midway, and nothing is lost
    both = started("killed", 2)
    assert [process.communicate()[0] for process in both] == [f"{units}\n"] * 2
    one, other = (Store(tmp_path / name).load("heads") for name in ("undisturbed", "killed"))
    figures |= {
        "units": units,
        "done behind each kill": seen[1:],
        "largest difference": float(np.abs(one["value"] - other["value"]).max()),
    }
    assert figures["largest difference"] == 0.0


@pytest.mark.done_when(6, FUZZ)
def test_damage_is_never_a_crash_nor_a_wrong_number(tmp_path: Path, seed: int, figures: dict[str, Any]) -> None:
    figures |= fuzz(tmp_path, 1000, seed) | {"seed": seed}
    assert figures["refused"] > 2000
    assert 0 < figures["untouched"] < 1000


@pytest.mark.done_when(6, COST)
def test_the_store_is_quick(figures: dict[str, Any]) -> None:
    words = [sys.executable, ROOT / "experiments" / "benchmarks" / "store.py", "--json"]
    ran = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    figures |= json.loads(ran.stdout)
    assert figures["unit_ms"] < 10
    assert figures["unit_ms_mean"] < 10
    assert figures["list_10k_s"] < 1


@pytest.mark.done_when(6, VIEWS)
def test_every_view_is_tested_on_its_data(figures: dict[str, Any]) -> None:
    require(figures, "tests/views")


@pytest.mark.done_when(6, VIEWS)
def test_the_gallery_shows_every_view_on_real_runs(tmp_path: Path, smollm2: Path, figures: dict[str, Any]) -> None:
    notebook = (ROOT / "notebooks" / "gallery.py").read_text(encoding="utf-8")
    drawn = sorted(name for name in views.__all__ if name.islower() and f"views.{name}(" in notebook)
    others = {"save", "can_export", "exporting", "fitting"}
    figures |= {"views": drawn, "not shown": sorted({n for n in views.__all__ if n.islower()} - set(drawn) - others)}
    assert figures["not shown"] == []
    assert "SmolLM2" in notebook
    began = time.monotonic()
    subprocess.run(
        [sys.executable, ROOT / "notebooks" / "gallery.py"], check=True, cwd=tmp_path, capture_output=True, text=True
    )
    figures["seconds"] = round(time.monotonic() - began)


@pytest.mark.done_when(6, APP)
def test_the_app_in_a_browser(figures: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERP_REQUIRE_BROWSER", "1")
    require(figures, "tests/app")
    assert "skipped" not in figures["counts"]
