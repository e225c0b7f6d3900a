"""One metric for every answer of a pair."""

from __future__ import annotations

import torch

from interp.metrics import Readout
from interp.metrics.options import options


def test_right_answers_come_first_and_padding_nowhere(seed: int) -> None:
    """Pairs with one and two right answers, two and one wrong ones: log-probabilities of all of them, in order."""
    logits = torch.randn(3, 2, 1, 9, generator=torch.Generator().manual_seed(seed))
    readout = Readout(logits, answers=torch.tensor([[4, -1], [1, 2]]), wrong=torch.tensor([[7, 0], [3, -1]]))
    found = torch.stack([metric(readout) for metric in options(4)], -1)
    every = logits[:, :, 0].log_softmax(-1)
    assert torch.allclose(found[:, 0, :3], every[:, 0, [4, 7, 0]])
    assert torch.allclose(found[:, 1, :3], every[:, 1, [1, 2, 3]])
    assert (found[:, :, 3] == -torch.inf).all()
