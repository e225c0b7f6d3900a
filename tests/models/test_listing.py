"""Sites as they are printed."""

from __future__ import annotations

from interp.doctor.architectures import loaded
from interp.models.listing import Listed, Sites, described
from interp.sites import Site


def test_layers_that_are_alike_are_one_line_and_others_their_own() -> None:
    """DeepSeek's first MLP is dense; the experts of the others have no common units."""
    sites = loaded("deepseek-v3").sites()
    lines = repr(sites).splitlines()
    assert lines[0] == "embed                 example, position, d_model 32"
    assert "z               L0–2  example, position, head 4, d_head 8" in lines
    assert "mlp_post        L0    example, position, unit 56" in lines
    assert "expert_out      L1–2  example, position, expert 4, d_model 32" in lines
    assert sum(max(1, len(one.layers)) for one in sites.listed) == len(sites)


def test_sizes_that_differ_between_layers_are_told_apart() -> None:
    """Swin's stages grow wider."""
    listed = [one for one in loaded("swin").sites().listed if one.name == "resid_post"]
    assert [(one.layers, one.sizes["d_model"]) for one in listed] == [((0, 1), 12), ((2,), 24)]


def test_streams_have_their_names_above_them_and_roles_their_usual_order() -> None:
    lines = repr(loaded("t5").sites()).splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["main", "encoder"]
    swin = [line.split()[0] for line in repr(loaded("swin").sites()).splitlines()]
    assert swin.index("resid_mid") < swin.index("resid_post") < swin.index("z") < swin.index("mlp_pre")


def test_gaps_between_layers_are_shown() -> None:
    assert described([Listed("main", "z", (0, 1, 2, 5), {"position": None, "head": 3})]) == "z  L0–2, L5  position, head 3"


def test_a_site_in_every_layer_that_has_it() -> None:
    """One that names its layer, or that no layer has, is itself; a head stays the one that was named."""
    model = loaded("deepseek-v3")
    assert model.each(Site("z", head=1)) == tuple(Site("z", layer=layer, head=1) for layer in range(3))
    assert model.each(Site("expert_out")) == (Site("expert_out", layer=1), Site("expert_out", layer=2))
    for word in ("L2.z", "embed", "model.norm:output"):
        assert model.each(Site.parse(word)) == (Site.parse(word),)
    assert {site.stream for site in loaded("t5").each(Site("z", stream="encoder"))} == {"encoder"}


def test_they_are_a_tuple_of_sites() -> None:
    sites = loaded("gpt2").sites()
    assert isinstance(sites, Sites)
    assert sites == tuple(sites)
    assert Site.parse("L2.z") in sites
    assert repr(sites[:2]) == "(embed, pos_embed)"


def test_a_model_without_blocks_says_how_its_modules_are_named() -> None:
    assert repr(loaded("dcgan").sites()) == (
        "logits    example, position, vocab\nand any module by its path: 'PATH:output', 'PATH:input'"
    )


def test_what_a_model_of_two_streams_says_belongs_to_none() -> None:
    assert loaded("clip").sizes_at(Site("logits")) == {"layer": 1}
