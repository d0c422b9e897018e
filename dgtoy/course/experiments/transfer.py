"""The sweep over w: does Domain Guidance keep samples in the domain, and what does it cost? (C5, C7)"""

import dataclasses
import time

import matplotlib.pyplot as plt

from .. import plot
from ..lab import FULL, PointSetting, Presets, methods, prepared, replace
from ..records import record
from .panels import foot, over_weights, unguided

METHODS = ("CFG", "DoG", "DoG on an interval")


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """Each method at each weight, in each domain. `interval`: where the interval method guides."""

    setting: PointSetting = PointSetting()
    domains: tuple = ("moons",)
    weights: tuple = (1.1, 1.25, 1.5, 2.0)
    interval: tuple = (0.0, 0.5)

    @classmethod
    def full(cls):
        weights = (1.05, 1.1, 1.25, 1.5, 1.75, 2.0, 3.0)
        return cls(FULL, domains=("moons", "spirals", "grid"), weights=weights)


def run(config, device="cpu", progress=False):
    """Rows of domain, method, w and each metric by seed."""
    started, found = time.time(), []
    for domain in config.domains:
        pre, ft, judge = prepared(replace(config.setting, domain=domain), device, progress)
        for name, w, method in methods(ft, pre, config.weights, ("none", *METHODS), config.interval):
            score = judge.score(judge.sample(method))
            found.append(dict(domain=domain, method=name, w=w, **score))
    return record("transfer", config, dict(rows=found), started, device)


def figure(record):
    """Out-of-domain rate, energy distance and coverage against w, one line for each method."""
    titles = {
        "out_of_domain": "DoG leaves the fewest samples outside",
        "energy": "The price is paid in match",
        "coverage": "and in diversity",
    }
    ticks = [1, 1.5, 2, 2.5, 3] if max(record["config"]["weights"]) > 2 else [1, 1.25, 1.5, 1.75, 2]
    with plot.style():
        fig, axes = plt.subplots(1, 3, figsize=(15, 4.6))
        for ax, (metric, title) in zip(axes, titles.items(), strict=True):
            over_weights(ax, record, metric, METHODS, domain="moons")
            unguided(ax, record, metric, domain="moons")
            ax.set(title=title, xticks=ticks)
        axes[0].axhline(0.01, color="black", linewidth=1)
        axes[0].annotate("true samples", (1.0, 0.012), fontsize=11)
        axes[0].legend(fontsize=11)
        foot(fig, record)
    return fig
