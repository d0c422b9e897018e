"""Checks for the exercises of notebook 12: guiding a model of one's own."""

import torch

from . import choice, exercise, function, number


@exercise
def price(answer):
    """Calls of a network for one picture in 50 steps with guidance on an interval of 20 of them."""
    steps, guided = 50, 20
    return number(
        answer,
        steps + guided,
        {
            "those are the calls of the guide; the fine-tuned network is called in every step as well": guided,
            "that is guidance in every step; outside the interval the guide is not called": 2 * steps,
            "you left out the steps outside the interval; the fine-tuned network is called there too": 2
            * guided,
            "that is sampling without any guidance": steps,
            "those are the calls that the interval saves": steps - guided,
            "inside the interval two networks are called, outside one; you have it the other way round": guided
            + 2 * (steps - guided),
        },
        rtol=0.001,
    )


def _split(main, guide, x, c):
    n = len(x) // 2
    return torch.cat([guide(x[:n], c[:n]), main(x[n:], c[n:])])


@exercise
def halves(answer):
    """What stands in the place of a pipeline's network: the null half to the guide, the labelled half to the fine-tune."""
    g = torch.Generator().manual_seed(0)
    main, guide = (lambda x, c: 2 * x + c[:, None]), (lambda x, c: 0.5 * x - c[:, None])
    cases = [
        (main, guide, torch.randn(2, 5, generator=g).repeat(2, 1), torch.tensor([7.0, 7.0, 1.0, 2.0]))
        for _ in range(2)
    ]
    return function(
        answer,
        _split,
        cases,
        {
            "the two networks are swapped: the first half has no label and goes to the guide": lambda m, p, x, c: (
                _split(p, m, x, c)
            ),
            "both halves go to the fine-tune; that is classifier-free guidance": lambda m, p, x, c: m(x, c),
            "both halves go to the guide": lambda m, p, x, c: p(x, c),
            "the answers come back in the wrong order: the null half was first": lambda m, p, x, c: _split(
                m, p, x, c
            ).roll(len(x) // 2, 0),
            "you took every second row for a half; halves are the first rows and the last": lambda m, p, x, c: (
                torch.cat([p(x[::2], c[::2]), m(x[1::2], c[1::2])])
            ),
            "each half needs its own part of the condition; yours gives both halves the first part": lambda m, p, x, c: (
                torch.cat([p(x[:2], c[:2]), m(x[2:], c[:2])])
            ),
            "each half needs its own part of the condition; yours gives both halves the last part": lambda m, p, x, c: (
                torch.cat([p(x[:2], c[2:]), m(x[2:], c[2:])])
            ),
        },
    )


@exercise
def copies(answer):
    """What to do when a guided LoRA draws the same picture eight times."""
    return choice(
        answer,
        "c",
        {
            "a": "more steps follow the same guided flow more closely; they do not make it broader",
            "b": "the fine-tune has not lost its breadth; without guidance the eight pictures differ",
            "d": "a larger weight narrows further; what looks more like the style is less like the training pictures as a whole",
        },
    )
