"""Small images: Domain Guidance made cheaper. Quality against network calls (an interval, every k-th step, fewer steps), and against precision."""

import copy
import dataclasses
import math
import time

import matplotlib.pyplot as plt
import numpy as np

from ... import shipped as weights
from ...dit.fast import fast
from ...guidance import domain_guidance, reused
from .. import plot
from ..records import merge, record, rows
from .pictures import QUICK, Judge, Setting, cells, finetuned

PRECISIONS = (
    "float32",
    "bfloat16",
    "8 bits",
)  # of the weights and products; the last two as `dit.fast` runs them


@dataclasses.dataclass(frozen=True)
class Config:
    """`w`: of Domain Guidance. `every`: the guide is called in every so many-th step. `intervals`: of noise levels in which it is called."""

    setting: Setting = QUICK
    w: float = 1.5
    steps: tuple = (5, 10)
    every: tuple = (1, 2, 3)
    intervals: tuple = ((0.2, 2.0),)

    @classmethod
    def quick(cls):
        return cls()

    @classmethod
    def full(cls):
        return cls(
            Setting(classes=62, size=20),
            steps=(10, 20, 40),
            every=(1, 2, 3, 4),
            intervals=((0.2, 2.0), (0.2, 8.0)),
        )


def run(config, device="cpu", progress=False):
    """Rows of steps, way, every or interval, and by seed each metric and the calls of both networks for an image; and rows of precisions."""
    found, seconds = compute(config, device, progress=progress)
    return record("images_cost", config, dict(rows=merge(found.values())), time.time() - seconds, device)


def compute(config, device="cpu", part=(0, 1), progress=False):
    """The results of every cell, or of a part of them, and the seconds they took."""
    return cells(
        "images_cost", _cell, [(config, device, s) for s in config.setting.each_seed()], part, progress
    )


def _cell(key):
    config, device, seed = key
    judge, pre, found = Judge(config.setting, device), weights.load("glyphs", device), []
    ft, calls = finetuned(config.setting, seed, device), []
    D, plain = ft.denoiser(judge.label), pre.denoiser(pre.null)

    def guide(x, sigma):
        calls.append(1)
        return plain(x, sigma)

    for steps in config.steps:

        def add(method, **where):
            calls.clear()
            score = judge.score(judge.sample(method, seed, steps=steps))
            found.append(dict(steps=steps, **where, score=score | dict(calls=steps + len(calls))))

        add(D, way="none")
        for k in config.every:
            add(domain_guidance(D, reused(guide, k), config.w), way="every", every=k)
        for lo, hi in config.intervals:
            add(
                domain_guidance(D, guide, config.w, (lo, math.inf if hi is None else hi)),
                way="interval",
                lo=lo,
                hi=hi,
            )
    return found + _precisions(config, judge, ft, pre, seed)


def _precisions(config, judge, ft, pre, seed):
    """Domain Guidance with both networks in each of three precisions; with every score, how far the images lie from those of float32."""
    found, exact = [], None
    for precision in PRECISIONS:
        nets = [net.with_net(copy.deepcopy(net.net)) for net in (ft, pre)]
        for net in nets:
            net.amp = False
        if precision != "float32":
            fast(*nets, fp8=precision == "8 bits")
        x = judge.sample(
            domain_guidance(nets[0].denoiser(judge.label), nets[1].denoiser(pre.null), config.w), seed
        )
        exact = x if exact is None else exact
        found.append(
            dict(
                way="numbers",
                numbers=precision,
                score=judge.score(x) | dict(differs=((x - exact).norm() / exact.norm()).item()),
            )
        )
    return found


def figure(record):
    """Fréchet distance and foreign style against the calls of both networks for an image; a line for each number of steps."""
    config, fades = (
        record["config"],
        dict(
            zip(record["config"]["steps"], np.linspace(0.35, 1, len(record["config"]["steps"])), strict=True)
        ),
    )
    with plot.style():
        fig, axes = plt.subplots(1, 3, figsize=(19, 5.4))
        for ax, metric in zip(axes[:2], ("frechet", "style_error"), strict=True):
            for steps in config["steps"]:
                of_calls(
                    ax,
                    record,
                    steps,
                    metric,
                    fades[steps],
                    labels=steps == max(config["steps"]) and metric == "frechet",
                )
            ax.set(xlabel="network calls for an image, of both networks", ylabel=plot.NAMES[metric])
        found = [rows(record, way="numbers", numbers=p)[0] for p in PRECISIONS]
        more = [np.subtract(r["frechet"], found[0]["frechet"]) for r in found[1:]]
        plot.bars(axes[2], more, PRECISIONS[1:], ["DoG"] * len(more))
        axes[2].set(
            xlabel="Fréchet distance, change to float32",
            title=f"Fewer bits, {config['setting']['steps']} steps",
        )
        axes[0].set_title("Fewer calls of the guide (k written beside)")
        axes[1].set_title("Paler: fewer steps")
        axes[0].legend(fontsize=11)
        fig.supxlabel(
            f"w = {config['w']:g}; {config['setting']['classes']} classes, {config['setting']['size']} images a class; {len(record['seeds'])} seeds, "
            "95% bootstrap intervals",
            fontsize=11,
        )
    return fig


def of_calls(ax, record, steps, metric, fade=1.0, labels=True):
    """One metric against the calls of both networks for an image, in so many steps: no guidance, a guide in every k-th step, and on an interval."""
    looks = dict(none="none", every="DoG", interval="DoG on an interval")
    for way, method in looks.items():
        found = rows(record, steps=steps, way=way)
        label = (
            dict(none="not guided", every="guide in every k-th step", interval="guide on an interval")[way]
            + f", {steps} steps"
            if labels
            else "_"
        )
        plot.sweep(
            ax,
            [np.mean(r["calls"]) for r in found],
            [r[metric] for r in found],
            method,
            label,
            alpha=fade,
            linestyle="none" if way != "every" else ":",
        )
        for r in found if way == "every" else ():
            ax.annotate(
                f"{r['every']}",
                (np.mean(r["calls"]), np.mean(r[metric])),
                textcoords="offset points",
                xytext=(5, 5),
                fontsize=10,
                alpha=fade,
            )
