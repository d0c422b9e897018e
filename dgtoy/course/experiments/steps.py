"""Does the ordering survive other samplers and fewer steps? (C12)"""

import dataclasses

import torch

from ...samplers import ancestral, dpmpp_2m, euler, heun
from .. import plot
from ..lab import (
    FIELD,
    ON_OTHER_SOURCES,
    PointSetting,
    Presets,
    methods,
    on_own_sources,
    prepared,
    weaker_self,
)
from ..records import caption, family
from ..tradeoff import area
from .panels import frame
from .runs import recorded
from .transfer import DRAWN

SAMPLERS = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m, "ancestral": ancestral}


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """Each method with each sampler at each number of steps, at each weight. `interval`, `b`: as in
    `transfer`."""

    setting: PointSetting = on_own_sources()
    samplers: tuple = tuple(SAMPLERS)
    steps: tuple = (8, 32)
    weights: tuple = (1.25,)
    interval: tuple = (0.0, 0.5)
    b: float = 0.4

    @classmethod
    def full(cls):
        """For one core of a CPU: a quarter of an hour."""
        return cls(steps=(4, 8, 16, 32, 64, 128), weights=(1.1, 1.25, 1.5, 2.0, 3.0))

    @classmethod
    def replica(cls):
        return cls(ON_OTHER_SOURCES, steps=(8, 16, 32, 64), weights=(1.1, 1.25, 1.5, 2.0))


@recorded
def run(config, device, progress):
    """Rows of sampler, steps, method and each metric by seed."""
    pre, ft, judge = prepared(config.setting, device, progress)
    weaker = weaker_self(config.setting, device, progress)
    field = list(methods(ft, pre, config.weights, ("none", *FIELD), config.interval, weaker, config.b))
    for sampler in config.samplers:
        for steps in config.steps:
            for name, w, method in field:
                options = _noise(config.setting, device) if sampler == "ancestral" else {}
                score = judge.judged(method, sampler=SAMPLERS[sampler], steps=steps, **options)
                yield dict(sampler=sampler, steps=steps, method=name, w=w, **score)


def _noise(setting, device):
    """Generators, one for each seed, for the noise of the steps: the same for every method."""
    return dict(generator=[torch.Generator(device).manual_seed(900_000 + s) for s in setting.each_seed()])


def figure(record):
    """What each method leaves outside at equal energy distance against the number of steps, one
    panel for each sampler."""
    config = record["config"]
    samplers, steps = config["samplers"], config["steps"]
    with frame(samplers, (4.2 * len(samplers), 4.6), caption(record), sharey=True) as (fig, axes):
        for ax, sampler in zip(axes, samplers, strict=True):
            for method in ("none", *DRAWN):
                shares = [area(family(record, method, sampler=sampler, steps=n)) for n in steps]
                plot.sweep(ax, steps, shares, method)
            ax.set(xscale="log", xlabel="steps")
            ax.set_xticks(steps, steps, minor=False)
            ax.set_xticks([], minor=True)
        axes[0].set(ylabel="share left outside, over the trade-off", yscale="log", ylim=(3e-4, 1.2))
        axes[-1].legend(loc="upper right", ncols=2, fontsize=10, columnspacing=1)
        title = (
            "With few steps CFG leaves fewer outside than DoG; once converged, eight sources cannot rank them"
        )
        fig.suptitle(title, fontweight="bold", x=0.01, ha="left")
    return fig
