"""Checks for the exercises of notebook 06: the pre-trained guide against the model's own."""

import functools
import pathlib

import numpy as np

from .. import records
from . import choice, exercise, function, number


@functools.cache
def _record():
    return records.load("transfer", pathlib.Path(__file__).parents[3] / "figures")


def _values(domain, method, metric="out_of_domain", w=1.25):
    return np.array(
        records.row(_record(), domain=domain, method=method, w=1.0 if method == "none" else w)[metric]
    )


def _seeds(domain, before, after):
    a, b = (_values(domain, method) for method in (before, after))
    return len(a) * (a.var() + b.var()) / (a - b).var()


@exercise
def seeds_needed(answer):
    """How many seeds does the unpaired comparison need to be as sharp as the paired one with 64?"""
    a, b = (_values("grid", method) for method in ("none", "CFG"))
    ratio = (a.var() + b.var()) / (a - b).var()  # of the squared lengths of the intervals
    n = len(a)
    return number(
        answer,
        n * ratio,
        {
            "with that many the unpaired interval is not short enough; its length falls with the square root of their number": n
            * ratio**0.5,
            "that is the factor; the number of seeds was asked": ratio,
            "that is how much longer the unpaired interval is; the number of seeds was asked": ratio**0.5,
            "the length falls with the square root of the number of seeds, not with its square": n
            * ratio**0.25,
            "that is how few seeds the paired comparison needs to be as sharp as the unpaired one with 64": n
            / ratio,
            "that is for the step from CFG to DoG; the step from none to CFG was asked": _seeds(
                "grid", "CFG", "DoG"
            ),
            "that is for the moons; the grid was asked": _seeds("moons", "none", "CFG"),
        },
        rtol=0.1,
    )


@exercise
def one_seed(answer):
    """What does a paired interval on one side of zero say about a single seed?"""
    return choice(
        answer,
        "c",
        {
            "a": "the 95% speak about the mean over seeds, not about the seeds; count in how many of them DoG has the higher rate",
            "b": "the unpaired interval throws away what is known about each seed; the paired one is just as valid, and sharper",
            "d": "the interval is for one weight, and another weight may turn the order round; look at the record",
        },
    )


@exercise
def removed(answer):
    """The bootstrap of the share of outliers that Domain Guidance removes."""
    g = np.random.default_rng(0)
    none = g.uniform(0.02, 0.2, 12)
    dog, picks = none * g.uniform(0.05, 0.4, 12), g.integers(12, size=(40, 12))
    right = lambda none, dog, picks: 1 - dog[picks].mean(1) / none[picks].mean(1)
    return function(
        answer,
        right,
        [(none, dog, picks)],
        {
            "that is the share which is left; the share removed was asked": lambda none, dog, picks: (
                dog[picks].mean(1) / none[picks].mean(1)
            ),
            "that is a mean of ratios; the ratio of the two means was asked": lambda none, dog, picks: (
                1 - dog / none
            )[picks].mean(1),
            "that is a difference of rates; the share of the outliers of none was asked": lambda none, dog, picks: (
                (none - dog)[picks].mean(1)
            ),
            "only DoG is resampled; the same draw of seeds must go through none as well": lambda none, dog, picks: (
                1 - dog[picks].mean(1) / none.mean()
            ),
            "only none is resampled; the same draw of seeds must go through DoG as well": lambda none, dog, picks: (
                1 - dog.mean() / none[picks].mean(1)
            ),
            "none and DoG have different draws; both must have the same, or nothing is paired": lambda none, dog, picks: (
                1 - dog[picks].mean(1) / none[picks[::-1]].mean(1)
            ),
            "DoG and none are the wrong way round": lambda none, dog, picks: (
                1 - none[picks].mean(1) / dog[picks].mean(1)
            ),
            "that is not resampled: every draw has the same share": lambda none, dog, picks: np.full(
                len(picks), 1 - dog.mean() / none.mean()
            ),
            "yours is in per cent; a share lies between 0 and 1": lambda none, dog, picks: (
                100 * right(none, dog, picks)
            ),
        },
    )


def _curve(top):
    """CFG's weights, rates and energy distances on the spirals, averaged over seeds, from no guidance up to the weight `top`."""
    rows = records.rows(_record(), domain="spirals", method="none") + records.rows(
        _record(), domain="spirals", method="CFG"
    )
    return (
        np.array([np.mean(r[name]) for r in rows if r["w"] <= top])
        for name in ("w", "out_of_domain", "energy")
    )


def _at_rate(wanted, what="energy"):
    """Energy distance (or weight) at which CFG reaches the wanted rate for the first time, by straight lines."""
    w, rate, energy = _curve(top=1.75)
    return float(np.interp(-wanted, -rate, energy if what == "energy" else w))


def _second_time(wanted):
    """CFG's energy distance where its rate, rising again, passes the wanted one for the second time."""
    w, rate, energy = _curve(top=3)
    last = w >= 1.75
    return float(np.interp(wanted, rate[last], energy[last]))


@exercise
def price(answer):
    """How many times the price of DoG does CFG pay on the spirals at the same rate?"""
    rate, dog = (_values("spirals", "DoG", metric, 1.1).mean() for metric in ("out_of_domain", "energy"))
    own, at_equal_w, none = (
        _at_rate(rate),
        _values("spirals", "CFG", "energy", 1.1).mean(),
        _values("spirals", "none", "energy").mean(),
    )
    return number(
        answer,
        own / dog,
        {
            "that compares at the same w; the same rate was asked": at_equal_w / dog,
            "that compares the rates at the same w": _values("spirals", "CFG", w=1.1).mean() / rate,
            "that is DoG's price over CFG's; the other way round was asked": dog / own,
            "that is the weight at which CFG has DoG's rate; the prices were asked": _at_rate(rate, "w"),
            "that is CFG's price; its ratio to DoG's was asked": own,
            "that is for w = 1.5, the nearest weight of the record; go along the straight line between two": _values(
                "spirals", "CFG", "energy", 1.5
            ).mean()
            / dog,
            "that is for w = 1.25, where CFG is not yet at DoG's rate": _values(
                "spirals", "CFG", "energy"
            ).mean()
            / dog,
            "CFG passes that rate twice, falling and rising again; you took the second time": _second_time(
                rate
            )
            / dog,
            "you subtracted the energy distance of none; the ratio of the whole distances was asked": (
                own - none
            )
            / (dog - none),
        },
        rtol=0.03,
    )
