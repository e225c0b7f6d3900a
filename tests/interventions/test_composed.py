"""Bases made of bases: compositions, parts of one rotation that variables share, spans of any vectors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp.errors import InputError, ShapeMismatchError
from interp.interventions import (
    Change,
    Columns,
    Composed,
    Identity,
    Intervention,
    Joint,
    Mask,
    Replace,
    RevNet,
    Rotation,
    Select,
    Span,
    SparseAutoencoder,
    Subspace,
    apply,
    from_safetensors,
    learnable,
    once,
    parts,
    pca,
    random_subspace,
    to_safetensors,
)

WIDTH = 8


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Doubled(nn.Module):
    """A featurizer of the user's own."""

    def encode(self, h: Tensor) -> Tensor:
        return 2 * h

    def decode(self, f: Tensor) -> Tensor:
        return f / 2

    def spec(self) -> dict[str, Any]:
        return {"kind": "doubled"}

    def options(self) -> dict[str, Any]:
        return {}


# compositions


def test_a_subspace_of_a_subspace_is_the_product_of_their_bases(seed: int) -> None:
    outer, inner = pca(drawn(seed, 40, WIDTH), 5), Rotation(5, 2, seed=seed).double()
    basis = outer.basis @ inner.basis
    h, s = drawn(seed + 1, 6, WIDTH), drawn(seed + 2, 6, WIDTH)
    within = Composed(outer, inner)
    torch.testing.assert_close(within.encode(h), h @ basis, atol=1e-12, rtol=0)
    expected = h + (s - h) @ basis @ basis.mT
    torch.testing.assert_close(apply(Replace(), within, h, s), expected, atol=1e-6, rtol=0)  # the draw was float32


def test_unchanged_coordinates_change_nothing(seed: int) -> None:
    h = drawn(seed, 6, WIDTH).float()
    for second in (Identity(), Doubled(), Rotation(4, 2, seed=seed), RevNet(4, blocks=2, seed=seed)):
        within = Composed(random_subspace(WIDTH, 4, seed), second)
        torch.testing.assert_close(apply(Replace(), within, h, h), h, atol=1e-6, rtol=0)
        for edit in (Mask((within.encode(h).shape[-1],)), Select(torch.arange(within.encode(h).shape[-1]) == 1)):
            torch.testing.assert_close(apply(edit, within, h, h), h, atol=1e-6, rtol=0)


def test_both_are_trained_by_one_optimiser_and_each_rotation_is_made_once_a_step(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Rotation(WIDTH, 4, seed=seed), Rotation(4, 2, seed=seed)
    das = Intervention.of("L0.resid_post", featurizer=Composed(first, second))
    assert list(parts(das)) == ["0.featurizer"]
    assert {id(p) for p in learnable(das)} == {id(first.weight), id(second.weight)}
    made = []
    computed = Rotation._computed
    monkeypatch.setattr(Rotation, "_computed", lambda self: made.append(self) or computed(self))
    h, s = drawn(seed, 6, WIDTH).float(), drawn(seed + 1, 6, WIDTH).float()
    with once(das):
        das.changes[0](h, s).square().sum().backward()
    assert sorted(map(id, made)) == sorted(map(id, (first, second)))
    for rotation in (first, second):
        assert rotation.weight.grad is not None
        assert rotation.weight.grad.abs().max() > 1e-4


def test_gradients_are_those_of_the_formula(seed: int) -> None:
    outer, inner = pca(drawn(seed, 40, WIDTH), 5), Rotation(5, 2, seed=seed).double()
    h, s = drawn(seed + 1, 6, WIDTH), drawn(seed + 2, 6, WIDTH)
    weight = drawn(seed + 3, 6, WIDTH)
    (found,) = torch.autograd.grad((apply(Replace(), Composed(outer, inner), h, s) * weight).sum(), inner.weight)
    basis = outer.basis @ inner.basis
    (expected,) = torch.autograd.grad(((h + (s - h) @ basis @ basis.mT) * weight).sum(), inner.weight)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


def test_tokens_taken_together_are_known_of_the_composition() -> None:
    """The engine must not resume a row between them."""
    pair = Joint("(b t) d -> b (t d)", tokens=2)
    assert Change("L0.resid_post", (1, 2), featurizer=Composed(pair, Rotation(2 * WIDTH, 3))).joint == 2
    assert Change("L0.resid_post", (1, 2), featurizer=Composed(Rotation(WIDTH, 3), Identity())).joint == 1


def test_compositions_are_saved_bit_for_bit(seed: int) -> None:
    rotation = Rotation(5, 3, seed=seed)
    outer = pca(drawn(seed, 40, WIDTH), 5)
    saved = [
        Intervention.of("L0.resid_post", featurizer=Composed(outer, Columns(rotation, start, stop)))
        for start, stop in ((0, 1), (1, 3))
    ]
    again = from_safetensors(to_safetensors(saved))
    assert [one.spec() for one in again] == [one.spec() for one in saved]
    h = drawn(seed + 1, 4, WIDTH)
    for one, other in zip(again, saved, strict=True):
        assert torch.equal(one.changes[0].featurizer.encode(h), other.changes[0].featurizer.encode(h))
    first, second = (one.changes[0].featurizer for one in again)
    assert first.second.whole is second.second.whole, "one rotation stays one"
    assert first.first is second.first
    own = from_safetensors(to_safetensors(Composed(Doubled(), rotation)), kinds=[Doubled])
    assert isinstance(own.first, Doubled)


def test_what_is_no_featurizer_is_refused(seed: int) -> None:
    for bad in (torch.eye(3), Rotation, None):
        with pytest.raises(InputError, match=r"second is .*; expected a featurizer, with encode, decode and spec"):
            Composed(Identity(), bad)


# parts of one rotation


def test_parts_written_one_after_the_other_are_the_whole_written_at_once(seed: int) -> None:
    whole = Rotation(WIDTH, 5, seed=seed)
    first, second = Columns(whole, 0, 2), Columns(whole, 2, 5)
    h, s = drawn(seed, 6, WIDTH).float(), drawn(seed + 1, 6, WIDTH).float()
    both = apply(Replace(), whole, h, s)
    one_way = apply(Replace(), second, apply(Replace(), first, h, s), s)
    other_way = apply(Replace(), first, apply(Replace(), second, h, s), s)
    for found in (one_way, other_way):
        torch.testing.assert_close(found, both, atol=1e-6, rtol=0)
    # From two sources, each part takes its own.
    t = drawn(seed + 2, 6, WIDTH).float()
    basis = whole.basis
    expected = h + (s - h) @ basis[:, :2] @ basis[:, :2].mT + (t - h) @ basis[:, 2:] @ basis[:, 2:].mT
    torch.testing.assert_close(apply(Replace(), second, apply(Replace(), first, h, s), t), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", ["rotation", "subspace", "fitted"])
def test_a_part_is_the_subspace_of_its_columns(kind: str, seed: int) -> None:
    whole = {
        "rotation": Rotation(WIDTH, 5, seed=seed),
        "subspace": Subspace(Rotation(WIDTH, 5, seed=seed).basis.detach()),
        "fitted": random_subspace(WIDTH, 5, seed),
    }[kind]
    part, alone = Columns(whole, 1, 4), Subspace(whole.basis[:, 1:4].detach())
    h, s = drawn(seed, 6, WIDTH).float(), drawn(seed + 1, 6, WIDTH).float()
    close = {"atol": 1e-6, "rtol": 0}
    torch.testing.assert_close(part.basis, alone.basis, atol=0, rtol=0)
    torch.testing.assert_close(part.encode(h), alone.encode(h), **close)
    torch.testing.assert_close(part.decode(alone.encode(h)), alone.decode(alone.encode(h)), **close)
    torch.testing.assert_close(part.interchange(h, s), alone.interchange(h, s), **close)
    for edit in (Replace(), Mask((3,)), Select(torch.tensor([True, False, True]))):
        torch.testing.assert_close(apply(edit, part, h, s), apply(edit, alone, h, s), **close)
    torch.testing.assert_close(apply(Replace(), part, h, h), h, **close)


def test_what_trains_one_part_trains_the_rotation_of_all(seed: int) -> None:
    whole = Rotation(WIDTH, 4, seed=seed)
    pair = Intervention((Change("L0.resid_post", featurizer=Columns(whole, 0, 2)),)).then(
        Intervention((Change("L0.resid_post", featurizer=Columns(whole, 2, 4)),))
    )
    assert learnable(pair) == [whole.weight]
    before = pair.changes[1].featurizer.basis.detach().clone()
    optimiser = torch.optim.SGD(learnable(pair), lr=0.1)
    h, s = drawn(seed, 6, WIDTH).float(), drawn(seed + 1, 6, WIDTH).float()
    with once(pair):
        pair.changes[0](h, s).square().sum().backward()
    optimiser.step()
    first, second = (change.featurizer.basis for change in pair.changes)
    assert (second - before).abs().max() > 1e-5, "the others make room"
    assert (first.mT @ second).abs().max() <= 1e-6


def test_parts_are_saved_as_parts_of_one(seed: int) -> None:
    whole = Rotation(WIDTH, 4, seed=seed)
    again = from_safetensors(to_safetensors([Columns(whole, 0, 1), Columns(whole, 1, 4)]))
    assert again[0].whole is again[1].whole
    assert [(one.start, one.stop) for one in again] == [(0, 1), (1, 4)]
    assert torch.equal(again[1].basis, Columns(whole, 1, 4).basis)
    assert again[0].spec() == Columns(whole, 0, 1).spec()


def test_a_part_of_what_is_not_linear_is_refused(seed: int) -> None:
    sae = SparseAutoencoder(torch.eye(4), torch.zeros(4), torch.eye(4), torch.zeros(4))
    for whole in (RevNet(4, seed=seed), sae, Composed(Identity(), Rotation(4, 2)), Identity()):
        with pytest.raises(ShapeMismatchError, match=r"cannot be written apart .* choose coordinates with edit=Select\(…\)"):
            Columns(whole, 0, 1)
    for start, stop in ((0, 5), (2, 2), (-1, 2), (3, 1)):
        with pytest.raises(ShapeMismatchError, match=rf"columns {start} to {stop} of Rotation\(8 → 4\), which has 4"):
            Columns(Rotation(WIDTH, 4), start, stop)


def test_a_part_keeps_a_rotations_precision(seed: int) -> None:
    whole, h = Rotation(WIDTH, 4, seed=seed), drawn(seed, 5, WIDTH).bfloat16()
    part, s = Columns(whole, 1, 3), drawn(seed + 1, 5, WIDTH).bfloat16()
    assert part.encode(h).dtype == part.decode(part.encode(h)).dtype == part.interchange(h, h).dtype == torch.float32
    expected = part.interchange(h.float(), s.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(part.interchange(h.float(), s.float()), expected, atol=1e-6, rtol=0)
    with pytest.raises(ShapeMismatchError, match="a rotation of width 8 was used on features of width 9"):
        part.encode(torch.zeros(2, 9))
    with pytest.raises(ShapeMismatchError, match="columns of width 8 were used on features of width 9"):
        part.interchange(torch.zeros(2, 9), torch.zeros(2, 9))


# spans


def test_a_span_is_its_projector_and_not_the_product(seed: int) -> None:
    w = drawn(seed, WIDTH, 3) * torch.tensor([1.0, 5.0, 0.1])
    h, s = drawn(seed + 1, 6, WIDTH), drawn(seed + 2, 6, WIDTH)
    projector = w @ torch.linalg.inv(w.mT @ w) @ w.mT
    torch.testing.assert_close(apply(Replace(), Span(w), h, s), h + (s - h) @ projector, atol=1e-10, rtol=0)
    torch.testing.assert_close(
        apply(Replace(), Span(w), h, s), apply(Replace(), Subspace(torch.linalg.qr(w).Q), h, s), atol=1e-10, rtol=0
    )
    torch.testing.assert_close(Span(w).encode(w.mT), torch.eye(3, dtype=w.dtype), atol=1e-10, rtol=0)


def test_a_span_is_saved_and_refuses_what_is_dependent(seed: int) -> None:
    span = Span(drawn(seed, WIDTH, 3).float())
    again = from_safetensors(to_safetensors(span))
    h = drawn(seed + 1, 4, WIDTH).bfloat16()
    assert torch.equal(again.encode(h), span.encode(h))
    assert (again.encode(h).dtype, again.spec()) == (torch.float32, span.spec())
    with pytest.raises(ShapeMismatchError, match="not linearly independent: at unit length their least singular value is"):
        Span(torch.cat([span.vectors, span.vectors[:, :1]], dim=1))
    with pytest.raises(ShapeMismatchError, match=r"expected \[width, feature\], feature ≤ width"):
        Span(torch.zeros(3, 4))
    with pytest.raises(ShapeMismatchError, match="a span of width 8 was used on features of width 9"):
        span.encode(torch.zeros(2, 9))
