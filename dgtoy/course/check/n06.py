"""Checks for the exercises of notebook 06: the pre-trained guide against the model's own."""

import numpy as np

from .. import records
from . import choice, function, number, record


def _values(domain, method, metric="out_of_domain", w=1.25):
    row = records.row(record("transfer"), domain=domain, method=method, w=1.0 if method == "none" else w)
    return np.array(row[metric])


def _gain(domain, before, after, w=1.05):
    """By which factor pairing shortens the squared length of an interval."""
    a, b = (_values(domain, method, w=w) for method in (before, after))
    return (a.var() + b.var()) / (a - b).var()


@number(rtol=0.1)
def seeds_needed():
    """How many seeds does the unpaired comparison need to be as sharp as the paired one with 16?

    Without pairs the variances of the two methods add up. With pairs the variance of the difference
    counts.

    The number of seeds goes with the variance: multiply 16 by (var a + var b) / var(a - b).
    """
    n, gain = 16, _gain("spirals", "none", "CFG")
    return n * gain, {
        "that is too few; the length falls with the square root of their number": n * gain**0.5,
        "that is the factor; the number of seeds was asked": gain,
        "that is how much longer the unpaired interval is; the number of seeds was asked": gain**0.5,
        "the length falls with the square root of the number of seeds, not with its square": n * gain**0.25,
        "that is how few seeds paired differences need to be as sharp as the unpaired 16": n / gain,
        "that is for CFG to DoG; from none to CFG was asked": n * _gain("spirals", "CFG", "DoG"),
        "that is for the moons; the spirals were asked": n * _gain("moons", "none", "CFG"),
        "that is for w = 1.25; the step at w = 1.05 was asked": n * _gain("spirals", "none", "CFG", 1.25),
    }


@choice
def one_seed():
    """What does a paired interval on one side of zero say about a single source?

    An interval of a mean is about the mean. What does it say about the next source?

    Count in the record on how many of the 16 sources the rate of CFG is the lower one, and look at the rate
    of DoG.
    """
    return "c", dict(
        a="the 95% are about the mean over sources, not about the sources; count those on either side",
        b="the unpaired interval throws away what is known about each source; the paired one is as valid",
        d="the interval compares CFG with no guidance; the rate of DoG is another one: look at the record",
    )


def _rates():
    g = np.random.default_rng(0)
    none = g.uniform(0.02, 0.2, 12)
    return none, none * g.uniform(0.05, 0.4, 12), g.integers(12, size=(40, 12))


@function(cases=[_rates()])
def removed(none, dog, picks):
    """The bootstrap of the share of outliers that Domain Guidance removes.

    A resample draws seeds. Which rates come with a seed?

    Use the same row of picks for none and for dog, and take the ratio of the means, not the mean of the
    ratios.
    """
    before, after = none[picks].mean(1), dog[picks].mean(1)
    right = 1 - after / before
    return right, {
        "that is the share which is left; the share removed was asked": after / before,
        "that is a mean of ratios; the ratio of the two means was asked": (1 - dog / none)[picks].mean(1),
        "that is a difference of rates; the share of the outliers of none was asked": before - after,
        "only DoG is resampled; the same draw of seeds must go through none as well": 1 - after / none.mean(),
        "only none is resampled; the same draw of seeds must go through DoG as well": 1 - dog.mean() / before,
        "none and DoG have different draws; only the same are paired": 1 - after / before[::-1],
        "DoG and none are the wrong way round": 1 - before / after,
        "that is not resampled: every draw has the same share": 1 - dog.mean() / none.mean(),
        "yours is in per cent; a share lies between 0 and 1": 100 * right,
    }


def _curve():
    """CFG's weights, mean rates and mean energy distances on the spirals, from no guidance upwards."""
    rows = [r for m in ("none", "CFG") for r in records.rows(record("transfer"), domain="spirals", method=m)]
    return np.array([[np.mean(r[name]) for r in rows] for name in ("w", "out_of_domain", "energy")])


@number(rtol=0.03)
def price():
    """How many times the price of DoG does CFG pay on the spirals at the same rate?

    Equal weights are not equally strong. Walk along CFG's curve, from no guidance, until it has DoG's
    rate.

    Interpolate CFG's energy distance as a function of its rate, on the part of the curve where the rate
    falls. np.interp wants rising numbers, so turn the sign.
    """
    rate, dog = (_values("spirals", "DoG", metric, 1.05).mean() for metric in ("out_of_domain", "energy"))
    cfg = {w: _values("spirals", "CFG", "energy", w).mean() for w in (1.05, 1.1, 1.25)}
    w, rates, energy = _curve()
    falling = w <= 1.5  # then CFG's rate rises
    own, weight = (np.interp(-rate, -rates[falling], v[falling]) for v in (energy, w))
    both = np.stack([rates, energy])[:, rates.argsort()]  # the falling and the rising part, mixed
    return own / dog, {
        "that compares at the same w; the same rate was asked": cfg[1.05] / dog,
        "that compares the rates at the same w": _values("spirals", "CFG", w=1.05).mean() / rate,
        "that is DoG's price over CFG's; the other way round was asked": dog / own,
        "that is the weight at which CFG has DoG's rate; the prices were asked": weight,
        "that is CFG's price; its ratio to DoG's was asked": own,
        "that is for w = 1.25, the nearest of the record; take a straight line to the next": cfg[1.25] / dog,
        "that is for w = 1.1, where CFG is not yet at DoG's rate": cfg[1.1] / dog,
        "np.interp wants rising numbers, and along the curve the rates fall": np.interp(rate, rates, energy)
        / dog,
        "at large w CFG's rate rises again; you took that part of the curve": np.interp(rate, *both) / dog,
    }
