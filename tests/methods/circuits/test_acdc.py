"""ACDC against asking about one edge after the other, and as a call: words, stores, joined thresholds, warnings."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
import torch
import xarray as xr

import interp
from interp.circuits import BY, KEPT, By, Circuit, Known, backwards, circuits_of, prune
from interp.engine.budget import Budget
from interp.engine.graph.edges import graph
from interp.engine.graph.mixed import Mixed
from interp.engine.readout import Reader
from interp.engine.runs import Runs
from interp.errors import EdgesError, InputError, UnknownNameError
from interp.interventions import Activation, Constant, Source
from interp.metrics import resolve
from interp.models import Model
from interp.prompts import Pairs

TAUS = {"kl": [1e-4, 0.01, 0.3], "logit_diff": [0.01, 0.1, 0.5]}


def a_model(kind: str) -> Model:
    return sweeps.model(kind, torch.float32 if kind in ("gemma2", "bloom") else torch.float64)


def one_by_one(
    model: Model, pairs: Pairs, tau: float, metric: str, by: By, order: int | None = None, source: Source | None = None
) -> np.ndarray[Any, Any]:
    """What is left: a row of its own an edge, whole from the first block on."""
    shape, encoded = graph(model), model.encode(pairs)
    reader = Reader.of(model, encoded, resolve(metric))
    budget = Budget(model, reader, encoded.clean.width)
    runs = Runs(model, encoded, "clean", budget.batch, reader)
    kept, everyone = np.ones(len(shape), dtype=bool), torch.arange(len(encoded))
    with torch.no_grad(), model.prepared():
        runs.want_logits("clean", "corrupted", "base")
        rows = Mixed(runs, shape, Activation() if source is None else source, budget, torch.zeros(0, len(shape)))
        rows.open()

        def number(kept: np.ndarray[Any, Any]) -> float:
            return rows._values(torch.tensor(kept)[None].double(), everyone, lambda n: None, begin=0).mean().item()

        value = number(kept)
        for edge in backwards(shape, order):
            trial = kept.copy()
            trial[edge] = False
            without = number(trial)
            if BY[by](without - value) < tau:
                kept, value = trial, without
    return kept


@pytest.mark.parametrize(
    ("kind", "metric", "by", "source"),
    [
        ("gpt2", "kl", "raises", None),
        ("llama", "logit_diff", "lowers", None),
        ("neox", "logit_diff", "size", Constant(0.0)),
        ("zoo", "kl", "raises", Constant(0.0)),
        ("gemma2", "kl", "raises", None),
    ],
)
def test_circuits_are_those_of_asking_one_by_one(kind: str, metric: str, by: By, source: Source | None, seed: int) -> None:
    model, pairs = a_model(kind), sweeps.random_pairs(seed, [5, 6])
    tau = TAUS[metric][2 if kind == "gemma2" else 1]
    found = interp.acdc(model, pairs, tau, metric, by=by, source=source, order=seed, progress=False)
    expected = one_by_one(model, pairs, tau, metric, by, seed, source)
    assert found["closest"].item() > (1e-9 if model.dtype == torch.float64 else 1e-6)  # else which edges stay is rounding
    np.testing.assert_array_equal(found[KEPT].values[0], expected)
    assert 0 < expected.sum() < len(expected)
    assert found["unasked"].item() == int(np.isnan(found["change"]).sum())


@pytest.mark.parametrize("kind", ["bloom", "gemma2", "llama", "neox", "zoo"])
def test_what_is_foretold_and_rows_do_not_change_the_circuit(kind: str, seed: int) -> None:
    model, pairs = a_model(kind), sweeps.random_pairs(seed, [6, 4, 6])
    taus = TAUS["kl"][1:]
    found = interp.acdc(model, pairs, taus)
    assert found["edges"].values.tolist() == found[KEPT].sum("edge").values.tolist()
    assert len(set(found["edges"].values)) > 1
    near = float(found["closest"].min())
    if near < (1e-9 if model.dtype == torch.float64 else 1e-5):
        pytest.skip(f"a change is {near:.0e} from a threshold")
    estimates = np.random.default_rng(seed).normal(size=len(graph(model)))
    again = interp.acdc(model, pairs, taus, foretold=estimates, rows=5)
    np.testing.assert_array_equal(found[KEPT], again[KEPT])
    assert int(again["misses"].sum()) > 0
    off = float(abs(found["value"] - again["value"]).max())
    assert off <= (1e-9 if model.dtype == torch.float64 else 1e-4)


def test_the_trace_replays(seed: int) -> None:
    """What an edge changed is the difference between the circuits before and after it, evaluated as such."""
    model, pairs = a_model("gpt2"), sweeps.random_pairs(seed, [5, 6])
    shape = graph(model)
    found = interp.acdc(model, pairs, 0.01)
    kept, circuits, changes = np.ones(len(shape), dtype=bool), list[Circuit](), list[float]()
    for edge in backwards(shape):
        trial = kept.copy()
        trial[edge] = False
        change = float(found["change"][0, edge])
        if not np.isnan(change):
            circuits += [Circuit(shape, kept), Circuit(shape, trial)]
            changes.append(change)
        if not found[KEPT].values[0, edge]:
            kept = trial
    value = interp.patch_circuits(model, pairs, circuits, "kl")["value"].mean("example").values[0]
    np.testing.assert_allclose(value[1::2] - value[::2], changes, rtol=0, atol=1e-10)


def test_the_result_is_that_of_its_circuits(seed: int) -> None:
    model, pairs = a_model("llama"), sweeps.random_pairs(seed, [5, 6])
    found = interp.acdc(model, pairs, [0.1, 0.001])
    assert found["threshold"].values.tolist() == [0.1, 0.001]
    assert found["circuit"].values.tolist() == ["acdc 0.1", "acdc 0.001"]
    circuits = circuits_of(found, graph(model))
    assert [len(one) for one in circuits] == found["edges"].values.tolist()
    assert circuits[0].origin["method"] == "acdc"
    assert circuits[0].origin["threshold"] == 0.1
    assert Circuit.from_json(circuits[1].to_json()) == circuits[1]
    patched = interp.patch_circuits(model, pairs, circuits, "kl")
    for name in ("value", "clean", "corrupt"):
        np.testing.assert_allclose(found[name], patched[name], rtol=0, atol=1e-12)
    assert interp.effect(found).dims == ("metric", "cell", "example")
    alone = interp.acdc(model, pairs, 0.001)
    np.testing.assert_array_equal(alone[KEPT][0], found[KEPT][1])
    assert not interp.effects.derived(found)
    assert not interp.effects.derived(alone)
    assert found.attrs["by"] == alone.attrs["by"] == "raises"
    assert alone.attrs["threshold"] == 0.001
    assert "threshold" not in found.attrs
    assert found.attrs["spec"] is None
    assert alone.attrs["spec"] is not None


def test_metrics_without_a_gradient_are_searched_too(seed: int) -> None:
    model, pairs = a_model("gpt2"), sweeps.random_pairs(seed, [5, 6])
    found = interp.acdc(model, pairs, 0.4, "rank", by="size")
    np.testing.assert_array_equal(found[KEPT].values[0], one_by_one(model, pairs, 0.4, "rank", "size"))


def test_every_threshold_is_kept_as_soon_as_it_is_found(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = a_model("gpt2"), sweeps.random_pairs(seed, [5, 6])
    whole = interp.acdc(model, pairs, [0.01, 0.1])
    made = list[float]()

    def stopped(known: Known, threshold: float, **options: Any) -> Any:
        if made:
            raise KeyboardInterrupt
        made.append(threshold)
        return prune(known, threshold, **options)

    monkeypatch.setattr("interp.methods.circuits.acdc.prune", stopped)
    with pytest.raises(KeyboardInterrupt):
        interp.acdc(model, pairs, [0.1, 0.01], store=tmp_path, name="circuits", tags=["kl"])
    store = interp.Store(tmp_path)
    assert [run.name for run in store] == ["circuits, 0.01"]
    assert made == [0.01]
    monkeypatch.undo()
    found = interp.acdc(model, pairs, [0.01, 0.1], store=tmp_path, name="circuits", tags=["kl"])
    np.testing.assert_array_equal(found[KEPT], whole[KEPT])
    assert sorted(run.name for run in store) == ["circuits, 0.01", "circuits, 0.1"]
    monkeypatch.setattr("interp.methods.circuits.acdc.prune", stopped)  # nothing is searched for again
    again = interp.acdc(model, pairs, [0.01, 0.1], store=tmp_path)
    xr.testing.assert_identical(found.drop_attrs(), again.drop_attrs())
    alone = interp.acdc(model, pairs, 0.1, store=tmp_path)
    np.testing.assert_array_equal(alone[KEPT][0], whole[KEPT][1])
    monkeypatch.undo()
    assert interp.rerun(store.run("circuits, 0.1"), model=model).within


def test_thresholds_within_rounding_are_warned_of(seed: int) -> None:
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [5])
    with pytest.warns(UserWarning, match=r"threshold=1e-30 is within rounding, .*load the model in float64"):
        interp.acdc(model, pairs, 1e-30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interp.acdc(model, pairs, 0.5)


def test_wrong_arguments_are_refused_with_what_to_do() -> None:
    model, pairs = a_model("gpt2"), sweeps.random_pairs(0, [5])
    ask: Any = sweeps.unchecked(interp.acdc)
    with pytest.raises(InputError, match=r"it has to be said what keeps an edge, by logit_diff: by='lowers' where"):
        ask(model, pairs, 0.1, "logit_diff")
    with pytest.raises(UnknownNameError, match=r"unknown by 'lower'.*lowers"):
        ask(model, pairs, 0.1, "logit_diff", by="lower")
    with pytest.raises(InputError, match="metric names kl, logit_diff; circuits are found by one metric at a time"):
        ask(model, pairs, 0.1, ["kl", "logit_diff"])
    for wrong in (0, -0.1, "0.1", True, None):
        with pytest.raises(InputError, match=r"threshold=.*; expected a number above 0, in the metric's units, or several"):
            ask(model, pairs, wrong)
    with pytest.raises(InputError, match="threshold is empty"):
        ask(model, pairs, [])
    with pytest.raises(EdgesError, match=r"scores are of 3 edges, but Graph"):
        ask(model, pairs, 0.1, foretold=np.zeros(3))
    with pytest.raises(EdgesError, match=r"expected the result of a search for circuits, with 'in_circuit'"):
        circuits_of(interp.patch_circuits(model, pairs, Circuit.whole(graph(model))), graph(model))
    with pytest.raises(EdgesError, match=r"others than those of Graph\(2 blocks, 9 senders, \d+ edges\)"):
        circuits_of(interp.acdc(model, pairs, 0.5), interp.circuits.Graph.like(2, heads=3))
