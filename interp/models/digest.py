"""Which weights: one digest a model, so that a result names what it was measured on.

Files are hashed as they are, cached by path, size and time of change; a live module by its tensors in the order of their names.
Whether tensors are still what they were is told by a number that costs no more than reading them: in-place writes to
``weight.data`` leave no other trace.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp.models.placement import weights

_WEIGHTS = ("*.safetensors", "*.gguf")
_COLUMNS = 1021
"""Into how many sums the words of a tensor go by turns; a prime number, so that rows that change places change sums."""
_BLOCK = 2**22
"""Words of which there is a copy at a time."""


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
            absorb(total, name, part)
    return total.hexdigest()[:16]


def of_all(weights: str, rest: Mapping[str, str]) -> str:
    """Weights and what else a module computes with (:mod:`interp.models.settings`); those of weights alone as they are."""
    if not rest:
        return weights
    return hashlib.sha256(json.dumps([weights, *sorted(rest.items())]).encode()).hexdigest()[:16]


def absorb(total: Any, name: str, part: Any) -> None:
    """Take a tensor into a hash with its name, shape and dtype; or the text of anything else."""
    if isinstance(part, Tensor):
        total.update(f"{name}{tuple(part.shape)}{part.dtype}".encode())
        total.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    else:
        total.update(f"{name}{part}".encode())


def state_of(module: nn.Module) -> int:
    """A number that is another one once a parameter or a persistent buffer has other values, in whatever way they came there.

    What accelerate has put away is not brought in for it.
    """
    found = module.state_dict()
    parts = {(name, number): part for name, value in found.items() for number, part in enumerate(_parts(value))}
    tensors = {key: part for key, part in parts.items() if isinstance(part, Tensor)}
    told = [(*key, tuple(part.shape), str(part.dtype)) for key, part in tensors.items()]
    rest = [(*key, str(part)) for key, part in parts.items() if key not in tensors]
    return hash((quick(tensors.values()), tuple(told), tuple(rest)))


def quick(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """Numbers that are others for other values, as good as always; each tensor is read twice, where it lies."""
    sums: dict[torch.device, list[Tensor]] = {}
    known: set[Any] = set()  # tied weights are read once
    with torch.no_grad():
        for tensor in tensors:
            place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            if not tensor.is_meta and tensor.numel() and place not in known:
                known.add(place)
                sums.setdefault(tensor.device, []).extend(_sums(tensor.detach().reshape(-1)))
        return tuple(number for several in sums.values() for number in torch.stack(several).tolist())


def _sums(flat: Tensor) -> Iterator[Tensor]:
    """Of all bits, and of the upper half of them: signs, which are the last of a word, can cancel in the first."""
    words = flat.view(_word(flat))
    weights = _weights(flat.device)
    turns = len(words) // _COLUMNS
    whole, rest = words[: turns * _COLUMNS].reshape(turns, _COLUMNS), words[turns * _COLUMNS :]
    yield (whole.sum(0) * weights).sum() - (rest * weights[: len(rest)]).sum()
    half = 4 * words.element_size()
    upper = sum(((block >> half).sum(0) for block in whole.split(_BLOCK // _COLUMNS)), torch.zeros_like(weights))
    yield (upper * weights).sum() - ((rest >> half) * weights[: len(rest)]).sum()


@lru_cache(maxsize=16)
def _weights(device: torch.device) -> Tensor:
    """Odd numbers from all over the integers, always the same."""
    drawn = torch.randint(-(2**62), 2**62, (_COLUMNS,), generator=torch.Generator().manual_seed(0), device="cpu")
    return 2 * drawn.to(device) + 1


def _word(flat: Tensor) -> torch.dtype:
    """As what the bits of a tensor are added up: the largest integers that fit."""
    size = flat.element_size()
    for dtype, width in ((torch.int64, 8), (torch.int32, 4), (torch.int16, 2)):
        if flat.numel() * size % width == 0 and flat.storage_offset() * size % width == 0:
            return dtype
    return torch.uint8


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
