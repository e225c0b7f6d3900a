"""Boundless DAS, masking and non-linear maps on hierarchical equality (cards 7, 8 and 10 of causal abstraction)."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp import tasks
from interp.errors import InputError, ShapeMismatchError, UnknownNameError
from interp.interventions import BoundlessMask, Change, Intervention, RevNet, Rotation, Select, Subspace
from interp.models import Model
from interp.models.zoo.handmade import HierarchicalEquality, hierarchical_equality

TASK = tasks.hierarchical_equality()
QUICK: dict[str, Any] = {"steps": 300, "batch": 128, "progress": False, "controls": False}


def loaded(net: HierarchicalEquality) -> Model:
    return interp.load(net, example={"x": net.rows(4, 0).inputs[:3]})


def sides(seed: int) -> tuple[Any, Any]:
    return (TASK.counterfactuals(n, ("WX",), seed=seed + i) for i, n in enumerate((600, 300)))  # type: ignore[return-value]


def accuracy(found: Any) -> float:
    return float(found.effects["iia"].sel(found.effects.attrs["chosen"]).mean())


def test_the_boundary_shrinks_to_the_variable() -> None:
    """Card 7 (c): on the rotated bed one or two coordinates of sixteen are enough."""
    model = loaded(hierarchical_equality(4).rotated(0))
    train, test = sides(1)
    found = interp.boundless_das(model, train, "hidden:output", test=test, lr=1e-2, seeds=3, **QUICK)
    assert accuracy(found) >= 0.99
    assert float(found.effects["boundary"].sel(found.effects.attrs["chosen"])) <= 2


def test_of_a_pull_that_is_too_strong_nothing_is_left() -> None:
    """Card 7 (d): θ falls to its floor, and one coordinate of a random start is what is judged."""
    model = loaded(hierarchical_equality(4).rotated(1))
    train, test = sides(2)
    found = interp.boundless_das(model, train, "hidden:output", test=test, lr=1e-3, seeds=1, strength=1e3, **QUICK)
    assert found.effects["boundary"].values.ravel().tolist() == [1.0]
    assert found.interventions[0] is not None


@pytest.mark.parametrize("form", ["one-sided", "two-sided"])
def test_a_hard_boundary_is_the_first_columns(form: Any, seed: int) -> None:
    """Cards 7 (a) and (b), and the trap: two-sided, coordinate 0 is never more than half swapped."""
    mask = BoundlessMask(32, form=form, temperature=1e-6, start=11.84 / 32)
    assert mask.rank == 12
    value = mask.value.detach()
    assert float(value[1:].sum()) == pytest.approx(11, abs=1e-5)
    assert float(value[0]) == pytest.approx(1.0 if form == "one-sided" else 0.5, abs=1e-5)
    whole, draw = Rotation(32, 32, seed=seed % 1000), torch.Generator().manual_seed(seed)
    h, s = torch.randn(5, 32, generator=draw), torch.randn(5, 32, generator=draw)
    hard = Change("L0.resid_post", featurizer=whole, edit=mask.hard())(h, s)
    columns = Change("L0.resid_post", featurizer=Subspace(whole.basis.detach()[:, :12]))(h, s)
    torch.testing.assert_close(hard, columns, atol=1e-5, rtol=0)


def test_masking_finds_the_one_mask_that_is_right() -> None:
    """Card 8 (a): of all 65,536 masks over the sixteen neurons one has accuracy 1, the first pair's eight (enumerated below
    as far as single neurons added or left out)."""
    model = loaded(hierarchical_equality(4))
    train, test = sides(3)
    found = interp.binary_masking(model, train, "act1:output", test=test, lr=5e-2, strength=1e-3, **QUICK)
    chosen = found.best.changes[0].edit
    assert isinstance(chosen, Select)
    assert chosen.chosen.tolist() == [True] * 8 + [False] * 8
    assert accuracy(found) == 1.0
    assert found.effects["selected"].values.ravel().tolist() == [8.0]
    others = []
    for flipped in range(16):
        mask = chosen.chosen.clone()
        mask[flipped] = ~mask[flipped]
        others.append(Intervention.of(Change("act1:output", edit=Select(mask))))
    worse = interp.patch(model, test.pairs(), others, metric="accuracy")["value"].mean("example")
    assert float(worse.max()) < 1


def test_of_the_rotated_network_no_mask_is_right() -> None:
    """Card 8 (d), the localist ceiling: the best of all 65,536 masks reaches .76 on 600 rows; masks of few rows vary."""
    net = hierarchical_equality(4).rotated(0)
    base, source = net.rows(600, 1), net.rows(600, 2)
    with torch.no_grad():
        own, other = (net.hidden(net.act1(net.first(one.inputs))) for one in (base, source))
        label = source.equal[:, 0] == base.equal[:, 1]
        best = 0.0
        for some in torch.tensor(list(product((0.0, 1.0), repeat=16))).split(2048):
            mixed = own[None] + some[:, None] * (other - own)[None]
            said = net.readout(net.act3(net.third(net.act2(net.second(mixed))))).argmax(-1) == 1
            best = max(best, float((said == label).float().mean(-1).max()))
    assert 0.6 < best < 0.95
    model = loaded(net)
    train, test = sides(4)
    found = interp.binary_masking(model, train, "hidden:output", test=test, lr=5e-2, strength=1e-3, **QUICK)
    assert accuracy(found) < 0.95


def test_a_nonlinear_map_finds_it_too_and_several_variables_at_once() -> None:
    model = loaded(hierarchical_equality(4).rotated(2))
    train, test = (TASK.counterfactuals(n, seed=80 + i) for i, n in enumerate((800, 300)))
    found = interp.nonlinear_das(model, train, "hidden:output", test=test, blocks=3, seeds=1, lr=5e-3, **QUICK | {"steps": 500})
    assert accuracy(found) >= 0.9
    masks = [change.edit.chosen for change in found.best.changes]  # type: ignore[union-attr]
    assert torch.stack(masks).long().sum(0).tolist() == [1] * 8 + [0] * 8  # half of φ's coordinates, shared out
    phi = found.best.changes[0].featurizer
    assert isinstance(phi, RevNet)
    assert not any(parameter.requires_grad for parameter in phi.parameters())


def test_a_map_has_an_exact_inverse_and_volume_one(seed: int) -> None:
    """Card 10 (a) and (b): 3e-15 in float64 at ten blocks of sixteen features, log|det J| 0; 1e-5 in float32."""
    phi, draw = RevNet(16, blocks=10, seed=seed % 1000), torch.Generator().manual_seed(seed)
    h = torch.randn(50, 16, generator=draw, dtype=torch.float64)
    phi64 = RevNet(16, blocks=10, seed=seed % 1000).double()
    phi.requires_grad_(False)
    phi64.requires_grad_(False)
    torch.testing.assert_close(phi64.decode(phi64.encode(h)), h, atol=1e-12, rtol=0)
    torch.testing.assert_close(phi.decode(phi.encode(h.float())), h.float(), atol=2e-5, rtol=0)
    jacobian: Any = torch.autograd.functional.jacobian(phi64.encode, h[0]).detach()
    assert abs(float(torch.linalg.slogdet(jacobian)[1])) <= 1e-9
    assert float((phi64.encode(h) - h).abs().max()) > 1e-3  # it is not the identity


def test_a_map_without_weights_is_the_identity_and_changes_nothing_of_its_own(seed: int) -> None:
    """Card 10 (c) and (d)."""
    phi, draw = RevNet(8, blocks=3), torch.Generator().manual_seed(seed)
    h, s = torch.randn(6, 8, generator=draw), torch.randn(6, 8, generator=draw)
    change = Change("L0.resid_post", featurizer=phi, edit=Select(torch.arange(8) < 4))
    torch.testing.assert_close(change(h, h), h, atol=1e-6, rtol=0)
    with torch.no_grad():
        for parameter in phi.parameters():
            parameter.zero_()
    torch.testing.assert_close(change(h, s), torch.cat([s[:, :4], h[:, 4:]], -1), atol=1e-6, rtol=0)
    again = interp.interventions.from_safetensors(interp.interventions.to_safetensors(change))
    torch.testing.assert_close(again(h, s), change(h, s), atol=0, rtol=0)


def test_what_no_map_can_be() -> None:
    with pytest.raises(ShapeMismatchError, match=r"width=7.*even width"):
        RevNet(7)
    with pytest.raises(ShapeMismatchError, match="width 8 was used on features of width 6"):
        RevNet(8).encode(torch.zeros(2, 6))
    model = loaded(hierarchical_equality(4))
    train, test = (TASK.counterfactuals(40, seed=i) for i in (1, 2))
    with pytest.raises(InputError, match="2 variables: masks over the same features overlap"):
        interp.binary_masking(model, train, "act1:output", test=test, **QUICK)
    with pytest.raises(UnknownNameError, match="argument 'ranks' of nonlinear_das"):
        interp.nonlinear_das(model, train, "act1:output", ranks=3)  # type: ignore[call-arg]


def test_learning_rates_of_their_own(seed: int) -> None:
    """The boundary learns ``faster`` times as fast: after one step of Adam it has moved so much more than any weight."""
    model = loaded(hierarchical_equality(4).rotated(0))
    pairs = TASK.counterfactuals(64, ("WX",), seed=seed % 1000).pairs()
    rotation, mask = Rotation(16, 16, seed=1), BoundlessMask(16, temperature=1.0)
    before = [mask.fraction.item(), rotation.weight.detach().clone()]
    groups = lambda parameters, lr: torch.optim.Adam(  # noqa: E731
        [{"params": [p], "scale": 10.0 if p.ndim == 0 else 1.0} for p in parameters], lr=lr
    )
    one = Intervention.of(Change("hidden:output", featurizer=rotation, edit=mask))
    interp.training.fit(model, pairs, one, steps=1, batch=64, lr=1e-3, optimizer=groups, progress=False)
    moved = abs(mask.fraction.item() - before[0]), float((rotation.weight.detach() - before[1]).abs().max())
    np.testing.assert_allclose(moved, [1e-2, 1e-3], rtol=1e-2)
