"""Checks for the exercises of notebook 01: what a denoiser knows."""

import functools
import math

import torch

from ...gmm import GaussianMixture
from . import choice, function, number

P, MU, S = torch.tensor([[0.25, 0.45, 0.30], [-3.0, 1.0, 3.0], [0.35, 0.35, 0.20]]).double()
WORLD = GaussianMixture(P, MU[:, None], S[:, None, None] ** 2)


@number(rtol=0.01)
def frequency():
    """How many times as frequent is a noisy 1 as a noisy 3, told from the denoiser alone?

    What does D - x tell about the slope of log p at x? Tweedie's formula has the answer.

    The slope of log p is (D - x) / sigma^2. Integrate it from 1 to 3 with torch.trapezoid, and
    undo the logarithm. Mind which of the two was asked over which.
    """
    sigma, places = 0.7, torch.tensor([[1.0], [3.0]]).double()
    rise, clean = (-WORLD.logp(places, level).diff().item() for level in (sigma, 0.0))
    return math.exp(rise), {
        "that is how frequent a 3 is compared with a 1; the other way round was asked": math.exp(-rise),
        "that is a difference of log densities; the ratio of the densities was asked": rise,
        "that is a difference of log densities, and with the wrong sign": -rise,
        "D - x is not yet the score; Tweedie's formula puts a factor in front": math.exp(rise * sigma**2),
        "you divided by sigma, a standard deviation; its square belongs there": math.exp(rise * sigma),
        "that is the ratio for clean numbers; the noise changes it": math.exp(clean),
        "that is the ratio of the clumps' shares; their widths and the noise count too": (P[1] / P[2]).item(),
    }


DATA = torch.tensor([-2.5, 0.25, 0.5, 1.75, 3.0]).double()[:, None]
PLACES = torch.linspace(-4, 4, 9).double()[:, None]


@function(cases=[(PLACES, sigma, DATA) for sigma in (0.3, 1.0, 3.0)])
def training_set(x, sigma, data):
    """The best denoiser when the data are nothing but a short list of training numbers.

    The best guess is a mean over the training numbers. How probable is each of them, given x?

    By Bayes' rule the weights are in proportion to exp(-(x - x_i)^2 / (2 sigma^2)), and sum to 1 over the
    data.
    """
    square = (x - data.T) ** 2  # (n, m)
    bells = torch.exp(-square / (2 * sigma**2))
    areas = sigma * math.sqrt(2 * math.pi)
    right = bells / bells.sum(1, keepdim=True) @ data
    unscaled = "your weights do not sum to 1 over the training numbers"
    return right, {
        "your bells have sigma for their variance; it is sigma^2": (-square / (2 * sigma)).softmax(1) @ data,
        "your bells are too narrow by a constant factor; look at the exponent of N(x; mu, sigma^2) again": (
            (-square / sigma**2).softmax(1) @ data
        ),
        "the weights should fall with the square of the distance": (-square.sqrt() / sigma).softmax(1) @ data,
        "that is the nearest training number; the others count too": data[square.argmin(1)],
        "it counts all training numbers alike, whatever x is": data.mean(),
        unscaled: bells @ data,
        f"{unscaled}; each bell has the area 1, but that is over x": bells / areas @ data,
        f"{unscaled}; divide by their sum, not by how many there are": bells @ data / len(data),
        f"{unscaled}; a mean over the bells is not yet Bayes' rule": bells / areas @ data / len(data),
        "your weights sum to 1 over the noisy numbers, not over the data": bells / bells.sum(0) @ data,
        "your bells have the width 1 at every level; it is sigma": (-square / 2).softmax(1) @ data,
        "that is x itself; the data do not enter": x,
        "you added the score to x; Tweedie's formula multiplies it by sigma^2": x + (right - x) / sigma**2,
        "that is the score; the denoiser was asked": (right - x) / sigma**2,
    }


@choice
def loss():
    """What two losses at two noise levels tell about two networks.

    Think of a denoiser that needs no training: it returns x itself. What is its loss?

    That loss is sigma^2 in every world: 0.49 at 0.7, and 0.01 at 0.1. Which of the two networks does
    worse?
    """
    return "b", dict(
        a="a larger loss need not be worse: the floor under it differs from level to level",
        c="the floor is unknown, but the loss of one very simple denoiser is known, and that is a bound",
        d="next to noise of variance 0.49 a loss of 0.30 proves nothing",
    )


@functools.cache
def _peaks():
    """Where a world and its left clump differ most, and where by other readings.  -> {reading: sigma}"""
    clump = GaussianMixture([1.0], MU[:1, None], S[:1, None, None] ** 2)
    levels = torch.logspace(-1, 1, 81, dtype=torch.float64)
    found = []
    for sigma in levels.tolist():
        x = torch.linspace(-4 - 4 * sigma, 4 + 4 * sigma, 1001).double()[:, None]
        square = (clump.score(x, sigma) - WORLD.score(x, sigma))[:, 0] ** 2
        noisy = clump.logp(x, sigma).softmax(0) @ square
        world, clean = (m.softmax(0) @ square for m in (WORLD.logp(x, sigma), clump.logp(x)))
        found.append([sigma**2 * noisy, noisy, sigma**2 * world, sigma**2 * clean])
    peaks = levels[torch.tensor(found).argmax(0)].tolist()
    return dict(zip(("right", "score", "world", "clean"), peaks, strict=True))


@number(rtol=0.15)
def clump_level():
    """At which noise level do the world and its left clump disagree most?

    At low noise there is no doubt which clump a number came from. From which level on is there?

    Doubt begins where the noise is as wide as half the way to the next clump. Go through a grid of
    levels, with noisy numbers of the left clump, and take the level of the largest difference.
    """
    at = _peaks()
    return at["right"], {
        "far up the denoisers differ, but little beside noise of that size; divide by sigma": (20, math.inf),
        "there the scores differ most; in units of the noise a score is multiplied by sigma": at["score"],
        "there they differ most for noisy numbers of the whole world, and it is about the width of the clump,"
        " where the next one is still far away": at["world"],
        "there they differ most at clean numbers; compare at numbers with noise of level sigma": at["clean"],
        "that is the whole distance to the next clump": (MU[1] - MU[0]).item(),
    }
