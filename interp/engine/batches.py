"""Work in batches that give way when memory runs out, and say so.

>>> with halvings() as sizes:
...     parts = in_batches(3, 2, lambda part: part.stop - part.start)
>>> parts, sizes
([2, 1], [])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

Part = TypeVar("Part")
_sizes: ContextVar[list[int] | None] = ContextVar("sizes of batches that did not fit", default=None)


@contextmanager
def halvings() -> Iterator[list[int]]:
    """Sizes of the batches inside that did not fit in memory and were halved."""
    sizes: list[int] = []
    token = _sizes.set(sizes)
    try:
        yield sizes
    finally:
        _sizes.reset(token)


def in_batches(
    total: int, limit: int | Callable[[], int], run: Callable[[slice], Part], progress: Callable[[int], object] = lambda n: None
) -> list[Part]:
    """Run ``total`` items at most ``limit`` at a time; on out-of-memory that is halved and the work goes on where it was.

    Args:
        limit: a number, or a function that is asked before every batch.

    Raises:
        torch.OutOfMemoryError: one item alone does not fit.
    """
    parts: list[Part] = []
    done, most = 0, total
    while done < total:
        most = min(most, limit if isinstance(limit, int) else limit())
        chunk = slice(done, min(done + most, total))
        size = chunk.stop - chunk.start
        try:
            parts.append(run(chunk))
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            most = size // 2
            if (sizes := _sizes.get()) is not None:
                sizes.append(size)
            continue
        done = chunk.stop
        progress(size)
    return parts
