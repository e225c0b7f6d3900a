"""Which implementation of a kernel runs: chosen by the user, never by falling back.

    >>> implementation("fused_readout", "cpu")
    'torch'

The plain torch reference runs unless Triton is asked for, by ``INTERP_KERNELS=triton`` in the environment or, for a block of
code, by ``with use("triton"):``. On a machine without a GPU Triton's interpreter can run the kernels, slowly: set
``TRITON_INTERPRET=1`` before anything imports triton.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch

from interp.errors import KernelError, UnknownNameError

Implementation = Literal["torch", "triton"]

KERNELS = ("subspace_interchange", "head_gates", "fused_readout")
IMPLEMENTATIONS: tuple[Implementation, ...] = ("torch", "triton")
VARIABLE = "INTERP_KERNELS"

_chosen: ContextVar[Implementation | None] = ContextVar("interp_kernels", default=None)


def implementation(name: str, device: torch.device | str) -> Implementation:
    """What kernel ``name`` runs as on ``device``, here and now.

    Raises:
        UnknownNameError: no such kernel, or ``INTERP_KERNELS`` holds no known implementation.
        KernelError: Triton was asked for where it cannot run.
    """
    if name not in KERNELS:
        raise UnknownNameError("kernel", name, KERNELS)
    chosen = _chosen.get() or _known(os.environ.get(VARIABLE) or "torch", f"in the environment variable {VARIABLE}")
    if chosen == "triton":
        _require_triton(name, torch.device(device))
    return chosen


@contextmanager
def use(chosen: str) -> Iterator[None]:
    """Run the kernels of this block, in this thread, as ``"torch"`` or ``"triton"``, whatever the environment says.

    Raises:
        UnknownNameError: neither of the two.
    """
    token = _chosen.set(_known(chosen))
    try:
        yield
    finally:
        _chosen.reset(token)


def _known(name: str, where: str = "") -> Implementation:
    for known in IMPLEMENTATIONS:
        if name == known:
            return known
    raise UnknownNameError("implementation", name, IMPLEMENTATIONS, where)


def _require_triton(name: str, device: torch.device) -> None:
    asked = f"kernel {name!r} was asked for in Triton"
    if importlib.util.find_spec("triton") is None:
        raise KernelError(f"{asked}, which is not installed; pip install triton, or use('torch')")
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise KernelError(
            f"{asked} on device {str(device)!r}; expected a CUDA device, or TRITON_INTERPRET=1 set before triton is imported; "
            "otherwise use('torch')"
        )
