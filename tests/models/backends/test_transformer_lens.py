"""A TransformerBridge under interp equals torch hooks on the same weights: what is read, written, swept and refused.

Expected numbers: the default backend on a copy of the network that no bridge has touched.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import backend_checks as checks
import pytest
import torch

from interp import hook_names
from interp.engine import patch
from interp.errors import LoadError, ShapeMismatchError, SiteNotFiredError, UnknownNameError, UnknownSiteError
from interp.models import Model, load
from interp.models.backends.transformer_lens import _wordless, boot
from interp.sites import COMPONENTS, Site, grid

LACKING: dict[str, set[str]] = {family: set() for family in checks.FAMILIES} | {
    "t5": {"embed", "scores", "pattern", "cross_scores", "cross_pattern", "ln1_scale", "ln2_scale", "ln_final_scale"},
    "deepseek-v3": {"q", "k", "v", "z", "latent", "k_rotary", "routing", "expert_out"},
    "mamba": {"mixer_post", "ln1_scale"},
    "gpt-j": {"scores", "pattern"},
    "bert": {"scores", "pattern", "z", "attn_out", "mlp_out", "resid_mid"},  # norms behind the parts
    "mixtral": {"routing", "expert_out"},  # and it has no more: its hook_pre and hook_post are the whole mixture's
}
"""Components that torch hooks reach and the bridge does not."""


@pytest.fixture(params=checks.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def models(family: str, seed: int) -> tuple[Model, Model]:
    return checks.both(family, seed, "transformer_lens")


@pytest.fixture
def bridge(seed: int) -> Any:
    made = boot(checks.network("gpt2", seed), None, copied=False)
    made(checks.IDS)  # the bridge adds hooks of its own in its first pass
    return made


def hooks_of(bridge: Any) -> int:
    """How many hooks there are, on hook points and elsewhere."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in bridge.modules())


@pytest.mark.parametrize("architecture", LACKING)
def test_sites(architecture: str, seed: int) -> None:
    """What both have holds the same numbers; what the bridge lacks is said, with the reason."""
    reference, tested = checks.both(architecture, seed, "transformer_lens")
    names = [{site.name for site in model.sites()} for model in (reference, tested)]
    assert (names[0] - names[1], names[1] - names[0]) == (LACKING[architecture], set())
    for name in LACKING[architecture]:
        with pytest.raises(UnknownSiteError, match="does not have it, because"):
            tested.check(Site(name, layer=0 if COMPONENTS[name].per_layer else None))
    worst = checks.reads(reference, tested)
    print(worst)
    assert max(worst.values()) <= 1


def test_every_name_of_the_table_is_a_hook_of_some_bridge(seed: int) -> None:
    """The table of names against TransformerLens itself; mixers' outputs are named in state-space models alone."""
    found: set[str] = set()
    for architecture in ("gpt2", "llama", "gemma2", "mamba", "t5"):
        points = boot(checks.network(architecture, seed), None, copied=False).hook_dict
        for stack in ("blocks", "decoder_blocks", "encoder_blocks"):
            for name in {*hook_names.NAMES, *hook_names.CROSSED}:
                if any(spelling.format(layer=0) in points for spelling in hook_names.spellings(name, stack=stack)):
                    found.add(name)
    assert found == {*hook_names.NAMES, *hook_names.CROSSED}


def test_writes(models: tuple[Model, Model], seed: int) -> None:
    worst = checks.writes(*models, seed)
    print(worst)
    assert max(worst.values()) <= 1


def test_own_values_change_nothing(models: tuple[Model, Model]) -> None:
    assert checks.own_values(models[1]) <= 1


def test_sweeps(models: tuple[Model, Model], seed: int) -> None:
    worst = checks.sweeps(*models, seed)
    print(worst)
    assert len(worst) >= 6
    assert max(worst.values()) <= 1


def test_gradients(models: tuple[Model, Model], seed: int) -> None:
    assert checks.gradients(*models, seed) <= 1


def test_the_wave_is_refused_with_the_reason(models: tuple[Model, Model], seed: int) -> None:
    tested = models[1]
    assert (tested.stack, tested.stack_refused) == (None, "its backend TransformerLens runs whole forward passes only")
    effect = patch(tested, checks.pairs(seed), grid("resid_post", layer=...))
    assert effect.attrs["strategy"] != "wavefront"


def test_a_live_module_is_copied(seed: int) -> None:
    network = checks.network("llama", seed)
    before = [type(module) for module in network.modules()]
    tested = load(network, backend="transformer_lens")
    assert [type(module) for module in network.modules()] == before
    assert tested.module.original_model is not network


def test_by_name(seed: int, tmp_path: Path) -> None:
    """A checkpoint is loaded as for torch hooks, with its own tokenizer, and then bridged; it is the same weights."""
    network: Any = checks.network("llama", seed)
    network.save_pretrained(tmp_path)
    _wordless(network.config).save_pretrained(tmp_path)
    reference, tested = load(tmp_path), load(tmp_path, backend="transformer_lens")
    assert (tested.digest, tested.name) == (reference.digest, reference.name)
    assert tested.tokenizer.get_vocab() == reference.tokenizer.get_vocab()
    assert max(checks.reads(reference, tested).values()) <= 1


def test_a_live_bridge_is_run_as_it_is(bridge: Any) -> None:
    """The hooks that its user added stay, are run, and see what they saw; ours are gone."""
    seen: list[float] = []
    point = bridge.hook_dict["blocks.0.hook_resid_post"]
    point.add_perma_hook(lambda tensor, hook: seen.append(float(tensor.sum())))
    point.add_hook(lambda tensor, hook: 2 * tensor)
    before = hooks_of(bridge)
    model = load(bridge)
    assert (model.module, model.tokenizer) == (bridge, bridge.tokenizer)
    seen.clear()
    found = checks.run(model, [site := Site("resid_post", layer=0)])[site]
    assert len(seen) == 1
    torch.testing.assert_close(float(found.sum()), 2 * seen[0])  # theirs were added first
    assert hooks_of(bridge) == before
    bridge.reset_hooks()
    assert hooks_of(bridge) == before - 1  # the permanent one is theirs to keep


def test_hooks_are_gone_after_an_exception(bridge: Any) -> None:
    model, before = load(bridge), hooks_of(bridge)
    base = checks.run(model, [checks.LOGITS])[checks.LOGITS]
    with pytest.raises(ZeroDivisionError):
        checks.run(model, [Site("z", layer=0)], {Site("result", layer=1): lambda h: 1 / 0})
    with pytest.raises(ShapeMismatchError, match=r"L0.resid_post returned .* for a tensor of shape"):
        checks.wrong_shape(model)
    assert hooks_of(bridge) == before
    assert torch.equal(checks.run(model, [checks.LOGITS])[checks.LOGITS], base)


def test_a_site_that_does_not_fire_raises(bridge: Any) -> None:
    """W_O is no longer called once the user lets the bridge compute every head's result."""
    model = load(bridge)
    bridge.set_use_attn_result(True)
    with pytest.raises(SiteNotFiredError, match=r"L1.result .* fired 0 times in one forward pass, expected 1"):
        checks.run(model, [Site("result", layer=1)])
    again = load(bridge)  # finds the bridge's own results
    assert again.taps(Site("result", layer=1)).path == "blocks.1.attn.hook_result"


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom"], indirect=True)
def test_compatibility_mode(family: str, seed: int) -> None:
    """Rewritten weights hold to the same laws, and what a patch does is what it does in the network as it was."""
    network = checks.network(family, seed)
    bridge = boot(network, None, copied=True)
    bridge.enable_compatibility_mode()
    reference, tested = load(network), load(bridge)
    assert set(tested.sites()) == set(reference.sites())
    worst = checks.sweeps(reference, tested, seed)
    print(worst)
    assert max(worst.values()) <= 1


def test_paths_of_the_bridge_are_modules(bridge: Any) -> None:
    """A module of the bridge by its path, beside the hook point's name for what comes out of it."""
    model = load(bridge)
    named, by_path = Site.parse("blocks.1.hook_mlp_out"), Site.parse("blocks.1.mlp:output")
    found = checks.run(model, [named, by_path])
    assert torch.equal(found[named], found[by_path])
    with pytest.raises(UnknownSiteError, match="module path"):
        model.check(Site("output", path="blocks.1.nothing"))


def test_left_padding(seed: int) -> None:
    """Prompts of different lengths, as for torch hooks."""
    reference, tested = checks.both("gpt2", seed, "transformer_lens")
    tokens = reference.encode([(1, 2, 3), (4, 5, 6, 7, 8)])
    sites = [checks.LOGITS, Site("pos_embed"), Site("z", layer=1)]
    with torch.no_grad():
        ours, theirs = (model.backend.run(model.inputs(tokens), sites, {}) for model in (reference, tested))
    real = tokens.inputs()["attention_mask"].bool()
    for site in sites:
        assert checks.fraction(theirs[site][real], ours[site][real]) <= 1, site


def test_what_is_refused(seed: int) -> None:
    network = checks.network("gpt2", seed)
    with pytest.raises(UnknownNameError, match="unknown backend 'transformerlens'; did you mean 'transformer_lens'"):
        load(network, backend="transformerlens")
    with pytest.raises(LoadError, match="remote=True runs through nnsight"):
        load("gpt2", backend="transformer_lens", remote=True)
    with pytest.raises(LoadError, match="a live module was given"):
        load(network, backend="nnsight", remote=True)
    with pytest.raises(LoadError, match="runs on the service's own devices, so device='cpu' cannot apply"):
        load("zoo/induction-2l", backend="nnsight", remote=True, device="cpu")
    with pytest.raises(LoadError, match="a TransformerBridge runs through TransformerLens"):
        load(boot(copy.deepcopy(network), None, copied=False), backend="torch")
    with pytest.raises(LoadError, match="TransformerLens cannot bridge ResNetForImageClassification"):
        load(checks.network("resnet", seed), backend="transformer_lens")
    with pytest.raises(LoadError, match="takes a model of transformers; Sequential has no config"):
        load(checks.network("dcgan", seed), backend="transformer_lens")
