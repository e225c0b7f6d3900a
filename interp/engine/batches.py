"""Work in batches that give way when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Part = TypeVar("Part")


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
            continue
        done = chunk.stop
        progress(size)
    return parts
