"""How much target data? Guidance after fine-tuning on few and on many points per class. (C11)"""

import dataclasses
import time

import matplotlib.pyplot as plt

from .. import plot
from ..lab import FULL, REPLICA, PointSetting, Presets, methods, prepared, replace
from ..records import record, rows, values
from .panels import foot


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """Target points per class, and the weight at which methods are compared."""

    setting: PointSetting = PointSetting()
    sizes: tuple = (16, 64, 256)
    w: float = 1.25

    @classmethod
    def full(cls):
        return cls(FULL, sizes=(8, 16, 32, 64, 128, 256, 512, 1024))

    @classmethod
    def replica(cls):
        return cls(REPLICA)


def run(config, device="cpu", progress=False):
    """Rows of size, method and each metric by seed."""
    started, found = time.time(), []
    for size in config.sizes:
        pre, ft, judge = prepared(replace(config.setting, size=size), device, progress)
        for name, _, method in methods(ft, pre, [config.w]):
            found.append(dict(size=size, method=name, **judge.score(judge.sample(method))))
    return record("size", config, dict(rows=found), started, device)


def saved(record, method):
    """How much lower the out-of-domain rate is with a method than without guidance.  -> (sizes, S)"""
    rate = lambda size, name: values(record, "out_of_domain", size=size, method=name)
    return [rate(size, "none") - rate(size, method) for size in record["config"]["sizes"]]


def figure(record):
    """Out-of-domain rate and energy distance against the number of target points, and what guidance gains."""
    sizes = record["config"]["sizes"]
    with plot.style():
        fig, axes = plt.subplots(1, 3, figsize=(15, 4.6))
        for ax, metric in zip(axes, ("out_of_domain", "energy"), strict=False):
            for method in ("none", "CFG", "DoG"):
                plot.sweep(ax, sizes, [r[metric] for r in rows(record, method=method)], method)
            ax.set_ylabel(plot.NAMES[metric])
        for method in ("CFG", "DoG"):
            plot.sweep(axes[2], sizes, saved(record, method), method)
        axes[2].set_ylabel("out-of-domain rate saved")
        for ax in axes:
            ax.set(xscale="log", xlabel="target points a class")
        axes[0].set_title(f"DoG helps at every size (w = {record['config']['w']})")
        axes[1].set_title("The match is best without it")
        axes[2].set_title("Its gain does not grow as data shrinks")
        axes[0].set_ylim(0, 0.1)
        axes[0].legend(ncols=3, loc="upper left", fontsize=11, columnspacing=1)
        foot(fig, record)
    return fig
