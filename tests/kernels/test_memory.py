"""What the fused readout keeps in memory beside its inputs, as the operating system sees it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# The first run loads code and buffers that stay. Then what is free goes back to the system, the record of the largest resident
# size is wiped (5 in clear_refs), and the second run is measured against the size before it.
CODE = """
import ctypes, re, sys, torch
from pathlib import Path
from interp import kernels

rows, width, vocab = 256, 128, 128256
metric, gradient = sys.argv[1], sys.argv[2] == "True"
torch.manual_seed(0)
unembedding = torch.randn(vocab, width)
x, states = torch.randn(rows, width, requires_grad=gradient), torch.randn(32, width)
columns, example_of = torch.randint(vocab, (rows, 2)), torch.arange(rows) % 32

def run():
    if metric == "plain":
        logits = x @ unembedding.T
        result = logits[:, 0] - logits.logsumexp(-1)
    elif metric == "kl":
        result = kernels.fused_readout(
            x, unembedding, columns, reference=kernels.ReferenceStates(states, example_of)
        ).kl
    else:
        read = kernels.fused_readout(x, unembedding, columns)
        result = read.columns[:, 0] - read.logsumexp
    if gradient:
        result.sum().backward()

def resident(name):
    return 1024 * int(re.search(rf"{name}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

run()
ctypes.CDLL(None).malloc_trim(0)
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
run()
print((resident("VmHWM") - before) / (4 * rows * vocab))
"""


def _peak(metric: str, gradient: bool) -> float:
    """Peak memory beside the inputs, in units of the plain logits: 256 rows of 128256 in float32, 131 MB.

    glibc is told to give every large block back when it is freed; as it is, it keeps up to 10 MB of them, by chance of layout.
    """
    command = [sys.executable, "-c", CODE, metric, str(gradient)]
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("metric", ["logprob", "kl"])
def test_a_readout_needs_a_tenth_of_the_plain_logits_at_most(metric: str, gradient: bool) -> None:
    assert _peak(metric, gradient) <= 0.1


def test_the_measurement_sees_plain_logits() -> None:
    """The logits, and logsumexp's exponentials of them."""
    assert 1.9 <= _peak("plain", gradient=False) <= 2.1
