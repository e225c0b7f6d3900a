"""Evaluation of circuits: against circuits patched one by one, ground truth, and in and out of sample.

Tolerance: 1e-10 × (1 + max |logit|) in float64; 1e-5 × in float32, in which Gemma 2 is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
import xarray as xr

import interp
from interp import effects
from interp.circuits import Circuit, Graph, random_circuits, strongest
from interp.errors import EdgesError, InputError, UnknownNameError
from interp.interventions import Constant, mean
from interp.methods.circuits.evaluation import SHARES
from interp.prompts import Pair, Pairs

KINDS = ["gpt2", "llama", "neox", "gemma2", "zoo"]


def a_model(kind: str) -> interp.Model:
    return sweeps.model(kind, torch.float32 if kind == "gemma2" else torch.float64)


def close(model: interp.Model, found: Any, expected: Any) -> None:
    scale = 1 + float(np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=(1e-5 if model.dtype == torch.float32 else 1e-10) * scale)


def scores(shape: Graph, seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=len(shape))


@pytest.mark.parametrize("kind", KINDS)
def test_every_line_is_its_circuits_patched_alone(kind: str, seed: int) -> None:
    """Of scores, of circuits and of random ones; what is left without dangling edges does the same.

    Not so in Gemma 2, whose heads are normed together, so that one that nothing reads changes what the others say.
    """
    left = Circuit.pruned if kind == "gemma2" else lambda circuit: circuit
    model, pairs = a_model(kind), sweeps.random_pairs(seed, [6, 4, 6])
    shape = interp.graph(model)
    values, given = scores(shape, seed), random_circuits(Circuit(shape, np.arange(len(shape)) < len(shape) // 2), 2, seed=seed)
    sizes, metrics = [0.05, 0.3, 0.9], ["logit_diff", "kl", "same_top1"]
    found = interp.evaluate_circuits(
        model,
        pairs,
        {"EAP": values, "mine": given},
        metrics,
        sizes=sizes,
        by=["size", "lowers"],
        random=2,
        by_layer=1,
        seed=seed,
    )
    assert list(found.children) == [
        *("EAP, size", "EAP, lowers", "mine", "random, like EAP, size", "random, like mine"),
        *("random by layer, like EAP, size", "random by layer, like EAP, lowers", "random by layer, like mine"),
    ]
    assert found["random, like EAP, size"].attrs["like"] == ["EAP, size", "EAP, lowers"]
    counts = [int(share * len(shape)) for share in sizes]
    for by in ("size", "lowers"):
        made = [strongest(values, shape, count, by=by) for count in counts]
        alone = interp.patch_circuits(model, pairs, [left(one) for one in made], metrics)
        ds = found[f"EAP, {by}"].to_dataset()
        close(model, ds["value"], alone["value"])
        assert ds["size"].values.tolist() == sizes
        assert ds["selected"].values.tolist() == counts
        assert ds["edges"].values.tolist() == [len(one.pruned()) for one in made]
        assert ds.attrs["by"] == by
        drawn = [left(random_circuits(one, 1, seed=seed, by_layer=True)[0]) for one in made]
        control = found[f"random by layer, like EAP, {by}"].to_dataset()
        close(model, control["value"][:, 0], interp.patch_circuits(model, pairs, drawn, metrics)["value"])
        assert effects.validate(control) is control
    mine = found["mine"].to_dataset()
    assert mine["size"].values.tolist() == [len(shape) // 2] * 2
    close(model, mine["value"], interp.patch_circuits(model, pairs, [left(one) for one in given], metrics)["value"])
    drawn = [left(random_circuits(one, 2, seed=seed)[1]) for one in given]
    close(model, found["random, like mine"]["value"][:, 1], interp.patch_circuits(model, pairs, drawn, metrics)["value"])
    assert not any(effects.derived(ds) for ds in effects.families(found).values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", [None, Constant(0.0), mean("source")], ids=["counterfactual", "zero", "mean"])
def test_ground_truth_1_all_edges_are_faithful_and_none_is_not(kind: str, source: Any, seed: int) -> None:
    """Card 11, test 1: f(all) = 1 and f(∅) = 0, whatever is seen in the place of what is left out; of KL too."""
    model, pairs = a_model(kind), sweeps.random_pairs(seed, [6, 6, 6])
    shape = interp.graph(model)
    sizes = [0, 7, len(shape)]
    found = interp.evaluate_circuits(
        model, pairs, scores(shape, seed), ["logprob", "kl"], sizes=sizes, random=2, source=source, prune=source is None
    )
    for line in ("circuits", "random"):
        ds = found[line].to_dataset()
        value, empty = xr.broadcast(ds["value"].isel(cell=0), ds["corrupt"])
        close(model, value, empty)
        f = interp.recovery(ds, None).values
        each = np.moveaxis(f, -2, 0)
        tolerance = 1e-3 if model.dtype == torch.float32 else 1e-7
        np.testing.assert_allclose(each[0][np.isfinite(each[0])], 0, atol=tolerance)
        np.testing.assert_allclose(each[-1][np.isfinite(each[-1])], 1, atol=tolerance)
        assert np.isfinite(each[-1]).any()
    assert float(abs(found["circuits"]["clean"] - found["circuits"]["corrupt"]).max()) > 1e-3


def test_a_constant_source_has_its_own_empty_circuit(seed: int) -> None:
    """m(∅) is that of the model with everything ablated, not of the corrupted prompt."""
    model, pairs = a_model("gpt2"), sweeps.random_pairs(seed, [5, 6])
    shape = interp.graph(model)
    ds = interp.evaluate_circuits(model, pairs, Circuit.whole(shape), random=0, source=Constant(0.0))["circuits"].to_dataset()
    empty = interp.patch_circuits(model, pairs, Circuit.empty(shape), source=Constant(0.0))
    close(model, ds["corrupt"], empty["value"][:, 0])
    assert float(abs(ds["corrupt"] - empty["corrupt"]).max()) > 1e-3
    assert ds["size"].values.tolist() == [len(shape)]


def test_equal_circuits_are_one_row_of_one_sweep(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[int]()

    def spy(model: Any, pairs: Any, circuits: Sequence[Circuit], *args: Any, **options: Any) -> xr.Dataset:
        asked.append(len(circuits))
        assert len(set(circuits)) == len(circuits)
        return interp.patch_circuits(model, pairs, circuits, *args, **options)

    monkeypatch.setattr("interp.methods.circuits.evaluation.patch_circuits", spy)
    model, pairs = a_model("gpt2"), sweeps.random_pairs(seed, [5])
    values = scores(interp.graph(model), seed)
    found = interp.evaluate_circuits(model, pairs, {"a": values, "b": values}, sizes=[0.5, 1.0], random=3)
    assert asked == [1 + 1 + 1 + 3], "none, half of them, all, and three of half"
    assert list(found.children) == ["a", "b", "random"]
    np.testing.assert_array_equal(found["a"]["value"], found["b"]["value"])


def test_mib_s_shares_count_edges_as_mib_does() -> None:
    """Rounded down: 32 of GPT-2 small's 32,491 at .001, as its code's ``int(share * edges)``."""
    from interp.methods.circuits.evaluation import _sizes

    assert _sizes(SHARES, 32_491) == [int(share * 32_491) for share in SHARES] == [
        32, 64, 162, 324, 649, 1624, 3249, 6498, 16245, 32491,
    ]  # fmt: skip
    assert _sizes([0.29], 100) == [29], "0.29 · 100 is 28.999999999999996 in floating point"


# in and out of sample


def split(n: int, seed: int) -> tuple[interp.Model, Pairs, Pairs]:
    model = interp.load("zoo/language-4l")
    first, second = interp.tasks.ioi(n, seed=seed, tokenizer=model.tokenizer).split()
    return model, first, second


def test_an_evaluation_says_whether_it_is_in_sample_and_figures_do(seed: int, tmp_path: Path) -> None:
    model, discovery, held_out = split(24, seed)
    found = interp.attribute_edges(model, discovery)
    shape, sizes = interp.graph(model), [0.1, 1.0]

    def said(pairs: Pairs, circuits: Any) -> dict[str, Any]:
        tree = interp.evaluate_circuits(model, pairs, {"EAP": circuits}, sizes=sizes, random=2, by_layer=1)
        assert all(tree[name].attrs["like"] == ["EAP"] for name in ("random", "random by layer"))
        attrs = tree["EAP"].attrs
        assert tree["random"].attrs["in_sample"] is False
        assert tree["random by layer"].attrs["in_sample"] == attrs["in_sample"]
        title = interp.views.faithfulness(tree["EAP"].to_dataset()).layout.title.text
        row = effects.circuit_areas(tree).iloc[0]
        assert row["in_sample"] == attrs["in_sample"]
        return {"title": title} | {key: attrs.get(key) for key in ("in_sample", "in_sample_examples", "in_sample_templates")}

    out = said(held_out, found)
    assert (out["in_sample"], out["in_sample_examples"], out["in_sample_templates"]) == (False, 0, 0)
    assert "out of sample" in out["title"]
    mixed = said(held_out + discovery[:3], found)
    assert (mixed["in_sample"], mixed["in_sample_examples"]) == (True, 3)
    assert "in sample: 3 examples also selected" in mixed["title"]
    assert said(discovery, interp.effect(found))["in_sample_examples"] == len(discovery)
    others = interp.tasks.ioi(24, seed=seed + 1, tokenizer=model.tokenizer)
    alike = Pairs(tuple(p for p in others if p.template in {q.template for q in discovery} and p not in [*discovery]))
    known = said(alike, found)
    assert known["in_sample"] is False
    assert known["in_sample_templates"] > 0
    assert "out of sample, but of the same templates" in known["title"]
    strongest(found, shape, 40).save(tmp_path / "circuit.json")
    assert said(discovery, Circuit.load(tmp_path / "circuit.json"))["in_sample_examples"] == len(discovery)
    for unknown in (Circuit.whole(shape), interp.effect(found).mean(("example", "metric")).values):
        assert said(discovery, unknown)["in_sample"] is None
    averaged = interp.effect(found).mean("example", keep_attrs=True)
    assert said(discovery, averaged)["in_sample"] is True
    assert said(discovery[:4], averaged)["in_sample"] is None, "some of the pairs that were averaged over"


def noisy(draw: np.random.Generator, n: int) -> Pairs:
    """Random prompts of random tokens, each against another, and two random tokens to prefer: nothing to be found out."""
    items = []
    for _ in range(n):
        clean, corrupted = draw.integers(0, tiny.VOCAB, size=(2, 6)).tolist()
        right, wrong = draw.choice(tiny.VOCAB, size=2, replace=False).tolist()
        items.append(Pair(tuple(clean), tuple(corrupted), right, wrong))
    return Pairs(tuple(items), "noise")


@pytest.mark.parametrize("kind", ["gpt2", "neox"])
def test_a_circuit_fitted_to_noise_is_above_random_in_sample_and_not_out_of_sample(kind: str, seed: int) -> None:
    """A network of random weights asked for random tokens on random prompts, so that no circuit does better than another.

    The logit difference of tokens that are drawn apart from everything has mean 0 in every circuit. So out of sample the
    difference from random circuits is 0 in expectation, however strong the edges are, and z, that over its standard error over
    examples, is about normal: |mean z| · √seeds < 4.5, and its root mean square near 1. In sample the same edges were chosen
    for raising it. Its rank among the random ones tells nothing of this: strong edges move the metric further, either way.
    """
    model, seeds = a_model(kind), 12
    shape, inside, outside = interp.graph(model), list[Any](), list[Any]()
    for number in range(seeds):
        draw = np.random.default_rng([seed, number])
        discovery, fresh = noisy(draw, 4), noisy(draw, 48)
        exact = interp.patch_edges(model, discovery)
        circuit = {"fitted": strongest(exact, shape, len(shape) // 5, by="lowers")}
        for pairs, found in ((discovery, inside), (fresh, outside)):
            tree = interp.evaluate_circuits(model, pairs, circuit, random=20, seed=number)
            (row,) = effects.against_random(tree).to_dict("records")
            values = (tree["fitted"]["value"].isel(cell=0) - tree["random"]["value"].isel(cell=0).mean("seed")).values[0]
            assert row["difference"] == pytest.approx(values.mean(), abs=1e-9)
            found.append(row | {"z": values.mean() / (values.std(ddof=1) / np.sqrt(len(values)))})
    assert all((row["in_sample"], row["in_sample_examples"]) == (True, 4) for row in inside)
    assert all((row["in_sample"], row["in_sample_examples"]) == (False, 0) for row in outside)
    gained = np.array([one["difference"] - other["difference"] for one, other in zip(inside, outside, strict=True)])
    print("in sample", [round(row["above"], 2) for row in inside], "gained", gained.round(3).tolist())
    z = np.array([row["z"] for row in outside])
    print("out of sample, z", z.round(1).tolist())
    assert np.mean([row["above"] for row in inside]) > 0.8
    assert gained.mean() / (gained.std(ddof=1) / np.sqrt(seeds)) > 2.5
    assert abs(z.mean()) * np.sqrt(seeds) < 4.5
    assert np.sqrt((z**2).mean()) < 2.5


def test_a_circuit_of_a_behaviour_is_above_random_out_of_sample_too(seed: int) -> None:
    """That the test of noise can fail: what was found of a behaviour holds on other templates."""
    model, discovery, held_out = split(32, seed)
    found = interp.evaluate_circuits(model, held_out, {"EAP": interp.attribute_edges(model, discovery)}, sizes=[0.1], random=20)
    (row,) = effects.against_random(found).to_dict("records")
    assert row["in_sample"] is False
    assert row["low"] > 0
    assert row["above"] == 1
    assert effects.faithfulness(found)["f"][0] > 0.5


def test_the_sweep_is_kept_in_a_store(tmp_path: Path, seed: int) -> None:
    model, _, held_out = split(8, seed)
    values = scores(interp.graph(model), seed)
    found, again = (
        interp.evaluate_circuits(model, held_out, values, sizes=[0.5], random=2, store=tmp_path, name="noise") for _ in range(2)
    )
    np.testing.assert_array_equal(found["random"]["value"], again["random"]["value"])
    store = interp.Store(tmp_path)
    assert [run.name for run in store] == ["noise"]
    assert interp.rerun(store.run("noise"), model=model).within


def test_mistakes_are_named_with_what_to_do() -> None:
    model, pairs = a_model("gpt2"), sweeps.random_pairs(0, [5])
    shape = interp.graph(model)
    values = scores(shape, 0)
    ask: Any = sweeps.unchecked(interp.evaluate_circuits)
    for wrong in ([], [1.5], [0.1, 5], ["all"], [len(shape) + 1], [-1]):
        with pytest.raises(InputError, match=r"sizes=.*; expected shares of all edges, such as 0.01, or numbers of them"):
            ask(model, pairs, values, sizes=wrong)
    with pytest.raises(InputError, match="circuits is empty; give scores of edges or circuits, by name"):
        ask(model, pairs, {})
    for strange in ("EAP", [], None):
        with pytest.raises(InputError, match=r"circuits has a \w+ for 'mine'; expected scores of all edges, or one or several"):
            ask(model, pairs, {"mine": strange})
    with pytest.raises(InputError, match="circuits has the name 'a/b'; '/' parts families of a result"):
        ask(model, pairs, {"a/b": values})
    with pytest.raises(UnknownNameError, match="unknown by 'high'"):
        ask(model, pairs, values, by=["size", "high"])
    with pytest.raises(InputError, match="random=-1; expected how many random circuits of every size are drawn"):
        ask(model, pairs, values, random=-1)
    with pytest.raises(EdgesError, match="scores are of 3 edges"):
        ask(model, pairs, values[:3])
    with pytest.raises(EdgesError, match="is of another graph than"):
        ask(model, pairs, Circuit.whole(Graph.like(2, heads=3)))
