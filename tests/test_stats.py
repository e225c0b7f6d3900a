"""Intervals: expected numbers from formulas, from scipy, and from simulations whose truth is known."""

import numpy as np
import pytest
import scipy.stats

from interp import stats
from interp.errors import ShapeMismatchError


def clustered(rng, cells, groups, each, correlation):
    """Standard normal values ``[cell, example]`` with this correlation within a group, and the groups."""
    shared = np.sqrt(correlation) * rng.normal(size=(cells, groups, 1))
    values = shared + np.sqrt(1 - correlation) * rng.normal(size=(cells, groups, each))
    return values.reshape(cells, -1), np.repeat([f"t{g}" for g in range(groups)], each)


def covers(interval, truth):
    return float(np.mean((interval.low <= truth) & (truth <= interval.high)))


def test_a_ratio_whose_numerator_follows_its_denominator_has_no_width(seed):
    # Resampled together, c·b / b is c in every resample; resampled apart it would not be.
    below = np.random.default_rng(seed).uniform(1, 9, size=30)
    found = stats.bootstrap_ratio(0.25 * below, below)
    assert found.n == 30
    np.testing.assert_allclose([found.mean, found.low, found.high], 0.25, rtol=1e-12)


def test_the_ratio_is_one_of_means_and_not_a_mean_of_ratios():
    # (1 + 9) / (1 + 3) = 2.5; the mean of 1/1 and 9/3 would be 2.
    assert stats.bootstrap_ratio([1.0, 9.0], [1.0, 3.0]).mean == 2.5


def test_percentiles_agree_with_scipy_once_the_widening_is_taken_back(seed):
    rng = np.random.default_rng(seed)
    top, below = rng.normal(2, 1, 200), rng.normal(4, 0.5, 200)
    ours = stats.bootstrap_ratio(top, below, resamples=4000, seed=seed)
    widened = np.sqrt(200 / 199) * scipy.stats.t.ppf(0.975, 199) / scipy.stats.norm.ppf(0.975)
    theirs = scipy.stats.bootstrap(
        (top, below),
        lambda a, b, axis=-1: a.mean(axis) / b.mean(axis),
        paired=True,
        method="percentile",
        n_resamples=9999,
        rng=np.random.default_rng(seed),
    )
    # A percentile of 4000 draws is known to 0.04 standard errors; 0.25 is six of those.
    tolerance = 0.25 * theirs.standard_error
    assert (ours.low - ours.mean) / widened + ours.mean == pytest.approx(theirs.confidence_interval.low, abs=tolerance)
    assert (ours.high - ours.mean) / widened + ours.mean == pytest.approx(theirs.confidence_interval.high, abs=tolerance)


def test_students_interval_of_a_mean_is_scipys(seed):
    values = np.random.default_rng(seed).normal(size=(3, 12))
    ours = stats.t_interval(values, level=0.9)
    theirs = scipy.stats.ttest_1samp(values, 0, axis=-1).confidence_interval(0.9)
    np.testing.assert_allclose([ours.low, ours.high], [theirs.low, theirs.high], rtol=1e-10)


@pytest.mark.parametrize("method", [stats.bootstrap_ratio, stats.t_interval])
@pytest.mark.parametrize("groups", [4, 20])
def test_clustered_intervals_cover_where_independent_ones_do_not(method, groups, seed):
    # Truth 0.4 by construction. 3000 maps: a coverage of 95% is known to 0.4 points; 4 of those on each side of 93.4–96.6.
    rng = np.random.default_rng(seed)
    below, names = clustered(rng, 3000, groups, 8, 0.3)
    noise, _ = clustered(rng, 3000, groups, 8, 0.3)
    below = 3 + 0.5 * below
    top = 0.4 * below + 0.6 * noise
    assert 0.92 < covers(method(top, below, names), 0.4) < 0.97
    assert covers(method(top, below), 0.4) < 0.8  # sqrt(1 + 7·0.3) = 1.76 times too narrow: 73%


def test_clusters_of_unequal_size_weigh_by_their_size():
    # Mean of all five examples, not of the two group means (2 and 5).
    found = stats.bootstrap_mean([1.0, 2.0, 3.0, 5.0, 5.0], ["a", "a", "a", "b", "b"])
    assert found.mean == pytest.approx(16 / 5)
    assert found.n == 2


def test_one_label_for_all_is_no_cluster(seed):
    values = np.random.default_rng(seed).normal(size=10)
    assert stats.bootstrap_mean(values, ["t"] * 10) == stats.bootstrap_mean(values)


@pytest.mark.parametrize("method", [stats.bootstrap_ratio, stats.t_interval])
def test_a_denominator_that_may_be_zero_gives_no_number(method, seed):
    rng = np.random.default_rng(seed)
    top = rng.normal(5, 1, size=(2, 40))
    below = rng.normal(0, 1, 40)
    below -= below.mean()  # any interval covers 0
    for column in method(top, below)[:3]:
        assert np.isnan(column).all()
    # Where the mean is 0 in truth, an interval of level 95% misses 0 in one of twenty; 400 draws are known to a point.
    zeros = rng.normal(0, 1, size=(400, 40))
    assert np.isfinite(method(np.ones((400, 40)), zeros).mean).mean() < 0.11


@pytest.mark.parametrize("method", [stats.bootstrap_ratio, stats.t_interval])
def test_a_denominator_below_the_floor_gives_no_number(method):
    below = np.array([[1e-6] * 5, [1.0] * 5])
    found = method(np.ones((2, 5)), below, floor=1e-5)
    assert np.isnan(found.mean).tolist() == [True, False]
    assert np.isnan(found.high).tolist() == [True, False]


@pytest.mark.parametrize("names", [None, ["a", "a", "b", "b"]])
@pytest.mark.parametrize("method", [stats.bootstrap_ratio, stats.t_interval])
def test_a_missing_example_spoils_its_own_cell_only(method, names, seed):
    top = np.random.default_rng(seed).normal(size=(3, 4))
    whole = method(top, np.full(4, 2.0), names)
    top[1, 2] = np.nan
    found = method(top, np.full(4, 2.0), names)
    assert np.isnan([found.mean[1], found.low[1], found.high[1]]).all()
    for column, before in zip(found[:3], whole[:3], strict=True):
        assert column[[0, 2]].tolist() == before[[0, 2]].tolist()


@pytest.mark.parametrize("method", [stats.bootstrap_ratio, stats.t_interval])
def test_one_example_has_a_value_and_no_interval(method):
    found = method([[3.0]], [2.0])
    assert found.mean == 1.5
    assert np.isnan([found.low, found.high]).all()


def test_slabs_change_nothing(monkeypatch, seed):
    rng = np.random.default_rng(seed)
    top, below = rng.normal(size=(2, 7, 5, 12)), rng.normal(3, 1, size=(2, 1, 1, 12))
    whole = stats.bootstrap_ratio(top, below, resamples=100)
    monkeypatch.setattr(stats, "SLAB", 300)  # three cells at a time
    parts = stats.bootstrap_ratio(top, below, resamples=100)
    assert whole.mean.shape == (2, 7, 5)
    for a, b in zip(whole[:3], parts[:3], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)  # BLAS may add in another order


def test_the_seed_decides():
    values = np.arange(20.0)
    assert stats.bootstrap_mean(values, seed=1) == stats.bootstrap_mean(values, seed=1)
    assert stats.bootstrap_mean(values, seed=1).low != stats.bootstrap_mean(values, seed=2).low


def test_arrays_that_do_not_share_their_examples_are_listed():
    with pytest.raises(ShapeMismatchError, match=r"numerator \(2, 3\), denominator \(4,\), clusters \(3,\)"):
        stats.bootstrap_ratio(np.ones((2, 3)), np.ones(4), ["a", "b", "c"])
    with pytest.raises(ShapeMismatchError, match="not empty"):
        stats.bootstrap_mean(np.ones((2, 0)))


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="level must lie between 0 and 1, got 95"):
        stats.bootstrap_mean([1.0, 2.0], level=95.0)
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        stats.bootstrap_mean([1.0, 2.0], resamples=0)
