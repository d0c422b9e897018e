"""Photographs: is the order of the methods the same with a pre-trained model eight times as large? (C35)

A cell is one fine-tune of one target, or of the target "source" the pre-trained models themselves: that one
and the one that ships.
"""

import dataclasses

import matplotlib.pyplot as plt
import torch

from ... import shipped
from .. import plot
from ..lab import methods, replace
from ..photo_judge import PhotoJudge
from ..photos import LARGE, chosen, finetuned, pretrained
from ..records import family
from . import posters
from .panels import curve, over_weights, unguided
from .photos import Config as Study
from .photos import PhotoConfig
from .runs import in_cells, merged

SOURCE = "source"
ROWS = {name: way for name, way in posters.ROWS.items() if way[2] == posters.EVERYWHERE}


@dataclasses.dataclass(frozen=True)
class Config(PhotoConfig):
    """smaller: what `base` is compared with on the source. count: pictures kept of each of ROWS and each
    target."""

    smaller: str = "photos64"
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


def _cell(config, device, target, seed):
    """Rows of target, base, method and w, with each metric; of a target also a strip of pictures of each of
    ROWS."""
    setting = replace(config.setting, domain=target)
    judge = PhotoJudge(setting, device)

    def rows(base, found):
        return [
            dict(target=target, base=base, method=name, w=w, score=judge.judged(method, seed))
            for name, w, method in found
        ]

    if target == SOURCE:
        bases = {base: pretrained(base, device).compile() for base in (config.base, config.smaller)}
        found = {base: methods(net, net, config.weights, ("none", "CFG")) for base, net in bases.items()}
        return dict(rows=[row for base, ways in found.items() for row in rows(base, ways)])
    judge.learnt_from(chosen(setting, seed))
    pre = pretrained(config.base, device)
    tuned, pre = finetuned(setting, seed, pre)[setting.finetune.steps].compile(), pre.compile()
    label = torch.arange(config.count, device=device) % tuned.null
    x_T = posters.noise(config.count).to(device)
    pictures = {
        name: posters.sampled(tuned, pre, *way, x_T, label, setting.steps) for name, way in ROWS.items()
    }
    strips = {name: posters.encoded(x) for name, x in pictures.items()}
    return dict(rows=rows(config.base, methods(tuned, pre, config.weights)), strips=strips)


def _results(config, device, found):
    """The rows of all cells; `strips`: pictures of each target's first fine-tune; `pretraining`: the recipe
    of what was fine-tuned."""
    folder = {} if config.base in shipped.NAMES else dict(folder=config.base)
    strips = [
        dict(target=target, row=name, strip=strip)
        for (target, seed), cell in found.items()
        if seed == config.setting.first
        for name, strip in cell.get("strips", {}).items()
    ]
    rows = merged(config, device, {key: cell["rows"] for key, cell in found.items()})
    return rows | dict(strips=strips, pretraining=shipped.facts("photos64", **folder)["recipe"])


compute, run = in_cells(_cell, lambda config: [(t,) for t in (*config.targets, SOURCE)], _results)


def figure(record):
    """Of the source and of each target the Fréchet distance over w; below, pictures of the first target."""
    config = record["config"]
    targets = config["targets"]
    foot = (
        f"{len(record['seeds'])} fine-tunes of each target, 95% t intervals; of the source as many "
        f"noises. Below, the first pictures of {targets[0]}, none picked"
    )
    size = (max(8, 3.4 * (1 + len(targets))), 5 + 0.9 * len(ROWS))
    with plot.style():
        fig = plt.figure(figsize=size)
        fig.suptitle(
            "With a model eight times as large the order is the same", x=0.01, ha="left", weight="bold"
        )
        fig.supxlabel(foot, fontsize=11)
        above, below = fig.subfigures(2, 1, height_ratios=(4.5, 0.9 * len(ROWS)))
        first, *axes = above.subplots(1, 1 + len(targets))
        for base, name in ((config["smaller"], "CFG, smaller model"), (config["base"], "CFG")):
            look = {} if name == "CFG" else dict(linestyle=":")
            curve(first, family(record, "CFG", target=SOURCE, base=base), "w", "frechet", "CFG", name, **look)
        first.set(title="source, not fine-tuned", xlabel="guidance weight w", ylabel=plot.NAMES["frechet"])
        first.legend(fontsize=10)
        for ax, target in zip(axes, targets, strict=True):
            over_weights(ax, record, "frechet", target=target)
            unguided(ax, record, "frechet", target=target)
            ax.set_title(target)
        axes[0].legend(fontsize=10)
        strips = {r["row"]: r for r in record["results"]["strips"] if r["target"] == targets[0]}
        for ax, name in zip(below.subplots(len(ROWS), 1), ROWS, strict=True):
            posters.show(ax, name, posters.strip(strips[name]))
    return fig
