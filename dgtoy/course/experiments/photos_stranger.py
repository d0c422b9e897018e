"""Photographs: must the guide be the fine-tune's ancestor, or will a stranger of the same pictures do? (C34)

A cell is one fine-tune of one target. The stranger was pre-trained on the same pictures, as a network of
another size that starts from other numbers. Each guide has its own weight, chosen on other fine-tunes.
"""

import dataclasses

from ...guidance import guided
from .. import plot
from ..lab import replace
from ..photos import LARGE, SECOND, finetuned, pretrained
from ..records import family
from .panels import curve, frame, unguided
from .photos import PhotoConfig, prepared
from .photos_guides import Config as Guides
from .runs import in_cells

LOOKS = {"DoG": {}, "stranger": dict(color="black", linestyle="--")}  # of each method, beside DoG's


@dataclasses.dataclass(frozen=True)
class Config(PhotoConfig):
    """stranger: another pre-trained model, named as `base` is."""

    stranger: str = "photos64"
    weights: tuple = (1.5,)

    @classmethod
    def full(cls):
        guides = Guides.full()
        setting = replace(guides.setting, finetune=dict(steps=guides.stages[-1]))
        return cls(setting, stranger=SECOND, targets=guides.targets, weights=(1.25, 1.6, 2.2, 3.5))

    @classmethod
    def replica(cls):
        again = dict(first=4, finetune=dict(steps=Guides.replica().stages[-1]))
        return replace(cls.full(), base=LARGE, stranger="photos64", setting=again)


def _cell(config, device, target, seed):
    """Rows of target, method and w, with each metric."""
    setting = replace(config.setting, domain=target)
    judge, pre = prepared(setting, config.base, seed, device)
    tuned = finetuned(setting, seed, pre)[setting.finetune.steps].compile()
    models = {"DoG": pre.compile(), "stranger": pretrained(config.stranger, device).compile()}
    found = []

    def judged(name, w, method):
        found.append(dict(target=target, method=name, w=w, score=judge.judged(method, seed)))

    judged("none", 1.0, tuned.denoiser)
    for name, model in models.items():
        guide = model.denoiser(model.null)
        for w in config.weights:
            judged(name, w, lambda y: guided(tuned.denoiser(y), guide, w))
    return found


compute, run = in_cells(_cell, lambda config: [(t,) for t in config.targets])


def figure(record):
    """Of each target the Fréchet distance over w, guided by the ancestor and by the stranger."""
    targets = record["config"]["targets"]
    foot = f"{len(record['seeds'])} fine-tunes of each target, 95% t intervals; dotted: no guidance"
    claim = "A stranger that has seen the same pictures guides about as well as the ancestor"
    with frame(targets, (3.6 * len(targets) + 1, 4.3), foot, claim=claim) as (fig, axes):
        for ax, target in zip(axes, targets, strict=True):
            for method, look in LOOKS.items():
                curve(ax, family(record, method, target=target), "w", "frechet", "DoG", method, **look)
            unguided(ax, record, "frechet", target=target)
            ax.set(xlabel="guidance weight w", ylabel=plot.NAMES["frechet"])
        axes[0].legend(fontsize=10)
    return fig
