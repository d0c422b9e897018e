"""Networks of other projects as denoisers, by stand-ins that have their interfaces and the exact answer for a
Gaussian in them.
"""

import numpy as np
import pytest
import torch
from helpers import refuses

from dgtoy import ancestral, domain_guidance, dpmpp_2m, euler, heun, karras, last, vp
from dgtoy.interop import as_denoiser

close = torch.testing.assert_close
MEAN, STD = 0.7, 0.5


def exact(x, sigma):
    """The denoiser of N(MEAN, STD^2 I).  x (B, C, H, W), sigma (B, 1, 1, 1)"""
    return MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN)


def column(v):
    return v.reshape(-1, 1, 1, 1)


class KDiffusion(torch.nn.Module):
    """k-diffusion's Denoiser: forward(input, sigma (B,), **kwargs) -> x0_hat."""

    def forward(self, input, sigma, class_cond=None):
        assert sigma.shape == (len(input),) and (class_cond == 3).all()
        return exact(input, column(sigma))


class EDM2(torch.nn.Module):
    """EDM2's Precond: forward(x, sigma, class_labels) -> x0_hat, in float32 whatever comes in."""

    def forward(self, x, sigma, class_labels=None):
        assert class_labels.shape == (1, 10)
        return exact(x.float(), column(sigma.float()))


class SmallDiffusion(torch.nn.Module):
    """smalldiffusion's ModelMixin: forward(x, sigma, cond) -> eps of x = x0 + sigma eps."""

    def forward(self, x, sigma, cond=None):
        return (x - exact(x, column(sigma))) / column(sigma)


class OfficialDiT(torch.nn.Module):
    """The official DiT: forward(x, t, y) -> eps and variance of x_t = sqrt(abar) x0 + sqrt(1 - abar) eps."""

    def forward(self, x, t, y):
        assert t.shape == y.shape == (len(x),) and (t >= 0).all() and (t <= 999).all()
        log_sigmas = vp.Process().sigmas.log().numpy()
        sigma = column(torch.as_tensor(np.interp(t, np.arange(1000), log_sigmas)).exp()).to(x)
        x = x * (1 + sigma**2).sqrt()
        eps = (x - exact(x, sigma)) / sigma
        return torch.cat([eps, torch.zeros_like(eps)], 1)


class OfficialSiT(torch.nn.Module):
    """The official SiT, x_t = t x0 + (1 - t) eps: forward(x, t, y) -> dx/dt = x0 - eps."""

    def forward(self, x, t, y):
        t = column(t)
        sigma = (1 - t) / t
        D = exact(x / t, sigma)
        return D - (x / t - D) / sigma


class Velocity(torch.nn.Module):
    """v = (eps - sigma x0) / sqrt(1 + sigma^2) of x_t = x / sqrt(1 + sigma^2), with ln sigma for time."""

    def forward(self, x, t):
        sigma = column(t.exp())
        scale = (1 + sigma**2).sqrt()
        D = exact(scale * x, sigma)
        return ((scale * x - D) / sigma - sigma * D) / scale


def wrapped(name, n):
    y = torch.full((n,), 3)
    sit = OfficialSiT()
    return dict(
        kdiffusion=lambda: as_denoiser(KDiffusion(), "x0", class_cond=y),
        edm2=lambda: as_denoiser(EDM2(), "x0", class_labels=torch.zeros(1, 10)),
        smalldiffusion=lambda: as_denoiser(SmallDiffusion(), "epsilon"),
        dit=lambda: as_denoiser(OfficialDiT(), "epsilon", vp.sigma_to_t, y=y),
        sit=lambda: as_denoiser(lambda x, t, y: -sit(x, 1 - t, y), "flow", y=y),
        velocity=lambda: as_denoiser(Velocity(), "v_prediction", torch.log),
        timed=lambda: as_denoiser(lambda x, sigma: Velocity()(x, sigma.log()), "v_prediction"),
    )[name]()


NAMES = ["kdiffusion", "edm2", "smalldiffusion", "dit", "sit", "velocity", "timed"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_networks_of_other_projects_are_denoisers(name, dtype):
    x = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=dtype).requires_grad_(True)
    D = wrapped(name, 4)
    for sigma in (0.05, torch.tensor(1.0), torch.tensor([0.1, 0.5, 2.0, 30.0])):
        found = D(x, sigma)
        level = torch.as_tensor(sigma, dtype=dtype).expand(4)
        assert found.dtype == dtype and not found.requires_grad
        close(found, exact(x.detach(), column(level)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_their_samplers_and_ours_draw_the_same_picture(name):
    """k-diffusion's Euler and Heun: d = (x - D) / sigma, x + d dsigma, and the mean of d at both ends."""
    D, sigmas = wrapped(name, 2), karras(8, 0.05, 20.0).double()
    x_T = sigmas[0] * torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    by_euler = by_heun = x_T
    for s, r in zip(sigmas[:-1], sigmas[1:], strict=True):
        d = (by_euler - D(by_euler, s)) / s
        by_euler = by_euler + d * (r - s)
        d = (by_heun - D(by_heun, s)) / s
        there = by_heun + d * (r - s)
        if r > 0:
            d = (d + (there - D(there, r)) / r) / 2
        by_heun = by_heun + d * (r - s)
    close(last(euler(D, x_T, sigmas)), by_euler, rtol=1e-5, atol=1e-5)
    close(last(heun(D, x_T, sigmas)), by_heun, rtol=1e-5, atol=1e-5)


def test_sits_own_euler_with_the_guide_in_velocities_is_domain_guidance_on_denoisers():
    """u_pre + w (u_ft - u_pre), stepped from t = 0.05 to the data at t = 1, of two SiTs with labels."""

    def sit(seed):
        mix = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(seed))
        return lambda x, t, y: torch.einsum("bij,bjhw->bihw", mix[y], x).sin() - column(t) * x

    pretrained, finetuned, y, null = sit(1), sit(2), torch.tensor([0, 0]), torch.tensor([1, 1])
    times, w = torch.linspace(0.05, 1, 9), 1.5
    noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x = noise
    for t, s in zip(times[:-1], times[1:], strict=True):
        guide, main = pretrained(x, t.expand(2), null), finetuned(x, t.expand(2), y)
        x = x + (s - t) * (guide + w * (main - guide))
    D_pre, D_ft = (
        as_denoiser(lambda x, t, y, u=u: -u(x, 1 - t, y), "flow", y=label)
        for u, label in ((pretrained, null), (finetuned, y))
    )
    D = domain_guidance(D_ft, D_pre, w=w)
    close(last(euler(D, noise / times[0], (1 - times) / times)), x, rtol=1e-4, atol=1e-4)


def test_the_samplers_of_k_diffusion_are_ours():
    """sample_dpmpp_2m, sample_dpmpp_2m_sde (midpoint) and sample_euler_ancestral, as published."""
    D, sigmas = wrapped("kdiffusion", 2), karras(8, 0.05, 20.0).double()
    x_T = sigmas[0] * torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    seeds = lambda: torch.Generator().manual_seed(1)
    g, x = seeds(), x_T
    for s, r in zip(sigmas[:-1], sigmas[1:], strict=True):
        sigma_up = min(r, (r**2 * (s**2 - r**2) / s**2) ** 0.5)
        sigma_down = (r**2 - sigma_up**2) ** 0.5
        x = x + (x - D(x, s)) / s * (sigma_down - s)
        if r > 0:
            x = x + torch.randn(x.shape, generator=g, dtype=x.dtype) * sigma_up
    close(last(ancestral(D, x_T, sigmas, seeds())), x, rtol=1e-5, atol=1e-5)
    for eta in (0.0, 1.0):
        g, x, old, h_last = seeds(), x_T, None, None
        for s, r in zip(sigmas[:-1], sigmas[1:], strict=True):
            denoised = D(x, s)
            if r == 0:
                x = denoised
                continue
            h = s.log() - r.log()
            eta_h = eta * h
            x = r / s * (-eta_h).exp() * x + (-h - eta_h).expm1().neg() * denoised
            if old is not None:
                x = x + 0.5 * (-h - eta_h).expm1().neg() * (h / h_last) * (denoised - old)
            if eta:
                noise = torch.randn(x.shape, generator=g, dtype=x.dtype)
                x = x + noise * r * (-2 * eta_h).expm1().neg().sqrt()
            old, h_last = denoised, h
        close(last(dpmpp_2m(D, x_T, sigmas, eta=eta, generator=seeds())), x, rtol=1e-5, atol=1e-5)


def test_smalldiffusions_ddim_is_our_euler():
    """x + (sigma' - sigma) eps, its deterministic sampler at gamma = 1, mu = 0."""
    net, sigmas = SmallDiffusion(), karras(8, 0.05, 20.0).float()
    x = x_T = 20.0 * torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for s, r in zip(sigmas[:-1], sigmas[1:], strict=True):
        x = x - (s - r) * net(x, s)
    close(last(euler(as_denoiser(net, "epsilon"), x_T, sigmas)), x, rtol=1e-5, atol=1e-5)


def test_a_network_in_half_precision_sees_its_own_dtype_and_the_level_in_full():
    seen = {}

    class Half(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))

        def forward(self, x, sigma):
            seen.update(x=x.dtype, sigma=sigma)
            return x

    found = as_denoiser(Half(), "x0")(torch.ones(2, 1, 2, 2), 1.2345678)
    assert seen["x"] == torch.bfloat16 and found.dtype == torch.float32
    close(seen["sigma"], torch.full((2,), 1.2345678))


def test_another_prediction_is_refused():
    with refuses("predicts is score; expected x0, epsilon, v_prediction or flow"):
        as_denoiser(SmallDiffusion(), "score")


@pytest.mark.parametrize("out", (lambda x: x[:, :1], lambda x: x[:1], lambda x: (x,)))
def test_an_output_of_another_shape_is_not_broadcast(out):
    D = as_denoiser(lambda x, t: out(x), "epsilon")
    with refuses("net gives", "expected an estimate of x (2, 3, 4, 4)"):
        D(torch.ones(2, 3, 4, 4), 1.0)
