"""Where does it help, where does it hurt? A map over domain gap, source breadth and w. (C8)"""

import dataclasses
import time

import matplotlib.pyplot as plt
import numpy as np

from .. import plot, theory
from ..domains import STD
from ..guidance import cfg, domain_guidance
from .base import Judge, Setting, finetuned, pretrained, record, row


@dataclasses.dataclass(frozen=True)
class Config:
    """The map: each gap, breadth of the source and weight."""

    setting: Setting = Setting(finetune=dataclasses.replace(Setting().finetune, steps=1000))
    gaps: tuple = (0.0, 1.0, 2.0)
    breadths: tuple = (0.5, 1.0)
    weights: tuple = (1.25,)

    @classmethod
    def quick(cls):
        return cls()

    @classmethod
    def full(cls):
        return cls(Setting(seeds=64), gaps=(0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0), breadths=(0.25, 0.5, 1.0, 2.0, 3.0),
                   weights=(1.1, 1.25, 1.5, 2.0))


def run(config, device="cpu", progress=False):
    """Rows of gap, breadth, method, w and each metric by seed, with the closed form's overshoot for that cell."""
    started, found = time.time(), []
    for breadth in config.breadths:
        for gap in config.gaps:
            setting = config.setting.but(gap=gap, breadth=breadth)
            pre, ft = pretrained(setting, device, progress), finetuned(setting, device, progress)
            judge, guide = Judge(setting, device), pre.denoiser(pre.null)
            cell = dict(gap=gap, breadth=breadth)
            found.append(dict(**cell, method="none", w=1.0, overshoot=0.0, **judge.score(ft.denoiser)))
            for w in config.weights:
                over = overshoot(setting, w)
                for method, make in {"CFG": lambda c: cfg(ft, c, ft.null, w),
                                     "DoG": lambda c: domain_guidance(ft.denoiser(c), guide, w)}.items():
                    found.append(dict(**cell, method=method, w=w, overshoot=over, **judge.score(make)))
    return record("gap", config, dict(rows=found), started, device)


def overshoot(setting, w):
    """The closed form's shift of the samples away from the source, in units of the target's stroke width.

    Source and each class enter as Gaussians with their own mean and std along x, the direction of the gap; averaged
    over classes. 1 is where the formula says that samples leave the stroke they should lie on.
    """
    world = setting.world()
    source = moments(world.source)
    shifts = []
    for c in range(world.target.num_classes):
        target = moments(world.target.given(c))
        end, _ = theory.gaussian_guidance(target, source, w)
        shifts.append(abs(end - target[0]))
    return float(np.mean(shifts)) / STD


def moments(mixture, axis=0):
    """Mean and std of a mixture along one axis."""
    mean = mixture.weights @ mixture.means[:, axis]
    second = mixture.weights @ (mixture.means[:, axis] ** 2 + mixture.covs[:, axis, axis])
    return mean.item(), (second - mean**2).sqrt().item()


def saved(record, w, method="DoG", metric="out_of_domain"):
    """Metric of none minus metric of the method, mean over seeds: positive where guidance helps.  (breadths, gaps)"""
    config = record["config"]
    cell = lambda b, g: np.subtract(row(record, gap=g, breadth=b, method="none")[metric],
                                    row(record, gap=g, breadth=b, method=method, w=w)[metric]).mean()
    return np.array([[cell(b, g) for g in config["gaps"]] for b in config["breadths"]])


def figure(record):
    """Maps of what DoG saves in out-of-domain rate and in energy distance, with the closed form's boundary."""
    config = record["config"]
    w = 1.25
    over = np.array([[row(record, gap=g, breadth=b, method="DoG", w=w)["overshoot"] for g in config["gaps"]] for b in config["breadths"]])
    with plot.style():
        fig, axes = plt.subplots(1, 2, figsize=(15, 5))
        for ax, metric in zip(axes, ("out_of_domain", "energy"), strict=True):
            plot.heat(ax, config["gaps"], config["breadths"], saved(record, w, metric=metric), f"{plot.NAMES[metric]}, none minus DoG",
                      cmap="RdBu", centre=0.0)
            if over.min() < 1 < over.max():
                ax.contour(over, levels=[1.0], colors="black", linewidths=3)
            ax.set(xlabel="domain gap (1: target at the source's edge)", ylabel="source breadth")
        axes[0].set_title(f"Blue: DoG keeps more in the domain (w = {w})")
        axes[1].set_title("Blue: DoG matches the target better")
        fig.supxlabel(f"{len(record['seeds'])} seeds; black: the closed form's overshoot is one stroke width", fontsize=11)
    return fig
