"""How much guidance does a fine-tune need? Weights from held-out data, from unfinished to overfitted. (C18)"""

import dataclasses
import time

import matplotlib.pyplot as plt
import numpy as np
import torch

from .. import plot
from ..calibration import calibrate
from ..guidance import cfg, domain_guidance, plane
from .base import Judge, Setting, finetuned, pretrained, record, row


@dataclasses.dataclass(frozen=True)
class Config:
    """`stages`: (name, target points a class, fine-tuning steps). `held_out`: points a class that calibration sees."""

    setting: Setting = Setting(samples=512)
    stages: tuple = (("unfinished", 256, 200), ("finished", 256, 2000), ("overfitted", 16, 3000))
    weights: tuple = (1.1, 1.25, 1.5)
    held_out: int = 256
    levels: tuple = (4.0, 2.0, 1.0, 0.5, 0.25, 0.12, 0.06, 0.03, 0.015)

    @classmethod
    def quick(cls):
        return cls()

    @classmethod
    def full(cls):
        stages = (("100 steps", 256, 100), ("unfinished", 256, 200), ("400 steps", 256, 400), ("800 steps", 256, 800),
                  ("finished", 256, 2000), ("5000 steps", 256, 5000), ("overfitted", 16, 3000))
        return cls(Setting(seeds=64), stages, weights=(1.05, 1.1, 1.25, 1.5, 2.0, 3.0), held_out=1024,
                   levels=(8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.12, 0.06, 0.03, 0.015, 0.008))


def run(config, device="cpu", progress=False):
    """Rows of stage, method, w ("calibrated" or a constant) and each metric by seed; `fits`: the weights by seed."""
    started, found, fits = time.time(), [], []
    for stage, size, steps in config.stages:
        setting = config.setting.but(size=size, finetune=dict(steps=steps))
        pre, ft = pretrained(setting, device, progress), finetuned(setting, device, progress)
        judge, guide, null = Judge(setting, device), pre.denoiser(pre.null), ft.denoiser(ft.null)
        found.append(dict(stage=stage, method="none", w=1.0, **judge.score(ft.denoiser)))
        for w in config.weights:
            found.append(dict(stage=stage, method="CFG", w=w, **judge.score(lambda c: cfg(ft, c, ft.null, w))))
            found.append(dict(stage=stage, method="DoG", w=w, **judge.score(lambda c: domain_guidance(ft.denoiser(c), guide, w))))
        weights = weigh(config, setting, pre, ft, device)
        fits.append(dict(stage=stage, **{k: [c.weights.tolist() for c in fit] for k, fit in weights.items()}))
        by_seed = {k: (lambda s, fit=fit: torch.stack([c.w(s) for c in fit]), lambda s, fit=fit: torch.stack([c.b(s) for c in fit]))
                   for k, fit in weights.items()}
        methods = {"CFG": lambda c: cfg_calibrated(ft, c, by_seed["CFG"][0]),
                   "DoG": lambda c: domain_guidance(ft.denoiser(c), guide, by_seed["DoG"][0]),
                   "plane": lambda c: plane(guide, null, ft.denoiser(c), *by_seed["plane"])}
        for method, make in methods.items():
            found.append(dict(stage=stage, method=method, w="calibrated", **judge.score(make)))
    return record("calibration", config, dict(rows=found, fits=fits), started, device)


def cfg_calibrated(ft, label, w):
    """CFG with a weight for each seed and level."""
    return cfg(ft, label, ft.null, w)


def weigh(config, setting, pre, ft, device):
    """Calibrate each seed's own pair on its own held-out points, all classes together.  -> {method: [Calibration]}"""
    target = setting.world(device).target
    fits = {"CFG": [], "DoG": [], "plane": []}
    for k in range(len(ft)):
        generator = torch.Generator(device).manual_seed(300_000 + k)
        data = (torch.cat([target.given(c).sample(config.held_out, generator=generator) for c in range(ft.null)]),
                torch.arange(ft.null, device=device).repeat_interleave(config.held_out))
        tuned, base = ft.member(k), pre.member(k)
        guide, null = base.denoiser(base.null), tuned.denoiser(tuned.null)
        for method, (g, middle) in {"CFG": (null, None), "DoG": (guide, None), "plane": (guide, null)}.items():
            noise = torch.Generator(device).manual_seed(400_000 + k)
            fits[method].append(calibrate(tuned.denoiser, g, data, config.levels, middle, noise, resamples=2))
    return fits


def figure(record):
    """w*(sigma) at each stage, and what calibrated guidance does to the match, stage by stage."""
    config = record["config"]
    shown = [s for s in ("unfinished", "finished", "overfitted")]
    with plot.style():
        fig, axes = plt.subplots(1, 2, figsize=(14.5, 5))
        for stage, (color, line) in zip(shown, (("#D55E00", "-"), ("#009E73", "--"), ("#0072B2", ":")), strict=True):
            fit = next(f for f in record["results"]["fits"] if f["stage"] == stage)
            values = np.array(fit["DoG"])[:, :, 0].T                                    # (levels, S)
            plot.sweep(axes[0], config["levels"], values, "none", stage, color=color, linestyle=line)
        axes[0].axhline(1, color="black", linewidth=1)
        axes[0].set(xscale="log", xlabel="noise level σ", ylabel="w*(σ) from held-out data")
        axes[0].set_title("Held-out data tell an unfinished fine-tune\nfrom a finished and an overfitted one")
        axes[0].legend()
        names = ["none"] + [f"{m}, calibrated" for m in ("CFG", "DoG", "plane")]
        for i, stage in enumerate(shown):
            base = np.mean(row(record, stage=stage, method="none")["energy"])
            for j, name in enumerate(names):
                method = name.split(",")[0]
                r = row(record, stage=stage, method=method, w=1.0 if method == "none" else "calibrated")
                plot.bar(axes[1], i + 0.2 * (j - 1.5), np.array(r["energy"]) / base, method, name if i == 0 else None)
        axes[1].axhline(1, color="black", linewidth=1)
        axes[1].set_xticks(range(len(shown)), shown)
        axes[1].set(ylabel="energy distance / that of no guidance")
        axes[1].set_title("Calibration completes what is unfinished\nand leaves alone what is done")
        axes[1].legend(fontsize=11)
        fig.supxlabel(f"two moons, {len(record['seeds'])} seeds, 95% bootstrap intervals", fontsize=11)
    return fig
