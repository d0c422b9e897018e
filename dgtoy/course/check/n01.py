"""Checks for the exercises of notebook 01: what a denoiser knows."""

import functools
import math

import torch

from ...gmm import GaussianMixture
from . import choice, exercise, function, number

MU, S = torch.tensor([-3.0, 1.0, 3.0]).double(), torch.tensor([0.35, 0.35, 0.20]).double()
WORLD = GaussianMixture(torch.tensor([0.25, 0.45, 0.30]).double(), MU[:, None], S[:, None, None] ** 2)


@exercise
def frequency(answer):
    """How many times as frequent is a noisy 1 as a noisy 3, told from the denoiser alone?"""
    sigma, places = 0.7, torch.tensor([[1.0], [3.0]]).double()
    rise = (WORLD.logp(places, sigma) @ torch.tensor([1.0, -1.0]).double()).item()
    clean = (WORLD.logp(places) @ torch.tensor([1.0, -1.0]).double()).item()
    return number(
        answer,
        math.exp(rise),
        {
            "that is how frequent a 3 is compared with a 1; the other way round was asked": math.exp(-rise),
            "that is a difference of log densities; the ratio of the densities was asked": rise,
            "that is a difference of log densities, and with the wrong sign": -rise,
            "D - x is not yet the score; Tweedie's formula has a factor in front of the score": math.exp(
                rise * sigma**2
            ),
            "you divided by sigma, the standard deviation of the noise, where its variance belongs": math.exp(
                rise * sigma
            ),
            "that is the ratio for clean numbers; the noise changes it": math.exp(clean),
        },
        rtol=0.01,
    )


@exercise
def training_set(answer):
    """The best denoiser when the data are nothing but a short list of training numbers."""

    def weighted(exponent, dim=-1):
        return lambda x, sigma, data: exponent(x - data.T, sigma).softmax(dim) @ data

    right = weighted(lambda d, sigma: -(d**2) / (2 * sigma**2))
    x = torch.linspace(-4, 4, 9).double()[:, None]
    data = torch.tensor([-2.5, 0.25, 0.5, 1.75, 3.0]).double()[:, None]
    return function(
        answer,
        right,
        [(x, sigma, data) for sigma in (0.3, 1.0, 3.0)],
        {
            "your bell curves have sigma for their variance; noise of level sigma has the variance sigma^2": weighted(
                lambda d, sigma: -(d**2) / (2 * sigma)
            ),
            "your bell curves are too narrow by a constant factor; look at the exponent of N(x; mu, sigma^2) again": weighted(
                lambda d, sigma: -(d**2) / sigma**2
            ),
            "the weights should fall with the square of the distance": weighted(
                lambda d, sigma: -d.abs() / sigma
            ),
            "it answers with the nearest training number; the others count too, each by how likely it is": lambda x, sigma, data: (
                data[(x - data.T).abs().argmin(1)]
            ),
            "it counts all training numbers alike, whatever x is": lambda x, sigma, data: data.mean().expand(
                len(x), 1
            ),
            "your weights do not sum to 1 over the training numbers": lambda x, sigma, data: (
                torch.exp(-((x - data.T) ** 2) / (2 * sigma**2)) @ data
            ),
            "your weights sum to 1 over the noisy numbers; for each of these they must over the training numbers": weighted(
                lambda d, sigma: -(d**2) / (2 * sigma**2), dim=0
            ),
            "that is the score; the denoiser was asked": lambda x, sigma, data: (
                (right(x, sigma, data) - x) / sigma**2
            ),
        },
    )


@exercise
def loss(answer):
    """What two losses at two noise levels tell about two networks."""
    return choice(
        answer,
        "b",
        {
            "a": "a larger loss need not be worse: the floor under it differs from level to level",
            "c": "the floor is unknown, but the loss of one very simple denoiser is known, and that is a bound",
            "d": "next to noise of variance 0.49 a loss of 0.30 proves nothing",
        },
    )


@functools.cache
def _peaks():
    """Where a world and its left clump differ most, and where one lands by other readings.  -> {reading: sigma}"""
    clump = GaussianMixture(torch.ones(1).double(), MU[:1, None], S[:1, None, None] ** 2)
    levels = torch.logspace(-1, 1, 81, dtype=torch.float64)
    found = {"right": [], "score": [], "world": [], "clean": []}
    for sigma in levels.tolist():
        x = torch.linspace(-4 - 4 * sigma, 4 + 4 * sigma, 1001).double()[:, None]
        square = (clump.score(x, sigma) - WORLD.score(x, sigma))[:, 0] ** 2
        blurred, whole, clean = (
            p.softmax(0) @ square for p in (clump.logp(x, sigma), WORLD.logp(x, sigma), clump.logp(x))
        )
        for name, value in zip(found, (sigma**2 * blurred, blurred, sigma**2 * whole, sigma**2 * clean)):
            found[name].append(value)
    return {name: levels[torch.stack(values).argmax()].item() for name, values in found.items()}


@exercise
def clump_level(answer):
    """At which noise level do the world and its left clump disagree most?"""
    at = _peaks()
    if 20 < float(answer) < math.inf:
        return f"yours is {float(answer):.4g}: far up the denoisers differ, but beside noise of that size it is nothing; divide by sigma"
    return number(
        answer,
        at["right"],
        {
            "there the scores differ most; in units of the noise a score is multiplied by sigma": at["score"],
            "there they differ most for noisy numbers of the whole world; numbers of the left clump were asked": at[
                "world"
            ],
            "there they differ most at clean numbers; the numbers to compare at have noise of level sigma": at[
                "clean"
            ],
            "that is the whole distance to the next clump": (MU[1] - MU[0]).item(),
            "that is the width of the clump; at that level the next clump is still far away": S[0].item(),
        },
        rtol=0.15,
    )
