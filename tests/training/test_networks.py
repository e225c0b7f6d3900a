"""Networks with other weights: drawn anew, shuffled, trained; always a copy, with a name and a digest of its own.

Expected numbers: what transformers and torch draw after ``manual_seed``; the same multiset of entries; a loop of plain torch
that takes the same steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sweeps
import tiny
import torch
from torch import Tensor, nn

from interp.engine import patch
from interp.errors import InputError, TrainingError, WeightsError
from interp.models import Model, load
from interp.models.zoo import MLP, ZooConfig, ZooForCausalLM, hierarchical_equality
from interp.sites import grid
from interp.training import reinitialised, shuffled, train
from interp.training.networks import copied_as, descend

CHANGES = [reinitialised, shuffled]


def zoo_transformer(seed: int) -> ZooForCausalLM:
    torch.manual_seed(seed)
    config = ZooConfig(
        vocab_size=tiny.VOCAB,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=8,
        intermediate_size=24,
        tie_word_embeddings=True,
    )
    return ZooForCausalLM(config).eval()


def normed(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()
    net[1].running_mean.normal_()
    return net


def networks(seed: int) -> dict[str, Model]:
    return {
        "gpt2": load(tiny.gpt2(seed)),
        "zoo": load(zoo_transformer(seed)),
        "mlp": load(MLP((4, 5, 5, 2), seed=seed), example={"x": torch.zeros(3, 4)}),
        "normed": load(normed(seed), example={"input": torch.zeros(3, 4)}),
        "formulas": load(hierarchical_equality(2), example={"x": torch.zeros(3, 8)}),
    }


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["gpt2", "zoo", "mlp", "normed", "formulas"])
def test_a_copy_says_what_it_is(kind: str, change: Callable[[Model, int], Model], seed: int) -> None:
    model = networks(seed)[kind]
    before, digest = copy.deepcopy(model.module.state_dict()), model.digest
    drawn = torch.random.get_rng_state()
    one, again, other = change(model, 3), change(model, 3), change(model, 4)
    assert torch.equal(drawn, torch.random.get_rng_state())  # the generators stay as they were
    assert all(torch.equal(before[name], tensor) for name, tensor in model.module.state_dict().items())
    assert model.digest == digest
    assert one.digest == again.digest
    assert len({digest, one.digest, other.digest}) == 3
    what = "random init" if change is reinitialised else "shuffled weights"
    assert one.name == f"{model.name}, {what} (seed 3)"
    assert (one.dtype, one.device, one.bos, one.tokenizer) == (model.dtype, model.device, model.bos, model.tokenizer)
    assert list(one.sites()) == list(model.sites())
    assert one.unknown == ""


@pytest.mark.parametrize("kind", ["gpt2", "zoo", "mlp", "normed", "formulas"])
def test_shuffling_keeps_every_parameters_entries(kind: str, seed: int) -> None:
    model = networks(seed)[kind]
    found = dict(shuffled(model, 0).module.named_parameters())
    moved = 0
    for name, parameter in model.module.named_parameters():
        assert torch.equal(parameter.flatten().sort().values, found[name].flatten().sort().values), name
        moved += int((parameter != found[name]).sum())
    assert moved > 0.3 * sum(len(set(p.flatten().tolist())) > 2 and p.numel() for p in model.module.parameters())


def test_tied_weights_stay_tied(seed: int) -> None:
    model = load(zoo_transformer(seed))
    for change in CHANGES:
        net: Any = change(model, 0).module
        assert net.lm_head.weight is net.model.embed_tokens.weight


def test_a_transformer_is_drawn_as_its_own_class_draws(seed: int) -> None:
    """Expected: a model that is made of the same configuration under the same seed."""
    net = zoo_transformer(seed)
    found = reinitialised(load(net), 5).module.state_dict()
    torch.manual_seed(5)
    fresh = type(net)(net.config).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in fresh.items())
    assert found["model.embed_tokens.weight"].std().item() == pytest.approx(net.config.initializer_range, rel=0.1)


def test_a_plain_module_is_drawn_as_its_parts_draw(seed: int) -> None:
    """Expected: linear layers in torch's own way, within ±1/√width; norms with weights of one and no running means."""
    found: Any = reinitialised(load(normed(seed), example={"input": torch.zeros(3, 4)}), 5).module
    assert 0.3 < found[0].weight.detach().abs().max().item() <= 0.5
    assert torch.equal(found[1].weight, torch.ones(6))
    assert torch.equal(found[1].running_mean, torch.zeros(6))
    wide = load(MLP((64, 64, 2), seed=seed), example={"x": torch.zeros(3, 64)})
    drawn = reinitialised(wide, 1).module.get_parameter("linear1.weight")
    assert drawn.detach().std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.1)  # uniform in ±1/8


class Bare(nn.Module):
    """A parameter that no part knows how to draw."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.scale = nn.Linear(4, 2), nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x) * self.scale
        return out


def test_parameters_that_nothing_draws_are_named() -> None:
    model = load(Bare(), example={"x": torch.zeros(3, 4)})
    with pytest.raises(WeightsError, match=r"Bare cannot be drawn anew: scale belong"):
        reinitialised(model, 0)
    assert shuffled(model, 0).name == "Bare, shuffled weights (seed 0)"


# training


def line(step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Is the first number more than the second?"""
    x = torch.randn(64, 4, generator=generator)
    return x, x[:, 0] > x[:, 1]


def test_training_takes_the_steps_of_plain_torch(seed: int) -> None:
    """The same losses and weights as a loop that knows nothing of the workbench: float64, 1e-12."""
    net = MLP((4, 8, 2), seed=seed, dtype=torch.float64)
    draw = lambda step, generator: (line(step, generator)[0].double(), line(step, generator)[1])  # noqa: E731
    before, losses = copy.deepcopy(net), list[float]()
    found = train(net, draw, steps=20, lr=1e-2, seed=7, after_step=lambda step, loss: losses.append(float(loss)))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before.parameters(), strict=True))

    optimizer, generator = torch.optim.Adam(before.parameters(), lr=1e-2), torch.Generator().manual_seed(7)
    for number in range(20):
        inputs, labels = draw(number, generator)
        loss = nn.functional.cross_entropy(before(inputs), labels.long())
        assert losses[number] == pytest.approx(loss.item(), abs=1e-12)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for mine, own in zip(found.module.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(mine, own, rtol=0, atol=1e-12)
        assert mine.grad is None


def test_a_trained_network_is_a_model_of_its_own(seed: int) -> None:
    net = MLP((4, 16, 2), seed=seed)
    found, again = (train(net, line, steps=300, lr=1e-2, seed=1) for _ in range(2))
    assert found.digest == again.digest != load(net, example={"x": torch.zeros(3, 4)}).digest
    assert found.name == "MLP, trained (seed 1)"
    inputs, labels = line(0, torch.Generator().manual_seed(99))
    assert float((found.module(inputs).argmax(-1) == labels).float().mean()) > 0.9
    assert not any(net(inputs).argmax(-1).ne(MLP((4, 16, 2), seed=seed)(inputs).argmax(-1)))


def test_a_language_model_learns_its_pairs(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [5, 6, 7, 5])
    losses: list[float] = []
    found = train(
        model, pairs, steps=30, batch=2, lr=3e-3, metric="logit_diff", after_step=lambda step, loss: losses.append(float(loss))
    )

    def clean(network: Model) -> float:
        effect = patch(network, pairs, grid("resid_pre", layer=[0], position=[-1]), metric="logit_diff")
        return float(effect["clean"].mean())

    assert -sum(losses[:2]) / 2 == pytest.approx(clean(model), abs=2.0)  # two batches are all pairs, one step apart
    assert clean(found) > clean(model) + 3
    assert clean(found) > -sum(losses[-2:]) / 2 - 1


def test_what_stays_frozen_stays(seed: int) -> None:
    net = MLP((4, 8, 2), seed=seed)
    net.linear1.weight.requires_grad_(False)  # type: ignore[operator,union-attr]
    found = train(net, line, steps=5, lr=1e-2)
    assert torch.equal(found.module.get_parameter("linear1.weight"), net.get_parameter("linear1.weight"))
    assert not torch.equal(found.module.get_parameter("readout.weight"), net.get_parameter("readout.weight"))
    assert not found.module.get_parameter("linear1.weight").requires_grad


def test_descending_stops_when_nobody_takes_the_next_step(seed: int) -> None:
    model = load(MLP((4, 8, 2), seed=seed), example={"x": torch.zeros(3, 4)})
    copied = copied_as(model, "copy")
    x = torch.randn(8, 4)
    losses = descend(copied, lambda step: copied.module(x).square().mean(), 100, 1e-2)
    first, second = next(losses), next(losses)
    losses.close()  # type: ignore[attr-defined]
    assert second < first
    assert all(parameter.grad is None for parameter in copied.module.parameters())


def test_what_cannot_be_trained_is_refused(seed: int) -> None:
    net = MLP((4, 8, 2), seed=seed)
    with pytest.raises(InputError, match=r"rows\(step, generator\) returned Tensor; expected the inputs"):
        train(net, lambda step, generator: torch.zeros(3, 4), steps=1)
    with pytest.raises(InputError, match=r"returned \(Tensor, Tensor\)"):
        train(net, lambda step, generator: (torch.zeros(3, 4), torch.zeros(3)), steps=1)
    with pytest.raises(ValueError, match=r"lr=0; expected a learning rate"):
        train(net, line, steps=1, lr=0)
    with pytest.raises(TrainingError, match=r"loss of step 0 is (nan|inf); a smaller lr"):
        train(net, lambda step, generator: (torch.full((3, 4), torch.inf), torch.zeros(3).long()), steps=1)
    with pytest.raises(TrainingError, match="'kl' compares with the clean run"):
        train(sweeps.model("gpt2"), sweeps.random_pairs(seed, [5, 5]), steps=1, metric="kl")
    with pytest.raises(TrainingError, match="no parameter that asks for a gradient"):
        train(net.requires_grad_(False), line, steps=1)


def test_the_real_model_shuffled(smollm2: Path) -> None:
    """It says nothing in particular, through the same tokenizer."""
    model = load(str(smollm2), check=False)
    network = shuffled(model, 0)
    tokens = model.encode(["The capital of France is"])
    assert network.digest != model.digest
    assert network.tokenizer is model.tokenizer
    with torch.no_grad():
        own, other = (one.module(**one.inputs(tokens)).logits[0, -1].log_softmax(-1) for one in (model, network))
    paris = network.tokenizer.encode(" Paris", add_special_tokens=False)[0]  # type: ignore[union-attr]
    assert float(own[paris]) > -3
    assert float(other[paris]) < -6
