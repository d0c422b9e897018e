"""The log-likelihood of a denoiser's flow, against densities that are known."""

import pytest
import torch
from helpers import gaussian as gaussian_of
from helpers import random_mixture, refuses

from dgtoy import GaussianMixture, guided, karras
from dgtoy.interop import as_denoiser
from dgtoy.likelihood import log_likelihood
from dgtoy.samplers import exponential
from dgtoy.theory import gaussian_guidance

close = torch.testing.assert_close
LEVELS = exponential(64, 0.01, 300.0)


def gaussian():
    covs = torch.diag_embed(torch.tensor([[0.25, 1.0, 2.0]], dtype=torch.float64))
    return GaussianMixture([1.0], torch.tensor([[0.7, -1.0, 0.2]], dtype=torch.float64), covs)


@pytest.mark.parametrize("levels", [LEVELS, karras(64, 0.01, 300.0)[:-1]])
def test_of_a_gaussian_it_is_the_density_to_1e_4(levels, rng):
    world = gaussian()
    x = world.sample(5, generator=rng)
    close(log_likelihood(world.denoise, x, levels), world.logp(x, 0.01), rtol=0, atol=1e-4)


def test_of_a_mixture_it_is_the_density_and_at_a_higher_level_that_of_the_noisy_one(rng):
    world = random_mixture()
    x = world.sample(5, generator=rng)
    for sigma in (0.1, 1.0):
        found = log_likelihood(world.denoise, x, exponential(40, sigma, 1000.0))
        close(found, world.logp(x, sigma), rtol=0, atol=1e-3)


def test_guidance_on_an_interval_wants_a_level_on_either_side_of_each_end():
    main, guide = gaussian_of(2.0, 0.3), gaussian_of(0.0, 3.0)
    mean, std = gaussian_guidance((2.0, 0.3), (0.0, 3.0), 1.5, (0.0, 1.0))
    x = torch.tensor([[mean], [mean + std]], dtype=torch.float64)
    exact = torch.distributions.Normal(mean, std).log_prob(x[:, 0])
    levels, D = exponential(100, 1e-4, 3000.0), guided(main.denoise, guide.denoise, 1.5, (0.0, 1.0))
    both = torch.cat([levels, levels.new_tensor([1 - 1e-6, 1 + 1e-6])]).sort(descending=True).values
    within, across = ((log_likelihood(D, x, s) - exact).abs().max() for s in (both, levels))
    assert within < 5e-4 and across > 10 * within


def test_random_directions_estimate_it_without_bias_and_are_drawn_by_their_generator(rng):
    world, levels = random_mixture(), exponential(12, 0.3, 30.0)
    x = world.sample(1, generator=rng).expand(2000, -1)
    before = torch.get_rng_state()
    found = log_likelihood(world.denoise, x, levels, probes=1, generator=rng)
    exact = log_likelihood(world.denoise, x[:1], levels)
    assert torch.equal(before, torch.get_rng_state())
    assert found.std() > 0.1 and abs(found.mean() - exact) < 4 * found.std() / 2000**0.5
    many = log_likelihood(world.denoise, x[:200], levels, probes=16, generator=rng)
    assert 3 < found.std() / many.std() < 5  # as 1 / sqrt(probes)


def test_a_network_that_keeps_no_gradient_has_its_divergence_all_the_same(rng):
    """Attention, and pictures: over a small step log p changes by the divergence, by central differences."""
    from dgtoy.dit import VP, DiT

    net = DiT(4, 2, 1, 8, 1, 2, 3).double()
    for p in net.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=rng, dtype=torch.float64)
    D, x = VP(net).denoiser(1), torch.randn(2, 1, 4, 4, generator=rng, dtype=torch.float64)
    axes = torch.eye(16, dtype=torch.float64).reshape(16, 1, 1, 4, 4)
    slopes = [(D(x + 1e-5 * e, 1.0) - D(x - 1e-5 * e, 1.0)) / 2e-5 for e in axes]
    divergence = 16 - sum((slope * e).sum((1, 2, 3)) for slope, e in zip(slopes, axes, strict=True))
    step, levels = 1e-4, torch.tensor([1e-4, 0.0]).double().exp()
    eps = (x + step * (x - D(x, 1.0)) - D(x + step * (x - D(x, 1.0)), levels[0])) / levels[0]
    normal = torch.distributions.Normal(0.0, levels[0])
    prior = normal.log_prob(levels[0] * eps).sum((1, 2, 3))
    found = log_likelihood(as_denoiser(D, "x0"), x, levels)
    close((found - prior) / step, divergence, rtol=1e-2, atol=1e-2)


def test_what_is_no_schedule_or_no_number_of_directions_is_refused():
    world, x = gaussian(), torch.zeros(2, 3, dtype=torch.float64)
    with refuses("sigmas holds 1 level above 0; expected two or more"):
        log_likelihood(world.denoise, x, [1.0, 0.0])
    with refuses("sigmas[1] = 2 follows 1; a schedule must decrease"):
        log_likelihood(world.denoise, x, [1.0, 2.0])
    with refuses("probes is 0"):
        log_likelihood(world.denoise, x, LEVELS, probes=0)


def test_points_that_are_none_or_an_estimate_of_another_shape_are_refused():
    world, x = gaussian(), torch.zeros(2, 3, dtype=torch.float64)
    for bad in (x[0], x[0, 0]):
        with refuses("expected points (B, *D)"):
            log_likelihood(world.denoise, bad, LEVELS)
    with refuses("x holds values that are not finite"):
        log_likelihood(world.denoise, x / 0, LEVELS)
    with refuses("D gives a Tensor of torch.float64, shape (1, 3); expected an estimate of x (2, 3)"):
        log_likelihood(lambda x, sigma: world.denoise(x, sigma)[:1], x, LEVELS)


def test_no_points_have_no_likelihood_and_inference_mode_changes_none():
    world, x, few = gaussian(), torch.zeros(2, 3, dtype=torch.float64), exponential(3, 0.01, 300.0)
    for probes in (None, 2):
        assert log_likelihood(world.denoise, x[:0], few, probes).shape == (0,)
    with torch.inference_mode():
        within = log_likelihood(world.denoise, torch.zeros_like(x), few)
    assert torch.equal(within, log_likelihood(world.denoise, x, few))
