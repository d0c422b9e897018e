"""Does the ordering survive other samplers and fewer steps? (C12)"""

import dataclasses
import time

import matplotlib.pyplot as plt
import torch

from ...guidance import cfg, domain_guidance
from ...samplers import ancestral, dpmpp_2m, euler, heun
from .. import plot
from ..lab import Judge, Setting, finetuned, pretrained
from ..records import caption, record, rows

SAMPLERS = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m, "ancestral": ancestral}


@dataclasses.dataclass(frozen=True)
class Config:
    """Each sampler at each number of steps, at one weight."""

    setting: Setting = Setting()
    samplers: tuple = ("euler", "heun", "dpmpp_2m", "ancestral")
    steps: tuple = (8, 32)
    w: float = 1.25

    @classmethod
    def quick(cls):
        return cls()

    @classmethod
    def full(cls):
        return cls(Setting(seeds=64, samples=1024), steps=(4, 8, 16, 32, 64, 128))


def run(config, device="cpu", progress=False):
    """Rows of sampler, steps, method and each metric by seed."""
    started, found = time.time(), []
    setting = config.setting
    pre, ft, judge = (
        pretrained(setting, device, progress),
        finetuned(setting, device, progress),
        Judge(setting, device),
    )
    methods = {
        "none": ft.denoiser,
        "CFG": lambda c: cfg(ft, c, ft.null, config.w),
        "DoG": lambda c: domain_guidance(ft.denoiser(c), pre.denoiser(pre.null), config.w),
    }
    for name in config.samplers:
        for steps in config.steps:
            for method, make in methods.items():
                options = {}
                if name == "ancestral":  # every method of a seed also shares the noise of the steps
                    options["generator"] = [
                        torch.Generator(device).manual_seed(900_000 + s) for s in range(setting.seeds)
                    ]
                found.append(
                    dict(
                        sampler=name,
                        steps=steps,
                        method=method,
                        **judge.score(make, SAMPLERS[name], steps, **options),
                    )
                )
    return record("steps", config, dict(rows=found), started, device)


def figure(record):
    """Out-of-domain rate against the number of steps, one panel a sampler."""
    config = record["config"]
    with plot.style():
        fig, axes = plt.subplots(
            1, len(config["samplers"]), figsize=(4.2 * len(config["samplers"]), 4.6), sharey=True
        )
        for ax, name in zip(axes, config["samplers"], strict=True):
            for method in ("none", "CFG", "DoG"):
                found = rows(record, sampler=name, method=method)
                plot.sweep(ax, [r["steps"] for r in found], [r["out_of_domain"] for r in found], method)
            ax.set(xscale="log", xlabel="steps", title=name)
            ax.set_xticks(config["steps"], config["steps"], minor=False)
            ax.set_xticks([], minor=True)
        axes[0].set(ylabel="out-of-domain rate", yscale="symlog")
        axes[0].set_yscale("symlog", linthresh=0.02)
        axes[0].set_ylim(0, 1.05)
        axes[0].legend(loc="upper right", fontsize=11)
        fig.suptitle(
            f"DoG stays lowest once the sampler has converged (w = {config['w']})",
            fontweight="bold",
            x=0.01,
            ha="left",
        )
        fig.supxlabel(caption(record), fontsize=11)
    return fig
