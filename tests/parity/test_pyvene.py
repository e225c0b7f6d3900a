"""Sweeps equal pyvene's interchange interventions on the same weights. Expected numbers: pyvene 0.1.8, in its own process."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from transformers import PreTrainedModel

from interp.engine import patch
from interp.interventions import Subspace
from interp.models import load
from interp.prompts import Pairs
from interp.sites import grid

POSITIONS = (0, 3, 5)
"""The first is a shared token, where nothing can change; the last is where the answer is read."""


@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "attn_out", "mlp_out"])
def test_vanilla_intervention(
    site: str, network: PreTrainedModel, pairs: Pairs, job: dict[str, Any], peer: Callable[[str], Any],
    largest_logit: Callable[..., float], assert_close: Callable[..., None],
) -> None:  # fmt: skip
    places = itertools.product(range(tiny.LAYERS), POSITIONS)
    job["cells"] = [{"site": site, "layer": layer, "position": position} for layer, position in places]
    ours = patch(load(network), pairs, grid(site, layer=..., position=POSITIONS)).value.isel(metric=0)
    expected = peer("pyvene_interchanges")(job).reshape(ours.shape)
    assert_close(ours.values, expected, largest_logit(network, pairs))
    assert float((expected[:, -1] - expected[:, 0]).abs().amax(-1).min()) > 1e-2  # a patch at the last token shows


@pytest.mark.parametrize("site", ["z", "q", "k", "v"])
def test_vanilla_intervention_on_heads(
    site: str, family: str, network: PreTrainedModel, pairs: Pairs, job: dict[str, Any], peer: Callable[[str], Any],
    largest_logit: Callable[..., float], assert_close: Callable[..., None],
) -> None:  # fmt: skip
    """Heads of k and v are key/value heads, half as many as query heads in this Llama."""
    heads = tiny.KV_HEADS if family == "llama" and site in ("k", "v") else tiny.HEADS
    places = itertools.product(range(tiny.LAYERS), range(heads), POSITIONS)
    job["cells"] = [{"site": site, "layer": layer, "head": head, "position": position} for layer, head, position in places]
    ours = patch(load(network), pairs, grid(site, layer=..., head=..., position=POSITIONS)).value.isel(metric=0)
    expected = peer("pyvene_interchanges")(job).reshape(ours.shape)
    assert_close(ours.values, expected, largest_logit(network, pairs))
    assert float((expected[:, :, -1] - expected[:, :, 0]).abs().amax(-1).max()) > 1e-2


@pytest.mark.parametrize("rank", [tiny.WIDTH, 5, 1])
def test_rotated_space_intervention(
    rank: int, seed: int, network: PreTrainedModel, pairs: Pairs, job: dict[str, Any], peer: Callable[[str], Any],
    largest_logit: Callable[..., float], assert_close: Callable[..., None],
) -> None:  # fmt: skip
    """A fixed random orthonormal basis, square for their RotatedSpaceIntervention, narrow for the low-rank one."""
    draw = torch.Generator().manual_seed(seed + 2)
    basis = torch.linalg.qr(torch.randn(tiny.WIDTH, rank, generator=draw)).Q
    places = itertools.product(range(tiny.LAYERS), POSITIONS)
    job["cells"] = [{"site": "resid_post", "layer": layer, "position": position} for layer, position in places]
    job["basis"] = basis.tolist()
    where = grid("resid_post", layer=..., position=POSITIONS)
    ours = patch(load(network), pairs, where, featurizer=Subspace(basis)).value.isel(metric=0)
    expected = peer("pyvene_interchanges")(job).reshape(ours.shape)
    assert_close(ours.values, expected, largest_logit(network, pairs))
    assert float((expected[:, -1] - expected[:, 0]).abs().max()) > 1e-2
