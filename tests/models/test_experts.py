"""Mixtures of experts: how tokens are routed, and what each expert adds. Expected numbers are computed from the weights."""

from __future__ import annotations

from typing import Any

import anything
import numpy as np
import pytest
import sweeps
import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from interp.engine import patch
from interp.errors import HeadOutOfRangeError
from interp.interventions import Change, Intervention, Scale
from interp.sites import Site, grid

FAMILIES = ["mixtral", "qwen3-moe", "deepseek-v3"]
LAYER = 2


def experts(architecture: str) -> Any:
    return anything.model(architecture).module.get_submodule(f"model.layers.{LAYER}.mlp.experts")


def by_hand(module: Any, hidden: Tensor, expert: int) -> Tensor:
    """One expert's MLP, from its slices of the fused weights."""
    gate, up = linear(hidden, module.gate_up_proj[expert]).chunk(2, dim=-1)
    return linear(silu(gate) * up, module.down_proj[expert])


def read(architecture: str, *names: str, **writes: Any) -> list[Tensor]:
    tested = anything.model(architecture)
    sites = [Site(name, layer=LAYER) for name in names if ":" not in name]
    paths = [Site.parse(name) for name in names if ":" in name]
    changes = {Site(name, layer=LAYER): write for name, write in writes.items()}
    with torch.no_grad(), tested.prepared():
        found = tested.backend.run(tested.example, [*sites, *paths], changes)
    return [found[site] for site in (*sites, *paths)]


@pytest.mark.parametrize("architecture", FAMILIES)
def test_what_an_expert_adds_is_its_own_mlp_times_its_weight(architecture: str) -> None:
    path = f"model.layers.{LAYER}.mlp.experts"
    out, routing, hidden = read(architecture, "expert_out", "routing", f"{path}:input")
    module = experts(architecture)
    assert out.shape == (*hidden.shape[:2], module.num_experts, hidden.shape[-1])
    assert ((routing != 0).sum(-1) == 2).all(), "two experts a token"
    with torch.no_grad():
        expected = torch.stack([by_hand(module, hidden, e) for e in range(module.num_experts)], dim=2) * routing[..., None]
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_mixtral_routes_by_the_softmax_of_its_two_best_experts() -> None:
    routing, hidden = read("mixtral", "routing", f"model.layers.{LAYER}.mlp.gate:input")
    gate = anything.model("mixtral").module.get_submodule(f"model.layers.{LAYER}.mlp.gate")
    scores = linear(hidden, gate.weight)
    kept = torch.full_like(scores, -torch.inf).scatter(-1, scores.topk(2).indices, scores.topk(2).values)
    torch.testing.assert_close(routing, kept.softmax(-1).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_tokens_can_be_sent_to_any_expert(architecture: str) -> None:
    """Also to one that the router did not choose, and to more of them at once than it ever chooses."""
    path = f"model.layers.{LAYER}.mlp.experts"
    module = experts(architecture)

    def to_all(h: Tensor) -> Tensor:
        return torch.arange(1.0, module.num_experts + 1).expand_as(h)

    mixed, hidden = read(architecture, f"{path}:output", f"{path}:input", routing=to_all)
    with torch.no_grad():
        expected = sum((e + 1) * by_hand(module, hidden, e) for e in range(module.num_experts))
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-4)
    nobody, _ = read(architecture, f"{path}:output", "routing", routing=torch.zeros_like)
    assert not nobody.any()


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_sweep_of_experts(architecture: str, seed: int) -> None:
    """Scaling an expert's weight by 0 is scaling what it adds by 0; rows together are rows one by one."""
    tested, pairs = anything.model(architecture), sweeps.random_pairs(seed, [5, 7])
    ways = [
        [
            Intervention((Change(Site(name, layer=LAYER, expert=e), edit=Scale(0.0)),))
            for e in range(tested.sizes_at(Site(name, layer=LAYER))["expert"])
        ]
        for name in ("routing", "expert_out")
    ]
    one, other = (patch(tested, pairs, where).value.values for where in ways)
    np.testing.assert_allclose(one, other, atol=1e-5)
    swept = [patch(tested, pairs, grid("expert_out", layer=[LAYER], expert=...), strategy=s) for s in ("serial", "auto")]
    assert swept[0].value.dims == ("metric", "layer", "expert", "example")
    assert swept[1].attrs["strategy"] == "wavefront"
    np.testing.assert_allclose(swept[0].value.values, swept[1].value.values, atol=1e-5)


def test_words() -> None:
    assert Site.parse("L2E3") == Site("expert_out", layer=2, expert=3)
    assert repr(Site.parse("L2E3.routing")) == "L2E3.routing"
    assert Site.parse("L2E3.routing").tensor == Site("routing", layer=2)
    tested = anything.model("mixtral")
    with pytest.raises(HeadOutOfRangeError, match=r"expert 4 of L2E4.expert_out does not exist: mixtral has 4 experts there"):
        tested.check(Site.parse("L2E4"))
    with pytest.raises(HeadOutOfRangeError, match="site 'z' has no expert axis"):
        Site("z", layer=0, expert=1)
