"""Gates and masks: their formulas, what hard ones do, and the engine's two strategies."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
import xarray as xr
from torch import Tensor, nn

from interp import effects, kernels
from interp.engine import patch
from interp.errors import OrderError, ShapeMismatchError
from interp.interventions import (
    BoundlessMask,
    Change,
    Edit,
    Gate,
    HardConcrete,
    Identity,
    Interpolate,
    Intervention,
    Mask,
    Replace,
    Rotation,
    Scale,
    Select,
    Subspace,
    apply,
    learnable,
    once,
    parts,
    zero,
)
from interp.interventions.digest import digest

CLOSE = {"atol": 1e-12, "rtol": 0.0}
SOFT: dict[str, Callable[[], Any]] = {
    "gate": lambda: Gate((3, 1), seed=1),
    "gate with source": lambda: Gate((3, 4), seed=1, source=True),
    "mask": lambda: Mask((3, 4), temperature=0.7, start=torch.linspace(-2, 2, 12).reshape(3, 4)),
    "boundless": lambda: BoundlessMask(4, temperature=1.3),
    "boundless two-sided": lambda: BoundlessMask(4, form="two-sided", temperature=1.3, start=0.7),
    "hard concrete": lambda: HardConcrete((3, 1), start=torch.tensor([[-0.5], [0.1], [0.6]])),
    "hard concrete that keeps": lambda: HardConcrete((3, 4), start=torch.linspace(-1, 1, 12).reshape(3, 4), keep=True),
}
EVERY = SOFT | {"select": lambda: Select(torch.tensor([[True], [False], [True]]))}


def draws(seed: int, *shape: int) -> Iterator[Tensor]:
    return iter(torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


def rows(name: str) -> tuple[int, ...]:
    return (5, 4) if name.startswith("boundless") else (5, 3, 4)


# formulas


def test_a_gate_scales_and_with_a_source_it_mixes(seed: int) -> None:
    h, s = draws(seed, 2, 5, 3, 4)
    logits = next(draws(seed + 1, 1, 3, 1))
    g = 1 / (1 + torch.exp(-logits))
    gate, mixing = Gate((3, 1), start=logits), Gate((3, 1), start=logits, source=True)
    torch.testing.assert_close(gate(h, s), g * h, **CLOSE)
    torch.testing.assert_close(mixing(h, s), g * h + (1 - g) * s, **CLOSE)
    torch.testing.assert_close(mixing(h, torch.zeros_like(h)), gate(h, s), **CLOSE)
    torch.testing.assert_close(gate.value, g, **CLOSE)
    number = Gate((), start=0.3)
    torch.testing.assert_close(number(h, s), h * number.value.double(), atol=1e-7, rtol=0)
    assert (gate.kind, gate.commutes, gate.reads_source) == (Scale().kind, True, False)
    assert (mixing.kind, mixing.commutes, mixing.reads_source) == ("interpolate", False, True)


@pytest.mark.parametrize("heads", [3, 1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gates_on_heads_are_one_kernel(heads: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """One gate a head, or one for all of them; gradients are those of the product."""
    calls: list[Tensor] = []
    kernel = kernels.head_gates
    monkeypatch.setattr(kernels, "head_gates", lambda *given: calls.append(given[0]) or kernel(*given))
    gate = Gate((heads, 1), start=next(draws(seed + 1, 1, heads, 1)))
    h = next(draws(seed, 1, 5, 3, 4)).to(dtype).requires_grad_()
    found = gate(h, h)
    assert (len(calls), found.dtype, found.shape) == (1, dtype, h.shape)
    own, logits = h.detach().double().requires_grad_(), gate.logits.detach().clone().requires_grad_()
    expected = own * torch.sigmoid(logits)
    close = CLOSE if dtype == torch.float64 else {"atol": 0.0, "rtol": 2**-7}
    torch.testing.assert_close(found.double(), expected, **close)
    weights = next(draws(seed + 2, 1, 5, 3, 4)).to(dtype)
    (found * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    torch.testing.assert_close(h.grad.double(), own.grad, **close)
    torch.testing.assert_close(
        gate.logits.grad, logits.grad, **(close if dtype == torch.float64 else {"atol": 0.05, "rtol": 0.02})
    )


def test_gates_drawn_by_a_seed_are_uniform() -> None:
    """100 000 draws of U(0, 1): the largest distance between the two distribution functions, 1.95/√n at the 0.1 % level."""
    n = 100_000
    value = Gate((n,), seed=4).value.detach().sort().values
    assert (value - torch.arange(1, n + 1) / n).abs().max() <= 1.95 / math.sqrt(n)
    assert torch.equal(Gate((n,), seed=4).logits, Gate((n,), seed=4).logits)
    assert not torch.equal(Gate((n,), seed=4).logits, Gate((n,), seed=5).logits)


def test_a_mask_replaces(seed: int) -> None:
    h, s = draws(seed, 2, 5, 4)
    logits = next(draws(seed + 1, 1, 4))
    mask = Mask((4,), start=logits)
    for temperature in (1.0, 0.1, 3.0):
        mask.temperature = temperature
        m = 1 / (1 + torch.exp(-logits / temperature))
        torch.testing.assert_close(mask(h, s), (1 - m) * h + m * s, **CLOSE)
    mask.temperature = 1e-9
    torch.testing.assert_close(mask(h, s), mask.hard()(h, s), **CLOSE)
    assert torch.equal(mask.hard()(h, s), torch.where(logits > 0, s, h)), "exact to the bit"
    assert mask.hard(count=3).chosen.tolist() == (logits >= logits.sort().values[1]).tolist()
    torch.testing.assert_close(Mask((), start=0.0)(h, s), Interpolate(0.5)(h, s), **CLOSE)


def test_boundless_masks_are_the_published_ones() -> None:
    """Numbers from the method's card: at β = 11.84 a sum of 12; at T = 50 and 32 coordinates about .29 everywhere."""
    mask = BoundlessMask(32, start=11.84 / 32, temperature=1e-6)
    assert (float(mask.value.sum().detach()), mask.rank, mask.hard().count) == (12.0, 12, 12)
    warm = BoundlessMask(32, form="two-sided", temperature=50.0)
    assert ((warm.value - 0.29).abs() <= 0.015).all()
    i = torch.arange(32)
    torch.testing.assert_close(warm.value.detach(), torch.sigmoid(i / 50) * torch.sigmoid((16 - i) / 50))
    for temperature in (50.0, 1.0, 1e-3):
        warm.temperature = temperature
        assert warm.value[0] <= 0.5, "whatever the temperature, half of coordinate 0 stays"
    assert BoundlessMask(10, start=2.0).boundary == 10
    assert BoundlessMask(10, start=-1.0).rank == 1
    h, s = draws(0, 2, 5, 8)
    half, rotation = BoundlessMask(8, start=0.3), Rotation(8, 8, seed=1).double()
    first = Subspace(rotation.basis.detach()[:, :3])
    torch.testing.assert_close(apply(half.hard(), rotation, h, s), apply(Replace(), first, h, s), **CLOSE)


@pytest.mark.parametrize(
    ("options", "positive", "one"),
    [
        ({}, 0.831822, 0.168178),  # Edge Pruning's: σ(±T ln 11), T = 2/3
        (
            {"temperature": 0.2, "stretch": (-0.2, 1.0)},
            0.579784,
            None,
        ),  # DiffMask+'s: σ(T ln 5), T = .2; never 1 but by rounding
        ({"start": 1.2}, 1 / (1 + math.exp(-1.2 - 2 / 3 * math.log(11))), 1 / (1 + math.exp(-1.2 + 2 / 3 * math.log(11)))),
    ],
)
def test_hard_concrete_is_zero_and_one_as_often_as_it_should(
    options: dict[str, Any], positive: float, one: float | None, seed: int
) -> None:
    """200 000 draws within 4 standard errors: 1 run in 16 000 fails by chance."""
    n = 200_000
    mask = HardConcrete((n,), **options).double()
    mask.resample(torch.Generator().manual_seed(seed))
    z = mask.value.detach()
    assert z.min() == 0
    assert z.max() <= 1
    assert abs(float((z > 0).double().mean()) - positive) <= 4 * math.sqrt(positive * (1 - positive) / n)
    torch.testing.assert_close(float(mask.expected_l0.detach() / n), positive, atol=1e-6, rtol=0)
    if one is not None:
        assert abs(float((z == 1).double().mean()) - one) <= 4 * math.sqrt(one * (1 - one) / n)
    mask.expected_l0.backward()
    p = mask.probability.detach()
    torch.testing.assert_close(mask.logits.grad, p * (1 - p), **CLOSE)


def test_hard_concretes_noise_is_given_from_outside(seed: int) -> None:
    h, s = draws(seed, 2, 5, 3, 4)
    mask = HardConcrete((3, 4), keep=False)
    settled = mask(h, s)
    torch.testing.assert_close(settled, (h + s) / 2, atol=1e-6, rtol=0)  # the median draw at logit 0 is ½
    mask.resample(torch.Generator().manual_seed(seed))
    drawn = mask(h, s)
    assert torch.equal(mask(h, s), drawn), "one draw a step"
    mask.resample(torch.Generator().manual_seed(seed))
    assert torch.equal(mask(h, s), drawn)
    torch.manual_seed(0)
    mask.resample(generator := torch.Generator().manual_seed(seed))
    assert torch.equal(mask(h, s), drawn), "the global generator has no say"
    mask.resample(generator)
    assert not torch.equal(mask(h, s), drawn)
    keeping = HardConcrete((3, 4), keep=True)
    keeping.load_state_dict(mask.state_dict())
    torch.testing.assert_close(keeping(h, s), h + s - mask(h, s), atol=1e-6, rtol=0)
    for edit, sign in ((mask, 1), (keeping, -1)):
        edit.settle()
        assert torch.equal(edit(h, s), settled)
        with torch.no_grad():
            edit.logits[:] = -5 * sign
            edit.logits[1, 2] = 5 * sign
        assert (edit(h, s) != h).nonzero()[:, 1:].unique(dim=0).tolist() == [[1, 2]], "0 and 1 exactly"
        torch.testing.assert_close(edit(h, s), edit.hard()(h, s), **CLOSE)
    assert mask.hard(count=1).chosen.nonzero().tolist() == [[1, 2]]
    assert (~keeping.hard(count=11).chosen).sum() == 11


@pytest.mark.parametrize("name", SOFT)
def test_gradients_are_those_of_finite_differences(name: str, seed: int) -> None:
    edit = SOFT[name]().double()
    h, s = (draw.requires_grad_() for draw in draws(seed, 2, *rows(name)))
    (key, parameter), *_ = edit.named_parameters()

    def written(learned: Tensor, h: Tensor, s: Tensor) -> Tensor:
        with torch.nn.utils.stateless._reparametrize_module(edit, {key: learned}):
            return edit(h, s if edit.reads_source else s.detach())

    leaves = (parameter.detach().clone().requires_grad_(), h, s)
    torch.autograd.gradcheck(written, leaves)
    moved = torch.autograd.grad(written(*leaves).square().sum(), leaves[0])[0]
    assert (moved.abs() > 1e-6).all(), "no entry is left out"


@pytest.mark.parametrize("name", EVERY)
def test_edits_keep_shape_and_precision_and_are_edits(name: str, seed: int) -> None:
    edit = EVERY[name]()
    assert isinstance(edit, Edit)
    assert len({edit, EVERY[name]()}) == 2, "hashed by identity"
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        h, s = (draw.to(dtype) for draw in draws(seed, 2, *rows(name)))
        new = apply(edit, Identity(), h, s)
        assert (new.shape, new.dtype) == (h.shape, dtype)
        exact = edit(h.double(), s.double())
        rounded_once = torch.finfo(dtype).eps / 2 * exact.abs() if dtype == torch.bfloat16 else 0
        computed_in_float32 = 4 * torch.finfo(torch.float32).eps * torch.maximum(h.abs(), s.abs())
        assert ((new - exact).abs() <= rounded_once + computed_in_float32).all()


def test_a_mask_finds_the_coordinates_that_were_swapped(seed: int) -> None:
    """Targets in which coordinates 1, 4 and 5 of a known rotation are the source's; from logits of 0, by Adam and annealing."""
    h, s = draws(seed, 2, 64, 8)
    rotation = Rotation(8, 8, seed=seed).double().requires_grad_(False)
    planted = torch.zeros(8).bool().index_fill(0, torch.tensor([1, 4, 5]), True)
    target = apply(Select(planted), rotation, h, s)
    mask = Mask((8,))
    optimiser = torch.optim.Adam(mask.parameters(), lr=0.1)
    for step in range(60):
        mask.temperature = 0.1 ** (step / 30)
        optimiser.zero_grad()
        (apply(mask, rotation, h, s) - target).square().mean().backward()
        optimiser.step()
    assert torch.equal(mask.hard().chosen, planted)


# what is refused


def test_no_shape_is_broadcast_silently() -> None:
    words = "expected one axis for each feature axis, as long or 1, or the shape"
    h = torch.zeros(12, 12, 12)  # every axis fits every other
    for edit in (Gate((12,)), Mask((12, 1, 1)), BoundlessMask(12), HardConcrete((12,)), Select(torch.ones(12).bool())):
        with pytest.raises(ShapeMismatchError, match=words):
            edit(h, h)
    with pytest.raises(ShapeMismatchError, match=re.escape("has shape (3, 1) and was used on features (4, 8)")):
        Gate((3, 1))(torch.zeros(2, 4, 8), torch.zeros(2, 4, 8))
    with pytest.raises(ShapeMismatchError, match=re.escape("start has shape (3,); expected (3, 1)")):
        Gate((3, 1), start=torch.zeros(3))


def test_options_that_make_no_sense() -> None:
    for make in (lambda t: Mask((2,), temperature=t), lambda t: setattr(Mask((2,)), "temperature", t)):
        for temperature in (0.0, -1.0, float("nan")):
            with pytest.raises(ValueError, match=f"temperature={temperature}; expected more than 0"):
                make(temperature)
    for stretch in ((0.0, 1.1), (-0.1, 0.9)):
        with pytest.raises(ValueError, match=r"expected \(low, high\) with low < 0 and high ≥ 1"):
            HardConcrete((2,), stretch=stretch)
    for count in (-1, 3):
        with pytest.raises(ValueError, match=f"count={count}; expected between 0 and 2"):
            Mask((2,)).hard(count)


# in the engine


def close(a: xr.Dataset, b: xr.Dataset) -> None:
    """1e-5 × (1 + a bound on the logits of these models), as in the engine's own tests."""
    for name in ("value", "clean", "corrupt"):
        assert float(abs(a[name] - b[name]).max()) <= 1e-5 * 20, name


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_serial_equals_batched(kind: str, seed: int) -> None:
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [6, 5, 6], early=True)
    heads, width, d_head = tiny.HEADS, tiny.WIDTH, tiny.WIDTH // tiny.HEADS
    drawn = HardConcrete((heads, d_head))
    drawn.resample(torch.Generator().manual_seed(seed))
    gate, rotation = Gate((heads, 1), seed=seed), Rotation(width, 5, seed=seed)
    cases = [
        Intervention.of("L1.z", edit=gate),
        Intervention.of("L0.z@end", edit=Gate((heads, 1), seed=seed, source=True)),
        Intervention.of("L1H2.z", "L2H0.z", edit=Gate((), start=-1.0)),
        Intervention.of("L1H2.z@subject", edit=Gate((d_head,), seed=seed)),
        Intervention.of("L2.pattern", edit=Gate((heads, 1), seed=seed)),
        Intervention.of("L1.mlp_post[3]", edit=Gate((1,), start=-2.0)),
        Intervention.of("L1.resid_post@end", edit=Mask((5,), temperature=0.3, start=0.1), featurizer=rotation),
        Intervention.of("L1.z@end", edit=Mask((heads, 3)), featurizer=Rotation(d_head, 3, seed=seed)),
        Intervention.of("L1.resid_post@end", edit=BoundlessMask(width), featurizer=Rotation(width, width, seed=seed)),
        Intervention.of("L2.z@end", edit=drawn),
        Intervention.of("L2.z@end", edit=drawn.hard(count=9)),
        Intervention.of("L0.resid_pre", "L1.resid_pre@end", featurizer=rotation),
        Intervention.of("L1.z", edit=gate) & Intervention.of("L1H2.z", edit=Gate((), start=0.5)),  # scales commute
    ]
    serial, batched = (
        patch(model, pairs, cases, strategy=strategy, rows=rows) for strategy, rows in (("serial", None), ("batched", 7))
    )
    close(serial, batched)
    moved = abs(effects.effect(batched)).max(["metric", "example"])
    assert (moved.values > 1e-3).all(), "every case does something"


def third(logits: Tensor) -> Tensor:
    return logits[..., 3]


def test_gates_on_every_head_by_hand(seed: int) -> None:
    """Each head of layer 1 scaled before the output projection by a plain hook on the raw module."""
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [6, 4])
    gate = Gate((tiny.HEADS, 1), seed=seed)
    value = gate.value.detach()

    def change(z: Tensor) -> Tensor:
        return (z.unflatten(-1, (tiny.HEADS, -1)) * value).flatten(-2)

    found = patch(model, pairs, Intervention.of("L1.z", edit=gate), metric=third)["value"].values.ravel()
    path, prompts = "model.layers.1.self_attn.o_proj", [pair.corrupted.text for pair in pairs]
    expected = [float(sweeps.rerun(model.module, path, prompt, change, side="input")[3]) for prompt in prompts]
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert np.abs(found - patch(model, pairs, Intervention.of("L1.z"), metric=third)["corrupt"].values.ravel()).max() > 1e-2


def test_frozen_edits_say_what_known_ones_do(seed: int) -> None:
    """Everything chosen is a patch, nothing chosen the base run, a shut gate a zero ablation."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 6])
    every = torch.ones(tiny.HEADS, 1).bool()
    edits = [Select(every), Replace(), Select(~every), Scale(1.0), Gate((tiny.HEADS, 1), start=-1.0).hard(), Scale(0.0)]
    found = patch(model, pairs, [Intervention.of("L1.z", edit=edit) for edit in edits])["value"]
    for one, other in ((0, 1), (2, 3), (4, 5)):
        np.testing.assert_allclose(found.isel(cell=one), found.isel(cell=other), atol=1e-5)
    assert abs(found.isel(cell=0) - found.isel(cell=2)).max() > 1e-3


def test_gates_with_a_source_do_not_commute(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 6])
    both = Intervention.of("L1.z", edit=Gate((4, 1))) & Intervention.of("L1.z", edit=Gate((4, 1), source=True))
    with pytest.raises(OrderError, match="do not commute"):
        patch(model, pairs, both)


# found, saved, restored


def everything(seed: int) -> Intervention:
    """Every learned kind, one basis and one gate used twice."""
    shared, gate = Rotation(8, 3, seed=seed, parametrization="cayley"), Gate((4, 1), seed=seed)
    drawn = HardConcrete((3,), start=0.2)
    drawn.resample(torch.Generator().manual_seed(seed))
    return Intervention(
        (
            Change("L0.resid_post", edit=Mask((3,), temperature=0.2), featurizer=shared),
            Change("L1.resid_post", featurizer=shared),
            Change("L2.resid_post", edit=BoundlessMask(8, start=0.3), featurizer=Rotation(8, 8, seed=seed)),
            Change("L0.z", edit=gate),
            Change("L1.z", edit=gate),
            Change("L2.z", edit=drawn, featurizer=Rotation(8, 3, seed=seed, parametrization="householder"), source=zero()),
            Change("L3.z", edit=Select(torch.tensor([True, False])), featurizer=Subspace(torch.eye(4)[:, :2])),
            Change("L4.z"),
        )
    )


def test_parts_are_found_once(seed: int) -> None:
    intervention = everything(seed)
    names = ["0.featurizer", "0.edit", "2.featurizer", "2.edit", "3.edit", "5.featurizer", "5.edit", "6.featurizer", "6.edit"]
    assert list(parts(intervention)) == names
    found = learnable(intervention)
    assert len(found) == len({id(p) for p in found}) == 7
    assert all(isinstance(p, nn.Parameter) for p in found)
    intervention.changes[0].featurizer.requires_grad_(False)
    assert len(learnable(intervention)) == 6
    assert learnable(Intervention.of("L0.z")) == []


def test_once_holds_every_rotation(seed: int) -> None:
    intervention = everything(seed)
    rotation = intervention.changes[0].featurizer
    with once(intervention):
        assert rotation.basis is rotation.basis
    assert rotation.basis is not rotation.basis


def test_specs_and_words(seed: int) -> None:
    made = [json.dumps(make().spec()) for make in EVERY.values()]
    assert len(set(made)) == len(made)
    for make in EVERY.values():
        edit = make()
        assert edit.spec() == make().spec()
        before = edit.spec()
        with torch.no_grad():
            for tensor in edit.state_dict().values():
                tensor.logical_not_() if tensor.dtype == torch.bool else tensor.add_(0.25)
        assert edit.spec() != before
    assert digest({"a": torch.zeros(2)}) != digest({"b": torch.zeros(2)})
    assert repr(Gate((12, 1))) == "Gate(shape=[12, 1], source=False)"
    assert repr(Mask((3,), temperature=0.5)) == "Mask(shape=[3], temperature=0.5)"
    assert repr(Select(torch.tensor([True, False]))) == "Select(1 of 2)"
    assert repr(Change("L9.z", edit=Gate((12, 1)))) == "L9.z Gate(shape=[12, 1], source=False)"
