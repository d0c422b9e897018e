"""How much target data? Guidance after fine-tuning on few and on many points a class. (C11)"""

import dataclasses
import time

import matplotlib.pyplot as plt
import numpy as np

from ...guidance import cfg, domain_guidance
from .. import plot
from ..lab import Judge, Setting, finetuned, pretrained
from ..records import caption, record, rows


@dataclasses.dataclass(frozen=True)
class Config:
    """Target points a class, and the weight at which methods are compared."""

    setting: Setting = Setting()
    sizes: tuple = (16, 64, 256)
    w: float = 1.25

    @classmethod
    def quick(cls):
        return cls()

    @classmethod
    def full(cls):
        return cls(Setting(seeds=64, samples=1024), sizes=(8, 16, 32, 64, 128, 256, 512, 1024))


def run(config, device="cpu", progress=False):
    """Rows of size, method and each metric by seed."""
    started, found = time.time(), []
    for size in config.sizes:
        setting = config.setting.but(size=size)
        pre, ft = pretrained(setting, device, progress), finetuned(setting, device, progress)
        judge, guide = Judge(setting, device), pre.denoiser(pre.null)
        for method, make in {
            "none": ft.denoiser,
            "CFG": lambda c: cfg(ft, c, ft.null, config.w),
            "DoG": lambda c: domain_guidance(ft.denoiser(c), guide, config.w),
        }.items():
            found.append(dict(size=size, method=method, **judge.score(make)))
    return record("size", config, dict(rows=found), started, device)


def figure(record):
    """Out-of-domain rate and energy distance against the number of target points, and what guidance gains."""
    sizes = record["config"]["sizes"]
    with plot.style():
        fig, axes = plt.subplots(1, 3, figsize=(15, 4.6))
        for method in ("none", "CFG", "DoG"):
            found = rows(record, method=method)
            plot.sweep(axes[0], sizes, [r["out_of_domain"] for r in found], method)
            plot.sweep(axes[1], sizes, [r["energy"] for r in found], method)
        for method in ("CFG", "DoG"):
            gain = [
                np.subtract(n["out_of_domain"], g["out_of_domain"])
                for n, g in zip(rows(record, method="none"), rows(record, method=method), strict=True)
            ]
            plot.sweep(axes[2], sizes, gain, method)
        for ax, name in zip(
            axes,
            ("out-of-domain rate", "energy distance to the truth", "out-of-domain rate saved"),
            strict=True,
        ):
            ax.set(xscale="log", xlabel="target points a class", ylabel=name)
        axes[0].set_title(f"DoG helps at every size (w = {record['config']['w']})")
        axes[1].set_title("The match is best without it")
        axes[2].set_title("Its gain does not grow as data shrinks")
        axes[0].set_ylim(0, 0.1)
        axes[0].legend(ncols=3, loc="upper left", fontsize=11, columnspacing=1)
        fig.supxlabel(caption(record), fontsize=11)
    return fig
