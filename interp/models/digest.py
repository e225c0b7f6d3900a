"""Which weights: one digest a model, so that a result names what it was measured on.

Files are hashed as they are, cached by path, size and time of change; a live module by its tensors in the order of their names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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
    """sha256 of every parameter and persistent buffer of a live module, in the order of their names, packed ones as packed."""
    total = hashlib.sha256()
    for name, value in sorted(weights(module).items()):
        for part in _parts(value):
            if isinstance(part, Tensor):
                total.update(f"{name}{tuple(part.shape)}{part.dtype}".encode())
                total.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            else:
                total.update(f"{name}{part}".encode())
    return total.hexdigest()[:16]


def _parts(value: Any) -> Iterator[Any]:
    """The plain tensors, and what else there is, of which a value of a state dict is made."""
    if isinstance(value, Tensor) and value.is_quantized:
        channels = value.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric)
        scales = (value.q_per_channel_scales(), value.q_per_channel_zero_points()) if channels else ()
        yield from (value.int_repr(), *(scales or (value.q_scale(), value.q_zero_point())))
    elif hasattr(value, "__tensor_flatten__"):
        names, context = value.__tensor_flatten__()
        for name in names:
            yield from _parts(getattr(value, name))
        yield repr(context)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _parts(part)
    else:
        yield value
