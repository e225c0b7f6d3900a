"""Attention with a sink, as in gpt-oss: a learned score of every head that takes its share of each row and has no values.

The reference is written down here from the formula (OpenAI 2025, gpt-oss model card): scores q·k/√d + mask; pattern
softmax([scores, sink]) without its last column.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.gpt_oss import modeling_gpt_oss

from interp.doctor.architectures import loaded
from interp.engine import gauge, patch
from interp.errors import UserError
from interp.interventions import Constant, Intervention, attention_knockout
from interp.models import Model
from interp.models.layouts import BesideSink
from interp.prompts import Pair
from interp.sites import Site, grid

PAIR = [Pair((1, 2, 3, 4, 5, 6), (7, 8, 9, 10, 11, 12), 5, 6)]
SCORES, PATTERN, Z, V = (Site(name, layer=1) for name in ("scores", "pattern", "z", "v"))


@cache
def model() -> Model:
    return loaded("gpt-oss")


def read(sites: list[Site], writes: Any = None) -> dict[Site, Tensor]:
    tested = model()
    with torch.no_grad(), tested.prepared([*sites, *(writes or {})]):
        return tested.backend.run(tested.example, reads=sites, writes=writes or {})


@pytest.fixture
def formula(monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[Tensor, Tensor]]:
    """Scores and pattern of every layer by the formula, while the model runs."""
    model()  # which is loaded as it is
    found: dict[int, tuple[Tensor, Tensor]] = {}
    own = modeling_gpt_oss.eager_attention_forward

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **rest: Any) -> Any:
        scores = query @ key.repeat_interleave(query.shape[1] // key.shape[1], dim=1).transpose(2, 3) * scaling
        scores = scores if mask is None else scores + mask
        sinks = module.sinks[None, :, None, None].expand(len(scores), -1, scores.shape[2], 1)
        found[module.layer_idx] = scores, (scores - torch.cat([scores, sinks], dim=-1).logsumexp(-1, keepdim=True)).exp()
        return own(module, query, key, value, mask, scaling, **rest)

    monkeypatch.setattr(modeling_gpt_oss, "eager_attention_forward", attend)
    return found


def test_scores_and_pattern_are_those_of_the_positions(formula: dict[int, tuple[Tensor, Tensor]]) -> None:
    seen = read([SCORES, PATTERN])
    scores, pattern = formula[1]
    kept = pattern > 0  # masked scores are any large negative number
    torch.testing.assert_close(seen[SCORES][kept], scores[kept], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen[PATTERN], pattern, atol=1e-6, rtol=1e-5)
    assert float(seen[PATTERN].sum(-1).max()) < 0.999, "the sinks of this model take a share"


def test_another_runs_scores_give_its_pattern() -> None:
    """The largest score of a row, which the implementation takes from all of them, is not part of what is written."""
    before = read([SCORES, PATTERN])
    other = before[SCORES].roll(1, 0)
    after = read([PATTERN], {SCORES: lambda h: other})
    torch.testing.assert_close(after[PATTERN], before[PATTERN].roll(1, 0), atol=1e-6, rtol=1e-5)
    assert float((before[PATTERN] - before[PATTERN].roll(1, 0)).abs().max()) > 1e-2


def test_the_share_of_a_pattern_that_is_written_is_not_the_sinks() -> None:
    before = read([PATTERN, V, Z])
    after = read([Z], {PATTERN: lambda h: 0.5 * h})
    torch.testing.assert_close(after[Z], 0.5 * before[Z], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["scores", "pattern"])
def test_rows_are_swept_as_one_by_one(name: str) -> None:
    where = grid(name, layer=..., head=..., position=[-1, 3])
    fast, slow = (patch(model(), PAIR, where, strategy=way) for way in ("auto", "serial"))
    assert float(abs(fast["value"] - slow["value"]).max()) <= 1e-5 * (1 + float(abs(slow["value"]).max()))
    assert float(abs(slow["value"] - slow["corrupt"]).max()) > 1e-4


def test_a_row_that_is_cut_to_nothing_but_its_sink_is_refused() -> None:
    """What is left of it would be the sink's, which adds nothing."""
    every = attention_knockout(-1, [0, 1, 2, 3, 4, 5], layers=[1], renormalise=True)
    with pytest.raises(UserError):
        patch(model(), PAIR, every, patching="noising")


def test_value_biases_have_one_place() -> None:
    """b_V is not added alike at every position, so it cannot be moved into b_O, and zero of z is one point."""
    zero = Intervention.of("L1H0.z", source=Constant(0.0))
    assert model().module.get_submodule("model.layers.1.self_attn.v_proj").bias.any()
    assert gauge.flag(model(), [zero]) == ""
    assert gauge.flag(loaded("gpt2"), [zero])


def test_the_layout_puts_back_what_it_reads(seed: int) -> None:
    seen = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(BesideSink().put(seen, BesideSink().read(seen, None), None), seen)
