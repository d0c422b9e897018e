"""How much target data? Guidance after fine-tuning on few and on many points per class. (C11)"""

import dataclasses

from .. import plot
from ..lab import FULL, PointConfig, methods, prepared, replace
from ..records import caption, rows, values
from .panels import curve, frame
from .runs import recorded


@dataclasses.dataclass(frozen=True)
class Config(PointConfig):
    """Target points per class, and the weight at which methods are compared."""

    sizes: tuple = (16, 64, 256)
    w: float = 1.25

    @classmethod
    def full(cls):
        return cls(FULL, sizes=(8, 16, 32, 64, 128, 256, 512, 1024))


@recorded
def run(config, device, progress):
    """Rows of size, method and each metric by seed."""
    for size in config.sizes:
        pre, ft, judge = prepared(replace(config.setting, size=size), device, progress)
        for name, _, method in methods(ft, pre, [config.w]):
            yield dict(size=size, method=name, **judge.judged(method))


def saved(record, method):
    """How much lower the out-of-domain rate is with a method than without guidance.  -> (sizes, S)"""
    rate = lambda size, name: values(record, "out_of_domain", size=size, method=name)
    return [rate(size, "none") - rate(size, method) for size in record["config"]["sizes"]]


def figure(record):
    """Out-of-domain rate and energy distance against the number of target points, and what guidance gains."""
    config = record["config"]
    titles = (
        f"DoG helps at every size (w = {config['w']})",
        "The match is best without it",
        "Its gain does not grow as data shrinks",
    )
    with frame(titles, (15, 4.6), caption(record)) as (fig, axes):
        for ax, metric in zip(axes, ("out_of_domain", "energy"), strict=False):
            for method in ("none", "CFG", "DoG"):
                curve(ax, rows(record, method=method), "size", metric, method)
            ax.set_ylabel(plot.NAMES[metric])
        for method in ("CFG", "DoG"):
            plot.sweep(axes[2], config["sizes"], saved(record, method), method)
        axes[2].set_ylabel("out-of-domain rate saved")
        for ax in axes:
            ax.set(xscale="log", xlabel="target points a class")
        axes[0].set_ylim(0, 0.1)
        axes[0].legend(ncols=3, loc="upper left", fontsize=11, columnspacing=1)
    return fig
