"""Does Domain Guidance need label dropout in fine-tuning? CFG does. (C6)"""

import dataclasses

from ..lab import PointConfig, on_own_sources, replace, scores
from ..records import caption
from .panels import frame, over_weights
from .runs import recorded


@dataclasses.dataclass(frozen=True)
class Config(PointConfig):
    """Each method at each weight, for fine-tunes with each label dropout."""

    dropouts: tuple = (0.0, 0.1)
    weights: tuple = (1.1, 1.25, 1.5)

    @classmethod
    def full(cls):
        """For one core of a CPU: eight minutes."""
        return cls(on_own_sources(seeds=16), dropouts=(0.0, 0.05, 0.1, 0.2))


@recorded
def run(config, device, progress):
    """Rows of dropout, method, w and each metric by seed. Without dropout the null label is never trained."""
    for dropout in config.dropouts:
        setting = replace(config.setting, finetune=dict(dropout=dropout))
        for r in scores(setting, config.weights, device, progress):
            yield dict(dropout=dropout, **r)


def figure(record):
    """Out-of-domain rate against w, with and without label dropout."""
    titles = ("No label dropout: CFG has no guide, DoG has", "Label dropout 0.1: both work")
    with frame(titles, (12, 4.8), caption(record), sharey="row") as (fig, axes):
        for ax, dropout in zip(axes, (0.0, 0.1), strict=True):
            over_weights(ax, record, "out_of_domain", dropout=dropout)
        axes[0].legend()
    return fig
