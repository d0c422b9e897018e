"""Checks for the exercises of notebook 10: the pipeline of a real DiT."""

import torch

from . import choice, function, normal, number


@number(rtol=0.01)
def level():
    """The noise level sigma of a time at which abar is 0.2."""
    signal, noise = 0.2**0.5, (1 - 0.2) ** 0.5  # x_t = signal x0 + noise eps
    return noise / signal, {
        "that is sigma squared; take the root": (noise / signal) ** 2,
        "that is the noise in the shrunk picture x_t; divide by sqrt(abar), as the picture is": noise,
        "you divided by abar; the picture was shrunk by its root": noise / signal**2,
        "that is signal over noise; sigma is noise over signal": signal / noise,
        "that is the factor by which the picture is shrunk; sigma is the noise after it is undone": signal,
        "you dropped the -1: not all that is left of the 1 is noise": 1 / signal,
    }


@function(cases=[(*normal(2, 5, 4, 3, 3), w) for w in (0.0, 1.0, 1.5, 4.0)])
def three(main, guide, w):
    """Domain Guidance on the first three of four channels, as the official code of DiT guides."""

    def first(n, rest=main, w=w):
        """The first n channels guided, the others those of `rest`."""
        return torch.cat([(guide + w * (main - guide))[:, :n], rest[:, n:]], 1)

    whole = first(4)
    return first(3), {
        "you guided all four channels; the last one keeps the main model's own": whole,
        "your last channel is the guide's; it is the main model that is to be improved": first(3, rest=guide),
        "you guided the last three channels, not the first": torch.cat([main[:, :1], whole[:, 1:]], 1),
        "you guided one channel too few": first(2),
        "guide and main are swapped: at w = 1 nothing but the main model may be left": first(3, w=1 - w),
        "your weight is off by one: at w = 1 the result is the main model's": first(3, w=w + 1),
        "your weight is one too small: at w = 1 the main model is left, not the guide": first(3, w=w - 1),
        "your sign is turned: the step goes from the guide to the main model": first(3, w=-w),
        "you cut along the batch; channels are the second axis": torch.cat([whole[:3], main[3:]]),
    }


@choice
def crowded():
    """How to tell that a guided sampler loses by crowding and not by bad pictures."""
    return "c", dict(
        a="the class error says whether the digit is the right one; it is low for both here",
        b="more samples lower the distance of every method; they do not tell why one is ahead",
        d="the weight w = 1 is no guidance at all; that it is better says that guidance harms, and not how",
    )
