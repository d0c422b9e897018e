"""How much guidance does a fine-tune need? Weights from held-out data, from unfinished to overfitted. (C18)

The stages follow one fine-tune with the paper's learning rate, 1e-4, as it learns the domain, then the classes, then
the detail; after them one that is finished and one that has overfitted, at ten times that rate.
"""

import dataclasses
import time

import matplotlib.pyplot as plt
import numpy as np
import torch

from ...calibration import calibrate
from ...guidance import cfg, domain_guidance, plane
from .. import plot
from ..lab import Judge, Setting, finetuned, pretrained
from ..records import caption, record, row


@dataclasses.dataclass(frozen=True)
class Config:
    """`stages`: (name, target points a class, fine-tuning steps, learning rate). `held_out`: points a class."""

    setting: Setting = Setting()
    stages: tuple = (
        ("100 steps", 256, 100, 1e-4),
        ("300 steps", 256, 300, 1e-4),
        ("finished", 256, 2000, 1e-3),
        ("overfitted", 16, 3000, 1e-3),
    )
    weights: tuple = (1.25, 2.0)
    held_out: int = 256
    levels: tuple = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.12, 0.06, 0.03, 0.015)

    @classmethod
    def quick(cls):
        return cls()

    @classmethod
    def full(cls):
        course = tuple((f"{n} steps", 256, n, 1e-4) for n in (100, 300, 1000, 3000, 10_000))
        stages = course + (("finished", 256, 10_000, 1e-3), ("overfitted", 16, 3000, 1e-3))
        return cls(Setting(seeds=64, samples=1024), stages, weights=(1.1, 1.25, 1.5, 2.0, 3.0), held_out=1024)


def run(config, device="cpu", progress=False):
    """Rows of stage, method, w ("calibrated" or a constant) and each metric by seed; `fits`: the weights by seed."""
    started, found, fits = time.time(), [], []
    for stage, size, steps, lr in config.stages:
        setting = config.setting.but(size=size, finetune=dict(steps=steps, lr=lr))
        pre, ft = pretrained(setting, device, progress), finetuned(setting, device, progress)
        judge, guide, null = Judge(setting, device), pre.denoiser(pre.null), ft.denoiser(ft.null)
        found.append(dict(stage=stage, method="none", w=1.0, **judge.score(ft.denoiser)))
        for w in config.weights:
            found.append(
                dict(stage=stage, method="CFG", w=w, **judge.score(lambda c: cfg(ft, c, ft.null, w)))
            )
            found.append(
                dict(
                    stage=stage,
                    method="DoG",
                    w=w,
                    **judge.score(lambda c: domain_guidance(ft.denoiser(c), guide, w)),
                )
            )
        weights = weigh(config, setting, pre, ft, device)
        fits.append(
            dict(
                stage=stage,
                **{k: [c.weights.round(decimals=5).tolist() for c in fit] for k, fit in weights.items()},
            )
        )
        by_seed = {
            k: (
                lambda s, fit=fit: torch.stack([c.w(s) for c in fit]),
                lambda s, fit=fit: torch.stack([c.b(s) for c in fit]),
            )
            for k, fit in weights.items()
        }
        methods = {
            "CFG": lambda c: cfg(ft, c, ft.null, by_seed["CFG"][0]),
            "DoG": lambda c: domain_guidance(ft.denoiser(c), guide, by_seed["DoG"][0]),
            "plane": lambda c: plane(guide, null, ft.denoiser(c), *by_seed["plane"]),
        }
        for method, make in methods.items():
            found.append(dict(stage=stage, method=method, w="calibrated", **judge.score(make)))
    return record("calibration", config, dict(rows=found, fits=fits), started, device)


def weigh(config, setting, pre, ft, device):
    """Calibrate each seed's own pair on its own held-out points, all classes together.  -> {method: [Calibration]}"""
    target = setting.world(device).target
    fits = {"CFG": [], "DoG": [], "plane": []}
    for k in range(len(ft)):
        generator = torch.Generator(device).manual_seed(300_000 + k)
        data = (
            torch.cat([target.given(c).sample(config.held_out, generator=generator) for c in range(ft.null)]),
            torch.arange(ft.null, device=device).repeat_interleave(config.held_out),
        )
        tuned, base = ft.member(k), pre.member(k)
        guide, null = base.denoiser(base.null), tuned.denoiser(tuned.null)
        for method, (g, middle) in {
            "CFG": (null, None),
            "DoG": (guide, None),
            "plane": (guide, null),
        }.items():
            noise = torch.Generator(device).manual_seed(400_000 + k)
            fits[method].append(calibrate(tuned.denoiser, g, data, config.levels, middle, noise, resamples=2))
    return fits


SHOWN = {
    "100 steps": ("#D55E00", "-", "o"),
    "300 steps": ("#E69F00", "--", "s"),
    "finished": ("#009E73", "-.", "^"),
    "overfitted": ("#0072B2", ":", "D"),
}


def figure(record):
    """The plane's a*(sigma) and b*(sigma) at four stages, and the match of calibrated guidance, stage by stage."""
    config = record["config"]
    with plot.style():
        fig, axes = plt.subplots(1, 3, figsize=(17.5, 5))
        for column, (ax, what) in enumerate(
            zip(axes, ("a*(σ), domain direction", "b*(σ), class direction"), strict=False)
        ):
            for stage, (color, line, marker) in SHOWN.items():
                fit = next(f for f in record["results"]["fits"] if f["stage"] == stage)
                values = np.array(fit["plane"])[:, :, column].T  # (levels, S)
                plot.sweep(
                    ax, config["levels"], values, "none", stage, color=color, linestyle=line, marker=marker
                )
            ax.axhline(1, color="black", linewidth=1)
            ax.set(xscale="log", xlabel="noise level σ", ylabel=what)
        axes[1].set(yscale="log", yticks=[0.5, 1, 2, 4], yticklabels=["0.5", "1", "2", "4"])
        axes[1].minorticks_off()
        axes[0].set_title("Held-out data see what is unfinished:\nfirst the domain ...")
        axes[1].set_title("... then the classes")
        axes[0].legend()
        names = ("none", "CFG", "DoG", "plane")
        for i, stage in enumerate(SHOWN):
            base = np.mean(row(record, stage=stage, method="none")["energy"])
            for j, method in enumerate(names):
                r = row(record, stage=stage, method=method, w=1.0 if method == "none" else "calibrated")
                plot.bar(
                    axes[2],
                    i + 0.2 * (j - 1.5),
                    np.array(r["energy"]) / base,
                    method,
                    method if i == 0 else None,
                )
        axes[2].axhline(1, color="black", linewidth=1)
        axes[2].set_xticks(range(len(SHOWN)), SHOWN)
        axes[2].set(ylabel="energy distance / that of none", ylim=(0, 1.6))
        axes[2].set_title("Calibrated guidance completes it,\nwith no search over w")
        axes[2].legend(fontsize=11, ncols=4, loc="upper center", columnspacing=1, handlelength=1)
        fig.supxlabel(caption(record), fontsize=11)
    return fig
