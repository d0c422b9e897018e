"""Checks for the exercises of notebook 10: photographs."""

import torch

from . import choice, function, normal, number


@number(rtol=0.01)
def level():
    """The noise level sigma of a flow's time t = 0.8.

    A noisy picture of this course is x0 + sigma eps. Bring the flow's x_t into this form.

    Divide x_t by 1 - t. What stands before eps?
    """
    t = 0.8
    return t / (1 - t), {
        "that is t itself; sigma is the noise after the picture has been scaled back to its size": t,
        "that is signal over noise; sigma is noise over signal": (1 - t) / t,
        "that is the factor that scales the picture back; the noise is still to be multiplied": 1 / (1 - t),
        "a flow mixes with 1 - t and t, not with their roots": (t / (1 - t)) ** 0.5,
        "you squared: a flow mixes with 1 - t and t themselves": (t / (1 - t)) ** 2,
        "DiT's time is a thousand times t; put t itself into the formula": 1000 * t,
    }


def _velocity(x, t):
    return 2 * x - 3 * t[:, None] * x.square()


@function(cases=[(_velocity, normal(4, 3), torch.tensor([0.1, 1.0, 2.5, 20.0]))])
def denoise(velocity, x, sigma):
    """A flow as a denoiser: D = x_t - t v(x_t, t).

    The network knows x_t and t, not x and sigma. Translate both.

    t = sigma / (1 + sigma) and x_t = x / (1 + sigma). The clean picture lies t times the velocity before
    x_t.
    """
    t = sigma / (1 + sigma)
    x_t = x / (1 + sigma)[:, None]
    v = velocity(x_t, t)

    def step(a, time, b):
        """a - time b, one time for each row."""
        return a - time[:, None] * b

    return step(x_t, t, v), {
        "you forgot to scale x: the network was trained on x_t = x / (1 + sigma)": step(x, t, velocity(x, t)),
        "the network sees x_t, and so must what the step starts from: x_t - t v, not x - t v": step(x, t, v),
        "you gave the network sigma for its time t": step(x_t, t, velocity(x_t, sigma)),
        "the step is t long, not sigma: the path of x_t takes a time from t to 0": step(x_t, sigma, v),
        "v is not the noise but noise minus picture: start from x_t and go t v back": step(x, sigma, v),
        "your sign is turned: v points from the picture to the noise": step(x_t, -t, v),
        "you return the velocity; the clean picture lies t before x_t": v,
        "that is the noise, x_t + (1 - t) v; the clean picture is at the other end": step(x_t, t - 1, v),
    }


@choice
def crowded():
    """How to tell that a guided sampler loses by crowding and not by bad pictures.

    The Fréchet distance mixes two failings. Which two numbers tell them apart?

    One asks if samples lie among true pictures, the other if true pictures lie among samples.
    """
    return "c", dict(
        a="a classifier says whether each picture is a pizza; sixteen copies of one pizza pass as well",
        b="more samples lower the distance of every method; they do not tell why one is ahead",
        d="w = 1 is no guidance at all; that it is better says that guidance harms, and not how",
    )


@number(rtol=0.01)
def breadth():
    """By what DoG at w = 3 on sigma from 0.2 to 5 multiplies the spread in a direction in which the source
    has width 40 and the target 20.

    At w = 3 the exponent is 1, so R is a ratio of two variances, each with sigma^2 added.

    Compute R(0.2) / R(5) with s_T = 20 and s_S = 40.
    """

    def ratio(sigma, w=3.0, s_S=40.0):
        s_T = s_S / 2
        return ((s_T**2 + sigma**2) / (s_S**2 + sigma**2)) ** ((w - 1) / 2)

    inside = ratio(0.2) / ratio(5.0)
    return inside, {
        "that is DoG at all noise levels, (s_T / s_S)^(w - 1)": ratio(0.0),
        "that is the rest: guidance above 5 only": ratio(5.0),
        "that is the detail's, with widths 1 and 0.5": ratio(0.2, s_S=1.0) / ratio(5.0, s_S=1.0),
        "that is no guidance at all": 1.0,
        "you have the reciprocal: guidance narrows here": 1 / inside,
        "the exponent is (w - 1) / 2, as the widths stand squared; you left out the half": inside**2,
        "that is w = 2: the exponent is (w - 1) / 2": inside**0.5,
    }
