"""Photographs: what else is done with a guide, on the trade-off of precision and recall. (C33)

A cell is one fine-tune of one target. All methods share one sampler, Euler's (DDIM), as in `relatives`.
"""

import dataclasses

import numpy as np

from ...samplers import euler
from .. import plot, rivals
from ..lab import replace
from ..photos import finetuned
from ..pictures import tenth
from ..records import values
from .panels import frame, look_of
from .photos import Config as Study
from .photos import PhotoConfig, own, prepared
from .photos_guides import mixed
from .runs import in_cells


@dataclasses.dataclass(frozen=True)
class Config(PhotoConfig):
    """weights: of every method of `rivals`. interval, b: as in `photos`."""

    weights: tuple = (1.5,)
    interval: tuple = Study().interval
    b: float = Study().b

    @classmethod
    def full(cls):
        setting = replace(Study.full().setting, samples=500, steps=40)
        return cls(setting, targets=("food", "vehicles"), weights=(1.25, 1.5, 2.0, 3.0))


def _cell(config, device, target, seed):
    """Rows of target, method and w, with each metric."""
    setting, last = replace(config.setting, domain=target), config.setting.finetune.steps
    judge, pre = prepared(setting, config.base, seed, device)
    kept = finetuned(setting, seed, pre, at=(tenth(last),))
    nets = (net.compile() for net in (kept[last], pre, kept[tenth(last)], mixed(pre, kept[last], 0.5)))
    models = rivals.Models(*nets, setting.sigmas(), config.interval, config.b)
    ways = {("none", 1.0): models.main}
    ways |= {(name, w): rivals.method(name, models, w) for name in rivals.METHODS for w in config.weights}
    return [
        dict(target=target, method=name, w=w, score=judge.judged(way, seed, sampler=euler))
        for (name, w), way in ways.items()
    ]


compute, run = in_cells(_cell, lambda config: [(t,) for t in config.targets])


def figure(record):
    """Of each target every method's Fréchet distance at its own weight, and where that lies between precision
    and recall."""
    targets = record["config"]["targets"]
    foot = f"{len(record['seeds'])} fine-tunes of each target, each method at its own w; dotted: no guidance"
    size = (7.5 * len(targets), 11)
    claim = "The guide decides, the update hardly: what is done with CFG's guide does not reach DoG"
    with frame([*targets, *[""] * len(targets)], size, foot, rows=2, claim=claim) as (fig, axes):
        for above, below, target in zip(axes, axes[len(targets) :], targets):
            names = sorted(rivals.METHODS, key=lambda name: own(record, name, target).mean())
            for place, name in enumerate(names):
                above.plot(own(record, name, target).mean(), -place, **_dot(name))
            both = lambda name: [own(record, name, target, m).mean() for m in ("recall", "precision")]
            _named(below, {name: both(name) for name in names})
            above.set_yticks([-place for place in range(len(names))], names)
            none = np.mean(values(record, "frechet", method="none", target=target))
            above.axvline(none, **plot.METHODS["none"] | dict(marker=""))
            above.set(xlabel="Fréchet distance")
            below.set(xlabel="recall", ylabel="precision")
            for ax in (above, below):
                ax.locator_params(axis="x", nbins=5)  # more, and numbers touch
    return fig


def _named(ax, points):
    """Points, and their names in a column beside them, each with a line to its own."""
    ordered = sorted(points, key=lambda name: -points[name][1])
    for name, height in zip(ordered, np.linspace(1, 0, len(ordered))):
        line = dict(arrowstyle="-", color="0.8", shrinkA=0, relpos=(0, 0.5))
        where = dict(xytext=(1.03, height), textcoords="axes fraction", va="center", fontsize=11)
        ax.annotate(name, points[name], arrowprops=line, **where)
        ax.plot(*points[name], **_dot(name))


def _dot(name):
    """A method as a dot, in the colour of its guide."""
    return dict(color=look_of(name)["color"], marker="o", markersize=8, linestyle="")
