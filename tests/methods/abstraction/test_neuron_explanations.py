"""Explanations of neurons, by observation and by intervention (card 17 of causal abstraction).

Expected numbers: published counts, networks whose neurons are indicators, plain hooks on a random language model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny import LAYERS, MLP, llama
from torch import Tensor, nn

import interp
from interp import tasks
from interp.effects.alignment import verdict
from interp.errors import HeadOutOfRangeError, InputError, ShapeMismatchError
from interp.interventions import Change
from interp.methods.abstraction.neuron_explanations import CELLS, _neurons, _together, rates
from interp.models.zoo.handmade import hierarchical_equality
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Positions


def test_the_published_counts_have_the_published_scores() -> None:
    """Card 17 (c): 255 neurons of GPT-2 XL; E says yes and the neuron is silent 2,040 times."""
    found = rates([3618, 2040, 3852, 82])
    assert [round(float(one), 3) for one in found] == [0.639, 0.484, 0.551]
    empty = rates(np.zeros(4))
    assert np.isnan(empty).all()
    assert rates([0, 3, 2, 1]).f1 == 0.0
    with pytest.raises(ShapeMismatchError, match=r"confusion has shape \(3,\); expected \[…, 4\]: true_positive"):
        rates([1, 2, 3])


class Indicators(nn.Module):
    """Neuron 0 is active on even numbers, 1 on multiples of 3, 2 never."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = Hidden()
        self.out = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.hidden(x))
        return out


class Hidden(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([(x[:, 0] % 2 == 0).float(), (x[:, 0] % 3 == 0).float(), torch.full((len(x),), -1.0)], -1)


def test_an_indicator_is_explained_by_what_it_indicates() -> None:
    """Card 17 (a); of the others the counts are known by hand."""
    model = interp.load(Indicators(), example={"x": torch.zeros(3, 1)})
    numbers = np.arange(12)
    prompts = [Prompt(inputs={"x": np.array([one], dtype=np.float32)}) for one in numbers]
    neurons: Any = [("hidden:output", unit) for unit in range(3)]
    found = interp.score_explanations(model, prompts, neurons, numbers % 2 == 0)
    assert found["confusion"].values.tolist() == [[6, 0, 0, 6], [2, 4, 2, 4], [0, 6, 0, 6]]
    assert found["precision"].values[:2].tolist() == [1.0, 1 / 3]
    assert found["recall"].values[:2].tolist() == [1.0, 0.5]
    assert np.isnan(found["recall"].values[2])  # never active: there is nothing to be found
    assert found["precision"].values[2] == found["f1"].values[2] == 0.0
    overall = found["overall"]
    assert overall.sel(average="micro").values.tolist() == pytest.approx([8 / 18, 8 / 10, 16 / 28])
    assert overall.sel(average="macro").values.tolist() == pytest.approx([(1 + 1 / 3 + 0) / 3, 0.75, (1 + 0.4 + 0) / 3])
    each = np.stack([numbers % 2 == 0, numbers % 3 == 0, np.where(numbers < 6, 0, np.nan)])
    judged = interp.score_explanations(model, prompts, neurons, each, batch=5)
    assert judged["confusion"].values.tolist() == [[6, 0, 0, 6], [4, 0, 0, 8], [0, 0, 0, 6]]
    assert judged["active"].isel(neuron=2).isnull().values.tolist() == [False] * 6 + [True] * 6
    above = interp.score_explanations(model, prompts, neurons, each, threshold=[1.0, 0.5, -2.0])
    assert above["confusion"].values.tolist() == [[0, 6, 0, 6], [4, 0, 0, 8], [0, 0, 6, 0]]


def test_activations_are_the_largest_at_the_target(seed: int) -> None:
    net = llama(seed)
    draw = np.random.default_rng(seed)
    spans = [(2, 4), (0, 1), (3, 7), (1, 6), (5, 7)]
    prompts = [Prompt(draw.integers(1, 90, size=7).tolist(), {"target": span}) for span in spans]
    neurons = [(1, 5), (0, 3), (1, 55), (2, 0)]
    model = interp.load(net)
    found = interp.score_explanations(model, prompts, neurons, [1, 0, 1, 0, 1], position="target", quantile=0.5, batch=2)
    seen: dict[int, Tensor] = {}
    hooks = [
        block.mlp.down_proj.register_forward_pre_hook(lambda module, inputs, layer=layer: seen.__setitem__(layer, inputs[0]))
        for layer, block in enumerate(net.model.layers)
    ]
    with torch.no_grad():
        net(torch.tensor([prompt.text for prompt in prompts]))
    for hook in hooks:
        hook.remove()
    expected = np.array([[float(seen[layer][i, a:b, unit].max()) for i, (a, b) in enumerate(spans)] for layer, unit in neurons])
    np.testing.assert_allclose(found["activation"], expected, atol=1e-5)
    np.testing.assert_allclose(found["threshold"], np.median(expected, axis=1), atol=1e-5)
    assert (found["active"].sum("example") == 2).all()  # of five the two above the median
    assert found["confusion"].sum("cell").values.tolist() == [5] * 4
    assert found["cell"].values.tolist() == list(CELLS)


def test_all_neurons_at_a_position_are_the_output_of_the_mlp(seed: int) -> None:
    """Card 17 (b)."""
    model = interp.load(llama(seed))
    draw = np.random.default_rng(seed)
    pairs = Pairs(
        tuple(
            Pair(Prompt(draw.integers(1, 90, size=6).tolist()), Prompt(draw.integers(1, 90, size=6).tolist()), (7,), (8,))
            for _ in range(5)
        )
    )
    every = _together({"L1.mlp_post": (range(MLP), MLP)}, Positions.parse(3))
    one, other = (interp.patch(model, pairs, where) for where in (every, Change("L1.mlp_out", 3)))
    np.testing.assert_allclose(one["value"].values, other["value"].values, atol=1e-5)
    assert float(abs(one["value"] - one["corrupt"]).max()) > 1e-3


def test_known_neurons_carry_their_concept_and_random_ones_do_not(seed: int) -> None:
    """Units [0, 8) of the first layer are WX: 1.0; YZ's are as nothing on rows whose label moves; all of them are both."""
    net, task = hierarchical_equality(4), tasks.hierarchical_equality()
    model = interp.load(net, example={"x": net.rows(4, 0).inputs[:3]})
    rows = task.counterfactuals(400, ("WX",), seed=seed % 1000)
    sets: Any = {"WX": [("act1:output", i) for i in range(8)], "YZ": [("act1:output", i) for i in range(8, 16)]}
    found = interp.interchange_neurons(model, rows, sets, draws=6, seed=seed)
    mean = found.mean("example")
    assert float(mean["iia"].sel(neuron_set="WX")) == 1.0
    assert float(mean["no_op"]) == pytest.approx(float((~rows.flip).mean()))
    whole = float((rows.label == rows.source_label).mean())
    assert mean["full_vector"].values.tolist() == pytest.approx([whole, whole])
    assert found["random_neurons"].dims == ("neuron_set", "seed", "example")
    assert float(mean["random_neurons"].max()) < 0.95
    assert found["neurons"].values.tolist() == [8, 8]
    assert "token_embedding" not in found
    assert "random neurons" in verdict(found)
    direct: Any = interp.interchange(model, rows, _together({"act1:output": (range(8, 16), 16)}, Positions()))["iia"]
    np.testing.assert_array_equal(found["iia"].sel(neuron_set="YZ").values, direct.values.ravel())


def test_an_embedding_swap_is_the_source_s_token(seed: int) -> None:
    """The prompt with that token replaced, without any intervention."""
    net = llama(seed)
    draw = np.random.default_rng(seed)
    texts = draw.integers(1, 90, size=(24, 2, 5))
    base, source = (torch.tensor(texts[:, i]) for i in range(2))
    mixed = base.clone()
    mixed[:, 2] = source[:, 2]
    pairs = Pairs(tuple(Pair(Prompt(b.tolist()), Prompt(a.tolist()), (7,), (8,)) for a, b in texts))
    sets = {f"L{layer}": [(layer, 3), (layer, 9)] for layer in range(LAYERS)}
    found = interp.interchange_neurons(interp.load(net), pairs, sets, position=2, draws=2)
    with torch.no_grad():
        logits = net(mixed).logits[:, -1]
    np.testing.assert_array_equal(found["token_embedding"], (logits[:, 7] > logits[:, 8]).float())
    assert found["neuron_set"].values.tolist() == ["L0", "L1", "L2"]
    figure = interp.views.iia(found, x="neuron_set")
    assert figure.layout.xaxis.ticktext == ("L0", "L1", "L2")
    assert {"iia", "random neurons", "full vector", "token embedding"} <= {trace.name for trace in figure.data}


def test_what_cannot_be_asked() -> None:
    model = interp.load(llama(0))
    prompts = [Prompt([3, 4, 5], {"target": (1, 2)}), Prompt([6, 7, 8])]
    with pytest.raises(HeadOutOfRangeError, match=r"unit 56 of L1\.mlp_post, which has 56"):
        interp.score_explanations(model, prompts, [(1, 56)], [1, 0])
    with pytest.raises(
        ShapeMismatchError, match=r"inside has shape \(3,\); expected \[neuron, prompt\] \(1, 2\), or \[prompt\]"
    ):
        interp.score_explanations(model, prompts, [(1, 5)], [1, 0, 1])
    with pytest.raises(InputError, match="inside holds other numbers than 0, 1 and NaN"):
        interp.score_explanations(model, prompts, [(1, 5)], [1, 0.5])
    with pytest.raises(ShapeMismatchError, match=r"threshold has shape \(2,\); expected one number"):
        interp.score_explanations(model, prompts, [(1, 5)], [1, 0], threshold=[0, 1])
    with pytest.raises(InputError, match="quantile=1; expected a number from 0 to below 1"):
        interp.score_explanations(model, prompts, [(1, 5)], [1, 0], quantile=1)
    with pytest.raises(InputError, match="neuron 5; expected a layer and a unit"):
        _neurons([5])
    pairs = interp.pairs([[3, 4]], [[5, 6]], [7], [8])
    with pytest.raises(InputError, match=r"sets are \{'a': \[\]\}; expected neurons by name, one at least of each"):
        interp.interchange_neurons(model, pairs, {"a": []})
    with pytest.raises(HeadOutOfRangeError, match=r"unit 99 of L0\.mlp_post"):
        interp.interchange_neurons(model, pairs, {"a": [(0, 99)]})
