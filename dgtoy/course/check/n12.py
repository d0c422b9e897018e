"""Checks for the exercises of notebook 12: guiding a model of one's own."""

import torch

from . import choice, function, normal, number


@number(rtol=0.001)
def price():
    """Calls of a network for one picture in 50 steps with guidance on an interval of 20 of them.

    How often is the fine-tuned network called, and how often the guide?

    The fine-tuned network is called in each of the 50 steps, the guide only where guidance is on.
    """
    steps, guided = 50, 20
    return steps + guided, {
        "those are the calls of the guide; the fine-tuned network is called in every step as well": guided,
        "that is guidance in every step; outside the interval the guide is not called": 2 * steps,
        "you left out the steps outside the interval; the fine-tuned network is called there too": 2 * guided,
        "that is sampling without any guidance": steps,
        "those are the calls that the interval saves": steps - guided,
        "two calls belong inside the interval; yours is the other way round": guided + 2 * (steps - guided),
    }


def _main(x, c):
    return 2 * x + c[:, None]


def _guide(x, c):
    return 0.5 * x - c[:, None]


@function(
    cases=[(_main, _guide, x.repeat(2, 1), torch.tensor([7.0, 7.0, 1.0, 2.0])) for x in normal(2, 2, 5)]
)
def halves(main, guide, x, c):
    """What stands in for a pipeline's network: the null half to the guide, the labelled to the fine-tune.

    The pipeline computes null + w (labelled - null). Who has to answer for the null half?

    The first n rows go to the guide, the last n to the main network, and come back in this order.
    """
    n = len(x) // 2
    null, label = (x[:n], c[:n]), (x[n:], c[n:])  # what the guide is asked, and the fine-tune
    first, last = guide(*null), main(*label)
    return torch.cat([first, last]), {
        "the two networks are swapped: the first half has no label and goes to the guide": (
            torch.cat([main(*null), guide(*label)])
        ),
        "both halves go to the fine-tune; that is classifier-free guidance": main(x, c),
        "both halves go to the guide": guide(x, c),
        "the answers come back in the wrong order: the null half was first": torch.cat([last, first]),
        "you took every second row for a half; halves are the first rows and the last": (
            torch.cat([guide(x[::2], c[::2]), main(x[1::2], c[1::2])])
        ),
        "each half has its own condition, not both the first part": torch.cat([first, main(x[n:], c[:n])]),
        "each half has its own condition, not both the last part": torch.cat([guide(x[:n], c[n:]), last]),
    }


@choice
def copies():
    """What to do when a guided LoRA draws the same picture eight times.

    Copies and saturated ink are two signs of one cause.

    Without guidance the faces differ, so the LoRA has not lost its breadth. What takes it away, and at
    which noise is a face decided?
    """
    return "c", dict(
        a="more steps follow the same guided flow more closely; they do not make it broader",
        b="the fine-tune has not lost its breadth; without guidance the eight pictures differ",
        d="a larger weight narrows further; more like the style is less like the training pictures",
    )
