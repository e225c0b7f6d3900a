"""Full float32 precision: no TF32 and no other shortcut of matrix products and convolutions, whatever the user has set.

>>> with full_precision():
...     precision()
'ieee'
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import backends

T = TypeVar("T")

_FULL = "ieee"


def _operations() -> list[Any]:
    return [getattr(backend, name) for backend in (backends.cudnn, backends.mkldnn) for name in ("conv", "rnn")] + [
        backends.cuda.matmul,
        backends.mkldnn.matmul,  # type: ignore[attr-defined]
    ]


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 at full precision inside, the user's settings after.

    torch keeps them twice: in an older form for all products or all of cuDNN, and by operation. Both are set, because asking
    for the older one raises where the two disagree.
    """
    operations = _operations()
    own = [operation.fp32_precision for operation in operations]
    products, convolutions = _asked(torch.get_float32_matmul_precision), _asked(lambda: backends.cudnn.allow_tf32)
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = False
    for operation in operations:
        operation.fp32_precision = _FULL
    try:
        yield
    finally:
        if products is not None:
            torch.set_float32_matmul_precision(products)
        if convolutions is not None:
            backends.cudnn.allow_tf32 = convolutions
        for operation, precision in zip(operations, own, strict=True):
            operation.fp32_precision = precision


def _asked(ask: Callable[[], T]) -> T | None:
    """A setting in its older form; None where the user has set the newer one to something else, which torch then reports."""
    try:
        return ask()
    except RuntimeError:
        return None


def precision() -> str:
    """How float32 products are computed now: ``"ieee"``, or what of TF32 and bfloat16 some operation may use."""
    found = {operation.fp32_precision for operation in _operations()} - {"none"}
    return "+".join(sorted(found)) or _FULL
