"""The idea in one picture: the same noise without guidance, with CFG and with DoG, beside the target."""

import dataclasses

import numpy as np
import torch

from ...metrics import mode_coverage
from .. import plot
from ..lab import PointSetting, Presets, methods, prepared
from .panels import frame
from .runs import recorded

CALLS = {"none": 1, "CFG": 2, "DoG": 2}  # network calls per step
TITLES = {
    "truth": "The target, inside what\nit was pre-trained on (grey)",
    "none": "Fine-tuned, no guide:\nmany dots stray",
    "CFG": "Guided by itself (CFG):\nfewer stray",
    "DoG": "Pre-trained guide (DoG):\nfewest stray, the shape thins",
}


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """CFG and DoG at one weight w. Each of the networks draws `setting.samples` dots of each class."""

    setting: PointSetting = PointSetting(samples=64)
    w: float = 1.5
    limit: float = 2.3  # of the picture

    @classmethod
    def full(cls):
        return cls()


@recorded
def run(config, device, progress):
    """A row for each picture: its points by class, which of them lie outside, and coverage."""
    setting = config.setting
    pre, ft, judge = prepared(setting, device, progress)
    dots, generator = setting.seeds * setting.samples, torch.Generator(device).manual_seed(2)
    source = setting.world(device).source.sample(3 * dots, generator=generator)
    pictures = {"truth": [part.sample(dots, generator=generator) for part in judge.parts]}
    for name, _, method in methods(ft, pre, [config.w]):
        pictures[name] = [x.flatten(0, 1) for x in judge.sample(method)]  # (dots, 2) of each class
    yield dict(method="source", x=_rounded(source))
    for name, x in pictures.items():
        yield dict(method=name, calls=CALLS.get(name), **_measured(x, judge))


def _measured(by_class, judge):
    """Of the points (n, 2) of each class: which lie outside the target, and the share of modes covered."""
    outside = [(part.logp(x) < cut).tolist() for x, part, cut in zip(by_class, judge.parts, judge.cuts)]
    covered = [mode_coverage(x, part).item() for x, part in zip(by_class, judge.parts)]
    return dict(x=[_rounded(x) for x in by_class], outside=outside, coverage=float(np.mean(covered)))


def _rounded(x):
    return [[round(v, 2) for v in point] for point in x.tolist()]


def figure(record):
    """Four pictures of the same world, dots outside the target ringed; below each what was counted."""
    by_method = {r["method"]: r for r in record["results"]["rows"]}
    limit = record["config"]["limit"]
    with frame([""] * len(TITLES), (10, 2.95), dpi=200) as (fig, axes):
        plot.points(axes[0], by_method["source"]["x"], "source", size=4)
        for ax, (method, title) in zip(axes, TITLES.items(), strict=True):
            r = by_method[method]
            x, outside = np.concatenate(r["x"]), np.concatenate(r["outside"])
            plot.points(ax, x, method, size=2, limit=limit)
            strays = dict(s=18, facecolor=plot.METHODS[method]["color"], edgecolor="black", linewidth=0.8)
            ax.scatter(*x[outside].T, **strays)
            ax.set_ylim(-0.7 * limit, 0.7 * limit)
            ax.set_title(title, fontsize=10.5)
            ax.set_xlabel(_counts(r), fontsize=10.5)
    return fig


def _counts(r):
    lines = [
        f"{np.sum(r['outside'])} of {np.size(r['outside']):,} dots outside",
        f"{r['coverage']:.0%} of the target covered",
    ]
    if r["calls"]:
        lines.append(f"{r['calls']} network call{'s' * (r['calls'] > 1)} per step")
    return "\n".join(lines)
