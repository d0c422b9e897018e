"""Small images: Domain Guidance made cheaper. Quality against network calls (an interval, every k-th step,
fewer steps), and against precision."""

import copy
import dataclasses
import math

import numpy as np

from ...dit.fast import fast
from ...guidance import domain_guidance, reused
from .. import plot
from ..pictures import BROAD, PictureConfig, finetuned, prepared
from ..records import caption, rows, values
from .images_dogfit import counted
from .panels import frame
from .runs import in_cells

PRECISIONS = (
    "float32",
    "bfloat16",
    "8 bits",
)  # of weights and products, the last two as `dit.fast` runs them
WAYS = {  # the guide is called: in whose look, and in words
    "none": ("none", "not guided"),
    "every": ("DoG", "guide in every k-th step"),
    "interval": ("DoG on an interval", "guide on an interval"),
}


@dataclasses.dataclass(frozen=True)
class Config(PictureConfig):
    """`w`: of Domain Guidance. `every`: the guide is called in every so many-th step. `intervals`: of
    noise levels in which it is called."""

    w: float = 1.5
    steps: tuple = (5, 10)
    every: tuple = (1, 2, 3)
    intervals: tuple = ((0.2, 2.0),)

    @classmethod
    def full(cls):
        return cls(BROAD, steps=(10, 20, 40), every=(1, 2, 3, 4), intervals=((0.2, 2.0), (0.2, 8.0)))


def _cell(config, device, seed):
    """Rows of steps, way, every or interval, and each metric and the calls of both networks for an image;
    and rows of precisions."""
    judge, pre = prepared(config.setting, device)
    ft, calls, found = finetuned(config.setting, seed, device), [], []
    guide = counted(pre.denoiser, calls)(pre.null)

    def guided(guide, interval=(0.0, math.inf)):
        return lambda y: domain_guidance(ft.denoiser(y), guide, config.w, interval)

    def add(method, steps, **where):
        calls.clear()
        score = judge.judged(method, seed, steps=steps)
        found.append(dict(steps=steps, **where, score=score | dict(calls=steps + len(calls))))

    for steps in config.steps:
        add(ft.denoiser, steps, way="none")
        for k in config.every:
            add(guided(reused(guide, k)), steps, way="every", every=k)
        for lo, hi in config.intervals:
            add(guided(guide, (lo, hi)), steps, way="interval", lo=lo, hi=hi)
    return found + _precisions(config, judge, ft, pre, seed)


compute, run = in_cells(_cell)


def _precisions(config, judge, ft, pre, seed):
    """Domain Guidance with both networks in each of three precisions; with every score, how far the images
    lie from those of float32."""
    found, exact = [], None
    for precision in PRECISIONS:
        main, guide = (net.with_net(copy.deepcopy(net.net)) for net in (ft, pre))
        main.amp = guide.amp = False
        if precision != "float32":
            fast(main, guide, fp8=precision == "8 bits")
        method = lambda y: domain_guidance(main.denoiser(y), guide.denoiser(pre.null), config.w)
        x = judge.sample(method, seed)
        exact = x if exact is None else exact
        score = judge.score(x) | dict(differs=((x - exact).norm() / exact.norm()).item())
        found.append(dict(way="numbers", numbers=precision, score=score))
    return found


def figure(record):
    """Fréchet distance and foreign style against the calls of both networks for an image; a
    line for each number of steps."""
    config = record["config"]
    fades = np.linspace(0.35, 1, len(config["steps"]))
    titles = (
        "Fewer calls of the guide (k written beside)",
        "Paler: fewer steps",
        f"Fewer bits, {config['setting']['steps']} steps",
    )
    with frame(titles, (19, 5.4), caption(record, f"; w = {config['w']:g}")) as (fig, axes):
        for ax, metric in zip(axes[:2], ("frechet", "style_error"), strict=True):
            for steps, fade in zip(config["steps"], fades, strict=True):
                labels = steps == max(config["steps"]) and metric == "frechet"
                of_calls(ax, record, steps, metric, fade, labels)
            ax.set(xlabel="network calls for an image, of both networks", ylabel=plot.NAMES[metric])
        by_precision = [values(record, "frechet", way="numbers", numbers=p) for p in PRECISIONS]
        more = [v - by_precision[0] for v in by_precision[1:]]
        plot.bars(axes[2], more, PRECISIONS[1:], ["DoG"] * len(more))
        axes[2].set_xlabel("Fréchet distance, change to float32")
        axes[0].legend(fontsize=11)
    return fig


def of_calls(ax, record, steps, metric, fade=1.0, labels=True):
    """One metric against the calls of both networks for an image, in so many steps: no guidance, a guide
    in every k-th step, and on an interval."""
    for way, (method, words) in WAYS.items():
        found = rows(record, steps=steps, way=way)
        x, y = [np.mean(r["calls"]) for r in found], [r[metric] for r in found]
        label = f"{words}, {steps} steps" if labels else "_"
        line = ":" if way == "every" else "none"
        plot.sweep(ax, x, y, method, label, alpha=fade, linestyle=line)
    for r in rows(record, steps=steps, way="every"):
        place = (np.mean(r["calls"]), np.mean(r[metric]))
        look = dict(textcoords="offset points", xytext=(5, 5), fontsize=10, alpha=fade)
        ax.annotate(f"{r['every']}", place, **look)
