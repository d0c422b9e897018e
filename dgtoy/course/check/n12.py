"""Checks for the exercises of notebook 12: guiding a model of one's own."""

import functools

import torch

from ..experiments import posters
from . import Exercise, function, normal, number, record


@number(rtol=0.001)
def price():
    """Calls of a network for one picture in 30 steps, with `domain` on an interval of 12 of them.

    How many calls does a step take inside the interval, and how many outside?

    Inside: the fine-tune with the prompt, the fine-tune without it, and the base. Outside: the first two.
    """
    steps, guided = 30, 12
    return 3 * guided + 2 * (steps - guided), {
        "that is the base in every step; outside the interval it is not asked": 3 * steps,
        "those are the calls inside the interval; outside there are calls too": 3 * guided,
        "that is the one-weight form; with `domain` the prompt has its guidance in every step": steps
        + guided,
        "that is the two calls of the prompt's guidance in every step; the base is asked in some": 2 * steps,
        "that is sampling without any guidance": steps,
        "outside the interval the prompt's guidance goes on: two calls, not one": 3 * guided + steps - guided,
        "three calls belong inside the interval; yours is the other way round": (
            3 * (steps - guided) + 2 * guided
        ),
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

    The pipeline will compute null + w (labelled - null). What must the two be, so that this is DoG?

    Split x and c in the middle, ask one network about each part, and put the answers together in the same
    order.
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
        "the pipeline computes the guided estimate itself; give it the two answers": (
            guide(x, c) + 1.5 * (main(x, c) - guide(x, c))
        ),
        "the answers come back in the wrong order: the null half was first": torch.cat([last, first]),
        "you took every second row for a half; halves are the first rows and the last": (
            torch.cat([guide(x[::2], c[::2]), main(x[1::2], c[1::2])])
        ),
        "each half has its own condition, not both the first part": torch.cat([first, main(x[n:], c[:n])]),
        "each half has its own condition, not both the last part": torch.cat([guide(x[:n], c[n:]), last]),
    }


ALIKE, BURNT = 0.40, 0.06  # what the game allows


def _signs(x):
    """How alike two pictures of x (n, H, W, 3) are on average, and the share of burnt colour values."""
    correlation = torch.corrcoef(x.flatten(1))
    pairs = correlation[torch.triu(torch.ones_like(correlation), 1) > 0]
    return pairs.mean().item(), ((x < 0.02) | (x > 0.98)).float().mean().item(), correlation.mean().item()


def _defended(answer, declare):
    """declare() -> {w: its signs}"""
    signs = declare()
    try:
        w, alike, burnt = map(float, answer)
    except (TypeError, ValueError):
        return f"yours is {str(answer)[:40]!r}; expected three numbers (w, alike, burnt)"
    if w not in signs:
        return f"w is {w:g}; the record has {', '.join(f'{known:g}' for known in signs)}"
    allowed = [w for w, (alike, burnt, _) in signs.items() if alike <= ALIKE and burnt <= BURNT]
    best = max(allowed)
    if w > best:
        return f"at w = {w:g} two pictures correlate by {signs[w][0]:.2f}; the game allows {ALIKE:.2f}"
    if w < best:
        return f"w = {w:g} is allowed, but so is a larger weight, and the game wants the largest"
    next_alike, next_burnt, with_itself = signs[min(known for known in signs if known > best)]
    right = lambda yours, value: abs(yours - value) <= 0.02 * value
    if right(alike, next_alike) and right(burnt, next_burnt):
        return None
    if right(alike, signs[w][0]) or right(burnt, signs[w][1]):
        return "the weight is right; a defence says what is wrong with the next larger one, not with this one"
    if right(alike, with_itself):
        return "the weight is right; you let each picture correlate with itself as well: only pairs count"
    if right(alike, next_burnt) or right(burnt, next_alike):
        return "the weight is right; the order is (w, alike, burnt)"
    if right(alike, 100 * next_alike) or right(burnt, 100 * next_burnt):
        return "the weight is right; the two numbers are shares, not percentages"
    name, came = ("burnt", burnt) if right(alike, next_alike) else ("alike", alike)
    return f"the weight is right; {name} at the next larger weight is not {came:.3g}"


@functools.partial(Exercise, _defended)
def weight():
    """The largest weight whose sixteen pizzas are different enough, and what rules out the next larger one.

    Apply the two functions to each of the three rows. Which rows keep both limits?

    The defence is two numbers of the first row that breaks a limit.
    """
    found = record("posters")
    strips = {r["row"]: posters.strip(r) for r in found["results"]["rows"] if r["target"] == "one class"}
    signs = {}
    for w in found["config"]["prices"]:
        pixels = torch.from_numpy(strips[f"DoG, w = {w:g}"]) / 255  # (64, 16 64, 3)
        signs[w] = _signs(pixels.unflatten(1, (-1, 64)).movedim(1, 0))
    return signs


@function(cases=[(x, x.cumsum(0).cumsum(1), phi) for x, phi in zip(normal(2, 4, 3, 5, 5), (0.7, 0.4))])
def rescaled(main, guided, phi):
    """Guidance rescale: the guided estimate with a share phi of the spread that guidance added taken back.

    A standard deviation of each picture by itself: over all its channels and pixels.

    First scale `guided` so that each picture has the spread of `main`, then mix: phi of it, and 1 - phi of
    `guided`.
    """
    axes = tuple(range(1, main.ndim))
    spread = lambda x: x.std(axes, keepdim=True)
    ratio, mean = spread(main) / spread(guided), guided.mean(axes, keepdim=True)
    return (phi * ratio + 1 - phi) * guided, {
        "phi and 1 - phi are swapped: phi = 0 must change nothing": ((1 - phi) * ratio + phi) * guided,
        "the ratio is upside down: guided pictures have too much spread, and it must fall": (
            (phi / ratio + 1 - phi) * guided
        ),
        "you rescale all pictures by one number; each has its own spread": (
            (phi * main.std() / guided.std() + 1 - phi) * guided
        ),
        "you rescale each channel by itself; one number a picture keeps the colours apart": (
            (phi * main.std((2, 3), keepdim=True) / guided.std((2, 3), keepdim=True) + 1 - phi) * guided
        ),
        "you kept the mean of each picture; here the whole estimate is scaled": (
            phi * (guided - mean) * ratio + phi * mean + (1 - phi) * guided
        ),
        "that is a ratio of variances; take that of standard deviations": (phi * ratio**2 + 1 - phi) * guided,
        "mix the two estimates; a power of the ratio is another thing": ratio**phi * guided,
        "that is phi = 1; mix with the guided estimate": ratio * guided,
        "you mix with the unguided estimate; mix with the guided one": phi * ratio * guided
        + (1 - phi) * main,
        "that is the guided estimate, unchanged": guided,
        "that is the unguided estimate": main,
    }
