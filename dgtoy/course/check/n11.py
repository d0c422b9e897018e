"""Checks for the exercises of notebook 11: why it sharpens, at scale."""

import pathlib

import numpy as np

from ..experiments.why import widths
from ..records import load
from . import choice, exercise, function, number

FIGURES = pathlib.Path(__file__).parents[3] / "figures"


def _widths(record, view="features"):
    """Mean over directions and seeds of ln(std / std of the truth) of no guidance, DoG at 1.5 and at 2."""
    truth = np.log(record["results"]["ratio"][view])
    return [(np.log(widths(record, m, view)) - truth).mean() for m in ("none", "DoG", "DoG, w = 2")]


@exercise
def as_narrow(answer):
    """At which weight would the samples be as narrow as the truth, if the log of the width fell evenly with the weight?"""
    record = load("why", FIGURES)
    none, half, one = _widths(record)
    latents = _widths(record, "latents")
    return number(
        answer,
        1 + none / (none - one),
        {
            "that is what has to be added to w = 1, where guidance is off": none / (none - one),
            "that counts from w = 2; the samples at w = 1 are where it starts": 2 + none / (none - one),
            "that takes the samples from w = 2 to the truth; start from w = 1": one / (none - one),
            "you took the step from w = 1 to 1.5 for a step of one": 1 + none / (none - half),
            "you went by the step from 1 to 1.5; the one from 1 to 2 was asked": 1
            + 0.5 * none / (none - half),
            "your quotient is upside down: what is missing over what one unit of w does": 1
            + (none - one) / none,
            "you took the latents; features were asked": 1 + latents[0] / (latents[0] - latents[2]),
            "you added stds; take their logarithms first, as the closed form does": _plain(record),
            "the sign is turned: the samples are too broad, so more weight is needed, not less": 1
            - none / (none - one),
        },
        rtol=0.02,
    )


def _plain(record):
    """The same with stds instead of their logarithms."""
    truth = np.array(record["results"]["ratio"]["features"])
    none, one = (widths(record, m, "features").mean() for m in ("none", "DoG, w = 2"))
    return 1 + (none - truth.mean()) / (none - one)


def _error(w, missing, term, cosine, cross=-2.0, off=1.0, square=2):
    return missing**2 + cross * (w - off) * cosine * missing * term + (w - off) ** square * term**2


@exercise
def error_at(answer):
    """The mean squared error of a guided estimate, from three numbers of the figure."""
    cases = [
        (w, *rest)
        for w in (0.5, 1.0, 1.5, 3.0)
        for rest in ((0.5, 0.4, 0.1), (0.3, 0.7, -0.2), (1.2, 0.1, 0.5))
    ]
    mixed = lambda **change: lambda w, missing, term, cosine: _error(w, missing, term, cosine, **change)
    return function(
        answer,
        _error,
        cases,
        {
            "w = 1 must leave the error as it is: D_ft takes w - 1 of the term, not w": mixed(off=0.0),
            "your sign of the middle part is turned: what points to the truth makes the error smaller": mixed(
                cross=2.0
            ),
            "the middle part of (p - q)^2 is twice their product": mixed(cross=-1.0),
            "you left out that the term points somewhere: the part with the cosine is missing": mixed(
                cross=0.0
            ),
            "the last part goes with the square of w - 1": mixed(square=1),
            "you left out the term's own square": lambda w, missing, term, cosine: (
                missing**2 - 2 * (w - 1) * cosine * missing * term
            ),
            "that is the root of the error; the mean square was asked": lambda *case: np.sqrt(_error(*case)),
            "that is by how much the error changes; the error itself was asked": lambda w, missing, term, cosine: (
                _error(w, missing, term, cosine) - missing**2
            ),
            "that takes the cosine for the product of the two; it has to be multiplied by both lengths": lambda w, missing, term, cosine: (
                missing**2 - 2 * (w - 1) * cosine + (w - 1) ** 2 * term**2
            ),
        },
    )


@exercise
def perfect(answer):
    """What guidance does to a fine-tune that has nothing left to learn."""
    return choice(
        answer,
        "b",
        {
            "a": "two exact models still differ, and guidance adds their difference; that it does not point to the truth does not make it small",
            "c": "the slope is no constant of pictures; it is small here since the unguided samples are far broader than the truth",
            "d": "the truth is where the unguided samples would already be, so that each step away from them is a step away from it",
        },
    )
