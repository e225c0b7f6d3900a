"""Writers that are killed at random moments lose the unit that they are at, and nothing else (see tests/support/crash.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROUNDS = 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_killed_writers_leave_whole_units(tmp_path, seed):
    script = Path(__file__).parents[1] / "support" / "crash.py"
    ran = subprocess.run(
        [sys.executable, script, tmp_path, str(ROUNDS), str(seed)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    seen = json.loads(ran.stdout)
    assert seen["rounds"] == ROUNDS
    assert seen["killed"] > ROUNDS  # of three a round; the others were done before
    assert seen["begun"] > 0  # some runs were stopped midway, which is what is tested
