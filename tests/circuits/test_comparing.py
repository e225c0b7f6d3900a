"""Overlap, its chance level and ROC: by formula, by hand and by drawing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
import sweeps

from interp.circuits import Block, Circuit, Graph, chance, jaccard, overlap, random_circuits, roc, strongest
from interp.errors import EdgesError, InputError, ShapeMismatchError, UnknownNameError

SHAPE = Graph.like(2, heads=4)
GROUPED = Graph((Block(4, 2), Block(4, 2)))


def drawn(seed: int, *sizes: int, shape: Graph = SHAPE) -> list[Circuit]:
    draw = np.random.default_rng(seed)
    return [Circuit(shape, draw.permutation(len(shape)) < size, f"{i} of {size}") for i, size in enumerate(sizes)]


def test_overlap_is_counted(seed: int) -> None:
    first, second = drawn(seed, 40, 25)
    one, other = ({repr(edge) for edge in circuit.edges} for circuit in (first, second))
    found = overlap(first, second)
    assert found == (len(one & other), 40, 25, len(SHAPE))
    assert (found.jaccard, found.precision) == (len(one & other) / len(one | other), len(one & other) / 40)
    assert found.recall == overlap(second, first).precision == len(one & other) / 25
    ones, others = ({*circuit.nodes} - {"embed"} for circuit in (first, second))
    assert overlap(first, second, "nodes") == (len(ones & others), len(ones), len(others), 10)
    matrix = jaccard([first, second])
    assert matrix["edges"].sel(circuit=first.name, other=second.name) == pytest.approx(found.jaccard)
    assert matrix["nodes"].values[1, 0] == pytest.approx(overlap(first, second, "nodes").jaccard)
    assert matrix["edges_chance"].values[0, 1] == pytest.approx(found.chance)
    assert np.isnan(overlap(Circuit.empty(SHAPE), Circuit.empty(SHAPE)).jaccard)


def test_ground_truth_5_a_circuit_is_like_itself_and_random_ones_as_chance_says(seed: int) -> None:
    """Card 11, test 5: J(C, C) = 1; the mean over random pairs is k / (2n − k) but for E[X/(2k − X)] ≠ E X / (2k − E X).

    The two differ by less than var(X) · 2k / (2k − EX)³, from the second derivative of x / (2k − x), which is allowed beside
    the standard errors; X is hypergeometric.
    """
    n, k = len(SHAPE), 60
    like = Circuit(SHAPE, np.arange(n) < k)
    assert overlap(like, like).jaccard == 1
    assert np.diag(jaccard([like, ~like])["edges"]).tolist() == [1, 1]
    assert chance(k, k, n) == pytest.approx(k / (2 * n - k), rel=1e-12)
    firsts, seconds = (random_circuits(like, 1000, seed=s) for s in (seed, seed + 1))
    found = np.array([overlap(a, b).jaccard for a, b in zip(firsts, seconds, strict=True)])
    mean, var = (float(x) for x in scipy.stats.hypergeom.stats(n, k, k))
    bend = 1.2 * var * 2 * k / (2 * k - mean) ** 3
    assert abs(found.mean() - k / (2 * n - k)) <= 3.5 * found.std() / np.sqrt(len(found)) + bend
    assert bend < 0.01 * mean


def test_ground_truth_4_roc_of_a_ranking_is_mann_whitney_s(seed: int) -> None:
    """Card 11, test 4: perfect order 1, reversed 0, ties ½, else U / (n₁ n₀) of scipy's."""
    (truth,) = drawn(seed, 30)
    perfect = truth.kept.astype(float)
    assert roc(perfect, truth).auc == 1
    assert roc(-perfect, truth, by="raises").auc == 0
    assert roc(np.ones(len(SHAPE)), truth).auc == 0.5
    scores = np.random.default_rng(seed).normal(size=len(SHAPE)).round(1)
    for by, counted in (("size", abs(scores)), ("lowers", -scores), ("raises", scores)):
        u = scipy.stats.mannwhitneyu(counted[truth.kept], counted[~truth.kept]).statistic
        assert roc(scores, truth, by=by).auc == pytest.approx(u / (30 * (len(SHAPE) - 30)), abs=1e-12)


@pytest.mark.parametrize("shape", [SHAPE, GROUPED], ids=["alike", "grouped"])
def test_a_node_is_found_with_its_first_edge(shape: Graph, seed: int) -> None:
    """Expected: circuits of the strongest 1, 2, 3, … edges, whose nodes nest, joined as circuits are.

    An edge may bring two nodes, which are tied.
    """
    truth = Circuit.among(shape, ["L0H1", "m0", "L1H2"])
    scores = np.random.default_rng(seed).normal(size=len(shape))
    nested = [strongest(scores, shape, count) for count in range(1, len(shape) + 1)]
    before = [{*one.nodes} - {"embed"} for one in nested]
    order = [(a, b - a) for a, b in zip([set[str](), *before], before, strict=False)]
    known = {*truth.nodes} - {"embed"}
    hits = [(len(new & known), len(new - known)) for _, new in order]
    total = sum(h for h, _ in hits), sum(m for _, m in hits)
    assert sum(total) == len(shape.senders) - 1
    beaten, missed = 0.0, total[1]
    for hit, miss in hits:
        missed -= miss
        beaten += hit * (missed + miss / 2)
    assert roc(scores, truth, "nodes").auc == pytest.approx(beaten / (total[0] * total[1]), abs=1e-12)


def test_circuits_that_do_not_nest_are_joined_by_steps() -> None:
    truth = Circuit.of(SHAPE, ["embed → L0H0.q", "embed → L0H1.q"])
    half = Circuit.of(SHAPE, ["embed → L0H0.q"])
    assert roc([truth], truth).auc == 1
    assert roc([half], truth).auc == pytest.approx(0.5)
    assert roc([half], truth, "nodes").auc == pytest.approx(0.5)


def test_mistakes_are_named(seed: int) -> None:
    first, second = drawn(seed, 5, 6)
    other = Circuit.whole(Graph.like(2, heads=3))
    with pytest.raises(EdgesError, match=r"'?0 of 5.* and whole.* are of two graphs"):
        overlap(first, other)
    ask: Any = sweeps.unchecked(overlap)
    with pytest.raises(UnknownNameError, match="unknown of 'node'; did you mean 'nodes'"):
        ask(first, second, "node")
    with pytest.raises(InputError, match="circuits to compare need names of their own; got 0 of 5, 0 of 5"):
        jaccard([first, first])
    with pytest.raises(InputError, match="need names of their own; got none"):
        jaccard([])
    with pytest.raises(ShapeMismatchError, match="a ROC needs true and false edges"):
        roc(np.ones(len(SHAPE)), Circuit.whole(SHAPE))
