"""Areas, ROC, frontiers and agreements against values computed by hand or by another formula."""

import numpy as np
import pytest
from scipy.stats import binomtest, mannwhitneyu, pearsonr, rankdata, spearmanr

from interp import stats
from interp.effects import curves
from interp.errors import ShapeMismatchError

MIB = np.array([0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1])


@pytest.mark.parametrize(
    ("f", "cpr", "cmd"),
    # ∫ from .001 to 1: of 1 it is .999, of k (1 − 1e-6)/2, of 1 − k the rest of .999, of 2 twice .999
    [(np.ones(10), 0.999, 0.0), (MIB, 0.4999995, 0.4990005), (np.full(10, 2.0), 1.998, 0.999)],
)
def test_areas_as_mib_defines_them(f, cpr, cmd):
    found = curves.areas(MIB, f)
    assert found.cpr == pytest.approx(cpr, abs=1e-12)
    assert found.cmd == pytest.approx(cmd, abs=1e-12)
    assert curves.areas(MIB[::-1], f[::-1]) == found  # in any order


def test_areas_below_one_add_up_and_gaps_make_none():
    f = np.random.default_rng(0).uniform(-1, 1, 10)
    assert sum(curves.areas(MIB, f)) == pytest.approx(0.999)
    assert np.isnan(curves.areas(MIB, np.where(MIB == 0.01, np.nan, f))).all()
    with pytest.raises(ShapeMismatchError, match=r"share and faithfulness are two lists .* of 2 at least; got \(1,\)"):
        curves.areas([1.0], [1.0])


def test_area_intervals_are_those_of_a_mean_where_the_area_is_one():
    rng = np.random.default_rng(1)
    top = rng.normal(0.5, 0.1, (10, 30))  # |1 − f| = 1 − f: both areas are linear in the examples
    cpr, cmd = curves.area_intervals(MIB, top, np.ones(30))
    weights = np.trapezoid(np.eye(10), MIB, axis=-1)
    plain = stats.t_interval(weights @ top)
    np.testing.assert_allclose(cpr[:3], plain[:3], rtol=1e-9)
    np.testing.assert_allclose(cmd[:3], (0.999 - plain.mean, 0.999 - plain.high, 0.999 - plain.low), rtol=1e-9)
    assert cpr.n == 30


def test_area_intervals_leave_out_whole_clusters():
    rng = np.random.default_rng(2)
    each = rng.normal(0.5, 0.2, (10, 6))
    twice, labels = np.repeat(each, 5, axis=1), np.repeat(list("abcdef"), 5)
    cpr, cmd = curves.area_intervals(MIB, twice, np.ones(30), labels)
    alone = curves.area_intervals(MIB, each, np.ones(6))
    np.testing.assert_allclose(cpr[:3], alone[0][:3], rtol=1e-9)  # five copies of an example are worth one
    np.testing.assert_allclose(cmd[:3], alone[1][:3], rtol=1e-9)
    assert cpr.n == 6


def test_roc_of_an_order_by_hand():
    found = curves.roc([4, 3, 2, 1], [True, False, True, False])
    np.testing.assert_array_equal(found.tpr, [0, 0.5, 0.5, 1, 1])
    np.testing.assert_array_equal(found.fpr, [0, 0, 0.5, 0.5, 1])
    np.testing.assert_array_equal(found.threshold, [np.inf, 4, 3, 2, 1])
    assert found.auc == 0.75  # of four pairs of a true and a false one three are in order
    assert curves.roc([4, 3, 2, 1], [True, True, False, False]).auc == 1
    assert curves.roc([4, 3, 2, 1], [False, False, True, True]).auc == 0
    assert curves.roc([1, 1, 1, 1], [True, False, True, False]).auc == 0.5


def test_roc_area_is_the_trapezoid_and_mann_whitney():
    rng = np.random.default_rng(3)
    score, truth = rng.integers(0, 6, 80).astype(float), rng.random(80) < 0.3
    found = curves.roc(score, truth)
    assert found.auc == pytest.approx(np.trapezoid(found.tpr, found.fpr))
    u = mannwhitneyu(score[truth], score[~truth]).statistic
    assert found.auc == pytest.approx(u / (truth.sum() * (~truth).sum()))


def test_interval_of_an_area_under_a_roc():
    rng = np.random.default_rng(7)
    truth, score = rng.random(60) < 0.4, rng.normal(size=(60, 9))
    score[truth] += 0.3
    found = curves.auc_interval(score, truth)
    without = [curves.roc(np.delete(score, i, 1).mean(1), truth).auc for i in range(9)]
    pseudo = 9 * curves.roc(score.mean(1), truth).auc - 8 * np.array(without)
    half = stats.t_interval(pseudo).high - pseudo.mean()  # Tukey's pseudo-values: their standard error is the jackknife's
    assert found.mean == curves.roc(score.mean(1), truth).auc
    assert found.high - found.mean == pytest.approx(half)
    labels = np.repeat(list("abc"), 3)
    assert curves.auc_interval(score, truth, labels).n == 3
    signed = curves.auc_interval(-np.abs(score), truth, absolute=True)
    assert signed.mean == curves.roc(np.abs(score).mean(1), truth).auc


def test_what_has_no_score_is_found_last():
    assert curves.roc([1.0, -2.0, np.nan, np.nan], [True, False, True, False]).auc == 0.625  # (1 + ½ + 1 + 0) / 4 pairs
    with pytest.raises(ShapeMismatchError, match="of 3 edges 3 are true"):
        curves.roc([1, 2, 3], [True] * 3)


def test_steps_between_circuits_are_pessimistic():
    truth = [True, True, False, False]
    found = curves.roc_of_circuits([[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]], truth)  # the last one is beaten by the first
    corners = list(zip(found.fpr, found.tpr, strict=True))
    assert corners[0] == (0, 0)
    assert corners[-1] == (1, 1)
    assert (0.5, 0.5) in corners
    assert (0.5, 1) in corners
    assert found.auc == pytest.approx(0.5 * 0.5 + 0.5 * 1)
    assert curves.roc_of_circuits([truth], truth).auc == 1
    assert curves.roc_of_circuits(np.zeros((1, 4)), truth).auc == 0
    with pytest.raises(ShapeMismatchError, match=r"circuits is \[circuit, edge\]"):
        curves.roc_of_circuits([1, 0, 0, 1], truth)


def test_frontier_by_definition():
    rng = np.random.default_rng(4)
    size, value = rng.integers(1, 12, 60).astype(float), rng.integers(0, 12, 60).astype(float)
    value[7] = np.nan
    beaten = [
        np.isnan(v) or any((s2 <= s and v2 >= v) and (s2 < s or v2 > v) for s2, v2 in zip(size, value, strict=True))
        for s, v in zip(size, value, strict=True)
    ]
    np.testing.assert_array_equal(curves.frontier(size, value), ~np.array(beaten))
    assert curves.frontier([1, 1, 2], [5, 5, 5]).tolist() == [True, True, False]


def test_ranks_are_scipy_s(seed):
    values = np.random.default_rng(seed).integers(-3, 4, size=50).astype(float)
    values[values == 3] = -np.inf
    np.testing.assert_array_equal(curves.ranks(values), rankdata(values))


def test_agreement_is_scipy_s_and_counts_signs():
    rng = np.random.default_rng(5)
    a = rng.normal(size=50).round(1)
    b = a + rng.normal(size=50)
    b[3] = np.nan
    found = curves.agreement(a, b, floor=0.2)
    there = np.isfinite(b)
    assert found.pearson == pytest.approx(pearsonr(a[there], b[there]).statistic)
    assert found.spearman == pytest.approx(spearmanr(a[there], b[there]).statistic)
    sure = there & (abs(a) > 0.2) & (abs(b) > 0.2)
    assert (found.n, found.signed) == (49, sure.sum())
    assert found.sign == pytest.approx((a * b > 0)[sure].mean())
    flat = curves.agreement([1, 2, 3], [0, 0, 0])
    assert np.isnan([flat.pearson, flat.spearman, flat.sign]).all()
    assert flat.signed == 0


def test_proportions_have_wilson_s_interval():
    for hits in (0, 7, 20):
        found = curves.proportion(np.arange(20) < hits, level=0.9)
        wanted = binomtest(hits, 20).proportion_ci(0.9, method="wilson")
        assert (found.low, found.high) == pytest.approx(tuple(wanted))
        assert found.n == 20


def test_proportions_of_clusters_count_clusters():
    rng = np.random.default_rng(6)
    labels = np.repeat(np.arange(12), 10)
    alike = np.repeat(rng.random(12) < 0.5, 10)  # all of a template together right or wrong
    whole, plain = curves.proportion(alike, labels), curves.proportion(alike)
    assert whole.high - whole.low > 2.5 * (plain.high - plain.low)  # sqrt(10) without the corrections
    sure = curves.proportion(np.ones(120), labels)
    assert sure.low < 1 - 0.15  # twelve units, not 120: Wilson at p = 1 goes down to 1 / (1 + t²/12)
    assert sure.low == pytest.approx(1 / (1 + 2.2010**2 / 12), abs=1e-4)
    assert np.isnan(curves.proportion([[1.0, np.nan]]).mean)
