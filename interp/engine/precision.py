"""How float32 products and convolutions are computed during a run: in full, or with TF32 where the user asks for speed.

>>> with float32("full"):
...     computed()
'ieee'
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
from torch import backends

T = TypeVar("T")

Precision = Literal["full", "fast"]
PRECISIONS = ("full", "fast")
_OF = {"full": ("ieee", "highest"), "fast": ("tf32", "high")}
"""torch's names, newer and older."""


def _operations() -> list[Any]:
    return [getattr(backend, name) for backend in (backends.cudnn, backends.mkldnn) for name in ("conv", "rnn")] + [
        backends.cuda.matmul,
        backends.mkldnn.matmul,  # type: ignore[attr-defined]
    ]


@contextmanager
def float32(precision: Precision = "full") -> Iterator[None]:
    """One precision inside whatever the user has set, the user's settings after.

    torch keeps them twice: in an older form for all products or all of cuDNN, and by operation. Both are set, because asking
    for the older one raises where the two disagree.
    """
    operations = _operations()
    own = [operation.fp32_precision for operation in operations]
    products = _asked(torch.get_float32_matmul_precision, "highest")
    convolutions = _asked(lambda: backends.cudnn.allow_tf32, True)
    newer, older = _OF[precision]
    torch.set_float32_matmul_precision(older)
    backends.cudnn.allow_tf32 = precision == "fast"
    for operation in operations:
        operation.fp32_precision = newer
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        backends.cudnn.allow_tf32 = convolutions
        for operation, before in zip(operations, own, strict=True):
            operation.fp32_precision = before


def _asked(ask: Callable[[], T], default: T) -> T:
    """A setting in its older form; torch's default where the user has set the newer one to something else, and torch raises."""
    try:
        return ask()
    except RuntimeError:
        return default


def computed() -> str:
    """How float32 products are computed now: ``"ieee"`` in full, ``"ieee+tf32"`` where some operations may use TF32."""
    found = (operation.fp32_precision for operation in _operations())
    return "+".join(sorted({"ieee" if precision == "none" else precision for precision in found}))
