"""Does Domain Guidance need label dropout in fine-tuning? CFG does. (C6)"""

import dataclasses
import time

import matplotlib.pyplot as plt

from ...guidance import cfg, domain_guidance
from .. import plot
from ..lab import Judge, Setting, finetuned, pretrained
from ..records import caption, record, rows


@dataclasses.dataclass(frozen=True)
class Config:
    """Each method at each weight, for fine-tunes with each label dropout."""

    setting: Setting = Setting()
    dropouts: tuple = (0.0, 0.1)
    weights: tuple = (1.1, 1.25, 1.5)

    @classmethod
    def quick(cls):
        return cls()

    @classmethod
    def full(cls):
        return cls(Setting(seeds=64, samples=1024), dropouts=(0.0, 0.05, 0.1, 0.2))


def run(config, device="cpu", progress=False):
    """Rows of dropout, method, w and each metric by seed. Without dropout the null label is never trained."""
    started, found = time.time(), []
    for dropout in config.dropouts:
        setting = config.setting.but(finetune=dict(dropout=dropout))
        pre, ft = pretrained(setting, device, progress), finetuned(setting, device, progress)
        judge, guide = Judge(setting, device), pre.denoiser(pre.null)
        found.append(dict(dropout=dropout, method="none", w=1.0, **judge.score(ft.denoiser)))
        for w in config.weights:
            for method, make in {
                "CFG": lambda c: cfg(ft, c, ft.null, w),
                "DoG": lambda c: domain_guidance(ft.denoiser(c), guide, w),
            }.items():
                found.append(dict(dropout=dropout, method=method, w=w, **judge.score(make)))
    return record("dropout", config, dict(rows=found), started, device)


def figure(record):
    """Out-of-domain rate and energy distance against w, with and without label dropout."""
    with plot.style():
        fig, axes = plt.subplots(1, 2, figsize=(12, 4.8), sharey="row")
        for ax, dropout in zip(axes, (0.0, 0.1), strict=True):
            none = rows(record, dropout=dropout, method="none")
            for method in ("CFG", "DoG"):
                found = none + rows(record, dropout=dropout, method=method)
                plot.sweep(ax, [r["w"] for r in found], [r["out_of_domain"] for r in found], method)
            ax.set(xlabel="guidance weight w", ylabel="out-of-domain rate")
        axes[0].set_title("No label dropout: CFG has no guide, DoG has")
        axes[1].set_title("Label dropout 0.1: both work")
        axes[0].legend()
        fig.supxlabel(caption(record), fontsize=11)
    return fig
