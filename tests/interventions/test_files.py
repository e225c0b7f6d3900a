"""Interventions in safetensors files: each kind comes back to give the same numbers in a sweep, and nothing else comes back."""

from __future__ import annotations

import io
import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from sweeps import unchecked
from torch import Tensor, nn

import interp
from interp.errors import StoreError
from interp.interventions import (
    Activation,
    Add,
    AddPreservingNorm,
    BoundlessMask,
    Change,
    Constant,
    ConstantVector,
    Gate,
    HardConcrete,
    Interpolate,
    Intervention,
    Joint,
    Mask,
    Noise,
    ProjectOut,
    Rotation,
    Scale,
    SetCoefficient,
    Subspace,
    attention_knockout,
    from_safetensors,
    learnable,
    parts,
    to_safetensors,
    zero,
)
from interp.models import Model
from interp.prompts import Pairs, Prompt

WIDTH, HEADS, D_HEAD = 128, 4, 32


@pytest.fixture(scope="module")
def model() -> Model:
    return interp.load("zoo/language-4l")


@pytest.fixture(scope="module")
def pairs(model: Model) -> Pairs:
    return interp.tasks.ioi(6, seed=0, tokenizer=model.tokenizer)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def learned(part: nn.Module) -> Any:
    """A part with numbers that no constructor gives."""
    with torch.no_grad():
        for parameter in part.parameters():
            parameter += 0.3 * draw(*parameter.shape)
    return part


STREAM, Z = "L1.resid_post@END", "L2.z@END"
KINDS: dict[str, Any] = {
    "das": lambda: Intervention.of(STREAM, featurizer=learned(Rotation(WIDTH, 4))),
    "cayley": lambda: Intervention.of(STREAM, featurizer=learned(Rotation(WIDTH, 4, parametrization="cayley"))),
    "householder": lambda: Intervention.of(STREAM, featurizer=learned(Rotation(WIDTH, 4, parametrization="householder"))),
    "pca": lambda: Intervention.of(STREAM, featurizer=Subspace(torch.linalg.qr(draw(WIDTH, 3)).Q), keep_error=False),
    "boundless": lambda: Intervention.of(
        STREAM,
        featurizer=learned(Rotation(WIDTH, WIDTH)),
        edit=BoundlessMask(WIDTH, form="two-sided", temperature=2, start=0.3),
    ),
    "mask": lambda: Intervention.of(STREAM, featurizer=Rotation(WIDTH, 3), edit=learned(Mask((3,), temperature=0.4))),
    "gate": lambda: Intervention.of(Z, edit=learned(Gate((HEADS, 1), seed=1))),
    "gate with source": lambda: Intervention.of(Z, edit=learned(Gate((HEADS, D_HEAD), source=True)), source=zero()),
    "hard concrete": lambda: Intervention.of(Z, edit=learned(HardConcrete((HEADS, 1), stretch=(-0.2, 1.3), keep=True))),
    "select": lambda: Intervention.of(Z, edit=learned(Gate((HEADS, 1), seed=2)).hard()),
    "optimal constant": lambda: Intervention.of("L2H1.z@END", edit=learned(ConstantVector(D_HEAD))),
    "joint": lambda: Intervention.of(
        Change(
            "L1.resid_post",
            (3, 5),
            featurizer=Joint("(b t) d -> b (t d)", tokens=2, inner=learned(Rotation(2 * WIDTH, 4))),
            source=9 * draw(WIDTH),
        )
    ),
    "steering": lambda: Intervention.of(STREAM, source=draw(WIDTH), edit=Add(3.0)),
    "steering that keeps the norm": lambda: Intervention.of(STREAM, source=draw(WIDTH), edit=AddPreservingNorm(3.0)),
    "directional ablation": lambda: Intervention.of(STREAM, source=draw(WIDTH).double().numpy(), edit=ProjectOut()),
    "coefficient": lambda: Intervention.of(STREAM, source=draw(WIDTH), edit=SetCoefficient(-1.5)),
    "noise": lambda: Intervention.of("embed", source=Noise(0.1, seed=3), edit=Add()),
    "activation": lambda: Intervention.of(
        STREAM,
        source=Activation(Prompt((5, 6), {"what": (0, 2)}), site="resid_pre", layer=3, positions="what", unequal="mean"),
        edit=Interpolate(0.5),
    ),
    "mean": lambda: Intervention.of("L2.z@-1", source=Activation([(5, 6), (7, 8)], pool="mean", over=("example", "position"))),
    "ordered": lambda: Intervention.of(STREAM, edit=Scale(0.5)).then(Intervention.of("L1.resid_post@END", source=zero())),
    "cut": lambda: attention_knockout("END", "IO", layers=[0, 1, 2, 3], renormalise=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_works_again(kind: str, model: Model, pairs: Pairs) -> None:
    """The same numbers in a sweep on a model, from a file alone.

    Tensors come back to the bit, but contiguous, and a product may round otherwise then: 1e-5 × (1 + max |logit|).
    """
    made = KINDS[kind]()
    content = to_safetensors(made)
    again = from_safetensors(content)
    assert again is not made
    assert again.spec() == made.spec()
    assert [p.requires_grad for p in learnable(again)] == [p.requires_grad for p in learnable(made)]
    expected, got = (interp.patch(model, pairs, one, ["logit_diff", "kl"], patching="noising") for one in (made, again))
    assert float(abs(expected.value - expected.clean).max()) > 1e-3, "it does something"
    np.testing.assert_allclose(got.value, expected.value, rtol=0, atol=1e-5 * 20)
    assert got.attrs["spec"] == expected.attrs["spec"], "so that it is the same run"
    assert to_safetensors(again) == content


def test_parts_lists_and_names() -> None:
    rotation = learned(Rotation(8, 3)).double()
    again = from_safetensors(to_safetensors({"das": [Change("L0.z", featurizer=rotation)], "basis": rotation, "number": 2.5}))
    assert again["number"] == 2.5
    assert again["das"][0].featurizer is again["basis"], "one object in two places is one object again"
    assert again["basis"].basis.dtype == torch.float64
    assert torch.equal(again["basis"].basis, rotation.basis)
    alone = from_safetensors(to_safetensors(rotation))
    assert torch.equal(alone.basis, rotation.basis)


def test_a_basis_shared_by_sites_is_one_again_and_saved_once() -> None:
    shared = learned(Rotation(8, 3))
    both = Intervention.of("L0.resid_post", "L1.resid_post", featurizer=shared)
    content = to_safetensors(both)
    again = from_safetensors(content)
    assert list(parts(again)) == ["0.featurizer"]
    assert list(load(content)) == ["changes.0.featurizer.weight"]


class Autoencoder(nn.Module):
    """A dictionary of somebody's own, which says how another one is made."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, features), nn.Linear(features, width, bias=False)

    def encode(self, h: Tensor) -> Tensor:
        return self.up(h).relu()

    def decode(self, f: Tensor) -> Tensor:
        return self.down(f)

    def spec(self) -> dict[str, Any]:
        return {"kind": "autoencoder", **self.options()}

    def options(self) -> dict[str, Any]:
        return {"width": self.up.in_features, "features": self.up.out_features}


class Silent(Autoencoder):
    options = property()  # type: ignore[assignment]


def test_a_dictionary_of_your_own(model: Model, pairs: Pairs) -> None:
    made = Intervention.of(STREAM, featurizer=Autoencoder(WIDTH, 40))
    content = to_safetensors(made)
    with pytest.raises(
        StoreError, match=r"at changes\.0\.featurizer: '.*\.Autoencoder', a class that .* kinds=\(Autoencoder,\)$"
    ):
        from_safetensors(content)
    again = from_safetensors(content, kinds=[Autoencoder])
    expected, got = (interp.patch(model, pairs, one) for one in (made, again))
    np.testing.assert_array_equal(got.value, expected.value)
    with pytest.raises(StoreError, match=r"^it is of type Linear, which does not say how .*: give it options\(\), the arg"):
        to_safetensors(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (lambda: Change("L0.z", edit=lambda h, ctx: h), r"^edit.function is the function <lambda>, which is code$"),
        (
            lambda: Intervention.of("L0.z", featurizer=Silent(2, 2)),
            r"^changes.0.featurizer is of type Silent, which does not say",
        ),
        (lambda: {"a": Scale}, r"^a is the class Scale, which is code$"),
        (lambda: [Autoencoder.__new__(Autoencoder)], r"^0 does not give its options\(\) \(AttributeError: "),
        (lambda: {"a": [object()]}, r"^a.0 is of type object, which is no data$"),
        (lambda: {3: 1}, "^it has the key 3 of type int; keys are texts$"),
        (lambda: [torch.zeros(1, dtype=torch.complex64)], r"^0 is a tensor of torch.complex64 and torch.strided, which"),
        (lambda: np.array(["a"]), "^it is an array of <U1, which safetensors cannot hold$"),
    ],
)
def test_what_cannot_be_saved_is_named(what: Any, words: str) -> None:
    with pytest.raises(StoreError, match=words):
        to_safetensors(what())


# what is no such file


@pytest.fixture(scope="module")
def content() -> bytes:
    return to_safetensors(Intervention.of("L0.resid_post", featurizer=learned(Rotation(8, 3)), edit=Mask(3)))


def test_a_pickle_is_refused_and_not_opened() -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return pytest.fail, ("it was unpickled",)

    written = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, written)
    for trap in (pickle.dumps(Trap()), pickle.dumps(Trap(), protocol=2), written.getvalue()):
        with pytest.raises(StoreError, match=r"the file is a pickle, .* nothing is unpickled here: save it anew"):
            from_safetensors(trap)


@pytest.mark.parametrize("given", ["das.safetensors", None])
def test_a_name_in_place_of_a_file_is_named(given: Any) -> None:
    with pytest.raises(
        StoreError, match=rf"^content is {given!r} of type .*; expected the bytes of a file, such as Path\('das"
    ):
        unchecked(from_safetensors)(given)


def test_a_damaged_file_is_never_read(content: bytes, seed: int) -> None:
    """Any byte, and any length."""
    random = np.random.default_rng(seed)
    for at in random.integers(0, len(content), 200):
        flipped = bytearray(content)
        flipped[at] ^= 1 << int(random.integers(8))
        with pytest.raises(StoreError):
            from_safetensors(bytes(flipped))
    for length in random.integers(0, len(content), 20):
        with pytest.raises(StoreError, match="damaged, or no safetensors"):
            from_safetensors(content[:length])


def test_a_file_of_somebody_else_is_refused(content: bytes) -> None:
    with pytest.raises(StoreError, match="the file holds the tensors a, b, but does not say of which interventions; expected"):
        from_safetensors(save({"a": torch.zeros(1), "b": torch.zeros(1)}))
    metadata = {"interp": json.dumps({"format": 7, "what": None, "sha256": ""})}
    with pytest.raises(StoreError, match="the file has the format 7, but this version of interp reads format 1"):
        from_safetensors(save({}, metadata))


def test_constants_keep_their_numbers() -> None:
    """A number stays a number, and a tensor keeps its precision."""
    again = from_safetensors(to_safetensors([Constant(0.1), Constant(torch.tensor(0.1, dtype=torch.float64))]))
    assert again[0].value == 0.1
    assert again[1].value.dtype == torch.float64
