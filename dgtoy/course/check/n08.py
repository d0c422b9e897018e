"""Checks for the exercises of notebook 08: where guidance fails, and whether one could have known."""

import functools

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.stats import norm

from ... import metrics, theory
from ...gmm import GaussianMixture
from ...guidance import domain_guidance
from ...samplers import heun, last
from ..experiments.gap import moments
from ..lab import Setting
from . import choice, exercise, function, number

REACH = norm.ppf(0.995)


def _outside(target, source, w, interval=(0.0, np.inf), sides=2, cut=REACH):
    """Share of the guided Gaussian beyond `cut` target stds of the target's mean; with sides=1 on the far side alone."""
    mean, std = theory.gaussian_guidance(target, source, w, interval)
    shift, edge = mean - target[0], cut * target[1]
    return norm.sf((edge - shift) / std) + (norm.cdf((-edge - shift) / std) if sides == 2 else 0)


def _limit(s_T, s_S, w, **reading):
    """The distance between the means at which a share of 0.01 lies outside."""
    return brentq(lambda d: _outside((d, s_T), (0.0, s_S), w, **reading) - 0.01, 1e-3, 1e3)


@exercise
def how_far(answer):
    """How far may the target lie from a broad source before guidance leaves it?"""
    s_T, s_S, w = 0.5, 2.0, 1.5
    right, tail = _limit(s_T, s_S, w), norm.ppf(0.99)
    factor = theory.gaussian_guidance((1.0, s_T), (0.0, s_S), w)[0] - 1  # overshoot at a distance of 1
    return number(
        answer,
        right,
        {
            "there the mean itself reaches the edge, and half of the samples are outside; ask for the distance at which 1% are": REACH
            * s_T
            / factor,
            "your edge leaves 1% of the target on the far side alone; outside is what lies beyond either edge, 0.5% each": _limit(
                s_T, s_S, w, sides=1, cut=tail
            ),
            "the distance is asked as it is, not in widths of the source": right / s_S,
            "the distance is asked as it is, not in widths of the target": right / s_T,
            "that is the edge of the source; being outside it does no harm yet": REACH * s_S,
            "you took w - 1 for the overshoot; that is its factor only if the source is as wide as the target": right
            * factor
            / (w - 1),
            "that is the overshoot itself; the distance between the means was asked": right * factor,
            "you forgot that the samples are narrower than the target; that protects": (REACH - tail)
            * s_T
            / factor,
            "your samples are too narrow: the exponent of the ratio of widths is w - 1, not w": (
                REACH - tail * (s_T / s_S) ** w
            )
            * s_T
            / factor,
            "that is what a weight of 2 allows; here it is 1.5": _limit(s_T, s_S, 2.0),
        },
        rtol=0.01,
    )


def _bell(
    spread=True, centred=True, equal=False, diagonal=False, mean=True, use=lambda m, x, s: m.denoise(x, s)
):
    """The denoiser of a mixture's Gaussian, with one part of its two moments replaced."""

    def D(mixture, x, sigma):
        p = torch.full_like(mixture.weights, 1 / len(mixture.weights)) if equal else mixture.weights
        mu = p @ mixture.means
        off = mixture.means - centred * mu
        cov = torch.einsum("k,kij->ij", p, mixture.covs + spread * off[:, :, None] * off[:, None, :])
        cov = torch.diag(cov.diagonal()) if diagonal else cov
        return use(GaussianMixture([1.0], mean * mu[None], cov[None]), x, sigma)

    return D


@exercise
def only_breadth(answer):
    """A guide that knows of a mixture nothing but its mean and its covariance."""
    g = torch.Generator().manual_seed(0)
    root = torch.randn(3, 2, 2, generator=g, dtype=torch.float64)
    mixture = GaussianMixture(
        torch.tensor([0.2, 0.3, 0.5]),
        torch.tensor([[2.0, -1.0], [-1.0, 3.0], [1.5, 1.0]]).double(),
        root @ root.mT + 0.1 * torch.eye(2),
    )
    x = 3 * torch.randn(7, 2, generator=g, dtype=torch.float64)
    return function(
        answer,
        _bell(),
        [(mixture, x, sigma) for sigma in (0.3, 2.0)],
        {
            "the spread of the components' means is missing: it belongs to the covariance of the mixture": _bell(
                spread=False
            ),
            "the covariance is about the mean; yours is about 0": _bell(centred=False),
            "your guide is centred at 0; the mixture has a mean of its own": _bell(mean=False),
            "the components do not count alike: weigh them": _bell(equal=True),
            "you took the widths along the axes alone; a covariance has entries off the diagonal too": _bell(
                diagonal=True
            ),
            "noise of level sigma adds sigma^2 to the variance; yours adds sigma": _bell(
                use=lambda m, x, s: m.denoise(x, s**0.5)
            ),
            "that is the score; the denoiser was asked": _bell(use=lambda m, x, s: m.score(x, s)),
            "that is the exact denoiser of the mixture, which knows every component": lambda mixture, x, sigma: (
                mixture.denoise(x, sigma)
            ),
        },
    )


@exercise
def control(answer):
    """What two control guides say about why guidance by the ancestor helps."""
    return choice(
        answer,
        "b",
        {
            "a": "that looks at one measure only; in the other one the guides differ",
            "c": "breadth narrows samples and so moves the rate; ask what could have lowered the energy distance, which a finished model pays with",
            "d": "a network that was never trained is the exact denoiser of a round Gaussian, and such a guide has an effect",
        },
    )


@functools.cache
def _thrown():
    """Out-of-domain rate at gap 2 with exact denoisers and DoG up to sigma = 2, and what the closed form says.  -> measured, promised"""
    setting = Setting(gap=2.0)
    world, sigmas = setting.world(), setting.sigmas()
    moons = [world.target.given(c) for c in (0, 1)]
    x_T = sigmas[0] * torch.randn(1000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ends = [
        last(heun(domain_guidance(m.denoise, world.source.denoise, 1.5, interval=(0.0, 2.0)), x_T, sigmas))
        for m in moons
    ]
    return (
        np.mean([metrics.out_of_domain(x0, m).item() for x0, m in zip(ends, moons)]),
        np.mean([_outside(moments(m), moments(world.source), 1.5, (0.0, 2.0)) for m in moons]),
    )


@exercise
def rescue(answer):
    """Does an interval of noise levels rescue a target far outside the source?"""
    measured, promised = _thrown()
    came = float(answer)
    if 0.95 <= came <= 1:
        return f"yours is {came:.3g}: nearly all leave if guidance acts at all levels, or if main model and guide are swapped"
    if came == 0:
        return "yours is 0: none leave if the guide is a Gaussian; take the exact denoiser of the source"
    if 0.007 < came < 0.03:
        return f"yours is {came:.3g}: as few as that leave without guidance, or with guidance above sigma = 2 instead of below"
    return number(
        came,
        measured,
        {
            "that is what the closed form promises; measure it with the exact denoisers": promised,
            "that is the share that stays inside": 1 - measured,
            "that is a percentage; a share was asked": 100 * measured,
        },
        rtol=0.06,
    )
