"""Every architecture, built tiny: which sites it has, and that each of them is what its name says."""

from __future__ import annotations

from functools import cache

import architectures
import pytest
import torch

from interp.models import Model, load
from interp.models.probe import outcomes
from interp.sites import Site

EVERYWHERE = {"resid_pre", "resid_post"}
ATTENTION = {"q", "k", "v", "scores", "pattern", "z", "result", "attn_out"}
SEQUENTIAL = EVERYWHERE | ATTENTION | {"resid_mid", "mlp_out", "mlp_pre", "mlp_post"}
GATED = SEQUENTIAL | {"mlp_up"}
PARALLEL = SEQUENTIAL - {"resid_mid"}
CROSS = {f"cross_{name}" for name in ("q", "k", "v", "scores", "pattern", "z", "result", "out")} | {"resid_cross"}
MIXED = {"routing", "expert_out"}
EXPERTS = SEQUENTIAL - {"mlp_pre", "mlp_post"} | MIXED
MIXER = EVERYWHERE | {"mixer_out", "mixer_post"}

EXPECTED: dict[str, dict[str, set[str]]] = {
    **{name: {"main": SEQUENTIAL} for name in ("gpt2", "gpt-neo", "opt", "bloom", "bert", "roberta", "vit", "dinov2")},
    **{name: {"main": PARALLEL} for name in ("gpt-j", "gpt-neox", "phi", "falcon", "falcon-new")},
    **{name: {"main": GATED} for name in ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3")},
    **{name: {"main": GATED} for name in ("olmo2", "stablelm", "smollm3", "modernbert")},
    "mixtral": {"main": EXPERTS},
    "qwen3-moe": {"main": GATED | MIXED},
    "deepseek-v3": {"main": GATED | MIXED | {"latent", "k_rotary"}},
    "mamba": {"main": MIXER},
    "t5": {"main": GATED | CROSS, "encoder": GATED},
    "bart": {"main": SEQUENTIAL | CROSS, "encoder": SEQUENTIAL},
    "whisper": {"main": SEQUENTIAL | CROSS, "encoder": SEQUENTIAL},
    "resnet": {"main": EVERYWHERE},
    "swin": {"main": SEQUENTIAL},  # but for the stream, of the one block whose window is the whole image
    "clip": {"text": SEQUENTIAL, "vision": SEQUENTIAL},
    "siglip": {"text": SEQUENTIAL, "vision": SEQUENTIAL},
    "blip": {"main": SEQUENTIAL | CROSS, "text": SEQUENTIAL | CROSS, "vision": SEQUENTIAL},
    "llava": {"main": GATED, "vision": SEQUENTIAL},
    "qwen2-vl": {"main": GATED, "vision": SEQUENTIAL - {"q", "k", "v", "scores", "pattern"}},
}
"""Components that some layer of each stream has, embeddings and logits left out."""


@cache
def model(architecture: str) -> Model:
    return load(architectures.build(architecture), name=architecture)


@pytest.mark.parametrize("architecture", EXPECTED)
def test_its_sites(architecture: str) -> None:
    found: dict[str, set[str]] = {}
    for site in model(architecture).sites():
        if site.component.per_layer:
            found.setdefault(site.stream, set()).add(site.name)
    assert found == EXPECTED[architecture]


@pytest.mark.parametrize("architecture", EXPECTED)
def test_every_law_holds(architecture: str) -> None:
    held = list(outcomes(model(architecture)))
    assert [outcome.what for outcome in held if not outcome.holds] == []
    assert {outcome.law for outcome in held} >= {"shape", "joints"}


@torch.no_grad()
@pytest.mark.parametrize("architecture", EXPECTED)
def test_a_site_that_is_given_its_own_value_changes_nothing(architecture: str) -> None:
    tested = model(architecture)
    logits = Site("logits")
    with tested.prepared(tested.sites()):
        found = tested.backend.run(tested.example, reads=tested.sites(), writes={})
        again = tested.backend.run(tested.example, reads=[logits], writes={})[logits]
        assert torch.equal(again, found[logits]), "a second run is the first"
        for site in tested.sites():
            own = found[site]
            left = tested.backend.run(tested.example, reads=[logits], writes={site: lambda h, own=own: own.clone()})[logits]
            assert float((left - again).abs().max()) <= 1e-5 * (1 + float(again.abs().max())), site
