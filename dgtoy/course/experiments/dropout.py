"""Does Domain Guidance need label dropout in fine-tuning? CFG does. (C6)"""

import dataclasses
import time

import matplotlib.pyplot as plt

from .. import plot
from ..lab import FULL, REPLICA, PointSetting, Presets, methods, prepared, replace
from ..records import record
from .panels import foot, over_weights


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """Each method at each weight, for fine-tunes with each label dropout."""

    setting: PointSetting = PointSetting()
    dropouts: tuple = (0.0, 0.1)
    weights: tuple = (1.1, 1.25, 1.5)

    @classmethod
    def full(cls):
        return cls(FULL, dropouts=(0.0, 0.05, 0.1, 0.2))

    @classmethod
    def replica(cls):
        return cls(REPLICA)


def run(config, device="cpu", progress=False):
    """Rows of dropout, method, w and each metric by seed. Without dropout the null label is never trained."""
    started, found = time.time(), []
    for dropout in config.dropouts:
        setting = replace(config.setting, finetune=dict(dropout=dropout))
        pre, ft, judge = prepared(setting, device, progress)
        for name, w, method in methods(ft, pre, config.weights):
            score = judge.score(judge.sample(method))
            found.append(dict(dropout=dropout, method=name, w=w, **score))
    return record("dropout", config, dict(rows=found), started, device)


def figure(record):
    """Out-of-domain rate against w, with and without label dropout."""
    with plot.style():
        fig, axes = plt.subplots(1, 2, figsize=(12, 4.8), sharey="row")
        for ax, dropout in zip(axes, (0.0, 0.1), strict=True):
            over_weights(ax, record, "out_of_domain", dropout=dropout)
        axes[0].set_title("No label dropout: CFG has no guide, DoG has")
        axes[1].set_title("Label dropout 0.1: both work")
        axes[0].legend()
        foot(fig, record)
    return fig
