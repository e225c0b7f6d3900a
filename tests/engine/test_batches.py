"""Batches: everything once and in order, whatever does not fit."""

from __future__ import annotations

import pytest
import torch

from interp.engine.batches import in_batches


@pytest.mark.parametrize("room", [1, 2, 3, 100])
def test_what_does_not_fit_is_halved_and_nothing_is_lost(room: int) -> None:
    tried = []

    def run(chunk: slice) -> list[int]:
        tried.append(chunk.stop - chunk.start)
        if tried[-1] > room:
            raise torch.OutOfMemoryError("no room")
        return list(range(chunk.start, chunk.stop))

    told: list[int] = []
    parts = in_batches(11, 8, run, told.append)
    assert sum(parts, []) == list(range(11))  # noqa: RUF017
    assert told == [len(part) for part in parts]
    assert max(map(len, parts)) <= room
    assert tried[0] == 8


def test_one_item_that_does_not_fit_is_an_error() -> None:
    def run(chunk: slice) -> None:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        in_batches(3, 2, run)
