"""Intervals, sign flips and winners: expected numbers from formulas, from scipy, and from simulations whose truth is known."""

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
    # (1 + 6) / (2 + 3) = 1.4; the mean of 1/2 and 6/3 would be 1.25.
    assert stats.bootstrap_ratio([1.0, 6.0], [2.0, 3.0]).mean == 1.4


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


@pytest.mark.parametrize("method", [stats.bootstrap_ratio, stats.t_interval])
@pytest.mark.parametrize("sizes", [[4, 6, 8, 10, 12], [24, 17, 12, 8, 6, 4, 3, 2, 1, 1]])
def test_clusters_of_unequal_size_are_covered_too(method, sizes, seed):
    # 3000 maps as above. Quantiles at as many units as there are clusters would cover 90% of the second.
    rng = np.random.default_rng(seed)
    names = np.repeat(np.arange(len(sizes)), sizes)
    shared = np.sqrt(0.3) * rng.normal(size=(3000, len(sizes)))[:, names]
    values = shared + np.sqrt(0.7) * rng.normal(size=(3000, len(names)))
    assert 0.93 < covers(method(values, np.ones(len(names)), names), 0) < 0.985


def test_standard_errors_are_those_of_formulas(seed):
    rng = np.random.default_rng(seed)
    values, (top, below) = rng.normal(size=(3, 12)), rng.uniform(1, 2, size=(2, 12))
    np.testing.assert_allclose(stats.t_interval(values).se, scipy.stats.sem(values, axis=-1), rtol=1e-10)
    np.testing.assert_allclose(stats.bootstrap_mean(values).se, scipy.stats.sem(values, axis=-1), rtol=1e-10)
    names = np.repeat(range(4), 3)  # leaving out a cluster at a time, worked out slowly
    without = [top[names != g].sum() / below[names != g].sum() for g in range(4)]
    expected = np.sqrt(3 / 4 * np.sum((np.array(without) - top.sum() / below.sum()) ** 2))
    assert stats.t_interval(top, below, names).se == pytest.approx(expected, rel=1e-10)
    assert stats.bootstrap_ratio(top, below, names).se == pytest.approx(expected, rel=1e-10)


def test_the_effective_number_of_clusters():
    found = stats.bootstrap_mean(np.arange(8.0), list("aaaaabbc"))
    assert (found.n, found.effective) == (3, pytest.approx(64 / 30))  # 8² / (5² + 2² + 1²)
    assert stats.effective_number(list("aabb")) == 2


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
    # Where the mean is 0 in truth, t of 40 exceeds sqrt(10) in 0.3% of draws; 2000 draws are known to 0.12 points.
    zeros = rng.normal(0, 1, size=(2000, 40))
    assert np.isfinite(method(np.ones((2000, 40)), zeros).mean).mean() < 0.01


@pytest.mark.parametrize("method", [stats.bootstrap_ratio, stats.t_interval])
@pytest.mark.parametrize(("names", "units"), [(None, 12), ([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3], 4)])
def test_a_denominator_is_as_far_from_zero_as_was_planted(method, names, units, seed):
    # Means planted at so many standard errors. Of four templates t is 3.18, of twelve examples sqrt(10) = 3.16 decides.
    errors = np.array([0.0, 1.0, 2.0, 3.0, 3.1, 3.3, 5.0])
    below = np.random.default_rng(seed).normal(size=12)
    se = stats.t_interval(below, clusters=names).se
    below = below - below.mean() + (errors * se)[:, None]
    found = method(np.full(12, 5.0), below, names)
    assert found.n == units
    for column in (found.mean, found.low, found.high, found.se):
        assert np.isfinite(column).tolist() == [False] * 5 + [True] * 2


def test_templates_of_unequal_size_make_no_denominator_uncertain():
    # Every difference is 3; that one template has nine examples and three have one says nothing about that.
    found = stats.t_interval(np.arange(12.0), np.full(12, 3.0), [0] * 9 + [1, 2, 3])
    assert found.mean == pytest.approx(5.5 / 3)


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
    monkeypatch.setattr(stats.units, "SLAB", 300)  # three cells at a time
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
    with pytest.raises(ValueError, match="flips must be at least 1, got 0"):
        stats.sign_flip([1.0, 2.0], flips=0)
    with pytest.raises(ValueError, match="splits must be at least 1, got -1"):
        stats.held_out([1.0, 2.0], splits=-1)


def test_exact_flips_are_scipys(seed):
    values = np.random.default_rng(seed).normal(0.5, 1, size=(4, 9))
    found = stats.sign_flip(values)
    assert (found.exact, found.n, found.cells, found.smallest) == (True, 9, 4, 1 / 256)
    theirs = scipy.stats.permutation_test(
        (values,), lambda x, axis: abs(x.mean(axis)), permutation_type="samples", alternative="greater", axis=-1
    )
    np.testing.assert_allclose(found.p_alone, theirs.pvalue, rtol=1e-12)


def test_the_adjusted_p_compares_with_the_largest_of_all_cells():
    # Worked out by hand, three units, four flips. Cell a: 1 1 1 gives |sum|/norm 3/√3 = √3, else 1/√3. Cell b: 2 −1 1 gives
    # 2/√6, and 0, 4/√6 and 2/√6 when the second, the third or both are flipped: alone, 3 of 4 are as large. The largest of
    # both in each flip: √3, 1/√3, 4/√6, 2/√6. As large as √3: one. As large as 2/√6: three, and 1/√3 is smaller.
    found = stats.sign_flip([[1.0, 1.0, 1.0], [2.0, -1.0, 1.0]])
    assert found.p_alone.tolist() == [0.25, 0.75]
    assert found.p_adjusted.tolist() == [0.25, 0.75]
    both = stats.sign_flip([[1.0, 1.0, 1.0], [1.0, 1.0, -1.0]])  # √3 in one flip each, and 1/√3 in all others
    assert both.p_alone.tolist() == [0.25, 1.0]
    assert both.p_adjusted.tolist() == [0.5, 1.0]


def test_cells_that_are_nothing_stay_out(seed):
    values = np.random.default_rng(seed).normal(1, 1, size=(2, 3, 8))
    alone = stats.sign_flip(values[0, 0])
    values[0, 1], values[0, 2, 4] = 0, np.nan
    among = np.array([[True, True, True], [False, False, False]])
    found = stats.sign_flip(values, among=among)
    assert found.cells == 1
    assert found.p_adjusted[0, 0] == alone.p_adjusted == found.p_alone[0, 0]
    assert np.isnan(found.p_adjusted.ravel()[1:]).all()
    assert (found.low[0, 1], found.high[0, 1]) == (0, 0)
    assert np.isnan([found.low[0, 2], found.high[0, 2]]).all()


def test_no_spread_is_the_strongest_evidence_and_no_infinity():
    found = stats.sign_flip([[0.25] * 8, [1e-300] * 8])  # the norm of the second is 0 in floating point
    assert found.p_adjusted[0] == 1 / 128
    assert found.cells == 1
    np.testing.assert_allclose([found.low[0], found.high[0]], 0.25, rtol=1e-6)


@pytest.mark.parametrize(("groups", "smallest"), [(4, 1 / 8), (5, 1 / 16), (6, 1 / 32)])
def test_few_clusters_can_prove_little(groups, smallest):
    found = stats.sign_flip(np.full((2, 4 * groups), 7.0), np.repeat(range(groups), 4))
    assert (found.n, found.smallest) == (groups, smallest)
    assert (found.p_adjusted == smallest).all()
    assert np.isinf(found.low).all() == (smallest > 0.05)


@pytest.mark.parametrize("groups", [8, 20])
def test_under_the_null_one_map_in_twenty_names_a_cell(groups, seed):
    # 50 cells that share half of their noise, 6 examples a template. 600 maps: 5% is known to 0.9 points, 4 of those.
    rng = np.random.default_rng(seed)
    named = held = 0
    for _ in range(600):
        own, names = clustered(rng, 50, groups, 6, 0.3)
        found = stats.sign_flip(own + clustered(rng, 1, groups, 6, 0.3)[0], names, flips=200, seed=int(rng.integers(2**31)))
        named += (found.p_adjusted <= 0.05).any()
        held += ((found.low <= 0) & (found.high >= 0)).all()
    assert named / 600 < 0.05 + 4 * 0.009
    assert held == 600 - named  # the interval leaves out 0 where the test does
    # Examples flipped one by one name a cell of such maps in most of them.
    loose = [(stats.sign_flip(clustered(rng, 50, groups, 6, 0.3)[0], flips=200).p_adjusted <= 0.05).any() for _ in range(100)]
    assert np.mean(loose) > 0.3


def test_planted_cells_are_found_and_lie_in_their_intervals(seed):
    # Means of 1 with a standard error of 0.2: 5 of them, where max-T over 40 cells needs less than 4.
    rng = np.random.default_rng(seed)
    truth = np.zeros(40)
    truth[:3] = 1
    found = [stats.sign_flip(truth[:, None] + rng.normal(size=(40, 25)), flips=400, seed=i) for i in range(200)]
    assert np.mean([(one.p_adjusted[:3] <= 0.05).mean() for one in found]) > 0.8
    whole = np.mean([((one.low <= truth) & (truth <= one.high)).all() for one in found])
    assert whole > 0.95 - 4 * 0.0154  # all 40 at once, in 200 maps


def test_what_is_held_out_is_free_of_luck(seed):
    # Of 100 cells without any effect the largest of 16 examples is 2.9 standard errors of 1/4 up; held out it is 0 on average.
    rng = np.random.default_rng(seed)
    draws = [rng.normal(size=(100, 16)) for _ in range(100)]
    raw = [np.sort(abs(each.mean(-1)))[::-1][:3] for each in draws]
    kept = [stats.held_out(each, k=3, splits=60) for each in draws]
    assert np.mean(raw, 0)[0] > 0.6
    assert (abs(np.mean(kept, 0)) < 0.06).all()  # spread of one 0.15 at most, of 100 0.015, four of those


def test_what_is_held_out_of_a_clear_winner_is_all_of_it(seed):
    values = np.random.default_rng(seed).normal(0, 0.1, size=(30, 12))
    values[4] -= 3
    assert stats.held_out(values, k=1)[0] == pytest.approx(-values[4].mean(), rel=1e-9)  # positive: it keeps its sign
    named = stats.held_out(values, np.repeat(range(6), 2), k=1, splits=20)  # halves of three templates: all equally often
    assert named[0] == pytest.approx(-values[4].mean(), rel=1e-9)


def test_what_is_held_out_needs_two_units_and_a_cell_a_rank(seed):
    values = np.random.default_rng(seed).normal(size=(3, 6))
    values[1, 2] = np.nan
    assert np.isnan(stats.held_out(values, k=4)).tolist() == [False, False, True, True]
    assert np.isnan(stats.held_out(values[:, :1], k=2)).all()


def test_slabs_change_no_flip_and_no_winner(monkeypatch, seed):
    values = np.random.default_rng(seed).normal(size=(2, 17, 14))
    whole, kept = stats.sign_flip(values, flips=100), stats.held_out(values, k=5)
    monkeypatch.setattr(stats.units, "SLAB", 300)
    parts = stats.sign_flip(values, flips=100)
    for a, b in zip(whole[:4], parts[:4], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    np.testing.assert_allclose(stats.held_out(values, k=5), kept, rtol=1e-9)
    assert (whole.p_adjusted != stats.sign_flip(values, flips=100, seed=1).p_adjusted).any()
