"""Parts of figures that several experiments share: the frame, and functions of (ax, record)."""

import contextlib

import matplotlib.pyplot as plt
import numpy as np

from .. import plot
from ..records import family, values


@contextlib.contextmanager
def frame(titles, size, foot="", rows=1, claim="", **options):
    """A figure in the course's style, and its axes in reading order, each under its title.

    foot: what is written below them. claim: what they show together, above them. options: of `plt.subplots`.
    """
    with plot.style():
        fig, axes = plt.subplots(rows, len(titles) // rows, figsize=size, squeeze=False, **options)
        for ax, title in zip(axes.flat, titles, strict=True):
            ax.set_title(title)
        if claim:
            fig.suptitle(claim, x=0.01, ha="left", weight="bold")
        yield fig, axes.ravel()
        if foot:
            fig.supxlabel(foot, fontsize=11)


def curve(ax, rows, x, y, method, label=None, **look):
    """A method's rows: the mean over seeds of field `y`, with its band, against field `x`."""
    plot.sweep(ax, [r[x] for r in rows], [r[y] for r in rows], method, label, **look)


def over_weights(ax, record, metric, methods=("CFG", "DoG"), **where):
    """A metric against w: a line for each method, all from no guidance at w = 1."""
    for method in methods:
        curve(ax, family(record, method, **where), "w", metric, method)
    ax.set(xlabel="guidance weight w", ylabel=plot.NAMES.get(metric, metric))


def look_of(method):
    """How a method is drawn: as itself, or as its guide where it has no look of its own."""
    guide = next((g for g in ("CFG", "DoG") if method.startswith(g)), "plane")
    return plot.METHODS.get(method, plot.METHODS[guide])


def level(ax, y, **look):
    """A thin black horizontal line for comparison."""
    ax.axhline(y, color="black", linewidth=1, **look)


def unguided(ax, record, metric, **where):
    """The mean without guidance as a horizontal line."""
    none = np.mean(values(record, metric, method="none", **where))
    ax.axhline(none, label="none", **plot.METHODS["none"] | dict(marker=""))


def plane_lines(ax, a, b):
    """The lines of CFG and DoG in the plane of domain weights a and class weights b."""
    low, high = max(min(a), min(b)), min(max(a), max(b))
    ax.plot([1, 1], [min(b), max(b)], label="CFG (a = 1)", **plot.METHODS["CFG"] | dict(marker=""))
    ax.plot([low, high], [low, high], label="DoG (a = b)", **plot.METHODS["DoG"] | dict(marker=""))
    ax.set(xlabel="a, weight of the domain direction", ylabel="b, weight of the class direction")
