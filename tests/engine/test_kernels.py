"""The engine on the Triton kernels, in Triton's interpreter: a sweep and a training, in a process of its own.

That each kernel is right is shown in ``tests/kernels``; here that the engine reaches them, says so, and gets the numbers of the
references: float32 sums in another order, 1e-5 × (1 + max |logit|), and what three steps of learning make of that.
"""

from __future__ import annotations

import sys

import kernel_sweeps
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="triton is made for Linux")


@pytest.mark.parametrize("implementation", ["triton", "torch"])
def test_a_sweep_and_a_training_run_on_the_kernels_that_were_chosen(implementation: str) -> None:
    found = kernel_sweeps.worker(implementation)
    stream = {"fused_readout": implementation, "subspace_interchange": implementation}
    few = stream | {"fused_readout": "torch"}  # single columns are plain torch whatever was chosen
    assert found["said"] == [stream, {"fused_readout": implementation, "head_gates": implementation}, stream, few]
    assert found["triton"] == (implementation == "triton")
    close = 1e-4 if implementation == "triton" else 0.0
    assert max(found["apart"].values()) <= close, found["apart"]
