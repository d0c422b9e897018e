"""Checks for the exercises of notebook 09: the same guide on pictures."""

import math

import numpy as np

from ... import theory
from ..records import row
from ..worlds import glyphs
from . import choice, function, normal, number, record


def _degrees(world):
    """Mean and std of the rotations of a world, in which they are uniform."""
    low, high = dict(world.ranges)["rotation"]
    return (low + high) / 2, (high - low) / math.sqrt(12)


def _beyond(target, source, w=2.0):
    return theory.gaussian_guidance(target, source, w)[0] - target[0]


@number()
def overshoot():
    """By how many degrees would exact models overshoot rotated digits?

    What is uniform from a to b has the mean (a + b) / 2 and the standard deviation (b - a) / sqrt(12).

    gaussian_guidance(target, source, 2.0)[0] is where the samples end. Subtract the target's mean.
    """
    target, source = _degrees(glyphs.target(narrow=0.2, gap=1.5)), _degrees(glyphs.World())
    nearer = _degrees(glyphs.target(narrow=0.2, gap=1.0))
    squared = [(mean, std**2) for mean, std in (target, source)]
    right, distance = _beyond(target, source), target[0] - source[0]
    return right, {
        "that is where the samples end; how far that is beyond the target was asked": right + target[0],
        "that is the overshoot for each degree of distance; multiply it by the distance": right / distance,
        "you took w - 1 for the factor; that holds only if the source is as narrow as the target": distance,
        "that is the overshoot at w = 1.5": _beyond(target, source, w=1.5),
        "that is the overshoot at gap 1": _beyond(nearer, source),
        "gap 1.5 is 1.5 half-widths of the source from its centre, not 1.5 widths": 2 * right,
        "source and target are swapped": _beyond(source, target),
        "yours has the right size and points towards the source; guidance pushes away from it": -right,
        "you put variances where standard deviations belong": _beyond(*squared),
        **_measured(),
    }


def _measured():
    """What comes out if one takes measured numbers for the exact ones; nothing where there is no record."""
    try:
        found = record("replica/images_gap")
    except FileNotFoundError:
        return {}
    target, source = (found["results"]["truth"]["1.5"][name] for name in ("target", "source"))
    turned = (row(found, gap=1.5, method=method, w=w) for method, w in (("none", 1.0), ("DoG", 2.0)))
    none, dog = (np.mean(cell["rotation"]) for cell in turned)
    return {
        "you took the spread that the network reads; errors of reading broaden it": _beyond(target, source),
        "that is how far the record's networks went past the target; exact ones were asked": dog - target[0],
        "that is by how much DoG turned the networks' digits; exact models were asked": dog - none,
    }


_SIZES = ((6, 5), (8, 12), (10, 30))  # (seeds, weights)


@function(cases=[(np.random.default_rng(k).normal(size=size),) for k, size in enumerate(_SIZES)])
def fair(values):
    """What a method is worth at its best weight, chosen on one half of the seeds and judged on the other.

    No seed may judge a weight that it has helped to choose.

    values[::2].mean(0).argmin() is what the even rows choose; take the odd rows there. Then the other way
    round.
    """
    even, odd = values[::2], values[1::2]

    def best(half):
        return half.mean(0).argmin()

    def crossed(one=even, other=odd, pick=best):
        return np.concatenate([other[:, pick(one)], one[:, pick(other)]]).mean()

    own = np.concatenate([even[:, best(even)], odd[:, best(odd)]]).mean()
    return crossed(), {
        "you choose and judge on the same seeds, so the luckiest weight flatters": values.mean(0).min(),
        "you choose a weight for every single seed and judge it on that seed": values.min(1).mean(),
        "you judge each half at the weight that it chose itself": own,
        "you go one way round only; the even seeds have to be judged as well": odd[:, best(even)].mean(),
        "you go one way round only; the odd seeds have to be judged as well": even[:, best(odd)].mean(),
        "you choose the largest; of a Fréchet distance the lowest is best": (
            crossed(pick=lambda half: half.mean(0).argmax())
        ),
        "you leave out one seed at a time; here one half chooses and the other judges": np.mean(
            [values[i, best(np.delete(values, i, 0))] for i in range(len(values))]
        ),
        "your halves are the first and the last seeds; take even and odd ones": crossed(*np.split(values, 2)),
        "you choose by the single best seed; choose by the mean over a half": (
            crossed(pick=lambda half: half.min(0).argmin())
        ),
    }


@choice
def accident():
    """What does guidance do to rotated digits once the fine-tune has arrived?

    Each turn was made of a shortfall and an overshoot. Which of the two is gone now?

    What is left is what exact models do, the dotted line of the figure.
    """
    return "b", dict(
        a="where it lands depends on the main model as well, and that one has changed",
        c="guidance does not know where the target ends; look at the longer study",
        d="those degrees were the way that the fine-tune had left, and now none of it is left",
    )


@function(cases=[(*normal(3, 4, 5), w) for w in (1.0, 1.5, 1.75, 4.0)])
def learned(x0, D, D_pre, w):
    """The training target whose fixed point is Domain Guidance of a given weight.

    At rest D is its own training target, with the main model in the place of x0.

    Try x0 + k (D - D_pre), set it equal to D, and solve for D - D_pre. Which k makes it w (x0 - D_pre)?
    """
    step = D - D_pre
    return x0 + (1 - 1 / w) * step, {
        "with w - 1 it rests at the weight 1/(2 - w), not at w": x0 + (w - 1) * step,
        "that is what training with w leads to, the other way round": x0 + (1 / (2 - w) - 1) * step,
        "that is the weight of DogFit itself; only what exceeds 1 is fed back": x0 + (2 - 1 / w) * step,
        "your sign is turned, so that the network is pulled towards the guide": x0 + (1 / w - 1) * step,
        "that is 1/w; what is fed back grows with w, from 0 at w = 1": x0 + step / w,
        "your sign is turned, and the factor is that of DogFit itself": x0 + (1 - w) * step,
        "that starts from D; the data come in through x0": D + (1 - 1 / w) * step,
        "x0 is missing: without it nothing ties the network to the data": D_pre + w * step,
        "with w it has no place to rest: at w above 1 each round carries it further away": x0 + w * step,
        "that leads there too, with w times the scatter; keep x0 and change the factor alone": (
            D_pre + w * (x0 - D_pre)
        ),
        "you feed back x0 - D_pre; the network's own way is from D_pre to D": x0 + (1 - 1 / w) * (x0 - D_pre),
    }
