"""Checks for the exercises of notebook 04: Domain Guidance, exactly."""

import functools
import math

from scipy.optimize import brentq

from ...theory import gaussian_guidance
from . import choice, function, normal, number


@number(rtol=0.01)
def narrowing():
    """How much of the narrowing is left at the largest weight that keeps the samples in their place?"""
    s_S, s_T, start, aim = 3.0, 0.4, -1.0, 2.0
    extra = s_T / (aim - start)  # w - 1, as at equal widths the mean goes to start + w (aim - start)
    right = gaussian_guidance((0.0, s_T), (0.0, s_S), 1 + extra)[1] / s_T
    ratio = s_T / s_S
    return right, {
        "you measured the shift from 0, not from the centre of the source": ratio ** (s_T / aim),
        "the centre of the source is at -1, not at +1": ratio ** (s_T / (aim + start)),
        "with the power w guidance narrows already at w = 1, where it is off": ratio ** (1 + extra),
        "that is the width of the samples; its ratio to the target's was asked": right * s_T,
        "that is a ratio of variances": right**2,
        "that is the target's width over that of the samples; the other way round was asked": 1 / right,
        "you let the centre miss by the target's variance, 0.16; its width is 0.4": ratio ** (s_T * extra),
        "you let the centre miss by 1; one target width is 0.4": ratio ** (1 / (aim - start)),
        "that is the weight; the narrowing at this weight was asked": 1 + extra,
        "at that weight the samples are as wide as the target: you have left guidance off": 1.0,
        "that is the full ratio of the widths; it belongs to w = 2": ratio,
    }


def _bell(mean, width):
    """The denoiser of a Gaussian."""
    return lambda x, sigma: mean + width**2 / (width**2 + sigma[:, None] ** 2) * (x - mean)


_BELLS = _bell(1.0, 0.3), _bell(0.5, 0.6), _bell(0.0, 2.0)  # of a class, of its domain, of all data


@function(cases=[(*_BELLS, 3 * normal(40, 2), normal(40).exp())])
def domain_term(labelled, null, pretrained, x, sigma):
    """The term that points towards the domain, from three denoisers."""
    level = sigma[:, None]
    score_c, score, prior = ((D(x, sigma) - x) / level**2 for D in (labelled, null, pretrained))
    right = score - prior
    return right, {
        "it has the wrong sign: the term must point towards the domain": -right,
        "that is the class term and the domain term together: the label is still in it": score_c - prior,
        "that is the class term": score_c - score,
        "that is a difference of guesses, D; a score is (D - x) / sigma^2": right * level**2,
        "you divided by sigma, where sigma^2 belongs": right * level,
        "that is the score of p(x given 𝒟); what all data have in common is still in it": score,
        "that is the score of p(x)": prior,
        "that is the score of p(x given c, 𝒟)": score_c,
        "that is the gradient of log p(𝒟 given x) + log p(x); Bayes' rule divides by p(x)": score + prior,
    }


@choice
def share():
    """What becomes of Domain Guidance if the pre-training data are nearly all target?"""
    return "b", dict(
        a="the domain term tells the domain from the rest of the data, and there is hardly any rest",
        c="the guide comes to know the domain, but not the label",
        d="p(𝒟) is a constant, but the share also sits in p(x), and that is what the guide knows",
    )


@functools.cache
def _ceiling(miss, target=0.5, source=1.0, above=False, mu=10.0, w=1.5):
    """The ceiling at which the mean overshoots by `miss`; with above=True the floor."""

    def overshoot(edge):
        interval = (edge, math.inf) if above else (0.0, edge)
        return gaussian_guidance((mu, target), (0.0, source), w, interval)[0] - mu

    return brentq(lambda edge: overshoot(edge) - miss, 1e-3, 1e3)


@number()
def ceiling():
    """Up to which noise level may a target outside the source be guided?"""
    right = _ceiling(0.5)
    return right, {
        "with that ceiling the samples miss by 1; one target width is 0.5": _ceiling(1.0),
        "with that ceiling the samples miss by half a target width": _ceiling(0.25),
        "you used the formula for equal widths; here the source is twice as wide": _ceiling(0.5, source=0.5),
        "you have the widths of source and target the wrong way round": _ceiling(0.5, 1.0, 0.5),
        "that is a floor, guidance is on above; a ceiling leaves it on below": _ceiling(0.5, above=True),
        "that is the ceiling in target widths; the level itself was asked": right / 0.5,
        "that is the square of the ceiling, a variance": right**2,
    }
