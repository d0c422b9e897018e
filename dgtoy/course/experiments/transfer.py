"""The sweep over w: does Domain Guidance keep samples in the domain, and what does it cost? (C5, C7)"""

import dataclasses

from ..lab import ALWAYS, FIELD, ON_OTHER_SOURCES, PointSetting, Presets, on_own_sources, replace, scores
from ..records import caption, rows
from .panels import frame, level, over_weights, unguided
from .runs import recorded

DRAWN = (*ALWAYS, "DoG on an interval")


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """Each method at each weight, in each domain. `interval`: where methods on an interval guide. `b`: the
    width of the blurred self."""

    setting: PointSetting = PointSetting()
    domains: tuple = ("moons",)
    weights: tuple = (1.1, 1.25, 1.5, 2.0)
    interval: tuple = (0.0, 0.5)
    b: float = 0.4

    @classmethod
    def full(cls):
        """For one core of a CPU: a quarter of an hour."""
        weights = (1.05, 1.1, 1.25, 1.5, 2.0, 3.0)
        return cls(on_own_sources(seeds=16), domains=("moons", "spirals", "grid"), weights=weights)

    @classmethod
    def replica(cls):
        return cls(ON_OTHER_SOURCES, domains=("moons", "spirals"), weights=(1.1, 1.25, 1.5, 2.0, 3.0))


@recorded
def run(config, device, progress):
    """Rows of domain, method, w and each metric by seed."""
    options = dict(names=("none", *FIELD), interval=config.interval, b=config.b)
    for domain in config.domains:
        setting = replace(config.setting, domain=domain)
        for r in scores(setting, config.weights, device, progress, **options):
            yield dict(domain=domain, **r)


def figure(record):
    """Out-of-domain rate, energy distance and coverage against w, one line for each method."""
    titles = {
        "out_of_domain": "At equal w DoG leaves\nfewest outside",
        "energy": "The price is paid\nin match",
        "coverage": "and in diversity",
    }
    ticks = [1, 1.5, 2, 2.5, 3] if max(record["config"]["weights"]) > 2 else [1, 1.25, 1.5, 1.75, 2]
    known = {r["method"] for r in rows(record, domain="moons")}
    drawn = [name for name in DRAWN if name in known]
    with frame(titles.values(), (15, 4.6), caption(record)) as (fig, axes):
        for ax, metric in zip(axes, titles, strict=True):
            over_weights(ax, record, metric, drawn, domain="moons")
            unguided(ax, record, metric, domain="moons")
            ax.set(xticks=ticks)
        level(axes[0], 0.01)
        axes[0].annotate("true samples", (2.2, 0.0135), fontsize=11)
        axes[1].legend(*axes[0].get_legend_handles_labels(), fontsize=11, loc="upper left")
    return fig
