import itertools
import math

import numpy as np
import pytest
import torch
from helpers import gaussian, random_labelled, refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp
from scipy.stats import norm

from dgtoy import GaussianMixture, cfg, domain_guidance, theory
from dgtoy.theory import gaussian_endpoint, gaussian_guidance

INF = math.inf
close = torch.testing.assert_close
means, stds, ws = st.floats(-4, 4), st.floats(0.1, 4), st.floats(-1, 4)
# (mean, std) of source and target, w, interval -> mean, std: checked by simulation beforehand
KNOWN = [
    ((0, 3), (2, 0.3), 1.5, (0, INF), (2.0632, 0.09487)),
    ((0, 1), (3, 0.9), 1.5, (0, INF), (4.3485, 0.85381)),
    ((1, 5), (-2, 0.5), 3, (0, INF), (-2.06, 0.005)),
    ((0, 3), (0, 0.3), 1.5, (0, 1), (0.0, 0.16511)),
]


def simulated(parts, interval=(0.0, INF)):
    """Mean and std where the probability-flow ODE ends, from far out, for the starts 0 and sigma.

    The noise of level far out is almost all of x, so the start's own mean does not matter to 1e-4.
    """
    weights, mus, sds = (np.array(c, dtype=float) for c in zip(*parts, strict=True))
    top, bottom = 3e4 * sds.max(), 1e-4 * sds.min()
    cuts = sorted({bottom, top, *np.clip(interval, bottom, top)}, reverse=True)
    x = np.array([0.0, top])
    for hi, lo in zip(cuts, cuts[1:], strict=False):
        lam = weights if interval[0] < math.sqrt(lo * hi) < interval[1] else np.eye(len(weights))[-1]

        def slope(v, x):
            s2 = math.exp(2 * v)
            return s2 * (lam * (x[:, None] - mus) / (sds**2 + s2)).sum(1)

        x = solve_ivp(slope, np.log([hi, lo]), x, rtol=1e-7, atol=1e-10).y[:, -1]
    return x[0], (x[1] - x[0])


def agrees(found, truth, scale, rel=1e-3):
    """Both numbers within `rel`, the mean relative to the size of what it is made of."""
    assert found[0] == pytest.approx(truth[0], abs=rel * scale)
    assert found[1] == pytest.approx(truth[1], rel=rel)


@pytest.mark.parametrize("source, target, w, interval, answer", KNOWN)
def test_the_cases_known_from_simulation(source, target, w, interval, answer):
    mean, std = gaussian_guidance(target, source, w, interval)
    assert mean == pytest.approx(answer[0], abs=1e-4) and std == pytest.approx(answer[1], abs=1e-4)


@settings(max_examples=15)
@given(means, stds, means, stds, ws)
def test_the_closed_form_is_the_simulated_flow(mu_s, s_s, mu_t, s_t, w):
    found = gaussian_guidance((mu_t, s_t), (mu_s, s_s), w)
    agrees(
        found,
        simulated([(1 - w, mu_s, s_s), (w, mu_t, s_t)]),
        scale=1 + abs(found[0]) + abs(mu_s) + abs(mu_t),
    )


@settings(max_examples=15)
@given(means, stds, means, stds, ws, st.floats(0, 3), st.floats(0.1, 10))
def test_the_closed_form_with_an_interval_is_the_simulated_flow(mu_s, s_s, mu_t, s_t, w, lo, width):
    interval = (lo, lo + width)
    found = gaussian_guidance((mu_t, s_t), (mu_s, s_s), w, interval)
    truth = simulated([(1 - w, mu_s, s_s), (w, mu_t, s_t)], interval)
    agrees(found, truth, scale=1 + abs(found[0]) + abs(mu_s) + abs(mu_t))


@settings(max_examples=10)
@given(
    st.tuples(means, stds), st.tuples(means, stds), st.tuples(means, stds), st.floats(-1, 2), st.floats(-1, 2)
)
def test_three_gaussians_end_where_the_simulated_flow_does(one, two, three, u, v):
    parts = [(u, *one), (v, *two), (1 - u - v, *three)]
    found = gaussian_endpoint(parts)
    agrees(found, simulated(parts), scale=1 + abs(found[0]) + sum(abs(p[1]) for p in parts))


def adaptive(parts, interval, pieces=1):
    """The mean by scipy's adaptive quadrature of the formula, piece by piece, each cut into so many."""
    weights, mus, sds = (np.array(c, dtype=float) for c in zip(*parts, strict=True))
    off = np.eye(len(weights))[-1]
    bounds = [-32.0, *np.log(np.clip(interval, math.exp(-32), math.exp(32))), 32.0]

    def log_phi(sigma):  # log Phi(sigma) / Phi(0), weights switching at the ends of the interval
        ends = [0.0, *np.minimum(interval, sigma), sigma]
        log = lambda s: np.log(sds**2 + s**2) / 2
        return sum((lam * (log(t) - log(s))).sum() for lam, s, t in zip((off, weights, off), ends, ends[1:]))

    def integrand(v, lam):
        sigma = math.exp(v)
        return math.exp(-log_phi(sigma)) * sigma**2 * (lam * (mus - mus[-1]) / (sds**2 + sigma**2)).sum()

    tight = dict(epsabs=1e-11, epsrel=1e-11, limit=500)
    spans = [
        (*span, lam)
        for a, b, lam in zip(bounds, bounds[1:], (off, weights, off))
        for span in itertools.pairwise(np.linspace(a, b, pieces + 1))
        if b > a
    ]
    return mus[-1] + sum(quad(integrand, a, b, args=(lam,), **tight)[0] for a, b, lam in spans)


@settings(max_examples=10, deadline=None)
@given(means, stds, means, stds, ws, st.sampled_from([(0.0, INF), (0.5, 2.0), (0.0, 1.0), (3.0, INF)]))
def test_the_mean_is_that_of_adaptive_quadrature(mu_s, s_s, mu_t, s_t, w, interval):
    parts = [(1 - w, mu_s, s_s), (w, mu_t, s_t)]
    found, truth = gaussian_endpoint(parts, interval)[0], adaptive(parts, interval)
    assert found == pytest.approx(truth, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("interval", [(0.5, INF), (0.1, 3.0)])
@pytest.mark.parametrize("w", [100.0, 300.0, 3000.0])
def test_a_large_weight_that_ends_at_a_level_is_no_less_exact(w, interval):
    """There the integrand falls within 1 / w of ln sigma."""
    parts = [(1 - w, -0.5, 1.3), (w, 0.7, 0.4)]
    found, truth = gaussian_endpoint(parts, interval)[0], adaptive(parts, interval, 500)
    assert found == pytest.approx(truth, rel=1e-9, abs=1e-9)


@given(means, means, stds, ws)
def test_of_equal_widths_the_mean_is_the_weighted_sum(mu_s, mu_t, std, w):
    mean, end = gaussian_guidance((mu_t, std), (mu_s, std), w)
    assert mean == pytest.approx((1 - w) * mu_s + w * mu_t, rel=1e-10, abs=1e-10)
    assert end == pytest.approx(std, rel=1e-12)


@given(stds, stds, ws)
def test_guidance_multiplies_the_std_by_a_power_of_the_ratio(s_s, s_t, w):
    assert gaussian_guidance((1.0, s_t), (0.0, s_s), w)[1] == pytest.approx(
        s_t * (s_t / s_s) ** (w - 1), rel=1e-6
    )


@given(stds, stds, ws, st.floats(0, 3), st.floats(0.1, 10))
def test_on_an_interval_the_std_is_that_of_the_formula(s_s, s_t, w, lo, width):
    R = lambda sigma: ((s_t**2 + sigma**2) / (s_s**2 + sigma**2)) ** ((w - 1) / 2)
    std = gaussian_guidance((1.0, s_t), (0.0, s_s), w, (lo, lo + width))[1]
    assert std == pytest.approx(s_t * R(lo) / R(lo + width), rel=1e-6)


@given(st.lists(st.tuples(st.floats(-2, 2), stds), min_size=1, max_size=4))
def test_the_std_of_an_affine_combination_is_the_weighted_product(parts):
    parts = [(weight, 0.0, s) for weight, s in parts]
    parts.append((1 - sum(p[0] for p in parts), 0.0, 1.3))
    mean, std = gaussian_endpoint(parts)
    assert std == pytest.approx(math.prod(s**weight for weight, _, s in parts), rel=1e-6) and mean == 0


@given(stds, stds, stds, ws, ws)
def test_the_plane_s_std_is_its_formula(s_s, s_d, s_c, a, b):
    std = gaussian_endpoint([(1 - a, 0.0, s_s), (a - b, 0.0, s_d), (b, 0.0, s_c)])[1]
    assert std == pytest.approx(s_s ** (1 - a) * s_d ** (a - b) * s_c**b, rel=1e-6)


@given(st.tuples(means, stds), st.tuples(means, stds))
def test_w_1_is_the_target_and_w_0_the_source(source, target):
    assert gaussian_guidance(target, source, 1.0) == pytest.approx(target, rel=1e-7, abs=1e-7)
    assert gaussian_guidance(target, source, 0.0) == pytest.approx(source, rel=1e-7, abs=1e-7)


def test_an_equally_broad_source_is_overshot_in_full_and_a_broad_one_hardly():
    assert gaussian_guidance((2.0, 1.0), (0.0, 1.0), 1.5)[0] == pytest.approx(3.0, abs=1e-6)
    assert gaussian_guidance((2.0, 1.0), (0.0, 1e4), 1.5)[0] == pytest.approx(2.0, abs=1e-3)


@settings(max_examples=20)
@given(means, stds, means, stds, ws, st.floats(-100, 100))
def test_moving_both_gaussians_moves_the_samples(mu_s, s_s, mu_t, s_t, w, shift):
    mean, std = gaussian_guidance((mu_t, s_t), (mu_s, s_s), w)
    moved = gaussian_guidance((mu_t + shift, s_t), (mu_s + shift, s_s), w)
    assert moved == (pytest.approx(mean + shift, abs=1e-6 * (1 + abs(mean))), pytest.approx(std, rel=1e-9))


@settings(max_examples=20)
@given(means, stds, means, stds, ws, st.floats(0.01, 100))
def test_the_unit_of_length_does_not_matter(mu_s, s_s, mu_t, s_t, w, unit):
    mean, std = gaussian_guidance((mu_t, s_t), (mu_s, s_s), w)
    scaled = gaussian_guidance((unit * mu_t, unit * s_t), (unit * mu_s, unit * s_s), w)
    assert scaled == (
        pytest.approx(unit * mean, abs=1e-6 * unit * (1 + abs(mean))),
        pytest.approx(unit * std, rel=1e-6),
    )


@pytest.mark.parametrize("interval", [(0.0, INF), (0.2, 1.5)])
def test_arrays_are_their_entries_one_by_one(interval):
    source = (np.array([0.0, 1.0, -1.0]), np.array([3.0, 1.0, 0.5]))
    target = (np.array([2.0, 3.0, 0.0]), np.array([0.3, 0.9, 0.7]))
    found = gaussian_guidance(target, source, 1.5, interval)
    for i in range(3):
        one = gaussian_guidance((target[0][i], target[1][i]), (source[0][i], source[1][i]), 1.5, interval)
        assert (found[0][i], found[1][i]) == pytest.approx(one, rel=1e-7)


def test_numbers_and_arrays_mix():
    mean, std = gaussian_guidance((2.0, np.array([0.3, 0.9])), (0.0, 3.0), 1.5)
    for i, s in enumerate((0.3, 0.9)):
        assert (mean[i], std[i]) == pytest.approx(gaussian_guidance((2.0, s), (0.0, 3.0), 1.5), rel=1e-7)
    mean, std = gaussian_guidance((np.array([2.0, -1.0]), 0.3), (0.0, 3.0), 1.5)
    for i, mu in enumerate((2.0, -1.0)):
        assert (mean[i], std[i]) == pytest.approx(gaussian_guidance((mu, 0.3), (0.0, 3.0), 1.5), rel=1e-7)


def test_numbers_in_numbers_out():
    assert all(type(v) is float for v in gaussian_guidance((2.0, 0.3), (0.0, 3.0), 1.5))


@given(st.floats(0.1, 50), st.floats(1, 50))
def test_tensors_are_numbers_too(std, ratio):
    tensors = gaussian_guidance(
        (torch.tensor(1.0), torch.tensor(std)), (torch.tensor(0.0), torch.tensor(std * ratio)), 1.5
    )
    assert tensors == pytest.approx(gaussian_guidance((1.0, std), (0.0, std * ratio), 1.5), rel=1e-5)


@pytest.mark.parametrize("w", (math.nan, INF, -INF))
def test_a_weight_that_is_not_finite_is_refused(w):
    with refuses("w is", "expected"):
        gaussian_guidance((0.0, 1.0), (0.0, 2.0), w)


@given(st.one_of(st.floats(max_value=0), st.just(math.nan), st.just(INF)))
def test_a_std_that_is_not_positive_and_finite_is_refused(std):
    for target, source in [
        ((0.0, std), (0.0, 1.0)),
        ((0.0, 1.0), (0.0, std)),
        ((0.0, np.array([1.0, std])), (0.0, 1.0)),
    ]:
        with refuses("std", "positive"):
            gaussian_guidance(target, source, 1.5)


@pytest.mark.parametrize("mean", (math.nan, INF))
def test_a_mean_that_is_not_finite_is_refused(mean):
    with refuses("mean", "finite"):
        gaussian_guidance((mean, 1.0), (0.0, 1.0), 1.5)


@pytest.mark.parametrize("interval", [(1.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (math.nan, 1.0)])
def test_an_empty_interval_is_refused(interval):
    with refuses("interval is", "low < high"):
        gaussian_guidance((0.0, 1.0), (0.0, 2.0), 1.5, interval)


def test_weights_that_do_not_sum_to_1_are_refused():
    with refuses("weights", "sum to 1.5", "expected 1"):
        gaussian_endpoint([(0.5, 0.0, 1.0), (1.0, 0.0, 1.0)])


@given(means, stds, means, stds, st.floats(0, 1.5))
def test_the_tilted_density_of_gaussians_is_gaussian(mu_s, s_s, mu_t, s_t, w):
    """Precisions add with the weights; where the sum is not positive there is no such density."""
    precision = (1 - w) / s_s**2 + w / s_t**2
    if precision < 0.05:
        return
    std, mean = precision**-0.5, ((1 - w) * mu_s / s_s**2 + w * mu_t / s_t**2) / precision
    x = torch.linspace(mean - 4 * std, mean + 4 * std, 401, dtype=torch.float64)
    found = theory.tilted(gaussian(mu_t, s_t), gaussian(mu_s, s_s), w, x[:, None])
    truth = torch.from_numpy(norm(mean, std).logpdf(x))
    close(found, truth.log_softmax(0), rtol=1e-7, atol=1e-7)


def test_the_tilted_density_sums_to_1_over_its_grid():
    target, source = random_labelled(seed=1).given(0), random_labelled(seed=2)
    grid = torch.cartesian_prod(*2 * [torch.linspace(-5, 5, 60, dtype=torch.float64)])
    log = theory.tilted(target, source, 1.5, grid)
    assert log.exp().sum().item() == pytest.approx(1.0, rel=1e-12)
    close(log - log[0], (lambda q: q - q[0])(1.5 * target.logp(grid) - 0.5 * source.logp(grid)))


def test_what_has_no_density_is_not_tilted():
    for name, pair in dict(target=(None, gaussian(0.0, 1.0)), source=(gaussian(0.0, 1.0), "a")).items():
        with refuses(f"{name} is", "expected a mixture", error=TypeError):
            theory.tilted(*pair, 1.5, torch.zeros(1, 1))


def test_guided_sampling_is_narrower_than_the_tilted_density():
    """N(0, 3^2) and N(2, .3^2) at w = 1.5: std .0949 against .2454."""
    x = torch.linspace(0, 4, 8_001, dtype=torch.float64)
    p = theory.tilted(gaussian(2.0, 0.3), gaussian(0.0, 3.0), 1.5, x[:, None]).exp()
    tilted = ((x - (p * x).sum()).square() * p).sum().sqrt().item()
    assert tilted == pytest.approx(0.2454, abs=1e-4)
    assert tilted / gaussian_guidance((2.0, 0.3), (0.0, 3.0), 1.5)[1] == pytest.approx(2.6, abs=0.05)


@st.composite
def worlds(draw):
    """A mixture with labels and domains, a label, a domain that has it, a level and points."""
    d, seed = draw(st.sampled_from((1, 2, 5))), draw(st.integers(0, 999))
    mixture = random_labelled(8, d, classes=2, seed=seed)
    domains = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    x = 4 * torch.randn(6, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return mixture, domains, draw(st.integers(0, 1)), draw(st.integers(0, 1)), draw(st.floats(0.01, 5)), x


def part(mixture, keep):
    weights = mixture.weights[keep]
    return GaussianMixture(weights / weights.sum(), mixture.means[keep], mixture.covs[keep])


@given(worlds(), ws)
def test_domain_guidance_is_cfg_s_term_plus_a_domain_term(world, w):
    """Claim C1, to 1e-10 in float64: the guided score against the three scores from their own definitions."""
    mixture, domains, label, domain, sigma, x = world
    finetuned = part(mixture, (mixture.labels == label) & (domains == domain))
    dog = (1 - w) * mixture.score(x, sigma) + w * finetuned.score(x, sigma)
    conditional, class_term, domain_term = theory.alignment(mixture, domains, label, domain, x, sigma)
    scale = 1 + conditional.abs().max() + mixture.score(x, sigma).abs().max()
    close(dog / scale, (conditional + (w - 1) * (class_term + domain_term)) / scale, rtol=0, atol=1e-10)
    denoised = domain_guidance(finetuned.denoise, mixture.denoise, w)(x, sigma)
    close((denoised - x) / sigma**2 / scale, dog / scale, rtol=0, atol=1e-8)


@given(worlds())
def test_each_term_is_a_difference_of_scores(world):
    mixture, domains, label, domain, sigma, x = world
    inside = domains == domain
    conditional, class_term, domain_term = theory.alignment(mixture, domains, label, domain, x, sigma)
    within = part(mixture, inside).score(x, sigma)
    scale = 1 + conditional.abs().max() + within.abs().max() + mixture.score(x, sigma).abs().max()
    close(conditional, part(mixture, inside & (mixture.labels == label)).score(x, sigma))
    close(class_term / scale, (conditional - within) / scale, rtol=0, atol=1e-10)
    close(domain_term / scale, (within - mixture.score(x, sigma)) / scale, rtol=0, atol=1e-10)


def test_with_one_domain_domain_guidance_is_cfg(rng):
    mixture, x = random_labelled(), torch.randn(5, 2, generator=rng, dtype=torch.float64)
    conditional, class_term, domain_term = theory.alignment(mixture, torch.zeros(6), 1, 0, x, 0.5)
    close(domain_term, torch.zeros_like(x), rtol=0, atol=1e-12)
    close(x + 0.25 * (conditional + 0.5 * class_term), cfg(mixture, 1, mixture.null, 1.5)(x, 0.5))


def test_alignment_is_finite_far_from_the_domain():
    mixture, domains = random_labelled(8), torch.tensor([0] * 4 + [1] * 4)
    x = 1_000 * torch.tensor([[1.0, 0.0], [0.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    for sigma in (0.01, torch.tensor([0.01, 1.0, 10.0])):
        assert all(term.isfinite().all() for term in theory.alignment(mixture, domains, 0, 1, x, sigma))


def test_alignment_is_known_in_inference_mode_too():
    found = lambda: theory.alignment(random_labelled(), torch.zeros(6), 1, 0, torch.ones(1, 2), 0.5)
    with torch.inference_mode():
        inside = found()
    for one, other in zip(inside, found(), strict=True):
        close(one, other)


def test_alignment_takes_a_level_for_each_point(rng):
    mixture, domains = random_labelled(8), torch.tensor([0] * 4 + [1] * 4)
    x = torch.randn(3, 2, generator=rng, dtype=torch.float64)
    sigma = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    together = theory.alignment(mixture, domains, 0, 1, x, sigma)
    for i in range(3):
        alone = theory.alignment(mixture, domains, 0, 1, x[i : i + 1], sigma[i])
        for term, one in zip(together, alone, strict=True):
            close(term[i : i + 1], one, rtol=1e-8, atol=1e-8)


def test_alignment_leaves_no_graph_behind(rng):
    x = torch.randn(3, 2, generator=rng, dtype=torch.float64)
    assert not any(
        t.requires_grad for t in theory.alignment(random_labelled(8), torch.zeros(8), 0, 0, x, 0.5)
    )
    assert not x.requires_grad


def test_a_label_that_no_component_of_the_domain_has_is_refused():
    with refuses("label 1 has no component in domain 3"):
        theory.alignment(random_labelled(8), torch.zeros(8), 1, 3, torch.zeros(2, 2), 0.5)


def test_tilting_blurred_densities_is_tilting_their_blurred_mixtures():
    source, target = (
        GaussianMixture([1.0], torch.tensor([[m]]).double(), torch.tensor([[[s * s]]]).double())
        for m, s in ((0.0, 3.0), (1.0, 0.5))
    )
    blurred = [GaussianMixture([1.0], p.means, p.covs + 0.49) for p in (target, source)]
    grid = torch.linspace(-5, 5, 101, dtype=torch.float64)[:, None]
    torch.testing.assert_close(
        theory.tilted(target, source, 1.5, grid, sigma=0.7), theory.tilted(*blurred, 1.5, grid)
    )
