"""Sweeps of every architecture that reads token ids: what is resumed between blocks gives what whole forward passes give."""

from __future__ import annotations

from functools import cache

import architectures
import numpy as np
import pytest
import sweeps

from interp.engine import patch
from interp.models import Model, load
from interp.sites import grid

OF_TEXT = (
    *("gpt2", "gpt-neo", "gpt-j", "gpt-neox", "opt", "bloom", "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3-moe"),
    *("gemma", "gemma2", "gemma3", "phi", "phi3", "olmo2", "falcon", "falcon-new", "stablelm", "smollm3", "deepseek-v3"),
    *("mamba", "bert", "roberta", "modernbert"),
)


@cache
def model(architecture: str) -> Model:
    return load(architectures.build(architecture), name=architecture)


@pytest.mark.parametrize("architecture", OF_TEXT)
def test_the_wave_gives_the_numbers_of_whole_passes(architecture: str, seed: int) -> None:
    """Every component of the last two layers that have it, at two places of two pairs of unequal length."""
    tested = model(architecture)
    assert tested.stack is not None, tested.stack_refused
    pairs = sweeps.random_pairs(seed, [5, 7])
    places = ["subject", "end"]
    for name in dict.fromkeys(site.name for site in tested.sites() if site.name != "logits"):
        layers = [site.layer for site in tested.sites() if site.name == name and site.layer is not None][-2:]
        where = grid(name, layer=layers, position=places) if layers else grid(name, position=places)
        slow, fast = (patch(tested, pairs, where, strategy=strategy)["value"] for strategy in ("serial", "auto"))
        assert float(np.abs(slow - fast).max()) <= 2e-5 * (1 + float(np.abs(slow).max())), name
