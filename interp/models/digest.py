"""Which weights: one digest a model, so that a result names what it was measured on.

Files are hashed as they are, cached by path, size and time of change; a live module by its tensors in the order of their names.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from interp.models.placement import weights

_WEIGHTS = ("*.safetensors", "*.gguf")


def of_files(path: Path) -> str | None:
    """sha256 of a weight file, or of a folder's weight files in the order of their names; None where there is none."""
    files = [path] if path.is_file() else sorted(file for pattern in _WEIGHTS for file in path.glob(pattern))
    if not files:
        return None
    total = hashlib.sha256()
    for file in files:
        stat = file.stat()
        total.update(file.name.encode() + b"\0" + _file(str(file.resolve()), stat.st_size, stat.st_mtime_ns).encode())
    return total.hexdigest()[:16]


@lru_cache(maxsize=64)
def _file(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def of_module(module: nn.Module) -> str:
    """sha256 of every parameter and persistent buffer of a live module, in the order of their names."""
    total = hashlib.sha256()
    for name, tensor in sorted(weights(module).items()):
        total.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]
