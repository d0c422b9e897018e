import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from helpers import random_labelled, random_mixture, refuses
from hypothesis import given, settings
from hypothesis import strategies as st

from dgtoy import GaussianMixture, LabelledMixture, metrics
from dgtoy.course.worlds import domains

close = torch.testing.assert_close
seeds = st.integers(0, 999)


def cloud(n, d=2, seed=0, mean=0.0, std=1.0):
    return mean + std * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clumps(places, std=0.05):
    """Narrow round clumps at places (K, 2), equally heavy, each a class of its own."""
    k = len(places)
    return LabelledMixture(
        torch.full((k,), 1 / k), torch.tensor(places), std**2 * torch.eye(2).expand(k, 2, 2), range(k)
    )


CORNERS = clumps([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])


def test_one_percent_of_true_samples_is_out_of_domain(rng):
    for mixture in (random_mixture(4, 2), domains.make().target.given(0)):
        assert metrics.out_of_domain(mixture.sample(50_000, generator=rng), mixture).item() == pytest.approx(
            0.01, abs=0.003
        )


def test_the_threshold_is_the_quantile_of_the_log_density():
    """For a Gaussian in 2-D, -2 log p is chi-square with 2 degrees of freedom: P(log p < cut) = share."""
    standard = GaussianMixture([1.0], torch.zeros(1, 2, dtype=torch.float64), torch.eye(2)[None])
    for share in (0.01, 0.1, 0.5):
        truth = -math.log(2 * math.pi) + math.log(share)
        assert metrics.threshold(standard, 200_000, share) == pytest.approx(truth, abs=0.05)


def test_out_of_domain_counts_the_points_below_the_cut():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.5], [9.0, 9.0]])
    assert metrics.out_of_domain(x, CORNERS).item() == 0.5
    assert metrics.out_of_domain(x, CORNERS, cut=-math.inf).item() == 0.0
    assert metrics.out_of_domain(x, CORNERS, cut=math.inf).item() == 1.0


def test_class_error_is_the_share_of_samples_in_another_class(rng):
    assert metrics.class_error(CORNERS.given(2).sample(500, generator=rng), 2, CORNERS) == 0
    assert metrics.class_error(CORNERS.given(2).sample(500, generator=rng), 1, CORNERS) == 1
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    for label in (torch.tensor([0, 1, 2, 0]), [0, 1, 2, 0], np.array([0, 1, 2, 0])):
        assert metrics.class_error(x, label, CORNERS).item() == 0.25
    with refuses(f"label {CORNERS.null} is null; expected a class"):
        metrics.class_error(x, CORNERS.null, CORNERS)


def test_class_error_takes_the_class_of_all_components_together():
    """Near 0 each component of class 1 is less likely than class 0's, and the two together more."""
    mixture = LabelledMixture([0.4, 0.3, 0.3], torch.zeros(3, 1), torch.ones(3, 1, 1), [0, 1, 1])
    assert metrics.class_error(torch.zeros(5, 1), 1, mixture) == 0


def test_what_is_no_number_and_points_of_another_dimension_are_refused():
    x = torch.zeros(4, 2)
    with refuses("cut is nan; expected a number"):
        metrics.out_of_domain(x, CORNERS, cut=math.nan)
    with refuses("share is nan; expected a number"):
        metrics.mode_coverage(x, CORNERS, share=math.nan)
    with refuses("share is 20; expected a number in [0, 1]"):
        metrics.mode_coverage(x, CORNERS, share=20)
    with refuses("labelled is a GaussianMixture; expected a LabelledMixture", error=TypeError):
        metrics.class_error(x, 0, CORNERS.given(0))
    with refuses("x has shape (4, 3); expected (..., n, 2)"):
        metrics.thickness(torch.zeros(4, 3), CORNERS, x)
    with refuses("truth has shape (0, 2); expected (..., n, 2) with 1 sample or more"):
        metrics.thickness(x, CORNERS, x[:0])


def test_mode_coverage_counts_the_components_that_have_their_share(rng):
    assert metrics.mode_coverage(CORNERS.sample(1_000, generator=rng), CORNERS) == 1
    assert metrics.mode_coverage(CORNERS.given(3).sample(1_000, generator=rng), CORNERS) == 0.25
    few = torch.cat([CORNERS.given(c).sample(n, generator=rng) for c, n in enumerate((400, 400, 160, 40))])
    assert (
        metrics.mode_coverage(few, CORNERS, share=0.2) == 0.75
    )  # the last has .16 of the 250 it should have
    assert metrics.mode_coverage(few, CORNERS, share=0.15) == 1.0


@pytest.mark.parametrize("metric", ["out_of_domain", "mode_coverage", "class_error", "energy_distance"])
def test_leading_axes_are_batches(metric, rng):
    x = torch.stack([CORNERS.sample(60, generator=rng) + 0.3 * k for k in range(6)]).reshape(2, 3, 60, 2)
    others = {
        "out_of_domain": (CORNERS,),
        "mode_coverage": (CORNERS,),
        "class_error": (1, CORNERS),
        "energy_distance": (CORNERS.sample(80, generator=rng),),
    }[metric]
    f = getattr(metrics, metric)
    whole = f(x, *others)
    assert whole.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            close(whole[i, j], f(x[i, j], *others), rtol=1e-4, atol=1e-6)


@given(seeds, st.integers(2, 40), st.integers(2, 40))
def test_energy_distance_is_scipy_s_with_the_bias_taken_out(seed, n, m):
    """SciPy's is the root of 2 E|X - Y| - E|X - X'| - E|Y - Y'| that counts distances to itself."""
    x, y = cloud(n, 1, seed), cloud(m, 1, seed + 1, mean=0.5)
    within = lambda a: torch.cdist(a, a).sum().item() / len(a) ** 2
    biased = scipy.stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    truth = biased - within(x) / (n - 1) - within(y) / (m - 1)
    assert metrics.energy_distance(x, y).item() == pytest.approx(truth, abs=1e-9)


@given(seeds, st.integers(2, 12), st.integers(2, 12), st.integers(1, 4))
def test_energy_distance_is_its_definition_as_a_plain_loop(seed, n, m, d):
    x, y = cloud(n, d, seed), cloud(m, d, seed + 1, std=2.0)
    mean = lambda a, b, pairs: sum((a[i] - b[j]).norm() for i, j in pairs) / len(pairs)
    pairs = lambda p, q: [(i, j) for i in range(p) for j in range(q)]
    others = lambda p: [(i, j) for i, j in pairs(p, p) if i != j]
    truth = 2 * mean(x, y, pairs(n, m)) - mean(x, x, others(n)) - mean(y, y, others(m))
    close(metrics.energy_distance(x, y), truth, rtol=1e-9, atol=1e-9)


def test_energy_distance_of_gaussians_is_the_closed_form():
    """X - Y is Gaussian with std sqrt(2), so each term is the mean of a folded normal."""
    folded = lambda mu, s: (
        s * math.sqrt(2 / math.pi) * math.exp(-(mu**2) / (2 * s**2)) + mu * math.erf(mu / (s * math.sqrt(2)))
    )
    truth = 2 * folded(1.0, math.sqrt(2)) - 2 * folded(0.0, math.sqrt(2))
    assert metrics.energy_distance(cloud(4_000, 1, 1, mean=1.0), cloud(4_000, 1, 2)).item() == pytest.approx(
        truth, abs=0.05
    )


def test_energy_distance_of_equal_laws_is_0_in_expectation():
    found = torch.stack(
        [metrics.energy_distance(cloud(20, 2, s), cloud(20, 2, s + 10_000)) for s in range(400)]
    )
    assert abs(found.mean()) < 4 * found.std() / 20


@pytest.mark.parametrize("far, off", [(8, 2e-4), (1024, 1e-3)])
def test_energy_distance_in_float32_survives_a_target_far_from_the_origin(far, off):
    x, y = cloud(500, 2, 1, std=0.08), cloud(500, 2, 2, std=0.12)
    found = metrics.energy_distance(x.float() + far, y.float() + far)
    assert found.item() == pytest.approx(metrics.energy_distance(x, y).item(), abs=off)


@pytest.mark.parametrize("x, y", [(1e16, 1), (1e30, 1), (1e-25, 1e-25)])
def test_the_energy_distance_of_numbers_whose_squares_leave_single_precision(x, y):
    x, y = (x * cloud(9)).float(), (y * cloud(12, mean=1.0)).float()
    truth = metrics.energy_distance(x.double(), y.double())
    close(metrics.energy_distance(x, y).double(), truth, rtol=1e-6, atol=0)


@pytest.mark.parametrize("distance", (metrics.energy_distance, metrics.frechet_distance, metrics.prdc))
def test_numbers_whose_squares_overflow_are_refused(distance):
    with refuses("reaches", "e+200", "1e150"):
        distance(1e200 * cloud(9), cloud(12))


def exactly(mean, cov, n=50, seed=0):
    """n points whose sample mean and covariance are exactly these."""
    root = lambda c: torch.linalg.cholesky(torch.as_tensor(c, dtype=torch.float64))
    z = cloud(n, len(mean), seed)
    z = (z - z.mean(0)) @ root(torch.atleast_2d(torch.cov(z.T))).inverse().mT
    return torch.tensor(mean) + z @ root(cov).mT


def test_frechet_distance_of_gaussians_in_one_dimension_is_the_closed_form():
    x, y = exactly([1.0], [[4.0]], 30), exactly([3.0], [[0.25]], 40, seed=1)
    assert metrics.frechet_distance(x, y).item() == pytest.approx((3 - 1) ** 2 + (2 - 0.5) ** 2, rel=1e-9)


def test_frechet_distance_of_gaussians_with_common_axes_is_the_closed_form():
    x, y = (
        exactly([0.0, 1.0], [[4.0, 0.0], [0.0, 9.0]]),
        exactly([1.0, 1.0], [[1.0, 0.0], [0.0, 0.04]], seed=1),
    )
    assert metrics.frechet_distance(x, y).item() == pytest.approx(1 + (2 - 1) ** 2 + (3 - 0.2) ** 2, rel=1e-9)


@given(seeds, st.integers(1, 6))
def test_frechet_distance_agrees_with_scipy_s_matrix_root(seed, d):
    x, y = (
        cloud(40, d, seed) @ cloud(d, d, seed + 1),
        cloud(50, d, seed + 2, mean=0.3) @ cloud(d, d, seed + 3),
    )
    cx, cy = np.atleast_2d(np.cov(x.T)), np.atleast_2d(np.cov(y.T))
    root = scipy.linalg.sqrtm(cx @ cy)
    truth = (x.mean(0) - y.mean(0)).square().sum().item() + np.trace(cx + cy - 2 * root.real)
    assert metrics.frechet_distance(x, y).item() == pytest.approx(truth, rel=1e-6, abs=1e-6)


def test_moments_taken_once_give_the_same_distance():
    x, y = cloud(50, 6), cloud(40, 6, 1)
    taken = metrics.moments(x)
    close(taken.root @ taken.root, taken.cov)
    assert metrics.frechet_distance(taken, y) == metrics.frechet_distance(x, y)


def test_frechet_distance_with_fewer_samples_than_dimensions_is_a_number():
    x = cloud(5, 20)
    assert metrics.frechet_distance(x, x).item() == pytest.approx(0, abs=1e-6)
    assert all(metrics.frechet_distance(y, y) >= 0 for y in (cloud(9, 30, seed) for seed in range(20)))
    assert metrics.frechet_distance(x.float(), cloud(5, 20, 1).float()) > 0


def plain_prdc(real, fake, k):
    """The definitions, point by point."""
    distance = lambda a, b: (a - b).norm().item()
    radius = lambda points, i: sorted(distance(points[i], p) for j, p in enumerate(points) if j != i)[k - 1]
    r, f = [radius(real, i) for i in range(len(real))], [radius(fake, j) for j in range(len(fake))]
    in_real = np.array([[distance(a, b) < r[i] for b in fake] for i, a in enumerate(real)])
    in_fake = np.array([[distance(a, b) < f[j] for j, b in enumerate(fake)] for a in real])
    return dict(
        precision=in_real.any(0).mean(),
        recall=in_fake.any(1).mean(),
        density=in_real.sum(0).mean() / k,
        coverage=in_real.any(1).mean(),
    )


@settings(max_examples=10)
@given(seeds, st.integers(8, 20), st.integers(8, 20), st.integers(1, 5))
def test_prdc_is_its_definition_as_a_plain_loop(seed, n, m, k):
    real, fake = cloud(n, 2, seed), cloud(m, 2, seed + 1, mean=0.7, std=0.8)
    assert metrics.prdc(real, fake, k) == pytest.approx(plain_prdc(real, fake, k))


@pytest.mark.parametrize("dim", [2, 40])
def test_equal_distances_are_no_nearer_than_each_other(dim):
    """Points of few values, some twice and some in both sets: half of the comparisons are between equals."""
    draw = lambda n, seed: (cloud(n, dim, seed) * 0.9).round() + 0.1
    real, fake = draw(30, 1), draw(35, 2)
    real[3:9], fake[:10] = real[2], real[:10]
    assert metrics.prdc(real, fake, 3) == pytest.approx(plain_prdc(real, fake, 3))
    assert metrics.energy_distance(real[2:9].float(), real[2:9].float()) == 0


def test_prdc_of_equal_laws_is_high_and_of_distant_ones_0():
    same = metrics.prdc(cloud(500, 2, 1), cloud(500, 2, 2))
    assert (
        same["precision"] > 0.9
        and same["recall"] > 0.9
        and same["coverage"] > 0.9
        and abs(same["density"] - 1) < 0.1
    )
    assert set(metrics.prdc(cloud(50, 2, 1), cloud(50, 2, 2, mean=100.0)).values()) == {0.0}


def test_collapse_keeps_precision_and_loses_recall_and_coverage():
    found = metrics.prdc(cloud(500, 2, 1), cloud(500, 2, 2, std=0.05))
    assert found["precision"] > 0.95 and found["recall"] < 0.1 and found["coverage"] < 0.3


@pytest.mark.parametrize("n, said", [(2, 0.5), (3, 0.75), (6, 0.86), (40, 0.95)])
def test_the_bootstrap_interval_holds_the_mean_about_as_often_as_it_says(n, said):
    """What its docstring says of few values."""
    draws = np.random.default_rng(0).normal(size=(400, n))
    bounds = [metrics.bootstrap(row, resamples=400) for row in draws]
    assert np.mean([low <= 0 <= high for _, low, high in bounds]) == pytest.approx(said, abs=0.04)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_the_bootstrap_interval_surrounds_the_mean_within_the_values(values):
    mean, low, high = metrics.bootstrap(values, resamples=200)
    slack = 1e-9 * max(1, *map(abs, values))
    assert mean == pytest.approx(np.mean(values))
    assert min(values) - slack <= low <= high <= max(values) + slack


def test_the_bootstrap_interval_is_about_two_standard_errors_each_way():
    values = np.random.default_rng(1).normal(5, 2, 400)
    mean, low, high = metrics.bootstrap(values)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.05)


def test_equal_values_have_an_interval_of_no_width():
    assert metrics.bootstrap([0.3] * 8) == pytest.approx((0.3, 0.3, 0.3), abs=1e-12)


def test_a_lower_level_gives_a_narrower_interval_and_the_seed_the_same_one():
    values = np.random.default_rng(1).normal(size=20)
    wide, narrow = metrics.bootstrap(values), metrics.bootstrap(values, level=0.5)
    assert wide[1] < narrow[1] < narrow[2] < wide[2]
    assert metrics.bootstrap(values) == wide != metrics.bootstrap(values, seed=1)


@pytest.mark.parametrize("values", ([], [1.0], [1.0, math.nan], [math.inf, 1.0], [[1.0, 2.0], [3.0, 4.0]]))
def test_values_without_an_interval_are_refused(values):
    with refuses("values has shape", "finite", "2 or more"):
        metrics.bootstrap(values)


@pytest.mark.parametrize("seed", (-1, 1.5, "1", None, torch.ones(2)))
def test_a_bootstrap_of_no_seed_is_refused(seed):
    with refuses("seed is", error=(TypeError, ValueError)):
        metrics.bootstrap([1.0, 2.0], seed=seed)


def test_too_few_samples_are_refused():
    with refuses("x, y hold 1, 5", "at least 2"):
        metrics.energy_distance(cloud(1), cloud(5))
    with refuses("real, fake hold 20, 5", "more than k = 5"):
        metrics.prdc(cloud(20), cloud(5))


def test_samples_of_another_dimension_are_refused():
    mixture = random_labelled()
    for f in (
        lambda x: metrics.out_of_domain(x, mixture),
        lambda x: metrics.mode_coverage(x, mixture),
        lambda x: metrics.class_error(x, 0, mixture),
    ):
        with refuses("x has shape (5, 3)"):
            f(cloud(5, 3))


def test_true_samples_are_as_thick_as_the_truth_and_contracted_ones_thinner():
    mixture = random_labelled(k=4, seed=3)
    draw = lambda seed: mixture.sample(4000, generator=torch.Generator().manual_seed(seed))
    narrow = GaussianMixture(mixture.weights, mixture.means, 0.25 * mixture.covs)  # half the stds
    x = torch.stack([draw(1), narrow.sample(4000, generator=torch.Generator().manual_seed(2))])
    found = metrics.thickness(x, mixture, draw(3))
    assert found[0].item() == pytest.approx(1, abs=0.03) and found[1].item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("broken", (math.nan, math.inf))
def test_a_sample_that_is_not_finite_lies_outside_and_in_no_component_nor_class(broken):
    x, label = CORNERS.means.clone(), CORNERS.labels
    lost = x + torch.tensor([broken, 0.0])
    assert metrics.out_of_domain(torch.cat([x, lost]), CORNERS) == 0.5
    assert metrics.mode_coverage(x, CORNERS) == 1 and metrics.mode_coverage(lost, CORNERS) == 0
    assert metrics.class_error(torch.cat([x, lost]), torch.cat([label, label]), CORNERS) == 0.5


@pytest.mark.parametrize("broken", (math.nan, math.inf))
def test_a_sample_that_is_not_finite_lies_infinitely_far(broken):
    mixture, x = random_mixture(), cloud(9)
    far = metrics.thickness(torch.cat([x, x[:1] + 1e9]), mixture, x)
    close(metrics.thickness(torch.cat([x, x[:1] + broken]), mixture, x), far)
    assert far.dtype == x.dtype
    assert metrics.thickness(x + broken, mixture, x) == math.inf


def test_outliers_do_not_make_samples_thick():
    mixture = random_labelled(k=4, seed=3)
    x = mixture.sample(4000, generator=torch.Generator().manual_seed(1))
    stray = torch.cat([x, x.new_full((100, 2), 1e3)])
    assert metrics.thickness(stray, mixture, x).item() == pytest.approx(1, abs=0.05)
