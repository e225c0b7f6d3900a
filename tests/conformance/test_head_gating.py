"""Gates and masks on heads on every architecture that has heads: texts, two texts, pictures; the others say why not."""

from __future__ import annotations

from typing import Any

import anything
import numpy as np
import pytest

import interp
from interp.doctor import architectures
from interp.errors import UnknownSiteError
from interp.models import Model
from interp.prompts import Pair, Pairs

WITHOUT = ("mamba",)
"""They have no heads."""
ELSEWHERE = ("resnet", "swin", "clip", "siglip", "unet", "dit", "dcgan")
"""They answer nothing, or in no one stack of blocks with heads."""
NAMES = tuple(name for name in architectures.ARCHITECTURES if name not in (*WITHOUT, *ELSEWHERE))


def asked(name: str, seed: int) -> tuple[Model, Pairs]:
    model = anything.model(name)
    return model, Pairs(tuple(Pair(pair.clean, pair.corrupted, 3, 4) for pair in anything.pairs(model, seed)), "any")


@pytest.mark.parametrize("name", NAMES)
def test_gates_and_masks_train_and_are_judged(name: str, seed: int) -> None:
    model, pairs = asked(name, seed)
    settings: dict[str, Any] = {"batch": 2, "progress": False}
    gates = interp.gate_heads(model, pairs, seeds=1, updates=2, **settings)
    assert np.isfinite(gates.nll).all()
    assert (gates.gate.sel(stage="B+") != gates.gate.sel(stage="A")).any()
    ordered = interp.ordered_ablation(model, pairs, gates, most=1, progress=False)
    assert np.isfinite(ordered.logprob).all()
    masks = interp.diffmask(model, pairs, count=1, epochs=1, **settings)
    assert np.isfinite(masks.loss).all()
    assert masks.expected.shape == gates.gate.isel(seed=[0], stage=0).shape


@pytest.mark.parametrize("name", WITHOUT)
def test_a_model_without_heads_says_so(name: str, seed: int) -> None:
    model, pairs = asked(name, seed)
    for method in (interp.gate_heads, interp.diffmask):
        with pytest.raises(
            UnknownSiteError, match=rf"{name} does not have it, because no module of this model plays that role"
        ):
            method(model, pairs)
