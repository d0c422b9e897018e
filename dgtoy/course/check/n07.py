"""Checks for the exercises of notebook 07: the guidance plane."""

import functools
import math

import torch

from ...gmm import GaussianMixture
from ..worlds import domains
from . import choice, function, normal, number


@number(rtol=0.01)
def equal_width():
    """Where on the plane does a longer domain step leave the samples as wide as the class?

    Each unit of a multiplies the width by s_D / s_S, and each unit of b by s_C / s_D.

    In logarithms, 0.2 ln(s_S / s_D) + (b - 1) ln(s_D / s_C) has to be 0.
    """
    s_S, s_D, s_C, extra = 2.0, 0.8, 0.5, 0.2  # a = 1 + extra
    domain, step = math.log(s_S / s_D), math.log(s_D / s_C)
    shift = extra * domain / step
    return 1 - shift, {
        "both steps narrow the samples, so one has to be shortened when the other is stretched": 1 + shift,
        "you divided the two slopes the other way round": 1 - extra * step / domain,
        "that is by how much b changes; no guidance is at b = 1": shift,
        "a step narrows by a ratio of widths, not by a difference": 1 - extra * (s_S - s_D) / (s_D - s_C),
        "ratios multiply; it is their logarithms that add up": 1 - extra * (s_S / s_D) / (s_D / s_C),
        "the class step starts at the domain, not at the source": 1 - extra * domain / math.log(s_S / s_C),
        "you took a for what is added; a = 1 adds nothing": 1 - (1 + extra) * domain / step,
        "there the samples are as wide as the domain; as wide as the class was asked": -shift,
        "a and b trade at the slopes of the logarithm of the width; they are not equal here": 1 - extra,
    }


@function(cases=[(*normal(4, 50, 2), u, v) for u, v in ((0.0, 1.0), (1.0, 1.0), (2.0, -0.5), (1.0, 3.0))])
def ray(pre, null, main, x0, u, v):
    """How far should one go from no guidance into a given direction of the plane? A regression says it.

    What is left at t = 0 is x0 - D_c. Which multiple of the direction comes closest to it?

    Least squares: the sum of the products of the two, divided by the sum of the squares of the direction.
    """
    left = x0 - main
    direction = u * (null - pre) + v * (main - null)

    def share(r=left, d=direction):
        return (r * d).sum() / (d * d).sum()

    products = (left * direction).sum(-1)  # (n,), one per point
    squares = (direction * direction).sum(-1)
    return share(), {
        "you count from the wrong point: t is 0 at no guidance, so yours is too large by 1": share() + 1,
        "what is left starts where you stand at t = 0, which is not the pre-trained model": share(x0 - pre),
        "what is left starts where you stand at t = 0, which is D_c and not D_null": share(x0 - null),
        "that is DoG's direction; u and v choose the direction here": share(d=main - pre),
        "that is a ratio of lengths, which does not see how far the two go together": (
            left.norm() / direction.norm()
        ),
        "u and v are swapped": share(d=v * (null - pre) + u * (main - null)),
        "the class step starts at D_null; yours starts at D_pre": (
            share(d=u * (null - pre) + v * (main - pre))
        ),
        "yours goes backwards: the sign of the way that is left, or of the direction, is turned": -share(),
        "that is an average of ratios; a ratio of two averages was asked": (products / squares).mean(),
        "you divided by a length; a projection divides by its square": products.sum() / squares.sum().sqrt(),
        "you did not divide by the squared length of the direction": products.sum(),
        "that is a mean product, not yet divided by the squared length of the direction": products.mean(),
        "you divided by the square of what is left, not of the way": products.sum() / left.square().sum(),
    }


@choice
def reading():
    """Which guidance does a table of calibrated weights ask for?

    Where does an interval contain 1? There nothing is missing, and a weight of 1 needs no call.

    All four a* may be 1, which leaves CFG. At which levels may b* be 1 as well?
    """
    return "c", dict(
        a="that pushes also where the intervals of b* contain 1; there a weight above 1 does not complete",
        b="most of these weights cannot be told from 1, and every point off the lines costs a third call",
        d="that sharpens a finished model for fewer outliers; a match was asked, and there all is finished",
    )


@functools.cache
def _memoriser():
    """Least-squares weights of a model of bells on 32 points.  -> {(noise level, width of a bell): weight}"""
    world = domains.make("moons")
    points = world.target.sample(32, generator=torch.Generator().manual_seed(7)).double()
    g, found = torch.Generator().manual_seed(1), {}
    for sigma, width in ((0.2, 0.01), (0.1, 0.01), (0.2, 0.1)):
        parrot = GaussianMixture(torch.ones(32) / 32, points, width**2 * torch.eye(2).expand(32, 2, 2))
        x = world.target.sample(20_000, generator=g).double()
        x = x + sigma * torch.randn(x.shape, generator=g, dtype=torch.float64)
        # the exact denoiser is the mean of x0
        pre, exact, known = (m.denoise(x, sigma) for m in (world.source, world.target, parrot))
        found[sigma, width] = (((exact - pre) * (known - pre)).sum() / (known - pre).square().sum()).item()
    return found


@number(rtol=0.05)
def parrot():
    """Which weight do fresh points ask of a model that knows its training points by heart?

    Build the mixture with GaussianMixture, and let calibrate ask it at points that it does not know.

    The weight is a regression of what the exact answer changes, x0 - D_pre, on what the model changes, D
    - D_pre.
    """
    weight = _memoriser()
    right = weight[0.2, 0.01]
    return right, {
        "that is the answer of the training points, or of an exact model; ask points it has never seen": 1.0,
        "that is the weight of the guide; main model and guide are swapped": 1 - right,
        "that is one over the weight; the regression names the weight itself": 1 / right,
        "that is the weight at half the level that was asked": weight[0.1, 0.01],
        "your bells have the variance 0.01; it is their width, a standard deviation": weight[0.2, 0.1],
    }
