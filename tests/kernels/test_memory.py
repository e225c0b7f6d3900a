"""What the fused readout keeps in memory beside its inputs, as the operating system sees it."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Inputs are made in place, so that the peak before is what they occupy. A first small readout loads what is loaded once.
CODE = """
import resource, torch
from interp import kernels
rows, width, vocab = 256, 128, 128256
torch.manual_seed(0)
unembedding = torch.empty(vocab, width).normal_()
x, states = torch.randn(rows, width, requires_grad=True), torch.randn(32, width)
columns, example_of = torch.randint(vocab, (rows, 2)), torch.arange(rows) % 32
def logprob(few):
    read = kernels.fused_readout(x[:few], unembedding[: 1 + vocab * few // rows], columns[:few] * (few // rows))
    return read.columns[:, 0] - read.logsumexp
def kl(few):
    given = kernels.ReferenceStates(states, example_of[:few])
    read = kernels.fused_readout(x[:few], unembedding[: 1 + vocab * few // rows], columns[:few] * 0, reference=given)
    return read.kl
def plain(few):
    logits = x[:few] @ unembedding[: 1 + vocab * few // rows].T
    return logits[:, 0] - logits.logsumexp(-1)
def run(few):
    with torch.set_grad_enabled({gradient}):
        result = {metric}(few)
    if {gradient}:
        result.sum().backward()
run(8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(rows)
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before), 4 * rows * vocab)
"""


def _peak(metric: str, gradient: bool) -> float:
    """Peak memory beside the inputs, in units of the plain logits."""
    code = CODE.replace("{metric}", metric).replace("{gradient}", str(gradient))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    extra, logits = map(int, done.stdout.split())
    return extra / logits


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("metric", ["logprob", "kl"])
def test_a_readout_needs_a_tenth_of_the_plain_logits_at_most(metric: str, gradient: bool) -> None:
    """256 rows of a vocabulary of 128256 in float32: the logits alone would take 131 MB."""
    assert _peak(metric, gradient) <= 0.1


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_the_measurement_sees_plain_logits() -> None:
    assert _peak("plain", gradient=False) >= 1
