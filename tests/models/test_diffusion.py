"""Diffusion pipelines: what the cards know of one generation (Basu et al., arXiv 2310.13730), on a tiny Stable Diffusion."""

from __future__ import annotations

from functools import cache
from typing import Any

import anything
import numpy as np
import pytest
import torch
import xarray as xr

from interp.doctor import architectures
from interp.engine import patch
from interp.errors import HeadOutOfRangeError, LoadError, SiteNotFiredError, UnequalLengthsError
from interp.interventions import Activation, Change, Intervention
from interp.metrics import FromLogits
from interp.models import Model, load
from interp.prompts import Prompt
from interp.sites import Site, grid

pytest.importorskip("diffusers")
STEPS = 3
FIRST = FromLogits(lambda logits: logits[..., 0], name="first channel of the last pixel")


@cache
def pipeline() -> Model:
    return load(architectures.stable_diffusion(), steps=STEPS, output="latent", name="tiny")


def sweep(differ: list[str], seed: int, where: object) -> xr.Dataset:
    found = patch(pipeline(), anything.pairs(pipeline(), seed, differ=differ), where, FIRST)  # type: ignore[arg-type]
    assert isinstance(found, xr.Dataset)
    return found


def everywhere(name: str, **coordinates: Any) -> Intervention:
    sites = [site for site in pipeline().sites() if (site.name, site.stream) == (name, "main")]
    return Intervention(tuple(Change(site.at(**coordinates)) for site in sites))


def missed(found: xr.Dataset) -> float:
    """How far from the clean image the nearest example is left, as a share of the way from the corrupted one."""
    return float((abs(found.value - found.clean) / abs(found.clean - found.corrupt)).max())


def test_steps_and_halves_are_counted() -> None:
    assert pipeline().anatomy.repeated == {"text_encoder": (2, 1), "unet": (STEPS, 2)}
    sizes = pipeline().sizes_at(Site("cross_out"))
    assert (sizes["layer"], sizes["call"], sizes["half"]) == (4, STEPS, 2)
    assert pipeline().sizes_at(Site.parse("unet.conv_in:output"))["call"] == STEPS


def test_a_generation_is_repeated_to_the_bit(seed: int) -> None:
    tokens = pipeline().encode([pair.clean for pair in anything.pairs(pipeline(), seed)])
    with torch.no_grad(), pipeline().prepared():
        one, other = (pipeline().backend.run(pipeline().inputs(tokens), [Site("logits")], {})[Site("logits")] for _ in "ab")
    assert torch.equal(one, other)
    assert one.shape == (2, 64, 4), "an image of 8 × 8 latent pixels in 4 channels"


def test_the_prompt_enters_by_cross_attention_alone(seed: int) -> None:
    """Restored at every step; a single step, or a single layer, is not enough."""
    assert missed(sweep(["input_ids"], seed, everywhere("cross_out"))) < 1e-5
    steps = sweep(["input_ids"], seed, [everywhere("cross_out", call=step) for step in range(STEPS)])
    assert float(abs(steps.value - steps.clean).min()) > 1e-4
    layers = sweep(["input_ids"], seed, grid("cross_out", layer=...))
    assert float(abs(layers.value - layers.clean).min()) > 1e-4


def test_the_half_with_the_prompt_is_the_one_that_hears_it(seed: int) -> None:
    """With one negative prompt the other half differs only through the latents that both share."""
    assert missed(sweep(["input_ids"], seed, everywhere("cross_out", half=1))) < 1e-5
    without = sweep(["input_ids"], seed, everywhere("cross_out", half=0))
    assert float((abs(without.value - without.clean) / abs(without.clean - without.corrupt)).min()) > 0.2
    negative = sweep(["negative_input_ids"], seed, everywhere("cross_out", half=0))
    assert missed(negative) < 1e-5


def test_the_text_encoder_is_called_for_the_prompt_and_then_for_its_negative(seed: int) -> None:
    last = Site("resid_post", layer=2, stream="text")
    assert missed(sweep(["input_ids"], seed, grid(last, call=[0]))) < 1e-5
    other = sweep(["input_ids"], seed, grid(last, call=[1]))
    assert float(abs(other.value - other.corrupt).max()) < 1e-5
    assert missed(sweep(["negative_input_ids"], seed, grid(last, call=[1]))) < 1e-5
    of_noise = sweep(["latents"], seed, grid(last))
    assert float(abs(of_noise.value - of_noise.corrupt).max()) < 1e-5


def test_values_of_the_first_step_are_not_those_of_every_step(seed: int) -> None:
    changes = [
        Change(site.at(call=step), source=Activation(site=site.at(layer=None, call=0)))
        for site in pipeline().sites()
        if (site.name, site.stream) == ("cross_out", "main")
        for step in range(STEPS)
    ]
    assert missed(sweep(["input_ids"], seed, Intervention(tuple(changes)))) > 1e-4


def test_rows_together_are_rows_one_by_one(seed: int) -> None:
    pairs = anything.pairs(pipeline(), seed)
    for where in (
        grid("attn_out", layer=[1], call=..., half=...),
        grid(Site.parse("unet.conv_in:output"), call=..., position=[0, 9]),
    ):
        slow, fast = (patch(pipeline(), pairs, where, FIRST, strategy=way).value for way in ("serial", "batched"))
        assert slow.dims[:3] in (("metric", "call", "half"), ("metric", "call", "position"))
        np.testing.assert_allclose(slow.values, fast.values, atol=1e-4)


def test_an_image_is_what_the_decoder_makes_of_the_latents(seed: int) -> None:
    painted = load(architectures.stable_diffusion(), steps=1, guidance=1.0, name="painted")
    assert painted.anatomy.repeated["unet"] == (1, 1), "no half without the prompt"
    tokens = painted.encode([pair.clean for pair in anything.pairs(painted, seed)])
    with torch.no_grad(), painted.prepared():
        image = painted.backend.run(painted.inputs(tokens), [Site("logits")], {})[Site("logits")]
    assert image.shape == (2, 16 * 16, 3)
    assert float(image.min()) >= 0
    assert float(image.max()) <= 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("L0.cross_out#3", "call 3 of L0.cross_out#3 does not exist: one pass of tiny has 3 of them there, 0 to 2"),
        ("text:L0.resid_post#c", "half 1 of text:L0.resid_post#c does not exist: one pass of tiny has 1 of them there, 0 to 0"),
    ],
)
def test_a_step_that_is_never_taken(words: str, says: str) -> None:
    with pytest.raises(HeadOutOfRangeError, match=says):
        pipeline().check(Site.parse(words))


def test_steps_of_a_model_that_takes_none() -> None:
    with pytest.raises(HeadOutOfRangeError, match=r"call=\.\.\.: one forward pass of this model calls resid_pre once"):
        patch(anything.model("vit"), anything.pairs(anything.model("vit"), 0), grid("resid_pre", layer=[0], call=...), FIRST)


def test_a_site_that_is_not_told_which_step_is_refused_where_there_are_several() -> None:
    site = Site("cross_out", layer=0)
    with pytest.raises(SiteNotFiredError, match="fired 3 times in one forward pass, expected 1"), torch.no_grad():
        pipeline().backend.run(pipeline().accepted(pipeline().example), [site], {})


def test_texts_of_unequal_length_need_the_tokenizer_that_fills_them() -> None:
    prompts = [Prompt((5, 6, 7), inputs={"latents": torch.zeros(4, 8, 8), "negative_input_ids": torch.tensor([1, 1, 1])})]
    shorter = Prompt((5, 6), inputs=prompts[0].inputs)
    with pytest.raises(UnequalLengthsError):
        pipeline().encode([*prompts, shorter])


def test_a_pipeline_that_cannot_be_given_its_noise_is_refused() -> None:
    from diffusers import DDPMPipeline, DDPMScheduler

    with pytest.raises(LoadError, match="DDPMPipeline takes no latents; load its denoiser by itself"):
        load(DDPMPipeline(pipeline().module.pipeline.unet, DDPMScheduler()))


@pytest.mark.parametrize(
    "words", ["L3.attn_out#4c", "L3.attn_out#u", "L3H1.z#0", "unet.conv_in:output#2u", "text:L0.mlp_post[3]#1"]
)
def test_words(words: str) -> None:
    assert repr(Site.parse(words)) == words


def test_cross_attention_attends_to_the_prompt(seed: int) -> None:
    """Its rows are as long as the prompt, whose roles it knows; not as long as what the U-Net was first seen with."""
    assert pipeline().anatomy.main.attends == "text"
    found = sweep(["input_ids"], seed, grid("cross_pattern", layer=[3], call=[STEPS - 1], half=[1]))
    assert float(abs(found.value - found.corrupt).max()) > 0


def test_positions_that_the_text_encoder_numbers_itself_are_every_examples() -> None:
    site = Site("pos_embed", stream="text", call=0)
    model = pipeline()
    with torch.no_grad(), model.prepared():
        seen = model.backend.run(model.example, [site], {})[site]
        base = model.backend.run(model.example, [Site("logits")], {})[Site("logits")]
        moved = model.backend.run(model.example, [Site("logits")], {site: lambda h: h + torch.arange(3.0)[:, None, None]})
    assert seen.shape[0] == 3
    apart = (moved[Site("logits")] - base).abs().flatten(1).amax(1)
    assert float(apart[0]) < 1e-5 < float(apart[1:].min()), "the first example was moved by nothing"
