"""Checks for the exercises of notebook 05: what fine-tuning keeps and forgets."""

import torch

from . import choice, function, normal, number

_X0, _NOISE = normal(2, 50, 2)
_SIGMA = torch.logspace(-2, 1.5, 50, dtype=torch.float64)


@function(cases=[(_X0, _X0 + _SIGMA[:, None] * _NOISE, _SIGMA, sigma_d) for sigma_d in (2.0, 0.5)])
def task(x0, x, sigma, sigma_d):
    """What the network itself must answer, with everything that preconditioning gives away taken off.

    The network is right if D is x0. Solve the formula of D for F.

    D = c_skip x + c_out F, where c_skip = sigma_d^2 / (sigma^2 + sigma_d^2) and c_out is sigma sigma_d
    over the root of sigma^2 + sigma_d^2.
    """
    noise, data = sigma[:, None] ** 2, torch.tensor(sigma_d).double() ** 2  # variances
    kept = data / (noise + data)  # the share of x in D
    out = (noise * kept).sqrt()  # the factor in front of F

    def F(kept=kept, out=out):
        return (x0 - kept * x) / out

    return F(), {
        "the first term of D is missing: part of the answer is x itself": F(kept=0),
        "the first term has the share of the data, yours the share of the noise": F(kept=1 - kept),
        "the first term has a quotient of variances; yours has standard deviations": F(kept=kept.sqrt()),
        "in the first term x is multiplied; yours subtracts the whole of x": F(kept=1),
        "you multiplied by the factor in front of F; to get F it is divided by": F(out=1 / out),
        "the square root below the factor in front of F is missing": F(out=out / (noise + data).sqrt()),
        "you divided by the square of the factor in front of F": F(out=out**2),
        "that corrects the first term of D, but is not yet divided by the factor in front of F": F(out=1),
        "you divided by sigma; that is the factor in front of F only at little noise": F(out=noise.sqrt()),
        "it has the wrong sign": -F(),
        "that is the noise; F is asked for it at small sigma only, up to sign": (x - x0) / noise.sqrt(),
        "that is minus the noise; F is asked for it at small sigma only": (x0 - x) / noise.sqrt(),
        "that is what D should answer; F is only a part of D": x0,
    }


@number(rtol=0.005)
def lag():
    """Which weight of Domain Guidance makes up for an average that lags behind?

    After t steps at the decay b the average still holds a share b^t of its start. How far has D come?

    It has come a share 1 - 0.9999^10000 of the way from D_pre, and guidance multiplies this way by w.
    """
    left = 0.9999**10_000  # what the start still counts
    return 1 / (1 - left), {
        "that is what the start still counts; the weight w was asked": left,
        "that is how far the average has come; the weight w makes up for it": 1 - left,
        "you divided by what the start still counts; divide by how far the average has come": 1 / left,
        "adding is not enough: guidance multiplies the way from the pre-trained model": 1 + left,
        "that is w - 1; guidance is off at w = 1": left / (1 - left),
        "an average of 10,000 steps still holds something of its start; w = 1 leaves it there": 1.0,
        "that is for 24,000 steps": 1 / (1 - 0.9999**24_000),
    }


@choice
def handed_on():
    """What does a fine-tune's error, alike on its own points and on fresh ones, tell about w?

    Guidance moves along one direction only, from D_pre to D_ft. What if the error points elsewhere?

    A size says nothing of a direction. Rule out the answers that turn a size into a weight.
    """
    return "d", dict(
        a="a fine-tune that remembers its points does better on them than on fresh ones",
        b="it has not memorised, but a finished one has nearly the exact error, 1 in these units",
        c="a ratio of errors is no weight: it does not say in which direction the answer is wrong",
    )


_AVERAGE, _START = normal(2, 6, 2)


@function(cases=[(_AVERAGE, _START, t, beta) for t, beta in ((300, 0.999), (2000, 0.9999))])
def without_start(average, start, t, beta):
    """The average of the visited weights alone, without the weights from which training started.

    After t steps the average is beta^t start plus other shares, which add up to 1 - beta^t.

    Subtract the start's part, then make the other shares add up to 1 again.
    """
    left = beta**t  # the share of the start
    return (average - left * start) / (1 - left), {
        "the start is gone, but the other shares do not add up to 1 yet": average - left * start,
        "that only scales the average; the start has to be subtracted": average / (1 - left),
        "the share of the start is beta^t; you subtracted all of it": (average - start) / (1 - left),
        "you mixed more of the start in": (average + left * start) / (1 + left),
        "beta is the share that one step leaves; after t steps it is beta^t": (average - beta * start)
        / (1 - beta),
        "that is only the first order: the way from the start is divided by 1 - beta^t": average
        + left * (average - start),
        "that changes nothing: the start is still in it": average,
    }
