"""Transfer and sweep over w: does Domain Guidance keep samples in the domain, and what does it cost? (C5, C7)"""

import dataclasses
import time

import matplotlib.pyplot as plt

from ...guidance import cfg, domain_guidance, guided
from .. import plot
from ..lab import Judge, Setting, finetuned, pretrained
from ..records import caption, record, rows


@dataclasses.dataclass(frozen=True)
class Config:
    """Each method at each weight, in each domain. `interval`: where the interval method guides."""

    setting: Setting = Setting()
    domains: tuple = ("moons",)
    weights: tuple = (1.0, 1.1, 1.25, 1.5, 2.0)
    interval: tuple = (0.0, 0.5)

    @classmethod
    def quick(cls):
        return cls()

    @classmethod
    def full(cls):
        return cls(
            Setting(seeds=64, samples=1024),
            domains=("moons", "spirals", "grid"),
            weights=(1.0, 1.05, 1.1, 1.25, 1.5, 1.75, 2.0, 3.0),
        )


def run(config, device="cpu", progress=False):
    """Rows of domain, method, w and each metric by seed."""
    started, found = time.time(), []
    for name in config.domains:
        setting = config.setting.but(domain=name)
        pre, ft = pretrained(setting, device, progress), finetuned(setting, device, progress)
        judge, guide = Judge(setting, device), pre.denoiser(pre.null)
        for w in config.weights:
            methods = (
                {
                    "CFG": lambda c: cfg(ft, c, ft.null, w),
                    "DoG": lambda c: domain_guidance(ft.denoiser(c), guide, w),
                    "DoG on an interval": lambda c: guided(ft.denoiser(c), guide, w, config.interval),
                }
                if w != 1
                else {"none": ft.denoiser}
            )
            for method, make in methods.items():
                found.append(dict(domain=name, method=method, w=w, **judge.score(make)))
    return record("transfer", config, dict(rows=found), started, device)


def figure(record):
    """Out-of-domain rate, energy distance and coverage against w, one line a method."""
    with plot.style():
        fig, axes = plt.subplots(1, 3, figsize=(15, 4.6))
        none = rows(record, domain="moons", method="none")
        for ax, metric in zip(axes, ("out_of_domain", "energy", "coverage")):
            for method in ("CFG", "DoG", "DoG on an interval"):
                found = none + rows(record, domain="moons", method=method)
                plot.sweep(ax, [r["w"] for r in found], [r[metric] for r in found], method)
            ax.axhline(
                sum(none[0][metric]) / len(none[0][metric]),
                label="none",
                **{**plot.METHODS["none"], "marker": ""},
            )
            ax.set(xlabel="guidance weight w", ylabel=plot.NAMES[metric])
        axes[0].axhline(0.01, color="black", linewidth=1)
        axes[0].annotate("true samples", (1.0, 0.012), fontsize=11)
        axes[0].set_title("DoG leaves the fewest samples outside")
        axes[1].set_title("The price is paid in match")
        axes[2].set_title("and in diversity")
        axes[0].legend(fontsize=11)
        for ax in axes:
            ax.set_xticks(
                [1, 1.5, 2, 2.5, 3] if max(record["config"]["weights"]) > 2 else [1, 1.25, 1.5, 1.75, 2]
            )
        fig.supxlabel(caption(record), fontsize=11)
    return fig
