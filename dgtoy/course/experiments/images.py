"""Small images, the target inside the source: each method over w, over target size, steps and classes. (C13)

One fine-tune serves every number of steps: its averaged weights are kept along the way. Methods start from
the same noise, and a seed is a new target set, a new label table, new batches and new noise.
"""

import dataclasses

import numpy as np

from .. import plot
from ..lab import methods, replace
from ..pictures import PictureConfig, PictureJudge, PictureSetting, course, prepared, replica, tenth
from ..records import family, held_out
from .panels import frame, level, over_weights, unguided
from .runs import in_cells, merged

METHODS = ("CFG", "DoG", "autoguidance", "DoG on an interval")


@dataclasses.dataclass(frozen=True)
class Config(PictureConfig):
    """`grid`: (classes, images a class) of the targets. `stages`: fine-tuning steps.
    `interval`: where the interval method guides."""

    grid: tuple = ((10, 20),)
    stages: tuple = (20, 60)
    weights: tuple = (1.5,)
    interval: tuple = (0.2, 2.0)

    @classmethod
    def full(cls):
        return cls(
            PictureSetting(),
            grid=((10, 5), (10, 20), (10, 100), (10, 1000), (62, 5), (62, 20)),
            stages=(300, 1000, 3000),
            weights=(1.1, 1.25, 1.5, 2.0, 3.0, 4.0),
        )

    @classmethod
    def replica(cls):
        return replica(cls.full(), grid=((62, 20),))


def _cell(config, device, classes, size, seed):
    """Rows of classes, size, steps, method, w and each metric."""
    setting, found = replace(config.setting, classes=classes, size=size), []
    judge, pre = prepared(setting, device)
    tuned = course(setting, config.stages, seed, device)
    for steps in config.stages:
        options = dict(interval=config.interval, weaker=tuned[tenth(steps)])
        for name, w, method in methods(tuned[steps], pre, config.weights, ("none", *METHODS), **options):
            where = dict(classes=classes, size=size, steps=steps, method=name, w=w)
            found.append(dict(where, score=judge.judged(method, seed)))
    return found


def _results(config, device, found):
    """The rows of all cells; `floor`: truth against truth, by classes."""
    judges = {c: PictureJudge(replace(config.setting, classes=c), device) for c, _ in sorted(config.grid)}
    return merged(config, device, found) | dict(floor={str(c): judge.floor() for c, judge in judges.items()})


compute, run = in_cells(_cell, lambda config: config.grid, _results)


def figure(record):
    """Sweeps over w at the last point of the grid, and the gain of DoG over CFG, each at its
    best w, over the whole grid."""
    config = record["config"]
    classes, size = config["grid"][-1]
    where = dict(classes=classes, size=size, steps=config["stages"][-1])
    titles = {
        "frechet": "DoG: closer to the target,",
        "style_error": "truer in style,",
        "coverage": "and broader, up to a point",
    }
    shown = f"{classes} classes, {size} images per class, {where['steps']} steps"
    foot = f"left: {shown}; {len(record['seeds'])} seeds, 95% t intervals"
    with frame((*titles.values(), ""), (19, 5.2), foot, width_ratios=(1, 1, 1, 1.2)) as (fig, axes):
        for ax, metric in zip(axes, titles, strict=False):
            over_weights(ax, record, metric, METHODS, **where)
            unguided(ax, record, metric, **where)
            truth = np.mean(record["results"]["floor"][str(classes)][metric])
            level(ax, truth, label="truth")
        axes[2].set_ylabel("coverage of the true images")
        axes[0].legend(fontsize=10)
        gains(axes[3], record)
    return fig


def gains(ax, record):
    """How much lower the Fréchet distance is with DoG than with CFG, in per cent, each at its
    own best w, chosen on other seeds."""
    config = record["config"]

    def gain(**where):
        dog, other = (held_out(family(record, m, **where)).mean() for m in ("DoG", "CFG"))
        return 100 * (1 - dog / other)

    table = [[gain(classes=c, size=n, steps=s) for s in config["stages"]] for c, n in config["grid"]]
    look = dict(cmap="RdBu", centre=0, fmt="{:+.0f}%", bar=False)
    plot.heat(ax, config["stages"], range(len(table)), table, "", **look)
    ax.set_yticks(range(len(table)), [f"{c} × {n}" for c, n in config["grid"]])
    ax.set(xlabel="fine-tuning steps", ylabel="classes × images", title="DoG's lead over CFG")
