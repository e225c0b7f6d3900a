"""Every score of edges with every ablation: what is seen of a writer is what ablating the whole writer writes.

Tolerance: 1e-9 in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sweeps
import torch

import interp
from interp import axes
from interp.circuits import Circuit
from interp.interventions import Constant, mean, resample

SOURCES = {
    "counterfactual": None,
    "resample": resample(3),
    "zero": Constant(0.0),
    "positional mean": mean("source"),
    "mean": mean("source", over=(axes.EXAMPLE, axes.POSITION)),
}


@pytest.fixture(params=list(SOURCES))
def how(request: pytest.FixtureRequest) -> dict[str, Any]:
    source = SOURCES[request.param]
    return {} if source is None else {"source": source}


@pytest.fixture(params=["gpt2", "neox", "zoo"])
def model(request: pytest.FixtureRequest) -> interp.Model:
    return sweeps.model(request.param, torch.float64)


def test_edges_out_of_a_node(model: interp.Model, how: dict[str, Any], seed: int) -> None:
    """Left out together they are the node ablated; their slopes add up to its slope; each alone is all edges but one."""
    pairs, shape = sweeps.random_pairs(seed, [6, 6, 6, 6]), interp.graph(model)
    nodes = [interp.Change(site, **how) for site in shape.whole[1:]]
    circuits = [Circuit(shape, shape.sender != number) for number in range(1, len(shape.senders))]
    ablated = interp.patch(model, pairs, nodes, patching="noising")["value"].values
    np.testing.assert_allclose(interp.patch_circuits(model, pairs, circuits, **how)["value"], ablated, rtol=0, atol=1e-9)
    slope = interp.effect(interp.attribute(model, pairs, nodes, patching="noising")).values[0]
    of_edges = interp.effect(interp.attribute_edges(model, pairs, **how)).values[0]
    sums = np.stack([of_edges[shape.sender == number].sum(0) for number in range(1, len(shape.senders))])
    np.testing.assert_allclose(sums, slope, rtol=0, atol=1e-9 * (1 + abs(slope).max()))
    some = [shape.edges[i] for i in np.random.default_rng(seed).choice(len(shape), 12, replace=False)]
    exact = interp.patch_edges(model, pairs, edges=some, **how)["value"]
    but_one = interp.patch_circuits(model, pairs, [~Circuit.of(shape, [edge]) for edge in some], **how)["value"]
    np.testing.assert_allclose(exact, but_one, rtol=0, atol=1e-9)
    assert abs(slope).max() > 1e-3


def test_a_path_along_embeddings_ends_where_the_source_is(model: interp.Model, how: dict[str, Any], seed: int) -> None:
    """Edges out of the embedding add up to what ablating it does; a path to nothing ends where a norm has a pole."""
    pairs, shape, zero = sweeps.random_pairs(seed, [6, 6, 6]), interp.graph(model), how.get("source") == SOURCES["zero"]
    change = interp.Change("L0.resid_pre", **how)
    total = interp.effect(interp.patch(model, pairs, change, "logprob", patching="noising")).values.reshape(-1)
    found = interp.attribute_edges(model, pairs, "logprob", along="embeddings", steps=300 if zero else 60, **how)
    added = interp.effect(found).values[0][shape.sender == 0].sum(0)
    np.testing.assert_allclose(added, total, rtol=0, atol=(5e-3 if zero else 1e-4) * (1 + abs(total).max()))
    assert abs(total).max() > 1e-2
