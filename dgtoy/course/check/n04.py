"""Checks for the exercises of notebook 04: Domain Guidance, exactly."""

import functools
import math

import torch
from scipy.optimize import brentq

from ...gmm import LabelledMixture
from ...guidance import domain_guidance
from ...theory import gaussian_guidance
from . import choice, function, normal, number


@number(rtol=0.01)
def narrowing():
    """How much of the narrowing is left at the largest weight that keeps the samples in their place?

    In the first direction source and target are equally wide. By how much is the centre overshot there?

    The centre misses by 3 (w - 1), which may be 0.4. The second direction narrows by (s_T / s_S)^(w - 1).
    """
    s_S, s_T, start, aim = 3.0, 0.4, -1.0, 2.0
    extra = s_T / (aim - start)  # w - 1, as at equal widths the mean goes to start + w (aim - start)
    right = gaussian_guidance((0.0, s_T), (0.0, s_S), 1 + extra)[1] / s_T
    ratio = s_T / s_S
    return right, {
        "you measured the shift from 0, not from the centre of the source": ratio ** (s_T / aim),
        "the centre of the source is at -1, not at +1": ratio ** (s_T / (aim + start)),
        "with the power w guidance narrows already at w = 1, where it is off": ratio ** (1 + extra),
        "that is the width of the samples; its ratio to the target's was asked": right * s_T,
        "that is by how much they are narrower; the ratio of the widths was asked": 1 - right,
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
    """The term that points towards the domain, from three denoisers.

    By Bayes' rule p(𝒟 given x) is in proportion to p(x given 𝒟) / p(x). Take the gradient of its
    logarithm.

    It is a difference of two scores, and a score is (D - x) / sigma^2. Which two of the denoisers?
    """
    level = sigma[:, None]
    guesses = [D(x, sigma) for D in (labelled, null, pretrained)]
    score_c, score, prior = ((guess - x) / level**2 for guess in guesses)
    logs = guesses[1].log() - guesses[2].log()
    right = score - prior
    return right, {
        "it has the wrong sign: the term must point towards the domain": -right,
        "that is the class term and the domain term together: the label is still in it": score_c - prior,
        "that is the class term": score_c - score,
        "that is a difference of guesses, D; a score is (D - x) / sigma^2": right * level**2,
        "you divided by sigma, where sigma^2 belongs": right * level,
        "a denoiser gives a point, not a density; its logarithm means nothing": logs / level**2,
        "a denoiser gives a point, not a density; the difference of the logarithms means nothing": logs,
        "that is the score of p(x given 𝒟); what all data have in common is still in it": score,
        "that is the score of p(x)": prior,
        "that is the score of p(x given c, 𝒟)": score_c,
        "that is the gradient of log p(𝒟 given x) + log p(x); Bayes' rule divides by p(x)": score + prior,
    }


@choice
def share():
    """What becomes of Domain Guidance if the pre-training data are nearly all target?

    What does the pre-trained model know if nearly all it has seen is the target?

    Then p(x) is p(x given 𝒟). Put that into the guide, and into the domain term.
    """
    return "b", dict(
        a="the domain term tells the domain from the rest of the data, and there is hardly any rest",
        c="the guide comes to know the domain, but not the label",
        d="p(𝒟) is a constant, but the share also sits in p(x), and that is what the guide knows",
    )


@functools.cache
def _ceiling(miss, target=0.5, source=1.0, above=False):
    """The ceiling at which the mean overshoots by `miss`; with above=True the floor."""
    mu, w = 10.0, 1.5

    def overshoot(edge):
        interval = (edge, math.inf) if above else (0.0, edge)
        return gaussian_guidance((mu, target), (0.0, source), w, interval)[0] - mu

    return brentq(lambda edge: overshoot(edge) - miss, 1e-3, 1e3)


@number()
def ceiling():
    """Up to which noise level may a target outside the source be guided?

    theory.gaussian_guidance takes an interval. How does the miss change as its ceiling comes down?

    It shrinks with the ceiling: halve an interval of ceilings until the mean is 10.5.
    """
    right = _ceiling(0.5)
    return right, {
        "with that ceiling the samples miss by 1; one target width is 0.5": _ceiling(1.0),
        "with that ceiling the samples miss by half a target width": _ceiling(0.25),
        "you used the formula for equal widths; here the source is twice as wide": _ceiling(0.5, source=0.5),
        "you have the widths of source and target the wrong way round": _ceiling(0.5, 1.0, 0.5),
        "that is a floor, guidance is on above; a ceiling leaves it on below": _ceiling(0.5, above=True),
        "that is the ceiling in target widths; the level itself was asked": right / 0.5,
        "that tames the moons; or it is the square of the ceiling, a variance": right**2,
    }


def _classes(n):
    """An exact model of n classes, one bell each."""
    covs = torch.eye(2, dtype=torch.float64).expand(n, 2, 2) / 4
    return LabelledMixture(torch.ones(n).double() / n, 2 * normal(n, 2), covs, torch.arange(n))


_AT = 2 * normal(20, 2), torch.tensor(0.5).double()


@function(cases=[(_classes(3), _classes(n), c, w, *_AT) for n, c, w in ((5, 1, 1.5), (8, 2, 3.0))])
def mended(model, base, c, w, x, sigma):
    """Domain Guidance's guess, from a fine-tuned model and a pre-trained one.

    No line raises an error. Print what each of the two models is asked for.

    A label is a row of a model's own table. Which row of the pre-trained model's table is `model.null`?
    """

    def guess(main, guide, w=w):
        return domain_guidance(main, guide, w)(x, sigma)

    main, guide = model.denoiser(c), base.denoiser(base.null)
    return guess(main, guide), {
        "the pre-trained model still gets the other one's null label, which is a class of its own": (
            guess(main, base.denoiser(model.null))
        ),
        "that is classifier-free guidance: the guide is now the fine-tuned model": (
            guess(main, model.denoiser(model.null))
        ),
        "the pre-trained model gets the label c, which means another class to it": (
            guess(main, base.denoiser(c))
        ),
        "main model and guide are swapped": guess(guide, main),
        "the weight is 1.5 whatever w is": guess(main, guide, 1.5),
        "that is the fine-tuned model's guess, without guidance": main(x, sigma),
        "that is the pre-trained model's guess; guidance starts there and goes on": guide(x, sigma),
        "the main model has lost its label: it is asked for c, the guide for null": (
            guess(model.denoiser(model.null), guide)
        ),
    }
