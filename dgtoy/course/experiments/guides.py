"""Which guide? The ancestor, a stranger, a weaker self, and guides that should not work. (C9, C10)

Asked twice: of a finished fine-tune, where guidance can only sharpen, and of an unfinished one, which it can complete.
"""

import dataclasses
import time

import matplotlib.pyplot as plt
import torch

from ...guidance import guided
from ...nets import Ensemble
from .. import plot
from ..lab import Judge, Setting, finetuned, pretrained
from ..records import caption, record, row

GUIDES = {  # name in the record: what it is
    "ancestor": "DoG: the pre-trained model",
    "own null": "CFG: the fine-tune's null branch",
    "other seed": "pre-trained, another seed",
    "early ancestor": "the ancestor, at an eighth",
    "other source": "pre-trained, another source",
    "weaker self": "autoguidance: fine-tuned a tenth",
    "itself": "control: the model itself",
    "untrained": "control: untrained (a broad Gaussian)",
    "random": "control: random weights",
    "wrong label": "control: ancestor, label 3 for null",
    "swapped": "control: main and guide swapped",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """`stages`: (name, fine-tuning steps, learning rate)."""

    setting: Setting = Setting()
    stages: tuple = (("finished", 2000, 1e-3), ("unfinished", 100, 1e-4))
    weights: tuple = (1.25,)

    @classmethod
    def quick(cls):
        return cls()

    @classmethod
    def full(cls):
        return cls(Setting(seeds=64, samples=1024), weights=(1.1, 1.25, 1.5, 2.0))


def run(config, device="cpu", progress=False):
    """Rows of stage, guide, w and each metric by seed."""
    started, found = time.time(), []
    for stage, steps, lr in config.stages:
        setting = config.setting.but(finetune=dict(steps=steps, lr=lr))
        ft, judge, guides = (
            finetuned(setting, device, progress),
            Judge(setting, device),
            _guides(setting, device, progress),
        )
        found.append(dict(stage=stage, guide="none", w=1.0, **judge.score(ft.denoiser)))
        for w in config.weights:
            for name, guide in guides.items():
                pair = (
                    (lambda c: (guide(c), ft.denoiser(c)))
                    if name == "swapped"
                    else (lambda c: (ft.denoiser(c), guide(c)))
                )
                found.append(dict(stage=stage, guide=name, w=w, **judge.score(lambda c: guided(*pair(c), w))))
    return record("guides", config, dict(rows=found), started, device)


def _guides(setting, device, progress):
    """Each guide as a function label -> denoiser, in the order of GUIDES."""
    short = lambda recipe, share: dataclasses.replace(recipe, steps=int(recipe.steps * share))
    pre, ft = pretrained(setting, device, progress), finetuned(setting, device, progress)
    other = pre.clone()
    other.params = {k: p.detach().roll(1, 0) for k, p in other.params.items()}
    early = pretrained(setting.but(pretrain=short(setting.pretrain, 1 / 8)), device, progress)
    foreign = pretrained(setting.but(layout=setting.layout + 1), device, progress)
    weaker = finetuned(setting.but(finetune=dict(steps=setting.finetune.steps // 10)), device, progress)
    fresh = Ensemble.of(range(setting.seeds), num_classes=pre.null, width=setting.width).to(device)
    noisy = fresh.clone()  # a fresh output layer is zero: draw it like the others
    generator, output = torch.Generator().manual_seed(0), list(noisy.params)[-2]
    noisy.params[output] = (
        torch.randn(noisy.params[output].shape, generator=generator).to(device) / setting.width**0.5
    )
    label_free = lambda net: lambda c: net.denoiser(net.null)
    return dict(
        zip(
            GUIDES,
            [
                label_free(pre),
                label_free(ft),
                label_free(other),
                label_free(early),
                label_free(foreign),
                weaker.denoiser,
                ft.denoiser,
                label_free(fresh),
                label_free(noisy),
                lambda c: pre.denoiser(3),
                label_free(pre),
            ],
            strict=True,
        )
    )


def figure(record):
    """Each guide's metric at one weight, with intervals: finished by out-of-domain rate, unfinished by energy distance."""
    w = 1.25
    looks = {"ancestor": "DoG", "own null": "CFG", "weaker self": "autoguidance"}
    names = ["none", *GUIDES]
    with plot.style():
        fig, axes = plt.subplots(1, 3, figsize=(16, 5.6), sharey=True)
        panels = (
            ("finished", "out_of_domain", "Finished: any broad guide\nkeeps samples in the domain"),
            ("finished", "energy", "and they all cost match"),
            ("unfinished", "energy", "Unfinished: only a model of\nthe source completes it"),
        )
        for ax, (stage, metric, title) in zip(axes, panels, strict=True):
            values = [row(record, stage=stage, guide=n, w=1.0 if n == "none" else w)[metric] for n in names]
            plot.bars(ax, values, ["not guided", *GUIDES.values()], [looks.get(n, "none") for n in names])
            ax.set_xscale("symlog", linthresh=0.05 if stage == "finished" else 1.0)
            ax.set(xlim=(0, None), xlabel=plot.NAMES[metric], title=title)
        fig.supxlabel(f"{caption(record)}; w = {w}; lower is better", fontsize=11)
    return fig
