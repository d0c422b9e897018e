"""Checks for the exercises of notebook 10: photographs."""

import torch

from . import choice, function, normal, number


@number(rtol=0.01)
def level():
    """The time of a flow at which a picture is as noisy as at DiT's step with abar = 0.2.

    Two networks see the same picture if x0 + sigma eps has the same sigma. Which sigma has the step?

    sigma = sqrt(1 / abar - 1) for DiT, and t / (1 - t) for a flow. Solve for t.
    """
    abar = 0.2
    sigma = (1 / abar - 1) ** 0.5
    return sigma / (1 + sigma), {
        "that is the noise level itself; which time t has it?": sigma,
        "that is the share of the noise's variance at DiT's step; a flow mixes with 1 - t and t": 1 - abar,
        "that is the factor before DiT's noise; a flow keeps less of the picture beside it": (1 - abar)
        ** 0.5,
        "that is 1 - t, the share of the picture": 1 / (1 + sigma),
        "t / (1 - t) is sigma; solve for t, and do not put sigma in for t": sigma / (1 - sigma),
        "you matched the picture's factor alone; scale both to x0 + sigma eps first": 1 - abar**0.5,
        "that is abar's root, the factor before DiT's picture; it was never scaled to sigma": abar**0.5,
        "DiT counts in thousands of steps, a flow's t from 0 to 1": 1000 * sigma / (1 + sigma),
    }


def _velocity(x, t):
    return 2 * x - 3 * t[:, None] * x.square()


def _as_dit(velocity, x, sigma):
    """The slip of whoever takes sqrt(abar) and sqrt(1 - abar) for 1 - t and t."""
    scale = (1 + sigma**2) ** -0.5
    x_t, t = x * scale[:, None], sigma * scale
    return x_t - t[:, None] * velocity(x_t, t)


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
        "the network's t is the noise's share; you gave it the picture's, 1 - t": (
            step(x_t, t, velocity(x_t, 1 - t))
        ),
        "the network's t runs from 0 to 1; yours is a thousand times larger": (
            step(x_t, t, velocity(x_t, 1000 * t))
        ),
        "t is the noise's share, sigma / (1 + sigma); yours is the picture's": (
            step(x_t * sigma[:, None], 1 - t, velocity(x_t * sigma[:, None], 1 - t))
        ),
        "a flow mixes with 1 - t and t; you scaled as DiT does, with roots": _as_dit(velocity, x, sigma),
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
        d="that w = 2 is better says that 4.5 is too large, and not in what way",
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
