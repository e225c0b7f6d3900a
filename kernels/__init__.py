"""Triton kernels, each beside a plain torch reference of the same signature; imported as ``interp.kernels``.

    >>> from interp import kernels
    >>> kernels.implementation("fused_readout", "cpu")
    'torch'

The references run unless Triton is asked for (:mod:`interp.kernels.choice`), until a measurement on a GPU shows that a kernel
wins. Triton is imported when one of its kernels is first run.
"""

from __future__ import annotations

from interp.errors import KernelError
from interp.kernels.choice import IMPLEMENTATIONS, KERNELS, VARIABLE, implementation, use
from interp.kernels.gates import head_gates
from interp.kernels.readout import Fused, ReferenceLogProbs, ReferenceStates, fused_readout
from interp.kernels.subspace import subspace_interchange

__all__ = [
    "IMPLEMENTATIONS", "KERNELS", "VARIABLE", "Fused", "KernelError", "ReferenceLogProbs", "ReferenceStates", "fused_readout",
    "head_gates", "implementation", "subspace_interchange", "use",
]  # fmt: skip
