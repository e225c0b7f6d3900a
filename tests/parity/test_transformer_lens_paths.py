"""Direct path patching equals TransformerLens' on the same weights.

Expected numbers: ``get_act_patch_direct_path_all_sources`` of ``transformer_lens.patching`` 4.x, on a TransformerBridge of a
copy of the network: a head's clean-minus-corrupted write added to one later head's own input, all else of the corrupted run.
That is path patching with MLPs frozen and one receiver, and exact edge patching, in the denoising direction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bridges import bridge_of, logit_diff
from transformers import PreTrainedModel

from interp.engine import Edge, patch_edges
from interp.methods.localise.path_patching import path_patch
from interp.models import load
from interp.prompts import Pairs
from interp.sites import grid


@pytest.mark.parametrize("component", ["q", "k", "v"])
def test_every_head_into_every_later_head(
    component: Any, family: str, network: PreTrainedModel, pairs: Pairs,
    largest_logit: Callable[..., float], assert_close: Callable[..., None],
) -> None:  # fmt: skip
    """Keys and values of the tiny Llama are shared by heads, which their function does not take."""
    if family == "llama" and component != "q":
        pytest.skip("TransformerLens patches paths into keys and values of models without grouped heads alone")
    from transformer_lens.patching import get_act_patch_direct_path_all_sources

    model, bridge, scale = load(network), bridge_of(network), largest_logit(network, pairs)
    layers, heads = model.sizes["layer"], model.sizes["head"]
    later = [(layer, head) for layer in range(1, layers) for head in range(heads)]
    receivers = {f"L{layer}H{head}": f"L{layer}H{head}.{component}" for layer, head in later}
    found = path_patch(model, pairs, grid("z", head=...), receivers, through_mlps=False, patching="denoising")
    edges = [Edge.of("L0H1.z", receiver) for receiver in receivers.values()]
    swept = patch_edges(model, pairs, edges=edges, patching="denoising")
    for number, pair in enumerate(pairs):
        clean, corrupted = (torch.tensor([list(one.text)]) for one in (pair.clean, pair.corrupted))
        with torch.no_grad():
            caches = [bridge.run_with_cache(tokens)[1] for tokens in (clean, corrupted)]
            expected = get_act_patch_direct_path_all_sources(
                bridge, corrupted, *caches, logit_diff(pair.answers[0], pair.wrong[0]), component, verbose=False
            )
        for (layer, head), name in zip(later, receivers, strict=True):
            ours = found[name]["value"].values[0, :layer, :, number]
            assert_close(torch.tensor(ours), expected[:layer, :, layer, head], scale, name)
        by_edge = torch.stack([expected[0, 1, layer, head] for layer, head in later])
        assert_close(torch.tensor(swept["value"].values[0, :, number]), by_edge, scale)
