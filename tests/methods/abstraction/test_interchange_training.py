"""Networks that are trained to have a causal model's variables where one says.

Expected numbers: the losses and their gradients by hand, in plain torch; of what was trained, outputs under swaps made by plain
torch or by :func:`interp.patch`, neither of which shares code with the training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import interp
from interp.errors import InputError, ShapeMismatchError, UnknownNameError
from interp.interventions import Change, Columns, Intervention, Rotation, Subspace
from interp.methods.abstraction.interchange_training import InterchangeTrained, _losses
from interp.models import Model, load
from interp.models.zoo import MLP, ZooConfig, ZooForCausalLM, hierarchical_equality
from interp.models.zoo.handmade import entity_pairs
from interp.prompts import Prompt
from interp.tasks import CausalModel, CausalTask
from interp.tasks.causal_model import Boolean, Integer
from interp.training import Interchanges
from interp.training.interchanges import interchanged

SETS = torch.tensor([[True, False], [False, True], [True, True]])


def equality(n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Interchanges:
    """(w = x) = (y = z): the first pair, the second or both from sources of their own."""
    sides = [entity_pairs(n, 2, 4, int(torch.randint(2**31, (1,), generator=generator))) for _ in range(3)]
    (base, own), (one, first), (two, second) = ((inputs.to(dtype), equal) for inputs, equal in sides)
    swap = SETS[torch.randint(3, (n,), generator=generator)]
    wx = torch.where(swap[:, 0], first[:, 0], own[:, 0])
    yz = torch.where(swap[:, 1], second[:, 1], own[:, 1])
    return Interchanges.of_tensors(base, {"WX": one, "YZ": two}, swap, wx == yz, own[:, 0] == own[:, 1])


def drawn(n: int, seed: int, dtype: torch.dtype = torch.float32) -> Interchanges:
    return equality(n, torch.Generator().manual_seed(seed), dtype)


def classifier(widths: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> Model:
    return load(MLP(widths, seed=seed, dtype=dtype), example={"x": torch.zeros(3, widths[0], dtype=dtype)})


def turned(width: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    draw = torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(draw).Q.to(dtype)


def halves(site: str, basis: Tensor, rank: int) -> dict[str, Change]:
    return {
        "WX": Change(site, featurizer=Subspace(basis[:, :rank])),
        "YZ": Change(site, featurizer=Subspace(basis[:, rank : 2 * rank])),
    }


def by_set(found: InterchangeTrained, name: str) -> dict[str, float]:
    mean = found.effects[name].mean("example")
    return dict(zip(mean.swapped_set.values.tolist(), mean.values.tolist(), strict=True))


@pytest.fixture(scope="module")
def trained() -> tuple[InterchangeTrained, Tensor]:
    """Both variables in five coordinates each of a rotated basis, the other six of no effect."""
    basis = turned(16, 3)
    found = interp.interchange_training(
        classifier((16, 64, 16, 16, 2), 0),
        lambda step, generator: equality(256, generator),
        halves("act2:output", basis, 5),
        test=drawn(3000, 11),
        validation=drawn(1000, 12),
        others=True,
        lr=3e-3,
        steps=3000,
        until=0.9995,
    )
    return found, basis


def test_what_it_makes_has_the_alignment_and_no_other(trained: tuple[InterchangeTrained, Tensor]) -> None:
    """IIA ≥ .999 of every swapped set; what has no variable moves nothing, and does no better than nothing at all."""
    found, _ = trained
    assert set(by_set(found, "iia")) == {"WX", "YZ", "WX+YZ"}
    assert min(by_set(found, "iia").values()) >= 0.999
    assert float(found.effects["task_accuracy"].mean()) >= 0.999
    assert all(0.4 < value < 0.6 for value in by_set(found, "no_op").values())
    assert float(found.effects["siia"].mean()) >= 0.99
    assert float(found.effects["leak"].mean()) <= float(found.effects["no_op"].mean()) + 0.01
    assert found.effects.sizes["step"] < 3000  # it stopped by the validation rows


def test_the_alignment_is_there_for_plain_torch(trained: tuple[InterchangeTrained, Tensor]) -> None:
    found, basis = trained
    net, rows = found.model.module, drawn(2000, 21)
    base, one, two = (side.others["x"] for side in (rows.base, *rows.sources.values()))

    def hidden(x: Tensor) -> Tensor:
        for name in ("linear1", "act1", "linear2", "act2"):
            x = net.get_submodule(name)(x)
        return x

    with torch.no_grad():
        first, second, rest = basis[:, :5], basis[:, 5:10], basis[:, 10:]
        h, s, t = hidden(base), hidden(one), hidden(two)
        for swap, wx, yz in ((SETS[0], s, h), (SETS[1], h, t), (SETS[2], s, t)):
            there = (rows.swap == swap).all(-1)
            mixed = wx @ first @ first.T + yz @ second @ second.T + h @ rest @ rest.T
            said = net.get_submodule("readout")(torch.relu(net.get_submodule("linear3")(mixed))).argmax(-1)
            assert (said == rows.label)[there].double().mean() >= 0.998


def test_das_finds_what_was_put_there(trained: tuple[InterchangeTrained, Tensor]) -> None:
    """From a random start, on prompts of the task; controls at chance."""
    found, _ = trained
    task = interp.tasks.hierarchical_equality()
    rows, held = (task.counterfactuals(n, ("WX",), seed=i) for i, n in enumerate((1500, 600)))
    search = interp.das(
        found.model, rows, "act2:output", test=held, rank=5, seeds=1, steps=150, lr=2e-2, controls=["no_op", "random_subspace"]
    )
    assert float(search.effects["iia"].mean()) >= 0.99
    assert all(float(search.effects[name].mean()) < 0.75 for name in ("no_op", "random_subspace"))


def test_fixed_units_make_a_localist_network(seed: int) -> None:
    """Without a rotation: a variable a half of the units, nothing left over; the copy alone was trained."""
    model = classifier((16, 64, 16, 16, 2), seed)
    before = model.digest
    found = interp.interchange_training(
        model,
        lambda step, generator: equality(256, generator),
        halves("act2:output", torch.eye(16), 8),
        test=drawn(1000, seed),
        validation=drawn(500, seed + 1),
        others=True,
        lr=3e-3,
        steps=3000,
    )
    assert model.digest == before != found.model.digest
    assert min(by_set(found, "iia").values()) >= 0.995
    assert "siia" not in found.effects  # no coordinate is left
    assert found.effects.attrs["trained_from_digest"] == before
    assert found.effects.attrs["digest"] == found.model.digest
    assert found.model.name == "MLP, trained on interchanges (seed 0)"


def by_hand(net: Any, rows: Interchanges, first: Tensor, second: Tensor, stopped: bool) -> list[Tensor]:
    base, one, two = (side.others["x"] for side in (rows.base, *rows.sources.values()))
    hidden = lambda x: torch.relu(net.linear1(x))  # noqa: E731
    rest = lambda h: net.readout(torch.relu(net.linear2(h)))  # noqa: E731
    h, s, t = hidden(base), hidden(one), hidden(two)
    if stopped:
        s, t = s.detach(), t.detach()
    mixed = h + rows.swap[:, :1] * ((s - h) @ first @ first.T) + rows.swap[:, 1:] * ((t - h) @ second @ second.T)
    said, single = rest(mixed), rows.swap.sum(-1) == 1
    free = torch.eye(len(first), dtype=h.dtype) - first @ first.T - second @ second.T
    other = rest(h + (h.roll(1, 0) - h) @ free)
    return [
        cross_entropy(rest(h), rows.base_label),
        cross_entropy(said[single], rows.label[single]),
        cross_entropy(said[~single], rows.label[~single]),
        cross_entropy(other, rows.base_label),
    ]


@pytest.mark.parametrize("stopped", [False, True])
def test_losses_and_gradients_are_those_by_hand(stopped: bool, seed: int) -> None:
    """Every term and its gradient in every weight, with sources that learn and sources that do not: float64, 1e-10."""
    model = classifier((16, 12, 8, 2), seed, torch.float64)
    basis = turned(12, seed, torch.float64)
    rows, places = drawn(64, seed, torch.float64), halves("act1:output", basis, 4)
    other = [Change("act1:output", featurizer=Subspace(basis[:, 8:]))]
    with model.prepared():
        mine = _losses(model, rows, places, other, (1.0, 1.0, 1.0, 1.0), stopped)
    own = by_hand(model.module, rows, basis[:, :4], basis[:, 4:8], stopped)
    weights = list(model.module.parameters())
    for term, expected in zip(mine, own, strict=True):
        assert term.item() == pytest.approx(expected.item(), abs=1e-10)
        found, hand = (torch.autograd.grad(one, weights, retain_graph=True) for one in (term, expected))
        for one, two in zip(found, hand, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-10)
    weighted = _losses(model, rows, places, other, (1.0, 0.0, 1.0, 0.0), stopped)
    assert weighted[1].item() == 0
    assert weighted[3].item() == 0
    assert weighted[2].item() == pytest.approx(own[2].item(), abs=1e-10)


def test_the_hand_built_network_needs_no_training() -> None:
    """All measures are 1 where a network of formulas has the alignment already: units [0, 8) and [8, 16)."""
    model = load(hierarchical_equality(4), example={"x": torch.zeros(3, 16)})
    rows = drawn(600, 5)
    with torch.no_grad(), model.prepared():
        said = interchanged(model, rows, halves("act1:output", torch.eye(16), 8))
    assert torch.equal(said.argmax(-1), rows.label)


def test_a_basis_that_learns_is_trained_as_a_copy(seed: int) -> None:
    whole = Rotation(16, 8, seed=1)
    before = whole.basis.detach().clone()
    places = {
        "WX": Change("act1:output", featurizer=Columns(whole, 0, 4)),
        "YZ": Change("act1:output", featurizer=Columns(whole, 4, 8)),
    }
    found = interp.interchange_training(
        classifier((16, 16, 2), seed), drawn(256, seed), places, test=drawn(64, seed), steps=10, batch=64, lr=1e-2
    )
    assert torch.equal(whole.basis, before)
    learned = [change.featurizer for change in found.places.values()]
    assert all(isinstance(one, Columns) for one in learned)
    assert learned[0].whole is learned[1].whole is not whole  # type: ignore[attr-defined]
    assert (learned[0].whole.basis - before).abs().max() > 1e-3  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="others=True"):
        interp.interchange_training(
            classifier((16, 16, 2), seed), drawn(64, 1), places, test=drawn(64, 2), steps=1, others=True
        )


def test_it_is_the_same_again_by_its_seed(seed: int) -> None:
    def once(number: int) -> str:
        found = interp.interchange_training(
            classifier((16, 8, 2), 0), drawn(100, seed), halves("act1:output", torch.eye(8), 4), test=drawn(50, 1),
            steps=12, batch=32, seed=number,
        )  # fmt: skip
        return found.model.digest

    assert once(1) == once(1) != once(2)


# a language model


def parity() -> CausalTask:
    """Two numbers: is the first at least 3, is the second odd, and are both so? Tokens 0 to 5, then 6; answers 7 and 8."""
    kinds: dict[str, Any] = {"x": Integer(0, 5), "y": Integer(0, 5), "A": Boolean(), "B": Boolean(), "O": Boolean()}
    model = CausalModel(
        kinds, {"A": lambda x: x >= 3, "B": lambda y: y % 2 == 1, "O": lambda A, B: A & B}, output="O", name="parity"
    )
    sample = lambda n, draw: {"x": draw.integers(6, size=n), "y": draw.integers(6, size=n)}  # noqa: E731
    return CausalTask(
        "parity",
        {"parity": model},
        {"train": sample, "test": sample},
        lambda row: Prompt((int(row["x"]), int(row["y"]), 6), {"x": (0, 1), "END": (2, 3)}),
        lambda value: 8 if value else 7,
        variables={"parity": ("A", "B")},
    )


def test_a_language_model_is_trained_and_patched(seed: int) -> None:
    """Variables in two planes of the stream at the last position; judged by interp.patch, on prompts with three sides."""
    config = ZooConfig(
        vocab_size=9, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, head_dim=16, intermediate_size=64
    )
    torch.manual_seed(0)
    model = load(ZooForCausalLM(config).eval())
    task, basis = parity(), turned(32, 0)
    places = {
        "A": Change("L0.resid_post", "END", featurizer=Subspace(basis[:, :8])),
        "B": Change("L0.resid_post", "END", featurizer=Subspace(basis[:, 8:16])),
    }
    train, test, validation = (task.counterfactuals(n, seed=i) for n, i in ((1024, 0), (200, seed), (200, 1)))
    found = interp.interchange_training(
        model, train, places, test=test, validation=validation, others=True,
        steps=300, batch=256, lr=3e-3,
    )  # fmt: skip
    assert min(by_set(found, "iia").values()) >= 0.99
    assert float(found.effects["task_accuracy"].mean()) >= 0.99
    assert float(found.effects["siia"].mean()) >= 0.95
    named = [
        Change(place.site, place.positions, interp.Activation(f"source:{name}"), featurizer=place.featurizer)
        for name, place in found.places.items()
    ]
    patched = interp.patch(
        found.model, test.pairs(), Intervention((named[0],)).then(Intervention((named[1],))), metric="accuracy"
    )
    expected = np.nanmax(found.effects["iia"].values, axis=0)
    np.testing.assert_array_equal(np.squeeze(patched["value"].values), expected)


# what is refused


def test_rows_that_do_not_fit_are_refused() -> None:
    x, label = torch.zeros(4, 16), torch.zeros(4).long()
    with pytest.raises(ShapeMismatchError, match="source of WX 3"):
        Interchanges.of_tensors(x, {"WX": x[:3]}, torch.ones(4, 1), label, label)
    with pytest.raises(ShapeMismatchError, match=r"swap is \(4, 2\) for the variables WX"):
        Interchanges.of_tensors(x, {"WX": x}, torch.ones(4, 2), label, label)


def test_places_and_numbers_that_make_no_sense_are_refused() -> None:
    model, rows = classifier((16, 8, 2), 0), drawn(16, 0)
    places = halves("act1:output", torch.eye(8), 4)

    def asked(places: dict[str, Any] = places, train: Any = rows, **options: Any) -> object:
        return interp.interchange_training(model, train, places, test=rows, **{"steps": 1, **options})

    with pytest.raises(UnknownNameError, match="YZ"):
        asked({"WX": places["WX"]})
    with pytest.raises(UnknownNameError, match="ZZ"):
        asked({**places, "ZZ": places["WX"]})
    with pytest.raises(InputError, match="is no place of a variable"):
        asked({**places, "WX": Change("act1:output", source=torch.zeros(8))})
    with pytest.raises(InputError, match=r"beta=-1.0; expected the weight of a term"):
        asked(beta=-1.0)
    with pytest.raises(InputError, match=r"until=2.0; expected an accuracy"):
        asked(until=2.0)
    with pytest.raises(InputError, match="rows are of type list; expected Interchanges"):
        asked(train=lambda step, generator: [])
