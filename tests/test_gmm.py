import copy
import math

import pytest
import torch
from helpers import random_labelled, random_mixture, random_parts, refuses
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from dgtoy import GaussianMixture, LabelledMixture, gmm, guided

DIMS = (1, 2, 5)
close = torch.testing.assert_close


def plain(mixture, x, sigma):
    """The reference: log p, score and denoiser with one einsum per component's eigenvectors, as one writes
    them down."""
    delta = x[:, None] - mixture.means  # (N, K, D)
    coords = torch.einsum("nkd,kde->nke", delta, mixture.axes)
    var = mixture.variances + sigma**2  # (K, D)
    logits = mixture.weights.log() - 0.5 * (coords**2 / var + (2 * math.pi * var).log()).sum(-1)
    pull = -torch.einsum("nke,kde->nkd", coords / var, mixture.axes)
    score = torch.einsum("nk,nkd->nd", logits.softmax(-1), pull)
    return logits.logsumexp(-1), score, x + sigma**2 * score


@st.composite
def mixtures(draw):
    """A mixture of 1 to 5 components in 1, 2 or 5 dimensions with numbers of hypothesis' choice."""
    k, d = draw(st.integers(1, 5)), draw(st.sampled_from(DIMS))
    numbers = lambda n, lo, hi: torch.tensor(
        draw(st.lists(st.floats(lo, hi), min_size=n, max_size=n)), dtype=torch.float64
    )
    weights, means, root = (
        numbers(k, 0.1, 1),
        numbers(k * d, -5, 5),
        numbers(k * d * d, -1, 1).reshape(k, d, d),
    )
    return GaussianMixture(weights / weights.sum(), means.reshape(k, d), root @ root.mT + 0.05 * torch.eye(d))


@given(mixtures(), st.floats(0, 10), st.integers(0, 99))
def test_logp_agrees_with_scipy(mixture, sigma, seed):
    d = mixture.means.shape[1]
    x = 4 * torch.randn(5, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    covs = (mixture.covs + sigma**2 * torch.eye(d, dtype=torch.float64)).numpy()
    parts = [
        multivariate_normal(m, c).logpdf(x).reshape(5)
        for m, c in zip(mixture.means.numpy(), covs, strict=True)
    ]
    truth = logsumexp(parts, 0, b=mixture.weights.numpy()[:, None])
    close(mixture.logp(x, sigma), torch.from_numpy(truth), rtol=1e-9, atol=1e-9)


@given(mixtures(), st.floats(0, 10), st.integers(0, 99))
def test_the_score_is_the_gradient_of_logp(mixture, sigma, seed):
    x = 4 * torch.randn(
        5, mixture.means.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    (gradient,) = torch.autograd.grad(mixture.logp(x.requires_grad_(), sigma).sum(), x)
    close(mixture.score(x.detach(), sigma), gradient, rtol=1e-8, atol=1e-8)


@given(mixtures(), st.floats(1e-3, 10), st.integers(0, 99))
def test_the_denoiser_is_x_plus_sigma_squared_score(mixture, sigma, seed):
    x = 4 * torch.randn(
        5, mixture.means.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    close(mixture.denoise(x, sigma), x + sigma**2 * mixture.score(x, sigma), rtol=1e-9, atol=1e-9)


def test_the_denoiser_is_the_mean_of_the_clean_points_behind_x(rng):
    mixture = random_mixture(3, 1)
    x0 = mixture.sample(400_000, generator=rng)
    x = x0 + 0.5 * torch.randn(x0.shape, generator=rng, dtype=x0.dtype)
    near = (x - 1.0).abs()[:, 0] < 0.05
    assert near.sum() > 1_000
    close(mixture.denoise(x[near], 0.5).mean(), x0[near].mean(), rtol=0, atol=0.05)


@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize("sigma", (0.0, 0.3, 20.0))
def test_matrix_products_equal_the_plain_version(d, sigma, rng):
    mixture = random_mixture(7, d)
    x = 4 * torch.randn(50, d, generator=rng, dtype=torch.float64)
    logp, score, denoised = plain(mixture, x, sigma)
    close(mixture.logp(x, sigma), logp, rtol=1e-10, atol=1e-10)
    close(mixture.score(x, sigma), score, rtol=1e-10, atol=1e-10)
    if sigma > 0:
        close(mixture.denoise(x, sigma), denoised, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("d", DIMS)
def test_a_sigma_for_each_sample_equals_the_shared_sigma(d, rng):
    mixture = random_mixture(5, d)
    x = 3 * torch.randn(6, d, generator=rng, dtype=torch.float64)
    sigma = torch.tensor([0.01, 0.1, 0.5, 1.0, 10.0, 80.0], dtype=torch.float64)
    for f in (mixture.logp, mixture.score, mixture.denoise, mixture.responsibilities):
        one_by_one = torch.cat([f(x[i : i + 1], s) for i, s in enumerate(sigma)])
        close(f(x, sigma), one_by_one, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("sigma", (0.0, 1e-30, 1e-6, 1e-3, 1.0, 100.0))
def test_everything_is_finite_a_thousand_standard_deviations_out(dtype, sigma):
    mixture = random_mixture(4, 2)
    angle = torch.linspace(0, 2 * math.pi, 9, dtype=torch.float64)
    ring = torch.stack([angle.cos(), angle.sin()], -1)
    x = (mixture.means[0] + 1_000 * (mixture.variances.max().sqrt() + sigma) * ring).to(dtype)
    for level in (sigma, torch.full((len(x),), sigma)):
        assert mixture.logp(x, level).isfinite().all()
        assert mixture.score(x, level).isfinite().all()
        if sigma > 0:
            assert mixture.denoise(x, level).isfinite().all()


@pytest.mark.parametrize("std, sigma", ((1e5, 9e19), (1e20, 1.0)))
def test_single_precision_is_enough_for_any_lengths_that_it_holds(std, sigma):
    """Squares of lengths that single precision holds overflow in it: 1e20, say."""
    mixture = GaussianMixture([1.0], torch.zeros(1, 2), std**2 * torch.eye(2, dtype=torch.float64)[None])
    x = torch.tensor([[9e19, 1e19]])
    for name in ("logp", "score", "denoise"):
        f = getattr(mixture, name)
        close(f(x, sigma).double(), f(x.double(), sigma), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_a_component_too_far_and_too_narrow_to_matter_pulls_nothing(dtype):
    """Its share of x is below e^-1000, its pull on x up to 1e36 times the others'."""
    pair = GaussianMixture([0.5, 0.5], [[0.0], [0.1]], [[[1e-36]], [[1.0]]])
    x = torch.tensor([[-2.0], [1.0]], dtype=dtype)
    close(pair.score(x), 0.1 - x)


def test_a_component_may_be_as_narrow_as_its_variance_is_a_number():
    std = torch.tensor(1e-100, dtype=torch.float64)
    one = GaussianMixture([1.0], torch.zeros(1, 1).double(), (std**2)[None, None, None])
    x = torch.tensor([[-1.0], [0.0], [3.0]]).double()
    close(one.score(std * x), -x / std)


def test_far_out_the_nearest_component_alone_decides():
    mixture = GaussianMixture([0.5, 0.5], [[0.0], [10.0]], [[[1.0]], [[1.0]]])
    x = torch.tensor([[1_000.0]])
    close(mixture.score(x), 10.0 - x)
    close(mixture.logp(x), -0.5 * (x[:, 0] - 10) ** 2 - math.log(2 * (2 * math.pi) ** 0.5))


@pytest.mark.parametrize("far", (1, 30))
@pytest.mark.parametrize("sigma", (0.0, 0.01, 1.0, 30.0))
@pytest.mark.parametrize("what", ("logp", "score"))
def test_float32_errs_no_more_than_rounding_x_does(far, sigma, what, rng):
    """Backward error: the answer in float32 is the exact answer for a point a few roundings away."""
    mixture = random_mixture(20, 2)
    x = (far * 3 * torch.randn(200, 2, generator=rng)).float().double()
    f, ulp = getattr(mixture, what), 2.0**-23
    exact, size = f(x, sigma), x.abs() + mixture.means.abs().max()
    moved = [f(x + ulp * size * torch.tensor(s), sigma) - exact for s in ([1, 1], [1, -1], [-1, 1], [-1, -1])]
    rounding = torch.stack(moved).abs().amax(0) + ulp * exact.abs()
    assert ((f(x.float(), sigma).double() - exact).abs() <= 8 * rounding).all()


@pytest.mark.parametrize("far", (1, 30, 1_000))
@pytest.mark.parametrize("sigma", (0.01, 1.0, 30.0))
def test_float32_errs_no_more_than_the_plain_version_in_float32(far, sigma, rng):
    mixture = random_mixture(20, 2)
    x = (far * 3 * torch.randn(200, 2, generator=rng)).float().double()
    narrow = copy.copy(mixture)
    for name in ("weights", "means", "variances", "axes"):
        setattr(narrow, name, getattr(mixture, name).float())
    plainly = plain(narrow, x.float(), sigma)
    functions = (mixture.logp, mixture.score, mixture.denoise)
    for f, theirs, exact in zip(functions, plainly, plain(mixture, x, sigma), strict=True):
        worst = lambda y: (y.double() - exact).abs().max()
        assert (
            worst(f(x.float(), sigma)) <= 4 * worst(theirs) + 2.0**-21 * exact.abs().max()
        )  # and a few roundings


@pytest.mark.parametrize("sigma", (0.0, 0.01, 0.1, 1.0, 20.0))
@pytest.mark.parametrize("each", (False, True))
def test_float32_keeps_its_digits_on_points_like_the_data(sigma, each, rng):
    """Narrow components far from the origin: expanded, U x - U mu would lose 1.5 digits of these scores."""
    root = 0.1 * torch.randn(300, 2, 2, generator=rng)
    means = 2 * torch.randn(300, 2, generator=rng)
    mixture = GaussianMixture(torch.full((300,), 1 / 300), means, root @ root.mT + 1e-4 * torch.eye(2))
    x = mixture.sample(2_000, sigma, rng)
    level = torch.full((len(x),), sigma) if each else sigma
    for f in (mixture.score, mixture.denoise)[: 2 if sigma else 1]:
        exact = f(x.double(), sigma)
        error = (f(x, level).double() - exact).norm(dim=1) / exact.norm(dim=1)
        assert error.median() < 1e-6 and error.quantile(0.99) < 1e-5


def test_a_gradient_passes_through_score_and_denoiser(rng):
    mixture, x = random_mixture(3, 2), torch.randn(4, 2, generator=rng, dtype=torch.float64)
    for f in (mixture.score, lambda x: mixture.denoise(x, 0.5), lambda x: mixture.responsibilities(x, 0.5)):
        assert torch.autograd.gradcheck(f, x.clone().requires_grad_())


def test_a_forward_derivative_passes_by_the_noise_level_too(rng):
    mixture, x = random_mixture(3, 2), torch.randn(4, 2, generator=rng, dtype=torch.float64)
    level = torch.full((4,), 0.5, dtype=torch.float64)
    for f in (mixture.logp, mixture.score, mixture.denoise):
        found = torch.func.jvp(lambda s: f(x, s), (level,), (torch.ones_like(level),))[1]
        close(found, (f(x, level + 1e-5) - f(x, level - 1e-5)) / 2e-5, rtol=1e-6, atol=1e-6)


def test_torch_func_maps_over_points_and_noise_levels(rng):
    """The score is the gradient of logp, and what noise hides, Cov(x0 | x) = sigma^2 dD/dx."""
    mixture, sigma = random_mixture(), 0.7
    x = torch.randn(5, 2, generator=rng, dtype=torch.float64)
    level = torch.full((5,), sigma, dtype=torch.float64)
    close(torch.func.vmap(torch.func.grad(mixture.logp))(x, level), mixture.score(x, sigma))
    cov = sigma**2 * torch.func.vmap(torch.func.jacrev(mixture.denoise))(x, level)
    curved = torch.func.vmap(torch.func.hessian(mixture.logp))(x, level)
    close(cov, sigma**2 * (torch.eye(2, dtype=torch.float64) + sigma**2 * curved))
    D = guided(mixture.denoise, random_mixture(seed=1).denoise, 1.5)
    close(torch.func.vmap(D)(x, level), D(x, sigma))
    levels = torch.tensor([0.1, 1.0, 9.0], dtype=torch.float64)
    for f in (mixture.logp, mixture.denoise, D):  # one set of points at many levels
        found = torch.func.vmap(lambda s, f=f: f(x, s))(levels)
        close(found, torch.stack([f(x, s) for s in levels]))


@pytest.mark.parametrize("n", (1, 6, 7, 8, 21, 50))
def test_blocks_do_not_matter(n, rng, monkeypatch):
    mixture, x = random_mixture(3, 2), torch.randn(n, 2, generator=rng, dtype=torch.float64)
    levels = torch.rand(n, generator=rng, dtype=torch.float64) + 0.1
    functions = (mixture.logp, mixture.score, mixture.denoise, mixture.responsibilities)
    whole = [f(x, s) for f in functions for s in (0.5, levels)]
    monkeypatch.setattr(gmm, "BLOCK", {"cpu": 3 * 7})  # 7 points at a time
    for one, other in zip(whole, [f(x, s) for f in functions for s in (0.5, levels)], strict=True):
        close(other, one, rtol=1e-12, atol=1e-12)


def test_a_block_smaller_than_the_mixture_holds_one_point(rng, monkeypatch):
    mixture, x = random_mixture(5, 2), torch.randn(4, 2, generator=rng, dtype=torch.float64)
    whole = mixture.score(x, 0.5)
    monkeypatch.setattr(gmm, "BLOCK", {"cpu": 2})
    close(mixture.score(x, 0.5), whole)


@pytest.mark.parametrize("sigma", (0.5, (2,), (2, 3), (2, 3, 4)))
def test_points_may_have_any_leading_shape(sigma, rng):
    mixture, x = random_mixture(3, 2), torch.randn(2, 3, 4, 2, generator=rng, dtype=torch.float64)
    if isinstance(sigma, tuple):
        sigma = torch.rand(sigma, generator=rng, dtype=torch.float64) + 0.1
    flat = torch.as_tensor(sigma)
    flat = flat.reshape(flat.shape + (1,) * (3 - flat.ndim)).expand(2, 3, 4).reshape(-1)
    close(mixture.logp(x, sigma), mixture.logp(x.reshape(-1, 2), flat).reshape(2, 3, 4), check_dtype=False)
    close(mixture.score(x, sigma), mixture.score(x.reshape(-1, 2), flat).reshape(x.shape), check_dtype=False)
    assert mixture.responsibilities(x, sigma).shape == (2, 3, 4, 3)


def test_one_point_without_a_batch_axis_works():
    mixture, x = random_mixture(3, 2), torch.tensor([0.3, -0.2], dtype=torch.float64)
    close(mixture.score(x), mixture.score(x[None])[0])
    assert mixture.logp(x).shape == ()


@pytest.mark.parametrize("sigma", (0.5, torch.ones(0)))
def test_an_empty_batch_comes_back_empty(sigma):
    mixture, x = random_mixture(3, 2), torch.zeros(0, 2)
    assert mixture.logp(x, sigma).shape == (0,)
    assert mixture.score(x, sigma).shape == mixture.denoise(x, sigma).shape == (0, 2)
    assert mixture.responsibilities(x, sigma).shape == (0, 3)
    assert mixture.sample(0).shape == (0, 2)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_answers_come_in_the_precision_of_x(dtype):
    mixture, x = random_mixture(3, 2), torch.zeros(4, 2, dtype=dtype)
    for sigma in (0.5, torch.tensor(0.5), torch.full((4,), 0.5), torch.full((4,), 0.5, dtype=torch.float64)):
        assert (
            mixture.logp(x, sigma).dtype
            == mixture.score(x, sigma).dtype
            == mixture.denoise(x, sigma).dtype
            == dtype
        )


def test_responsibilities_are_bayes_rule(rng):
    mixture, x = random_mixture(3, 2), torch.randn(10, 2, generator=rng, dtype=torch.float64)
    parts = [GaussianMixture([1.0], mixture.means[k : k + 1], mixture.covs[k : k + 1]) for k in range(3)]
    joint = torch.stack([mixture.weights[k].log() + p.logp(x, 0.7) for k, p in enumerate(parts)], -1)
    close(mixture.responsibilities(x, 0.7), (joint - mixture.logp(x, 0.7)[:, None]).exp())


@pytest.mark.parametrize("sigma", (0.0, 2.0))
def test_samples_have_the_mixture_s_mean_and_covariance(sigma, rng):
    mixture = random_mixture(4, 2)
    x = mixture.sample(200_000, sigma, rng)
    mean = mixture.weights @ mixture.means
    spread = mixture.means - mean
    cov = torch.einsum("k,kij->ij", mixture.weights, mixture.covs + spread[:, :, None] * spread[:, None])
    cov = cov + sigma**2 * torch.eye(2)
    close(x.mean(0), mean, rtol=0, atol=0.04)
    close(torch.cov(x.T), cov, rtol=0, atol=0.02 * cov.trace().item())


def test_samples_follow_the_density(rng):
    mixture = random_mixture(3, 1)
    x = mixture.sample(100_000, generator=rng)
    grid = torch.linspace(-20, 20, 20_001, dtype=torch.float64)[:, None]
    below = mixture.logp(grid).exp()[grid[:, 0] < 0.5].sum() * 0.002
    assert abs((x < 0.5).double().mean() - below) < 0.01


def test_sampling_draws_from_its_generator_alone():
    before = torch.get_rng_state()
    a, b = (random_mixture().sample(50, 0.3, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a, b) and torch.equal(torch.get_rng_state(), before)


def test_points_are_a_function_of_their_own_noise(rng):
    mixture = random_mixture(4, 2)
    u, z = (
        torch.rand(3, 8, generator=rng, dtype=torch.float64),
        torch.randn(3, 8, 2, generator=rng, dtype=torch.float64),
    )
    x = mixture.from_noise(u, z)
    assert torch.equal(x, mixture.from_noise(u, z)) and x.shape == (3, 8, 2)
    close(x[1, 3:5], mixture.from_noise(u[1, 3:5], z[1, 3:5]))


def test_noise_picks_the_component_by_u_and_the_place_by_z():
    mixture = GaussianMixture([0.25, 0.75], [[0.0], [5.0]], [[[1.0]], [[4.0]]])
    u = torch.tensor([0.0, 0.2, 0.25, 0.999])  # component 0 is u < 0.25
    close(mixture.from_noise(u, torch.zeros(4, 1)), torch.tensor([[0.0], [0.0], [5.0], [5.0]]))
    moved = mixture.from_noise(u, torch.ones(4, 1)) - mixture.from_noise(u, torch.zeros(4, 1))
    close(moved.abs(), torch.tensor([[1.0], [1.0], [2.0], [2.0]]))


def test_moving_to_a_device_changes_nothing_else():
    mixture, x = random_labelled(), torch.zeros(3, 2, dtype=torch.float64)
    moved = mixture.to("cpu")
    assert type(moved) is LabelledMixture and moved is not mixture
    assert torch.equal(moved.denoiser(1)(x, 0.5), mixture.denoiser(1)(x, 0.5))


def test_a_class_holds_its_components_and_the_null_label_all(rng):
    mixture, x = random_labelled(6, 2, classes=3), torch.randn(10, 2, generator=rng, dtype=torch.float64)
    keep = mixture.labels == 1
    alone = GaussianMixture(
        mixture.weights[keep] / mixture.weights[keep].sum(), mixture.means[keep], mixture.covs[keep]
    )
    close(mixture.given(1).logp(x), alone.logp(x))
    close(mixture.given(mixture.null).logp(x), mixture.logp(x))


def test_the_marginal_is_the_sum_over_classes(rng):
    mixture, x = random_labelled(6, 2, classes=3), torch.randn(10, 2, generator=rng, dtype=torch.float64)
    shares = torch.stack([mixture.weights[mixture.labels == c].sum() for c in range(3)])
    parts = torch.stack([mixture.given(c).logp(x, 0.4) for c in range(3)], -1)
    close((parts + shares.log()).logsumexp(-1), mixture.logp(x, 0.4))


@pytest.mark.parametrize("sigma", (0.5, torch.tensor([0.1, 0.5, 1.0, 3.0, 9.0, 0.2])))
def test_a_label_for_each_sample_is_each_class_s_own_denoiser(sigma, rng):
    mixture, x = random_labelled(6, 2, classes=2), torch.randn(6, 2, generator=rng, dtype=torch.float64)
    label = torch.tensor([0, 1, 2, 1, 0, 2])  # 2 is null
    out = mixture.denoiser(label)(x, sigma)
    for i, c in enumerate(label.tolist()):
        s = sigma[i] if torch.is_tensor(sigma) else sigma
        close(out[i : i + 1], mixture.denoiser(c)(x[i : i + 1], s))


def test_labelled_draws_carry_their_component_s_label(rng):
    mixture = random_labelled(6, 2, classes=3)
    u, z = torch.rand(2, 500, generator=rng), torch.zeros(2, 500, 2)
    x0, label = mixture.draw(u, z)
    nearest = torch.cdist(x0.double(), mixture.means).argmin(-1)
    assert torch.equal(label, mixture.labels[nearest]) and label.shape == (2, 500)


def test_integer_parameters_are_numbers_too():
    mixture = GaussianMixture([1], [[0, 0]], [[[1, 0], [0, 1]]])
    close(mixture.logp(torch.zeros(2)), torch.tensor(-math.log(2 * math.pi)))
    assert mixture.sample(3).dtype == torch.get_default_dtype()


def test_weights_are_normalised_within_rounding():
    assert GaussianMixture(torch.full((3,), 1 / 3), torch.zeros(3, 1), torch.ones(3, 1, 1)).weights.sum() == 1


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(weights=torch.ones(3) / 3), ("weights", "(3,)", "(2,)")),
        (dict(means=torch.zeros(2)), ("means", "(2,)", "(K, D)")),
        (dict(means=torch.zeros(0, 2)), ("means", "(0, 2)")),
        (dict(covs=torch.eye(2)), ("covs", "(2, 2)", "(2, 2, 2)")),
        (dict(covs=torch.eye(3).expand(2, 3, 3)), ("covs", "(2, 3, 3)", "(2, 2, 2)")),
        (dict(weights=torch.tensor([0.5, 0.6])), ("weights", "1.1", "sum to 1")),
        (dict(weights=torch.tensor([1.5, -0.5])), ("weights", "-0.5", "positive")),
        (dict(weights=torch.tensor([1.0, 0.0])), ("weights", "positive")),
        (dict(weights=torch.tensor([float("nan"), 0.5])), ("weights", "not finite")),
        (dict(means=torch.tensor([[0.0, float("inf")], [0.0, 0.0]])), ("means", "not finite")),
        (dict(covs=torch.full((2, 2, 2), float("nan"))), ("covs", "not finite")),
        (dict(covs=torch.stack([torch.eye(2), -torch.eye(2)])), ("covs[1]", "positive definite", "-1")),
        (dict(covs=torch.stack([torch.ones(2, 2), torch.eye(2)])), ("covs[0]", "positive definite")),
        (
            dict(covs=torch.stack([torch.eye(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])])),
            ("covs[1]", "symmetric"),
        ),
    ],
)
def test_a_mixture_that_is_none_is_refused(change, words):
    good = dict(weights=torch.ones(2) / 2, means=torch.zeros(2, 2), covs=torch.eye(2).expand(2, 2, 2))
    GaussianMixture(**good)
    with refuses(*words):
        GaussianMixture(**{**good, **change})


def test_a_singular_covariance_is_refused_whatever_its_rounding():
    """Of flat matrices half have a least eigenvalue just above 0. That of a diagonal one is exact."""
    for seed in range(20):
        root = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        with refuses("covs[0] is not positive definite: its eigenvalues are"):
            GaussianMixture([1.0], torch.zeros(1, 4), (root @ root.T)[None])
    narrow = GaussianMixture([1.0], torch.zeros(1, 2), torch.tensor([1.0, 1e-20]).diag()[None])
    assert narrow.logp(torch.zeros(2)).isfinite()


@given(st.integers(1, 4), st.integers(0, 99), st.floats(1e-3, 10))
def test_a_covariance_with_a_negative_eigenvalue_is_refused(d, seed, depth):
    weights, means, covs = random_parts(2, d, seed)
    axis = torch.linalg.eigh(covs[1]).eigenvectors[:, 0]
    covs[1] = covs[1] - (torch.linalg.eigvalsh(covs[1])[0] + depth) * torch.outer(axis, axis)
    with refuses("covs[1]", "positive definite"):
        GaussianMixture(weights, means, (covs + covs.mT) / 2)


@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (3,), (2, 2, 1)])
def test_points_of_another_dimension_are_refused(shape):
    with refuses("x has shape", str(shape), "(..., 2)"):
        random_mixture().logp(torch.zeros(shape))


@pytest.mark.parametrize("sigma", (-1.0, float("nan"), float("inf")))
def test_a_level_that_is_no_level_is_refused(sigma):
    mixture, x = random_mixture(), torch.zeros(3, 2)
    for f in (mixture.logp, mixture.score, mixture.denoise, mixture.responsibilities):
        with refuses("sigma"):
            f(x, sigma)
        with refuses("sigma"):
            f(x, torch.tensor([1.0, sigma, 1.0]))
    with refuses("sigma"):
        mixture.sample(3, sigma)


def test_denoising_nothing_is_refused():
    with refuses("sigma is 0", "> 0"):
        random_mixture().denoise(torch.zeros(3, 2), 0.0)


def test_levels_for_another_number_of_points_are_refused():
    with refuses("sigma has shape (4,)", "(3,)"):
        random_mixture().score(torch.zeros(3, 2), torch.ones(4))


def test_a_negative_number_of_samples_is_refused():
    with refuses("n is -1"):
        random_mixture().sample(-1)


@pytest.mark.parametrize(
    "labels, words",
    [
        ([0, 1, 0], ("labels has shape (3,)", "(4,)")),
        ([0, 2, 0, 2], ("labels", "[0, 2]", "from 0 to 2")),
        ([-1, 0, 1, 0], ("labels", "-1")),
    ],
)
def test_labels_that_skip_a_class_are_refused(labels, words):
    with refuses(*words):
        LabelledMixture(*random_parts(4, 2, 0), labels)


@pytest.mark.parametrize("label", (3, 7, -1, torch.tensor(3), torch.tensor([0, 3])))
def test_a_label_out_of_range_is_refused(label):
    mixture = random_labelled(4, 2, classes=2)
    with refuses("label", "out of range for 2 classes (null is 2)"):
        mixture.denoiser(label)


@pytest.mark.parametrize("label", (0.5, True, torch.tensor([0.0])))
def test_a_label_that_is_no_integer_is_refused(label):
    with refuses("label has dtype", "integers"):
        random_labelled().denoiser(label)


def test_labels_for_another_number_of_points_are_refused():
    with refuses("label", "(3,)", "(4,"):
        random_labelled().denoiser(torch.tensor([0, 1, 0]))(torch.zeros(4, 2, dtype=torch.float64), 0.5)
