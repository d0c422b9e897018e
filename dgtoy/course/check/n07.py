"""Checks for the exercises of notebook 07: the guidance plane."""

import functools
import math

import torch

from ...gmm import GaussianMixture
from ..worlds import domains
from . import choice, exercise, function, number


@exercise
def equal_width(answer):
    """Where on the plane does a longer domain step leave the samples as wide as the class?"""
    s_S, s_D, s_C, a = 2.0, 0.8, 0.5, 1.2
    domain, step = math.log(s_S / s_D), math.log(s_D / s_C)
    return number(
        answer,
        1 - (a - 1) * domain / step,
        {
            "both steps narrow the samples, so one has to be shortened when the other is stretched": 1
            + (a - 1) * domain / step,
            "you divided the slope of the class step by that of the domain step; it is the other way round": 1
            - (a - 1) * step / domain,
            "that is by how much b changes; no guidance is at b = 1": (a - 1) * domain / step,
            "a step narrows by a ratio of widths, not by a difference": 1
            - (a - 1) * (s_S - s_D) / (s_D - s_C),
            "ratios of widths multiply; it is their logarithms that add up": 1
            - (a - 1) * (s_S / s_D) / (s_D / s_C),
            "you measured the class step from the source; it starts at the domain": 1
            - (a - 1) * domain / math.log(s_S / s_C),
            "you took a for what is added; at a = 1 the domain step has its own length": 1
            - a * domain / step,
            "there the samples are as wide as the domain; as wide as the class was asked": -(a - 1)
            * domain
            / step,
            "a and b trade at the slopes of the logarithm of the width; they are not equal here": 1 - (a - 1),
        },
        rtol=0.01,
    )


def _ray(
    d=lambda pre, null, main, u, v: u * (null - pre) + v * (main - null),
    rest=lambda x0, pre, main: x0 - main,
    share=lambda r, d: (r * d).sum() / (d * d).sum(),
    plus=0.0,
):
    """A least-squares step from the three estimates, with one of its parts replaced."""

    def t(pre, null, main, x0, u, v):
        return share(rest(x0, pre, main), d(pre, null, main, u, v)) + plus

    return t


@exercise
def ray(answer):
    """How far should one go from no guidance into a given direction of the plane? A regression says it."""
    g = torch.Generator().manual_seed(0)
    four = torch.randn(4, 50, 2, generator=g, dtype=torch.float64)
    return function(
        answer,
        _ray(),
        [(*four, u, v) for u, v in ((0.0, 1.0), (1.0, 1.0), (2.0, -0.5), (1.0, 3.0))],
        {
            "you count from the wrong point: t is 0 at no guidance, so yours is too large by 1": _ray(
                plus=1.0
            ),
            "the way that is left starts where you stand at t = 0, which is not the pre-trained model": _ray(
                rest=lambda x0, pre, main: x0 - pre
            ),
            "u and v are swapped": _ray(lambda pre, null, main, u, v: v * (null - pre) + u * (main - null)),
            "the class step starts at D_null; yours starts at D_pre": _ray(
                lambda pre, null, main, u, v: u * (null - pre) + v * (main - pre)
            ),
            "yours goes backwards: the sign of the way that is left, or of the direction, is turned": _ray(
                rest=lambda x0, pre, main: main - x0
            ),
            "you averaged a ratio over the points; the slope is zero at a ratio of two averages": _ray(
                share=lambda r, d: ((r * d).sum(-1) / (d * d).sum(-1)).mean()
            ),
            "you divided by the length of the direction; a projection divides by its square": _ray(
                share=lambda r, d: (r * d).sum() / (d * d).sum().sqrt()
            ),
            "you did not divide by the squared length of the direction": _ray(
                share=lambda r, d: (r * d).sum()
            ),
            "that is an average of inner products; it is not yet divided by the squared length of the direction": _ray(
                share=lambda r, d: (r * d).sum(-1).mean()
            ),
            "you divided by the square of what is left; that of the direction belongs there": _ray(
                share=lambda r, d: (r * d).sum() / (r * r).sum()
            ),
        },
    )


@exercise
def reading(answer):
    """Which guidance does a table of calibrated weights ask for?"""
    return choice(
        answer,
        "c",
        {
            "a": "that also pushes at the levels where the intervals of b* contain 1, and there a weight above 1 does not complete",
            "b": "most of these weights cannot be told from 1, and every point off the lines costs a third call",
            "d": "that sharpens a finished model for fewer outliers; asked for is a match, and it pushes just where nothing is unfinished",
        },
    )


@functools.cache
def _memoriser():
    """Least-squares weights of a model that knows 32 points by heart, and what other regressions give.  -> {reading: weight}"""
    world = domains.make("moons")
    source, target = world.source, world.target
    points = target.sample(32, generator=torch.Generator().manual_seed(7)).double()
    parrot = GaussianMixture(torch.ones(32) / 32, points, 0.01**2 * torch.eye(2).expand(32, 2, 2))
    g, found = torch.Generator().manual_seed(1), {}
    for name, sigma in (("right", 0.2), ("half", 0.1)):
        x = target.sample(20_000, generator=g).double()
        x = x + sigma * torch.randn(x.shape, generator=g, dtype=torch.float64)
        pre, exact, known = (
            m.denoise(x, sigma) for m in (source, target, parrot)
        )  # the exact denoiser is the mean of x0
        found[name] = (((exact - pre) * (known - pre)).sum() / (known - pre).square().sum()).item()
    return found


@exercise
def parrot(answer):
    """Which weight do fresh points ask of a model that knows its training points by heart?"""
    at = _memoriser()
    return number(
        answer,
        at["right"],
        {
            "that is the answer of the training points, or of an exact model; ask points that the model has never seen": 1.0,
            "that is the weight of the guide; main model and guide are swapped": 1 - at["right"],
            "that is one over the weight; the regression names the weight itself": 1 / at["right"],
            "that is the weight at half the level that was asked": at["half"],
        },
        rtol=0.05,
    )
