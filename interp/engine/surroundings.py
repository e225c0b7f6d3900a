"""Where a run was made: the device by its name, how much memory was taken, and the revision of the code around it.

>>> device_name(torch.device("cpu"))                                                         # doctest: +SKIP
'AMD EPYC 7763 64-Core Processor'
>>> git_revision()                                                                           # doctest: +SKIP
'9f1c2d0e5b7a4c3d8e6f0a1b2c3d4e5f60718293+dirty'

Neither the machine's name nor its user's is kept: results are shared.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

_CPUS = Path("/proc/cpuinfo")
_PATIENCE = 5.0
"""Seconds that git may take."""


@cache
def device_name(device: torch.device) -> str:
    """What a device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    lines = _CPUS.read_text(encoding="utf-8", errors="replace").splitlines() if _CPUS.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> dict[str, Any] | None:
    """The most bytes taken so far, and of what; None where that is not known.

    Of a GPU it is what torch had allocated on all GPUs together; of a CPU, what the process held in memory. Both are counted
    since the process began, so that a run before may have taken more than this one.
    """
    if device.type == "cuda":
        taken = sum(torch.cuda.max_memory_allocated(number) for number in range(torch.cuda.device_count()))
        return {"bytes": taken, "of": "GPU memory allocated by torch, since the process began"}
    if device.type != "cpu" or sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"bytes": taken, "of": "memory resident in the process, since it began"}


def git_revision() -> str | None:
    """The commit of the repository that the working directory is in, with ``+dirty`` where its files were changed.

    None where it is in none, or there is no git. It is asked for once, when a process makes its first run: code that is
    edited later was read before.
    """
    return _revision(os.getcwd())


@cache
def _revision(folder: str) -> str | None:
    # A repository may name a program that watches its files; it is not run.
    command = ["git", "-c", "core.fsmonitor=false", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+dirty"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
