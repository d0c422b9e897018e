"""Intervals cover what they say: 95% of the time, for few numbers, for shared draws, for ratios."""

import math

import numpy as np
import pytest
import scipy.stats
from helpers import refuses

from dgtoy.course import intervals

TRIALS = 1000  # the standard error of a coverage of 95% is 0.7 points


def coverage(interval_of, truth, draw):
    """In how many of TRIALS simulated studies the interval holds the truth."""
    g = np.random.default_rng(0)
    bounds = [interval_of(*draw(g)) for _ in range(TRIALS)]
    return np.mean([low <= truth <= high for _, low, high in bounds])


@pytest.mark.parametrize("n", (2, 3, 6, 16, 64))
def test_the_mean_of_few_numbers_is_covered(n):
    assert 0.93 < coverage(intervals.student, 5.0, lambda g: [g.normal(5, 2, n)]) < 0.97


@pytest.mark.parametrize("n", (6, 16, 64))
def test_a_skewed_mean_is_covered(n):
    """Rates near 0 are skewed; Gamma(2) is about as skewed as ours."""
    assert coverage(intervals.student, 2.0, lambda g: [g.gamma(2.0, size=n)]) > 0.9


@pytest.mark.parametrize("n", (2, 3, 5, 6, 16, 64))
def test_a_resampled_statistic_is_covered(n):
    mean = lambda x: x.mean(-1)
    interval_of = lambda x: intervals.resampled(mean, x, resamples=1000)
    found = coverage(interval_of, 5.0, lambda g: [g.normal(5, 2, n)])
    assert 0.9 < found < 0.99 if n > 5 else found == 1  # of few numbers it has no end


def test_of_a_mean_of_normal_numbers_the_bootstrap_s_interval_is_student_s():
    x = scipy.stats.norm.ppf((np.arange(20) + 0.5) / 20)
    found = intervals.resampled(lambda x: x.mean(-1), x, resamples=200_000)
    assert found == pytest.approx(intervals.student(x), rel=0.015, abs=1e-12)


def clustered(g):
    """Numbers around 5 in which those of a cluster share a draw, and the cluster of each."""
    shared, cluster = g.normal(0, 1, 8), np.repeat(np.arange(8), 8)
    return 5 + shared[cluster] + g.normal(0, 1, 64), cluster


def test_numbers_that_share_a_draw_are_covered_by_clusters_and_not_without():
    assert 0.93 < coverage(intervals.student, 5.0, clustered) < 0.97
    mean = lambda x: x.mean(-1)
    by_cluster = lambda x, c: intervals.resampled(mean, x, clusters=c, resamples=1000)
    assert coverage(by_cluster, 5.0, clustered) > 0.9
    assert coverage(lambda x, c: intervals.student(x), 5.0, clustered) < 0.7


@pytest.mark.parametrize("n", (3, 6, 16))
def test_a_ratio_of_paired_means_is_covered(n):
    def draw(g):
        common = np.exp(g.normal(0, 0.3, n))
        return 2 * common * np.exp(g.normal(0, 0.2, n)), common * np.exp(g.normal(0, 0.2, n))

    assert coverage(intervals.ratio, 2.0, draw) > 0.9


def test_the_interval_of_a_mean_is_scipy_s():
    values = np.random.default_rng(3).normal(size=7)
    mean, low, high = intervals.student(values)
    expected = scipy.stats.t.interval(0.95, 6, values.mean(), scipy.stats.sem(values))
    assert (low, high) == pytest.approx(expected) and mean == values.mean()


def test_pairs_are_resampled_together():
    """A ratio of two samples that move together is sure, however much both vary."""
    x = np.exp(np.random.default_rng(0).normal(size=9))
    of_means = lambda a, b: a.mean(-1) / b.mean(-1)
    assert intervals.resampled(of_means, 3 * x, x) == pytest.approx((3, 3, 3))
    assert intervals.ratio(3 * x, x) == pytest.approx((3, 3, 3))
    with pytest.raises(ValueError, match=r"statistic gives shape \(\); expected \(4000,\)"):
        intervals.resampled(lambda a: a.mean(), x)  # of all resamples together: an interval of no width


def test_a_ratio_turned_over_has_the_interval_turned_over():
    g = np.random.default_rng(1)
    x, y = g.gamma(4.0, size=(2, 8))
    value, low, high = intervals.ratio(x, y)
    assert intervals.ratio(y, x) == pytest.approx((1 / value, 1 / high, 1 / low))


@pytest.mark.parametrize("values", ([], [1.0], [1.0, math.nan], [[1.0, 2.0], [3.0, 4.0]]))
def test_values_without_an_interval_are_refused(values):
    with refuses("values", "expected"):
        intervals.student(values)


def test_one_cluster_samples_of_two_lengths_and_ratios_without_sign_are_refused():
    with refuses("1 independent", "2 or more"):
        intervals.student([1.0, 2.0], [0, 0])
    with refuses("shapes", "(2,)", "(3,)"):
        intervals.ratio([1.0, 2.0], [1.0, 2.0, 3.0])
    with refuses("means are -1 and 1", "positive"):
        intervals.ratio([-1.0, -1.0], [1.0, 1.0])
