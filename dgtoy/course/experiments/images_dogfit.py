"""Small images: the guided field learned in training, one network call a step. (C17)

A fine-tune with targets x0 + (w - 1) (D - D_pre) settles where D = D_pre + (D_ft - D_pre) / (2 - w). So it is
compared with Domain Guidance of that weight, 1 / (2 - w).
"""

import dataclasses

from ...guidance import domain_guidance
from .. import plot
from ..lab import replace
from ..pictures import BROAD, PictureConfig, finetuned, prepared, replica
from ..records import caption, values
from .panels import frame, unguided
from .runs import in_cells


@dataclasses.dataclass(frozen=True)
class Config(PictureConfig):
    """`weights`: of Domain Guidance, each also learned; the training weight is 2 - 1 / w."""

    weights: tuple = (1.5,)

    @classmethod
    def full(cls):
        return cls(replace(BROAD, finetune=dict(steps=3000)), weights=(1.25, 1.5, 2.0))

    @classmethod
    def replica(cls):
        return replica(cls.full(), weights=(1.5, 2.0))


def _cell(config, device, seed):
    """Rows of method, w, each metric and calls a step. How long a call takes: `bench`."""
    judge, pre = prepared(config.setting, device)
    found, calls, plain = [], [], pre.denoiser(pre.null)
    ft = counted(finetuned(config.setting, seed, device).denoiser, calls)
    guide = counted(pre.denoiser, calls)(pre.null)

    def add(name, w, method):
        calls.clear()
        score = judge.judged(method, seed)
        per_step = dict(calls=len(calls) / config.setting.steps)
        found.append(dict(method=name, w=w, score=score | per_step))

    add("none", 1.0, ft)
    for w in config.weights:
        setting = replace(config.setting, finetune=dict(w=2 - 1 / w))
        learned = finetuned(setting, seed, device, guide=plain)
        add("DoG", w, lambda y: domain_guidance(ft(y), guide, w))
        add("DogFit", w, counted(learned.denoiser, calls))
    return found


compute, run = in_cells(_cell)


def counted(method, calls):
    """A method whose denoisers note each call in a list."""

    def counting(label):
        D = method(label)

        def call(x, sigma):
            calls.append(sigma)
            return D(x, sigma)

        return call

    return counting


def figure(record):
    """Each metric with DoG and with DogFit at equal weight, and the calls of both."""
    weights = record["config"]["weights"]
    names = plot.NAMES | dict(coverage="coverage of the true images", calls="network calls a step")
    titles = ("Learned guidance, the match", "", "", "at half the calls")
    with frame(titles, (18, 4.6), caption(record)) as (fig, axes):
        for ax, metric in zip(axes, ("frechet", "style_error", "coverage", "calls"), strict=True):
            for i, w in enumerate(weights):
                for offset, method in ((-0.2, "DoG"), (0.2, "DogFit")):
                    by_seed = values(record, metric, method=method, w=w)
                    plot.bar(ax, i + offset, by_seed, method, method if i == 0 else None, width=0.36)
            unguided(ax, record, metric)
            ax.set_xticks(range(len(weights)), [f"w = {w:g}" for w in weights])
            ax.set_ylabel(names[metric])
        axes[0].legend(fontsize=11)
    return fig
