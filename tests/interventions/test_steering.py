"""Edits along a direction, against their formulas, and doses of an intervention."""

from __future__ import annotations

import pytest
import sweeps
import torch
from torch import Tensor

from interp.errors import InputError, ShapeMismatchError
from interp.interventions import (
    Add,
    AddPreservingNorm,
    Change,
    Constant,
    Interpolate,
    Intervention,
    ProjectOut,
    Replace,
    Scale,
    SetCoefficient,
    doses,
    strength_of,
)

EPS = 4e-16
"""What rounding leaves in float64, of numbers near 1."""


def drawn(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Seven tokens of 24 features, some of them large, and a direction of length 3."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(7, 24, generator=generator, dtype=torch.float64) * torch.logspace(-2, 3, 7, dtype=torch.float64)[:, None]
    v = torch.randn(24, generator=generator, dtype=torch.float64)
    return h.to(dtype), (3 * v / v.norm()).to(dtype)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, EPS), (torch.float32, 1e-5)])
@pytest.mark.parametrize("scale", [-3.0, 0.5, 40.0])
def test_the_norm_of_every_token_is_preserved(dtype: torch.dtype, most: float, scale: float, seed: int) -> None:
    """Not that over positions, which changes the norms of tokens; and the formula of the card."""
    h, v = drawn(seed, dtype)
    new = AddPreservingNorm(scale)(h, v)
    assert float((new.norm(dim=-1) / h.norm(dim=-1) - 1).abs().max()) <= most
    moved = h + scale * v
    torch.testing.assert_close(new, moved * (h.norm(dim=-1) / moved.norm(dim=-1))[:, None])
    over_positions = moved * (h.norm(dim=0) / moved.norm(dim=0))
    assert float((over_positions.norm(dim=-1) / h.norm(dim=-1) - 1).abs().max()) > 0.05


def test_a_strength_of_zero_is_the_identity_to_the_bit(seed: int) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        h, v = drawn(seed, dtype)
        assert torch.equal(AddPreservingNorm(0.0)(h, v), h)
        assert AddPreservingNorm(2.0)(h, v).dtype == dtype
        assert ProjectOut()(h, v).dtype == dtype
    assert torch.equal(AddPreservingNorm(2.0)(torch.zeros(2, 24), v.float()), torch.zeros(2, 24) + 0), "0 has no size to keep"


def test_what_is_parallel_stays(seed: int) -> None:
    """Above −1 in units of h itself, where it is turned round."""
    h, _ = drawn(seed)
    for scale in (-0.9, 0.3, 7.0):
        torch.testing.assert_close(AddPreservingNorm(scale)(h, h), h, rtol=4 * EPS, atol=0)
    torch.testing.assert_close(AddPreservingNorm(-1.5)(h, h), -h, rtol=4 * EPS, atol=0)


def test_projections(seed: int) -> None:
    """Nothing is left along the direction, whatever its length; twice is once; what is orthogonal stays."""
    h, v = drawn(seed)
    unit, size = v / v.norm(), h.norm(dim=-1)
    once = ProjectOut()(h, v)
    torch.testing.assert_close(once, h @ (torch.eye(24, dtype=h.dtype) - torch.outer(unit, unit)), rtol=0, atol=1e-12)
    assert float(((once @ unit).abs() / size).max()) <= EPS
    assert float(((ProjectOut()(once, v) - once).norm(dim=-1) / size).max()) <= EPS
    assert torch.equal(ProjectOut()(h, v), SetCoefficient(0.0)(h, v))
    for coefficient in (-2.0, 0.0, 5.0):
        new = SetCoefficient(coefficient)(h, v)
        assert float(((new @ unit - coefficient).abs() / (size + abs(coefficient))).max()) <= 2 * EPS
        torch.testing.assert_close(ProjectOut()(new, v), once, rtol=0, atol=1e-12)
    own = (h @ unit)[3]
    torch.testing.assert_close(SetCoefficient(float(own))(h[3:4], v), h[3:4], rtol=0, atol=1e-13)


def test_directions_row_by_row_and_head_by_head(seed: int) -> None:
    """Each row and each head has its own direction where the source has; the last axis is that of the features."""
    generator = torch.Generator().manual_seed(seed)
    h, s = (torch.randn(5, 3, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    for edit in (AddPreservingNorm(2.0), ProjectOut(), SetCoefficient(1.5)):
        expected = torch.stack([torch.stack([edit(h[i, j], s[i, j]) for j in range(3)]) for i in range(5)])
        torch.testing.assert_close(edit(h, s), expected, rtol=0, atol=1e-14)


def test_gradients_flow(seed: int) -> None:
    h, v = drawn(seed)
    for edit in (AddPreservingNorm(0.7), ProjectOut(), SetCoefficient(2.0)):
        assert torch.autograd.gradcheck(edit, (h[:2].clone().requires_grad_(), v.clone().requires_grad_()))


def test_what_is_no_direction_is_refused() -> None:
    for edit in (ProjectOut(), SetCoefficient(1.0)):
        with pytest.raises(ShapeMismatchError, match="a direction of 4 features, but it has 1; give a vector"):
            edit(torch.ones(2, 4), torch.ones(1))
        with pytest.raises(InputError, match="points nowhere"):
            edit(torch.ones(2, 4), torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]))


def test_doses_set_the_strength() -> None:
    source = Constant(torch.ones(4))
    named = [(Add(3.0), "scale"), (AddPreservingNorm(), "scale"), (Scale(), "factor"), (Interpolate(), "weight")]
    for edit, field in [*named, (SetCoefficient(), "coefficient")]:
        made = doses(Change("L1.z", -1, source, edit), [0, 2.5])
        assert [getattr(change.edit, field) for change in made] == [0, 2.5]
        assert [strength_of(change) for change in made] == [0, 2.5]
        assert all(
            (change.site, change.positions, change.source) == (made[0].site, made[0].positions, source) for change in made
        )
        assert made[1].spec() == Change("L1.z", -1, source, type(edit)(2.5)).spec()
    both = Intervention.of(Change("L1.z", edit=Add(7.0)), Change("L2.z"), Change("L3.z", edit=Scale()))
    (dosed,) = doses(both, torch.tensor([4]))
    assert [change.edit for change in dosed.changes] == [Add(4), Replace(), Scale(4)]
    assert strength_of(dosed) == 4
    assert strength_of(both) is strength_of(None) is strength_of(Change("L2.z")) is None, "two strengths are not one"


def test_doses_of_nothing_are_refused() -> None:
    change = Change("L1.z", edit=Add())
    with pytest.raises(InputError, match=r"has no strength \(Replace\); give its edit one: Add"):
        doses(Change("L1.z"), [1])
    for wrong in ([], [float("nan")], "abc", [None]):
        with pytest.raises(InputError, match="expected finite numbers"):
            sweeps.unchecked(doses)(change, wrong)
    with pytest.raises(InputError, match="of type list; several at one strength are one intervention"):
        sweeps.unchecked(doses)([change], [1])
