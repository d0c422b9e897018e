"""Checks for the exercises of notebook 04: Domain Guidance, exactly."""

import functools
import math

import torch

from ...labelled import LabelledMixture
from ...theory import alignment, gaussian_guidance
from . import choice, exercise, function, number


@exercise
def narrowing(answer):
    """How much of the narrowing is left at the largest weight that keeps the samples in their place?"""
    s_S, s_T, start, aim = 3.0, 0.4, -1.0, 2.0
    room = s_T / (aim - start)  # w - 1, as the mean goes to start + w (aim - start) at equal widths
    right = gaussian_guidance((0.0, s_T), (0.0, s_S), 1 + room)[1] / s_T
    at = lambda power: (s_T / s_S) ** power
    return number(
        answer,
        right,
        {
            "you measured the shift from 0; the overshoot counts from the centre of the source": at(
                s_T / aim
            ),
            "the centre of the source is at -1, not at +1": at(s_T / (aim + start)),
            "with the power w guidance narrows already at w = 1, where it is off": at(1 + room),
            "that is the width of the samples; its ratio to the target's was asked": right * s_T,
            "that is a ratio of variances": right**2,
            "that is the ratio of the target's width to that of the samples; the other way round was asked": 1
            / right,
            "you let the centre miss by the target's variance, 0.16; its width is 0.4": at(
                s_T**2 / (aim - start)
            ),
            "you let the centre miss by 1; one target width is 0.4": at(1 / (aim - start)),
            "that is the weight; the narrowing at this weight was asked": 1 + room,
            "at that weight the samples are as wide as the target: you have left guidance off": 1.0,
            "that is the full ratio of the widths; it belongs to w = 2": at(1),
        },
        rtol=0.01,
    )


def _quotient(of, minus, power=2):
    """(D_of - D_minus) / sigma^power with the three denoisers numbered 0, 1, 2; minus None stands for x itself."""

    def f(labelled, null, pretrained, x, sigma):
        known = [D(x, sigma) for D in (labelled, null, pretrained)]
        return (known[of] - (x if minus is None else known[minus])) / sigma[:, None] ** power

    return f


@exercise
def domain_term(answer):
    """The gradient of log p(D given x) out of denoisers, without a classifier."""
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
    A, label, domain = draw(6, 2, 2), torch.tensor([0, 1, 2, 0, 0, 1]), torch.tensor([0, 0, 0, 1, 1, 1])
    world = LabelledMixture(draw(6).softmax(0), 2 * draw(6, 2), A @ A.mT + 0.1 * torch.eye(2).double(), label)
    part = lambda keep: LabelledMixture(
        world.weights[keep] / world.weights[keep].sum(), world.means[keep], world.covs[keep], label[keep]
    )
    inside = part(domain == 1)
    x, sigma = 3 * draw(40, 2), draw(40).exp()
    case = (inside.denoiser(0), inside.denoiser(inside.null), world.denoise, x, sigma)
    truth = lambda *case: alignment(world, domain, 0, 1, x, sigma)[2]
    return function(
        answer,
        truth,
        [case],
        {
            "it has the wrong sign: the term must point towards the domain": _quotient(2, 1),
            "that is the class term and the domain term together: the label is still in it": _quotient(0, 2),
            "that is the class term": _quotient(0, 1),
            "that is a difference of guesses, D; a score is (D - x) / sigma^2": _quotient(1, 2, power=0),
            "you divided by sigma, where sigma^2 belongs": _quotient(1, 2, power=1),
            "that is the score of p(x given D); what all data have in common is still in it": _quotient(
                1, None
            ),
            "that is the score of p(x)": _quotient(2, None),
            "that is the score of p(x given c, D)": _quotient(0, None),
            "that is the gradient of log p(D given x) + log p(x); Bayes' rule divides by p(x)": lambda *case: (
                _quotient(1, None)(*case) + _quotient(2, None)(*case)
            ),
        },
    )


@exercise
def share(answer):
    """What becomes of Domain Guidance if the pre-training data are nearly all target?"""
    return choice(
        answer,
        "b",
        {
            "a": "the domain term tells the domain from the rest of the data, and there is hardly any rest",
            "c": "the guide comes to know the domain, but not the label",
            "d": "p(D) is a constant, but the share also sits in p(x), and that is what the guide knows",
        },
    )


@functools.cache
def _ceiling(miss, widths=(0.5, 1.0), above=False, mu=10.0, w=1.5):
    """The ceiling at which the mean overshoots by `miss`, by halving an interval; with above=True the floor."""
    low, high = 1e-3, 1e3
    for _ in range(25):
        middle = math.sqrt(low * high)
        mean = gaussian_guidance(
            (mu, widths[0]), (0.0, widths[1]), w, (middle, math.inf) if above else (0.0, middle)
        )[0]
        low, high = (middle, high) if (mean - mu < miss) != above else (low, middle)
    return low


@exercise
def ceiling(answer):
    """Up to which noise level may a target outside the source be guided?"""
    right = _ceiling(0.5)
    return number(
        answer,
        right,
        {
            "with that ceiling the samples miss by 1; one target width is 0.5": _ceiling(1.0),
            "with that ceiling the samples miss by half a target width": _ceiling(0.25),
            "the formula for equal widths holds for a source as wide as the target; here it is twice as wide": _ceiling(
                0.5, (0.5, 0.5)
            ),
            "you have the widths of source and target the wrong way round": _ceiling(0.5, (1.0, 0.5)),
            "that is the level above which guidance is on; a ceiling leaves it on below": _ceiling(
                0.5, above=True
            ),
            "that is the ceiling in target widths; the level itself was asked": right / 0.5,
            "that is the square of the ceiling, a variance": right**2,
        },
    )
