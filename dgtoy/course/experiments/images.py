"""Small images, the target inside the source: each method over w, over target size, steps and classes. (C13)

One fine-tune serves every number of steps: its averaged weights are kept along the way. Methods start from the same
noise, and a seed is a new target set, a new label table, new batches and new noise.
"""

import dataclasses
import time

import matplotlib.pyplot as plt
import numpy as np

from ... import shipped as weights
from ...guidance import autoguidance, cfg, domain_guidance, guided
from .. import plot
from ..records import best, merge, record, rows
from .pictures import QUICK, Judge, Setting, cells, finetuned


@dataclasses.dataclass(frozen=True)
class Config:
    """`grid`: (classes, images a class) of the targets. `stages`: fine-tuning steps. `interval`: where the interval method guides."""

    setting: Setting = QUICK
    grid: tuple = ((10, 20),)
    stages: tuple = (20, 60)
    weights: tuple = (1.5,)
    interval: tuple = (0.2, 2.0)

    @classmethod
    def quick(cls):
        return cls()

    @classmethod
    def full(cls):
        return cls(
            Setting(),
            grid=((10, 5), (10, 20), (10, 100), (10, 1000), (62, 5), (62, 20)),
            stages=(300, 1000, 3000),
            weights=(1.1, 1.25, 1.5, 2.0, 3.0, 4.0),
        )


def run(config, device="cpu", progress=False):
    """Rows of classes, size, steps, method, w and each metric by seed; `floor`: truth against truth, by classes."""
    found, seconds = compute(config, device, progress=progress)
    floors = {
        str(c): Judge(config.setting.but(classes=c), device).floor()
        for c in sorted({c for c, _ in config.grid})
    }
    return record(
        "images", config, dict(rows=merge(found.values()), floor=floors), time.time() - seconds, device
    )


def compute(config, device="cpu", part=(0, 1), progress=False):
    """The results of every cell, or of a part of them, and the seconds they took."""
    return cells(
        "images",
        _cell,
        [(config, device, *g, s) for g in config.grid for s in config.setting.each_seed()],
        part,
        progress,
    )


def _cell(key):
    config, device, classes, size, seed = key
    stages = config.stages
    setting = config.setting.but(classes=classes, size=size, finetune=dict(steps=max(stages)))
    judge, pre, found = Judge(setting, device), weights.load("glyphs", device), []
    kept = finetuned(setting, seed, device, at={*stages, *(max(1, s // 10) for s in stages)})
    for stage in stages:
        where = dict(classes=classes, size=size, steps=stage)
        for method, w, D in methods(config, kept[stage], kept[max(1, stage // 10)], pre, judge.label):
            found.append(dict(**where, method=method, w=w, score=judge.score(judge.sample(D, seed))))
    return found


def methods(config, ft, weaker, pre, y):
    """Every method at every weight: (name, w, denoiser)."""
    main, guide = ft.denoiser(y), pre.denoiser(pre.null)
    yield "none", 1.0, main
    for w in config.weights:
        yield "CFG", w, cfg(ft, y, ft.null, w)
        yield "DoG", w, domain_guidance(main, guide, w)
        yield "autoguidance", w, autoguidance(main, weaker.denoiser(y), w)
        yield "DoG on an interval", w, guided(main, guide, w, config.interval)


def figure(record):
    """Sweeps over w at the last point of the grid, and the gain of DoG over CFG, each at its best w, over the whole grid."""
    config = record["config"]
    classes, size = config["grid"][-1]
    where = dict(classes=classes, size=size, steps=config["stages"][-1])
    with plot.style():
        fig, axes = plt.subplots(1, 4, figsize=(19, 5.2), width_ratios=(1, 1, 1, 1.2))
        titles = ("DoG: closer to the target,", "truer in style,", "and broader, up to a point")
        none = rows(record, method="none", **where)
        for ax, metric, title in zip(axes, ("frechet", "style_error", "coverage"), titles, strict=False):
            for method in ("CFG", "DoG", "autoguidance", "DoG on an interval"):
                found = none + rows(record, method=method, **where)
                plot.sweep(ax, [r["w"] for r in found], [r[metric] for r in found], method)
            ax.axhline(np.mean(none[0][metric]), label="none", **{**plot.METHODS["none"], "marker": ""})
            ax.axhline(
                np.mean(record["results"]["floor"][str(classes)][metric]),
                color="black",
                linewidth=1,
                label="truth",
            )
            ax.set(
                xlabel="guidance weight w",
                ylabel=plot.NAMES[metric] if metric != "coverage" else "coverage of the true images",
                title=title,
            )
        axes[0].legend(fontsize=10)
        gains(axes[3], record)
        fig.supxlabel(
            f"{classes} classes, {size} images a class, {where['steps']} steps; {len(record['seeds'])} seeds, 95% bootstrap intervals",
            fontsize=11,
        )
    return fig


def gains(ax, record, metric="frechet"):
    """How much lower the metric is with DoG than with CFG, in per cent, each at its own best w chosen on the even seeds, shown on the odd ones."""
    config, seeds = record["config"], record["seeds"]
    table = []
    for classes, size in config["grid"]:
        line = []
        for steps in config["stages"]:
            where = dict(classes=classes, size=size, steps=steps)
            dog, other = (
                np.array(best(record, metric, seeds[::2], m, **where)[metric])[seeds[1::2]]
                for m in ("DoG", "CFG")
            )
            line.append(100 * (1 - dog.mean() / other.mean()))
        table.append(line)
    plot.heat(
        ax, config["stages"], range(len(table)), table, "", cmap="RdBu", centre=0, fmt="{:+.0f}%", bar=False
    )
    ax.set_yticks(range(len(table)), [f"{c} × {n}" for c, n in config["grid"]])
    ax.set(xlabel="fine-tuning steps", ylabel="classes × images", title="Fréchet: DoG against CFG")
