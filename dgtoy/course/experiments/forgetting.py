"""What does fine-tuning forget? The error of each branch against the exact denoiser it should be. (C4)"""

import dataclasses
import time

import matplotlib.pyplot as plt
import torch

from .. import plot
from ..lab import Setting, finetuned, pretrained
from ..records import caption, record, rows

BRANCHES = {
    "labelled branch on its class": "-",
    "null branch on the target": "--",
    "null branch on the source": ":",
    "pre-trained on the source": "-.",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Target points a class, and the noise levels at which errors are measured."""

    setting: Setting = Setting()
    sizes: tuple = (16, 64, 256)
    levels: tuple = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)

    @classmethod
    def quick(cls):
        return cls()

    @classmethod
    def full(cls):
        return cls(Setting(seeds=64, samples=2048), sizes=(8, 16, 32, 64, 128, 256, 512, 1024))


def run(config, device="cpu", progress=False):
    """Rows of size, branch and the excess error by seed: E|D - D*|^2 / E|x0 - D*|^2, averaged over levels.

    D* is the exact denoiser of the law that the branch stands for, and x0 a fresh sample of that law.
    """
    started, found = time.time(), []
    for size in config.sizes:
        setting = config.setting.but(size=size)
        pre, ft = pretrained(setting, device, progress), finetuned(setting, device, progress)
        world = setting.world(device)
        classes = [_excess(ft.denoiser(c), world.target.given(c), config) for c in range(ft.null)]
        for branch, error in {
            "labelled branch on its class": torch.stack(classes).mean(0),
            "null branch on the target": _excess(ft.denoiser(ft.null), world.target, config),
            "null branch on the source": _excess(ft.denoiser(ft.null), world.source, config),
            "pre-trained on the source": _excess(pre.denoiser(pre.null), world.source, config),
        }.items():
            found.append(dict(size=size, branch=branch, excess=[round(v, 6) for v in error.tolist()]))
    return record("forgetting", config, dict(rows=found), started, device)


def _excess(D, law, config):
    """The excess error of denoiser D on a law, for each seed (S,), by the same points and noise for all seeds."""
    seeds, n = config.setting.seeds, config.setting.samples
    generator = torch.Generator(law.means.device).manual_seed(2)
    total = 0
    for level in config.levels:
        x0 = law.sample(n, generator=generator)
        x = x0 + level * torch.randn(x0.shape, generator=generator, device=x0.device)
        best = law.denoise(x, level)
        error = (D(x.expand(seeds, n, 2), level) - best).square().sum(-1).mean(-1)  # (S,)
        total = total + error / (x0 - best).square().sum(-1).mean()
    return (total / len(config.levels)).cpu()


def figure(record):
    """Each branch's excess error against the size of the target set."""
    sizes = record["config"]["sizes"]
    colors = ("DoG", "CFG", "autoguidance", "source")
    with plot.style():
        fig, ax = plt.subplots(figsize=(8.5, 5))
        for (branch, line), name in zip(BRANCHES.items(), colors, strict=True):
            found = [r["excess"] for r in rows(record, branch=branch)]
            plot.sweep(ax, sizes, found, name, branch, linestyle=line)
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="target points a class",
            ylabel="excess denoising error (0 is exact)",
        )
        ax.set_title("The null branch has lost the source and,\nwith data enough, is the weaker one")
        ax.legend(fontsize=11)
        fig.supxlabel(caption(record), fontsize=11)
    return fig
