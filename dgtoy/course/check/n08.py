"""Checks for the exercises of notebook 08: where guidance fails, and whether one could have known."""

import functools

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import ndtri

from ... import metrics, theory
from ...gmm import GaussianMixture
from ...guidance import domain_guidance
from ...samplers import heun, last
from ..experiments.gap import EDGE, moments, share_outside
from ..lab import PointSetting
from . import choice, function, normal, number

TAIL = ndtri(0.99)


@number(rtol=0.01)
def how_far():
    """How far may the target lie from a broad source before guidance leaves it?

    theory.gaussian_guidance gives the mean and the width of the samples. Which share lies beyond the
    target's edges?

    The edges are 2.576 target widths from the target's mean. Halve an interval of distances until a share
    of 0.01 lies outside.
    """
    s_T, s_S, w = 0.5, 2.0, 1.5

    def limit(w):
        """The distance between the means at which a share of 0.01 lies outside."""
        return brentq(lambda d: share_outside((d, s_T), (0.0, s_S), w) - 0.01, 1e-3, 1e3)

    right = limit(w)
    mean, std = theory.gaussian_guidance((1.0, s_T), (0.0, s_S), w)
    factor = mean - 1  # overshoot at a distance of 1
    return right, {
        "there the mean itself reaches the edge, and half are outside; ask where 1% are": EDGE * s_T / factor,
        "your edge leaves 1% on the far side alone; take 0.5% beyond either": TAIL * (s_T - std) / factor,
        "the distance is asked as it is, not in widths of the source": right / s_S,
        "the distance is asked as it is, not in widths of the target": right / s_T,
        "that is the edge of the source; being outside it does no harm yet": EDGE * s_S,
        "you took w - 1 for the overshoot's factor; that needs equal widths": right * factor / (w - 1),
        "that is the overshoot itself; the distance between the means was asked": right * factor,
        "you forgot that the samples narrow; that protects": (EDGE - TAIL) * s_T / factor,
        "your samples are too narrow: the exponent of the ratio of widths is w - 1, not w": (
            (EDGE - TAIL * (s_T / s_S) ** w) * s_T / factor
        ),
        "that is what a weight of 2 allows; here it is 1.5": limit(2.0),
        "that is the target's own edge, seen from its mean; how far may the mean lie from the source?": (
            EDGE * s_T
        ),
        "there the edges of source and target touch; ask where the guided samples end": EDGE * (s_S + s_T),
    }


_ROOT = normal(3, 2, 2)
_MIXTURE = GaussianMixture(normal(3).softmax(0), 3 * normal(3, 2), _ROOT @ _ROOT.mT + 0.1 * torch.eye(2))


@function(cases=[(_MIXTURE, 3 * normal(7, 2), sigma) for sigma in (0.3, 2.0)])
def only_breadth(mixture, x, sigma):
    """A guide that knows of a mixture nothing but its mean and its covariance.

    The covariance of a mixture has two parts: within its components, and between their means.

    It is the sum of p_k (C_k + (m_k - m)(m_k - m)^T). A GaussianMixture of one component does the rest.
    """
    p, means, covs = mixture.weights, mixture.means, mixture.covs
    mean = p @ means
    within = torch.einsum("k,kij->ij", p, covs)
    cov = within + torch.cov(means.T, correction=0, aweights=p)

    def bell(mean=mean, cov=cov, sigma=sigma):
        return GaussianMixture([1.0], mean[None], cov[None]).denoise(x, sigma)

    return bell(), {
        "the spread of the components' means is missing: it belongs to the covariance": bell(cov=within),
        "the spread within the components is missing: it belongs to the covariance": bell(cov=cov - within),
        "you made it round; a covariance tells the directions apart": (
            bell(cov=cov.trace() / 2 * torch.eye(2, dtype=cov.dtype))
        ),
        "the covariance is about the mean; yours is about 0": bell(cov=cov + mean.outer(mean)),
        "your guide is centred at 0; the mixture has a mean of its own": bell(mean=0 * mean),
        "the components do not count alike: weigh them": (
            bell(means.mean(0), covs.mean(0) + torch.cov(means.T, correction=0))
        ),
        "you took the widths along the axes; a covariance also has entries off the diagonal": (
            bell(cov=cov.diagonal().diag())
        ),
        "noise of level sigma adds sigma^2 to the variance; yours adds sigma": bell(sigma=sigma**0.5),
        "that is the score; the denoiser was asked": (bell() - x) / sigma**2,
        "that is the exact denoiser of the mixture, which knows every component": mixture.denoise(x, sigma),
    }


@choice
def control():
    """What two control guides say about why guidance by the pre-trained model helps.

    Read each column on its own. In which of the two do the guides differ?

    Breadth lowers the rate of any guide. What does only the pre-trained model know?
    """
    return "b", dict(
        a="that looks at one measure only; in the other one the guides differ",
        c="breadth narrows samples and moves the rate; what else could have lowered the energy distance?",
        d="an untrained network is the exact denoiser of a round Gaussian, and such a guide has an effect",
    )


@functools.cache
def _thrown():
    """Out-of-domain rate at gap 2 of exact DoG up to sigma = 2, and of the closed form."""
    setting = PointSetting(gap=2.0)
    world, sigmas = setting.world(), setting.sigmas()
    w, interval = 1.5, (0.0, 2.0)
    x_T = sigmas[0] * torch.randn(1000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    measured, promised = [], []
    for c in (0, 1):
        moon = world.target.given(c)
        guided = domain_guidance(moon.denoise, world.source.denoise, w, interval=interval)
        x0 = last(heun(guided, x_T, sigmas))
        measured.append(metrics.out_of_domain(x0, moon).item())
        promised.append(share_outside(moments(moon), moments(world.source), w, interval))
    return np.mean(measured), np.mean(promised)


@number(rtol=0.06)
def rescue():
    """Does an interval of noise levels rescue a target far outside the source?

    Do what the text says: sample both moons with exact denoisers, guided up to sigma = 2, and count.

    domain_guidance takes interval=(0, 2), and metrics.out_of_domain counts for one moon. Then take the
    mean of the two.
    """
    measured, promised = _thrown()
    return measured, {
        "nearly all leave if guidance acts at all levels, or main model and guide are swapped": (0.95, 1.0),
        "none leave if the guide is a Gaussian; take the exact denoiser of the source": 0.0,
        "as few leave without guidance, or with guidance above sigma = 2 instead of below": (0.007, 0.03),
        "that is what the closed form promises; measure it with the exact denoisers": promised,
        "that is the share that stays inside": 1 - measured,
    }
