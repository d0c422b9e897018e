"""Photographs: which guide, and how finished the fine-tune. Is it the pre-trained model, or any broader one?

A cell is one fine-tune of one target, stopped at every stage. Each guide takes the pre-trained place in
D_guide + w (D_ft - D_guide), and every guide has its own weight, chosen on other fine-tunes.
"""

import dataclasses

import numpy as np
import torch

from ...checks import append_dims
from ...guidance import blurred, guided
from ...relatives import interpolated
from .. import plot
from ..lab import replace
from ..photos import LARGE, finetuned
from ..pictures import tenth
from ..records import family, held_out, rows
from ..worlds import photos
from .guides import label_free
from .panels import frame
from .photos import Config as Study
from .photos import PhotoConfig, prepared
from .runs import in_cells

GUIDES = {  # name: what it is
    "pre-trained": "DoG: the pre-trained model without a label",
    "own null": "CFG: the fine-tune without a label",
    "unconditional": "a fine-tune on the target that never had a label, trained twice as long",
    "weaker self": "the fine-tune at a tenth of its steps",
    "a quarter of the way": "weights of the pre-trained model and the fine-tune, mixed 3 : 1",
    "half-way": "the same, mixed evenly",
    "three quarters": "the same, mixed 1 : 3",
    "own null, blurred": "the fine-tune's density without a label, blurred",
    "self, blurred": "the fine-tune's own density with its label, blurred",
    "Gaussian": "no network: a Gaussian with the source's mean and spectrum",
}
METHOD = {"none": "none", "own null": "CFG", "weaker self": "autoguidance", "self, blurred": "blurred self"}
COLOUR = {guide: plot.METHODS[method]["color"] for guide, method in METHOD.items()}
MIXED = {"a quarter of the way": 0.25, "half-way": 0.5, "three quarters": 0.75}


@dataclasses.dataclass(frozen=True)
class Config(PhotoConfig):
    """stages: fine-tuning steps at which a cell is sampled. b: as in `photos`."""

    stages: tuple = (10, 20)
    weights: tuple = (1.5,)
    b: float = 0.1

    @classmethod
    def full(cls):
        recipe = replace(Study.full().setting.finetune, steps=4000)
        return cls(
            replace(Study.full().setting, samples=500, finetune=recipe),
            targets=("food", "vehicles", "insects"),
            stages=(60, 250, 1000, 4000),
            weights=(1.25, 1.6, 2.2, 3.5, 6.0),
        )

    @classmethod
    def replica(cls):
        again = dict(base=LARGE, stages=(250, 1000), weights=(1.25, 1.6, 2.2, 3.5))
        return replace(cls.full(), setting=dict(first=4), **again)


def _cell(config, device, target, seed):
    """Rows of target, stage, guide and w, with each metric; "none" has no guide."""
    setting = replace(config.setting, domain=target, finetune=dict(steps=config.stages[-1]))
    judge, pre = prepared(setting, config.base, seed, device)
    steps = {*config.stages, *map(tenth, config.stages)}
    kept = finetuned(setting, seed, pre, at=steps)
    twice = replace(setting, finetune=dict(steps=2 * config.stages[-1], dropout=1.0))
    unconditional = finetuned(twice, seed, pre, at=[2 * stage for stage in config.stages])
    gaussian, found, pre = Spectrum(photos.source().train, device), [], pre.compile()

    def judged(stage, guide, w, method):
        score = judge.judged(method, seed)
        found.append(dict(target=target, stage=stage, guide=guide, w=w, score=score))

    for stage in config.stages:
        tuned, weaker, alone = (
            net.compile() for net in (kept[stage], kept[tenth(stage)], unconditional[2 * stage])
        )
        nets = dict(weaker=weaker, unconditional=alone, gaussian=gaussian)
        judged(stage, "none", 1.0, tuned.denoiser)
        for name, guide in guides(tuned, pre, config.b, **nets).items():
            for w in config.weights:
                judged(stage, name, w, lambda y: guided(tuned.denoiser(y), guide(y), w))
    return found


def guides(tuned, pre, b, weaker, unconditional, gaussian):
    """Every guide of a fine-tune, in the order of GUIDES.  -> {name: label -> denoiser}"""
    return {
        "pre-trained": label_free(pre),
        "own null": label_free(tuned),
        "unconditional": label_free(unconditional),
        "weaker self": weaker.denoiser,
        **{name: label_free(mixed(pre, tuned, share)) for name, share in MIXED.items()},
        "own null, blurred": lambda y: blurred(tuned.denoiser(tuned.null), b),
        "self, blurred": lambda y: blurred(tuned.denoiser(y), b),
        "Gaussian": lambda y: gaussian,
    }


def mixed(pre, tuned, share):
    """A network whose weights lie the share of the way from `pre` to `tuned`, whose label table it has."""
    new = tuned.clone()
    new.net.load_state_dict(interpolated(pre.net.state_dict(), tuned.net.state_dict(), share))
    return new


class Spectrum:
    """The exact denoiser of a stationary Gaussian with the mean colour and the spectrum of pictures.

    At each frequency f the channels have a covariance S(f), and D = mean + S (S + sigma^2)^-1 (x - mean).
    data: `worlds.photos.Photos`, of which `count` are read.
    """

    def __init__(self, data, device, count=4096):
        g = torch.Generator().manual_seed(0)
        picked = torch.randperm(len(data), generator=g)[:count]
        x0, _ = data.draw(picked, torch.zeros(len(picked), dtype=torch.bool))
        x0 = x0.to(device)
        self.mean = x0.mean((0, 2, 3))[:, None, None]
        waves = torch.fft.fft2(x0 - self.mean, norm="ortho")  # (n, C, H, W)
        covariance = torch.einsum("nchw,ndhw->hwcd", waves, waves.conj()) / len(x0)
        self.value, self.axes = torch.linalg.eigh(covariance)  # (H, W, C), (H, W, C, C)

    def __call__(self, x, sigma):
        waves = torch.fft.fft2(x - self.mean, norm="ortho")
        turned = torch.einsum("hwcd,nchw->ndhw", self.axes.conj(), waves)
        value = self.value.permute(2, 0, 1)  # (C, H, W)
        kept = value / (value + append_dims(torch.as_tensor(sigma, device=x.device), x) ** 2)
        back = torch.einsum("hwcd,ndhw->nchw", self.axes, kept * turned)
        return self.mean + torch.fft.ifft2(back, norm="ortho").real


compute, run = in_cells(_cell, lambda config: [(t,) for t in config.targets])


def distance(record, target, stage, guide):
    """The Fréchet distance of a guide at its own weight, chosen on other fine-tunes.  -> (S,)"""
    where = dict(target=target, stage=stage)
    return held_out(family(record, guide, "guide", **where))


def relative(record, target, stage, guide):
    """The distance of a guide relative to the pre-trained model's, each at its own weight."""
    mine, theirs = (distance(record, target, stage, name).mean() for name in (guide, "pre-trained"))
    return mine / theirs


def at_stage(ax, record, stage):
    """After one stage, target by target, each guide's distance relative to the pre-trained model's."""
    others = [guide for guide in GUIDES if guide != "pre-trained"]
    colours = [COLOUR.get(guide, "black") for guide in others]
    for marker, target in zip("o^sDvP", record["config"]["targets"]):
        ratios = [relative(record, target, stage, guide) for guide in others]
        ax.scatter(ratios, range(len(others)), c=colours, marker=marker)
        ax.scatter([], [], c="black", marker=marker, label=target)
    ax.axvline(1, color="black", linewidth=1)
    ax.set_yticks(range(len(others)), others)
    ax.set_ylim(len(others) - 0.5, -0.5)
    ax.grid(axis="y", color="#EEEEEE")
    ax.set_axisbelow(True)


def class_error(record, stage):
    """The share of samples without guidance that miss their class, mean over targets."""
    return 1 - np.mean([r["class_accuracy"] for r in rows(record, stage=stage, guide="none")])


def over_class_error(ax, record, guides, **look):
    """As training goes on and the class error falls: guides' distances relative to the pre-trained model's,
    geometric means over targets."""
    targets, stages = record["config"]["targets"], record["config"]["stages"]
    error = [class_error(record, stage) for stage in stages]
    for guide in guides:
        ratios = [[relative(record, target, stage, guide) for target in targets] for stage in stages]
        own = plot.METHODS[METHOD[guide]] if guide in METHOD else dict(color="black", marker=">")
        ax.plot(error, np.exp(np.log(ratios).mean(1)), **own | dict(label=guide) | look)
    ax.axhline(1, color=plot.METHODS["DoG"]["color"])
    ax.set(xlabel="class error without guidance", ylabel="distance relative to DoG", yscale="log")


def figure(record):
    """Every guide at every stage."""
    stages = record["config"]["stages"]
    foot = "Fréchet distance relative to DoG, each guide at its own w; right of the line DoG is ahead"
    size, titles = (max(3 * len(stages) + 1, 8), 4.6), [f"after {stage:,} steps" for stage in stages]
    lines = ("The old model and networks on the way from it guide best;", "a width is not enough")
    claim = (" " if len(stages) > 2 else "\n").join(lines)
    with frame(titles, size, foot, claim=claim, sharex=True, sharey=True) as (fig, axes):
        for ax, stage in zip(axes, stages, strict=True):
            at_stage(ax, record, stage)
        axes[0].legend(fontsize=10, frameon=True)
    return fig
