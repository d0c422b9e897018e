"""Checks for the exercises of notebook 02: sampling is an ODE."""

import math

import torch

from . import choice, exercise, function, number
from .n01 import MU, WORLD, S


def _below(x, sigma=0.0):
    """Share of the noisy world below x."""
    return (WORLD.weights @ torch.special.ndtr((x - MU) / (S**2 + sigma**2).sqrt())).item()


def _place(rank, sigma):
    """Where the share below is `rank`, by halving an interval."""
    low, high = -50.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _below(middle, sigma) < rank else (low, middle)
    return low


def _normal_above(x):
    return 0.5 * math.erfc(x / math.sqrt(2))


def _once(edge, sigma):
    """Share of plain noise that a single call of the denoiser sends above the edge."""
    noise = sigma * torch.special.ndtri((torch.arange(4000).double() + 0.5) / 4000)
    return (WORLD.denoise(noise[:, None], sigma) > edge).double().mean().item()


@exercise
def low_start(answer):
    """Which share of the particles ends in the right clump if the start is too low?"""
    sigma, edge = 2.5, 2.0
    rank = _below(edge)
    right = _place(rank, sigma)
    mean = (WORLD.weights @ WORLD.means[:, 0]).item()
    spread = math.sqrt((WORLD.weights @ (S**2 + MU**2)).item() - mean**2)
    share = _normal_above(right / sigma)
    z = torch.special.ndtri(torch.tensor(rank).double()).item()
    return number(
        answer,
        share,
        {
            "that is the share among the data; the start is not distributed like noisy data, and no rank is repaired on the way": 1
            - rank,
            "that is the share of those that end below 2": 1 - share,
            "that is the share of the noise that starts above 2; on the way down the paths bend": _normal_above(
                edge / sigma
            ),
            "that is the share of noisy data above 2, at the level of the start; the share at the end was asked": 1
            - _below(edge, sigma),
            "you asked the denoiser once; follow the ODE": _once(edge, sigma),
            "the start has the wrong centre, but the wrong width as well": _normal_above(mean / sigma + z),
            "the start has the wrong width, but the wrong centre as well": _normal_above(
                z * math.hypot(spread, sigma) / sigma
            ),
        },
        rtol=0.03,
    )


def _eta_step(keep, size=None):
    """A step that keeps the fraction keep(low, high, tau, eta) of x - x0_hat and adds noise of the given size, tau by default."""

    def step(x, x0_hat, high, low, eta, eps):
        tau = eta * low * (1 - (low / high) ** 2).sqrt()
        return (
            x0_hat
            + keep(low, high, tau, eta) * (x - x0_hat)
            + (size(low, high, tau, eta) if size else tau) * eps
        )

    return step


@exercise
def eta_step(answer):
    """One step of the family that leads from Euler's method, eta = 0, to ancestral sampling, eta = 1."""
    g = torch.Generator().manual_seed(0)
    x, x0_hat, eps = torch.randn(3, 6, 1, generator=g, dtype=torch.float64)
    levels = torch.tensor([[2.0, 1.2], [0.5, 0.1], [1.0, 0.0]]).double()
    cases = [(x, x0_hat, high, low, eta, eps) for high, low in levels for eta in (0.0, 0.5, 1.0)]
    right = lambda low, high, tau, eta: (low**2 - tau**2).sqrt() / high
    full = lambda low, high, tau, eta: low * (1 - (low / high) ** 2).sqrt()
    return function(
        answer,
        _eta_step(right),
        cases,
        {
            "with the fraction that Euler keeps, old and new noise together are more than sigma'": _eta_step(
                lambda low, high, tau, eta: low / high
            ),
            "with the fraction that ancestral sampling keeps, old and new noise together are less than sigma' where eta < 1": _eta_step(
                lambda low, high, tau, eta: (low / high) ** 2
            ),
            "you subtracted standard deviations; of independent parts the variances add": _eta_step(
                lambda low, high, tau, eta: (low - tau) / high
            ),
            "that is a mean of the two steps; its noise falls short of sigma' in between": _eta_step(
                lambda low, high, tau, eta: (1 - eta) * low / high + eta * (low / high) ** 2
            ),
            "the square root is missing: what is kept is a matter of standard deviations": _eta_step(
                lambda low, high, tau, eta: (low**2 - tau**2) / high**2
            ),
            "x - x0_hat has the size sigma, not 1": _eta_step(
                lambda low, high, tau, eta: (low**2 - tau**2).sqrt()
            ),
            "the new noise does not depend on eta": _eta_step(
                lambda low, high, tau, eta: (low / high) ** 2, full
            ),
            "the new noise has the variance tau^2 and so the standard deviation tau; yours is multiplied by tau^2": _eta_step(
                right, lambda low, high, tau, eta: tau**2
            ),
            "the new noise is missing": _eta_step(right, lambda low, high, tau, eta: 0.0),
        },
    )


@exercise
def diagnosis(answer):
    """At which noise levels is a denoiser wrong whose samples fall into the clumps in wrong shares?"""
    return choice(
        answer,
        "c",
        {
            "a": "with the exact denoiser the same ODE, as deterministic as here, gave the right shares",
            "b": "that low every particle has long been inside its clump; look at the figure with the paths",
            "d": "that high the noise is far wider than the data, and an error of the guess moves a particle by a small part of its width",
        },
    )


@exercise
def sharpened(answer):
    """How wide are the samples of one clump when the score is multiplied by k at every level?"""
    s, k, sigma_T = 0.5, 1.5, 40.0
    width = lambda k: sigma_T * (s**2 / (s**2 + sigma_T**2)) ** (k / 2)
    return number(
        answer,
        width(k),
        {
            "that is the width of p^k; the ODE multiplies the slope by k at all levels on the way, which is not the same": s
            / math.sqrt(k),
            "that is the width of the clump; multiply what the denoiser changes, D - x, by k": s,
            "that is the variance; the standard deviation was asked": width(k) ** 2,
            "that leaves out where the path starts, and here it matters": s**k,
            "that is the result of a start at 400": 400.0 * (s**2 / (s**2 + 400.0**2)) ** (k / 2),
            "you have k - 1 where k belongs": width(k - 1),
            "you have 1/k where k belongs": width(1 / k),
        },
        rtol=0.05,
    )
