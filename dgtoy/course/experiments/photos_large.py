"""Photographs: is the order of the methods the same with a pre-trained model eight times as large? (C35)

A cell is one fine-tune of one target; or a pre-trained model itself, on the classes that it was trained on.
"""

import dataclasses

import matplotlib.pyplot as plt
import torch

from .. import plot
from ..lab import Presets, methods, replace
from ..photo_judge import PhotoJudge, PhotoSetting
from ..photos import LARGE, chosen, finetuned, pretrained
from ..records import family
from . import posters
from .panels import curve, over_weights, unguided
from .photos import Config as Study
from .runs import in_cells, merged

CLAIM = "From a pre-trained model eight times as large: better pictures, the same order"
ROWS = {name: way for name, way in posters.ROWS.items() if way[2] == posters.EVERYWHERE}


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """base: what is fine-tuned, `smaller`: what it is compared with on the source, both as in `pretrained`.
    targets, weights: as in `photos`. count: pictures that are kept of each of ROWS and each target."""

    setting: PhotoSetting = Study.quick().setting
    base: str = "photos64"
    smaller: str = "photos64"
    targets: tuple = ("food",)
    weights: tuple = (1.5,)
    count: int = 2

    @classmethod
    def full(cls):
        return cls(
            Study.full().setting,
            base=LARGE,
            targets=("food", "vehicles", "insects"),
            weights=(1.25, 1.5, 2.0, 3.0),
            count=10,
        )


def _cell(config, device, target, base, seed):
    """Rows of target, base, method and w, with each metric; of a target also strips of pictures."""
    setting, pre = replace(config.setting, domain=target), pretrained(base, device)
    judge = PhotoJudge(setting, device)
    if target == "source":
        pre = pre.compile()
        found = methods(pre, pre, config.weights, ("none", "CFG"))
        return dict(rows=_scored(judge, found, seed, target=target, base=base))
    judge.learnt_from(chosen(setting, seed))
    tuned = finetuned(setting, seed, pre)[setting.finetune.steps].compile()
    pre = pre.compile()
    found = _scored(judge, methods(tuned, pre, config.weights), seed, target=target, base=base)
    label = torch.arange(config.count, device=device) % tuned.null
    x_T = posters.noise(config.count, pre.shape).to(device)
    pictures = {
        name: posters.sampled(tuned, pre, *way, x_T, label, setting.steps) for name, way in ROWS.items()
    }
    return dict(rows=found, strips={name: posters.encoded(x) for name, x in pictures.items()})


def _scored(judge, found, seed, **where):
    return [where | dict(method=name, w=w, score=judge.judged(method, seed)) for name, w, method in found]


def _results(config, device, found):
    """The rows of all cells, and the pictures of each target's first fine-tune."""
    every = merged(config, device, {key: cell["rows"] for key, cell in found.items()})
    first = config.setting.first
    strips = [
        dict(target=key[0], row=name, strip=strip)
        for key, cell in found.items()
        if key[-1] == first
        for name, strip in cell.get("strips", {}).items()
    ]
    return every | dict(strips=strips)


def _kinds(config):
    sources = {("source", base) for base in (config.smaller, config.base)}
    return [*((target, config.base) for target in config.targets), *sorted(sources)]


compute, run = in_cells(_cell, _kinds, _results)


def figure(record):
    """Of the source and each target the Fréchet distance over w; below, pictures of the first target."""
    targets, base = record["config"]["targets"], record["config"]["base"]
    foot = (
        f"{len(record['seeds'])} fine-tunes of each target, 95% t intervals; dotted: no guidance. Below, the "
        f"first pictures of {targets[0]}, none picked"
    )
    size = (max(8, 3.4 * (1 + len(targets))), 5 + len(ROWS))
    with plot.style():
        fig = plt.figure(figsize=size)
        fig.suptitle(CLAIM, x=0.01, ha="left", weight="bold")
        fig.supxlabel(foot, fontsize=11)
        above, below = fig.subfigures(2, 1, height_ratios=(5, len(ROWS)))
        axes = above.subplots(1, 1 + len(targets))
        for ax, title in zip(axes, ("the source itself", *targets), strict=True):
            ax.set_title(title)
        for name, model in (("smaller model", record["config"]["smaller"]), ("this one", base)):
            look = dict(linestyle=":") if model != base else {}
            rows = family(record, "CFG", target="source", base=model)
            curve(axes[0], rows, "w", "frechet", "CFG", f"CFG, {name}", **look)
        axes[0].set(xlabel="guidance weight w", ylabel=plot.NAMES["frechet"])
        for ax, target in zip(axes[1:], targets, strict=True):
            over_weights(ax, record, "frechet", target=target)
            unguided(ax, record, "frechet", target=target)
        for ax in axes[:2]:
            ax.legend(fontsize=10)
        strips = {r["row"]: r for r in record["results"]["strips"] if r["target"] == targets[0]}
        for ax, name in zip(below.subplots(len(ROWS), 1), ROWS, strict=True):
            posters.show(ax, name, posters.strip(strips[name]))
    return fig
