"""Photographs on the guidance plane: the best point, the weights that held-out pictures ask for at an equal
total budget, and the guided field learned in training. (C17 to C19)

A cell is one fine-tune of one target on all of its pictures, and one on those that calibration leaves.
"""

import dataclasses

import numpy as np
import torch

from ...guidance import domain_guidance
from ...pipeline.objectives import DogFit
from ...relatives import self_consistent
from .. import plot
from ..lab import replace
from ..photos import LARGE, chosen, finetuned
from ..records import best, caption, held_out, merge, rows, values
from ..worlds import photos
from . import plane
from .calibration import calibrated, weigh
from .panels import frame, level, plane_lines
from .photos import Config as Study
from .photos import PhotoConfig, prepared
from .runs import in_cells

LESS = "none, less data"  # what calibration costs: a fine-tune without the held-out pictures


@dataclasses.dataclass(frozen=True)
class Config(PhotoConfig):
    """stages: fine-tuning steps at which a cell is sampled. a, b: weights of domain and class. share: of the
    pictures, held out to calibrate. levels: of noise, at which weights are found. tried: the weights that
    sampled trajectories choose from, with `few` pictures. learned: weights of DogFit, at the last stage."""

    stages: tuple = (10, 20)
    a: tuple = (1.0, 1.5)
    b: tuple = (1.0, 1.5)
    share: float = 0.25
    levels: tuple = (20.0, 2.0, 0.2)
    tried: tuple = (1.0, 1.5)
    few: int = 16
    learned: tuple = (1.5,)

    @classmethod
    def full(cls):
        grid = (1.0, 1.25, 1.6, 2.2, 3.5)
        return cls(
            replace(Study.full().setting, samples=500),
            targets=("food", "vehicles"),
            stages=(250, 2000),
            a=grid,
            b=grid,
            share=0.1,
            levels=(20.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.12, 0.06),
            tried=(1.0, 1.25, 1.6, 2.2, 3.5),
            few=256,
            learned=(1.5, 2.2),
        )

    @classmethod
    def replica(cls):
        grid = (1.0, 1.6, 2.2, 3.5)
        smaller = dict(targets=("vehicles",), stages=(500,), a=grid, b=grid, learned=(2.2,))
        return replace(cls.full(), setting=dict(first=4), base=LARGE, **smaller)


def _cell(config, device, target, seed):
    """rows of target, stage, method, a, b, with each metric; fits: the calibrated weights of every stage."""
    setting = replace(config.setting, domain=target, finetune=dict(steps=config.stages[-1]))
    judge, pre = prepared(setting, config.base, seed, device)
    every = chosen(setting, seed)
    rest, apart = divided(every, config.share, seed)
    whole = finetuned(setting, seed, pre, config.stages, every)
    less = finetuned(setting, seed, pre, config.stages, rest)
    train = photos.target(target).train.to(device)
    held_out = train.draw(apart, torch.zeros(len(apart), dtype=torch.bool))
    held_out = held_out[0], held_out[1].to(device)
    found, fits, fast = [], [], pre.clone().compile()

    def judged(stage, method, a, b, denoiser):
        found.append(
            dict(target=target, stage=stage, method=method, a=a, b=b, score=judge.judged(denoiser, seed))
        )

    for stage in config.stages:
        for a, b, denoiser in plane.grid(config, whole[stage].compile(), fast):
            judged(stage, "plane", a, b, denoiser)
        judged(stage, LESS, 1.0, 1.0, less[stage].denoiser)
        fit = weigh(less[stage], pre, held_out, config.levels, seed)
        asked = dict(CFG=[fit["CFG"].w], DoG=[fit["DoG"].w], plane=[fit["plane"].a, fit["plane"].b])
        for name, w, denoiser in calibrated(less[stage], pre, asked):
            judged(stage, name, w, w, denoiser)
        w = from_trajectories(config, less[stage], pre, held_out, seed)
        judged(stage, "DoG, from trajectories", "calibrated", "calibrated", dog(less[stage], pre, w))
        weights = {name: c.weights.round(decimals=4).tolist() for name, c in fit.items()}
        fits.append(dict(target=target, stage=stage, score=weights | dict(trajectories=w.weights.tolist())))
    for w in config.learned:
        learned = finetuned(setting, seed, pre, rows=every, objective=DogFit(pre, w))
        judged(config.stages[-1], "DogFit", w, w, learned[config.stages[-1]].denoiser)
    return dict(rows=found, fits=fits)


def divided(rows, share, seed):
    """Rows (n,) of which a share, at random, is set apart.  -> the others, those, both in order"""
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(11_000 + seed))]
    n = round(share * len(rows))
    return order[n:].sort().values, order[:n].sort().values


def from_trajectories(config, tuned, pre, held_out, seed):
    """DoG's weights under which sampling from noised pictures arrives at noised pictures."""
    x0, label = (a[: config.few] for a in held_out)
    generator = torch.Generator(x0.device).manual_seed(410_000 + seed)
    main = tuned.denoiser(label.repeat(len(config.tried)))
    levels, tried = torch.tensor(config.levels, dtype=torch.float64), torch.tensor(config.tried)
    return self_consistent(main, pre.denoiser(pre.null), x0, levels, tried, steps=2, generator=generator)


def dog(tuned, pre, w):
    """DoG as a method, label -> denoiser."""
    return lambda y: domain_guidance(tuned.denoiser(y), pre.denoiser(pre.null), w)


def _results(config, device, found):
    """Rows of all cells, and `fits`, the weights of each target and stage by method and seed."""
    cells = list(found.values())
    return dict(rows=merge(c["rows"] for c in cells), fits=merge(c["fits"] for c in cells))


compute, run = in_cells(_cell, lambda config: [(t,) for t in config.targets], _results)


def families(record, **where):
    """The points of each method's family, calibrated weights aside: of the plane, and of DogFit.
    -> {"none", "CFG", "DoG", "plane", "DogFit": rows}"""
    points = [r for r in rows(record, method="plane", **where) if r["a"] != "calibrated"]
    return plane.families(points) | dict(DogFit=rows(record, method="DogFit", **where))


def own(record, method, target, stage):
    """The Fréchet distance of a method at the weights that are best on other fine-tunes.  -> (S,)"""
    found = families(record, target=target, stage=stage)
    return held_out(found["none"] + found[method])


def figure(record):
    """Of each target, after the last stage: the distance over the plane, and the calibrated weights."""
    config = record["config"]
    titles = [
        f"{t}: {what}" for t in config["targets"] for what in ("the match", "what held-out pictures ask")
    ]
    size = (13, 5 * len(config["targets"]))
    with frame(titles, size, caption(record), rows=len(config["targets"])) as (fig, axes):
        for left, right, target in zip(axes[::2], axes[1::2], config["targets"], strict=True):
            where = dict(target=target, stage=config["stages"][-1])
            _map(left, record, where)
            (fit,) = [f for f in record["results"]["fits"] if where.items() <= f.items()]
            for column, (name, method) in enumerate((("a*, domain", "DoG"), ("b*, class", "CFG"))):
                by_level = np.array(fit["plane"])[:, :, column].T  # (levels, S)
                plot.sweep(right, config["levels"], by_level, method, name)
            level(right, 1)
            right.set(xscale="log", xlabel="noise level σ", ylabel="calibrated weight")
            right.invert_xaxis()
            right.legend(fontsize=11)
        axes[0].legend(fontsize=11, frameon=True, facecolor="white", framealpha=1, loc="upper right")
    return fig


def _map(ax, record, where):
    """The Fréchet distance over the plane, both lines, and the best point off them."""
    a, b = record["config"]["a"], record["config"]["b"]
    at = lambda x, y: values(record, "frechet", method="plane", a=x, b=y, **where).mean()
    heights = np.array([[at(x, y) for x in a] for y in b])
    mesh = ax.contourf(a, b, heights, levels=14, cmap="Greys_r")
    ax.figure.colorbar(mesh, ax=ax, label="Fréchet distance")
    plane_lines(ax, a, b)
    point = best(families(record, **where)["plane"])
    look = plot.METHODS["plane"] | dict(linestyle="", markersize=16, label="best off the lines")
    ax.plot(point["a"], point["b"], **look)
    for line in ax.lines:  # whole also on the edge
        line.set_clip_on(False)
