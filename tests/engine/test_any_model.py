"""Sweeps of models that read more than one text, or none: every stream's sites, and what is known of them beforehand."""

from __future__ import annotations

from collections.abc import Sequence

import anything
import numpy as np
import pytest
import torch
import xarray as xr

from interp.doctor import architectures
from interp.engine import attribute, patch
from interp.errors import PositionError, UnequalLengthsError
from interp.interventions import Activation, Change, Interpolate, Intervention, Rotation
from interp.metrics import FromLogits, Reads
from interp.models import Model, load
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import ALL, Positions, Site, grid
from interp.training import fit

FIRST = FromLogits(lambda logits: logits[..., 0], name="first")
"""Any model has a first output."""


def all_of(tested: Model, name: str, stream: str = "main", positions: object = ...) -> Intervention:
    """One intervention at every layer that has a component."""
    sites = [site for site in tested.sites() if (site.name, site.stream) == (name, stream)]
    assert sites
    return Intervention(tuple(Change(site, Positions.parse(positions)) for site in sites))  # type: ignore[arg-type]


def run(tested: Model, pairs: Pairs, where: object, metric: object = FIRST) -> xr.Dataset:
    found = patch(tested, pairs, where, metric)  # type: ignore[arg-type]
    assert isinstance(found, xr.Dataset)
    gap = found.clean - found.corrupt
    assert float(abs(gap).min()) > 1e-3, "a pair that does not differ shows nothing"
    return found


def assert_clean(found: xr.Dataset) -> None:
    """Every cell is the clean run."""
    scale = 1 + float(abs(found.clean).max())
    assert float(abs(found.value - found.clean).max()) <= 1e-5 * scale


def assert_corrupted(found: xr.Dataset, why: str = "") -> None:
    """No cell has an effect."""
    scale = 1 + float(abs(found.corrupt).max())
    assert float(abs(found.value - found.corrupt).max()) <= 1e-5 * scale, why


def assert_partial(found: xr.Dataset) -> None:
    """No cell is the clean run, nor the corrupted one."""
    assert float(abs(found.value - found.clean).min()) > 1e-4
    assert float(abs(found.value - found.corrupt).min()) > 1e-5


@pytest.mark.parametrize("architecture", [*anything.OTHERS, *anything.DIFFUSERS])
def test_rows_together_give_the_numbers_of_one_by_one(architecture: str, seed: int) -> None:
    """Every component of every stream, at the last layer that has it."""
    if architecture in anything.DIFFUSERS:
        pytest.importorskip("diffusers")
    tested = anything.model(architecture)
    encoded = tested.encode(anything.pairs(tested, seed))
    last = {(site.name, site.stream): site for site in tested.sites() if site.component.per_layer}
    for site in last.values():
        where = grid(site, position=[0, -1]) if "position" in site.axes else grid(site)
        slow, fast = (patch(tested, encoded, where, FIRST, strategy=way)["value"] for way in ("serial", "batched"))
        assert float(np.abs(slow - fast).max()) <= 2e-5 * (1 + float(np.abs(slow).max())), site


# encoders with decoders: what the decoder knows of the other text reaches it through cross-attention alone


@pytest.mark.parametrize("architecture", ["t5", "bart", "whisper"])
def test_the_other_text_is_all_in_the_encoder_and_in_cross_attention(architecture: str, seed: int) -> None:
    tested = anything.model(architecture)
    of_encoder = "input_features" if architecture == "whisper" else "input_ids"
    pairs = anything.pairs(tested, seed, differ=[of_encoder])
    last = len(tested.anatomy.streams["encoder"].blocks) - 1
    assert_clean(run(tested, pairs, grid(Site("resid_post", stream="encoder"), layer=range(last + 1))))
    assert_clean(run(tested, pairs, all_of(tested, "cross_out")))
    assert_partial(run(tested, pairs, grid("cross_out", layer=[0])))
    both = Intervention((*all_of(tested, "cross_k").changes, *all_of(tested, "cross_v").changes))
    assert_clean(run(tested, pairs, both))
    before = patch(tested, pairs, grid("attn_out", layer=[0], position=[0]), FIRST)
    assert_corrupted(before, "the first self-attention has seen nothing of it")


def test_positions_of_the_encoder_are_those_of_its_own_text(seed: int) -> None:
    """Texts of unequal length, padded as T5 takes it: the last position of every text is its own."""
    tested = anything.model("t5")
    texts = [(5, 6, 7, 8, 9), (11, 12, 13)]
    pairs = Pairs(
        tuple(
            Pair(
                Prompt(ids, {"end": (len(ids) - 1, len(ids))}, target=(3, 4)),
                Prompt((*ids[:-1], 40), {"end": (len(ids) - 1, len(ids))}, target=(3, 4)),
            )
            for ids in texts
        )
    )
    of_encoder = Site("resid_pre", layer=0, stream="encoder")
    found = patch(tested, pairs, grid(of_encoder, position=[-1, "end", 0]), FIRST)
    assert_clean(found.isel(position=[0, 1]))
    assert_corrupted(found.isel(position=2))
    alone = [patch(tested, Pairs((pair,)), grid(of_encoder, position=[-2]), FIRST) for pair in pairs]
    together = patch(tested, pairs, grid(of_encoder, position=[-2]), FIRST)
    expected = np.concatenate([one.clean.values for one in alone], axis=-1)
    np.testing.assert_allclose(together.clean.values, expected, atol=1e-5)


# pictures


@pytest.mark.parametrize("architecture", ["vit", "dinov2"])
def test_an_image_classifier_reads_the_class_token_alone(architecture: str, seed: int) -> None:
    tested = anything.model(architecture)
    pairs = anything.pairs(tested, seed)
    assert_clean(run(tested, pairs, grid("resid_pre", layer=...)))
    if architecture == "dinov2":  # reads the mean of its patches too
        return
    found = run(tested, pairs, grid("resid_post", layer=[2], position=...))
    assert found.sizes["position"] == 17
    assert_clean(found.isel(position=[0]))
    rest = found.isel(position=slice(1, None))
    assert_corrupted(rest)


def test_a_feature_map_has_as_many_positions_as_its_layer_has_pixels(seed: int) -> None:
    tested = anything.model("resnet")
    pairs = anything.pairs(tested, seed)
    with pytest.raises(PositionError, match=r"but layers differ in how many they have \(64 in L0.resid_post, .*16 in"):
        patch(tested, pairs, grid("resid_post", layer=..., position=...), FIRST)
    assert_clean(run(tested, pairs, grid("resid_post", layer=...)))
    of_one = run(tested, pairs, grid("resid_post", layer=[2], position=...))
    pixels = {site: int(tested.places(tested.encode(pairs).clean, site).width) for site in tested.sites()}
    assert of_one.sizes["position"] == pixels[Site("resid_post", layer=2)] < pixels[Site("resid_post", layer=0)]


def test_a_picture_of_another_size_has_other_positions(seed: int) -> None:
    tested = anything.model("resnet")
    generator = torch.Generator().manual_seed(seed)
    wide = [Prompt(inputs={"pixel_values": torch.randn(3, 64, 32, generator=generator)}) for _ in range(2)]
    pairs = Pairs((Pair(wide[0], wide[1], (0,), (1,)),))
    small = tested.places(tested.encode(anything.pairs(tested, seed)).clean, Site("resid_post", layer=2)).width
    found = run(tested, pairs, grid("resid_post", layer=[2], position=...))
    shape = tuple(tested.example["pixel_values"].shape[2:])
    assert found.sizes["position"] == small * (64 * 32) // (shape[0] * shape[1])


def test_a_metric_of_a_whole_image(seed: int) -> None:
    """Mean brightness is read at every pixel: the mean of a plain forward pass."""
    pytest.importorskip("diffusers")
    tested = anything.model("unet")
    pairs = anything.pairs(tested, seed)
    brightness = FromLogits(lambda image: image.mean((-2, -1)), "brightness", Reads(positions=ALL))
    found = run(tested, pairs, grid("cross_out", layer=[0]), brightness)
    with torch.no_grad(), tested.prepared():
        expected = tested.module(**tested.inputs(tested.encode(pairs).clean)).sample.mean((1, 2, 3))
    np.testing.assert_allclose(found.clean.values[0], expected.numpy(), rtol=1e-5, atol=1e-6)


def test_roles_of_a_picture_are_spans_of_its_patches(seed: int) -> None:
    tested = anything.model("vit")
    pair = anything.pairs(tested, seed, examples=1)[0]
    roles = {"class": (0, 1), "top": (1, 5)}
    named = Pairs((Pair(Prompt(roles=roles, inputs=pair.clean.inputs), Prompt(roles=roles, inputs=pair.corrupted.inputs)),))
    by_role = run(tested, named, grid("resid_pre", layer=[1], position=["class", "top"]))
    by_index = [run(tested, named, Intervention.of(f"L1.resid_pre@{at}")) for at in ("0", "1,2,3,4")]
    np.testing.assert_allclose(by_role.value.values[0, 0], [one.value.values[0, 0] for one in by_index], rtol=1e-5)
    beyond = Prompt(roles={"far": (16, 30)}, inputs=pair.clean.inputs)
    with pytest.raises(PositionError, match=r"role 'far' ends at position 29, but .* has 17"):
        tested.encode([beyond])


# text and pictures


def test_the_answer_of_blip_passes_through_what_the_card_says(seed: int) -> None:
    """Palit et al., arXiv 2308.14179: the image enters the question encoder by cross-attention alone, the answer likewise."""
    tested = anything.model("blip")
    pairs = anything.pairs(tested, seed, differ=["pixel_values"])
    assert_clean(run(tested, pairs, grid(Site("resid_post", stream="vision"), layer=...)))
    assert_clean(run(tested, pairs, all_of(tested, "cross_out", "text")))
    assert_clean(run(tested, pairs, grid(Site("resid_post", stream="text"), layer=[2])))
    assert_clean(run(tested, pairs, all_of(tested, "cross_out")))
    assert_partial(run(tested, pairs, grid(Site("cross_out", stream="text"), layer=[0])))
    before = patch(tested, pairs, grid(Site("attn_out", stream="text"), layer=[0]), FIRST)
    assert_corrupted(before, "the first self-attention is upstream of the image")


def test_llava_sees_the_image_at_its_tokens(seed: int) -> None:
    tested = anything.model("llava")
    pairs = anything.pairs(tested, seed, differ=["pixel_values"])
    projector = Intervention((Change(Site("output", path="model.multi_modal_projector")),))
    assert_clean(run(tested, pairs, projector))
    assert_clean(run(tested, pairs, grid("resid_pre", layer=[0], position=["image"])))
    assert_clean(run(tested, pairs, grid("resid_post", layer=[2], position=[-1])))
    assert_clean(run(tested, pairs, grid("resid_post", layer=...)))
    before = patch(tested, pairs, grid("resid_post", layer=..., position=[0]), FIRST)
    assert_corrupted(before, "nothing is seen of it before its first token")


def test_a_dual_encoder_compares_each_example_with_itself(seed: int) -> None:
    tested = anything.model("clip")
    pairs = anything.pairs(tested, seed, examples=3, differ=["pixel_values"])
    found = run(tested, pairs, grid(Site("resid_post", stream="vision"), layer=[2], position=...))
    assert_clean(found.isel(position=[0]))
    rest = found.isel(position=slice(1, None))
    assert_corrupted(rest)
    alone = [patch(tested, Pairs((pair,)), Intervention.of("vision:L2.resid_post"), FIRST).clean for pair in pairs]
    np.testing.assert_allclose(found.clean.values[0], np.concatenate([one.values[0] for one in alone]), rtol=1e-5)


# diffusion


def test_the_text_enters_a_unet_by_cross_attention_alone(seed: int) -> None:
    pytest.importorskip("diffusers")
    tested = anything.model("unet")
    pairs = anything.pairs(tested, seed, differ=["encoder_hidden_states"])
    assert_clean(run(tested, pairs, all_of(tested, "cross_out")))
    one = patch(tested, pairs, grid("cross_out", layer=[0]), FIRST)
    assert float(abs(one.value - one.clean).min()) > 1e-5


# any module


def test_modules_of_a_plain_network_are_sites_by_their_path(seed: int) -> None:
    """DCGAN's generator: what its first layer gives is everything; one channel of it is one term of a linear map."""
    generator = torch.Generator().manual_seed(seed)
    module = architectures.build("dcgan")
    tested = load(module, example={"input": torch.randn(3, 8, 1, 1, generator=generator)})
    z = torch.randn(4, 8, 1, 1, generator=generator)
    pairs = Pairs((Pair(Prompt(inputs={"input": z[0]}), Prompt(inputs={"input": z[1]})),))
    pixel = FromLogits(lambda logits: logits[..., 0], name="red of the last pixel")
    assert_clean(run(tested, pairs, grid("0:output"), pixel))
    channels = run(tested, pairs, grid("0:output", unit=...), pixel)
    clean, corrupted = (module[0](z[i : i + 1]).detach() for i in (0, 1))
    assert channels.sizes["unit"] == clean.shape[1]
    for unit in range(clean.shape[1]):
        mixed = corrupted.clone()
        mixed[:, unit] = clean[:, unit]
        with torch.no_grad():
            expected = float(module[1:](mixed)[0, 0, -1, -1])
        assert float(channels.value[0, unit, 0]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("architecture", ["t5", "vit", "blip", "clip", "mixtral"])
def test_slopes_in_every_stream(architecture: str, seed: int) -> None:
    """First-order estimates against central differences of what a partial replacement gives, in float64."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        tested = load(architectures.build(architecture).double(), name=architecture)
        pairs = anything.pairs(tested, seed)
        for stream in tested.anatomy.streams:
            for name in ("resid_pre", "z", "cross_out", "expert_out"):
                site = Site(name, layer=1, stream=stream)
                if not tested.has(site):
                    continue
                estimated = attribute(tested, pairs, grid(site), FIRST)
                step = 2e-4  # norms and routers compute in float32 whatever the model's dtype
                ahead, behind = (
                    patch(tested, pairs, grid(site), FIRST, edit=Interpolate(sign * step), skip_inert=False).value
                    for sign in (1, -1)
                )
                found, expected = (estimated.value - estimated.corrupt), (ahead - behind) / (2 * step)
                np.testing.assert_allclose(found.values, expected.values, atol=1e-3 * (1 + float(abs(expected).max())))
    finally:
        torch.set_default_dtype(previous)


@pytest.mark.parametrize("architecture", ["t5", "vit", "blip"])
def test_training_in_every_stream(architecture: str, seed: int) -> None:
    """A rotation learns to raise the metric where no row can be resumed; its first loss is that of a sweep."""
    tested = anything.model(architecture)
    pairs = anything.pairs(tested, seed, examples=4)
    for stream in tested.anatomy.streams:
        site = Site("resid_post", layer=1, stream=stream)
        width = tested.anatomy.size(site, "d_model")
        das = Intervention((Change(site, Positions.parse(0), featurizer=Rotation(width, 4, seed=0)),))
        before = -float(patch(tested, pairs, das, FIRST).value.mean())
        loss = fit(tested, pairs, das, FIRST, epochs=6, lr=0.05).loss.values[0]
        assert loss[0] == pytest.approx(before, abs=1e-4)
        assert loss[-1] < loss[0]


def test_a_source_of_another_stream(seed: int) -> None:
    """What is written may come from any site whose positions and features fit: an encoder's stream into the decoder."""
    tested = anything.model("t5")
    pairs = anything.pairs(tested, seed)
    from_encoder = Activation("base", site=Site("resid_post", layer=1, stream="encoder"), positions=-1)
    found = run(tested, pairs, Intervention((Change(Site("resid_pre", layer=2), Positions.parse(-1), from_encoder),)))
    encoded = tested.encode(pairs)
    reads, target = Site("resid_post", layer=1, stream="encoder"), Site("resid_pre", layer=2)
    inputs = tested.inputs(encoded.corrupted)
    with torch.no_grad(), tested.prepared():
        value = tested.backend.run(inputs, [reads], {})[reads][:, -1]

        def write(h: torch.Tensor) -> torch.Tensor:
            return torch.cat([h[:, :-1], value[:, None]], dim=1)

        expected = tested.backend.run(inputs, [Site("logits")], {target: write})[Site("logits")][:, -1, 0]
    np.testing.assert_allclose(found.value.values[0, 0], expected.numpy(), rtol=1e-5)


def test_prompts_that_cannot_be_padded_are_refused() -> None:
    """BLIP's question encoder hears of padding in a prompt whose mask says so (measured when it was loaded)."""
    tested = anything.model("blip")
    pictures = [anything.pairs(tested, 0, examples=1)[0].clean.inputs for _ in range(2)]
    prompts: Sequence[Prompt] = [Prompt((5, 6, 7), inputs=pictures[0]), Prompt((5, 6), inputs=pictures[1])]
    with pytest.raises(UnequalLengthsError, match=r"have \[2, 3\] tokens, and this model's numbers change when input_ids"):
        tested.encode(prompts)
