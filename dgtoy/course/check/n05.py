"""Checks for the exercises of notebook 05: what fine-tuning keeps and forgets."""

import torch

from . import choice, exercise, function, number


def _task(skip=lambda s2, d2: d2 / (s2 + d2), scale=lambda s2, d2: (s2 * d2 / (s2 + d2)).sqrt()):
    """What F must answer for D to be x0, with the share of x in D and the factor in front of F."""

    def f(x0, x, sigma, sigma_d):
        s2, d2 = sigma[:, None] ** 2, torch.as_tensor(sigma_d).to(x0) ** 2
        return (x0 - skip(s2, d2) * x) / scale(s2, d2)

    return f


@exercise
def task(answer):
    """What the network itself must answer, with everything that preconditioning gives away taken off."""
    g = torch.Generator().manual_seed(0)
    x0, noise = 2 * torch.randn(2, 50, 2, generator=g, dtype=torch.float64)
    sigma = torch.logspace(-2, 1.5, 50, dtype=torch.float64)
    scale = lambda s2, d2: (s2 * d2 / (s2 + d2)).sqrt()
    return function(
        answer,
        _task(),
        [(x0, x0 + sigma[:, None] * noise / 2, sigma, d) for d in (2.0, 0.5)],
        {
            "the first term of D is missing: part of the answer is x itself": _task(
                skip=lambda s2, d2: 0 * s2
            ),
            "the first term is x times the share of the data in the variance of x; yours has the share of the noise": _task(
                skip=lambda s2, d2: s2 / (s2 + d2)
            ),
            "the first term is x times a quotient of variances; yours has standard deviations": _task(
                skip=lambda s2, d2: (d2 / (s2 + d2)).sqrt()
            ),
            "in the first term x is multiplied; yours subtracts the whole of x": _task(
                skip=lambda s2, d2: 1 + 0 * s2
            ),
            "you multiplied by the factor in front of F; to get F it is divided by": _task(
                scale=lambda s2, d2: 1 / scale(s2, d2)
            ),
            "the square root below the factor in front of F is missing": _task(
                scale=lambda s2, d2: scale(s2, d2) * (s2 + d2).rsqrt()
            ),
            "you divided by the square of the factor in front of F": _task(
                scale=lambda s2, d2: scale(s2, d2) ** 2
            ),
            "that corrects the first term of D, but is not yet divided by the factor in front of F": _task(
                scale=lambda s2, d2: 1 + 0 * s2
            ),
            "you divided by sigma; the factor in front of F is sigma only where there is little noise": _task(
                scale=lambda s2, d2: s2.sqrt()
            ),
            "it has the wrong sign": lambda *case: -_task()(*case),
            "that is the noise; F is asked for it, but for the sign, at small sigma only": lambda x0, x, sigma, sigma_d: (
                (x - x0) / sigma[:, None]
            ),
        },
    )


@exercise
def lag(answer):
    """Which weight of Domain Guidance makes up for an average that lags behind?"""
    left = 0.9999**10_000  # what the start still counts
    return number(
        answer,
        1 / (1 - left),
        {
            "that is what the start still counts; the weight w was asked": left,
            "that is how far the average has come; the weight w makes up for it": 1 - left,
            "you divided by what the start still counts; divide by how far the average has come": 1 / left,
            "adding what is missing is not enough: guidance extrapolates from the pre-trained model, so it multiplies the way": 1
            + left,
            "that is w - 1; guidance is off at w = 1": left / (1 - left),
            "an average of 10,000 steps still holds something of its start; w = 1 leaves it there": 1.0,
            "that is for 24,000 steps": 1 / (1 - 0.9999**24_000),
        },
        rtol=0.005,
    )


@exercise
def handed_on(answer):
    """Which weight for a fine-tune that errs alike on its own points and on fresh ones?"""
    return choice(
        answer,
        "d",
        {
            "a": "a fine-tune that remembers its points does better on them than on fresh ones",
            "b": "a finished fine-tune has nearly the error of the exact denoiser, 1 in these units",
            "c": "guidance needs a guide that knows less than the main model; the exact denoiser is only the yardstick",
        },
    )
