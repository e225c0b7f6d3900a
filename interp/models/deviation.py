"""How far apart two tensors are that should be equal, and how far rounding alone may put them.

>>> deviation(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 4.0]))
0.25
>>> rounding(torch.float32) < rounding(torch.bfloat16)
True
"""

from __future__ import annotations

import torch
from torch import Tensor


def deviation(got: Tensor, expected: Tensor) -> float:
    """Largest deviation, relative to the largest number of the two; none on the meta device, where only shapes are known."""
    if got.is_meta:
        return 0.0
    got, expected = got.float(), expected.float()
    scale = max(1e-6, float(expected.abs().max()), float(got.abs().max()))
    return float((got - expected).abs().max()) / scale


def rounding(dtype: torch.dtype) -> float:
    """By how much a law may be missed in a dtype, relative to the largest number."""
    return 5e-2 if dtype in (torch.float16, torch.bfloat16) else 1e-4
