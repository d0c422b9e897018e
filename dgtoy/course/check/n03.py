"""Checks for the exercises of notebook 03: what guidance really samples."""

import math

import torch

from . import choice, function, number


@number(rtol=0.01)
def same_width():
    """Which weight on an interval narrows the samples as much as w = 2 does at all levels?

    The logarithm of the width falls by w - 1 times an area below the hill. How much of that area
    lies in the interval?

    With R^2 = (s_T^2 + sigma^2) / (s_S^2 + sigma^2) the share is (ln R(0.25) - ln R(2)) / ln R(0), and w
    - 1 times the share has to be 1.
    """
    source, target, low, high = 2.0**2, 0.5**2, 0.25**2, 2.0**2  # variances

    def share(low, high):
        """The part of the whole narrowing, in logarithms, that falls between two noise variances."""
        log_ratio = [math.log((target + v) / (source + v)) for v in (low, high)]
        return (log_ratio[0] - log_ratio[1]) / math.log(target / source)

    kept = share(low, high)
    right = 1 + 1 / kept
    return right, {
        "that is the weight for all levels; on an interval guidance narrows less": 2.0,
        "the share counts for w - 1, not for w: at w = 1 guidance is off": 2 / kept,
        "on an interval guidance narrows less, so the weight must grow": 1 + kept,
        "that is the share of the narrowing that the interval keeps; the weight was asked": kept,
        "it is off by one: w = 1 is no guidance, not w = 0": 1 / kept,
        "the floor of the interval is missing: guidance is off below 0.25 too": 1 + 1 / share(0.0, high),
        "the ceiling of the interval is missing: guidance is off above 2 too": 1 + 1 / share(low, 1e12),
        "blurring adds sigma^2 to a variance; you add sigma": 1 + 1 / share(low**0.5, high**0.5),
    }


@choice
def exactly():
    """For which two Gaussians do guided samples follow the tilted density exactly?

    Samples leave the tilted density because tilting and blurring do not commute. When do they?

    Tilting adds 1/variance, with the weights 1 - w and w. What becomes of two variances that are equal?
    """
    return "d", dict(
        a="there the two means of the variances, harmonic and geometric, differ most",
        b="a perfect solver ends where the ODE ends, and that is not the tilted density",
        c="tilting adds 1/variance, blurring adds variance; when does the order of the two not matter?",
    )


@function(cases=[(torch.logspace(-2, 1.5, 15, dtype=torch.float64),)], rtol=1e-3)
def weight(sigma):
    """The weight at each noise level with which guided samples of two Gaussians follow the tilted density.

    Three scores matter at each level: of the source, of the target, and of the tilted bell, blurred.

    The guided score is (1 - w) s_S + w s_T. Set it equal to the score of a bell of variance 1 / ((1 - w2)
    / s_S^2 + w2 / s_T^2) + sigma^2, and solve for w.
    """
    source, target, w = 3.0**2, 0.3**2, 2.0
    tilted = 1 / ((1 - w) / source + w / target)
    variances = torch.tensor([tilted, source, target])[:, None]  # (3, 1)

    def needed(goal, guide, main):
        """The weight of the main model that gives the score -goal x, from the scores -guide x and -main x."""
        return (goal - guide) / (main - guide)

    clean, noisy = 1 / variances, 1 / (variances + sigma**2)
    right = needed(*noisy)
    return right, {
        "a constant weight narrows the samples too much, as in the figures": w,
        "the weight 1 is no guidance at all": 1.0,
        "the tilted density has to be blurred too, yours has no noise": needed(clean[0], *noisy[1:]),
        "the tilted density has the harmonic mean of the variances; you took the geometric one": (
            needed(1 / (source ** (1 - w) * target**w + sigma**2), *noisy[1:])
        ),
        "the two models have to be blurred too, yours have no noise": needed(noisy[0], *clean[1:]),
        "a score has the variance below the line, yours has the standard deviation": needed(*noisy.sqrt()),
        "you mixed the variances; guidance mixes scores, and these have 1 / variance": needed(*(1 / noisy)),
        "blurring adds sigma^2 to a variance; you add sigma": needed(*(1 / (variances + sigma))),
        "that is the weight of the guide; w is the weight of the main model": 1 - right,
        "it is off by one: w = 1 is no guidance, not w = 0": right - 1,
        "you divided the wrong way round: the difference of the two models stands below the line": 1 / right,
        "the step from guide to main model is missing below the line": noisy[0] - noisy[1],
    }
