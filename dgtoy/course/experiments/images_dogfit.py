"""Small images: the guided field learned in training, one network call a step. (C17)

A fine-tune with targets x0 + (w - 1) (D - D_pre) settles where D = D_pre + (D_ft - D_pre) / (2 - w). So it is compared
with Domain Guidance of that weight, 1 / (2 - w).
"""

import dataclasses
import time

import matplotlib.pyplot as plt
import numpy as np

from ... import shipped as weights
from ...guidance import domain_guidance
from .. import plot
from ..records import merge, record, row
from .pictures import QUICK, Judge, Setting, cells, finetuned


@dataclasses.dataclass(frozen=True)
class Config:
    """`weights`: of Domain Guidance, each also learned; the training weight is 2 - 1 / w."""

    setting: Setting = QUICK
    weights: tuple = (1.5,)

    @classmethod
    def quick(cls):
        return cls()

    @classmethod
    def full(cls):
        return cls(Setting(classes=62, size=20).but(finetune=dict(steps=3000)), weights=(1.25, 1.5, 2.0))


def run(config, device="cpu", progress=False):
    """Rows of method, w, each metric and calls a step, by seed. How long a call takes: `bench`."""
    found, seconds = compute(config, device, progress=progress)
    return record("images_dogfit", config, dict(rows=merge(found.values())), time.time() - seconds, device)


def compute(config, device="cpu", part=(0, 1), progress=False):
    """The results of every cell, or of a part of them, and the seconds they took."""
    return cells(
        "images_dogfit", _cell, [(config, device, s) for s in config.setting.each_seed()], part, progress
    )


def _cell(key):
    config, device, seed = key
    judge, pre = Judge(config.setting, device), weights.load("glyphs", device)
    y, guide = judge.label, pre.denoiser(pre.null)
    ft = finetuned(config.setting, seed, device)
    found = [dict(method="none", w=1.0, score=_counted(judge, seed, {"D": ft.denoiser(y)}))]
    for w in config.weights:
        learned = finetuned(config.setting.but(finetune=dict(w=2 - 1 / w)), seed, device, guide=guide)
        found.append(
            dict(method="DoG", w=w, score=_counted(judge, seed, {"D": ft.denoiser(y), "guide": guide}, w))
        )
        found.append(dict(method="DogFit", w=w, score=_counted(judge, seed, {"D": learned.denoiser(y)})))
    return found


def _counted(judge, seed, nets, w=1.0):
    """The score of a method, and its network calls a step."""
    calls = 0

    def counted(D):
        def call(x, sigma):
            nonlocal calls
            calls += 1
            return D(x, sigma)

        return call

    D = counted(nets["D"]) if w == 1 else domain_guidance(counted(nets["D"]), counted(nets["guide"]), w)
    return judge.score(judge.sample(D, seed)) | dict(calls=calls / judge.setting.steps)


def figure(record):
    """Each metric with DoG and with DogFit at equal weight, and the calls of both."""
    config = record["config"]
    with plot.style():
        fig, axes = plt.subplots(1, 4, figsize=(18, 4.6))
        none = row(record, method="none")
        for ax, metric in zip(axes, ("frechet", "style_error", "coverage", "calls"), strict=True):
            for i, w in enumerate(config["weights"]):
                for offset, method in ((-0.2, "DoG"), (0.2, "DogFit")):
                    plot.bar(
                        ax,
                        i + offset,
                        row(record, method=method, w=w)[metric],
                        method,
                        method if i == 0 else None,
                        width=0.36,
                    )
            ax.axhline(np.mean(none[metric]), label="none", **{**plot.METHODS["none"], "marker": ""})
            ax.set_xticks(range(len(config["weights"])), [f"w = {w:g}" for w in config["weights"]])
            ax.set_ylabel(
                dict(plot.NAMES, coverage="coverage of the true images", calls="network calls a step")[metric]
            )
        axes[0].legend(fontsize=11)
        axes[0].set_title("Learned guidance, the match")
        axes[3].set_title("at half the calls")
        fig.supxlabel(
            f"{config['setting']['classes']} classes, {config['setting']['size']} images a class; {len(record['seeds'])} seeds, 95% bootstrap intervals",
            fontsize=11,
        )
    return fig
