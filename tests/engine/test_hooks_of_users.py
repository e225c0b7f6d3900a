"""Hooks that a user registered act once on every row, also where rows are resumed in the middle of the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch

from interp.engine import patch, patch_edges
from interp.errors import EdgesError
from interp.interventions import Gate, Intervention
from interp.models import load
from interp.sites import grid
from interp.training import fit


def scaled(module: Any, args: Any, output: Any) -> Any:
    return (output[0] * 0.8 + 0.1, *output[1:]) if isinstance(output, tuple) else output * 0.8 + 0.1


@pytest.mark.parametrize(
    "path", ["model.layers.1", "model.layers.2", "model.layers.1.self_attn", "model.layers.1.mlp", "model.norm"]
)
@pytest.mark.parametrize("site", ["resid_pre", "z", "attn_out", "mlp_out", "mlp_post", "q"])
def test_a_hook_that_changes_what_a_module_gives(path: str, site: str, seed: int) -> None:
    module = tiny.llama(0)
    model, pairs = load(module), sweeps.random_pairs(seed, [6, 5])
    before = patch(model, pairs, grid(site, layer=...), strategy="serial")
    module.get_submodule(path).register_forward_hook(scaled)
    serial, found = (patch(model, pairs, grid(site, layer=...), strategy=s) for s in ("serial", "auto"))
    assert float(abs(serial["value"] - before["value"]).max()) > 1e-3, "the hook acts"
    np.testing.assert_allclose(found["value"], serial["value"], atol=2e-5)


def test_a_hook_that_changes_what_a_block_takes(seed: int) -> None:
    module = tiny.llama(0)
    model, pairs = load(module), sweeps.random_pairs(seed, [6, 5])
    module.model.layers[1].register_forward_pre_hook(lambda m, args: (args[0] * 0.8, *args[1:]))
    serial, found = (patch(model, pairs, grid("z", layer=...), strategy=s) for s in ("serial", "auto"))
    np.testing.assert_allclose(found["value"], serial["value"], atol=2e-5)
    assert found.attrs["strategy"] == "batched"
    assert "a hook of yours on model.layers.1" in next(iter(found.attrs["fallback"]))
    with pytest.raises(EdgesError, match="a hook of yours"):
        patch_edges(model, pairs)
    gated = Intervention.of("L2.z", edit=Gate((model.sizes["head"], 1)))
    first = -float(patch(model, pairs, gated, "logprob", strategy="serial")["value"].mean())
    assert float(fit(model, pairs, gated, "logprob").loss[0, 0]) == pytest.approx(first, abs=1e-5)


def test_hooks_that_transformers_left_refuse_nothing(seed: int) -> None:
    module = tiny.llama(0)
    model, pairs = load(module), sweeps.random_pairs(seed, [6, 5])
    before = patch(model, pairs, grid("resid_pre", layer=...))
    module(torch.tensor([[1, 2, 3]]), output_hidden_states=True)
    assert any(inner._forward_hooks for inner in module.modules()), "it leaves hooks that collect hidden states"
    after = patch(model, pairs, grid("resid_pre", layer=...))
    assert before.attrs["strategy"] == after.attrs["strategy"] == "wavefront"
    np.testing.assert_array_equal(after["value"], before["value"])
