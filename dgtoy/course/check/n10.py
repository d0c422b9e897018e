"""Checks for the exercises of notebook 10: the pipeline of a real DiT."""

import torch

from . import choice, exercise, function, number

ABAR = 0.2


@exercise
def level(answer):
    """The noise level sigma of a time at which abar is 0.2."""
    return number(
        answer,
        (1 / ABAR - 1) ** 0.5,
        {
            "that is sigma squared; take the root": 1 / ABAR - 1,
            "that is the noise in the shrunk picture x_t; divide by sqrt(abar), as the picture is": (1 - ABAR)
            ** 0.5,
            "you divided by abar; the picture was shrunk by its root": (1 - ABAR) ** 0.5 / ABAR,
            "that is signal over noise; sigma is noise over signal": (ABAR / (1 - ABAR)) ** 0.5,
            "that is the factor by which the picture is shrunk; sigma is the noise after it is undone": ABAR
            ** 0.5,
            "you dropped the -1: not all that is left of the 1 is noise": ABAR**-0.5,
        },
        rtol=0.01,
    )


def _guided(main, guide, w, channels=3, rest=None):
    first = guide[:, :channels] + w * (main[:, :channels] - guide[:, :channels])
    return torch.cat([first, (main if rest is None else rest)[:, channels:]], 1)


@exercise
def three(answer):
    """Domain Guidance on the first three of four channels, as the official code of DiT guides."""
    g = torch.Generator().manual_seed(0)
    main, guide = torch.randn(2, 5, 4, 3, 3, generator=g, dtype=torch.float64)
    return function(
        answer,
        _guided,
        [(main, guide, w) for w in (0.0, 1.0, 1.5, 4.0)],
        {
            "you guided all four channels; the last one keeps the main model's own": lambda m, p, w: _guided(
                m, p, w, 4
            ),
            "your last channel is the guide's; it is the main model that is to be improved": lambda m, p, w: (
                _guided(m, p, w, rest=p)
            ),
            "you guided the last three channels; the first three were asked": lambda m, p, w: torch.cat(
                [m[:, :1], (p + w * (m - p))[:, 1:]], 1
            ),
            "you guided one channel too few": lambda m, p, w: _guided(m, p, w, 2),
            "guide and main are swapped: at w = 1 nothing but the main model may be left": lambda m, p, w: (
                _guided(p, m, w, rest=m)
            ),
            "your weight is off by one: at w = 1 the result is the main model's": lambda m, p, w: _guided(
                m, p, w + 1
            ),
            "your weight is one too small: at w = 1 the result is the main model's, not the guide's": lambda m, p, w: (
                _guided(m, p, w - 1)
            ),
            "your sign is turned: the step goes from the guide to the main model": lambda m, p, w: _guided(
                m, p, -w
            ),
            "you cut along the batch; channels are the second axis": lambda m, p, w: torch.cat(
                [(p + w * (m - p))[:3], m[3:]]
            ),
        },
    )


@exercise
def crowded(answer):
    """How to tell that a guided sampler loses by crowding and not by bad pictures."""
    return choice(
        answer,
        "c",
        {
            "a": "the class error says whether the digit is the right one; it is low for both here",
            "b": "more samples lower the distance of every method; they do not tell why one is ahead",
            "d": "the weight w = 1 is no guidance at all; that it is better says that guidance harms and not how",
        },
    )
