"""How much target data? Guidance after fine-tuning on few and on many points per class. (C11)

However few the points, a fine-tune is stopped where held-out data are fitted best; whoever trains on needs no
guidance but fewer steps. Rates outside the target cannot see memorised points; two measures here do.
"""

import dataclasses

import numpy as np
import torch

from .. import plot
from ..lab import ALWAYS, FIELD, PointConfig, methods, prepared, replace, weaker_self
from ..records import caption, family
from ..tradeoff import area, at_own_weight
from .forgetting import excess
from .panels import frame, level
from .runs import recorded


@dataclasses.dataclass(frozen=True)
class Config(PointConfig):
    """Target points per class; `stages`: steps of fine-tuning, of which each size takes the best; `levels`:
    noise levels at which held-out error is measured. `interval`, `b`: as in `transfer`."""

    sizes: tuple = (16, 64, 256)
    stages: tuple = (500, 2000)
    weights: tuple = (1.1, 1.25, 1.5)
    levels: tuple = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
    interval: tuple = (0.0, 0.5)
    b: float = 0.4

    @classmethod
    def full(cls):
        """For one core of a CPU: half an hour."""
        sizes, stages = (8, 16, 32, 64, 128, 256, 512, 1024), (250, 500, 1000, 2000, 5000)
        return cls(sizes=sizes, stages=stages, weights=(1.05, 1.1, 1.25, 1.5, 2.0))


@recorded
def run(config, device, progress):
    """Rows of size, the steps that were best, method, w, each metric and `nearest` by seed; `held_out`: the
    error by seed after every number of steps."""
    found, held_out = [], []
    for size in config.sizes:
        trained = {}
        for steps in config.stages:
            setting = replace(config.setting, size=size, finetune=dict(steps=steps))
            trained[steps] = prepared(setting, device, progress)
            errors = held_out_error(trained[steps][1], trained[steps][2].parts, config)
            held_out.append(dict(size=size, steps=steps, error=errors))
        best = min((h for h in held_out if h["size"] == size), key=lambda h: np.mean(h["error"]))
        pre, ft, judge = trained[best["steps"]]
        best_of_size = replace(config.setting, size=size, finetune=dict(steps=best["steps"]))
        weaker = weaker_self(best_of_size, device, progress)
        data = setting.world(device).data(size, setting.each_seed(), device)
        field = methods(ft, pre, config.weights, ("none", *FIELD), config.interval, weaker, config.b)
        for name, w, method in field:
            x = judge.sample(method)
            where = dict(size=size, steps=best["steps"], method=name, w=w)
            found.append(where | judge.score(x) | dict(nearest=nearest(x, data, judge.truth)))
    return dict(rows=found, held_out=held_out)


def held_out_error(ft, parts, config):
    """The excess error of the labelled branch on fresh points of its class, averaged over classes.  -> [S]"""
    measured = (config.setting.seeds, config.setting.samples, config.levels)
    by_class = [excess(ft.denoiser(c), part, *measured) for c, part in enumerate(parts)]
    return [round(v, 6) for v in torch.stack(by_class).mean(0).tolist()]


def nearest(x, data, truth):
    """Median distance of samples to the nearest training point of their class, relative to that of true
    samples, averaged over classes: 0 for copies, 1 for fresh samples.

    x (classes, S, n, 2), data: `Points` of S seeds, truth: (m, 2) for each class.  -> [S]
    """
    by_class = []
    for c, samples in enumerate(x):
        points = data.x0[data.label == c].view(len(data.x0), -1, 2)  # (S, size, 2)
        fresh = truth[c].expand(len(points), -1, 2)  # (S, m, 2)
        distance = lambda a: torch.cdist(a, points).amin(-1).median(-1).values  # (S,)
        by_class.append(distance(samples) / distance(fresh))
    return [round(v, 6) for v in torch.stack(by_class).mean(0).tolist()]


def outliers_removed(record, method="DoG"):
    """The share of the samples outside that a method removes over its whole trade-off.  -> (sizes, S)"""
    shares = []
    for size in record["config"]["sizes"]:
        rows = family(record, method, size=size)
        shares.append(1 - area(rows) / np.mean(rows[0]["out_of_domain"]))
    return np.array(shares)


def brought_closer(record, method="DoG"):
    """By which share of itself the energy distance to fresh points falls at the weight that is best for it on
    the other half of the seeds.  -> (sizes, S)"""
    shares = []
    for size in record["config"]["sizes"]:
        rows = family(record, method, size=size)
        own = at_own_weight(rows, "energy", minimize="energy", budget=np.inf)
        shares.append((rows[0]["energy"] - own["energy"]) / np.mean(rows[0]["energy"]))
    return np.array(shares)


def figure(record):
    """What each method gains, by both measures, and how far samples lie from the training points."""
    config = record["config"]
    titles = (
        "With fewer points guidance\nremoves fewer of the outliers",
        "Only CFG comes closer to\nfresh points, given many",
        "Guided samples lie nearer\nto the training points",
    )
    with frame(titles, (15, 5), caption(record)) as (fig, axes):
        for method in ALWAYS:
            plot.sweep(axes[0], config["sizes"], outliers_removed(record, method), method)
            plot.sweep(axes[1], config["sizes"], brought_closer(record, method), method)
        for method in ("none", *ALWAYS):
            own = [
                at_own_weight(family(record, method, size=s), "nearest")["nearest"] for s in config["sizes"]
            ]
            plot.sweep(axes[2], config["sizes"], own, method)
        axes[0].set_ylabel("share of outliers removed, over all w")
        axes[1].set_ylabel("fall of the energy distance, own w")
        axes[2].set_ylabel("distance, 1 for fresh samples")
        level(axes[2], 1)
        for ax in axes:
            ax.set(xscale="log", xlabel="target points per class")
            ax.set_xticks(config["sizes"], config["sizes"], minor=False)
            ax.set_xticks([], minor=True)
        axes[0].legend(*axes[2].get_legend_handles_labels(), loc="lower right", fontsize=11)
    return fig
