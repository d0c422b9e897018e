"""Parts of figures that several experiments share: functions of (ax, record)."""

import numpy as np

from .. import plot
from ..records import caption, family, values


def over_weights(ax, record, metric, methods=("CFG", "DoG"), **where):
    """A metric against w: a line for each method, all from no guidance at w = 1."""
    for method in methods:
        found = family(record, method, **where)
        plot.sweep(ax, [r["w"] for r in found], [r[metric] for r in found], method)
    ax.set(xlabel="guidance weight w", ylabel=plot.NAMES.get(metric, metric))


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


def foot(fig, record, more=""):
    """What the figure shows, on how many seeds, with which intervals."""
    fig.supxlabel(caption(record) + more, fontsize=11)
