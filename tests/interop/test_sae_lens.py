"""Dictionaries in SAELens' files, written here by hand from its configurations' documented fields, of versions 2 to 6."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from interp.errors import InteropError, StoreError
from interp.interop import sae_lens
from interp.interventions import Change, Joint, Replace, from_safetensors, to_safetensors
from interp.sites import Site

WIDTH, FEATURES = 6, 20


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights(seed: int, *names: str) -> dict[str, Tensor]:
    shapes = {"W_enc": (WIDTH, FEATURES), "W_dec": (FEATURES, WIDTH), "b_dec": (WIDTH,)}
    found = {
        name: drawn(seed + i, *shapes.get(name, (FEATURES,))) for i, name in enumerate(("W_enc", "W_dec", "b_dec", *names))
    }
    return found | ({"threshold": found["threshold"].abs()} if "threshold" in found else {})


def saved(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], sparsity: Tensor | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(tensors, folder / "sae_weights.safetensors")
    if sparsity is not None:
        save_file({"sparsity": sparsity}, folder / "sparsity.safetensors")
    return folder


def old(**more: Any) -> dict[str, Any]:
    """What versions 3 to 5 write."""
    common = {"d_in": WIDTH, "d_sae": FEATURES, "dtype": "float32", "device": "cpu", "model_name": "gpt2-small"}
    hook = {"hook_name": "blocks.8.hook_resid_pre", "hook_layer": 8, "hook_head_index": None, "prepend_bos": True}
    rest = {"activation_fn_str": "relu", "activation_fn_kwargs": {}, "apply_b_dec_to_input": True, "architecture": "standard"}
    last = {"finetuning_scaling_factor": False, "normalize_activations": "none", "context_size": 128, "neuronpedia_id": None}
    return common | hook | rest | last | {"sae_lens_training_version": "3.5.0", "model_from_pretrained_kwargs": {}} | more


def new(**more: Any) -> dict[str, Any]:
    """What version 6 writes."""
    metadata = {"model_name": "gpt2", "hook_name": "blocks.8.hook_resid_post", "prepend_bos": True, "sae_lens_version": "6.1.0"}
    common = {"d_in": WIDTH, "d_sae": FEATURES, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True}
    rest = {"normalize_activations": "none", "reshape_activations": "none", "architecture": "standard", "metadata": metadata}
    return common | rest | more


def test_the_same_dictionary_in_every_versions_words(tmp_path: Path, seed: int) -> None:
    tensors, h = weights(seed, "b_enc"), drawn(seed + 9, 5, WIDTH)
    sizes = {"d_in": WIDTH, "d_sae": FEATURES, "dtype": "torch.float32", "l1_coefficient": 8e-5}
    hook = {"hook_point": "blocks.8.hook_resid_pre", "hook_point_layer": 8, "hook_point_head_index": None}
    oldest = sizes | hook | {"normalize_activations": False}  # version 2 says no architecture
    expected = ((h - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]).relu()
    for name, config in {"2": oldest, "3": old(), "6": new(), "6rc": new(meta=new()["metadata"], metadata=None)}.items():
        found = sae_lens.read(saved(tmp_path / name, config, tensors))
        torch.testing.assert_close(found.sae.encode(h), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.sae.decode(expected), expected @ tensors["W_dec"] + tensors["b_dec"])
        assert found.site == Site("resid_post" if name.startswith("6") else "resid_pre", layer=8)
        assert found.config == config
        assert found.sparsity is None
        again = from_safetensors(to_safetensors(Change("L8.resid_pre", featurizer=found.sae)))
        assert torch.equal(again.featurizer.encode(h), found.sae.encode(h))
        assert (Change("L8.resid_pre", featurizer=found.sae)(h, h) - h).abs().max() <= 1e-6


def test_what_is_subtracted_before(tmp_path: Path, seed: int) -> None:
    tensors, h = weights(seed, "b_enc"), drawn(seed + 9, 5, WIDTH)
    found = sae_lens.read(saved(tmp_path, new(apply_b_dec_to_input=False), tensors))
    torch.testing.assert_close(found.sae.encode(h), (h @ tensors["W_enc"] + tensors["b_enc"]).relu(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "config",
    [
        new(architecture="topk", k=4),
        old(architecture="topk", activation_fn_str="topk", activation_fn_kwargs={"k": 4}),
        old(activation_fn_str="topk", activation_fn_kwargs={"k": 4}),
    ],
    ids=["6", "5", "4"],
)
def test_top_k(config: dict[str, Any], tmp_path: Path, seed: int) -> None:
    tensors, h = weights(seed, "b_enc"), drawn(seed + 9, 5, WIDTH)
    before = (h - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]
    expected = torch.where(before >= before.sort(dim=-1).values[:, -4:-3], before.relu(), 0)
    torch.testing.assert_close(sae_lens.read(saved(tmp_path, config, tensors)).sae.encode(h), expected, atol=1e-5, rtol=0)


def test_top_k_by_the_decoders_norm(tmp_path: Path, seed: int) -> None:
    """Features times the norms of their directions, of which the k largest are kept, and divided by them when decoded."""
    tensors, h = weights(seed, "b_enc"), drawn(seed + 9, 5, WIDTH)
    norms = tensors["W_dec"].norm(dim=-1)
    before = ((h - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]) * norms
    expected = torch.where(before >= before.sort(dim=-1).values[:, -4:-3], before.relu(), 0)
    sae = sae_lens.read(saved(tmp_path, new(architecture="topk", k=4, rescale_acts_by_decoder_norm=True), tensors)).sae
    torch.testing.assert_close(sae.encode(h), expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(
        sae.decode(expected), (expected / norms) @ tensors["W_dec"] + tensors["b_dec"], atol=2e-5, rtol=1e-5
    )


def test_thresholds(tmp_path: Path, seed: int) -> None:
    tensors, h = weights(seed, "b_enc", "threshold"), drawn(seed + 9, 5, WIDTH)
    before = (h - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]

    def found(name: str, kind: str, **threshold: Tensor) -> Tensor:
        rest = {key: tensor for key, tensor in tensors.items() if key != "threshold"}
        return sae_lens.read(saved(tmp_path / name, new(architecture=kind, k=4), rest | threshold)).sae.encode(h)

    expected = before.relu() * (before > tensors["threshold"])
    torch.testing.assert_close(found("a", "jumprelu", threshold=tensors["threshold"]), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found("b", "jumprelu", log_threshold=tensors["threshold"].log()), expected, atol=1e-5, rtol=0)
    for kind in ("batchtopk", "matryoshka_batchtopk"):
        one = found(kind, kind, topk_threshold=torch.tensor(0.7, dtype=torch.float64))
        torch.testing.assert_close(one, before.relu() * (before > 0.7), atol=1e-5, rtol=0)
        with pytest.raises(InteropError, match=f"'{kind}' without a threshold: what it gives .* depends on the others"):
            found(f"{kind} none", kind)


def test_gates(tmp_path: Path, seed: int) -> None:
    tensors, h = weights(seed, "b_gate", "b_mag", "r_mag"), drawn(seed + 9, 5, WIDTH)
    x = h - tensors["b_dec"]
    active = x @ tensors["W_enc"] + tensors["b_gate"] > 0
    expected = active * (x @ (tensors["W_enc"] * tensors["r_mag"].exp()) + tensors["b_mag"]).relu()
    found = sae_lens.read(saved(tmp_path, new(architecture="gated"), tensors)).sae.encode(h)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("how", ["constant_norm_rescale", "layer_norm"])
def test_activations_normalised_one_by_one(how: str, tmp_path: Path, seed: int) -> None:
    tensors, h = weights(seed, "b_enc"), 5 * drawn(seed + 9, 5, WIDTH) + 2
    sae = sae_lens.read(saved(tmp_path, old(normalize_activations=how), tensors)).sae
    if how == "layer_norm":
        mean, spread = h.mean(-1, keepdim=True), h.std(-1, keepdim=True)
        x, back = (h - mean) / (spread + 1e-5), lambda out: out * spread + mean
    else:
        coefficient = WIDTH**0.5 / h.norm(dim=-1, keepdim=True)
        x, back = h * coefficient, lambda out: out / coefficient
    features = ((x - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]).relu()
    torch.testing.assert_close(sae.encode(h)[:, :FEATURES], features, atol=2e-5, rtol=1e-5)
    expected = back(features @ tensors["W_dec"] + tensors["b_dec"])
    torch.testing.assert_close(sae.decode(sae.encode(h)), expected, atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("how", ["expected_average_only_in", True])
def test_activations_scaled_by_one_number(how: str | bool, tmp_path: Path, seed: int) -> None:
    """The number is folded in: features of h·c, and the reconstruction divided by c."""
    tensors, h = weights(seed, "b_enc"), drawn(seed + 9, 5, WIDTH)
    folder = saved(tmp_path, old(normalize_activations=how), tensors)
    with pytest.raises(InteropError, match=r"times one number, which the files do not hold; give scaling=√width / mean norm"):
        sae_lens.read(folder)
    sae = sae_lens.read(folder, scaling=0.25).sae
    features = ((0.25 * h - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]).relu()
    torch.testing.assert_close(sae.encode(h), features, atol=1e-5, rtol=0)
    expected = (features @ tensors["W_dec"] + tensors["b_dec"]) / 0.25
    torch.testing.assert_close(sae.decode(features), expected, atol=1e-4, rtol=1e-5)
    with pytest.raises(InteropError, match=r"scaling=0.25, but normalize_activations is 'none', which needs none"):
        sae_lens.read(saved(tmp_path, old(), tensors), scaling=0.25)


def test_features_scaled_by_finetuning(tmp_path: Path, seed: int) -> None:
    tensors = weights(seed, "b_enc", "scaling_factor")
    features = drawn(seed + 9, 5, FEATURES).relu()
    sae = sae_lens.read(saved(tmp_path, old(finetuning_scaling_factor=True), tensors)).sae
    expected = (features * tensors["scaling_factor"]) @ tensors["W_dec"] + tensors["b_dec"]
    torch.testing.assert_close(sae.decode(features), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(InteropError, match="a scaling factor is in the weights, but finetuning_scaling_factor is off"):
        sae_lens.read(saved(tmp_path, old(), tensors))
    ones = sae_lens.read(saved(tmp_path, old(), tensors | {"scaling_factor": torch.ones(FEATURES)})).sae
    assert torch.equal(ones.w_dec, tensors["W_dec"])


def test_all_heads_taken_together(tmp_path: Path, seed: int) -> None:
    """Three heads of two features, one after the other."""
    tensors, h = weights(seed, "b_enc"), drawn(seed + 9, 5, 3, 2)
    config = new(reshape_activations="hook_z", metadata={"hook_name": "blocks.3.attn.hook_z"})
    found = sae_lens.read(saved(tmp_path, config, tensors))
    assert found.site == Site("z", layer=3)
    joined = Joint("(b t) h d -> (b t) (h d)", heads=range(3), of=3, inner=found.sae)
    assert torch.equal(joined.encode(h), found.sae.encode(h.reshape(5, 6)))
    assert (Change("L3.z", edit=Replace(), featurizer=joined)(h, h) - h).abs().max() <= 1e-6
    config = old(hook_name="blocks.3.attn.hook_z", hook_head_index=2)
    assert sae_lens.read(saved(tmp_path, config, tensors)).site == Site("z", layer=3, head=2)
    assert sae_lens.read(saved(tmp_path, old(hook_name="model.layers.3"), tensors)).site is None


def test_how_often_features_are_active(tmp_path: Path, seed: int) -> None:
    tensors, sparsity = weights(seed, "b_enc"), -drawn(seed + 9, FEATURES).abs()
    found = sae_lens.read(saved(tmp_path, new(), tensors, sparsity)).sparsity
    assert found is not None
    assert torch.equal(found, sparsity)
    with pytest.raises(InteropError, match=r"holds sparsity \(3,\); expected sparsity \(20,\)"):
        sae_lens.read(saved(tmp_path, new(), tensors, sparsity[:3].clone()))


def test_weights_of_half_precision_are_computed_in_float32(tmp_path: Path, seed: int) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in weights(seed, "b_enc", "threshold").items()}
    sae = sae_lens.read(saved(tmp_path, new(architecture="jumprelu", dtype="bfloat16"), tensors)).sae
    assert {tensor.dtype for tensor in sae.state_dict().values()} == {torch.float32}


def test_what_is_not_supported_is_named(tmp_path: Path, seed: int) -> None:
    tensors = weights(seed, "b_enc")
    cases: list[tuple[dict[str, Any], dict[str, Tensor], str]] = [
        (new(architecture="transcoder"), tensors, "architecture 'transcoder' is not supported; expected one of standard, topk"),
        (old(activation_fn_str="tanh-relu"), tensors, "activation_fn 'tanh-relu' is not supported; expected 'relu' or 'topk'"),
        (new(normalize_activations="rms"), tensors, "normalize_activations 'rms' is not supported; expected one of none, "),
        (new(architecture="topk"), tensors, "k is None; expected a whole number for 'topk'"),
        (new(architecture="gated"), tensors, "sae_weights.safetensors has no b_mag; it holds b_enc"),
        (
            new(),
            tensors | {"W_skip": torch.zeros(2)},
            "sae_weights.safetensors holds W_skip besides, which 'standard' does not",
        ),
        (
            new(),
            tensors | {"b_dec": torch.zeros(7)},
            r"b_dec has shape \(7,\); expected \(6,\), beside w_enc of shape \(6, 20\)",
        ),
    ]
    for config, given, message in cases:
        with pytest.raises(InteropError, match=message):
            sae_lens.read(saved(tmp_path, config, given))


def test_files_that_are_none(tmp_path: Path, seed: int) -> None:
    with pytest.raises(InteropError, match=r"has no cfg.json; expected a folder as SAELens saves"):
        sae_lens.read(tmp_path)
    folder = saved(tmp_path / "a", new(), weights(seed, "b_enc"))
    (folder / "cfg.json").write_text("[]")
    with pytest.raises(InteropError, match="holds a list; expected an object with the keys of SAELens"):
        sae_lens.read(folder)
    (folder / "cfg.json").write_text("{")
    with pytest.raises(StoreError, match="holds no JSON"):
        sae_lens.read(folder)
    folder = saved(tmp_path / "b", new(), weights(seed, "b_enc"))
    torch.save({}, folder / "sae_weights.safetensors")
    with pytest.raises(StoreError, match="is a pickle"):
        sae_lens.read(folder)
