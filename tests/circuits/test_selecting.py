"""From scores to circuits: sorting, thresholds, and the greedy search against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sweeps
import xarray as xr

import interp
from interp.circuits import Block, Circuit, Graph, beyond, ranking, strongest
from interp.errors import EdgesError, UnknownNameError

MIXED = Graph((Block(4, 2), Block(2, 1, parallel=True), Block(3, 3, mlp=False), Block(2, 2)))


def scores(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(len(MIXED))


@pytest.mark.parametrize("by", ["size", "lowers", "raises"])
def test_the_strongest_are_the_first_of_all_sorted(by: Any, seed: int) -> None:
    values = scores(seed)
    counted = {"size": abs(values), "lowers": -values, "raises": values}[by]
    for count in (1, 7, len(MIXED)):
        expected = {int(i) for i in sorted(range(len(MIXED)), key=lambda i: -counted[i])[:count]}
        assert {*np.flatnonzero(strongest(values, MIXED, count, by=by).kept).tolist()} == expected
    at = float(np.sort(counted)[-9])
    assert beyond(values, MIXED, at, by=by) == strongest(values, MIXED, 8, by=by)
    np.testing.assert_array_equal(ranking(values, MIXED, by), counted)


@pytest.mark.parametrize("count", [1, 5, 40])
def test_connected_edges_are_chosen_one_by_one(count: int, seed: int) -> None:
    """Each is the best of those that lead to the logits or to a reader of a node with an edge chosen already."""
    values = abs(scores(seed))
    chosen: list[int] = []
    for _ in range(count):
        reached = {"logits", *(repr(MIXED.edges[i].sender) for i in chosen)}
        open_ = [
            i
            for i, edge in enumerate(MIXED.edges)
            if i not in chosen and reached & {*([repr(s) for s in MIXED.serves(edge.receiver)] or ["logits"])}
        ]
        chosen.append(max(open_, key=lambda i: values[i]))
    found = strongest(values, MIXED, count, connected=True)
    assert {*np.flatnonzero(found.kept).tolist()} == {*chosen}
    assert len(found) == count


def test_scores_from_results_say_where_they_are_from(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [5, 5])
    shape = interp.graph(model)
    found = interp.attribute_edges(model, pairs, ["logit_diff", "logprob"])
    circuit = strongest(found, shape, 20, metric="logprob", name="EAP")
    mean = interp.effect(found).sel(metric="logprob").mean("example").values
    assert circuit == strongest(mean, shape, 20)
    assert circuit.origin["method"] == "attribute_edges"
    assert Circuit.from_json(circuit.to_json()).origin == circuit.origin
    assert strongest(interp.effect(found).sel(metric="logprob"), shape, 20) == circuit
    with pytest.raises(UnknownNameError, match="say which: metric="):
        strongest(found, shape, 20)
    with pytest.raises(UnknownNameError, match="unknown metric 'kl'"):
        strongest(found, shape, 20, metric="kl")
    turned = found.isel(cell=slice(None, None, -1))
    with pytest.raises(EdgesError, match="other edges than the graph's: 'm"):
        strongest(turned, shape, 20, metric="logprob")


def test_mistakes_are_named(seed: int) -> None:
    ask: Any = sweeps.unchecked(strongest)
    with pytest.raises(ValueError, match="count=0"):
        ask(scores(seed), MIXED, 0)
    with pytest.raises(EdgesError, match=r"count=10000, but Graph\(4 blocks"):
        ask(scores(seed), MIXED, 10_000)
    with pytest.raises(UnknownNameError, match="unknown by 'sign'"):
        sweeps.unchecked(ranking)(scores(seed), MIXED, "sign")
    with pytest.raises(EdgesError, match="scores are of 5 edges"):
        ask(np.zeros(5), MIXED, 3)
    with pytest.raises(EdgesError, match=r"1 of \d+ scores are not a number"):
        ask(np.where(np.arange(len(MIXED)) == 3, np.nan, 1.0), MIXED, 3)
    with pytest.raises(EdgesError, match="scores are of 3 edges"):
        ask(xr.DataArray(np.zeros(3), dims="cell"), MIXED, 3)
