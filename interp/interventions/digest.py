"""The fingerprint of what was learned, so that a result names the very values it was measured with.

>>> digest({"logits": torch.zeros(2)}) == digest({"logits": torch.zeros(3)})
False
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def digest(tensors: Mapping[str, Tensor]) -> str:
    """The first 16 hexadecimal digits of the sha256 of tensors with their names, shapes and dtypes, on any device."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]
