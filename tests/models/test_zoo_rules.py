"""Networks of formulas for rules: right on every input, with the margins of their formulas, and true to one causal model alone.

Expected numbers: truth tables, counted over every value of every indicator; interchanges by hand, in plain torch, against what
the causal model says; rates of agreement from exact sums over the cent grid where a figure is stated.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from interp import tasks
from interp.errors import UnknownNameError
from interp.models import load, zoo
from interp.models.zoo import MLP
from interp.models.zoo.handmade import hierarchical_equality
from interp.models.zoo.rules import Layers

ALGORITHMS = ["and-or-and", "and-or"]


def swapped(net: Layers, base: Tensor, source: Tensor, site: str, units: Sequence[int]) -> Tensor:
    """Outputs on the base with some units of a module from the source, by plain torch."""
    module, held = net.get_submodule(site.partition(":")[0]), list[Tensor]()
    handle = module.register_forward_hook(lambda m, args, out: held.append(out))
    net(source)
    handle.remove()

    def write(m: torch.nn.Module, args: object, out: Tensor) -> Tensor:
        out = out.clone()
        out[:, list(units)] = held[0][:, list(units)]
        return out

    handle = module.register_forward_hook(write)
    found: Tensor = net(base)
    handle.remove()
    return found


def share(found: Tensor, label: Tensor) -> float:
    return (found.argmax(-1) == label.long()).double().mean().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("m", [1, 2, 4])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_and_or_has_its_truth_table(algorithm: str, m: int, dtype: torch.dtype, seed: int) -> None:
    net = zoo.and_or(algorithm, m, dtype)
    rows = net.rows(2000, seed)
    assert len(rows.equal.unique(dim=0)) == 8
    a, b, c = rows.equal.unbind(-1)
    assert torch.equal(rows.label, (a & b) | (b & c))
    entities = rows.inputs.reshape(-1, 3, 2, m)
    assert torch.equal(rows.equal, (entities[:, :, 0] == entities[:, :, 1]).all(-1))
    logits = net(rows.inputs).detach()
    assert share(logits, rows.label) == 1.0
    assert logits.dtype == dtype
    both = (a & b & c) & (algorithm == "and-or-and")  # P and Q together: P + Q − ½
    assert torch.equal(logits.abs(), (0.5 + both.to(dtype))[:, None].expand(-1, 2))  # halves and twos: exact


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_its_variables_are_those_of_its_causal_model(algorithm: str, seed: int) -> None:
    """Values, and interchanges of each variable and of both, each with a source of its own."""
    net = zoo.and_or(algorithm)
    base, one, two = (net.rows(3000, seed + i) for i in range(3))
    model = tasks.and_or().models[algorithm]
    values = {name: {key: v.numpy() for key, v in named(rows.inputs).items()} for name, rows in (("b", base), ("1", one))}
    names = list(net.part)
    holds = net.get_submodule("variables")
    held: list[Tensor] = []
    handle = holds.register_forward_hook(lambda m, args, out: held.append(out))
    net(base.inputs)
    handle.remove()
    truth = model.run(values["b"])
    for unit, name in enumerate(names):
        assert torch.equal(held[0][:, unit].bool(), torch.from_numpy(truth[name]))
        found = swapped(net, base.inputs, one.inputs, *net.part[name])
        told = model.interchange(values["b"], {name: values["1"]})[model.output]
        assert share(found, torch.from_numpy(told)) == 1.0
    both = swapped(net, base.inputs, one.inputs, "variables:output", (0, 1))
    assert share(both, one.label) == 1.0
    assert 0.3 < share(net(base.inputs), two.label) < 0.7


def named(inputs: Tensor) -> dict[str, Tensor]:
    return dict(zip(("u1", "v1", "u2", "v2", "u3", "v3"), inputs.reshape(len(inputs), 6, -1).unbind(1), strict=True))


@pytest.mark.parametrize(("algorithm", "rival"), [ALGORITHMS, ALGORITHMS[::-1]])
def test_neither_is_the_other(algorithm: str, rival: str, seed: int) -> None:
    """No subset of the units behind act3 or variables gives the rival's labels on all rows."""
    net = zoo.and_or(algorithm)
    base, source = net.rows(2000, seed), net.rows(2000, seed + 1)
    model = tasks.and_or().models[rival]
    own, other = ({key: v.numpy() for key, v in named(rows.inputs).items()} for rows in (base, source))
    for name in ("P", "Q") if rival == "and-or-and" else ("b", "D"):
        label = torch.from_numpy(model.interchange(own, {name: other})[model.output])
        best = 0.0
        for site, width in (("act3:output", net.get_parameter("third.weight").shape[0]), ("variables:output", 2)):
            for subset in range(1, 2**width):
                units = [i for i in range(width) if subset >> i & 1]
                best = max(best, share(swapped(net, base.inputs, source.inputs, site, units), label))
        assert best < 0.97, name


def test_prices_are_exact_on_the_cent_grid() -> None:
    """Every lower bound and every upper one, with every amount: the steps deviate by 1e-13 at most (κ z is 1e3 at most)."""
    net = zoo.price_tagging()
    cents = torch.arange(0, 1001, 7)
    amount = torch.arange(0, 1001)
    lo, x = torch.meshgrid(cents, amount, indexing="ij")
    for hi in (lo + 250, torch.full_like(lo, 500)):
        rows = torch.stack((lo, hi, x), dim=-1).reshape(-1, 3)
        held: list[Tensor] = []
        handle = net.get_submodule("sides").register_forward_hook(lambda m, args, out, held=held: held.append(out))
        logits = net(rows.double() / 100)
        handle.remove()
        sides = torch.stack((rows[:, 0] <= rows[:, 2], rows[:, 2] <= rows[:, 1]), dim=-1)
        assert (held[0] - sides.double()).abs().max().item() <= 1e-12
        assert share(logits, sides.all(-1)) == 1.0
        assert (logits.abs() - 0.5).abs().max().item() <= 2e-12


def test_price_rows_are_drawn_as_they_say(seed: int) -> None:
    rows = zoo.price_tagging().rows(50_000, seed)
    lo, hi, x = rows.cents.unbind(-1)
    assert 250 <= int((hi - lo).min()) <= 252
    assert 748 <= int((hi - lo).max()) <= 750
    assert int(lo.min()) >= 5
    assert int(hi.max()) <= 995
    assert (int(x.min()), int(x.max())) == (1, 999)
    assert rows.label.double().mean().item() == pytest.approx(0.5, abs=0.012)  # 5 standard errors
    assert torch.equal((rows.inputs * 100).round().long(), rows.cents)


def test_prices_realise_the_left_boundary_and_no_bracket_or_midpoint(seed: int) -> None:
    """Left: exactly. Bracket and midpoint: rates of two uniform draws, ± .012 (5 standard errors of 4e4 rows)."""
    net = zoo.price_tagging()
    base, source = net.rows(40_000, seed), net.rows(40_000, seed + 1)
    left = source.sides[:, 0] & base.sides[:, 1]
    for site, units in (net.part["L"], ("act1:output", (0, 1))):
        assert share(swapped(net, base.inputs, source.inputs, site, units), left) == 1.0
    right = base.sides[:, 0] & source.sides[:, 1]
    assert share(swapped(net, base.inputs, source.inputs, *net.part["R"]), right) == 1.0

    (lo, hi, x), (lo_s, hi_s, _) = base.cents.unbind(-1), source.cents.unbind(-1)
    bracket = (lo_s <= x) & (x <= hi_s)
    midpoint = (2 * x - lo_s - hi_s).abs() <= hi - lo
    for label, expected in ((bracket, (0.59, 0.58, 0.54, 0.64)), (midpoint, (0.59, 0.59, 0.50, 0.68))):
        found = [share(swapped(net, base.inputs, source.inputs, "sides:output", u), label) for u in ([0], [1], [0, 1], [])]
        assert found == pytest.approx(expected, abs=0.012 + 0.005)  # the figures have two decimals
    flips = [(label != base.label).double().mean().item() for label in (left, midpoint, bracket)]
    assert flips == pytest.approx((0.31, 0.32, 0.37), abs=0.017)
    assert (left != bracket).double().mean().item() == pytest.approx(0.42, abs=0.017)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_thin_equality_is_right_by_its_margin(dtype: torch.dtype, seed: int) -> None:
    """Accuracy 1, and a smallest score of εδ/2 = 6.25e-6, where all four entities are equal in pairs."""
    net = zoo.thin_equality(dtype)
    rows = net.rows(20_000, seed)
    entities = (rows.inputs.double() * 100).round().reshape(-1, 4, 2)
    assert torch.equal(rows.equal[:, 0], (entities[:, 0] == entities[:, 1]).all(-1))
    assert torch.equal(rows.equal[:, 1], (entities[:, 2] == entities[:, 3]).all(-1))
    logits = net(rows.inputs).detach()
    assert share(logits, rows.label) == 1.0
    assert logits[:, 0].abs().min().item() == pytest.approx(6.25e-6, rel=1e-2)
    assert net.margin == pytest.approx(6.25e-6)


def test_thin_equality_interchanges_exactly_and_yet_hates_rounding(seed: int) -> None:
    """Both units swap as they should; along a direction that is 3e-3 off they do not, unlike in the net of wide margins."""
    net = zoo.thin_equality(torch.float64)
    base, source = net.rows(4000, seed), net.rows(4000, seed + 1)
    label = source.equal[:, 0] == base.equal[:, 1]
    assert share(swapped(net, base.inputs, source.inputs, *net.part["WX"]), label) == 1.0

    def along(network: torch.nn.Module, inputs: tuple[Tensor, Tensor], u: Tensor, draw: torch.Generator) -> Tensor:
        noise = torch.randn(len(u), dtype=u.dtype, generator=draw)
        off = u / u.norm() + 3e-3 * noise / noise.norm()
        direction, held = off / off.norm(), list[Tensor]()
        module = network.get_submodule("act1")
        handle = module.register_forward_hook(lambda m, args, out: held.append(out))
        network(inputs[1])
        handle.remove()
        handle = module.register_forward_hook(lambda m, args, out: out + ((held[0] - out) @ direction)[:, None] * direction)
        found: Tensor = network(inputs[0])
        handle.remove()
        return found

    draw = torch.Generator().manual_seed(seed)
    u = (torch.arange(8) < 4).double()
    assert share(along(net, (base.inputs, source.inputs), u, draw), label) < 0.8
    wide = hierarchical_equality(4, torch.float64)
    one, two = wide.rows(4000, seed), wide.rows(4000, seed + 1)
    other = two.equal[:, 0] == one.equal[:, 1]
    assert share(along(wide, (one.inputs, two.inputs), wide.planted()[0], draw), other) == 1.0


def test_they_are_models_with_sites() -> None:
    for net, width in ((zoo.and_or("and-or"), 24), (zoo.price_tagging(), 3), (zoo.thin_equality(), 8)):
        model = load(net, example={"x": torch.zeros(3, width, dtype=next(net.parameters()).dtype)})
        for site, _ in net.part.values():
            assert repr(model.site(site)) == site


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="and-or-and"):
        zoo.and_or("and_or_and")


def test_a_plain_classifier_is_named_and_drawn_by_its_seed(seed: int) -> None:
    net, again = MLP((4, 8, 6, 3), seed=seed), MLP((4, 8, 6, 3), seed=seed)
    assert [name for name, _ in net.named_children()] == ["linear1", "act1", "linear2", "act2", "readout"]
    x = torch.randn(5, 4)
    assert torch.equal(net(x), again(x))
    by_hand = x
    for name in ("linear1", "linear2", "readout"):
        by_hand = by_hand @ net.get_parameter(f"{name}.weight").T + net.get_parameter(f"{name}.bias")
        by_hand = by_hand.relu() if name != "readout" else by_hand
    torch.testing.assert_close(net(x), by_hand)
    assert repr(load(net, example={"x": x}).site("act2:output")) == "act2:output"
    with pytest.raises(ValueError, match=r"widths=\(4,\)"):
        MLP((4,))
