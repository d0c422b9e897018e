"""Checks for the exercises of notebook 09: the same guide on pictures."""

import math
import pathlib

import numpy as np
import torch

from ... import theory
from ..records import load, row
from ..worlds import glyphs
from . import choice, exercise, function, number

FIGURES = pathlib.Path(__file__).parents[3] / "figures"


def _degrees(world):
    """Mean and std of the rotations of a world, in which they are uniform."""
    low, high = dict(world.ranges)["rotation"]
    return (low + high) / 2, (high - low) / math.sqrt(12)


def _beyond(target, source, w):
    return theory.gaussian_guidance(target, source, w)[0] - target[0]


@exercise
def overshoot(answer):
    """By how many degrees would exact models overshoot rotated digits?"""
    target, source, w = _degrees(glyphs.target(narrow=0.2, gap=1.5)), _degrees(glyphs.World()), 2.0
    right, square = _beyond(target, source, w), lambda of: (of[0], of[1] ** 2)
    mistakes = {
        "that is where the samples end; by how much they are beyond the target was asked": right + target[0],
        "that is the overshoot for each degree of distance; multiply it by the distance": right
        / (target[0] - source[0]),
        "you took w - 1 for the factor; that holds only if the source is as narrow as the target": (w - 1)
        * (target[0] - source[0]),
        "that is the overshoot at w = 1.5": _beyond(target, source, 1.5),
        "that is the overshoot at gap 1": _beyond(_degrees(glyphs.target(narrow=0.2, gap=1.0)), source, w),
        "gap 1.5 is 1.5 half-widths of the source from its centre, not 1.5 widths": 2 * right,
        "source and target are swapped": _beyond(source, target, w),
        "yours has the right size and points towards the source; guidance pushes away from it": -right,
        "you put variances where standard deviations belong": _beyond(square(target), square(source), w),
        **_measured(w),
    }
    return number(answer, right, mistakes, rtol=0.02)


def _measured(w):
    """What comes out if one takes measured numbers for the exact ones; nothing where the package was installed without its records."""
    if not (FIGURES / "images_gap.json").exists():
        return {}
    record = load("images_gap", FIGURES)
    read = record["results"]["truth"]["1.5"]
    none, dog = (
        np.mean(row(record, gap=1.5, method=m, w=v)["rotation"]) for m, v in (("none", 1.0), ("DoG", w))
    )
    return {
        "you took the spread that the feature network reads; its errors of reading make the narrow target look broad": _beyond(
            read["target"], read["source"], w
        ),
        "that is by how much the networks of the record went past the target; exact models were asked": dog
        - read["target"][0],
        "that is by how much DoG turned the networks' digits; exact models were asked": dog - none,
    }


def _crossed(choose, show, pick=np.argmin):
    """The values of the seeds `show` at the weight that their mean over the seeds `choose` picks."""
    return show[:, pick(choose.mean(0))]


def _both_ways(crossed, halves=lambda v: (v[::2], v[1::2])):
    def mean(values):
        first, second = halves(np.asarray(values))
        return np.concatenate([crossed(first, second), crossed(second, first)]).mean()

    return mean


@exercise
def fair(answer):
    """What a method is worth at its best weight, when the weight is chosen on one half of the seeds and judged on the other."""
    cases = [
        (np.random.default_rng(seed).normal(size=size),)
        for seed, size in enumerate(((6, 5), (8, 12), (10, 30)))
    ]
    return function(
        answer,
        _both_ways(_crossed),
        cases,
        {
            "you choose and judge on the same seeds, so that the luckiest weight flatters the method": lambda v: (
                v.mean(0).min()
            ),
            "you choose a weight for every single seed and judge it on that seed": lambda v: v.min(1).mean(),
            "you judge each half at the weight that it chose itself": _both_ways(lambda a, b: _crossed(a, a)),
            "you go one way round only; the even seeds have to be judged as well": lambda v: _crossed(
                v[::2], v[1::2]
            ).mean(),
            "you go one way round only; the odd seeds have to be judged as well": lambda v: _crossed(
                v[1::2], v[::2]
            ).mean(),
            "you choose the largest; of a Fréchet distance the lowest is best": _both_ways(
                lambda a, b: _crossed(a, b, np.argmax)
            ),
            "your halves are the first and the last seeds; even and odd ones were asked": _both_ways(
                _crossed, lambda v: (v[: len(v) // 2], v[len(v) // 2 :])
            ),
            "you choose by the single best seed; choose by the mean over a half": _both_ways(
                lambda a, b: b[:, a.min(0).argmin()]
            ),
        },
    )


@exercise
def accident(answer):
    """What does guidance do to rotated digits once the fine-tune has arrived?"""
    return choice(
        answer,
        "b",
        {
            "a": "where it lands depends on the main model as well, and that one has changed",
            "c": "guidance does not know where the target ends; the handwriting shows it",
            "d": "most of those 14 degrees were the way that the fine-tune had left, and now little of it is left",
        },
    )


def _towards(share):
    return lambda x0, D, D_pre, w: x0 + share(w) * (D - D_pre)


@exercise
def learned(answer):
    """The training target whose fixed point is Domain Guidance of a given weight."""
    g = torch.Generator().manual_seed(0)
    three = torch.randn(3, 4, 5, generator=g, dtype=torch.float64)
    return function(
        answer,
        _towards(lambda w: 1 - 1 / w),
        [(*three, w) for w in (1.0, 1.5, 1.75, 4.0)],
        {
            "with w - 1 it rests at the weight 1/(2 - w), not at w": _towards(lambda w: w - 1),
            "that solves for the weight that is reached by training with w; it is asked the other way round": _towards(
                lambda w: 1 / (2 - w) - 1
            ),
            "that is the training weight of the lesson; in the target stands what exceeds 1": _towards(
                lambda w: 2 - 1 / w
            ),
            "your sign is turned, so that the network is pulled towards the guide": _towards(
                lambda w: 1 / w - 1
            ),
            "that is 1/w; what is fed back grows with w, from 0 at w = 1": _towards(lambda w: 1 / w),
            "that steps from D_pre to x0, which guides the noisy truth; the estimate D has to stand in for it": lambda x0, D, D_pre, w: (
                D_pre + w * (x0 - D_pre)
            ),
            "you feed back the way from x0; the estimate of the network goes from D_pre to D": lambda x0, D, D_pre, w: (
                x0 + (1 - 1 / w) * (x0 - D_pre)
            ),
        },
    )
