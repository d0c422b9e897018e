"""Checks for the exercises of notebook 03: what guidance really samples."""

import math

import torch

from . import choice, exercise, function, number


@exercise
def half_width(answer):
    """Which weight makes the guided samples half as wide as the target?"""
    s_S, s_T = 2.0, 0.5
    wanted = 1 / (s_T / 2) ** 2  # one over the variance that is asked for
    right = 1 + math.log(2) / math.log(s_S / s_T)
    return number(
        answer,
        right,
        {
            "with that weight the tilted density is half as wide; the samples are not distributed like it": (
                wanted - 1 / s_S**2
            )
            / (1 / s_T**2 - 1 / s_S**2),
            "guidance is off at w = 1, not at w = 0; below 1 the samples are wider than the target": right
            - 1,
            "with that weight the variance is halved; the standard deviation was asked": 1
            + math.log(2) / 2 / math.log(s_S / s_T),
            "with that weight the samples narrow by the full ratio of the widths": 2.0,
            "with that weight you halve once too often; w = 1 is the target itself": right + 1,
        },
        rtol=0.01,
    )


@exercise
def exactly(answer):
    """For which two Gaussians do guided samples follow the tilted density exactly?"""
    return choice(
        answer,
        "d",
        {
            "a": "there the two means of the variances, harmonic and geometric, differ most",
            "b": "a perfect solver ends where the ODE ends, and that is not the tilted density",
            "c": "tilting sums up 1/variance, blurring adds to the variance; ask when the order of the two makes no difference",
        },
    )


def _needed(score_of, models=lambda v, sigma: v + sigma**2, s_S=3.0, s_T=0.3, w=2.0):
    """The weight of the main model that gives the combined score -x score_of(v, sigma), v the variance of the tilted density."""
    v = 1 / ((1 - w) / s_S**2 + w / s_T**2)

    def weight(sigma):
        guide, main = 1 / models(s_S**2, sigma), 1 / models(s_T**2, sigma)
        return (score_of(v, sigma) - guide) / (main - guide)

    return weight


@exercise
def weight(answer):
    """The weight at each noise level with which guided samples of two Gaussians do follow the tilted density."""
    right = _needed(lambda v, sigma: 1 / (v + sigma**2))
    root = lambda v, sigma: (v + sigma**2) ** 0.5
    return function(
        answer,
        right,
        [(torch.logspace(-2, 1.5, 15, dtype=torch.float64),)],
        {
            "a constant weight narrows the samples too much, as in the figures": lambda sigma: (
                2.0 + 0 * sigma
            ),
            "the weight 1 is no guidance at all": lambda sigma: 1.0 + 0 * sigma,
            "the tilted density has to be blurred as well, it comes without noise in yours": _needed(
                lambda v, sigma: 1 / v
            ),
            "the two models have to be blurred as well, they come without noise in yours": _needed(
                lambda v, sigma: 1 / (v + sigma**2), lambda v, sigma: v
            ),
            "the score of a Gaussian has its variance below the line, yours has the standard deviation": _needed(
                lambda v, sigma: 1 / root(v, sigma), root
            ),
            "blurring adds sigma^2 to a variance; you add sigma": _needed(
                lambda v, sigma: 1 / (v + sigma), lambda v, sigma: v + sigma
            ),
            "that is the weight of the guide; w is the weight of the main model": lambda sigma: (
                1 - right(sigma)
            ),
            "it is off by one: w = 1 is no guidance, not w = 0": lambda sigma: right(sigma) - 1,
            "you divided the wrong way round: the difference of the two models stands below the line": lambda sigma: (
                1 / right(sigma)
            ),
            "that is where the samples are to go, less the guide; the step from guide to main model is missing below the line": lambda sigma: (
                1 / (1 / (-1 / 9 + 2 / 0.09) + sigma**2) - 1 / (9 + sigma**2)
            ),
        },
        rtol=1e-3,
    )
