"""Sweeps equal nnsight's traces on the same weights. Expected numbers: nnsight 0.8, one trace a patch, in its own process."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from transformers import PreTrainedModel

from interp.engine import patch
from interp.models import load
from interp.prompts import Pairs
from interp.sites import grid


@pytest.mark.parametrize("site", ["resid_pre", "resid_post"])
def test_residual_stream(
    site: str, network: PreTrainedModel, pairs: Pairs, job: dict[str, Any], peer: Callable[[str], Any],
    largest_logit: Callable[..., float], assert_close: Callable[..., None],
) -> None:  # fmt: skip
    places = itertools.product(range(tiny.LAYERS), range(len(job["base"][0])))
    job["cells"] = [{"site": site, "layer": layer, "position": position} for layer, position in places]
    ours = patch(load(network), pairs, grid(site, layer=..., position=...)).value.isel(metric=0)
    expected = peer("nnsight_traces")(job).reshape(ours.shape)
    assert_close(ours.values, expected, largest_logit(network, pairs))
    assert float((expected[0] - expected[0, 0]).abs().max()) > 0.1  # position 0 is shared: its patch does nothing, others do


def test_heads(
    network: PreTrainedModel, pairs: Pairs, job: dict[str, Any], peer: Callable[[str], Any],
    largest_logit: Callable[..., float], assert_close: Callable[..., None],
) -> None:  # fmt: skip
    places = itertools.product(range(tiny.LAYERS), range(tiny.HEADS))
    job["cells"] = [{"site": "z", "layer": layer, "head": head} for layer, head in places]
    ours = patch(load(network), pairs, grid("z", layer=..., head=...))
    expected = peer("nnsight_traces")(job).reshape(tiny.LAYERS, tiny.HEADS, len(pairs))
    assert_close(ours.value.isel(metric=0).values, expected, largest_logit(network, pairs))
    assert float((expected - torch.tensor(ours.corrupt.values)).abs().amax(-1).min()) > 1e-3  # every head shows
