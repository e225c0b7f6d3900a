"""Greedy pruning with decisions that are foretold, against asking about one edge after the other.

The numbers of circuits are those of a small net on the graph itself, with tanh readers, so that edges stand in for each other,
matter only together, and so on.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import sweeps
from numpy.typing import NDArray

from interp.circuits import Graph, Known, backwards, prune
from interp.circuits.pruning import FEWEST
from interp.circuits.selecting import BY
from interp.errors import EdgesError, UnknownNameError

GRAPHS = {
    "attention and MLPs": Graph.like(2, heads=3),
    "shared keys and values": Graph.like(2, heads=4, kv_heads=2),
    "parallel": Graph.like(2, heads=3, parallel=True),
    "attention alone": Graph.like(3, heads=2, mlp=False),
}


def net(graph: Graph, seed: int, loud: float = 0.5) -> Callable[[NDArray[np.bool_]], NDArray[np.float64]]:
    """How far a circuit's output is from the whole's: every reader sees a vector, every writer adds one."""
    draw = np.random.default_rng(seed)
    other = draw.normal(size=(len(graph.senders), 4))
    maps = loud * draw.normal(size=(len(graph.receivers), 4, 4))

    def output(kept: NDArray[np.bool_]) -> NDArray[np.float64]:
        said, weights = np.zeros((len(graph.senders), 4)), graph.dense(kept).astype(float)
        said[0] = 1.0
        for reader, (before, into) in enumerate(zip(graph.before, maps, strict=True)):
            w = weights[:before, reader, None]
            seen = (w * said[:before] + (1 - w) * other[:before]).sum(0)
            said[graph.served[reader]] += np.tanh(into @ seen)
        return seen

    whole = output(np.ones(len(graph), dtype=bool))
    return lambda circuits: np.array([((output(kept) - whole) ** 2).sum() for kept in circuits])


def one_by_one(
    graph: Graph, evaluate: Callable[..., NDArray[np.float64]], tau: float, by: str, order: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.float64], float]:
    """ACDC as it is written: what is left, what each edge changed, and the number of what is left."""
    kept, changes = np.ones(len(graph), dtype=bool), np.zeros(len(graph))
    value = evaluate(kept[None])[0]
    for edge in order:
        trial = kept.copy()
        trial[edge] = False
        without = evaluate(trial[None])[0]
        changes[edge] = BY[by](without - value)  # type: ignore[index]
        if changes[edge] < tau:
            kept, value = trial, without
    return kept, changes, value


@pytest.mark.parametrize("kind", sorted(GRAPHS))
@pytest.mark.parametrize("by", sorted(BY))
@pytest.mark.parametrize("shuffled", [False, True])
def test_decisions_are_those_of_asking_one_by_one(kind: str, by: str, shuffled: bool, seed: int) -> None:
    graph = GRAPHS[kind]
    evaluate, order = net(graph, seed), backwards(graph, seed if shuffled else None)
    known, sizes = Known(graph, evaluate), set()
    for tau in (0.01, 0.1, 0.5, 2.0):
        kept, changes, value = one_by_one(graph, evaluate, tau, by, order)
        found = prune(known, tau, by=by, order=order, most=11)
        np.testing.assert_array_equal(found.kept, kept)
        asked = ~np.isnan(found.change)
        np.testing.assert_allclose(found.change[asked], changes[asked], atol=1e-12)
        np.testing.assert_allclose(changes[~asked], 0, atol=1e-12)  # by rule goes what changes nothing
        assert found.unasked == (~asked).sum()
        assert not kept[~asked].any()
        assert found.value == pytest.approx(value, abs=1e-12)
        assert found.closest == pytest.approx(np.abs(changes[asked] - tau).min(), abs=1e-12)
        sizes.add(int(kept.sum()))
    assert len(sizes) > 1 or by == "lowers"  # hardly anything lowers what is least with all edges


@pytest.mark.parametrize("kind", sorted(GRAPHS))
def test_what_is_foretold_changes_the_work_and_not_the_result(kind: str, seed: int) -> None:
    graph = GRAPHS[kind]
    evaluate, draw = net(graph, seed), np.random.default_rng(seed)
    kept, changes, _ = one_by_one(graph, evaluate, 0.1, "raises", backwards(graph))
    rightly, wrongly = (prune(Known(graph, evaluate, guess), 0.1) for guess in (changes, 0.2 - changes))
    by_lot = prune(Known(graph, evaluate, draw.normal(size=len(graph))), 0.1)
    for found in (rightly, wrongly, by_lot):
        np.testing.assert_array_equal(found.kept, kept)
    assert rightly.misses == 0
    assert rightly.evaluated == len(graph) - rightly.unasked
    assert min(wrongly.misses, by_lot.misses) > 0
    assert min(wrongly.rounds, by_lot.rounds) > rightly.rounds


def test_rounds_are_bounded_by_misses_and_edges(seed: int) -> None:
    graph = Graph.like(4, heads=4)
    known = Known(graph, net(graph, seed, 0.3))
    for tau in (0.001, 0.01, 0.1, 1.0):
        found = prune(known, tau)
        assert found.rounds <= 1.5 * found.misses + len(graph) / 32


def test_what_was_asked_once_is_known(seed: int) -> None:
    graph = GRAPHS["parallel"]
    evaluate, asked = net(graph, seed), list[bytes]()

    def counted(circuits: NDArray[np.bool_]) -> NDArray[np.float64]:
        asked.extend(kept.tobytes() for kept in circuits)
        return evaluate(circuits)

    known = Known(graph, counted)
    first, again = prune(known, 0.1), prune(known, 0.1)
    assert (again.rounds, again.evaluated) == (0, 0)
    np.testing.assert_array_equal(first.kept, again.kept)
    prune(known, 0.2)
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("most", [1, 3, 1000])
def test_no_more_are_asked_about_at_once_than_is_allowed(most: int, seed: int) -> None:
    graph = GRAPHS["attention and MLPs"]
    evaluate, sizes = net(graph, seed), list[int]()

    def counted(circuits: NDArray[np.bool_]) -> NDArray[np.float64]:
        sizes.append(len(circuits))
        return evaluate(circuits)

    decided = list[int]()
    prune(Known(graph, counted), 0.05, most=most, progress=decided.append)
    assert max(sizes) <= most
    assert most < 1000 or max(sizes) > FEWEST
    assert sum(decided) == len(graph)


def test_of_two_edges_that_stand_in_for_each_other_one_survives_whichever_comes_last(seed: int) -> None:
    """N-or: noising, each branch alone can go, so one stays, and which depends on the order; N-and keeps both."""
    graph = Graph.like(1, heads=2)
    a, b = graph.numbers(["L0H0 → logits", "L0H1 → logits"])
    orders = [backwards(graph), backwards(graph)]
    i, j = (int(np.flatnonzero(orders[1] == edge)[0]) for edge in (a, b))
    orders[1][[i, j]] = orders[1][[j, i]]

    def lacking(needed: Callable[..., NDArray[np.bool_]]) -> Callable[..., NDArray[np.float64]]:
        return lambda kept: 1.0 - needed(kept[:, a], kept[:, b])

    either = [set(np.flatnonzero(prune(Known(graph, lacking(np.logical_or)), 0.5, order=order).kept)) for order in orders]
    both = [set(np.flatnonzero(prune(Known(graph, lacking(np.logical_and)), 0.5, order=order).kept)) for order in orders]
    assert either == [{a}, {b}]
    assert both == [{a, b}, {a, b}]


@pytest.mark.parametrize("kind", sorted(GRAPHS))
def test_orders_are_backwards(kind: str, seed: int) -> None:
    graph = GRAPHS[kind]
    for order in (backwards(graph), backwards(graph, seed)):
        assert sorted(order) == list(range(len(graph)))
        place = np.empty(len(graph), dtype=int)
        place[order] = range(len(graph))
        for reader in range(len(graph.receivers)):
            for sender in np.flatnonzero(graph.served[reader]):  # edges out of what it makes come before edges into it
                assert place[graph.sender == sender].max() < place[graph.receiver == reader].min()
    readers = [graph.receiver[edge] for edge in backwards(graph, seed)]
    assert sum(a != b for a, b in pairwise(readers)) == len(graph.receivers) - 1  # one reader after the other
    assert not np.array_equal(backwards(graph, seed), backwards(graph, seed + 1))


def test_wrong_words_and_orders_are_refused() -> None:
    graph = GRAPHS["parallel"]
    known = Known(graph, net(graph, 0))
    with pytest.raises(UnknownNameError, match=r"unknown by 'rises'.*raises"):
        sweeps.unchecked(prune)(known, 0.1, by="rises")
    with pytest.raises(EdgesError, match=r"order is not every edge of Graph\(2 blocks, 9 senders, \d+ edges\) once"):
        prune(known, 0.1, order=backwards(graph)[1:])
    with pytest.raises(EdgesError, match=r"order has embed → L0H2\.v before embed → m0; readers behind come first"):
        prune(known, 0.1, order=backwards(graph)[::-1])
