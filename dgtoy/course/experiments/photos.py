"""Photographs: no guidance, CFG, DoG, a weaker self and oneself blurred as guides, over w, on an interval and
off it, on targets inside the source and outside. (C13)

A cell is one fine-tune of one target. Methods start from the same noise.
"""

import dataclasses

import numpy as np

from ...guidance import blurred, guided
from .. import plot
from ..lab import ALWAYS, ON_INTERVALS, Presets, methods, replace
from ..photo_judge import PhotoJudge, PhotoSetting
from ..photos import SECOND, chosen, finetuned, pretrained
from ..pictures import tenth
from ..records import family, held_out
from .panels import frame, over_weights, unguided
from .runs import in_cells, merged

IN_PROPORTION = "self blurred in proportion"


@dataclasses.dataclass(frozen=True)
class PhotoConfig(Presets):
    """What configurations of experiments on photographs begin with. base: what is fine-tuned, see
    `pretrained`. targets: of `worlds.photos.TARGETS`."""

    setting: PhotoSetting = PhotoSetting(
        samples=34, steps=4, size=4, finetune=replace(PhotoSetting().finetune, steps=20, batch=8)
    )
    base: str = "photos64"
    targets: tuple = ("food",)


@dataclasses.dataclass(frozen=True)
class Config(PhotoConfig):
    """weights: of every guide; those of `narrow` on the interval.

    b: width of the blurred self, in units of pixels in [-1, 1]. share: b / sigma of the one that is blurred
    in proportion to the noise. interval: noise levels sigma within which the guides of `narrow` are on.
    """

    weights: tuple = (1.5,)
    narrow: tuple = (1.5,)
    interval: tuple = (0.2, 5.0)
    b: float = 0.1
    share: float = 0.3

    @classmethod
    def full(cls):
        recipe = replace(PhotoSetting().finetune, steps=2000, batch=128, lr=1e-4, betas=(0.9, 0.95), clip=1.0)
        return cls(
            PhotoSetting(seeds=4, size=None, samples=1000, finetune=recipe),
            targets=("food", "vehicles", "insects", "caltech101", "food10", "art7"),
            weights=(1.25, 1.5, 2.0, 3.0, 4.5),
            narrow=(1.5, 2.0, 3.0, 4.5),
        )

    @classmethod
    def replica(cls):
        return replace(cls.full(), base=SECOND, setting=dict(first=4), weights=(1.25, 1.5, 2.0, 3.0))


def prepared(setting, base, seed, device):
    """What a cell starts from: the judge, told which pictures the seed's fine-tune learns from, and what is
    fine-tuned."""
    judge = PhotoJudge(setting, device)
    judge.learnt_from(chosen(setting, seed))
    return judge, pretrained(base, device)


def widened(D, share):
    """D's density blurred in proportion to the noise: `blurred` by b = share sigma at every noise level."""
    return lambda x, sigma: blurred(D, share * float(sigma))(x, sigma)


def _cell(config, device, target, seed):
    """Rows of target, method and w, with each metric."""
    setting, last = replace(config.setting, domain=target), config.setting.finetune.steps
    judge, pre = prepared(setting, config.base, seed, device)
    kept = finetuned(setting, seed, pre, at=(tenth(last),))
    tuned, weaker, pre = (net.compile() for net in (kept[last], kept[tenth(last)], pre))
    options = dict(weaker=weaker, b=config.b, interval=config.interval)
    found = [*methods(tuned, pre, config.weights, ("none", *ALWAYS), **options)]
    found += methods(tuned, pre, config.narrow, ON_INTERVALS, **options)
    for w in config.weights:
        found.append((IN_PROPORTION, w, widened_self(tuned, config.share, w)))
    return [
        dict(target=target, method=name, w=w, score=judge.judged(method, seed)) for name, w, method in found
    ]


def widened_self(tuned, share, w):
    """A fine-tune guided by itself, blurred in proportion to the noise.  -> label -> denoiser"""
    return lambda y: guided(tuned.denoiser(y), widened(tuned.denoiser(y), share), w)


def _results(config, device, found):
    """The rows of all cells; `floor`: truth against truth, by target."""
    judges = {t: PhotoJudge(replace(config.setting, domain=t), device) for t in config.targets}
    return merged(config, device, found) | dict(floor={t: judge.floor() for t, judge in judges.items()})


compute, run = in_cells(_cell, lambda config: [(t,) for t in config.targets], _results)


def own(record, method, target, metric=None):
    """A metric of a method at the weight of the least Fréchet distance on other fine-tunes.  -> (S,)"""
    return held_out(family(record, method, target=target), "frechet", metric)


def figure(record):
    """Of each target the Fréchet distance over w, and below it precision against recall along w."""
    targets = record["config"]["targets"]
    foot = f"{len(record['seeds'])} fine-tunes of each target, 95% t intervals; dotted: no guidance"
    size = (max(8, 3.6 * len(targets)), 7)
    claim = "DoG is nearest at a small w and pays beyond it; as w grows it trades recall for precision"
    with frame([*targets, *[""] * len(targets)], size, foot, rows=2, claim=claim) as (fig, axes):
        for above, below, target in zip(axes, axes[len(targets) :], targets):
            over_weights(above, record, "frechet", ALWAYS, target=target)
            unguided(above, record, "frechet", target=target)
            for name in ALWAYS:
                trade_off(below, family(record, name, target=target), name)
        axes[0].legend(fontsize=10)
    return fig


def trade_off(ax, found, method):
    """A method's path over w: mean recall and precision."""
    ordered = sorted(found, key=lambda r: r["w"])
    recall, precision = ([np.mean(r[metric]) for r in ordered] for metric in ("recall", "precision"))
    ax.plot(recall, precision, label=method, **plot.METHODS[method])
    ax.set(xlabel="recall", ylabel="precision")
