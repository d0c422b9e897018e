"""Checks for the exercises of notebook 11: why it sharpens, at scale."""

import numpy as np

from ..experiments.why import widths
from . import choice, function, number, record


def _log_widths(found, view):
    """Mean over directions and seeds of ln(std / std of the truth) of no guidance, DoG at 1.5 and at 2."""
    truth = np.log(found["results"]["ratio"][view])
    return [(np.log(widths(found, method, view)) - truth).mean() for method in ("none", "DoG", "DoG, w = 2")]


@number()
def as_narrow():
    """At which weight would the samples be as narrow as the truth, if log widths fell evenly with w?

    Take logarithms first and then the mean: of the widths at w = 1, at w = 2, and of the truth.

    The weight is 1 + (ln at 1 - ln of the truth) / (ln at 1 - ln at 2).
    """
    found = record("why")
    none, half, one = _log_widths(found, "features")
    latents = _log_widths(found, "latents")
    narrow = np.mean(found["results"]["ratio"]["features"])
    plain, plain_one = (widths(found, method, "features").mean() for method in ("none", "DoG, w = 2"))
    extra = none / (none - one)
    return 1 + extra, {
        "that is what has to be added to w = 1, where guidance is off": extra,
        "that counts from w = 2; the samples at w = 1 are where it starts": 2 + extra,
        "that takes the samples from w = 2 to the truth; start from w = 1": one / (none - one),
        "you took the step from w = 1 to 1.5 for a step of one": 1 + none / (none - half),
        "you went by the step from 1 to 1.5; the one from 1 to 2 was asked": 1 + 0.5 * none / (none - half),
        "your quotient is upside down: what is missing over what one unit of w does": 1 + 1 / extra,
        "you took the latents; features were asked": 1 + latents[0] / (latents[0] - latents[2]),
        "you added stds; take their logarithms first": 1 + (plain - narrow) / (plain - plain_one),
        "the sign is turned: the samples are too broad, so more weight is needed, not less": 1 - extra,
    }


_ERRORS = ((0.5, 0.4, 0.1), (0.3, 0.7, -0.2), (1.2, 0.1, 0.5))


@function(cases=[(w, *rest) for w in (0.5, 1.0, 1.5, 3.0) for rest in _ERRORS])
def error_at(w, missing, term, cosine):
    """The mean squared error of a guided estimate, from three numbers of the figure.

    What is missing after guidance is x0 - D_c minus w - 1 times the term. Square it.

    (p - q)^2 = p^2 - 2 p q + q^2, and the product of two vectors is that of their lengths times the
    cosine.
    """
    product = cosine * missing * term
    extra = w - 1

    def error(extra=extra, product=product):
        return missing**2 - 2 * extra * product + (extra * term) ** 2

    return error(), {
        "w = 1 must leave the error as it is: the term counts w - 1 times, not w": error(w),
        "your sign of the middle part is turned; pointing to the truth helps": error(product=-product),
        "the middle part of (p - q)^2 is twice their product": error(product=product / 2),
        "you left out that the term points somewhere: the part with the cosine is missing": error(product=0),
        "the last part goes with the square of w - 1": missing**2 - 2 * extra * product + extra * term**2,
        "you left out the term's own square": missing**2 - 2 * extra * product,
        "that is the root of the error; the mean square was asked": error() ** 0.5,
        "that is by how much the error changes; the error itself was asked": error() - missing**2,
        "the cosine has to be multiplied by both lengths": error(product=cosine),
    }


@choice
def perfect():
    """What guidance does to a fine-tune that has nothing left to learn.

    Guidance adds the difference of the two models. Is it zero once the fine-tune is perfect?

    The samples without guidance are the truth now. Where does a push that narrows take them?
    """
    return "b", dict(
        a="two exact models still differ, and guidance adds their difference, wherever it points",
        c="the slope is no constant of pictures; it is small as the unguided samples are far too broad",
        d="the unguided samples are already the truth, so each step away from them is a step away from it",
    )
