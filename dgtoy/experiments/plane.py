"""The guidance plane: no guidance, CFG and DoG are points of it. Is the best point on one of their lines? (C19)"""

import dataclasses
import time

import matplotlib.pyplot as plt
import numpy as np

from .. import plot
from ..guidance import plane
from .base import Judge, Setting, finetuned, pretrained, record, row, rows
from .gap import moments


@dataclasses.dataclass(frozen=True)
class Config:
    """The grid of domain weights a and class weights b."""

    setting: Setting = Setting(samples=512)
    a: tuple = (1.0, 1.1, 1.25, 1.5)
    b: tuple = (1.0, 1.1, 1.25, 1.5)

    @classmethod
    def quick(cls):
        return cls()

    @classmethod
    def full(cls):
        values = (0.9, 1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5, 1.75, 2.0)
        return cls(Setting(seeds=64), a=values[:10], b=values)


def run(config, device="cpu", progress=False):
    """Rows of a, b and each metric by seed, and the log stds of source, target and class for the closed form."""
    started, found = time.time(), []
    setting = config.setting
    pre, ft, judge = pretrained(setting, device, progress), finetuned(setting, device, progress), Judge(setting, device)
    guide, null = pre.denoiser(pre.null), ft.denoiser(ft.null)
    for a in config.a:
        for b in config.b:
            found.append(dict(a=a, b=b, **judge.score(lambda c: plane(guide, null, ft.denoiser(c), a, b))))
    world = setting.world()
    laws = dict(source=world.source, domain=world.target, label=world.target.given(0))
    stds = {name: float(np.exp(np.mean([np.log(moments(law, axis)[1]) for axis in (0, 1)]))) for name, law in laws.items()}
    return record("plane", config, dict(rows=found, stds=stds), started, device)


def best(record, on, lines=("CFG", "DoG", "plane"), budget=0.015):
    """For each family the point of lowest energy distance among those with out-of-domain rate at most `budget`.

    Chosen by the mean over the seeds `on`; a family without such a point gives its lowest out-of-domain rate.
    `plane` excludes the lines a = 1 (CFG) and a = b (DoG).  -> {family: (a, b)}
    """
    member = {"CFG": lambda r: r["a"] == 1, "DoG": lambda r: r["a"] == r["b"], "plane": lambda r: r["a"] != 1 and r["a"] != r["b"]}
    mean = lambda r, metric: np.mean([r[metric][s] for s in on])
    chosen = {}
    for name in lines:
        family = [r for r in rows(record) if member[name](r)]
        inside = [r for r in family if mean(r, "out_of_domain") <= budget]
        r = min(inside, key=lambda r: mean(r, "energy")) if inside else min(family, key=lambda r: mean(r, "out_of_domain"))
        chosen[name] = r["a"], r["b"]
    return chosen


def figure(record):
    """Maps of out-of-domain rate and energy distance over the plane, the two lines and the closed form's level sets."""
    config, stds = record["config"], record["results"]["stds"]
    with plot.style():
        fig, axes = plt.subplots(1, 2, figsize=(14, 5.6))
        for ax, metric in zip(axes, ("out_of_domain", "energy"), strict=True):
            draw(ax, record, metric)
        axes[0].set_title("Out of domain: both directions help")
        axes[1].set_title("Match: a ridge off both lines")
        axes[0].legend(loc="upper left", fontsize=11)
        fig.supxlabel(f"two moons, {len(record['seeds'])} seeds; dashed: equal std by the closed form", fontsize=11)
    del config, stds
    return fig


def draw(ax, record, metric, marks=True):
    """One map over (a, b), log colour scale, with the CFG and DoG lines and the closed form's level sets."""
    a, b, stds = record["config"]["a"], record["config"]["b"], record["results"]["stds"]
    values = np.array([[np.mean(row(record, a=x, b=y)[metric]) for x in a] for y in b])
    mesh = ax.contourf(a, b, np.log10(np.maximum(values, 1e-4)), levels=14, cmap="cividis")
    bar = ax.figure.colorbar(mesh, ax=ax, label=f"log10 of {plot.NAMES[metric]}")
    bar.ax.tick_params(labelsize=11)
    A, B = np.meshgrid(a, b)
    log_std = (1 - A) * np.log(stds["source"]) + (A - B) * np.log(stds["domain"]) + B * np.log(stds["label"])
    ax.contour(a, b, log_std, levels=6, colors="white", linestyles="dashed", linewidths=1.2)
    if marks:
        ax.plot([1, 1], [min(b), max(b)], label="CFG (a = 1)", **{**plot.METHODS["CFG"], "marker": ""})
        low, high = max(min(a), min(b)), min(max(a), max(b))
        ax.plot([low, high], [low, high], label="DoG (a = b)", **{**plot.METHODS["DoG"], "marker": ""})
        ax.plot(1, 1, "o", color="white", markeredgecolor="black", markersize=11, label="no guidance", linestyle="")
    ax.set(xlabel="a, weight of the domain direction", ylabel="b, weight of the class direction")
