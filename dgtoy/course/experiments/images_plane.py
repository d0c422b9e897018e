"""Small images on the guidance plane: the best point, and the weights that held-out images ask for. (C18, C19)"""

import dataclasses
import time

import matplotlib.pyplot as plt
import numpy as np
import torch

from ... import shipped as weights
from ...calibration import calibrate
from ...guidance import cfg, domain_guidance, plane
from .. import plot
from ..records import merge, record, row, rows
from .pictures import QUICK, Judge, Setting, cells, finetuned


@dataclasses.dataclass(frozen=True)
class Config:
    """The grid of weights at each stage (fine-tuning steps); `held_out` images and `levels` for calibration."""

    setting: Setting = QUICK
    stages: tuple = (20, 60)
    a: tuple = (1.0, 1.5)
    b: tuple = (1.0, 1.5)
    held_out: int = 60
    levels: tuple = (8.0, 2.0, 0.5, 0.12)

    @classmethod
    def quick(cls):
        return cls()

    @classmethod
    def full(cls):
        values = (1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5)
        return cls(
            Setting(classes=62, size=20),
            (1000, 3000),
            a=values,
            b=values,
            held_out=620,
            levels=(20.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.12, 0.06, 0.03),
        )


def run(config, device="cpu", progress=False):
    """Rows of stage, method, a, b ("calibrated" or numbers) and each metric by seed; `fits`: calibrated weights by seed."""
    found, seconds = compute(config, device, progress=progress)
    fits = [
        dict(stage=stage, **{m: [r["fits"][i][m] for r in found.values()] for m in ("CFG", "DoG", "plane")})
        for i, stage in enumerate(config.stages)
    ]
    return record(
        "images_plane",
        config,
        dict(rows=merge(r["rows"] for r in found.values()), fits=fits),
        time.time() - seconds,
        device,
    )


def compute(config, device="cpu", part=(0, 1), progress=False):
    """The results of every cell, or of a part of them, and the seconds they took."""
    return cells(
        "images_plane", _cell, [(config, device, s) for s in config.setting.each_seed()], part, progress
    )


def _cell(key):
    config, device, seed = key
    judge, pre = Judge(config.setting, device), weights.load("glyphs", device)
    kept = finetuned(
        config.setting.but(finetune=dict(steps=max(config.stages))), seed, device, at=set(config.stages)
    )
    found, fits = [], []
    for stage in config.stages:
        ft = kept[stage]
        y, guide = judge.label, pre.denoiser(pre.null)
        score = lambda method, a, b, D: found.append(
            dict(stage=stage, method=method, a=a, b=b, score=judge.score(judge.sample(D, seed)))
        )
        for a in config.a:
            for b in config.b:
                score("plane", a, b, plane(guide, ft.denoiser(ft.null), ft.denoiser(y), a, b))
        fit = weigh(config, judge, ft, guide, seed)
        fits.append({k: c.weights.round(decimals=4).tolist() for k, c in fit.items()})
        score("CFG", "calibrated", "calibrated", cfg(ft, y, ft.null, fit["CFG"].w))
        score("DoG", "calibrated", "calibrated", domain_guidance(ft.denoiser(y), guide, fit["DoG"].w))
        score(
            "plane",
            "calibrated",
            "calibrated",
            plane(guide, ft.denoiser(ft.null), ft.denoiser(y), fit["plane"].a, fit["plane"].b),
        )
    return dict(rows=found, fits=fits)


def weigh(config, judge, ft, guide, seed):
    """Calibrated weights of one fine-tune from held-out images that it has not seen.  -> {method: Calibration}"""
    x0 = judge.draw(config.held_out, 7_000 + seed)
    data = (x0, torch.arange(len(x0), device=x0.device) % judge.world.num_classes)
    null, found = ft.denoiser(ft.null), {}
    for method, (g, middle) in {"CFG": (null, None), "DoG": (guide, None), "plane": (guide, null)}.items():
        noise = torch.Generator(judge.device).manual_seed(400_000 + seed)
        found[method] = calibrate(ft.denoiser, g, data, config.levels, middle, noise, resamples=2)
    return found


def best(record, stage, on, metric="frechet"):
    """The best point of each family by the mean over the seeds `on`.  -> {"none", "CFG", "DoG", "plane": (a, b)}"""
    grid = [r for r in rows(record, stage=stage, method="plane") if r["a"] != "calibrated"]
    families = dict(
        none=lambda a, b: a == b == 1,
        CFG=lambda a, b: a == 1,
        DoG=lambda a, b: a == b,
        plane=lambda a, b: a != 1 and a != b,
    )
    mean = lambda r: np.mean([r[metric][s] for s in on])
    chosen = {
        name: min((r for r in grid if keep(r["a"], r["b"])), key=mean) for name, keep in families.items()
    }
    return {name: (r["a"], r["b"]) for name, r in chosen.items()}


def figure(record):
    """At each stage the map of the Fréchet distance with both lines, and the calibrated weights against sigma."""
    config = record["config"]
    with plot.style():
        fig, axes = plt.subplots(len(config["stages"]), 2, figsize=(13, 5 * len(config["stages"])))
        for (left, right), stage, fit in zip(axes, config["stages"], record["results"]["fits"], strict=True):
            values = [
                [np.mean(row(record, stage=stage, method="plane", a=a, b=b)["frechet"]) for a in config["a"]]
                for b in config["b"]
            ]
            mesh = left.contourf(
                config["a"],
                config["b"],
                np.log10(values),
                levels=14,
                cmap="Greys_r",
                vmin=np.log10(values).min() - 0.6,
            )
            fig.colorbar(mesh, ax=left, label="log10 of the Fréchet distance")
            left.plot(
                [1, 1], [1, max(config["b"])], label="CFG (a = 1)", **{**plot.METHODS["CFG"], "marker": ""}
            )
            left.plot(
                [1, max(config["a"])],
                [1, max(config["a"])],
                label="DoG (a = b)",
                **{**plot.METHODS["DoG"], "marker": ""},
            )
            point = best(record, stage, record["seeds"])["plane"]
            left.plot(
                *point,
                linestyle="",
                **{k: v for k, v in plot.METHODS["plane"].items() if k != "linestyle"},
                markersize=16,
                label="best off the lines",
            )
            left.set(
                xlabel="a, weight of the domain direction",
                ylabel="b, weight of the class direction",
                title=f"Match to the target, {stage} steps",
                xlim=(0.97, None),
            )
            for column, (name, method) in enumerate((("a*, domain", "DoG"), ("b*, class", "CFG"))):
                plot.sweep(right, config["levels"], np.array(fit["plane"])[:, :, column].T, method, name)
            right.axhline(1, color="black", linewidth=1)
            right.set(
                xscale="log",
                xlabel="noise level σ",
                ylabel="calibrated weight",
                title=f"What held-out images ask for, {stage} steps",
            )
            right.legend(fontsize=11)
        axes[0, 0].legend(fontsize=11, frameon=True, facecolor="white", framealpha=1, loc="upper right")
        fig.supxlabel(
            f"{config['setting']['classes']} classes, {config['setting']['size']} images a class; {len(record['seeds'])} seeds",
            fontsize=11,
        )
    return fig
