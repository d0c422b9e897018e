"""Does the ordering survive other samplers and fewer steps? (C12)"""

import dataclasses
import time

import matplotlib.pyplot as plt
import torch

from ...samplers import ancestral, dpmpp_2m, euler, heun
from .. import plot
from ..lab import FULL, REPLICA, PointSetting, Presets, methods, prepared
from ..records import record, rows
from .panels import foot

SAMPLERS = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m, "ancestral": ancestral}


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """Each sampler at each number of steps, at one weight."""

    setting: PointSetting = PointSetting()
    samplers: tuple = tuple(SAMPLERS)
    steps: tuple = (8, 32)
    w: float = 1.25

    @classmethod
    def full(cls):
        return cls(FULL, steps=(4, 8, 16, 32, 64, 128))

    @classmethod
    def replica(cls):
        return cls(REPLICA)


def run(config, device="cpu", progress=False):
    """Rows of sampler, steps, method and each metric by seed."""
    started, found = time.time(), []
    pre, ft, judge = prepared(config.setting, device, progress)
    for sampler in config.samplers:
        for steps in config.steps:
            for name, _, method in methods(ft, pre, [config.w]):
                options = _noise(config.setting, device) if sampler == "ancestral" else {}
                x = judge.sample(method, sampler=SAMPLERS[sampler], steps=steps, **options)
                found.append(dict(sampler=sampler, steps=steps, method=name, **judge.score(x)))
    return record("steps", config, dict(rows=found), started, device)


def _noise(setting, device):
    """Generators, one for each seed, for the noise of the steps: the same for every method."""
    return dict(generator=[torch.Generator(device).manual_seed(900_000 + s) for s in setting.each_seed()])


def figure(record):
    """Out-of-domain rate against the number of steps, one panel for each sampler."""
    config = record["config"]
    samplers = config["samplers"]
    with plot.style():
        fig, axes = plt.subplots(1, len(samplers), figsize=(4.2 * len(samplers), 4.6), sharey=True)
        for ax, sampler in zip(axes, samplers, strict=True):
            for method in ("none", "CFG", "DoG"):
                found = rows(record, sampler=sampler, method=method)
                plot.sweep(ax, [r["steps"] for r in found], [r["out_of_domain"] for r in found], method)
            ax.set(xscale="log", xlabel="steps", title=sampler)
            ax.set_xticks(config["steps"], config["steps"], minor=False)
            ax.set_xticks([], minor=True)
        axes[0].set(ylabel="out-of-domain rate", yscale="symlog")
        axes[0].set_yscale("symlog", linthresh=0.02)
        axes[0].set_ylim(0, 1.05)
        axes[0].legend(loc="upper right", fontsize=11)
        title = f"DoG stays lowest once the sampler has converged (w = {config['w']})"
        fig.suptitle(title, fontweight="bold", x=0.01, ha="left")
        foot(fig, record)
    return fig
