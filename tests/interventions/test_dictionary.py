"""Sparse autoencoders: what each activation is by its formula, the error that is kept, and what is normalised."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from interp.errors import InputError, ShapeMismatchError
from interp.interventions import (
    Composed,
    Identity,
    Intervention,
    Mask,
    Replace,
    Select,
    SparseAutoencoder,
    Subspace,
    apply,
    from_safetensors,
    learnable,
    to_safetensors,
)

WIDTH, FEATURES = 6, 20
KINDS: dict[str, dict[str, Any]] = {
    "relu": {},
    "topk": {"activation": "topk", "k": 4},
    "jumprelu": {"activation": "jumprelu", "threshold": True},
    "gated": {"activation": "gated", "gate": True, "scale": True},
    "not centred": {"subtract": False},
    "norm": {"normalize": "norm"},
    "layer": {"normalize": "layer", "activation": "topk", "k": 4},
}


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made(seed: int, kind: str, dtype: torch.dtype = torch.float64) -> SparseAutoencoder:
    options = dict(KINDS[kind])
    for i, name in enumerate(("threshold", "gate", "scale")):
        if options.get(name):
            options[name] = drawn(seed + 10 + i, FEATURES).abs().to(dtype)
    tensors = (
        drawn(seed, WIDTH, FEATURES),
        drawn(seed + 1, FEATURES),
        drawn(seed + 2, FEATURES, WIDTH),
        drawn(seed + 3, WIDTH),
    )
    return SparseAutoencoder(*(tensor.to(dtype) for tensor in tensors), **options)


def test_features_are_those_of_the_formulas(seed: int) -> None:
    """One number after the other, in plain Python."""
    h = drawn(seed + 5, 7, WIDTH)
    for kind in ("relu", "topk", "jumprelu", "gated", "not centred"):
        sae = made(seed, kind)
        found = sae.encode(h)
        for row in range(len(h)):
            x = h[row] if kind == "not centred" else h[row] - sae.b_dec
            products = [float(x @ sae.w_enc[:, i]) for i in range(FEATURES)]
            before = [product + float(sae.b_enc[i]) for i, product in enumerate(products)]
            least = sorted(before)[-4]
            for i, (product, value) in enumerate(zip(products, before, strict=True)):
                expected = max(value, 0.0)
                if kind == "topk":
                    expected = expected if value >= least else 0.0
                if kind == "jumprelu":
                    assert sae.threshold is not None
                    expected = expected if value > sae.threshold[i] else 0.0
                if kind == "gated":
                    assert sae.gate is not None
                    assert sae.scale is not None
                    magnitude = max(product * float(sae.scale[i].exp()) + float(sae.b_enc[i]), 0.0)
                    expected = magnitude if product + sae.gate[i] > 0 else 0.0
                assert float(found[row, i]) == pytest.approx(expected, abs=1e-12), (kind, row, i)
        assert 0 < (found > 0).double().mean() < 1
        torch.testing.assert_close(sae.decode(found), found @ sae.w_dec + sae.b_dec)


@pytest.mark.parametrize("kind", KINDS)
def test_unchanged_features_change_nothing(kind: str, seed: int) -> None:
    sae, h = made(seed, kind, torch.float32), 10 * drawn(seed + 5, 7, WIDTH).float()
    for edit in (Replace(), Mask((sae.encode(h).shape[-1],)), Select(torch.arange(sae.encode(h).shape[-1]) == 3)):
        assert (apply(edit, sae, h, h) - h).abs().max() <= 1e-6
    rebuilt = sae.decode(sae.encode(h))
    assert (apply(Replace(), sae, h, h, keep_error=False) - rebuilt).abs().max() <= 1e-6
    assert (rebuilt - h).abs().max() > 0.1, "there is an error to keep"


@pytest.mark.parametrize("kind", KINDS)
def test_one_feature_of_the_source_adds_along_its_direction(kind: str, seed: int) -> None:
    """h' = h + (f_s − f_b) W_dec[i], times what normalisation took out of the base: its own error and scale stay."""
    sae, h, s = made(seed, kind), drawn(seed + 5, 7, WIDTH), drawn(seed + 6, 7, WIDTH)
    chosen = int((sae.encode(s)[:, :FEATURES] - sae.encode(h)[:, :FEATURES]).abs().sum(0).argmax())
    coordinates = sae.encode(h).shape[-1]
    new = apply(Select(torch.arange(coordinates) == chosen), sae, h, s)
    scale = {"norm": h.norm(dim=1) / WIDTH**0.5, "layer": h.std(dim=1)}.get(kind, torch.ones(7, dtype=h.dtype))
    moved = (sae.encode(s) - sae.encode(h))[:, chosen, None] * sae.w_dec[chosen] * scale[:, None]
    torch.testing.assert_close(new, h + moved, atol=1e-12, rtol=0)
    assert moved.abs().max() > 1e-3


def test_normalised_values_come_back_in_their_own_scale(seed: int) -> None:
    """Features do not see the scale, and the reconstruction has it: ``norm``; nor the mean: ``layer``."""
    h = drawn(seed + 5, 7, WIDTH)
    norm, layer = made(seed, "norm"), made(seed, "layer")
    torch.testing.assert_close(norm.encode(3 * h)[:, :FEATURES], norm.encode(h)[:, :FEATURES], atol=1e-12, rtol=0)
    torch.testing.assert_close(norm.decode(norm.encode(3 * h)), 3 * norm.decode(norm.encode(h)), atol=1e-11, rtol=0)
    torch.testing.assert_close(layer.encode(h + 5)[:, :FEATURES], layer.encode(h)[:, :FEATURES], atol=1e-9, rtol=0)
    torch.testing.assert_close(layer.decode(layer.encode(h + 5)), layer.decode(layer.encode(h)) + 5, atol=1e-9, rtol=0)
    sizes = (norm.encode(h).shape[-1], layer.encode(h).shape[-1], made(seed, "relu").encode(h).shape[-1])
    assert sizes == (FEATURES + 1, FEATURES + 2, FEATURES)
    assert norm.encode(torch.zeros(1, WIDTH)).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_dictionary_is_saved_bit_for_bit(kind: str, seed: int) -> None:
    sae, h = made(seed, kind, torch.float32), drawn(seed + 5, 7, WIDTH)
    das = Intervention.of("L0.resid_post", featurizer=Composed(sae, Identity()), edit=Select(torch.tensor(True)))
    again = from_safetensors(to_safetensors(das))
    assert again.spec() == das.spec()
    assert torch.equal(again.changes[0].featurizer.encode(h), sae.encode(h))
    assert torch.equal(again.changes[0](h, -h), das.changes[0](h, -h))


def test_it_is_fixed_and_what_is_learned_inside_learns(seed: int) -> None:
    """A mask over its features trains; the dictionary does not, and gradients pass through it."""
    sae, h, s = made(seed, "relu", torch.float32), drawn(seed + 5, 7, WIDTH).float(), drawn(seed + 6, 7, WIDTH).float()
    masked = Intervention.of("L0.resid_post", featurizer=sae, edit=Mask((FEATURES,)))
    (logits,) = learnable(masked)
    h.requires_grad_()
    masked.changes[0](h, s).square().sum().backward()
    assert logits.grad is not None
    assert h.grad is not None
    assert logits.grad.abs().max() > 0


def test_a_dictionary_of_the_axes_is_the_site_itself(seed: int) -> None:
    """Positive and negative parts of every coordinate: nothing is lost, and swapping pairs is swapping coordinates."""
    eye = torch.eye(WIDTH, dtype=torch.float64)
    sae = SparseAutoencoder(torch.cat([eye, -eye], 1), torch.zeros(2 * WIDTH), torch.cat([eye, -eye], 0), torch.zeros(WIDTH))
    h, s = drawn(seed, 7, WIDTH), drawn(seed + 1, 7, WIDTH)
    torch.testing.assert_close(sae.decode(sae.encode(h)), h)
    new = apply(Select((torch.arange(2 * WIDTH) % WIDTH) < 2), sae, h, s)
    torch.testing.assert_close(new, apply(Replace(), Subspace(eye[:, :2]), h, s), atol=1e-14, rtol=0)


def test_precision_is_float32_at_least(seed: int) -> None:
    sae, h = made(seed, "relu", torch.bfloat16), drawn(seed, 5, WIDTH).bfloat16()
    assert sae.w_enc.dtype == sae.encode(h).dtype == sae.decode(sae.encode(h)).dtype == torch.float32
    torch.testing.assert_close(sae.encode(h), sae.encode(h.float()))
    assert sae.encode(h.double()).dtype == torch.float64


def test_what_does_not_fit_is_refused(seed: int) -> None:
    enc, dec, f, d = torch.zeros(WIDTH, FEATURES), torch.zeros(FEATURES, WIDTH), torch.zeros(FEATURES), torch.zeros(WIDTH)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"activation": "tanh"}, "activation='tanh'; expected one of relu, topk, jumprelu, gated"),
        ({"normalize": "mean"}, "normalize='mean'; expected one of none, norm, layer"),
        ({"activation": "topk"}, "activation='topk' with none of them; it takes k"),
        ({"k": 3}, "activation='relu' with k; it takes none of k, threshold, gate, scale"),
        ({"activation": "gated", "gate": f}, "activation='gated' with gate; it takes gate and scale"),
        ({"activation": "topk", "k": 21}, "k=21; expected 1 to 20, the number of features"),
    ]
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            SparseAutoencoder(enc, f, dec, d, **options)
    with pytest.raises(ShapeMismatchError, match=r"was used on features of width 7"):
        SparseAutoencoder(enc, f, dec, d).encode(torch.zeros(2, 7))
