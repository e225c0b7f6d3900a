"""Edge attribution patching against finite differences, exact patching of linear networks, and the sums that it must keep.

Tolerances are 1e-9 relative to the largest effect in float64 where nothing else is said; RMSNorms of transformers compute in
float32 in every dtype, which leaves 1e-6.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nets_linear
import nets_localise_attribution as nets
import numpy as np
import pytest
import sweeps
import torch

import interp
from interp.circuits import Graph
from interp.engine.budget import Budget
from interp.engine.graph.edges import graph
from interp.engine.graph.mixed import Mixed
from interp.engine.readout import Reader
from interp.engine.runs import Runs
from interp.errors import GradientError, UnknownNameError
from interp.interventions import Activation, Constant, Source, mean
from interp.metrics import resolve
from interp.models import Model
from interp.prompts import Pairs

EXACT = ("gpt2", "neox", "neox-sequential", "zoo")
KINDS = (*EXACT, "llama", "qwen3", "gemma2", "bloom")


def a_model(kind: str) -> Model:
    return sweeps.model(kind, torch.float32 if kind in ("gemma2", "bloom") else torch.float64)


def scores(model: Model, pairs: Pairs, **options: Any) -> np.ndarray[Any, Any]:
    """Estimated effects of all edges, ``[edge, example]``."""
    metric = options.pop("metric", "logit_diff")
    return interp.effect(interp.attribute_edges(model, pairs, metric, progress=False, **options)).values[0]


def out_of(shape: Graph, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Sums over the edges of each writer, ``[sender, example]``."""
    return np.stack([values[shape.sender == number].sum(0) for number in range(len(shape.senders))])


def mixed(model: Model, pairs: Pairs, kept: torch.Tensor, source: Source) -> np.ndarray[Any, Any]:
    """The metric where edges are partly kept, ``[circuit, example]``."""
    encoded = model.encode(pairs)
    reader = Reader.of(model, encoded, resolve("logit_diff"))
    budget = Budget(model, reader, encoded.clean.width)
    runs = Runs(model, encoded, "clean", budget.batch, reader)
    with torch.no_grad(), model.prepared():
        runs.want_logits("clean", "corrupted", "base")
        rows = Mixed(runs, graph(model), source, budget, kept)
        rows.open()
        return rows.values(range(len(kept)), range(len(pairs)), lambda n: None).numpy()[0]


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("source", [Activation(), Constant(0.0), mean("source")], ids=["counterfactual", "zero", "mean"])
def test_it_is_the_slope_of_leaving_out_an_edge(kind: str, source: Source, seed: int) -> None:
    """−∂m/∂w at w = 1, by a central difference of ε = 1e-4, whose error is some ε² of the third derivative."""
    model, pairs = a_model(kind), sweeps.random_pairs(seed, [6, 4] if not isinstance(source, Activation) else [6, 6])
    shape, step = graph(model), 1e-4
    some = np.random.default_rng(seed).choice(len(shape), 20, replace=False)
    kept = torch.ones(2, 20, len(shape), dtype=torch.float64)
    kept[0, range(20), some] -= step
    kept[1, range(20), some] += step
    less, more = mixed(model, pairs, kept.flatten(0, 1), source).reshape(2, 20, -1)
    found = scores(model, pairs, source=source)
    size = abs(found).max()
    assert size > 1e-3
    np.testing.assert_allclose(found[some], (less - more) / (2 * step), rtol=0, atol=1e-4 * (1 + size))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("patching", ["noising", "denoising"])
def test_the_edges_out_of_a_node_add_up_to_its_attribution(kind: str, patching: Any, seed: int) -> None:
    model, pairs = a_model(kind), sweeps.random_pairs(seed, [6, 4])
    shape = graph(model)
    nodes = [interp.Change(site) for site in shape.senders[1:]]
    expected = interp.effect(interp.attribute(model, pairs, nodes, patching=patching, progress=False)).values[0]
    found = out_of(shape, scores(model, pairs, patching=patching))[1:]
    size = 1 + abs(expected).max()
    if kind == "gemma2":  # a head's share of a norm's output is more of it than what moves that norm
        heads = np.array([site.name == "z" for site in shape.senders[1:]])
        found, expected = found[~heads], expected[~heads]
    loose = 1e-4 if model.dtype == torch.float32 else 1e-9 if kind in EXACT else 1e-5
    np.testing.assert_allclose(found, expected, rtol=0, atol=loose * size)


@pytest.mark.parametrize("make", [nets_linear.linear, nets.linear], ids=["parallel streams", "uniform attention"])
def test_of_a_linear_network_all_are_exact(make: Any, seed: int) -> None:
    model = make(seed % 1000)
    width = model.anatomy.outputs
    draw = np.random.default_rng(seed)
    pairs = Pairs(
        tuple(
            interp.Pair(*(tuple(draw.integers(2, width, 5).tolist()) for _ in range(2)), answers=(int(a),), wrong=(int(b),))
            for a, b in (draw.choice(width, 2, replace=False) for _ in range(3))
        )
    )
    exact = interp.effect(interp.patch_edges(model, pairs, progress=False)).values[0]
    size = 1 + abs(exact).max()
    assert abs(exact).max() > 1e-3
    for options in (
        {},
        {"along": "embeddings", "steps": 1},
        {"along": "embeddings", "steps": 3, "quadrature": "right"},
        {"along": "embeddings", "steps": 1, "quadrature": "trapezoid"},
        {"along": "activations", "steps": 2},
    ):
        np.testing.assert_allclose(scores(model, pairs, **options), exact, rtol=0, atol=1e-6 * size, err_msg=str(options))


@pytest.mark.parametrize("kind", ["gpt2", "neox"])
def test_paths_and_their_ends(kind: str, seed: int) -> None:
    model, pairs = a_model(kind), sweeps.random_pairs(seed, [5, 5])

    def along(quadrature: str, steps: int, **options: Any) -> np.ndarray[Any, Any]:
        return scores(model, pairs, along="embeddings", quadrature=quadrature, steps=steps, **options)

    base, other = along("left", 1), along("right", 1)
    size = 1 + abs(base).max()
    np.testing.assert_allclose(base, scores(model, pairs), rtol=0, atol=1e-9 * size)
    np.testing.assert_allclose(other, -along("left", 1, patching="denoising"), rtol=0, atol=1e-9 * size)
    np.testing.assert_allclose(along("trapezoid", 1), (base + other) / 2, rtol=0, atol=1e-9 * size)
    turned = along("midpoint", 3, patching="denoising")
    np.testing.assert_allclose(along("midpoint", 3), -turned, rtol=0, atol=1e-9 * size)


def test_edges_out_of_the_embedding_add_up_to_the_total(seed: int) -> None:
    """Completeness; of a smooth path the error of one end falls as 1/m and that of midpoints as 1/m²."""
    model, pairs = a_model("neox-sequential"), sweeps.random_pairs(seed, [5, 5, 5])
    shape = graph(model)
    found = interp.patch_circuits(model, pairs, interp.circuits.Circuit.empty(shape), "logprob")
    total = interp.effect(found).values[0, 0]

    def error(quadrature: str, steps: int) -> float:
        made = scores(model, pairs, metric="logprob", along="embeddings", quadrature=quadrature, steps=steps)
        return float(abs(out_of(shape, made)[0] - total).max())

    size = 1 + float(abs(total).max())
    assert error("midpoint", 100) < 1e-2 * size
    assert error("left", 100) < 0.2 * error("left", 10) + 1e-6
    assert error("midpoint", 100) < 0.05 * error("midpoint", 10) + 1e-6


def test_a_metric_that_is_least_at_the_base_has_no_slope_there(seed: int) -> None:
    """A divergence from the clean run: 0 and flat in it, and not so on the way."""
    model, pairs = a_model("gpt2"), sweeps.random_pairs(seed, [5, 5])
    assert abs(scores(model, pairs, metric="kl")).max() < 1e-12
    assert abs(scores(model, pairs, metric="kl", along="embeddings", steps=2)).max() > 1e-3


def test_how_many_run_together_does_not_matter(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = a_model("gpt2"), sweeps.random_pairs(seed, [5, 6, 5])
    whole = scores(model, pairs)
    np.testing.assert_allclose(scores(model, pairs, rows=1), whole, rtol=0, atol=1e-9 * (1 + abs(whole).max()))
    monkeypatch.setenv("INTERP_MEMORY_BYTES", "20000")
    np.testing.assert_allclose(scores(model, pairs), whole, rtol=0, atol=1e-9 * (1 + abs(whole).max()))


def test_some_edges_and_their_labels(seed: int) -> None:
    model, pairs = a_model("gpt2"), sweeps.random_pairs(seed, [5, 5])
    shape = graph(model)
    some = [shape.edges[i] for i in (3, 77, 150)]
    found = interp.attribute_edges(model, pairs, ["logit_diff", "logprob"], edges=some)
    assert found["edge"].values.tolist() == [repr(edge) for edge in some]
    np.testing.assert_allclose(interp.effect(found).values[0], scores(model, pairs)[[3, 77, 150]], rtol=0, atol=1e-12)
    assert (found.attrs["method"], found.attrs["estimate"], found.attrs["strategy"]) == (
        "attribute_edges",
        "first order",
        "attribution",
    )
    along = interp.attribute_edges(model, pairs, edges=some, along="activations", steps=1)
    assert {key: along.attrs[key] for key in ("along", "steps", "quadrature")} == {
        "along": "activations", "steps": 1, "quadrature": "gauss",
    }  # fmt: skip
    assert interp.effects.validate(found) is found


def test_kept_in_a_store_and_made_again(seed: int, tmp_path: Path) -> None:
    model = interp.load("zoo/language-4l")
    pairs = interp.tasks.ioi(4, seed=seed, tokenizer=model.tokenizer)
    first = interp.attribute_edges(model, pairs, store=tmp_path / "runs", name="first order")
    np.testing.assert_array_equal(
        first["value"], interp.attribute_edges(model, pairs, store=tmp_path / "runs", name="first order")["value"]
    )
    other = interp.attribute_edges(model, pairs, along="embeddings", steps=2, store=tmp_path / "runs", name="along")
    assert bool((other["value"].values != first["value"].values).any())
    runs = interp.Store(tmp_path / "runs")
    assert interp.rerun(runs.run("first order")).within
    assert interp.rerun(runs.run("along")).within


def test_what_cannot_be_estimated_says_why(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [5, 5])
    ask: Any = sweeps.unchecked(interp.attribute_edges)
    with pytest.raises(UnknownNameError, match="unknown along 'inputs'"):
        ask(model, pairs, along="inputs")
    with pytest.raises(UnknownNameError, match="unknown quadrature 'simpson'"):
        ask(model, pairs, along="embeddings", quadrature="simpson")
    with pytest.raises(ValueError, match="steps=0"):
        ask(model, pairs, along="embeddings", steps=0)
    with pytest.raises(GradientError, match="has no gradient"):
        ask(model, pairs, "accuracy")
