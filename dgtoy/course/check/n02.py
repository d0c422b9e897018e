"""Checks for the exercises of notebook 02: sampling is an ODE."""

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from . import choice, function, normal, number
from .n01 import MU, WORLD, P, S


def _below(x, sigma=0.0):
    """Share of the noisy world below x."""
    return (P @ torch.special.ndtr((x - MU) / (S**2 + sigma**2).sqrt())).item()


@number(rtol=0.03)
def low_start():
    """Which share of the particles ends in the right clump if the start is too low?

    Particles keep their order on the way. Start some that are spread evenly over N(0, 2.5^2), and follow
    them.

    Start from 2.5 * torch.special.ndtri((torch.arange(n) + 0.5) / n), with the levels karras(100, 0.002,
    2.5), and count what ends above 2.
    """
    sigma, edge = 2.5, 2.0
    rank = _below(edge)
    start = brentq(lambda x: _below(x, sigma) - rank, -50, 50)  # the place of this rank in the noisy world
    mean = (P @ MU).item()
    spread = (P @ (S**2 + MU**2)).item() - mean**2 + sigma**2  # variance of noisy data
    noise = sigma * ndtri((np.arange(4000) + 0.5) / 4000)
    once = (WORLD.denoise(torch.from_numpy(noise)[:, None], sigma) > edge).double().mean().item()
    share = ndtr(-start / sigma)
    return share, {
        "that is the share among the data; plain noise is not noisy data, and ranks stay": 1 - rank,
        "that is the share of those that end below 2": 1 - share,
        "that is the share of the noise that starts above 2; the paths bend": ndtr(-edge / sigma),
        "that is the share of noisy data above 2; the share at the end was asked": 1 - _below(edge, sigma),
        "you asked the denoiser once; follow the ODE": once,
        "the start has the wrong centre, but the wrong width as well": ndtr(-mean / sigma - ndtri(rank)),
        "the start has the wrong width, but the wrong centre as well": (
            ndtr(-ndtri(rank) * spread**0.5 / sigma)
        ),
    }


_NOISE = normal(3, 6, 1)
_STEPS = torch.tensor([[2.0, 1.2], [0.5, 0.1], [1.0, 0.0]]).double()


@function(cases=[(*_NOISE[:2], *step, eta, _NOISE[2]) for step in _STEPS for eta in (0.0, 0.5, 1.0)])
def eta_step(x, x0_hat, high, low, eta, eps):
    """One step of the family that leads from Euler's method, eta = 0, to ancestral sampling, eta = 1.

    Variances of independent noise add up. Which variance is left for the old noise?

    The old noise may keep low^2 - tau^2 of its high^2. The fraction is one of standard deviations, so
    take the root.
    """
    full = low * (1 - (low / high) ** 2).sqrt()
    tau = eta * full
    euler, ancestral, right = low / high, (low / high) ** 2, (low**2 - tau**2).sqrt() / high

    def step(keep, noise=tau):
        return x0_hat + keep * (x - x0_hat) + noise * eps

    return step(right), {
        "with Euler's fraction old and new noise together are more than sigma'": step(euler),
        "with ancestral sampling's, old and new noise are less than sigma' where eta < 1": step(ancestral),
        "you subtracted standard deviations; variances add": step((low - tau) / high),
        "the old noise may keep low^2 - tau^2 of its variance, not high^2 - tau^2": step(
            (high**2 - tau**2).sqrt() / high
        ),
        "yours starts from x; it is x0_hat that stays": step(right) + x - x0_hat,
        "tau stands squared, and so does eta in it": step((low**2 - tau * full).sqrt() / high),
        "that is a mean of the two steps; its noise falls short": step((1 - eta) * euler + eta * ancestral),
        "the square root is missing: what is kept is a matter of standard deviations": step(right**2),
        "x - x0_hat has the size sigma, not 1": step(right * high),
        "the new noise does not depend on eta": step(ancestral, full),
        "the new noise has the standard deviation tau; yours is multiplied by tau^2": step(right, tau**2),
        "the new noise is missing": step(right, 0),
    }


@choice
def diagnosis():
    """At which noise levels is a denoiser wrong whose samples fall into the clumps in wrong shares?

    The figure of the paths shows at which level it is decided into which clump a particle falls.

    Once inside a clump a particle stays there. At which level do the paths to the left part from the
    others?
    """
    return "c", dict(
        a="with the exact denoiser the same ODE, as deterministic as here, gave the right shares",
        b="that low every particle has long been inside its clump; look at the figure with the paths",
        d="up there noise dwarfs the data; a wrong guess moves a particle by a small part of its width",
    )


@number(rtol=0.05)
def sharpened():
    """How wide are the samples of one clump when the score is multiplied by k at every level?

    Only the denoiser changes, to x + k (clump(x, sigma) - x). Sample with heun from 40.

    The closed form says it too: the distance from the centre shrinks by (s^2 / (s^2 + sigma_T^2))^(k/2).
    """
    s, k = 0.5, 1.5

    def width(k, sigma_T=40.0):
        return sigma_T * (s**2 / (s**2 + sigma_T**2)) ** (k / 2)

    return width(k), {
        "that is the width of p^k; the ODE multiplies the slope on the whole way by k": s / k**0.5,
        "that is the width of the clump; multiply what the denoiser changes, D - x, by k": s,
        "p^k has the width s / sqrt(k), not s / k; and the ODE ends narrower still": s / k,
        "that is the variance; the standard deviation was asked": width(k) ** 2,
        "that leaves out where the path starts, and here it matters": s**k,
        "that is the result of a start at 400": width(k, 400.0),
        "you have k - 1 where k belongs": width(k - 1),
        "you have 1/k where k belongs": width(1 / k),
    }
