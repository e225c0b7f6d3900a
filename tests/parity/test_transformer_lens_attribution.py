"""Attribution patching equals TransformerLens' on the same weights.

Expected numbers: ``attribution_patch`` and ``cache_activation_and_gradient`` of ``transformer_lens.tools.analysis`` 4.3, on a
TransformerBridge of a copy of the network. Node scores are theirs; other sites are their two caches, (clean − corrupted) ×
gradient. They score a pair at a time towards the clean prompt, so noising is theirs with the prompts exchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
from bridges import bridge_of, logit_diff
from transformers import PreTrainedModel

from interp.effects import effect
from interp.engine import attribute
from interp.methods.localise.atp_star import atp_star
from interp.models import load
from interp.prompts import Pairs
from interp.sites import Site, grid

NODES = {"embed": "embed", "attn_head_out": "z", "mlp_out": "mlp_out"}
"""Their kinds of nodes, and what we call them."""
STREAM, HEADS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"), ("z", "q", "k", "v")


@pytest.mark.parametrize("patching", ["denoising", "noising"])
def test_node_scores(
    patching: Any, network: PreTrainedModel, pairs: Pairs,
    largest_logit: Callable[..., float], assert_close: Callable[..., None],
) -> None:  # fmt: skip
    """Embeddings, heads and MLPs at every position, one pair after the other."""
    from transformer_lens.tools.analysis import attribution_patch

    model, bridge, scale = load(network), bridge_of(network), largest_logit(network, pairs)
    encoded = model.encode(pairs)
    where = {
        "embed": grid("embed", position=...),
        "z": grid("z", position=..., head=...),
        "mlp_out": grid("mlp_out", position=...),
    }
    ours = attribute(model, encoded, where, patching=patching)
    towards, away = (encoded.clean, encoded.corrupted) if patching == "denoising" else (encoded.corrupted, encoded.clean)
    for i, pair in enumerate(pairs):
        metric = logit_diff(pair.answers[0], pair.wrong[0])
        theirs = attribution_patch(bridge, towards.ids[i : i + 1], away.ids[i : i + 1], metric).node_scores
        seen = set()
        for node, expected in theirs.items():
            own = effect(ours[NODES[node.kind]].to_dataset()).isel(metric=0, example=i).sel(position=node.position)
            own = own.sel(layer=node.layer) if node.layer is not None else own
            own = own.sel(head=node.head) if node.head is not None else own
            assert_close(float(own), expected, scale, what=node)
            seen.add(node.kind)
        assert seen == set(NODES)
        assert max(map(abs, theirs.values())) > 0.05


def test_every_site(
    network: PreTrainedModel, pairs: Pairs, largest_logit: Callable[..., float], assert_close: Callable[..., None]
) -> None:
    """The stream, what is added to it, and queries, keys and values of every head, k and v by their own heads."""
    from transformer_lens.tools.analysis.attribution_patching import cache_activation_and_gradient

    model, bridge, scale = load(network), bridge_of(network), largest_logit(network, pairs)
    encoded = model.encode(pairs)
    where = {name: grid(name, position=..., **({"head": ...} if name in HEADS else {})) for name in (*STREAM, *HEADS)}
    ours = attribute(model, encoded, where)
    same = atp_star(model, encoded, {name: where[name] for name in HEADS}, method="atp")
    hooks = [Site(name, layer=layer).lens for name in where for layer in range(tiny.LAYERS)]
    for i, pair in enumerate(pairs):
        metric = logit_diff(pair.answers[0], pair.wrong[0])
        clean, corrupted = (
            cache_activation_and_gradient(bridge, side.ids[i : i + 1], metric, hooks)
            for side in (encoded.clean, encoded.corrupted)
        )
        for name in where:
            for layer in range(tiny.LAYERS):
                hook = Site(name, layer=layer).lens
                gradient = corrupted.gradients[hook]
                assert gradient is not None, hook
                if name == "resid_mid":  # their hook is on the way into the norm: what goes past the MLP is added here
                    gradient = gradient + corrupted.gradients[Site("resid_post", layer=layer).lens]
                expected = ((clean.activations[hook] - corrupted.activations[hook]) * gradient)[0].sum(-1)
                own = effect(ours[name].to_dataset()).isel(metric=0, example=i).sel(layer=layer)
                own = own.transpose("position", *(["head"] if name in HEADS else []))
                assert_close(own.values, expected.detach(), scale, what=hook)
    for name in HEADS:
        assert (same[name]["value"] == ours[name]["value"]).all()
