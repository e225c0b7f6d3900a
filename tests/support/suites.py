"""Parts of the test suite, and benchmarks, run in a process of their own by the acceptance tests."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def suite(*paths: str) -> dict[str, Any]:
    """Run part of the test suite in a process of its own; how many passed, failed and were skipped."""
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    closing = done.stdout.strip().splitlines()[-1]
    counts = {what: int(n) for n, what in re.findall(r"(\d+) (passed|failed|skipped|xfailed|error)", closing)}
    return {"closing_line": closing, "returncode": done.returncode, "counts": counts, "tail": done.stdout[-3000:]}


def require(figures: dict[str, Any], *paths: str) -> None:
    """Every test of ``paths`` passes; none is expected to fail, and what is skipped is in the figures."""
    found = suite(*paths)
    tail = found.pop("tail")
    figures |= found
    assert found["returncode"] == 0, tail
    assert found["counts"]["passed"] > 0
    assert set(found["counts"]) <= {"passed", "skipped"}, tail


def benchmark(name: str, *arguments: str) -> list[dict[str, Any]]:
    """The cases that one run of a benchmark prints; its progress goes to the standard error, which ``-s`` shows."""
    command = [sys.executable, f"experiments/benchmarks/{name}.py", "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command[1:])}\n{done.stdout[-2000:]}"
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found
