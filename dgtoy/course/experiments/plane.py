"""The guidance plane: no guidance, CFG and DoG are points of it. Is the best point on one of their lines? (C19)"""

import dataclasses
import time

import matplotlib.pyplot as plt
import numpy as np

from ...guidance import plane
from .. import plot
from ..lab import Judge, Setting, finetuned, pretrained
from ..records import caption, record, row, rows
from .gap import moments


@dataclasses.dataclass(frozen=True)
class Config:
    """The grid of domain weights a and class weights b."""

    setting: Setting = Setting()
    a: tuple = (1.0, 1.1, 1.25, 1.5)
    b: tuple = (1.0, 1.1, 1.25, 1.5)

    @classmethod
    def quick(cls):
        return cls()

    @classmethod
    def full(cls):
        values = (0.9, 1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5, 1.75, 2.0)
        return cls(Setting(seeds=64, samples=1024), a=values[:10], b=values)


def run(config, device="cpu", progress=False):
    """Rows of a, b and each metric by seed, and the log stds of source, target and class for the closed form."""
    started, found = time.time(), []
    setting = config.setting
    pre, ft, judge = (
        pretrained(setting, device, progress),
        finetuned(setting, device, progress),
        Judge(setting, device),
    )
    guide, null = pre.denoiser(pre.null), ft.denoiser(ft.null)
    for a in config.a:
        for b in config.b:
            found.append(dict(a=a, b=b, **judge.score(lambda c: plane(guide, null, ft.denoiser(c), a, b))))
    world = setting.world()
    laws = dict(source=world.source, domain=world.target, label=world.target.given(0))
    stds = {
        name: float(np.exp(np.mean([np.log(moments(law, axis)[1]) for axis in (0, 1)])))
        for name, law in laws.items()
    }
    return record("plane", config, dict(rows=found, stds=stds), started, device)


def best(record, on, budget=0.015):
    """The best point of each family by the mean over the seeds `on`.  -> {"CFG": (a, b), "DoG": (a, b), "plane": (a, b)}

    CFG (a = 1) and DoG (a = b): the lowest energy distance among points with out-of-domain rate at most `budget`, or the
    lowest rate if there is none. plane, off both lines: the point whose worst ratio to those two, over both metrics, is
    smallest, so that below 1 it beats both lines in both. Raises ValueError if the grid has no point off the lines.
    """
    mean = lambda r, metric: np.mean([r[metric][s] for s in on])

    def pick(family, limit):
        inside = [r for r in family if mean(r, "out_of_domain") <= limit]
        return (
            min(inside, key=lambda r: mean(r, "energy"))
            if inside
            else min(family, key=lambda r: mean(r, "out_of_domain"))
        )

    cfg = pick([r for r in rows(record) if r["a"] == 1], budget)
    dog = pick([r for r in rows(record) if r["a"] == r["b"]], budget)
    off = [r for r in rows(record) if r["a"] != 1 and r["a"] != r["b"]]
    if not off:
        raise ValueError("the grid has no point off the lines a = 1 and a = b")
    worst = lambda r: max(
        mean(r, m) / max(mean(line, m), 1e-9) for line in (cfg, dog) for m in ("out_of_domain", "energy")
    )
    chosen = dict(CFG=cfg, DoG=dog, plane=min(off, key=worst))
    return {name: (r["a"], r["b"]) for name, r in chosen.items()}


def figure(record):
    """Maps of out-of-domain rate and energy distance over the plane, the two lines and the closed form's level sets."""
    with plot.style():
        fig, axes = plt.subplots(1, 2, figsize=(14, 5.6))
        for ax, metric in zip(axes, ("out_of_domain", "energy"), strict=True):
            draw(ax, record, metric)
        axes[0].set_title("Out of domain: both directions help")
        axes[1].set_title("Match: best between the lines")
        axes[0].legend(loc="upper left", fontsize=11)
        fig.supxlabel(f"{caption(record)}; dashed: equal std by the closed form", fontsize=11)
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
        ax.plot(
            1,
            1,
            "o",
            color="white",
            markeredgecolor="black",
            markersize=11,
            label="no guidance",
            linestyle="",
        )
    ax.set(xlabel="a, weight of the domain direction", ylabel="b, weight of the class direction")
