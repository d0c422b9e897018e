"""What does fine-tuning forget? The error of each branch against the exact denoiser it should be. (C4)"""

import dataclasses

import torch

from ..lab import ON_OTHER_SOURCES, PointConfig, PointSetting, finetuned, on_own_sources, pretrained, replace
from ..records import caption, rows
from .calibration import regime, weigh_seeds
from .panels import curve, frame
from .runs import recorded

BRANCHES = {  # name in the record: whose colour it has, and its line; the null branch is CFG's guide
    "labelled branch on its class": ("none", "-"),
    "null branch on the target": ("CFG", "--"),
    "null branch on the source": ("CFG", ":"),
    "pre-trained on the source": ("source", "-."),
}


@dataclasses.dataclass(frozen=True)
class Config(PointConfig):
    """Target points per class, and the noise levels at which errors are measured, each on `fresh` points and,
    for the regime, with `held_out` points per class. Fine-tunes are those of `null_branch`."""

    setting: PointSetting = on_own_sources(finetune=dict(steps=2000))
    sizes: tuple = (16, 64, 256)
    levels: tuple = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
    fresh: int = 2048
    held_out: int = 256

    @classmethod
    def full(cls):
        """For one core of a CPU: six minutes."""
        setting = on_own_sources(seeds=16, finetune=dict(steps=2000))
        return cls(setting, sizes=(8, 16, 32, 64, 128, 256, 512, 1024))

    @classmethod
    def replica(cls):
        return cls(replace(ON_OTHER_SOURCES, finetune=dict(steps=2000)))


@recorded
def run(config, device, progress):
    """Rows of size, branch and the excess error by seed: E|D - D*|^2 / E|x0 - D*|^2, averaged over levels;
    `regimes`: that of the fine-tunes on each size.

    D* is the exact denoiser of the law that the branch stands for, and x0 a fresh sample of that law.
    """
    found, regimes = [], []
    for size in config.sizes:
        setting = replace(config.setting, size=size)
        pre, ft = pretrained(setting, device, progress), finetuned(setting, device, progress)
        target, measured = setting.world(device).target, (config.fresh, config.levels)
        errors = (
            of_classes(ft.denoiser, target, setting.seeds, *measured),
            excess(ft.denoiser(ft.null), target, setting.seeds, *measured),
            on_sources(ft, setting, *measured),
            on_sources(pre, setting, *measured),
        )
        for branch, error in zip(BRANCHES, errors, strict=True):
            found.append(dict(size=size, branch=branch, excess=[round(v, 6) for v in error.tolist()]))
        fit = weigh_seeds(config, target, ft, pre)
        regimes.append(dict(size=size, regime=regime(config.levels, fit)))
    return dict(rows=found, regimes=regimes)


def on_sources(nets, setting, *measured):
    """The excess error of each seed's null branch on that seed's source.  -> (S,)"""
    errors = []
    for k, seed in enumerate(setting.each_seed()):
        net = nets.member(k)
        source = setting.world(nets.device, seed).source
        errors.append(excess(net.denoiser(net.null), source, 1, *measured))
    return torch.cat(errors)


def of_classes(method, target, *measured):
    """The excess error of a method, label -> denoiser, averaged over the classes of a target.  -> (S,)"""
    classes = range(target.num_classes)
    return torch.stack([excess(method(c), target.given(c), *measured) for c in classes]).mean(0)


def excess(D, law, seeds, n, levels):
    """E|D - D*|^2 / E|x0 - D*|^2 on n samples x0 of a law, averaged over levels, for each seed (S,), by the
    same points and noise for all seeds."""
    generator = torch.Generator(law.means.device).manual_seed(2)
    total = 0
    for level in levels:
        x0 = law.sample(n, generator=generator)
        x = x0 + level * torch.randn(x0.shape, generator=generator, device=x0.device)
        best = law.denoise(x, level)
        error = (D(x.expand(seeds, n, 2), level) - best).square().sum(-1).mean(-1)  # (S,)
        total = total + error / (x0 - best).square().sum(-1).mean()
    return (total / len(levels)).cpu()


def figure(record):
    """Each branch's excess error against the size of the target set."""
    title = "The null branch has lost the source and,\ngiven enough data, is the weaker one"
    with frame([title], (8.5, 5), caption(record)) as (fig, (ax,)):
        for branch, (look, line) in BRANCHES.items():
            curve(ax, rows(record, branch=branch), "size", "excess", look, branch, linestyle=line)
        ax.set(xscale="log", yscale="log", xlabel="target points per class")
        ax.set_ylabel("excess denoising error (0 is exact)")
        ax.legend(fontsize=11)
    return fig
