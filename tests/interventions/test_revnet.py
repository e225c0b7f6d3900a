"""Coupling blocks: an exact inverse and the identity's volume, whatever the networks in them are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interp.errors import ShapeMismatchError
from interp.interventions import (
    Composed,
    Identity,
    Intervention,
    Mask,
    Replace,
    RevNet,
    Select,
    apply,
    from_safetensors,
    learnable,
    random_subspace,
    to_safetensors,
)

WIDTH, BLOCKS = 16, 10


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def far(seed: int, width: int = WIDTH, **options: int) -> RevNet:
    """Away from the start, where the map is far from the identity: slopes as of a trained one."""
    phi = RevNet(width, seed=seed, **options)
    with torch.no_grad():
        for i, parameter in enumerate(phi.parameters()):
            parameter += 0.2 * drawn(seed + i + 1, *parameter.shape).to(parameter) / parameter.shape[-1] ** 0.5
    return phi


@pytest.mark.parametrize("make", [RevNet, far], ids=["at the start", "moved"])
def test_decoding_undoes_encoding(make: type[RevNet], seed: int) -> None:
    """2e-6 in float32 and 3e-15 in float64 for ten blocks of sixteen features at the start, more where slopes are."""
    phi = RevNet(WIDTH, BLOCKS, seed=seed) if make is RevNet else far(seed)
    moved = make is not RevNet
    h = drawn(seed, 500, WIDTH)
    assert (phi.decode(phi.encode(h.float())) - h.float()).abs().max() <= (2e-5 if moved else 4e-6)
    exact = phi.double()
    assert (exact.decode(exact.encode(h)) - h).abs().max() <= (4e-14 if moved else 8e-15)
    assert (exact.encode(exact.decode(h)) - h).abs().max() <= (4e-14 if moved else 8e-15)


def test_volume_is_kept_and_every_coordinate_mixes_with_all(seed: int) -> None:
    phi, h = far(seed).double(), drawn(seed, WIDTH)
    jacobian = torch.autograd.functional.jacobian(phi.encode, h)
    assert abs(torch.linalg.slogdet(jacobian).logabsdet.item()) <= 1e-6
    assert (jacobian - torch.eye(WIDTH)).abs().min() > 0, "all to all"


def test_the_map_is_not_linear(seed: int) -> None:
    phi, a, b = far(seed).double(), drawn(seed, WIDTH), drawn(seed + 1, WIDTH)
    bend = phi.encode(a + b) - phi.encode(a) - phi.encode(b) + phi.encode(torch.zeros(WIDTH, dtype=a.dtype))
    assert bend.abs().max() > 1e-3


def test_networks_of_zeros_are_the_identity(seed: int) -> None:
    phi, h = RevNet(WIDTH, 3, seed=seed), drawn(seed, 20, WIDTH).float()
    with torch.no_grad():
        phi.outer.zero_()
    assert torch.equal(phi.encode(h), h)
    assert torch.equal(phi.decode(h), h)


def test_the_source_being_the_base_changes_nothing(seed: int) -> None:
    phi, h = far(seed), drawn(seed, 20, WIDTH).float()
    for edit in (Replace(), Select(torch.arange(WIDTH) < 4), Mask((WIDTH,))):
        for keep_error in (True, False):
            torch.testing.assert_close(apply(edit, phi, h, h, keep_error=keep_error), h, atol=2e-5, rtol=0)
    torch.testing.assert_close(apply(Replace(), phi, h, h + 1), h + 1, atol=4e-5, rtol=0)


def test_chosen_coordinates_become_the_sources_and_others_stay(seed: int) -> None:
    phi, h, s = far(seed).double(), drawn(seed, 20, WIDTH), drawn(seed + 1, 20, WIDTH)
    new = phi.encode(apply(Select(torch.arange(WIDTH) < 4), phi, h, s))
    torch.testing.assert_close(new[:, :4], phi.encode(s)[:, :4], atol=1e-11, rtol=0)
    torch.testing.assert_close(new[:, 4:], phi.encode(h)[:, 4:], atol=1e-11, rtol=0)


def test_the_start_is_near_the_identity_but_not_it(seed: int) -> None:
    for width in (16, 128):
        phi, h = RevNet(width, BLOCKS, seed=seed), drawn(seed, 200, width).float()
        moved = (phi.encode(h) - h).norm() / h.norm()
        assert 0.05 <= moved <= 1.0


def test_every_parameter_learns(seed: int) -> None:
    phi = RevNet(WIDTH, 3, hidden=5, seed=seed)
    das = Intervention.of("L0.resid_post", featurizer=phi, edit=Select(torch.arange(WIDTH) < 4))
    assert len(learnable(das)) == 4
    h, s = drawn(seed, 50, WIDTH).float(), drawn(seed + 1, 50, WIDTH).float()
    das.changes[0](h, s).square().sum().backward()
    for name, parameter in phi.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().amax(-1).min() > 0 or name == "inner", name


def test_a_step_finds_what_only_a_bent_basis_holds(seed: int) -> None:
    """The value to swap is h₀ + |h₁|: no linear coordinate holds it; the map learns to."""
    torch.manual_seed(seed)
    phi, wanted = RevNet(2, blocks=2, hidden=16, seed=seed), Select(torch.tensor([True, False]))
    optimiser = torch.optim.Adam(phi.parameters(), lr=1e-2)
    losses = []
    for step in range(300):
        h, s = drawn(seed + 2 * step, 128, 2).float(), drawn(seed + 2 * step + 1, 128, 2).float()
        new = apply(wanted, phi, h, s)
        loss = (new[:, 0] + new[:, 1].abs() - s[:, 0] - s[:, 1].abs()).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])


def test_one_seed_is_one_map(seed: int) -> None:
    torch.manual_seed(1)
    first = RevNet(WIDTH, seed=7)
    torch.manual_seed(2)
    assert first.spec() == RevNet(WIDTH, seed=7).spec()
    assert first.spec() != RevNet(WIDTH, seed=8).spec()


def test_a_map_is_saved_bit_for_bit(seed: int) -> None:
    phi, h = far(seed, hidden=7, blocks=3), drawn(seed, 5, WIDTH)
    again = from_safetensors(to_safetensors(Composed(Identity(), phi))).second
    assert torch.equal(again.encode(h), phi.encode(h))
    assert (again.spec(), again.hidden, again.blocks) == (phi.spec(), 7, 3)
    within = Composed(random_subspace(2 * WIDTH, WIDTH, seed), phi)
    assert from_safetensors(to_safetensors(within)).spec() == within.spec()


def test_precision_is_float32_at_least(seed: int) -> None:
    phi, h = RevNet(WIDTH, seed=seed), drawn(seed, 5, WIDTH).bfloat16()
    assert phi.encode(h).dtype == phi.decode(h).dtype == torch.float32
    torch.testing.assert_close(phi.decode(phi.encode(h)), h.float(), atol=4e-6, rtol=0)
    assert phi.encode(h.double()).dtype == torch.float64


def test_rows_of_any_shape_are_rows(seed: int) -> None:
    phi, h = RevNet(WIDTH, 3, seed=seed), drawn(seed, 4, 3, WIDTH).float()
    torch.testing.assert_close(phi.encode(h)[2, 1], phi.encode(h[2, 1]))


def test_sizes_that_cannot_be_are_refused() -> None:
    for width, blocks, hidden in ((15, 10, None), (0, 10, None), (16, 0, None), (16, 1, 0)):
        with pytest.raises(ShapeMismatchError, match=rf"width={width}, blocks={blocks}, .* expected an even width"):
            RevNet(width, blocks, hidden)
    with pytest.raises(ShapeMismatchError, match="a RevNet of width 16 was used on features of width 14"):
        RevNet(16).encode(torch.zeros(2, 14))


def test_slopes_are_those_of_the_blocks_one_by_one(seed: int) -> None:
    """The formula of the docstring, written out, at 1e-12 in float64: in the values and in every weight, both ways."""
    phi = far(seed, hidden=12).double()
    h, s, weight = drawn(seed, 7, 3, WIDTH), drawn(seed + 1, 7, 3, WIDTH), drawn(seed + 2, WIDTH)

    def network(block: int, which: int, x: Tensor) -> Tensor:
        inner = (x @ phi.inner[block, which] + phi.inner_bias[block, which]).relu()
        return inner @ phi.outer[block, which] + phi.outer_bias[block, which]

    def encoded(x: Tensor) -> Tensor:
        one, two = x.chunk(2, dim=-1)
        for block in range(BLOCKS):
            one = one + network(block, 0, two)
            two = two + network(block, 1, one)
        return torch.cat([one, two], dim=-1)

    def decoded(x: Tensor) -> Tensor:
        one, two = x.chunk(2, dim=-1)
        for block in reversed(range(BLOCKS)):
            two = two - network(block, 1, one)
            one = one - network(block, 0, two)
        return torch.cat([one, two], dim=-1)

    found = []
    for encode, decode in ((phi.encode, phi.decode), (encoded, decoded)):
        own, other = h.clone().requires_grad_(), s.clone().requires_grad_()
        out = decode(torch.cat([encode(own)[..., :5], encode(other)[..., 5:]], dim=-1))
        found.append([out, *torch.autograd.grad((out**2 * weight).sum(), [own, other, *phi.parameters()])])
    for ours, written in zip(*found, strict=True):
        assert (ours - written).abs().max() <= 1e-12 * max(1.0, float(written.abs().max().detach()))


def test_a_change_goes_through_once_each_way(seed: int) -> None:
    """Own value and source in one pass there, and the edited value with the own one back: the same as four passes."""
    phi, calls = far(seed).double(), []

    class Counted(RevNet):
        def _run(self, h: Tensor, sign: int) -> Tensor:
            calls.append(sign)
            return phi._run(h, sign)

    h, s, select = drawn(seed, 6, WIDTH), drawn(seed + 1, 6, WIDTH), Select(torch.arange(WIDTH) < 8)
    found = apply(select, Counted(WIDTH), h, s)
    assert calls == [1, -1]
    f = phi.encode(h)
    expected = h + phi.decode(select(f, phi.encode(s))) - phi.decode(f)
    assert (found - expected).abs().max() <= 1e-12
