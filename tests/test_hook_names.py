"""TransformerLens' names and ours, both ways. Which hooks a real bridge has is asked in tests/models/backends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp import hook_names
from interp.errors import UnknownSiteError
from interp.sites import COMPONENTS, Site, grid, hook_name

LAYERS = st.integers(0, 200)


@given(st.sampled_from(list(COMPONENTS)), LAYERS, st.sampled_from(["main", "encoder"]), st.booleans())
def test_every_component_there_and_back(name: str, layer: int, stream: str, crossed: bool) -> None:
    site = Site(name, layer=layer if COMPONENTS[name].per_layer else None, stream=stream)
    outside = stream == "encoder" and (name.startswith(("cross_", "resid_cross")) or not COMPONENTS[name].per_layer)
    if name in hook_names.NAMELESS or outside:
        with pytest.raises(UnknownSiteError, match="unknown hook of TransformerLens for"):
            hook_name(site, crossed=crossed)
    else:
        assert Site.parse(hook_name(site, crossed=crossed)) == site


@given(st.sampled_from(list(hook_names.NAMES)), LAYERS)
def test_names_are_those_that_the_vocabulary_lists(name: str, layer: int) -> None:
    site = Site(name, layer=layer if COMPONENTS[name].per_layer else None)
    assert hook_name(site) == site.lens


@given(st.sampled_from(list(hook_names.ALSO)), LAYERS)
def test_the_bridges_own_names(name: str, layer: int) -> None:
    site = Site.parse(name.format(layer=layer))
    assert site.name == hook_names.ALSO[name]
    assert site.layer == (layer if "{layer}" in name else None)


@pytest.mark.parametrize(
    ("hook", "site"),
    [
        ("blocks.3.attn.hook_z", "L3.z"),
        ("blocks.0.hook_resid_pre", "L0.resid_pre"),
        ("hook_embed", "embed"),
        ("hook_pos_embed", "pos_embed"),
        ("blocks.11.mlp.hook_pre_linear", "L11.mlp_up"),
        ("unembed.hook_out", "logits"),
        ("encoder_blocks.2.attn.hook_pattern", "encoder:L2.pattern"),
        ("decoder_blocks.2.self_attn.hook_q", "L2.q"),
        ("decoder_blocks.2.hook_resid_mid", "L2.resid_cross"),  # the stream before cross-attention
        ("decoder_blocks.2.hook_resid_mid2", "L2.resid_mid"),  # the stream before the MLP
        ("decoder_blocks.2.cross_attn.hook_attn_scores", "L2.cross_scores"),
        ("blocks.3.mlp:output", "blocks.3.mlp:output"),  # a module by its path stays one
    ],
)
def test_hook_names_are_sites(hook: str, site: str) -> None:
    assert repr(Site.parse(hook)) == site


def test_grids_take_hook_names() -> None:
    assert repr(grid("blocks.3.attn.hook_z", head=...)) == repr(grid("L3.z", head=...))


def test_what_has_no_name_says_why() -> None:
    with pytest.raises(UnknownSiteError, match="hook_kv_latent is what follows the latent's norm"):
        hook_name("L2.latent")
    with pytest.raises(UnknownSiteError, match="not those of the stream 'vision'"):
        hook_name("vision:L0.z")
    with pytest.raises(UnknownSiteError, match="it is a module by its path"):
        hook_name("a.b:output")
    with pytest.raises(UnknownSiteError, match=r"did you mean 'blocks\.\{layer\}\.attn\.hook_z'"):
        Site.parse("blocks.3.attn.hook_zz")


def test_the_head_is_not_in_the_name() -> None:
    assert hook_name("L3H2.z") == hook_name("L3.z") == "blocks.3.attn.hook_z"
