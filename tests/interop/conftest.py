"""pyvene in a process of its own: importing it takes seconds and brings nnsight, which changes torch for everything there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def pyvene_and_us() -> Iterator[Callable[..., Any]]:
    """Sends a job to ``pyvene_runs.py`` and gives its answer."""
    path = os.pathsep.join([str(HERE.parent / "support"), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, str(HERE / "pyvene_runs.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip

    def ask(**job: Any) -> Any:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        reply = json.loads(process.stdout.readline() or '{"error": "the process ended; its own words are above"}')
        if "error" in reply:
            pytest.fail(reply["error"], pytrace=False)
        return reply["answer"]

    yield ask
    process.communicate()
