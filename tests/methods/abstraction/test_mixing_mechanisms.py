"""Binding by place, by key or by pointer, and the mixture of the three (card 18 of causal abstraction).

Expected numbers: of networks whose formula is the mechanism, of plain hooks on a random language model, and of data that the
fitted formula itself made.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from tiny import llama
from torch import Tensor, nn

import interp
from interp import tasks
from interp.errors import InputError, UnknownNameError
from interp.interventions import Change
from interp.methods.abstraction.mixing_mechanisms import MECHANISMS, OUTCOMES
from interp.methods.abstraction.mixture import VARIANTS, _js
from interp.prompts import Prompt
from interp.tasks import CausalTask, lexicon

WORDS = {word: i for i, word in enumerate([*lexicon.NAMES, *lexicon.OBJECTS])}
MANY = 4


class Find(nn.Module):
    """From the words of the groups and the key that is asked for to what is held of them: a place, a key or a bound word."""

    def __init__(self, mechanism: str) -> None:
        super().__init__()
        self.mechanism = mechanism

    def forward(self, x: Tensor) -> Tensor:
        keys, bound, asked = x[:, :MANY], x[:, MANY : 2 * MANY], x[:, -1:]
        at = (keys == asked).float().argmax(-1)
        held = {"positional": at, "lexical": asked[:, 0], "reflexive": bound[torch.arange(len(x)), at]}[self.mechanism]
        return held.float()[:, None]


class Binder(nn.Module):
    """Logits over all words, 10 of the one that is found."""

    def __init__(self, mechanism: str) -> None:
        super().__init__()
        self.mechanism, self.find = mechanism, Find(mechanism)
        self.certainty = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: Tensor) -> Tensor:
        held, keys, bound = self.find(x), x[:, :MANY], x[:, MANY : 2 * MANY]
        if self.mechanism == "positional":
            word = bound[torch.arange(len(x)), held[:, 0].long()]
        elif self.mechanism == "lexical":
            word = bound[torch.arange(len(x)), (keys == held).float().argmax(-1)]
        else:
            word = held[:, 0]
        return self.certainty * nn.functional.one_hot(word.long(), len(WORDS)).float()


def in_numbers(task: CausalTask, ids: bool = False) -> CausalTask:
    """The task with words as numbers: a tensor for the networks above, token ids for a language model."""

    def render(row: Any) -> Prompt:
        names = [*(f"{kind}{i}" for kind in ("key", "bound") for i in range(MANY)), "asked"]
        numbers = [WORDS[row[name]] for name in names]
        return Prompt(numbers) if ids else Prompt(inputs={"x": np.array(numbers, dtype=np.float32)})

    return replace(task, render=render, answer=lambda word: WORDS[word])


TASK = in_numbers(tasks.binding(MANY, apart=True))


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_network_of_one_mechanism_is_told_as_such(mechanism: str, seed: int) -> None:
    model = interp.load(Binder(mechanism), example={"x": torch.zeros(3, 2 * MANY + 1)})
    rows = TASK.counterfactuals(60, seed=seed, balance="natural")
    found = interp.mixing_mechanisms(model, rows, Change("find:output"))
    share = found["share"].isel(cell=0)
    assert {str(name): float(share.sel(mechanism=name)) for name in OUTCOMES} == {
        name: float(name == mechanism) for name in OUTCOMES
    }
    assert float(found["low"].sel(mechanism=mechanism).isel(cell=0)) == pytest.approx(60 / (60 + 1.959964**2))  # Wilson's
    assert (found["base_probability"].argmax("group") == found["prediction"].sel(mechanism="base")).all()
    most = float(np.exp(10) / (np.exp(10) + MANY - 1))
    np.testing.assert_allclose(found["probability"].max("group"), most, rtol=1e-5)
    np.testing.assert_allclose(found["inside"], (np.exp(10) + MANY - 1) / (np.exp(10) + len(WORDS) - 1), rtol=1e-5)


def test_where_predictions_agree_no_outcome_is_counted_but_the_fit_keeps_the_row(seed: int) -> None:
    model = interp.load(Binder("lexical"), example={"x": torch.zeros(3, 2 * MANY + 1)})
    rows = in_numbers(tasks.binding(MANY)).counterfactuals(120, seed=seed, balance="natural")
    found = interp.mixing_mechanisms(model, rows, Change("find:output"))
    said = found["prediction"].transpose("example", "mechanism").values[:, :4]
    apart = np.array([len({*row}) == 4 for row in said])
    assert 0 < apart.sum() < 120
    np.testing.assert_array_equal(found["outcome"].isel(cell=0).notnull().all("mechanism").values, apart)
    fitted = interp.fit_mixture(found, ["lexical"], epochs=1)
    assert int(fitted["rows"].sum()) == 120


def test_every_layer_is_what_plain_hooks_say(seed: int) -> None:
    net = llama(seed, vocab_size=len(WORDS))
    task = in_numbers(tasks.binding(MANY, apart=True), ids=True)
    rows = task.counterfactuals(6, seed=seed, balance="natural")
    found = interp.mixing_mechanisms(interp.load(net), rows)
    pairs = rows.pairs()
    base, source = (torch.tensor([getattr(pair, side).text for pair in pairs]) for side in ("corrupted", "clean"))
    groups = torch.tensor([[WORDS[rows.base[f"bound{i}"][row]] for i in range(MANY)] for row in range(6)])
    with torch.no_grad():
        hidden = net(source, output_hidden_states=True).hidden_states
        for layer, block in enumerate(net.model.layers):
            own: list[Tensor] = []
            reading = block.register_forward_hook(lambda m, i, out, own=own: own.append(out))
            net(source)
            reading.remove()

            def swap(module: Any, inputs: Any, out: Tensor, own: list[Tensor] = own) -> Tensor:
                changed = out.clone()
                changed[:, -1] = own[0][:, -1]
                return changed

            writing = block.register_forward_hook(swap)
            logits = net(base).logits[:, -1]
            writing.remove()
            expected = logits.gather(-1, groups).softmax(-1)
            np.testing.assert_allclose(found["probability"].sel(layer=layer), expected, atol=1e-5)
            inside = logits.softmax(-1).gather(-1, groups).sum(-1)
            np.testing.assert_allclose(found["inside"].sel(layer=layer), inside, atol=1e-5)
        assert hidden
        last = net(source).logits[:, -1].gather(-1, groups).softmax(-1)
    np.testing.assert_allclose(found["probability"].isel(layer=-1), last, atol=1e-5)
    figure = interp.views.curve(found, "outcome", x="layer")
    assert [trace.name for trace in figure.data if trace.showlegend] == list(OUTCOMES)


# the mixture


def measured(y: Any, at: Any) -> xr.Dataset:
    return xr.Dataset(
        {"probability": (("layer", "example", "group"), y), "prediction": (("mechanism", "example"), at.T)},
        {"mechanism": list(MECHANISMS), "layer": [7]},
    )


def every_cell(n: int) -> np.ndarray[Any, Any]:
    return np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), -1).reshape(-1, 3)


def formula(at: Any, n: int, w: float, sigma: Any, lexical: Any, reflexive: Any) -> np.ndarray[Any, Any]:
    """Card 18, in numpy."""
    found = []
    for p, k, i in at:
        logits = np.array([w * np.exp(-((a - p) ** 2) / (2 * sigma[p] ** 2)) for a in range(n)])
        logits[k] += lexical[k]
        logits[i] += reflexive[i]
        weights = np.exp(logits - logits.max())
        found.append(weights / weights.sum())
    return np.array(found)


def test_data_of_the_formula_are_fitted_by_its_parameters(seed: int) -> None:
    """Card 18 (a); and what was made with a term is not fitted without it."""
    n, draw = 5, np.random.default_rng(seed)
    x = np.arange(n) / n
    sigma = 0.8 + draw.uniform(0.2, 0.6) * x + draw.uniform(0.2, 0.6) * x**2
    w, lexical, reflexive = draw.uniform(2, 4), draw.normal(1.0, 0.5, n), draw.normal(-1.0, 0.5, n)
    at = every_cell(n)
    found = interp.fit_mixture(measured(formula(at, n, w, sigma, lexical, reflexive)[None], at), seed=seed, epochs=2500)
    js = found["js"].sel(layer=7)
    assert float(js.sel(variant="mixture").max()) <= 1e-4
    own = found.sel(variant="mixture", layer=7)
    assert float(own["w"]) == pytest.approx(w, abs=0.02)
    np.testing.assert_allclose(own["sigma"], sigma, atol=0.02)
    np.testing.assert_allclose(own["gate_lexical"], lexical, atol=0.02)
    np.testing.assert_allclose(own["gate_reflexive"], reflexive, atol=0.02)
    others = js.sel(variant=[name for name in VARIANTS if name != "mixture"])
    assert float(others.min()) > 20 * float(js.sel(variant="mixture").max())
    assert float(js.sel(variant="uniform", split="test")) >= float(js.sel(variant="without lexical", split="test"))
    assert found["gate_lexical"].sel(variant="positional").isnull().all()
    np.testing.assert_allclose(found["fitted"].sel(variant="mixture"), found["Y"], atol=1e-2)


def test_one_place_alone_needs_no_gates(seed: int) -> None:
    """Card 18 (b): σ and the gates go where they change nothing."""
    n = 5
    at = every_cell(n)
    found = interp.fit_mixture(
        measured(np.eye(n)[at[:, 0]][None], at), ["mixture", "positional", "lexical"], seed=seed, epochs=1500
    )
    own = found.sel(variant="mixture", layer=7)
    assert float(own["js"].max()) < 1e-3
    assert float(own["sigma"].max()) < 0.5
    assert max(float(own["gate_lexical"].max()), float(own["gate_reflexive"].max())) < 0.15 * float(own["w"])
    assert float(found["js"].sel(variant="lexical", split="test").squeeze()) > 0.5


def test_bits_of_divergence() -> None:
    """Card 18 (c): 0 of equals, 1 of what has nothing in common, else by hand."""

    def bits(one: list[float], other: list[float]) -> float:
        return float(_js(torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64).log()))

    assert bits([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]) == pytest.approx(0, abs=1e-12)
    assert bits([1.0, 0.0, 0.0], [0.0, 0.4, 0.6]) == pytest.approx(1, abs=1e-12)
    # ½ (1 log₂ 4/3) + ½ (½ log₂ 2/3 + ½ log₂ 2)
    assert bits([1.0, 0.0], [0.5, 0.5]) == pytest.approx(0.5 * np.log2(4 / 3) + 0.25 * np.log2(2 / 3) + 0.25, abs=1e-12)


def test_splits_are_of_cells_and_cells_of_few_rows_are_left_out() -> None:
    n = 4
    at = np.repeat(every_cell(n), [1 + (cell % 2) for cell in range(n**3)], axis=0)
    found = measured(np.full((1, len(at), n), 1 / n), at)
    fitted = interp.fit_mixture(found, ["uniform"], epochs=1)
    part = fitted["part"].values
    assert {name: int((part == name).sum()) for name in ("train", "validation", "test", "")} == {
        "train": 45, "validation": 10, "test": 9, "": 0
    }  # fmt: skip
    assert float(fitted["js"].max()) == pytest.approx(0, abs=1e-12)
    assert int((interp.fit_mixture(found, ["uniform"], epochs=1, fewest=2)["rows"] > 0).sum()) == n**3 // 2


def test_what_cannot_be_asked() -> None:
    model = interp.load(Binder("lexical"), example={"x": torch.zeros(3, 2 * MANY + 1)})
    with pytest.raises(InputError, match="expected rows of a task with the rivals positional, lexical, reflexive"):
        interp.mixing_mechanisms(model, tasks.hierarchical_equality().counterfactuals(8, seed=0))
    at = every_cell(2)[:4]
    found = measured(np.full((1, 4, 2), 0.5), at)
    with pytest.raises(
        InputError, match="4 cells have 1 rows or more; expected enough for train, validation, test, 7 at least"
    ):
        interp.fit_mixture(found, ["uniform"])
    with pytest.raises(UnknownNameError, match="variant 'mixed'; did you mean 'mixture'"):
        interp.fit_mixture(found, ["mixed"])
    with pytest.raises(InputError, match="found lacks prediction"):
        interp.fit_mixture(found.drop_vars("prediction"))
    same = replace(TASK, answer=lambda word: 3)
    with pytest.raises(
        InputError, match=r"groups of row 0 are answered by \[3, 3, 3, 3\]; expected a word of its own for each"
    ):
        interp.mixing_mechanisms(model, same.counterfactuals(8, seed=0, balance="natural"), Change("find:output"))
    two = replace(
        in_numbers(tasks.binding(2), ids=True), answer=lambda word: (3, WORDS[word]), render=lambda row: Prompt([5, 6])
    )
    with pytest.raises(InputError, match="answers of pair 0 begin with the same token, so that they cannot be told apart"):
        interp.mixing_mechanisms(interp.load(llama(0, vocab_size=len(WORDS))), two.counterfactuals(8, seed=0))
