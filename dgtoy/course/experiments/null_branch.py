"""Why does the null branch level off as data grow: by its share of the training, by the number of steps,
by the network's capacity or by the data? Each is changed alone. (C30)"""

import dataclasses

import numpy as np

from .. import plot
from ..lab import ON_OTHER_SOURCES, PointSetting, Presets, finetuned, on_own_sources, pretrained, replace
from ..records import caption, row, rows
from .forgetting import excess, of_classes
from .panels import frame, level
from .runs import recorded

NULL, LABELLED = "null branch on the target", "labelled branch on its class"
AS_IT_IS, SHARE = "as it is", "all of the training"


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """The noise levels at which errors are measured, each on `fresh` points of the target."""

    setting: PointSetting = on_own_sources(seeds=4, finetune=dict(steps=2000))
    levels: tuple = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
    fresh: int = 2048

    @classmethod
    def full(cls):
        """For one core of a CPU: five minutes."""
        return cls()

    @classmethod
    def replica(cls):
        return cls(replace(ON_OTHER_SOURCES, finetune=dict(steps=2000)))


def changes(setting):
    """The setting with one factor changed at a time.  -> {change: setting}"""
    return {
        AS_IT_IS: setting,
        SHARE: replace(setting, finetune=dict(dropout=1.0)),
        "3 times the steps": replace(setting, finetune=dict(steps=3 * setting.finetune.steps)),
        "twice the width": replace(setting, width=2 * setting.width),
        "16 times the data": replace(setting, size=16 * setting.size),
    }


@recorded
def run(config, device, progress):
    """Rows of change, branch and the excess error by seed, as in `forgetting`."""
    target = config.setting.world(device).target
    measured = (config.setting.seeds, config.fresh, config.levels)
    for change, setting in changes(config.setting).items():
        pretrained(setting, device, progress)
        ft = finetuned(setting, device, progress)
        errors = {NULL: excess(ft.denoiser(ft.null), target, *measured)}
        if setting.finetune.dropout < 1:
            errors[LABELLED] = of_classes(ft.denoiser, target, *measured)
        for branch, error in errors.items():
            yield dict(change=change, branch=branch, excess=[round(v, 6) for v in error.tolist()])


def error(record, change, branch=NULL):
    """A branch's excess error after one change, by seed.  -> (S,)"""
    return np.array(row(record, change=change, branch=branch)["excess"])


def figure(record):
    """The null branch's excess error after each change, and the labelled branch's as it is."""
    title = "Training and width help the null branch, data do not"
    with frame([title], (9, 4.6), caption(record)) as (fig, (ax,)):
        draw(ax, record)
    return fig


def draw(ax, record):
    """The null branch's excess error after each change as bars, the labelled branch's as it is as a line."""
    names = [r["change"] for r in rows(record, branch=NULL)]
    for i, change in enumerate(names):
        plot.bar(ax, i, error(record, change), "CFG", NULL if i == 0 else None, width=0.6)
    label = f"{LABELLED}, {AS_IT_IS}"
    level(ax, error(record, AS_IT_IS, LABELLED).mean(), linestyle="--", label=label)
    ax.set_xticks(range(len(names)), [name.replace(" the ", " the\n") for name in names], fontsize=11)
    ax.set(ylabel="excess denoising error", ylim=(0, None))
    ax.legend(fontsize=11)
