"""Small images: the guided field learned in training, one network call a step. (C17)

A fine-tune with targets x0 + (w - 1) (D - D_pre) settles where D = D_pre + (D_ft - D_pre) / (2 - w). So it is
compared with Domain Guidance of that weight, 1 / (2 - w).
"""

import dataclasses
import time

import matplotlib.pyplot as plt

from ... import shipped as weights
from ...guidance import domain_guidance
from .. import cache, plot
from ..lab import Presets, replace
from ..pictures import BROAD, QUICK, PictureJudge, PictureSetting, finetuned, replica
from ..records import merge, record, values
from .panels import foot, unguided


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """`weights`: of Domain Guidance, each also learned; the training weight is 2 - 1 / w."""

    setting: PictureSetting = QUICK
    weights: tuple = (1.5,)

    @classmethod
    def full(cls):
        return cls(replace(BROAD, finetune=dict(steps=3000)), weights=(1.25, 1.5, 2.0))

    @classmethod
    def replica(cls):
        return replica(cls.full(), weights=(1.5, 2.0))


def run(config, device="cpu", progress=False):
    """Rows of method, w, each metric and calls a step, by seed. How long a call takes: `bench`."""
    found, seconds = compute(config, device, progress=progress)
    return record("images_dogfit", config, dict(rows=merge(found.values())), time.time() - seconds, device)


def compute(config, device="cpu", part=(0, 1), progress=False):
    """The results of every cell, or of a part of them, and the seconds they took."""
    keys = [(s,) for s in config.setting.each_seed()]
    return cache.cells(_cell, config, device, keys, part, progress)


def _cell(config, device, seed):
    judge, pre, found = PictureJudge(config.setting, device), weights.load("glyphs", device), []
    calls, plain = [], pre.denoiser(pre.null)
    ft = counted(finetuned(config.setting, seed, device).denoiser, calls)
    guide = counted(pre.denoiser, calls)(pre.null)

    def add(name, w, method):
        calls.clear()
        score = judge.score(judge.sample(method, seed))
        per_step = dict(calls=len(calls) / config.setting.steps)
        found.append(dict(method=name, w=w, score=score | per_step))

    add("none", 1.0, ft)
    for w in config.weights:
        setting = replace(config.setting, finetune=dict(w=2 - 1 / w))
        learned = finetuned(setting, seed, device, guide=plain)
        add("DoG", w, lambda y: domain_guidance(ft(y), guide, w))
        add("DogFit", w, counted(learned.denoiser, calls))
    return found


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
    names = {"frechet": None, "style_error": None, "coverage": "coverage of the true images"}
    with plot.style():
        fig, axes = plt.subplots(1, 4, figsize=(18, 4.6))
        for ax, metric in zip(axes, (*names, "calls"), strict=True):
            for i, w in enumerate(weights):
                for offset, method in ((-0.2, "DoG"), (0.2, "DogFit")):
                    by_seed = values(record, metric, method=method, w=w)
                    plot.bar(ax, i + offset, by_seed, method, method if i == 0 else None, width=0.36)
            unguided(ax, record, metric)
            ax.set_xticks(range(len(weights)), [f"w = {w:g}" for w in weights])
            ax.set_ylabel(names.get(metric) or plot.NAMES.get(metric, "network calls a step"))
        axes[0].legend(fontsize=11)
        axes[0].set_title("Learned guidance, the match")
        axes[3].set_title("at half the calls")
        foot(fig, record)
    return fig
