"""Divergences of distributions, against torch's own in float64 and against what is known of them."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import kl_div

from interp.models import divergence
from interp.models.divergence import divergences


@pytest.mark.parametrize("at_once", [1 << 22, 200])
def test_both_ways_are_torchs(at_once: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(seed)
    one, other = (4 * torch.randn(9, 97, generator=generator) for _ in range(2))
    p, q = one.double().log_softmax(-1), other.double().log_softmax(-1)
    found = divergences(one, other)
    torch.testing.assert_close(found.forward, kl_div(q, p, log_target=True, reduction="none").sum(-1).float())
    torch.testing.assert_close(found.reverse, kl_div(p, q, log_target=True, reduction="none").sum(-1).float())


def test_small_ones_keep_their_digits(seed: int) -> None:
    """To second order D = ½ Var_p(ε) for logits apart by ε; here about 1e-13, where a plain sum in float32 is noise."""
    generator = torch.Generator().manual_seed(seed)
    logits, noise = (torch.randn(3, 500, generator=generator, dtype=torch.float64) for _ in range(2))
    p = logits.softmax(-1)
    expected = 0.5e-12 * ((p * noise**2).sum(-1) - (p * noise).sum(-1) ** 2)
    torch.testing.assert_close(divergences(logits, logits + 1e-6 * noise).forward, expected, rtol=1e-4, atol=0)
    assert divergences(logits, logits).forward.tolist() == [0, 0, 0]
    shifted = divergences(logits, logits + 12.5).forward
    assert bool((shifted < 1e-20).all()), "a constant is no difference"


def test_tokens_that_are_ruled_out() -> None:
    some = torch.tensor([[0.0, 0.0, -torch.inf]])
    more = torch.zeros(1, 3)
    assert divergences(some, more).forward.tolist() == pytest.approx([torch.tensor(1.5).log().item()])
    assert divergences(some, more).reverse.tolist() == [torch.inf]
    assert divergences(some, some) == (torch.zeros(1), torch.zeros(1))
