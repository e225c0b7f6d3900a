"""Right or wrong, from confidence, probes and the variables of an algorithm (card 16 of causal abstraction).

Expected numbers: of networks that go wrong in a known part on a known half of the rows; sums over pairs of rows; plain hooks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from tiny import llama
from torch import Tensor, nn

import interp
from interp.effects.curves import delong
from interp.errors import InputError, UnknownNameError
from interp.interventions import Change, classifier, random_subspace
from interp.models import Model
from interp.prompts import Prompt
from interp.tasks import CausalModel, CausalTask, Counterfactuals
from interp.tasks.causal_model import Integer

N = 4
CERTAIN = 6.0


def digits(ids: bool = False) -> CausalTask:
    """((u + v) + c) mod 4 by way of Z = u + v; ``flag`` plays no part in it."""
    digit = Integer(0, N - 1)
    model = CausalModel(
        {"u": digit, "v": digit, "c": digit, "flag": Integer(0, 1), "Z": digit, "O": digit},
        {"Z": lambda u, v: (u + v) % N, "O": lambda Z, c: (Z + c) % N},
        output="O",
        name="sum",
    )

    def sample(n: int, draw: np.random.Generator) -> Mapping[str, Any]:
        return {name: draw.integers(N, size=n) for name in "uvc"} | {"flag": draw.permutation(np.arange(n) % 2)}

    def render(row: Mapping[str, Any]) -> Prompt:
        numbers = [row[name] for name in ("u", "v", "c", "flag")]
        return Prompt([10 + one for one in numbers]) if ids else Prompt(inputs={"x": np.array(numbers, dtype=np.float32)})

    return CausalTask("digits", {"sum": model}, {"train": sample, "test": sample}, render, int, variables={"sum": ("Z",)})


class Find(nn.Module):
    def __init__(self, broken: str) -> None:
        super().__init__()
        self.broken = broken

    def forward(self, x: Tensor) -> Tensor:
        one = nn.functional.one_hot((x[:, 0] + x[:, 1]).long() % N, N).float()
        wrong = {"blurred": 0.55 * one.roll(1, -1) + 0.45 * one, "shifted": one.roll(1, -1)}.get(self.broken, one)
        return torch.where(x[:, 3:] > 0, wrong, one)


class Digits(nn.Module):
    """Where the flag is set it is wrong: in its ``head``, or in what it holds of Z, ``blurred`` or ``shifted`` by one."""

    def __init__(self, broken: str) -> None:
        super().__init__()
        self.broken, self.find = broken, Find(broken)
        self.certain = nn.Parameter(torch.tensor(CERTAIN))

    def forward(self, x: Tensor) -> Tensor:
        held, shift = self.find(x), x[:, 2].long()
        shift = shift + (x[:, 3] > 0) * (self.broken == "head")
        at = (torch.arange(N) - shift[:, None]) % N
        return self.certain * held.gather(-1, at)


def network(broken: str) -> Model:
    return interp.load(Digits(broken), example={"x": torch.zeros(3, 4)})


def judged(broken: str, seed: int) -> xr.Dataset:
    rows, held = (digits().counterfactuals(n, seed=seed + i, balance="natural") for i, n in enumerate((120, 80)))
    found = interp.predict_correctness(
        network(broken), rows, {"in": held}, Change("find:output"), bases=4, folds=2, seed=seed, probes="find:output"
    )
    assert found["score"].dims == ("predictor", "fold", "example")
    assert found["split"].values.tolist() == ["validation", "in", "pooled"]
    flags = np.concatenate([rows.base["flag"], held.base["flag"]])
    np.testing.assert_array_equal(found["correct"], flags == 0)
    once = found["score"].notnull().sum("fold").values
    assert (once[:, :120] == 1).all()
    assert (once[:, 120:] == 2).all()
    assert (found["low"] <= found["auc"]).all()
    assert (found["auc"] <= found["high"]).all()
    return found


def mean(found: xr.Dataset) -> dict[str, float]:
    areas = found["auc"].sel(split="in").mean("fold")
    return dict(zip(areas["predictor"].values.tolist(), areas.values.tolist(), strict=True))


def spread(found: xr.Dataset, name: str) -> float:
    """Of a score over the rows of a fold."""
    score = found["score"].sel(predictor=name)
    return float((score.max("example") - score.min("example")).max())


def test_a_broken_head_is_seen_against_the_variable_and_not_in_it(seed: int) -> None:
    """Card 16 (b): Z is there as ever, so that nothing that reads Z alone can tell; the answer does not fit it."""
    whole = judged("head", seed % 1000)
    found = mean(whole)
    assert spread(whole, "confidence") < 1e-6  # as sure as ever
    assert abs(found["value_probe"] - 0.5) < 0.25
    assert abs(found["correctness_probe"] - 0.5) < 0.25
    assert found["simulation"] == found["implied_value"] == 1.0


def test_a_blurred_variable_is_seen(seed: int) -> None:
    """Card 16 (b), the other half. No linear probe can tell points from the segments between them."""
    found = mean(judged("blurred", seed % 1000))
    assert found.pop("correctness_probe") < 0.9
    assert set(found.values()) == {1.0}


def test_a_variable_that_is_wrong_and_sure_of_it_is_not_seen(seed: int) -> None:
    """The answer fits what is held: only what is right would tell, and that is not asked."""
    found = judged("shifted", seed % 1000)
    for name in ("confidence", "simulation"):
        assert spread(found, name) < 1e-6
    assert (abs(found["auc"].sel(predictor="implied_value", split="in") - 0.5) < 0.25).all()


def test_a_prompt_on_itself_has_the_probability_of_its_answer(seed: int) -> None:
    """Card 16 (c): M = 1, base = source."""
    task = digits()
    rows = task.counterfactuals(40, seed=seed % 1000, balance="natural")
    one = rows.take(np.flatnonzero(rows.base["flag"] == 0)[:1])
    found = interp.predict_correctness(
        network("head"), rows, {"one": one}, Change("find:output"), bases=one, folds=2, scores=["simulation"]
    )
    expected = float(np.exp(CERTAIN) / (np.exp(CERTAIN) + N - 1))
    np.testing.assert_allclose(found["score"].values[0, :, -1], expected, rtol=1e-5)
    assert found["auc"].sel(split="one").isnull().all()


def test_a_language_model_is_simulated_as_by_plain_hooks(seed: int) -> None:
    net, task = llama(seed), digits(ids=True)
    model = interp.load(net)
    rows = task.counterfactuals(60, seed=seed % 1000, balance="natural")
    basis = random_subspace(32, 8, seed=1)
    place = Change("L1.resid_post", -1, featurizer=basis)
    with torch.no_grad():
        ids = torch.tensor([task.render(row).text for row in each(rows)])
        said = net(ids).logits[:, -1, :N].argmax(-1).numpy()
    right = np.flatnonzero(said == rows.base_label)
    if len(right) < 6 or len(right) > 54:
        pytest.skip("the random network answers nearly all alike rightly or wrongly")
    bases, test = rows.take(right[:3]), rows.take(np.arange(5))
    found = interp.predict_correctness(model, rows, {"some": test}, place, bases=bases, folds=2)
    np.testing.assert_array_equal(found["correct"].values[:60], said == rows.base_label)
    assert found["chosen_probe"].values[0] in {f"L{layer}.resid_post" for layer in range(3)}
    P = basis.basis @ basis.basis.T
    with torch.no_grad():
        hidden: list[Tensor] = []
        block = net.model.layers[1]
        with_hook(block, lambda out: hidden.append(out), net, ids[:5])
        for i in range(5):
            total = 0.0
            for j in right[:3]:

                def swap(out: Tensor, i: int = i) -> Tensor:
                    out = out.clone()
                    out[:, -1] += (hidden[0][i, -1] - out[:, -1]) @ P
                    return out

                chances = with_hook(block, swap, net, ids[[j]])[0, -1].softmax(-1)
                z = (said[i] - rows.base["c"][i]) % N
                total += float(chances[(z + rows.base["c"][j]) % N])
            np.testing.assert_allclose(found["score"].sel(predictor="simulation").values[:, 60 + i], total / 3, rtol=1e-4)
        logits = net(ids).logits[:, -1]
    for fold, heat in enumerate(found["chosen_temperature"].values):
        chances = (logits / heat).softmax(-1)[:5, :N].amax(-1)
        np.testing.assert_allclose(found["score"].sel(predictor="confidence").values[fold, 60:], chances, rtol=1e-4)


def each(rows: Counterfactuals) -> list[dict[str, int]]:
    names = list(rows.base)
    return [dict(zip(names, row, strict=True)) for row in zip(*(rows.base[name].tolist() for name in names), strict=True)]


def with_hook(block: nn.Module, change: Any, net: Any, ids: Tensor) -> Tensor:
    hook = block.register_forward_hook(lambda module, inputs, out: change(out))
    try:
        return net(ids).logits  # type: ignore[no-any-return]
    finally:
        hook.remove()


def test_the_area_is_the_share_of_pairs_in_order(seed: int) -> None:
    """Card 16 (a), with ties; DeLong's variance from the placements, written out."""
    draw = np.random.default_rng(seed)
    score, right = draw.integers(6, size=70).astype(float), draw.integers(2, size=70).astype(bool)
    area, low, high = map(float, delong(score, right)[:3])
    yes, no = score[right], score[~right]
    wins = (yes[:, None] > no) + 0.5 * (yes[:, None] == no)
    assert area == pytest.approx(wins.mean(), abs=1e-12)
    se = np.sqrt(wins.mean(1).var(ddof=1) / len(yes) + wins.mean(0).var(ddof=1) / len(no))
    assert (low, high) == pytest.approx((area - 1.959964 * se, area + 1.959964 * se), abs=1e-6)
    assert delong(right.astype(float), right).mean == 1.0
    assert delong(-right.astype(float), right).mean == 0.0
    assert delong(np.zeros(70), right).mean == 0.5
    assert delong(np.where(right, score, np.nan), right).mean != area  # rows without a score play no part


def test_the_posterior_is_that_of_scikit_learn(seed: int) -> None:
    from sklearn.linear_model import LogisticRegression

    draw = torch.Generator().manual_seed(seed)
    acts = torch.randn(90, 5, generator=draw)
    for labels in (["b", "a", "c"] * 30, ["b", "a"] * 45):
        probe = classifier(acts, labels, penalty=0.05)
        x = acts.double() - acts.double().mean(0)
        x = (x / x.square().sum(1).mean().sqrt()).numpy()
        same = LogisticRegression(C=1 / (0.05 * 90), max_iter=1000, tol=1e-6).fit(x, labels)
        assert probe.classes == tuple(same.classes_)
        np.testing.assert_allclose(probe.posterior(acts).numpy(), same.predict_proba(x), atol=1e-6)


def test_what_cannot_be_asked() -> None:
    model, rows = network("head"), digits().counterfactuals(40, seed=0, balance="natural")
    held, place = {"in": rows}, Change("find:output")
    with pytest.raises(InputError, match="20 of 40 bases are answered wrongly"):
        interp.predict_correctness(model, rows, held, place, bases=rows)
    with pytest.raises(InputError, match=r"bases=16, but [0-9]+ of 20 training rows of a fold are answered rightly"):
        interp.predict_correctness(model, rows, held, place, folds=2, scores=["simulation"])
    with pytest.raises(UnknownNameError, match="score 'simulated'; did you mean 'simulation'"):
        interp.predict_correctness(model, rows, held, place, scores=["simulated"])
    with pytest.raises(InputError, match="expected two folds and one test at least"):
        interp.predict_correctness(model, rows, {"pooled": rows}, place)
    with pytest.raises(UnknownNameError, match="W"):
        interp.predict_correctness(model, rows, held, place, "W")
    right = rows.take(np.flatnonzero(rows.base["flag"] == 0))
    with pytest.raises(InputError, match="answered rightly; expected both"):
        interp.predict_correctness(model, right, held, place, bases=2, folds=2, scores=["correctness_probe"])
    with pytest.raises(InputError, match="validation rows are all answered rightly, or all wrongly"):
        interp.predict_correctness(model, right, held, place, folds=2, scores=["confidence"])
