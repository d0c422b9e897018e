"""The sweep over w: does Domain Guidance keep samples in the domain, and what does it cost? (C5, C7)"""

import dataclasses

from ..lab import (
    ALWAYS,
    FIELD,
    ON_OTHER_SOURCES,
    PointSetting,
    Presets,
    on_own_sources,
    prepared,
    replace,
    scores,
)
from ..records import caption
from .calibration import regime, weigh_seeds
from .panels import frame, level, over_weights, unguided
from .runs import recorded

DRAWN = (*ALWAYS, "DoG on an interval")


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """Each method at each weight, in each domain. `longer`: (domain, fine-tuning steps) where the setting's
    are too few. `interval`: where methods on an interval guide. `b`: the width of the blurred self.
    `held_out` points per class tell, at `levels` of noise, how finished each fine-tune is."""

    setting: PointSetting = PointSetting()
    domains: tuple = ("moons",)
    longer: tuple = ()
    weights: tuple = (1.1, 1.25, 1.5, 2.0)
    interval: tuple = (0.0, 0.5)
    b: float = 0.4
    held_out: int = 1024
    levels: tuple = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.12, 0.06, 0.03, 0.015)

    @classmethod
    def full(cls):
        """For one core of a CPU: a quarter of an hour."""
        domains, weights = ("moons", "spirals", "grid"), (1.05, 1.1, 1.25, 1.5, 2.0, 3.0)
        return cls(on_own_sources(seeds=16), domains, longer=(("grid", 10_000),), weights=weights)

    @classmethod
    def replica(cls):
        return cls(ON_OTHER_SOURCES, domains=("moons", "spirals"), weights=(1.1, 1.25, 1.5, 2.0, 3.0))


@recorded
def run(config, device, progress):
    """Rows of domain, method, w and each metric by seed; `fits`: the held-out weights of each domain's
    fine-tunes by seed, and the regime that they tell."""
    options = dict(names=("none", *FIELD), interval=config.interval, b=config.b)
    found, fits = [], []
    for domain in config.domains:
        steps = dict(config.longer).get(domain, config.setting.finetune.steps)
        setting = replace(config.setting, domain=domain, finetune=dict(steps=steps))
        pre, ft, judge = prepared(setting, device, progress)
        fit = weigh_seeds(config, judge.target, ft, pre)
        fits.append(dict(domain=domain, steps=steps, regime=regime(config.levels, fit), **fit))
        found += [
            dict(domain=domain, **r) for r in scores(setting, config.weights, device, progress, **options)
        ]
    return dict(rows=found, fits=fits)


def figure(record):
    """Out-of-domain rate, energy distance and coverage against w, one line for each method."""
    titles = {
        "out_of_domain": "At equal w DoG leaves\nfewest outside",
        "energy": "The price is paid\nin match",
        "coverage": "and in diversity",
    }
    ticks = [1, 1.5, 2, 2.5, 3] if max(record["config"]["weights"]) > 2 else [1, 1.25, 1.5, 1.75, 2]
    with frame(titles.values(), (15, 4.6), caption(record)) as (fig, axes):
        for ax, metric in zip(axes, titles, strict=True):
            over_weights(ax, record, metric, DRAWN, domain="moons")
            unguided(ax, record, metric, domain="moons")
            ax.set(xticks=ticks)
        level(axes[0], 0.01)
        axes[0].annotate("true samples", (2.2, 0.0135), fontsize=11)
        axes[1].legend(*axes[0].get_legend_handles_labels(), fontsize=11, loc="upper left")
    return fig
