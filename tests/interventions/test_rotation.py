"""Rotations: orthonormal whatever training does, right to the gradient, and the Householder map that torch's own is."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from interp import kernels
from interp.errors import ShapeMismatchError, UnknownNameError
from interp.interventions import Featurizer, Interpolate, Replace, Rotation, Subspace, apply
from interp.interventions import rotation as module_of_rotation

EVERY = ("qr", "cayley", "householder")
ORTHONORMAL = 1e-6
"""What float32 is held to: eight units in the last place of 1."""


def error(basis: Tensor) -> float:
    """max |QᵀQ − 1|, computed in float64 so that it is the basis's error and not the product's."""
    q = basis.detach().double()
    return float((q.mT @ q - torch.eye(q.shape[1], dtype=q.dtype)).abs().max())


def moved(rotation: Rotation, seed: int, by: float = 0.5) -> Rotation:
    """Away from the start, where maps agree by construction."""
    draw = torch.randn(rotation.weight.shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        rotation.weight += by * (draw.tril(-1) if rotation.parametrization == "householder" else draw).to(rotation.weight)
    return rotation


def orthonormal(width: int, rank: int, seed: int) -> Tensor:
    draw = torch.randn(width, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(draw).Q


def draws(seed: int, *shape: int) -> Iterator[Tensor]:
    return iter(torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


# starts


@pytest.mark.parametrize("parametrization", EVERY)
def test_training_begins_at_the_start_that_was_given(parametrization: str, seed: int) -> None:
    for width, rank in ((12, 1), (12, 5), (12, 11)):
        start = orthonormal(width, rank, seed) * (-1.0) ** torch.arange(rank)  # signs that no routine would choose
        rotation = Rotation(width, rank, parametrization=parametrization, start=start)
        assert (rotation.basis - start).abs().max() <= 1e-12, "a float64 start is kept in float64"
        rotation = Rotation(width, rank, parametrization=parametrization, start=start.float())
        assert (rotation.basis - start).abs().max() <= 1e-6
        assert rotation.basis.dtype == torch.float32


def test_one_seed_is_one_basis_under_every_parametrization() -> None:
    torch.manual_seed(1)
    first = Rotation(12, 3, seed=7)
    torch.manual_seed(2)  # the draw is the seed's alone
    for parametrization in EVERY:
        torch.testing.assert_close(
            Rotation(12, 3, seed=7, parametrization=parametrization).basis, first.basis, atol=1e-6, rtol=0
        )
    assert (Rotation(12, 3, seed=8).basis - first.basis).abs().max() > 0.1


# orthonormal always


@pytest.mark.parametrize(
    ("parametrization", "width", "rank"),
    [*((p, 40, 8) for p in EVERY), ("cayley", 16, 16)],
)
def test_columns_stay_orthonormal_through_training_and_saving(parametrization: str, width: int, rank: int, seed: int) -> None:
    """2000 steps of Adam towards targets that keep changing, at a rate that makes the parameters large."""
    rotation = Rotation(width, rank, seed=seed, parametrization=parametrization)
    optimiser = torch.optim.Adam(rotation.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(seed)
    target, worst = rotation.basis.detach(), 0.0
    for step in range(2000):
        if step % 100 == 0:
            target = torch.randn(width, rank, generator=generator)
            worst = max(worst, error(rotation.basis))
        optimiser.zero_grad()
        ((rotation.basis - target) ** 2).sum().backward()
        optimiser.step()
    assert max(worst, error(rotation.basis)) <= ORTHONORMAL
    assert rotation.weight.grad is not None
    assert rotation.weight.grad.isfinite().all()

    again = Rotation(width, rank, parametrization=parametrization)
    again.load_state_dict(rotation.state_dict())
    assert torch.equal(again.basis, rotation.basis)
    assert again.spec() == rotation.spec()


@pytest.mark.parametrize(("width", "rank"), [(768, 16), (768, 200)])
@pytest.mark.parametrize("parametrization", EVERY)
def test_columns_are_orthonormal_at_the_width_of_a_model(parametrization: str, width: int, rank: int, seed: int) -> None:
    for by in (0.05, 1.0, 30.0):
        assert error(moved(Rotation(width, rank, seed=seed, parametrization=parametrization), seed, by).basis) <= ORTHONORMAL


@pytest.mark.parametrize("parametrization", EVERY)
def test_no_lower_precision_reaches_the_basis(parametrization: str, seed: int) -> None:
    rotation = moved(Rotation(32, 6, parametrization=parametrization), seed)
    before = rotation.basis.detach()
    h, s = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(seed)).bfloat16()
    expected = h.double() + (s.double() - h.double()) @ before.double() @ before.double().mT
    for lower in (lambda r: r.to(torch.bfloat16), lambda r: r.half(), lambda r: nn.ModuleList([r]).to(torch.bfloat16)):
        lower(rotation)
        assert rotation.weight.dtype == torch.float32
        assert torch.equal(rotation.basis, before)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rotation.basis, before)
        for new in (apply(Replace(), rotation, h, s), apply(Interpolate(1.0), rotation, h, s)):
            assert new.dtype == torch.float32
            assert (new - expected).abs().max() <= 1e-5, "float32 rounding of values near 4; bfloat16's would be 1e-2"
    assert rotation.double().basis.dtype == torch.float64
    assert error(rotation.basis) <= 1e-14


# what it computes


@pytest.mark.parametrize("parametrization", ["qr", "cayley"])
def test_swapping_all_coordinates_replaces_the_value(parametrization: str, seed: int) -> None:
    h, s = draws(seed, 2, 7, 10)
    rotation = moved(Rotation(10, 10, parametrization=parametrization).double(), seed)
    torch.testing.assert_close(apply(Replace(), rotation, h, s), s, atol=1e-12, rtol=0)


@pytest.mark.parametrize("parametrization", EVERY)
def test_it_is_the_subspace_of_its_basis(parametrization: str, seed: int) -> None:
    """Checked against a fixed subspace, and with projector P against h + P(s − h)."""
    h, s = draws(seed, 2, 7, 10)
    rotation = moved(Rotation(10, 4, parametrization=parametrization).double(), seed)
    basis = rotation.basis.detach()
    new = apply(Replace(), rotation, h, s)
    torch.testing.assert_close(new, apply(Replace(), Subspace(basis), h, s), atol=1e-12, rtol=0)
    torch.testing.assert_close(new, h + (s - h) @ basis @ basis.mT, atol=1e-12, rtol=0)
    assert isinstance(rotation, Featurizer)


@pytest.mark.parametrize("rank", [1, 3, 4, 6, 7])
def test_cayley_by_its_definition(rank: int, seed: int) -> None:
    """(I + A)⁻¹(I − A) S with A = W Sᵀ − S Wᵀ written out; ranks below and above half the width are computed differently."""
    start = orthonormal(7, rank, seed)
    rotation = moved(Rotation(7, rank, parametrization="cayley", start=start), seed, by=2.0)
    w, one = rotation.weight.detach(), torch.eye(7, dtype=torch.float64)
    a = w @ start.mT - start @ w.mT
    torch.testing.assert_close(rotation.basis, torch.linalg.inv(one + a) @ (one - a) @ start, atol=1e-12, rtol=0)


@pytest.mark.parametrize("parametrization", EVERY)
@pytest.mark.parametrize(("width", "rank"), [(6, 1), (6, 2), (6, 5)])
def test_gradients_are_those_of_finite_differences(parametrization: str, width: int, rank: int, seed: int) -> None:
    rotation = moved(Rotation(width, rank, seed=seed, parametrization=parametrization).double(), seed)
    h, s = draws(seed, 2, 3, width)

    def written(weight: Tensor, h: Tensor, s: Tensor) -> Tensor:
        with torch.nn.utils.stateless._reparametrize_module(rotation, {"weight": weight}):
            return apply(Replace(), rotation, h, s)

    leaves = [tensor.detach().clone().requires_grad_() for tensor in (rotation.weight, h, s)]
    if parametrization != "householder":
        torch.autograd.gradcheck(written, leaves)
        return
    # The diagonal holds signs, so that a finite step there would be another map; only what is below it is free.
    free = torch.ones(width, rank).tril(-1).bool()

    def below(entries: Tensor, h: Tensor, s: Tensor) -> Tensor:
        return written(leaves[0].detach().masked_scatter(free, entries), h, s)

    torch.autograd.gradcheck(below, (leaves[0].detach()[free].requires_grad_(), *leaves[1:]))


# torch's own map


class Layer(nn.Module):
    """What pyvene's LowRankRotateLayer is: a matrix, made orthogonal by torch's parametrization."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(start.clone())

    def forward(self, h: Tensor) -> Tensor:
        return h @ self.weight


@pytest.mark.parametrize("rank", [1, 6, 19])
@pytest.mark.parametrize(
    ("dtype", "swaps", "tolerance"),
    [(torch.float64, False, 1e-11), (torch.float64, True, 1e-6), (torch.float32, True, 1e-5)],
    ids=["coordinates float64", "swap float64", "swap float32"],
)
def test_householder_trains_as_torchs_parametrization_does(
    dtype: torch.dtype, swaps: bool, tolerance: float, rank: int, seed: int
) -> None:
    """Fifty steps on a regression of coordinates, or of swapped values: one basis all the way.

    What a swap does depends on the span alone, so that its gradient along rotations within the span is rounding (1e-17), of
    which Adam with ε = 1e-8 makes steps of 1e-9 of the rate in float64, and whole ones in float32, where no two computations
    agree for long. Hence gradient descent with momentum there.
    """
    width = 20
    layer = orthogonal(Layer(orthonormal(width, rank, seed).to(dtype)))
    rotation = Rotation.like_torch(layer)
    assert rotation.weight.dtype == dtype
    h, s, target = (draw.to(dtype) for draw in draws(seed, 3, 64, width))
    theirs = layer.parametrizations.weight.original
    optimisers = [
        torch.optim.Adam([weight], lr=0.01) if dtype == torch.float64 else torch.optim.SGD([weight], lr=0.03, momentum=0.9)
        for weight in (theirs, rotation.weight)
    ]
    begun = rotation.basis.detach()
    for _ in range(50):
        swapped = h + (layer(s) - layer(h)) @ layer.weight.mT, apply(Replace(), rotation, h, s)
        losses = [(new - target).square().mean() for new in swapped]
        if not swaps:
            losses = [(new - target[:, :rank]).square().mean() for new in (layer(h), rotation.encode(h))]
        for optimiser, loss in zip(optimisers, losses, strict=True):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        torch.testing.assert_close(rotation.basis, layer.weight, atol=tolerance, rtol=0)
    assert (rotation.basis - begun).abs().max() > 0.1, "it went somewhere"
    torch.testing.assert_close(rotation.weight.grad, theirs.grad, atol=10 * tolerance, rtol=0)
    for state in (layer, nn.ModuleDict({"rotate": layer}).state_dict()):
        torch.testing.assert_close(Rotation.like_torch(state).basis, layer.weight, atol=1e-6, rtol=0)


def test_signs_are_the_diagonals(seed: int) -> None:
    """torch multiplies columns by the diagonal of its parameters."""
    layer = orthogonal(Layer(orthonormal(9, 4, seed)))
    with torch.no_grad():
        layer.parametrizations.weight.original[1, 1] = 1.0
    rotation = Rotation.like_torch(layer)
    torch.testing.assert_close(rotation.basis, layer.weight, atol=1e-12, rtol=0)
    before = rotation.basis.detach()
    with torch.no_grad():  # torch truncates the signs to integers: weight decay makes them, and the whole matrix, zero
        rotation.weight.diagonal().mul_(0.999)
    torch.testing.assert_close(rotation.basis, before, atol=1e-12, rtol=0)


def test_what_cannot_be_read_from_torch(seed: int) -> None:
    tall, square = orthonormal(6, 2, seed), orthonormal(4, 4, seed)
    for module in (orthogonal(Layer(square)), orthogonal(Layer(tall), orthogonal_map="cayley"), orthogonal(Layer(tall.mT))):
        with pytest.raises(ShapeMismatchError, match="is not a tall matrix under torch's map 'householder'"):
            Rotation.like_torch(module)
    without = orthogonal(Layer(tall), use_trivialization=False)
    both = nn.ModuleList([orthogonal(Layer(tall)), orthogonal(Layer(tall))])
    for module in (without, both, nn.Linear(2, 2)):
        with pytest.raises(
            ShapeMismatchError, match=re.escape("expected one tensor named parametrizations.*.original and its")
        ):
            Rotation.like_torch(module)


# replacing coordinates, at once


@pytest.mark.parametrize("features", [(7, 10), (7, 3, 10), (0, 10)])
@pytest.mark.parametrize("kind", ["rotation", "subspace"])
def test_an_interchange_is_what_encoding_and_decoding_give(
    kind: str, features: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """h + F⁻¹(F(s)) − F⁻¹(F(h)), with its gradients, in one call of the kernel; interpolating by 1 takes the long way."""
    calls, kernel = itertools.count(), kernels.subspace_interchange
    monkeypatch.setattr(kernels, "subspace_interchange", lambda *given: (next(calls), kernel(*given))[1])
    rotation = Rotation(10, 4, seed=seed).double()
    featurizer = rotation if kind == "rotation" else Subspace(rotation.basis.detach())
    found = []
    for edit in (Replace(), Interpolate(1.0)):
        h, s = (tensor.clone().requires_grad_() for tensor in draws(seed, 2, *features))
        new = apply(edit, featurizer, h, s)
        (new**3).sum().backward()
        gradients = [h.grad, s.grad, *(parameter.grad for parameter in featurizer.parameters())]
        found.append([new.detach(), *(gradient.clone() for gradient in gradients if gradient is not None)])
        rotation.weight.grad = None
    assert len(found[0]) == (4 if kind == "rotation" else 3)
    for at_once, apart in zip(*found, strict=True):
        torch.testing.assert_close(at_once, apart, atol=1e-12, rtol=1e-12)
    assert next(calls) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_interchange_is_rounded_once(dtype: torch.dtype, seed: int) -> None:
    """Products are float32 at least: a rotation gives back what they are, a subspace the value's own precision."""
    rotation = Rotation(40, 5, seed=seed)
    h, s = (tensor.to(dtype) for tensor in draws(seed, 2, 6, 40))
    basis = rotation.basis.detach()
    exact = h.double() + (s.double() - h.double()) @ basis.double() @ basis.double().T
    given = apply(Replace(), rotation, h, s).detach()
    assert given.dtype == torch.float32
    torch.testing.assert_close(given.double(), exact, atol=1e-5, rtol=0)
    found = apply(Replace(), Subspace(basis), h, s)
    assert found.dtype == dtype
    torch.testing.assert_close(found, exact.to(dtype), atol=1e-5 if dtype == torch.float32 else 0, rtol=2**-8)


def test_an_interchange_refuses_another_width(seed: int) -> None:
    rotation, (h, s) = Rotation(10, 3), draws(seed, 2, 5, 9)
    for featurizer in (rotation, Subspace(rotation.basis.detach())):
        with pytest.raises(ShapeMismatchError, match=r"of width 10 was used on features of width 9"):
            apply(Replace(), featurizer, h, s)


# one basis a step


def test_the_basis_is_computed_once_within_once(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Four times a write otherwise, once where the coordinates are replaced; values and gradients are the same."""
    counter = itertools.count()
    maps = {"qr": lambda weight: (next(counter), torch.linalg.qr(weight).Q)[1]}
    monkeypatch.setattr(module_of_rotation, "_MAPS", maps)
    rotation, (h, s) = Rotation(10, 3).double(), draws(seed, 2, 5, 10)

    def step() -> Tensor:
        rotation.weight.grad = None
        new = apply(Interpolate(1.0), rotation, h, s)
        (new**3).sum().backward()
        assert rotation.weight.grad is not None
        return torch.cat([new.detach().flatten(), rotation.weight.grad.flatten()])

    apart = step()
    assert next(counter) == 4
    with rotation.once():
        together = step()
        assert next(counter) == 6
    torch.testing.assert_close(together, apart, atol=1e-12, rtol=0)
    torch.testing.assert_close(step(), apart, atol=1e-12, rtol=0)
    assert next(counter) == 11
    apply(Replace(), rotation, h, s)
    assert next(counter) == 13


def test_what_is_held_is_never_stale(seed: int) -> None:
    rotation = Rotation(10, 3)
    optimiser = torch.optim.Adam(rotation.parameters(), lr=0.1)
    with rotation.once():
        with torch.no_grad():
            assert not rotation.basis.requires_grad
        first = rotation.basis
        assert first.requires_grad, "held without a graph, wanted with one"
        assert rotation.basis is first
        (first**3).sum().backward()
        optimiser.step()
        assert (rotation.basis - first).abs().max() > 1e-2, "a step within"
        second = rotation.basis
        rotation.load_state_dict(Rotation(10, 3, seed=seed + 1).state_dict())
        assert (rotation.basis - second).abs().max() > 1e-2
        with pytest.raises(RuntimeError, match="a second time"):  # loudly, where one graph would serve two backward passes
            [rotation.basis.sum().backward() for _ in range(2)]
    for _ in range(2):
        rotation.basis.sum().backward()


# words


def test_a_spec_names_the_values(seed: int) -> None:
    specs = []
    for parametrization in EVERY:
        rotation = Rotation(8, 2, seed=3, parametrization=parametrization)
        specs += [rotation.spec(), moved(rotation, seed).spec()]
    specs += [Rotation(8, 3, seed=3).spec(), Rotation(8, 2, seed=4).spec(), Rotation(8, 2, seed=3).double().spec()]
    assert len({json.dumps(spec) for spec in specs}) == len(specs)
    assert specs[0] == Rotation(8, 2, seed=3).spec()
    assert specs[0].items() >= {"kind": "rotation", "width": 8, "rank": 2, "parametrization": "qr"}.items()
    assert repr(Rotation(8, 2)) == "Rotation(8 → 2)"
    assert repr(Rotation(8, 2, parametrization="cayley")) == "Rotation(8 → 2, cayley)"
    assert len({Rotation(8, 2), Rotation(8, 2)}) == 2, "hashed by identity"


def test_what_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown parametrization 'caley'; did you mean 'cayley'"):
        Rotation(4, 2, parametrization="caley")
    for rank in (0, 5):
        with pytest.raises(ShapeMismatchError, match=f"rank={rank} with width=4; expected 1 ≤ rank ≤ width"):
            Rotation(4, rank)
    with pytest.raises(ShapeMismatchError, match="torch parametrizes square matrices by the matrix exponential"):
        Rotation(4, 4, parametrization="householder")
    with pytest.raises(ShapeMismatchError, match=re.escape("start has shape (4, 3); expected [width, rank] = [4, 2]")):
        Rotation(4, 2, start=torch.eye(4)[:, :3])
    with pytest.raises(ShapeMismatchError, match="not orthonormal"):
        Rotation(4, 2, start=torch.ones(4, 2))
    with pytest.raises(ShapeMismatchError, match="a rotation of width 4 was used on features of width 5"):
        Rotation(4, 2).encode(torch.zeros(1, 5))
