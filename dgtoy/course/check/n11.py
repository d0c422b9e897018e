"""Checks for the exercises of notebook 11: why guidance by the old model sharpens."""

import torch

from ...theory import gaussian_guidance
from . import choice, function, normal, number


@number()
def half_done():
    """At which noise level has half of the narrowing been done?

    From far above down to sigma, ln std has changed by half of ln[(s_T^2 + sigma^2) / (s_S^2 + sigma^2)].

    At the end that is ln(s_T / s_S). Where is it half as much?
    """
    s_S, s_T = 2.0, 0.32

    def where(share):
        """The noise level where (s_T^2 + sigma^2) / (s_S^2 + sigma^2) is `share`."""
        return ((share * s_S**2 - s_T**2) / (1 - share)) ** 0.5

    ratio = s_T / s_S
    right = where(ratio)
    return right, {
        "that is sigma^2": right**2,
        "that is the mean of the two widths, and half of something else": (s_S + s_T) / 2,
        "there half of the change of the variance is done; half of that of ln std was asked": where(
            (1 + ratio**2) / 2
        ),
        "there half of the change of the std is done; half of that of ln std was asked": where(
            ((1 + ratio) / 2) ** 2
        ),
        "there a quarter of the change is done: ln std is half the logarithm of the variance": where(
            ratio**0.5
        ),
        "that is the target's width; most of the change is done above it": s_T,
    }


_X = normal(60, 3) * normal(3).exp() + 2 * normal(3)


@function(cases=[(_X, 0.3 * _X + 1 + 0.2 * normal(61, 3)[1:]), (_X, _X.tanh() - 0.5 * _X.flip(-1))])
def slope(x, x0_hat):
    """The slope of the denoiser on x along each direction, over the samples.

    It is the slope of a least-squares line with an intercept: a covariance over a variance.

    Take the means off first. Which of the two variances stands below?
    """
    x_, guess = x - x.mean(0), x0_hat - x0_hat.mean(0)
    product = (x_ * guess).mean(0)
    right = product / x_.square().mean(0)
    return right, {
        "the means have to be taken off: the line has an intercept": (x * x0_hat).mean(0)
        / x.square().mean(0),
        "that is a correlation; the slope has the variance of x below": product
        / (x_.square().mean(0) * guess.square().mean(0)).sqrt(),
        "you divide the covariance by n and the variance by n - 1; take the same for both": product
        / x_.var(0),
        "the variance below is that of x": product / guess.square().mean(0),
        "that is a regression on all directions at once; take each direction by itself": (
            torch.linalg.lstsq(x_, guess).solution.diagonal()
        ),
        "that is an average of ratios; a ratio of averages was asked": (x0_hat / x).mean(0),
        "that is a ratio of stds, which misses how far the two go together": guess.std(0) / x_.std(0),
        "that is 1 - beta": 1 - right,
        "that is the covariance; it has to be divided by a variance": product,
        "there is one slope for each direction; you averaged over all of them": right.mean().expand(
            len(right)
        ),
    }


@choice
def perfect():
    """What does guidance do to a fine-tune that has nothing left to learn?

    Held-out weights of 1 say that a term does not point to the truth. Do they say that it is small?

    A step of any size in no particular direction moves samples that were where they should be.
    """
    return "b", dict(
        a="two exact models still differ, and guidance adds their difference, wherever it points",
        c="the class term of exact models has a size too, and CFG adds it; nothing is left to be completed",
        d="the samples are already the truth, so each step away from them is a step away from it",
    )


@number(rtol=0.015)
def one_blur():
    """How much does the second direction narrow if one blur does for the first what the source does?

    The blurred density has std sqrt(s^2 + b^2) along a direction of std s. Which b gives the source's?

    With that b the closed form says s (s / sqrt(s^2 + b^2))^(w - 1) for the second direction.
    """
    first, second, broad, w = 1.0, 1.6, 2.0, 1.5

    def factor(b):
        return (second / (second**2 + b**2) ** 0.5) ** (w - 1)

    right = factor((broad**2 - first**2) ** 0.5)
    return right, {
        "that is what DoG does to it; a blur that suits the first direction is too much here": (
            gaussian_guidance((0.0, second), (0.0, broad), w)[1] / second
        ),
        "you blurred by the source's own width; the density has a width already": factor(broad),
        "you have the reciprocal: a broader guide narrows": 1 / right,
        "widths add in squares": factor(broad - first),
        "that is the width; the factor was asked": right * second,
        "the power is w - 1": right ** (w / (w - 1)),
        "that is a ratio of variances": right**2,
        "that is the factor of the first direction": (first / broad) ** (w - 1),
        "that is the blur, b; the factor was asked": (broad**2 - first**2) ** 0.5,
    }
